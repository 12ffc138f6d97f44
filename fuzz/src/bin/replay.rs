//! `netpath-replay TARGET FILE...`: feeds a target with the bytes of files, to see again what a fuzzer found. Panics as
//! the target does; says the names of the targets where it is given none.

use std::process::ExitCode;

use netpath_fuzz::{TARGETS, target};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, files)) = args.split_first() else {
        eprintln!("usage: netpath-replay TARGET FILE...");
        eprintln!("targets: {}", TARGETS.map(|target| target.name).join(", "));
        return ExitCode::from(2);
    };
    let target = target(name);
    for file in files {
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("error: read {file}: {error}");
                return ExitCode::from(2);
            }
        };
        (target.run)(&bytes);
        println!("{file}: {} bytes, nothing found", bytes.len());
    }
    ExitCode::SUCCESS
}
