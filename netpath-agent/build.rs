//! Builds the eBPF programs into `OUT_DIR/netpath-programs`.

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use aya_build::Package;

fn main() {
    let has = |feature: &str| std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    let features: &[&str] = match (has("TRACE"), has("FAULTS")) {
        (true, true) => &["trace", "faults"],
        (true, false) => &["trace"],
        (false, true) => &["faults"],
        (false, false) => &[],
    };
    let package = Package { name: "netpath-ebpf", root_dir: "../netpath-ebpf", features, ..Package::default() };
    ebpf::build(package, "netpath-programs");
}
