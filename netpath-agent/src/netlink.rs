//! Interfaces, addresses, routes and neighbours over rtnetlink. The only module that names rtnetlink;
//! what it hands out are this file's own types.

mod deletion;
mod messages;
mod neighbour;
pub mod netdev;
pub mod nftables;
mod operational;
mod peer;
mod qdisc;
mod raw;
mod route;
pub(crate) mod sock_diag;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage, RouteScope};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder, new_connection,
    new_multicast_connection,
};
use tokio::time::timeout;

use self::messages::{address, notice, route};
use crate::xdp;

/// How long the kernel may take to answer. It does so at once, unless it is busy with interfaces of others.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to rtnetlink in the network namespace where it was opened.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

/// Changes of links, addresses, default routes and filters, as they happen.
pub struct Notices {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Keeps the connection, over which nobody asks anything.
    _handle: Handle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The link with this index is new or has changed.
    Link(u32),
    LinkGone(u32),
    /// The link with this index has gained or lost an address.
    Address(u32),
    Route,
    /// The link with this index has lost a filter, or the qdisc that holds its filters.
    FilterGone(u32),
    /// There were more changes than the kernel kept for us.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub ifname: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
    /// Its frames have an Ethernet header; those of tunnels have none.
    pub ethernet: bool,
    pub bridge: bool,
    /// What software makes the interface, as `veth` or `vlan`; none does a network card.
    pub kind: Option<String>,
    /// The XDP program that is attached, whoever did it.
    pub xdp: Option<xdp::Attached>,
    pub alias: Option<String>,
    /// Interface index of the bridge or bond it belongs to.
    pub master: Option<u32>,
    /// Of a veth the interface index of the other end, in whatever namespace that is.
    pub peer: Option<u32>,
    /// What this namespace calls the one of the other end, where that is another one.
    pub peer_netns: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub ifindex: u32,
    /// The address and its prefix length.
    pub net: IpNet,
    /// Valid beyond the link.
    pub universe: bool,
    pub secondary: bool,
    /// It may be used as a source: IPv6 knows addresses that are not sure yet, or on their way out.
    pub usable: bool,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub dst: IpNet,
    pub gateway: Option<IpAddr>,
    pub ifindex: Option<u32>,
}

/// A veth pair to create: one end here, `eth0` in another network namespace.
pub struct Veth<'a> {
    pub ifname: &'a str,
    pub mtu: u32,
    pub mac: [u8; 6],
    /// Of the end here.
    pub group: u32,
    pub peer_ifname: &'a str,
    pub peer_mac: [u8; 6],
    pub peer_netns: BorrowedFd<'a>,
}

