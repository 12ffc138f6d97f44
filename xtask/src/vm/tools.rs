//! qemu and busybox. A qemu on `PATH` is taken; else one of Debian's is unpacked into the cache with all that it depends on,
//! and runs with its own libraries. Nothing is installed, so nothing of the machine's own can be in its way.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cache;
use super::suite::Suite;
use crate::process::{capture, find};

const QEMU: &str = "qemu-system-x86_64";
const BUSYBOX: &str = "busybox";
/// The suite that they are taken from, whatever the machine's own is.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 2] = ["qemu-system-x86", "busybox-static"];
const SPACE_MIB: u64 = 600;

/// Where the programs are.
pub(super) struct Tools {
    root: PathBuf,
    /// Those of the machine's own.
    qemu: Option<PathBuf>,
    busybox: Option<PathBuf>,
}

/// Finds the programs, and fetches them when they are first wanted.
pub(super) fn ensure() -> Result<Tools> {
    let cache = cache::dir()?;
    let tools = Tools { root: cache.join("tools"), qemu: find(QEMU), busybox: find(BUSYBOX) };
    if tools.are_missing() {
        fetch(&tools.root).with_context(|| format!("get {QEMU} (or install it and {BUSYBOX})"))?;
    }
    Ok(tools)
}

fn fetch(root: &Path) -> Result<()> {
    let suite = Suite::open(SUITE, SPACE_MIB)?;
    let packages = suite.closure(&PACKAGES)?;
    eprintln!(
        "vm: unpacking qemu ({} packages of Debian's {SUITE}) in {}; nothing is installed",
        packages.len(),
        root.display()
    );
    cache::replace(root, |fresh| suite.unpack(&packages, fresh))
}

impl Tools {
    fn are_missing(&self) -> bool {
        let is_installed = self.qemu.is_some() && self.busybox.is_some();
        !is_installed && !self.root.join("usr/bin").join(BUSYBOX).exists()
    }

    /// qemu, with the firmware it needs.
    pub(super) fn qemu(&self) -> Command {
        if let Some(installed) = &self.qemu {
            return Command::new(installed);
        }
        let mut command = self.with_own_libraries(QEMU);
        for dir in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(self.root.join(dir));
        }
        command.env("QEMU_MODULE_DIR", self.root.join("usr/lib/x86_64-linux-gnu/qemu"));
        command
    }

    /// What qemu says of itself, or why it does not run.
    pub(super) fn qemu_version(&self) -> Result<String> {
        let said = capture(self.qemu().arg("--version")).with_context(|| {
            format!("{QEMU} does not run; remove {} to fetch it again, or install it", self.root.display())
        })?;
        Ok(said.lines().next().unwrap_or(QEMU).to_owned())
    }

    pub(super) fn busybox(&self) -> Command {
        Command::new(self.busybox_path())
    }

    pub(super) fn busybox_path(&self) -> PathBuf {
        self.busybox.clone().unwrap_or_else(|| self.root.join("usr/bin").join(BUSYBOX))
    }

    fn with_own_libraries(&self, program: &str) -> Command {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).arg(self.root.join("usr/bin").join(program));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_does_not_run_is_one_line_that_says_what_to_do() {
        let tools = Tools { root: PathBuf::from("/no/such/tools"), qemu: None, busybox: None };
        assert!(tools.are_missing());
        let error = format!("{:#}", tools.qemu_version().expect_err("not there"));
        assert!(error.contains("remove /no/such/tools to fetch it again"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn an_installed_qemu_goes_before_the_fetched_one() {
        let tools =
            Tools { root: "/cache".into(), qemu: Some("/usr/bin/qemu".into()), busybox: Some("/bin/busybox".into()) };
        assert!(!tools.are_missing());
        assert_eq!(tools.qemu().get_program(), "/usr/bin/qemu");
        let tools = Tools { qemu: None, ..tools };
        assert_eq!(tools.qemu().get_program(), "/cache/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    }
}
