//! Who has which hardware address.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::{Netlink, answer};

impl Netlink {
    /// Tells the host which hardware address `addr` has, in place of what it has learned.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn learn_neighbour(&self, ifindex: u32, addr: IpAddr, mac: [u8; 6]) -> Result<()> {
        let request = self.handle.neighbours().add(ifindex, addr).replace();
        let request = request.state(NeighbourState::Stale).link_layer_address(&mac);
        answer(request.execute()).await.with_context(|| format!("set the neighbour entry of {addr}"))
    }
}
