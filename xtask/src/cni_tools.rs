//! What the tests of the CNI plugin run beside it: Debian's own plugins, and containerd with what it needs. Files out of
//! packages that are not installed, so no daemon is and nothing of the machine changes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::apt::Apt;
use crate::process::capture;

/// Files of one package, and the folder in `tools` that they belong in.
pub(crate) struct Tools {
    pub(crate) package: &'static str,
    folder: &'static str,
    files: &'static [&'static str],
}

pub(crate) const TOOLS: [Tools; 5] = [
    Tools {
        package: "containernetworking-plugins",
        folder: "cni",
        files: &[
            "usr/lib/cni/bridge",
            "usr/lib/cni/firewall",
            "usr/lib/cni/loopback",
            "usr/lib/cni/portmap",
            "usr/lib/cni/ptp",
            "usr/lib/cni/static",
            "usr/lib/cni/host-local",
        ],
    },
    Tools {
        package: "containerd",
        folder: "containerd",
        files: &["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"],
    },
    Tools {
        package: "docker.io",
        folder: "docker",
        files: &["usr/sbin/dockerd", "usr/bin/docker", "usr/sbin/docker-proxy"],
    },
    Tools { package: "runc", folder: "containerd", files: &["usr/sbin/runc"] },
    Tools { package: "busybox-static", folder: "containerd", files: &["bin/busybox"] },
];

impl Tools {
    /// Whether all of them are in `tools`.
    pub(crate) fn are_in(&self, tools: &Path) -> bool {
        self.files.iter().all(|file| self.place(tools, file).is_some_and(|place| place.is_file()))
    }

    /// Downloads the package and keeps the files in `tools`.
    ///
    /// # Errors
    /// If the package cannot be had, or has other files.
    pub(crate) fn fetch(&self, apt: &mut Apt, tools: &Path) -> Result<()> {
        let folder = tools.join(format!("{}.unpacked", self.package));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let kept = apt.download(self.package, &folder).and_then(|package| {
            capture(Command::new("dpkg-deb").arg("-x").arg(package).arg(&folder))?;
            self.files.iter().try_for_each(|file| self.keep(&folder.join(file), tools, file))
        });
        let _ = fs::remove_dir_all(&folder);
        kept
    }

    fn keep(&self, unpacked: &Path, tools: &Path, file: &str) -> Result<()> {
        let place = self.place(tools, file).context("a file has a name")?;
        fs::create_dir_all(tools.join(self.folder)).with_context(|| format!("create {}", self.folder))?;
        fs::rename(unpacked, &place).with_context(|| format!("move {file} to {}", place.display()))
    }

    fn place(&self, tools: &Path, file: &str) -> Option<std::path::PathBuf> {
        Some(tools.join(self.folder).join(Path::new(file).file_name()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_there_when_all_their_files_are() {
        let tools = std::env::temp_dir().join(format!("netpath-tools-{}", std::process::id()));
        fs::create_dir_all(tools.join("containerd")).expect("create");
        let runc = TOOLS.iter().find(|tools| tools.package == "runc").expect("runc");
        assert!(!runc.are_in(&tools));
        fs::write(tools.join("containerd/runc"), "").expect("write");
        assert!(runc.are_in(&tools));
        fs::remove_dir_all(&tools).expect("remove");
    }
}
