//! Debian packages: which ones a set of programs needs, and installing them without starting their services.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, Result, bail};

use crate::process::{capture, find, is_root};

/// Debian asks this program before a package starts a service; exit status 101 is no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// What is installed already stays: a package of another release in the way is the user's to remove, not a set-up's.
const INSTALL: [&str; 4] = ["install", "-y", "--no-install-recommends", "--no-remove"];

/// apt-get, which reads the package lists once and only when something is to be installed.
#[derive(Default)]
pub(crate) struct Apt {
    updated: bool,
}

impl Apt {
    /// The command that a user would type.
    pub(crate) fn command(packages: &[String]) -> String {
        format!("apt-get {} {}", INSTALL.join(" "), packages.join(" "))
    }

    /// Installs `packages`.
    ///
    /// # Errors
    /// Those of apt-get, in its words.
    pub(crate) fn install(&mut self, packages: &[String]) -> Result<()> {
        if find("apt-get").is_none() {
            bail!("there is no apt-get here; install with this system's package manager: {}", packages.join(" "));
        }
        let _policy = ServicePolicy::refuse_starts(Path::new(POLICY))?;
        let had_nginx = find("nginx").is_some();
        self.update()?;
        capture(apt_get().args(INSTALL).args(packages))?;
        if !had_nginx && find("nginx").is_some() && Path::new("/run/systemd/system").is_dir() {
            // The package enables its service; the next boot should not find port 80 taken because of a demo.
            capture(Command::new("systemctl").args(["disable", "nginx"]))?;
        }
        Ok(())
    }

    /// Downloads `package` into `dir` without installing it, and returns the file.
    ///
    /// # Errors
    /// Those of apt-get, in its words.
    pub(crate) fn download(&mut self, package: &str, dir: &Path) -> Result<PathBuf> {
        if find("apt-get").is_none() || find("dpkg-deb").is_none() {
            bail!("there is no apt-get here");
        }
        let download = || capture(apt_get().args(["download", package]).current_dir(dir));
        // The lists may be there, and then this needs neither root nor time.
        if download().is_err() {
            if !is_root() {
                bail!("apt-get knows no package {package}; type: sudo apt-get update");
            }
            self.update()?;
            download()?;
        }
        let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
        let files = entries.flatten().map(|entry| entry.path());
        files.into_iter().find(|file| file.extension().is_some_and(|e| e == "deb")).context("apt-get left no package")
    }

    fn update(&mut self) -> Result<()> {
        if !self.updated {
            capture(apt_get().arg("update"))?;
            self.updated = true;
        }
        Ok(())
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-q").env("DEBIAN_FRONTEND", "noninteractive").stdin(process::Stdio::null());
    command
}

/// The packages, each once, of those `programs` (name, package) that are not `present`.
pub(crate) fn missing(programs: &[(&str, &str)], present: impl Fn(&str) -> bool) -> Vec<String> {
    let mut packages: Vec<String> =
        programs.iter().filter(|(name, _)| !present(name)).map(|(_, package)| (*package).to_owned()).collect();
    packages.dedup();
    packages
}

/// While it lives, packages that are installed start no service. A policy that is there already stays in charge.
struct ServicePolicy<'a> {
    ours: Option<&'a Path>,
}

impl<'a> ServicePolicy<'a> {
    fn refuse_starts(path: &'a Path) -> Result<Self> {
        // Answers no only as long as this process lives, so that a copy left by a kill has no effect.
        let script = format!("#!/bin/sh\n# netpath setup\n[ ! -d /proc/{} ] || exit 101\n", process::id());
        if fs::read_to_string(path).is_ok_and(|text| text.contains("# netpath setup")) {
            fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
        }
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path) {
            Ok(mut file) => {
                file.write_all(script.as_bytes()).with_context(|| format!("write {}", path.display()))?;
                file.set_permissions(fs::Permissions::from_mode(0o755))?;
                Ok(Self { ours: Some(path) })
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self { ours: None }),
            Err(error) => Err(error).with_context(|| format!("create {}", path.display())),
        }
    }
}

impl Drop for ServicePolicy<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.ours {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_of_absent_programs_are_missing() {
        let programs = [("ip", "iproute2"), ("ss", "iproute2"), ("curl", "curl"), ("wrk", "wrk")];
        assert_eq!(missing(&programs, |name| name == "curl"), ["iproute2", "wrk"]);
        assert!(missing(&programs, |_| true).is_empty());
    }

    #[test]
    fn an_installation_removes_nothing() {
        let command = Apt::command(&["wrk".to_owned()]);
        assert_eq!(command, "apt-get install -y --no-install-recommends --no-remove wrk");
    }

    #[test]
    fn services_are_refused_only_while_the_policy_lives() {
        let path = std::env::temp_dir().join(format!("netpath-policy-{}", process::id()));
        {
            let _policy = ServicePolicy::refuse_starts(&path).expect("create");
            assert_eq!(Command::new("sh").arg(&path).status().expect("run").code(), Some(101));
        }
        assert!(!path.exists());
    }

    #[test]
    fn the_policy_of_a_dead_process_allows_and_is_replaced() {
        let path = std::env::temp_dir().join(format!("netpath-stale-policy-{}", process::id()));
        fs::write(&path, "#!/bin/sh\n# netpath setup\n[ ! -d /proc/0 ] || exit 101\n").expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        assert_eq!(Command::new("sh").arg(&path).status().expect("run").code(), Some(0));
        drop(ServicePolicy::refuse_starts(&path).expect("replace"));
        assert!(!path.exists());
    }

    #[test]
    fn a_policy_of_somebody_else_stays() {
        let path = std::env::temp_dir().join(format!("netpath-foreign-policy-{}", process::id()));
        fs::write(&path, "#!/bin/sh\nexit 101\n").expect("write");
        drop(ServicePolicy::refuse_starts(&path).expect("keep"));
        assert!(path.exists());
        fs::remove_file(&path).expect("remove");
    }
}
