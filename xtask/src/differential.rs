//! `cargo xtask differential`: builds agent and comparison and becomes the comparison.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{build_for_tests, built, exec, require_root};
use crate::setup::{self, Report, Scope};

pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    require_root("differential")?;
    setup::ensure(Scope::Tests, Report::Quiet)?;
    build_for_tests()?;
    let agent = built("debug", "netpath")?;
    Err(exec(Command::new(built("debug", "netpath-differential")?).args(args).env("NETPATH_BIN", agent)))
}
