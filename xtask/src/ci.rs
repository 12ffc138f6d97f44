//! `cargo xtask ci`: what CI runs, and nothing that a developer does not: lint, then the test command of the README.

use std::process::ExitCode;

use anyhow::Result;

use crate::process::{cargo, status};

pub(crate) fn run() -> Result<ExitCode> {
    for task in ["lint", "test"] {
        eprintln!("ci: cargo xtask {task}");
        let status = status(cargo().args(["xtask", task]))?;
        if !status.success() {
            eprintln!("ci: `cargo xtask {task}` failed with {status}");
            return Ok(ExitCode::FAILURE);
        }
    }
    eprintln!("ci: passed");
    Ok(ExitCode::SUCCESS)
}
