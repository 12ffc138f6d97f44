//! Taking interfaces away, without waiting for all that the kernel does when one goes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::raw::Raw;
use super::{Netlink, answer, is};

// linux/rtnetlink.h.
const RTM_DELLINK: u16 = 17;
/// How long to wait between two looks. One that comes while the interface goes waits in the kernel.
const PAUSE: Duration = Duration::from_millis(1);

impl Netlink {
    /// Deletes an interface; no error if it is gone. Returns when nobody finds it any more, under its name or its number.
    ///
    /// The kernel answers later, when it has freed the memory: after a grace period of RCU and all callbacks that were
    /// waiting (`rcu_barrier` in `netdev_run_todo`), another 8 to 16 ms at 250 Hz.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub async fn delete_link(&self, ifindex: u32) -> Result<()> {
        let context = || format!("delete interface {ifindex}");
        // The kernel does it all in the call that asks for it.
        let mut deletion = spawn_blocking(move || order(ifindex));
        loop {
            let exists = tokio::select! {
                biased;
                deleted = &mut deletion => return deleted.context("the thread that does it panicked")?.with_context(context),
                exists = self.exists(ifindex) => exists.with_context(context)?,
            };
            if !exists {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    async fn exists(&self, ifindex: u32) -> Result<bool> {
        let mut links = Box::pin(self.handle.link().get().match_index(ifindex).execute());
        match answer(links.try_next()).await {
            Ok(link) => Ok(link.is_some()),
            Err(error) if is(&error, Errno::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Has the kernel delete an interface, and waits until it has done everything.
fn order(ifindex: u32) -> Result<()> {
    // What follows the family and its padding in `struct ifinfomsg`: type, number, flags and their mask.
    let mut rest = [0; 12];
    rest[..4].copy_from_slice(&ifindex.to_ne_bytes());
    match Raw::open(SockProtocol::NetlinkRoute)?.order(RTM_DELLINK, [0; 4], &rest) {
        Err(error) if is(&error, Errno::ENODEV) => Ok(()),
        ordered => ordered,
    }
}
