//! What the maps should hold, given the agent's state and the facts of the host. Pure: no I/O.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use netpath_common::{Addr4, Endpoint, External, Network, PortRange, network_flag};

use crate::counters;
use crate::desired_ports::{self, Gateway, HostAddrs};
use crate::reconcile::{FamilyImage, Image};
use crate::state;

/// Index of the one bridge network.
pub const NETWORK: u32 = 1;

/// What the kernel says about the interfaces of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    pub bridge: BridgeFacts,
    /// The one with the default route first.
    pub externals: Vec<ExternalFacts>,
    /// Every address of the host but 127.0.0.0/8, the bridges' included.
    pub local_addrs: Vec<Ipv4Addr>,
    /// The same of IPv6, without ::1 and link-local ones.
    pub local_addrs6: Vec<Ipv6Addr>,
    /// Ports that the kernel gives to sockets that ask for none.
    pub ephemeral: PortRange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeFacts {
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// The bridge's address and the network's prefix.
    pub addr: Ipv4Net,
    /// Largest L3 packet in bytes that every interface of the network takes.
    pub mtu: u32,
}

/// An interface that leads to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalFacts {
    pub ifindex: u32,
    pub ifname: String,
    pub mtu: u32,
    /// The address that masquerade uses comes first.
    pub addrs: Vec<Ipv4Addr>,
    /// As `addrs`.
    pub addrs6: Vec<Ipv6Addr>,
}

/// What the network allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub icc: bool,
    pub masquerade: bool,
}

/// Everything that the maps should hold.
pub fn desired(endpoints: &BTreeMap<u32, state::Endpoint>, host: &HostFacts, policy: Policy) -> Image {
    let mut image = network_image(host, policy);
    for (index, endpoint) in endpoints {
        image.extend(endpoint_image(*index, endpoint, host));
    }
    image
}

/// What the maps should hold about the network and the interfaces of the host.
pub fn network_image(host: &HostFacts, policy: Policy) -> Image {
    let mut network = Network::EMPTY;
    network.flags = network_flag::EXISTS
        | if policy.icc { network_flag::ICC } else { 0 }
        | if policy.masquerade { network_flag::MASQUERADE4 } else { 0 };
    network.ifindex = host.bridge.ifindex;
    network.mtu = host.bridge.mtu;
    network.counter = counters::NETWORK;
    network.mac = host.bridge.mac;
    let subnet = host.bridge.addr.trunc();
    network.prefix4 = subnet.network().into();
    network.mask4 = subnet.netmask().into();
    let external = |facts: &ExternalFacts| {
        let addr4 = facts.addrs.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED).into();
        let addr6 = facts.addrs6.first().copied().unwrap_or(Ipv6Addr::UNSPECIFIED).into();
        (facts.ifindex, External { addr4, addr6 })
    };
    Image {
        networks: BTreeMap::from([(NETWORK, network)]),
        v4: FamilyImage {
            prefixes: BTreeMap::from([((Addr4::from(subnet.network()), subnet.prefix_len()), NETWORK)]),
            ..FamilyImage::default()
        },
        externals: host.externals.iter().map(external).collect(),
        ..Image::default()
    }
}

/// What the maps should hold about one endpoint and its published ports.
pub fn endpoint_image(index: u32, endpoint: &state::Endpoint, host: &HostFacts) -> Image {
    let mut entry = Endpoint::EMPTY;
    entry.generation = endpoint.generation;
    entry.ifindex = endpoint.ifindex;
    entry.network = NETWORK;
    entry.counter = endpoint.counter;
    entry.addr4 = endpoint.addr.into();
    entry.mac = endpoint.mac.0;

    let mut image = Image {
        endpoints: BTreeMap::from([(index, entry)]),
        v4: FamilyImage { addresses: BTreeMap::from([(endpoint.addr.into(), index)]), ..FamilyImage::default() },
        ..Image::default()
    };
    let target = desired_ports::Target {
        index,
        generation: endpoint.generation,
        addr: endpoint.addr.into(),
        gateway: Gateway::Nat,
    };
    desired_ports::publish(target, &endpoint.ports, &host.addrs4(), &mut image.v4);
    image
}

