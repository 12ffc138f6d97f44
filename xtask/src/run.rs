//! `cargo xtask run`: the agent on this host's real interfaces. Ctrl-C ends the agent; the data plane stays until
//! `netpath down`.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{build_release, built, exec, require_root};
use crate::setup::{self, Report, Scope};

pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    require_root("run")?;
    setup::ensure(Scope::Agent, Report::Quiet)?;
    build_release()?;
    Err(exec(Command::new(built("release", "netpath")?).arg("agent").args(args)))
}
