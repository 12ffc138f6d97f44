//! `cargo xtask test`: builds the agent, whose binary the namespace tests run as `NETPATH_BIN`, and hands over to
//! nextest. Which tests need root is the tests' own knowledge; without it they are skipped and say so. A run of all tests
//! also says whether the pages made from the conformance tests are true.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use anyhow::Result;

use crate::conformance;
use crate::process::{build_for_tests, built, cargo, status};
use crate::setup::{self, Report, Scope};

pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    setup::ensure(Scope::Tests, Report::Quiet)?;
    build_for_tests()?;
    let mut nextest = cargo();
    nextest.args(["nextest", "run"]).env("NETPATH_BIN", built("debug", "netpath")?);
    if !names_packages(args) {
        nextest.arg("--workspace");
    }
    let is_complete = args.is_empty();
    if is_complete {
        conformance::forget()?;
    }
    let status = status(nextest.args(args))?;
    let stale = if is_complete && status.success() { conformance::stale()? } else { Vec::new() };
    for page in &stale {
        eprintln!("test: {} does not say what the tests saw (type: cargo xtask conformance)", page.display());
    }
    if !stale.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(2)).unwrap_or(2)))
}

fn names_packages(args: &[OsString]) -> bool {
    let named = |arg: &&OsString| {
        let text = arg.to_string_lossy();
        text.starts_with("-p") || text.starts_with("--package")
    };
    args.iter().take_while(|arg| *arg != OsStr::new("--")).find(named).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_whole_workspace_is_meant_unless_a_package_is_named() {
        assert!(!names_packages(&words("masquerade --no-capture")));
        assert!(names_packages(&words("-p netpath-ebpf checksum")));
        assert!(names_packages(&words("--package=netpath-ebpf")));
        assert!(!names_packages(&words("-- -p")));
    }
}
