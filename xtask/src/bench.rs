//! `cargo xtask bench`: builds agent and bench and becomes the bench; what it measures is written there.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{build_release, built, exec, require_root, root_dir};
use crate::setup::{self, Report, Scope};

pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let only_writes = args.iter().any(|arg| ["--tables", "--help", "-h"].iter().any(|option| arg == *option));
    if !only_writes {
        require_root("bench")?;
        setup::ensure(Scope::Tests, Report::Quiet)?;
    }
    build_release()?;
    let agent = built("release", "netpath")?;
    Err(exec(
        Command::new(built("release", "netpath-bench")?)
            .args(args)
            .env("NETPATH_BIN", agent)
            .env("NETPATH_ROOT", root_dir()),
    ))
}
