//! Who listens at Docker Engine's socket. systemd does so for a dockerd that does not run, and starts it for whoever connects.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::daemon::{is_called, processes};
use crate::holder::has_open;

/// `__SO_ACCEPTCON` of the kernel's: the socket listens.
const LISTENS: u32 = 1 << 16;

#[derive(Debug, thiserror::Error)]
#[error("dockerd is stopped: systemd listens at {} for it, and connecting would start it", .0.display())]
pub(super) struct Stopped(PathBuf);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// The dockerd that listened last.
    dockerd: Option<u32>,
}

impl Listener {
    /// # Errors
    /// [`Stopped`] if connecting would start dockerd: that is for who has stopped it.
    pub(super) fn require_dockerd(&mut self, socket: &Path) -> Result<()> {
        // Who connects learns why there is none.
        let Some(inode) = inode(socket) else { return Ok(()) };
        let link = format!("socket:[{inode}]");
        let has = |name, pid: &u32| is_called(*pid, name) && has_open(*pid, &link);
        if self.dockerd.is_some_and(|pid| has("dockerd", &pid)) {
            return Ok(());
        }
        let pids = processes()?;
        self.dockerd = pids.iter().copied().find(|pid| has("dockerd", pid));
        if self.dockerd.is_none() && pids.iter().any(|pid| has("systemd", pid)) {
            bail!(Stopped(socket.to_owned()));
        }
        Ok(())
    }
}

/// Of the socket that listens at `path`.
fn inode(path: &Path) -> Option<u64> {
    let path = fs::canonicalize(path).ok()?;
    let sockets = fs::read_to_string("/proc/net/unix").ok()?;
    let mut listeners = sockets.lines().filter_map(listener);
    listeners.find(|(bound, _)| fs::canonicalize(bound).is_ok_and(|bound| bound == path)).map(|(_, inode)| inode)
}

/// Path and inode, if the line is about a socket that listens at a path. Number, references, protocol, flags, type, state,
/// inode and path, see proc_pid_net(5).
fn listener(line: &str) -> Option<(PathBuf, u64)> {
    let (numbers, path) = line.split_once(" /")?;
    let mut numbers = numbers.split_ascii_whitespace();
    let flags = u32::from_str_radix(numbers.nth(3)?, 16).ok()?;
    let inode = numbers.nth(2)?.parse().ok()?;
    (flags & LISTENS != 0).then(|| (PathBuf::from(format!("/{path}")), inode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn the_socket_that_listens_is_found_under_any_name_of_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a socket");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("other")).unwrap();
        assert_eq!(inode(&path), None);
        let socket = UnixListener::bind(&path).unwrap();
        let found = inode(&dir.path().join("other/a socket")).unwrap();
        assert!(has_open(std::process::id(), &format!("socket:[{found}]")));
        let _client = UnixStream::connect(&path).unwrap();
        let _accepted = socket.accept().unwrap();
        assert_eq!(inode(&path), Some(found), "not the one of a connection");
        drop(socket);
        assert_eq!(inode(&path), None);
    }

    #[test]
    fn a_socket_that_nobody_waits_at_may_be_connected_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let mut listener = Listener::default();
        listener.require_dockerd(&path).unwrap();
        let _socket = UnixListener::bind(&path).unwrap();
        listener.require_dockerd(&path).unwrap();
        assert_eq!(listener.dockerd, None, "it is neither systemd's nor dockerd's");
    }
}
