//! The names a container knows: its `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`, and what a link
//! adds to its environment. Here: the directory they lie in. What is in them comes from the files beside,
//! which are pure.
//!
//! The files are bind-mounted over those in `/etc`, so they are rewritten in place, never replaced. Only
//! `hosts` changes while a container runs, and only in the lines that were generated: a copy of what was
//! written last lies beside it, and a line that the user has changed since is the user's.

pub mod hosts;
pub mod link;
pub mod resolv_conf;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const HOSTS: &str = "hosts";
const HOSTNAME: &str = "hostname";
const RESOLV_CONF: &str = "resolv.conf";
/// What netpath has written into `hosts`.
const GENERATED: &str = "hosts.generated";

/// Whether a container can have that host name.
///
/// # Errors
/// If it is too long, or would not stay one word in the container's files.
pub fn check_hostname(hostname: &str) -> Result<()> {
    ensure!(
        (1..=64).contains(&hostname.len()),
        "host name `{}` is {} bytes long, want 1 to 64; choose one with `-h`",
        hostname.escape_debug(),
        hostname.len()
    );
    let is_odd = |c: char| c == '#' || c.is_whitespace() || c.is_control();
    ensure!(!hostname.contains(is_odd), "host name `{}` has characters that no host name has", hostname.escape_debug());
    Ok(())
}

/// The directory of one container's files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameFiles(PathBuf);

/// What is in a new container's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    pub hosts: String,
    pub hostname: String,
    pub resolv_conf: String,
}

impl NameFiles {
    /// Those of the container called `name`, below the agent's state directory.
    pub fn new(state_dir: &Path, name: &str) -> Self {
        Self(state_dir.join("containers").join(name))
    }

    /// Those of all containers that have any there.
    pub fn all(state_dir: &Path) -> Vec<Self> {
        let entries = fs::read_dir(state_dir.join("containers")).into_iter().flatten().flatten();
        entries.map(|entry| Self(entry.path())).collect()
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Each file with the one in the container that it covers.
    pub fn mounts(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
        [HOSTS, HOSTNAME, RESOLV_CONF].map(|file| (dir.join(file), Path::new("/etc").join(file))).to_vec()
    }

    /// Writes the files of a new container, in place of those of an earlier one.
    ///
    /// # Errors
    /// If the directory cannot be written; nothing is left of it then.
    pub fn create(&self, contents: &Contents) -> Result<()> {
        self.remove()?;
        let written = self.write_all(contents);
        if written.is_err() {
            let _ = self.remove();
        }
        written.with_context(|| format!("write the files in {}", self.0.display()))
    }

    /// Makes the generated lines of `hosts` those of `text`. `false` where there are no files.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn update_hosts(&self, text: &str) -> Result<bool> {
        let Some(generated) = self.read(GENERATED)? else { return Ok(false) };
        let Some(current) = self.read(HOSTS)? else { return Ok(false) };
        if generated == text {
            return Ok(true);
        }
        let updated = hosts::update(&current, &generated, text);
        self.overwrite(HOSTS, &updated).and_then(|()| self.overwrite(GENERATED, text))?;
        Ok(true)
    }

    /// Removes the files; fine if there are none.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.0.display()))
            }
            _ => {
                // The last container's files take the directory of all with them.
                let _ = self.0.parent().map(fs::remove_dir);
                Ok(())
            }
        }
    }

    fn write_all(&self, contents: &Contents) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let files = [
            (HOSTS, &contents.hosts),
            (HOSTNAME, &contents.hostname),
            (RESOLV_CONF, &contents.resolv_conf),
            (GENERATED, &contents.hosts),
        ];
        for (name, text) in files {
            let path = self.0.join(name);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
            // Whatever the umask is: users inside read it.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.write_all(text.as_bytes())?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.0.join(name);
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            bytes => {
                let bytes = bytes.with_context(|| format!("read {}", path.display()))?;
                Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
            }
        }
    }

    /// Writes first and cuts after, so that nobody finds the file empty.
    fn overwrite(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        let write = |file: File| file.write_all_at(text.as_bytes(), 0).and_then(|()| file.set_len(text.len() as u64));
        let file = OpenOptions::new().write(true).open(&path);
        file.and_then(write).with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_the_file_and_the_users_lines() {
        let dir = tempfile::tempdir().unwrap();
        let files = NameFiles::new(dir.path(), "web");
        files.create(&contents("172.17.0.2\tdb\n")).unwrap();
        let hosts = files.dir().join(HOSTS);
        let mounted = File::open(&hosts).unwrap();
        OpenOptions::new().append(true).open(&hosts).unwrap().write_all(b"10.0.0.1\tmine\n").unwrap();
        assert!(files.update_hosts("172.17.0.9\tdb\n").unwrap());
        let mut text = [0; 64];
        let len = mounted.read_at(&mut text, 0).unwrap();
        assert_eq!(std::str::from_utf8(&text[..len]).unwrap(), "172.17.0.9\tdb\n10.0.0.1\tmine\n");
        assert!(files.update_hosts("").unwrap());
        assert_eq!(fs::read_to_string(&hosts).unwrap(), "10.0.0.1\tmine\n");
    }

    #[test]
    fn files_are_readable_for_all_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let files = NameFiles::new(dir.path(), "web");
        assert!(!files.update_hosts("").unwrap());
        files.create(&contents("old\n")).unwrap();
        files.create(&contents("new\n")).unwrap();
        for (file, target) in NameFiles::mounts(files.dir()) {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o644, "{}", target.display());
        }
        assert_eq!(fs::read_to_string(files.dir().join(HOSTS)).unwrap(), "new\n");
        files.remove().unwrap();
        files.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    fn contents(hosts: &str) -> Contents {
        Contents { hosts: hosts.to_owned(), hostname: "web\n".to_owned(), resolv_conf: String::new() }
    }
}
