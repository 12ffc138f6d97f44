//! `cargo xtask bench`: builds agent and bench and becomes the bench; what it measures is written there.
//!
//! With `--check` the bench is built as tests are: the kernel times the eBPF programs, which are the same in either build.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{build_for_tests, build_release, built, exec, require_root, root_dir};
use crate::setup::{self, Report, Scope};

pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let only_writes = args.iter().any(|arg| ["--tables", "--help", "-h"].iter().any(|option| arg == *option));
    if !only_writes {
        require_root("bench")?;
        setup::ensure(Scope::Tests, Report::Quiet)?;
    }
    let is_check = args.iter().any(|arg| arg == "--check");
    let profile = if is_check { "debug" } else { "release" };
    if is_check {
        build_for_tests()?;
    } else {
        build_release()?;
    }
    let agent = built(profile, "netpath")?;
    Err(exec(
        Command::new(built(profile, "netpath-bench")?)
            .args(args)
            .env("NETPATH_BIN", agent)
            .env("NETPATH_ROOT", root_dir()),
    ))
}
