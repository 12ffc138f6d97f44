//! `cargo xtask ci`: what CI runs, and nothing that a developer does not: lint, the check of what the programs cost, then the
//! test command of the README.
//!
//! One after the other: while programs are measured, nothing else runs. What the check builds is what the tests need too.

use std::process::ExitCode;

use anyhow::Result;

use crate::process::{cargo, is_root, status};

pub(crate) fn run() -> Result<ExitCode> {
    for task in [&["lint"][..], &["bench", "--check"], &["test"]] {
        let line = format!("cargo xtask {}", task.join(" "));
        if task[0] == "bench" && !is_root() {
            eprintln!("ci: skipped {line}: programs are run by root only");
            continue;
        }
        eprintln!("ci: {line}");
        let status = status(cargo().arg("xtask").args(task))?;
        if !status.success() {
            eprintln!("ci: `{line}` failed with {status}");
            return Ok(ExitCode::FAILURE);
        }
    }
    eprintln!("ci: passed");
    Ok(ExitCode::SUCCESS)
}
