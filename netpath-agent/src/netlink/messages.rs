//! What the kernel's messages say, as this module's own types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Address, Link, Notice, Route};
use crate::xdp::{self, Mode};

pub(super) fn notice(message: &RouteNetlinkMessage) -> Option<Notice> {
    // A port that leaves its bridge is announced as an AF_BRIDGE "link deleted", though it lives on.
    let is_link = |link: &LinkMessage| link.header.interface_family == AddressFamily::Unspec;
    match message {
        RouteNetlinkMessage::NewLink(link) if is_link(link) => Some(Notice::Link(link.header.index)),
        RouteNetlinkMessage::DelLink(link) if is_link(link) => Some(Notice::LinkGone(link.header.index)),
        RouteNetlinkMessage::NewAddress(a) | RouteNetlinkMessage::DelAddress(a) => {
            Some(Notice::Address(a.header.index))
        }
        // No other route says what is external.
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            (route.header.destination_prefix_length == 0).then_some(Notice::Route)
        }
        RouteNetlinkMessage::DelTrafficFilter(tc) | RouteNetlinkMessage::DelQueueDiscipline(tc) => {
            u32::try_from(tc.header.index).ok().map(Notice::FilterGone)
        }
        _ => None,
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link = Self {
            ifindex: message.header.index,
            ifname: String::new(),
            mac: [0; 6],
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            bridge: false,
            kind: None,
            xdp: None,
            alias: None,
            master: None,
            peer: None,
            peer_netns: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.ifname.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Link(peer) => link.peer = Some(*peer),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns = Some(*id).filter(|id| *id >= 0),
                LinkAttribute::Controller(master) => link.master = Some(*master).filter(|m| *m != 0),
                LinkAttribute::LinkInfo(infos) => {
                    let kind =
                        infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None });
                    link.bridge = kind == Some(&InfoKind::Bridge);
                    link.kind = kind.map(ToString::to_string);
                }
                LinkAttribute::Xdp(attributes) => link.xdp = attached_xdp(attributes),
                _ => {}
            }
        }
        link
    }
}

fn attached_xdp(attributes: &[LinkXdp]) -> Option<xdp::Attached> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(Mode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Mode::Generic),
        _ => None,
    });
    let program = |attribute: &LinkXdp| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    };
    Some(xdp::Attached { mode, program: attributes.iter().find_map(program)? })
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    // IFA_LOCAL is the interface's own address; IFA_ADDRESS is the peer's on point-to-point links.
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    };
    let any = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(addr) => Some(*addr),
        _ => None,
    };
    let attributes = &message.attributes;
    let addr = attributes.iter().find_map(own).or_else(|| attributes.iter().find_map(any))?;
    let flags = message.header.flags;
    // In IPv6 the bit of `Secondary` says that an address is a temporary one.
    let unsure = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
    Some(Address {
        ifindex: message.header.index,
        net: IpNet::new(addr, message.header.prefix_len).ok()?,
        universe: message.header.scope == AddressScope::Universe,
        secondary: flags.contains(AddressHeaderFlags::Secondary),
        usable: !flags.intersects(unsure) || flags.contains(AddressHeaderFlags::Optimistic),
    })
}

pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let mut dst: Option<IpAddr> = None;
    let (mut gateway, mut ifindex) = (None, None);
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(addr) => Some(IpAddr::V4(*addr)),
        RouteAddress::Inet6(addr) => Some(IpAddr::V6(*addr)),
        _ => None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            _ => {}
        }
    }
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let dst = IpNet::new(dst.unwrap_or(any), message.header.destination_prefix_length).ok()?;
    Some(Route { dst, gateway, ifindex })
}