impl Netlink {
    /// Connects in the calling thread's network namespace.
    ///
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) = new_connection().context("open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Connects, and subscribes to changes of links, addresses, routes and filters over a connection of their own: a burst
    /// of them must not push out the answer to a request.
    ///
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn subscribe() -> Result<(Self, Notices)> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Tc,
        ];
        let (connection, handle, messages) = new_multicast_connection(&groups).context("open a netlink socket")?;
        tokio::spawn(connection);
        Ok((Self::connect()?, Notices { messages, _handle: handle }))
    }

    /// # Errors
    /// If the kernel refuses.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let links = answer(self.handle.link().get().execute().try_collect::<Vec<_>>()).await;
        Ok(links.context("list interfaces")?.iter().map(Link::from).collect())
    }

    /// The interfaces in a group.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn links_of_group(&self, group: u32) -> Result<Vec<Link>> {
        let links = answer(self.handle.link().get().execute().try_collect::<Vec<_>>()).await;
        let is_in = |link: &&LinkMessage| link.attributes.contains(&LinkAttribute::Group(group));
        Ok(links.context("list interfaces")?.iter().filter(is_in).map(Link::from).collect())
    }

    /// The interface called `ifname`, if there is one.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than that there is none.
    pub async fn link(&self, ifname: &str) -> Result<Option<Link>> {
        let mut links = Box::pin(self.handle.link().get().match_name(ifname.to_owned()).execute());
        match answer(links.try_next()).await {
            Ok(link) => Ok(link.as_ref().map(Link::from)),
            Err(error) if is(&error, Errno::ENODEV) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("look up interface {ifname}")),
        }
    }

    /// # Errors
    /// If the kernel refuses.
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        let messages = answer(self.handle.address().get().execute().try_collect::<Vec<_>>()).await;
        let messages = messages.context("list addresses")?;
        Ok(messages.iter().filter_map(address).collect())
    }

    /// The routes of the main table, of both families.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = self.routes_of(RouteMessageBuilder::<Ipv4Addr>::new().build()).await?;
        routes.extend(self.routes_of(RouteMessageBuilder::<Ipv6Addr>::new().build()).await?);
        Ok(routes)
    }

    async fn routes_of(&self, query: RouteMessage) -> Result<Vec<Route>> {
        let messages = answer(self.handle.route().get(query).execute().try_collect::<Vec<_>>()).await;
        let messages = messages.context("list routes")?;
        let main = messages.iter().filter(|m| m.header.table == RouteHeader::RT_TABLE_MAIN);
        Ok(main.filter_map(route).collect())
    }

    /// Creates a bridge, down and without address.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the name is taken.
    pub async fn create_bridge(&self, ifname: &str, mac: [u8; 6], group: u32) -> Result<()> {
        let message = LinkBridge::new(ifname).down().address(mac.to_vec());
        let message = message.append_extra_attribute(LinkAttribute::Group(group)).build();
        self.add(message).await.with_context(|| format!("create bridge {ifname}"))
    }

    /// Gives an interface an alias, and takes it out of the group it was created in.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the alias is longer than 255 bytes.
    pub async fn set_alias(&self, ifindex: u32, alias: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).alias(alias);
        let message = message.append_extra_attribute(LinkAttribute::Group(0)).build();
        self.change(message).await.with_context(|| format!("set the alias of interface {ifindex}"))
    }

    /// Creates a veth pair, both ends down, the peer directly in its namespace.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the peer's name is taken there.
    pub async fn create_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let peer = LinkUnspec::new_with_name(veth.peer_ifname)
            .mtu(veth.mtu)
            .address(veth.peer_mac.to_vec())
            .setns_by_fd(veth.peer_netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(veth.ifname)
            .mtu(veth.mtu)
            .address(veth.mac.to_vec())
            .append_extra_attribute(LinkAttribute::Group(veth.group))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.add(message).await.with_context(|| format!("create veth pair {} - {}", veth.ifname, veth.peer_ifname))
    }

    /// # Errors
    /// If the kernel refuses.
    pub async fn set_up(&self, ifindex: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).up().build();
        self.change(message).await.with_context(|| format!("set interface {ifindex} up"))
    }

    /// # Errors
    /// If the kernel refuses.
    pub async fn set_mtu(&self, ifindex: u32, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).mtu(mtu).build();
        self.change(message).await.with_context(|| format!("set the MTU of interface {ifindex} to {mtu}"))
    }

    /// Makes the interface a port of `bridge`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn enslave(&self, ifindex: u32, bridge: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).controller(bridge).build();
        self.change(message).await.with_context(|| format!("add interface {ifindex} to bridge {bridge}"))
    }

    /// # Errors
    /// If the kernel refuses.
    pub async fn add_address(&self, ifindex: u32, net: IpNet) -> Result<()> {
        let mut request = self.handle.address().add(ifindex, net.addr(), net.prefix_len());
        if net.addr().is_ipv6() {
            // Nobody else can have it: usable at once, not after a second of duplicate address detection.
            request.message_mut().header.flags.insert(AddressHeaderFlags::Nodad);
        }
        answer(request.execute()).await.with_context(|| format!("add address {net} to interface {ifindex}"))
    }

    /// # Errors
    /// If the kernel refuses, for instance because there is a default route.
    pub async fn add_default_route(&self, gateway: IpAddr) -> Result<()> {
        let message = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        let request = self.handle.route().add(message);
        answer(request.execute()).await.with_context(|| format!("add default route via {gateway}"))
    }

    /// Routes `net` directly to an interface.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because there is such a route.
    pub async fn add_route(&self, net: IpNet, ifindex: u32) -> Result<()> {
        let message = match net {
            IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.addr(), net.prefix_len())
                .output_interface(ifindex)
                .scope(RouteScope::Link)
                .build(),
            IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.addr(), net.prefix_len())
                .output_interface(ifindex)
                .build(),
        };
        let request = self.handle.route().add(message);
        answer(request.execute()).await.with_context(|| format!("route {net} to interface {ifindex}"))
    }

    /// Removes the default route of `gateway`'s family that leads there; no error if it is gone.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub async fn delete_default_route(&self, gateway: IpAddr) -> Result<()> {
        let message = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        match answer(self.handle.route().del(message).execute()).await {
            Err(error) if !is(&error, Errno::ESRCH) => {
                Err(error).with_context(|| format!("remove default route via {gateway}"))
            }
            _ => Ok(()),
        }
    }

    async fn add(&self, message: LinkMessage) -> Result<()> {
        answer(self.handle.link().add(message).execute()).await
    }

    async fn change(&self, message: LinkMessage) -> Result<()> {
        answer(self.handle.link().change(message).execute()).await
    }
}

impl Notices {
    /// The next change; `None` when the connection is gone.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            let (message, _) = self.messages.next().await?;
            let notice = match message.payload {
                NetlinkPayload::InnerMessage(inner) => notice(&inner),
                NetlinkPayload::Overrun(_) => Some(Notice::Lost),
                _ => None,
            };
            if notice.is_some() {
                return notice;
            }
        }
    }

    /// A change that has already arrived.
    pub fn pending(&mut self) -> Option<Notice> {
        futures::FutureExt::now_or_never(self.next()).flatten()
    }
}

/// The kernel's answer to a request, or that there is none.
async fn answer<T>(request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T> {
    within(PATIENCE, request).await
}

async fn within<T>(limit: Duration, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T> {
    match timeout(limit, request).await {
        Ok(answer) => answer.map_err(refusal),
        Err(_) => bail!("the kernel has not answered within {limit:?}"),
    }
}

/// The kernel's refusal as an [`Errno`] that callers can look for, without rtnetlink's debug output.
fn refusal(error: rtnetlink::Error) -> anyhow::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => anyhow!(Errno::from_raw(-message.raw_code())),
        error => anyhow!(error),
    }
}

fn is(error: &anyhow::Error, errno: Errno) -> bool {
    error.downcast_ref() == Some(&errno)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_request_that_nobody_answers_ends() {
        let limit = Duration::from_millis(20);
        let error = within(limit, pending::<Result<(), rtnetlink::Error>>()).await.unwrap_err();
        assert!(error.to_string().contains("within 20ms"), "{error}");
    }
}
