//! Which interfaces lead to the outside, and which addresses the host has. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::desired::ExternalFacts;
use crate::netlink::{Address, Link, Route};

/// MTU of the network where no external interface says otherwise.
const DEFAULT_MTU: u32 = 1500;

/// The interfaces, addresses and routes of the host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<Route>,
}

impl Interfaces {
    /// The external interfaces: those called one of `names` or, without names, each that has an
    /// address. Never one of `bridges`, their ports, `lo`, one of `own`, or a tunnel without Ethernet header, which the
    /// programs do not understand.
    pub fn externals(&self, names: &[String], bridges: &BTreeSet<&str>, own: &BTreeSet<u32>) -> Vec<ExternalFacts> {
        let bridges: BTreeSet<u32> =
            self.links.iter().filter(|link| bridges.contains(link.ifname.as_str())).map(|link| link.ifindex).collect();
        let qualifies = |link: &&Link| {
            let is_ours = own.contains(&link.ifindex) || bridges.contains(&link.ifindex);
            let is_port = link.master.is_some_and(|master| bridges.contains(&master));
            let wanted = if names.is_empty() { self.has_address(link) } else { names.contains(&link.ifname) };
            wanted && link.ethernet && !link.loopback && !is_ours && !is_port
        };
        let facts = |link: &Link| ExternalFacts {
            ifindex: link.ifindex,
            ifname: link.ifname.clone(),
            mac: link.mac,
            mtu: link.mtu,
            addrs: self.addrs_of(link.ifindex, v4),
            addrs6: self.addrs_of(link.ifindex, v6),
        };
        let mut externals: Vec<_> = self.links.iter().filter(qualifies).map(facts).collect();
        externals.sort_by_key(|external| (!self.has_default_route(external.ifindex), external.ifindex));
        externals
    }

    /// Every IPv4 address of the host but those of 127.0.0.0/8.
    pub fn local_addrs(&self) -> Vec<Ipv4Addr> {
        self.locals(v4).into_iter().filter(|addr| !addr.is_loopback()).collect()
    }

    /// Every IPv6 address of the host but ::1 and those that are valid on one link only.
    pub fn local_addrs6(&self) -> Vec<Ipv6Addr> {
        let is_wanted = |addr: &Ipv6Addr| !addr.is_loopback() && !addr.is_unicast_link_local();
        self.locals(v6).into_iter().filter(is_wanted).collect()
    }

    fn locals<A: Ord>(&self, family: fn(IpAddr) -> Option<A>) -> BTreeSet<A> {
        self.addresses.iter().filter_map(|address| family(address.net.addr())).collect()
    }

    fn has_address(&self, link: &Link) -> bool {
        let is_global = |addr: IpAddr| !matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
        self.addresses.iter().any(|address| address.ifindex == link.ifindex && is_global(address.net.addr()))
    }

    /// The addresses of an interface, the one that masquerade uses first. As the kernel selects it for
    /// the default route: usable, valid beyond the link, in the gateway's subnet, not secondary.
    fn addrs_of<A>(&self, ifindex: u32, family: fn(IpAddr) -> Option<A>) -> Vec<A> {
        let is_default =
            |r: &&Route| r.dst.prefix_len() == 0 && r.ifindex == Some(ifindex) && family(r.dst.addr()).is_some();
        let gateway = self.routes.iter().find(is_default).and_then(|route| route.gateway);
        let mut addresses: Vec<_> = self.addresses.iter().filter(|a| a.ifindex == ifindex).collect();
        addresses.sort_by_key(|address| {
            let beside_gateway = gateway.is_some_and(|gateway| address.net.contains(&gateway));
            (!address.usable, !address.universe, !beside_gateway, address.secondary)
        });
        let is_link_local = |addr: IpAddr| matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
        addresses.into_iter().map(|a| a.net.addr()).filter(|addr| !is_link_local(*addr)).filter_map(family).collect()
    }

    fn has_default_route(&self, ifindex: u32) -> bool {
        self.routes.iter().any(|route| route.dst.prefix_len() == 0 && route.ifindex == Some(ifindex))
    }
}

fn v4(addr: IpAddr) -> Option<Ipv4Addr> {
    match addr {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    }
}

fn v6(addr: IpAddr) -> Option<Ipv6Addr> {
    match addr {
        IpAddr::V6(addr) => Some(addr),
        IpAddr::V4(_) => None,
    }
}

