//! The other end of a veth pair, in whatever namespace it is.

use std::pin::pin;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::link::LinkAttribute;

use super::{Link, Netlink, answer, is};

impl Netlink {
    /// The other end of `link`, where that is in another namespace; `None` if it has gone. The kernel knows the attribute
    /// from Linux 4.15 on.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub async fn peer(&self, link: &Link) -> Result<Option<Link>> {
        let (Some(ifindex), Some(netns)) = (link.peer, link.peer_netns) else { return Ok(None) };
        let mut request = self.handle.link().get().match_index(ifindex);
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(netns));
        let mut links = pin!(request.execute());
        match answer(links.try_next()).await {
            Ok(link) => Ok(link.as_ref().map(Link::from)),
            // A namespace that is no more has no number.
            Err(error) if is(&error, Errno::ENODEV) || is(&error, Errno::EINVAL) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("look up the other end of {}", link.ifname)),
        }
    }
}
