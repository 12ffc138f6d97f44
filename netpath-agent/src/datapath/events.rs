//! The stream of what the programs report.

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, RingBuf};
use netpath_common::Event;
use tokio::io::unix::AsyncFd;

/// Drops and new flows as the programs report them.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Those that nobody has read so far are passed over.
    pub(super) fn new(map: Map) -> Result<Self> {
        let mut ring = RingBuf::try_from(map).context("open EVENTS")?;
        while ring.next().is_some() {}
        // SAFETY: the ring buffer owns its descriptor, keeps it for life and never replaces it.
        let ring = unsafe { AsyncFd::register(ring) };
        Ok(Self { ring: ring.context("watch EVENTS")? })
    }

    /// Waits for the next event. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the ring buffer cannot be watched.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let mut guard = self.ring.readable_mut().await.context("wait for EVENTS")?;
            if let Some(item) = guard.get_inner_mut().next()
                && item.len() == size_of::<Event>()
            {
                // SAFETY: the programs write whole `Event`s, the length is checked, and any bytes make one.
                return Ok(unsafe { std::ptr::read_unaligned(item.as_ptr().cast()) });
            }
            guard.clear_ready();
        }
    }
}
