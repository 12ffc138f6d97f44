//! `cargo xtask ci`: what CI runs, and nothing that a developer does not: lint, the check of what the programs cost, then the
//! test command of the README.
//!
//! One after the other: while programs are measured, nothing else runs. What the check builds is what the tests need too.
//! Without root it does what it can, says what it left out, and fails: nobody takes that for the whole.

use std::process::ExitCode;

use anyhow::Result;

use crate::process::{cargo, is_root, require_root, status};

pub(crate) fn run() -> Result<ExitCode> {
    for task in [&["lint"][..], &["bench", "--check"], &["test"]] {
        let line = format!("cargo xtask {}", task.join(" "));
        if task[0] == "bench" && !is_root() {
            continue;
        }
        eprintln!("ci: {line}");
        let status = status(cargo().arg("xtask").args(task))?;
        if !status.success() {
            eprintln!("ci: `{line}` failed with {status}");
            return Ok(ExitCode::FAILURE);
        }
    }
    if !is_root() {
        eprintln!(
            "ci: incomplete: what needs root did not run: bench --check, programs on packets, network namespaces"
        );
    }
    require_root("ci")?;
    eprintln!("ci: passed");
    Ok(ExitCode::SUCCESS)
}
