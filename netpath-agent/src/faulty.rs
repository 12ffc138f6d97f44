//! The binary `netpath-faulty`: `netpath` with a data plane that can be given faults. Beside the other one and not in
//! its place, so that whoever is testing goes on testing `netpath`.

use std::process::ExitCode;

fn main() -> ExitCode {
    netpath_agent::commands::main()
}
