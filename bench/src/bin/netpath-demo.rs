//! `netpath-demo`: two containers served by eBPF alone, shown line by line. The checks are in `demo.rs`.

use std::process::ExitCode;

use netpath_bench::demo;
use netpath_tests::signals;

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("error: network namespaces need root");
        return ExitCode::from(2);
    }
    signals::clean_up_on_interrupt();
    if demo::run() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
