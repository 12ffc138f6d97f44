//! Builds the eBPF programs into `OUT_DIR/netpath-programs`.

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use aya_build::Package;

fn main() {
    let features: &[&str] = if std::env::var_os("CARGO_FEATURE_TRACE").is_some() { &["trace"] } else { &[] };
    let package = Package { name: "netpath-ebpf", root_dir: "../netpath-ebpf", features, ..Package::default() };
    ebpf::build(package, "netpath-programs");
}
