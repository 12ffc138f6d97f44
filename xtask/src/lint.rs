//! `cargo xtask lint`: format, clippy, the source rules, and the checkers that happen to be installed. All of them
//! run, also after one has failed.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{cargo, find, root_dir, status};
use crate::{rules, setup};

/// Checkers that are used where they are: program, arguments, how to get it.
const OPTIONAL: [(&str, &[&str], &str); 3] = [
    ("taplo", &["fmt", "--check"], "cargo install taplo-cli"),
    ("typos", &[], "cargo install typos-cli"),
    ("cargo-deny", &["check", "bans", "licenses", "sources"], "cargo install cargo-deny"),
];

pub(crate) fn run() -> Result<ExitCode> {
    setup::ensure_protoc()?;
    let mut failed = Vec::new();
    check(&mut failed, "cargo fmt", cargo().args(["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    // Clippy sees the eBPF crate as it is built for the host; the object that build.rs makes is nothing to it.
    check(&mut failed, "cargo clippy", cargo().args(clippy).env("AYA_BUILD_SKIP", "1"))?;
    for (program, args, how) in OPTIONAL {
        if find(program).is_some() {
            check(&mut failed, program, Command::new(program).args(args).current_dir(root_dir()))?;
        } else {
            eprintln!("lint: skipped {program}: not installed ({how})");
        }
    }
    let broken = rules::check(&root_dir())?;
    for violation in &broken {
        eprintln!("{violation}");
    }
    if !broken.is_empty() {
        failed.push("source rules");
    }
    if failed.is_empty() {
        eprintln!("lint: passed");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("lint: failed: {}{}", failed.join(", "), advice(&failed));
    Ok(ExitCode::FAILURE)
}

fn check(failed: &mut Vec<&str>, name: &'static str, command: &mut Command) -> Result<()> {
    if !status(command)?.success() {
        failed.push(name);
    }
    Ok(())
}

fn advice(failed: &[&str]) -> &'static str {
    if failed.contains(&"cargo fmt") { " (type: cargo fmt --all)" } else { "" }
}
