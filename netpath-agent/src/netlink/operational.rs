//! Whether an interface does what it was told to.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, State};

use super::{Netlink, answer};

impl Netlink {
    /// Whether the interface carries frames by now: RFC 2863's operational state is up, or the kernel keeps none.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub async fn is_operational(&self, ifindex: u32) -> Result<bool> {
        let mut links = Box::pin(self.handle.link().get().match_index(ifindex).execute());
        let link = answer(links.try_next()).await.with_context(|| format!("look up interface {ifindex}"))?;
        let is_up =
            |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::OperState(State::Up | State::Unknown));
        Ok(link.is_some_and(|link| link.attributes.iter().any(is_up)))
    }
}