impl HostFacts {
    fn addrs4(&self) -> HostAddrs<Addr4> {
        let addrs = |addrs: &[Ipv4Addr]| addrs.iter().copied().map(Addr4::from).collect();
        HostAddrs {
            local: addrs(&self.local_addrs),
            external: self.externals.iter().flat_map(|external| addrs(&external.addrs)).collect::<Vec<_>>(),
            bridges: vec![self.bridge.addr.addr().into()],
            ephemeral: self.ephemeral,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::Netns;
    use crate::port_spec::Proto;
    use crate::reconcile::diff;
    use crate::state::{Mac, PortBinding};

    const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
    const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
    const ETH0: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ETH1: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    #[test]
    fn policy_becomes_flags() {
        let flags = |icc, masquerade| network_image(&host(&[]), Policy { icc, masquerade }).networks[&NETWORK].flags;
        assert_eq!(flags(false, false), network_flag::EXISTS);
        assert_eq!(flags(true, false), network_flag::EXISTS | network_flag::ICC);
        assert_eq!(flags(false, true), network_flag::EXISTS | network_flag::MASQUERADE4);
    }

    proptest! {
        #[test]
        fn one_endpoints_change_is_the_whole_images_change(
            before in prop::collection::vec((0usize..3, 1u16..9, 1u16..5), 0..6),
            after in prop::collection::vec((0usize..3, 1u16..9, 1u16..5), 0..6),
        ) {
            let addrs = [Ipv4Addr::UNSPECIFIED, ETH0, ETH1];
            let endpoint = |ports: &[(usize, u16, u16)]| {
                endpoint(&ports.iter().map(|(a, h, c)| (addrs[*a], *h, *c)).collect::<Vec<_>>())
            };
            let (before, after, host) = (endpoint(&before), endpoint(&after), host(&[ETH0, ETH1]));
            let policy = Policy { icc: true, masquerade: true };
            let whole = |e: &state::Endpoint| desired(&BTreeMap::from([(1, e.clone())]), &host, policy);
            let part = |e: &state::Endpoint| endpoint_image(1, e, &host);
            prop_assert_eq!(diff(&part(&after), &part(&before)), diff(&whole(&after), &whole(&before)));
        }
    }

    fn host(externals: &[Ipv4Addr]) -> HostFacts {
        let external = |(i, addr): (usize, &Ipv4Addr)| ExternalFacts {
            ifindex: 10 + i as u32,
            ifname: format!("eth{i}"),
            mtu: 1500,
            addrs: vec![*addr],
            addrs6: vec![],
        };
        HostFacts {
            bridge: BridgeFacts { ifindex: 2, mac: [2; 6], addr: Ipv4Net::new_assert(BRIDGE, 16), mtu: 1500 },
            externals: externals.iter().enumerate().map(external).collect(),
            local_addrs6: vec![],
            local_addrs: externals.iter().copied().chain([BRIDGE]).collect(),
            ephemeral: PortRange { first: 32768, last: 60999 },
        }
    }

    fn endpoint(ports: &[(Ipv4Addr, u16, u16)]) -> state::Endpoint {
        let binding = |(i, (host_addr, host_port, container_port)): (usize, &(Ipv4Addr, u16, u16))| PortBinding {
            host_addr: (*host_addr).into(),
            host_port: *host_port,
            container_port: *container_port,
            count: 1,
            proto: Proto::Tcp,
            counter: 3 + i as u32,
            from: vec![],
        };
        state::Endpoint {
            name: "web".to_owned(),
            generation: 5,
            counter: 1,
            ifname: "veth0".to_owned(),
            ifindex: 7,
            addr: CONTAINER,
            mac: Mac([2; 6]),
            mtu: 1500,
            netns: Netns::Pid(1),
            hostname: None,
            command: vec![],
            created: 0,
            ports: ports.iter().enumerate().map(binding).collect(),
        }
    }
}
