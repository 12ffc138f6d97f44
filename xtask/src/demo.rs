//! `cargo xtask demo`: builds agent and demo and becomes the demo, which names the agent's binary by `NETPATH_BIN`.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{build_release, built, exec, require_root};
use crate::setup::{self, Report, Scope};

pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    require_root("demo")?;
    setup::ensure(Scope::Demo, Report::Quiet)?;
    build_release()?;
    let agent = built("release", "netpath")?;
    Err(exec(Command::new(built("release", "netpath-demo")?).args(args).env("NETPATH_BIN", agent)))
}
