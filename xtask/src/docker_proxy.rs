//! Docker's user-land proxy for the tests that compare with it: one file out of Debian's docker.io package. The package
//! itself is not installed, so no daemon is and nothing of the machine changes.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::process::capture;

const PACKAGE: &str = "docker.io";
const IN_PACKAGE: &str = "./usr/sbin/docker-proxy";

/// Where the program belongs: `tools/docker-proxy` in cargo's target folder, where the tests look for it.
pub(crate) fn path() -> Result<PathBuf> {
    let this = env::current_exe().context("find this program's own path")?;
    let target_dir = this.parent().and_then(Path::parent).context("find cargo's target folder")?;
    Ok(target_dir.join("tools/docker-proxy"))
}

/// Downloads the package and keeps the program as `path`.
pub(crate) fn fetch(apt: &mut Apt, path: &Path) -> Result<()> {
    let tools = path.parent().context("the folder of the proxy")?;
    let folder = tools.join("docker.io");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let unpacked = apt.download(PACKAGE, &folder).and_then(|package| unpack(&package, path));
    let _ = fs::remove_dir_all(&folder);
    unpacked
}

fn unpack(package: &Path, path: &Path) -> Result<()> {
    let tar = package.with_extension("tar");
    let file = fs::File::create(&tar).with_context(|| format!("create {}", tar.display()))?;
    let mut command = Command::new("dpkg-deb");
    let status = command.arg("--fsys-tarfile").arg(package).stdout(file).status().context("run dpkg-deb")?;
    if !status.success() {
        bail!("unpack {}: dpkg-deb ended with {status}", package.display());
    }
    let folder = tar.parent().context("the folder of the package")?;
    capture(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(folder).arg(IN_PACKAGE))?;
    let program = folder.join(IN_PACKAGE);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("make the proxy executable")?;
    fs::rename(&program, path).with_context(|| format!("move the proxy to {}", path.display()))
}
