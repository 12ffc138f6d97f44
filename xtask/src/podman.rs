//! Podman with netavark and crun of a Debian whose netavark has plugins, as a root of its own: the packages with all that they
//! depend on, unpacked and not installed. The tests run it in there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::vm::cache;
use crate::vm::suite::Suite;

/// The oldest one with netavark 1.6 or newer.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 4] = ["podman", "netavark", "crun", "conmon"];
const FOLDER: &str = "podman";
const SPACE_MIB: u64 = 400;
/// What the package `base-files` would make.
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Where the tests mount something.
const MOUNT_POINTS: [&str; 6] = ["proc", "sys", "dev", "tmp", "run", "mnt"];

/// Whether it is in `tools`.
pub(crate) fn is_in(tools: &Path) -> bool {
    tools.join(FOLDER).join("usr/bin/podman").is_file()
}

/// Downloads the packages and unpacks them in `tools`.
///
/// # Errors
/// If the packages cannot be had.
pub(crate) fn fetch(tools: &Path) -> Result<()> {
    let suite = Suite::open(SUITE, SPACE_MIB)?;
    let packages = suite.closure(&PACKAGES)?;
    cache::replace(&tools.join(FOLDER), |fresh| {
        suite.unpack(&packages, fresh)?;
        for name in LINKS.iter().filter(|name| !fresh.join(name).exists()) {
            symlink(Path::new("usr").join(name), fresh.join(name)).with_context(|| format!("link {name}"))?;
        }
        let dirs = MOUNT_POINTS.iter().map(|name| fresh.join(name));
        dirs.into_iter()
            .try_for_each(|dir| fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display())))
    })
}
