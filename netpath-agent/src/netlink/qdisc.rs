//! The queueing discipline that holds filters.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_route::tc::TcHandle;

use super::{Netlink, answer, is};

impl Netlink {
    /// Deletes an interface's clsact qdisc, unless it has filters; whose it is, is the caller's to know.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than that there is none.
    pub async fn delete_unused_clsact(&self, ifindex: u32) -> Result<()> {
        let context = || format!("delete the clsact qdisc of interface {ifindex}");
        let filters = || self.handle.traffic_filter(ifindex.cast_signed()).get();
        for filters in [filters().ingress(), filters().egress()] {
            match answer(filters.execute().try_collect::<Vec<_>>()).await {
                Ok(filters) if filters.is_empty() => {}
                Ok(_) => return Ok(()),
                Err(error) if is(&error, Errno::ENODEV) => return Ok(()),
                Err(error) => return Err(error).with_context(context),
            }
        }
        let mut request = self.handle.qdisc().del(ifindex.cast_signed());
        let header = &mut request.message_mut().header;
        header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        header.parent = TcHandle::CLSACT;
        match answer(request.execute()).await {
            Err(error) if ![Errno::ENODEV, Errno::ENOENT, Errno::EINVAL].iter().any(|errno| is(&error, *errno)) => {
                Err(error).with_context(context)
            }
            _ => Ok(()),
        }
    }
}
