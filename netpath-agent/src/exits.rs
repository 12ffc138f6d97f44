//! Processes whose end is their container's end, as the kernel reports it.

use std::future::pending;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::Pin;
use std::{fmt, io};

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One entry for each process that is watched.
#[derive(Default)]
pub struct Exits(FuturesUnordered<Pin<Box<dyn Future<Output = String> + Send>>>);

impl Exits {
    /// Reports `name` when process `pid` ends.
    ///
    /// # Errors
    /// If there is no such process, or the kernel cannot watch one (before Linux 5.3).
    pub fn watch(&mut self, name: &str, pid: u32) -> Result<()> {
        let register = |fd: OwnedFd| {
            // SAFETY: the descriptor is owned, so it stays open and the same until the registration is dropped.
            let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
            registered.map_err(io::Error::from)
        };
        let pidfd = open(pid).and_then(register).with_context(|| format!("watch process {pid}"))?;
        let name = name.to_owned();
        self.0.push(Box::pin(async move {
            // An error would be that of the agent's own event loop.
            let _ = pidfd.readable().await;
            name
        }));
        Ok(())
    }

    /// The name that the next process to end was watched under.
    pub async fn next(&mut self) -> String {
        match self.0.next().await {
            Some(name) => name,
            None => pending().await,
        }
    }
}

impl fmt::Debug for Exits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exits({})", self.0.len())
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made the descriptor for this call.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn the_end_of_each_process_is_reported_once() {
        let mut exits = Exits::default();
        let mut children = ["0.2", "0.05"].map(|time| Command::new("sleep").arg(time).spawn().unwrap());
        for (name, child) in ["slow", "quick"].iter().zip(&children) {
            exits.watch(name, child.id()).unwrap();
        }
        assert_eq!((exits.next().await, exits.next().await), ("quick".to_owned(), "slow".to_owned()));
        for child in &mut children {
            child.wait().unwrap();
        }
        assert!(exits.watch("gone", children[0].id()).is_err());
    }
}
