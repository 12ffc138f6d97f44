//! What tests run in the newest version that Debian has, beside that of this machine's release: files out of packages that are
//! not installed. They use the libraries of the machine; where those are too old, the tests with them are skipped.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::vm::cache;
use crate::vm::suite::Suite;

const SUITE: &str = "sid";

/// Files of some packages, and the folder in `tools` that they belong in.
pub(crate) struct Newest {
    pub(crate) what: &'static str,
    packages: &'static [&'static str],
    folder: &'static str,
    files: &'static [&'static str],
    space_mib: u64,
}

pub(crate) const NEWEST: [Newest; 2] = [
    Newest {
        what: "newest Docker Engine of Debian",
        packages: &["docker.io", "docker-cli"],
        folder: "docker-newest",
        files: &["usr/sbin/dockerd", "usr/bin/docker", "usr/sbin/docker-proxy"],
        space_mib: 400,
    },
    Newest {
        what: "newest containerd of Debian",
        packages: &["containerd"],
        folder: "containerd-newest",
        files: &["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"],
        space_mib: 250,
    },
];

impl Newest {
    /// Whether all of it is in `tools`.
    pub(crate) fn is_in(&self, tools: &Path) -> bool {
        let name = |file: &&str| Path::new(file).file_name().map(|name| tools.join(self.folder).join(name));
        self.files.iter().all(|file| name(file).is_some_and(|path| path.is_file()))
    }

    /// Downloads the packages and keeps the files in `tools`.
    ///
    /// # Errors
    /// If the packages cannot be had, or have other files.
    pub(crate) fn fetch(&self, tools: &Path) -> Result<()> {
        let suite = Suite::open(SUITE, self.space_mib)?;
        let mut packages = suite.closure(self.packages)?;
        packages.retain(|package| self.packages.contains(&package.name.as_str()));
        cache::replace(&tools.join(self.folder), |fresh| {
            let unpacked = fresh.join("unpacked");
            suite.unpack(&packages, &unpacked)?;
            for file in self.files {
                let place = fresh.join(Path::new(file).file_name().context("a file has a name")?);
                fs::rename(unpacked.join(file), &place)
                    .with_context(|| format!("move {file} to {}", place.display()))?;
            }
            fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_there_when_all_its_files_are() {
        let tools = std::env::temp_dir().join(format!("netpath-newest-{}", std::process::id()));
        for newest in &NEWEST {
            fs::create_dir_all(tools.join(newest.folder)).expect("create");
            for file in newest.files {
                assert!(!newest.is_in(&tools), "{file} is missing");
                fs::write(tools.join(newest.folder).join(Path::new(file).file_name().expect("a name")), "")
                    .expect("write");
            }
            assert!(newest.is_in(&tools), "{}", newest.what);
        }
        fs::remove_dir_all(&tools).expect("remove");
    }
}
