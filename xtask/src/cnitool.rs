//! `cnitool`, the program of the reference library for container runtimes. Debian has the library's source and no package of
//! the program: it is built here, by Debian's Go. Nothing is installed, and the build asks no network.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::capture;
use crate::vm::cache;
use crate::vm::suite::Suite;

/// The one with the newest library.
const SUITE: &str = "sid";
const SOURCE: &str = "golang-github-appc-cni";
/// The compiler, and what the library imports.
const PACKAGES: [&str; 2] = ["golang-go", "golang-github-vishvananda-netns-dev"];
/// What Go calls the library.
const LIBRARY: &str = "github.com/containernetworking/cni";
const PROGRAM: &str = "cnitool";
/// While it is built: 290 MiB of packages, 60 of what Go makes, and the list of sources.
const SPACE_MIB: u64 = 500;

/// Whether it is in `tools`.
pub(crate) fn is_in(tools: &Path) -> bool {
    tools.join(PROGRAM).join(PROGRAM).is_file()
}

/// Downloads compiler and source, and builds the program in `tools`.
///
/// # Errors
/// If something of it cannot be had, or the source is not built by the compiler.
pub(crate) fn fetch(tools: &Path) -> Result<()> {
    let suite = Suite::open(SUITE, SPACE_MIB)?;
    let mut packages = suite.closure(&PACKAGES)?;
    // Go needs nothing of the rest.
    packages.retain(|package| package.name.starts_with("golang-"));
    let sources = Suite::open_sources(SUITE, SPACE_MIB)?;
    fs::create_dir_all(tools).with_context(|| format!("create {}", tools.display()))?;
    cache::require_space(tools, SPACE_MIB)?;
    cache::replace(&tools.join(PROGRAM), |fresh| {
        let unpacked = fresh.join("unpacked");
        suite.unpack(&packages, &unpacked)?;
        sources.unpack_source(SOURCE, &unpacked.join("usr/share/gocode/src").join(LIBRARY))?;
        build(&unpacked, &fresh.join(PROGRAM)).with_context(|| {
            format!(
                "build {PROGRAM} from the {SOURCE} of Debian's {SUITE} (or set NETPATH_CNITOOL to one that you have)"
            )
        })?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))
    })
}

fn build(root: &Path, program: &Path) -> Result<()> {
    let goroot = root.join("usr/lib/go");
    let mut command = Command::new(goroot.join("bin/go"));
    command.env("GOROOT", &goroot).env("GOPATH", root.join("usr/share/gocode")).env("GOCACHE", root.join("cache"));
    // Debian's packages are no modules, and nothing else is wanted: neither of the user's settings nor of the network.
    command.env("GO111MODULE", "off").env("GOENV", "off").env("GOFLAGS", "").env("GOPROXY", "off");
    command.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
    command.args(["build", "-trimpath", "-o"]).arg(program).arg(format!("{LIBRARY}/{PROGRAM}"));
    capture(&mut command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_is_not_there_is_named() {
        let root = std::env::temp_dir().join(format!("netpath-go-{}", std::process::id()));
        let error = format!("{:#}", build(&root, &root.join(PROGRAM)).expect_err("no such compiler"));
        assert!(error.contains("usr/lib/go/bin/go build") && error.contains("No such file"), "{error}");
        assert!(!is_in(&root));
    }
}
