//! The newest Docker Engine that Debian has, beside that of this machine's release: daemon and client, out of packages that
//! are not installed. They use the libraries of the machine; where those are too old, the tests with them are skipped.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::vm::cache;
use crate::vm::suite::Suite;

const SUITE: &str = "sid";
const PACKAGES: [&str; 2] = ["docker.io", "docker-cli"];
const FILES: [&str; 3] = ["usr/sbin/dockerd", "usr/bin/docker", "usr/sbin/docker-proxy"];
const FOLDER: &str = "docker-newest";
const SPACE_MIB: u64 = 400;

/// Whether all of it is in `tools`.
pub(crate) fn is_in(tools: &Path) -> bool {
    let name = |file: &&str| Path::new(file).file_name().map(|name| tools.join(FOLDER).join(name));
    FILES.iter().all(|file| name(file).is_some_and(|path| path.is_file()))
}

/// Downloads the packages and keeps the files in `tools`.
///
/// # Errors
/// If the packages cannot be had, or have other files.
pub(crate) fn fetch(tools: &Path) -> Result<()> {
    let suite = Suite::open(SUITE, SPACE_MIB)?;
    let mut packages = suite.closure(&PACKAGES)?;
    packages.retain(|package| PACKAGES.contains(&package.name.as_str()));
    cache::replace(&tools.join(FOLDER), |fresh| {
        let unpacked = fresh.join("unpacked");
        suite.unpack(&packages, &unpacked)?;
        for file in FILES {
            let place = fresh.join(Path::new(file).file_name().context("a file has a name")?);
            fs::rename(unpacked.join(file), &place).with_context(|| format!("move {file} to {}", place.display()))?;
        }
        fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_there_when_all_its_files_are() {
        let tools = std::env::temp_dir().join(format!("netpath-engine-{}", std::process::id()));
        fs::create_dir_all(tools.join(FOLDER)).expect("create");
        for name in ["dockerd", "docker", "docker-proxy"] {
            assert!(!is_in(&tools), "{name} is missing");
            fs::write(tools.join(FOLDER).join(name), "").expect("write");
        }
        assert!(is_in(&tools));
        fs::remove_dir_all(&tools).expect("remove");
    }
}
