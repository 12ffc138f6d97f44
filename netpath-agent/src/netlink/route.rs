//! Routes through a gateway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, answer};

impl Netlink {
    /// Routes `net` to a gateway of the same family.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because there is such a route.
    pub async fn add_route_via(&self, net: IpNet, gateway: IpAddr) -> Result<()> {
        let message = match (net, gateway) {
            (IpNet::V4(net), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(gateway)
                .build(),
            (IpNet::V6(net), IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(gateway)
                .build(),
            _ => bail!("route {net} via {gateway}: want a gateway of the same family"),
        };
        let request = self.handle.route().add(message);
        answer(request.execute()).await.with_context(|| format!("route {net} via {gateway}"))
    }
}
