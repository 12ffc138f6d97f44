//! The binary `netpath`.

use std::process::ExitCode;

fn main() -> ExitCode {
    netpath_agent::commands::main()
}
