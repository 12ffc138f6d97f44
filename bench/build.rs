//! Builds the bench's own eBPF programs into `OUT_DIR/netpath-bench-programs`.

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use aya_build::Package;

fn main() {
    let package = Package { name: "netpath-bench-ebpf", root_dir: "../bench-ebpf", ..Package::default() };
    ebpf::build(package, "netpath-bench-programs");
}
