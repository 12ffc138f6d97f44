//! IPv6, which a host is served with from its first network with IPv6 on.

use anyhow::Result;
use netpath_common::config_flag;

use crate::agent::Agent;
use crate::following::Attach;
use crate::host;

impl Agent {
    /// Makes the data plane serve IPv6, unless it does: loads the programs, attaches them wherever IPv4's are, and last
    /// tells those of the containers, which drop IPv6 until then.
    ///
    /// # Errors
    /// If the kernel refuses a program. IPv4 is served as before.
    pub(crate) async fn serve_ipv6(&mut self) -> Result<()> {
        if self.datapath.has_ipv6() && self.datapath.config().flags & config_flag::IPV6 != 0 {
            return Ok(());
        }
        self.datapath.load_ipv6()?;
        self.attach_externals(Attach::Missing)?;
        for endpoint in self.state.endpoints.values() {
            if self.datapath.has_all(endpoint.ifindex, endpoint.attachment()) {
                continue;
            }
            if let Err(error) = self.datapath.attach_all(endpoint.attachment(), endpoint.ifindex, &endpoint.ifname)
                && self.netlink.link(&endpoint.ifname).await?.is_some()
            {
                return Err(error);
            }
        }
        tracing::info!("IPv6 is served from now on");
        self.set_config_flag(config_flag::IPV6, true)
    }
}

/// Lets the host forward IPv6, as Docker does when the first network with IPv6 is there.
///
/// # Errors
/// If the setting cannot be read or written.
pub(crate) fn forward(allowed: bool) -> Result<()> {
    if allowed && host::enable_ipv6_forward()? {
        tracing::info!("net.ipv6.conf.all.forwarding is set to 1");
    }
    Ok(())
}