/// The MTU that the network gets: the smallest of the externals.
pub fn smallest_mtu(externals: &[ExternalFacts]) -> u32 {
    externals.iter().map(|external| external.mtu).min().unwrap_or(DEFAULT_MTU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_without_ethernet_header_is_not_external() {
        let mut interfaces = host();
        let names = |interfaces: &Interfaces| -> Vec<String> {
            interfaces
                .externals(&[], &BTreeSet::from(["netpath0"]), &BTreeSet::new())
                .into_iter()
                .map(|e| e.ifname)
                .collect()
        };
        let before = names(&interfaces);
        let tunnel = before[0].clone();
        interfaces.links.iter_mut().filter(|link| link.ifname == tunnel).for_each(|link| link.ethernet = false);
        assert_eq!(names(&interfaces), before[1..]);
    }

    #[test]
    fn each_interface_with_an_address_is_external_but_netpaths_own_and_lo() {
        assert_eq!(
            names(&host().externals(&[], &BTreeSet::from(["netpath0"]), &BTreeSet::from([5]))),
            ["eth1", "eth0"]
        );
    }

    #[test]
    fn named_interfaces_are_external_even_without_address() {
        let wanted = ["eth2".to_owned(), "netpath0".to_owned(), "lo".to_owned(), "missing".to_owned()];
        let externals = host().externals(&wanted, &BTreeSet::from(["netpath0"]), &BTreeSet::new());
        assert_eq!(names(&externals), ["eth2"]);
        assert_eq!(externals[0].addrs, [] as [Ipv4Addr; 0]);
    }

    #[test]
    fn masquerade_uses_the_address_beside_the_default_gateway() {
        let externals = host().externals(&[], &BTreeSet::from(["netpath0"]), &BTreeSet::new());
        let addrs: Vec<_> = externals[0].addrs.iter().map(ToString::to_string).collect();
        assert_eq!(addrs, ["198.51.100.1", "198.51.100.2", "203.0.113.1", "169.254.0.1"]);
    }

    #[test]
    fn local_addresses_are_all_but_loopback() {
        let addrs: Vec<_> = host().local_addrs().iter().map(ToString::to_string).collect();
        assert!(addrs.contains(&"172.17.0.1".to_owned()) && addrs.contains(&"192.0.2.1".to_owned()));
        assert!(!addrs.contains(&"127.0.0.1".to_owned()));
    }

    #[test]
    fn the_smallest_mtu_counts() {
        let externals = host().externals(&[], &BTreeSet::from(["netpath0"]), &BTreeSet::new());
        assert_eq!((smallest_mtu(&externals), smallest_mtu(&[])), (1400, 1500));
    }

    fn names(externals: &[ExternalFacts]) -> Vec<&str> {
        externals.iter().map(|external| external.ifname.as_str()).collect()
    }

    fn host() -> Interfaces {
        let mut links = Vec::new();
        for (ifindex, ifname, master, mtu) in [
            (1, "lo", None, 65536),
            (2, "netpath0", None, 1500),
            (3, "eth0", None, 1400),
            (4, "eth1", None, 1500),
            (5, "veth0123456", None, 1500),
            (6, "port", Some(2), 1500),
            (7, "eth2", None, 1500),
        ] {
            links.push(Link {
                ifindex,
                ifname: ifname.to_owned(),
                mac: [0; 6],
                mtu,
                up: true,
                loopback: ifindex == 1,
                ethernet: true,
                bridge: ifindex == 2,
                kind: None,
                xdp: None,
                alias: None,
                master,
                peer: None,
                peer_netns: None,
            });
        }
        let address = |(ifindex, net, universe, secondary): (u32, &str, bool, bool)| Address {
            ifindex,
            net: net.parse().unwrap(),
            universe,
            secondary,
            usable: true,
        };
        let addresses = [
            (1, "127.0.0.1/8", false, false),
            (2, "172.17.0.1/16", true, false),
            (3, "192.0.2.1/24", true, false),
            (4, "169.254.0.1/16", false, false),
            (4, "203.0.113.1/24", true, false),
            (4, "198.51.100.1/24", true, false),
            (4, "198.51.100.2/24", true, true),
            (5, "10.0.0.1/24", true, false),
            (6, "10.0.1.1/24", true, false),
        ];
        let default = Route {
            dst: "0.0.0.0/0".parse().unwrap(),
            gateway: Some("198.51.100.254".parse().unwrap()),
            ifindex: Some(4),
        };
        Interfaces { links, addresses: addresses.into_iter().map(address).collect(), routes: vec![default] }
    }
}
