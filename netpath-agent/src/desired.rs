//! What the maps should hold, given the agent's state and the facts of the host. Pure: no I/O.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use netpath_common::{
    Addr4, Endpoint, External, Network, PortKey, PortSource, PortTarget, network_flag, proto, source_flag, target_flag,
};

use crate::counters;
use crate::port_spec::Proto;
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
    for (inside, names) in names(endpoint, host) {
        let source = source(&names, host);
        for name in names {
            let key = PortKey::new(name.addr.into(), name.port, inside.proto);
            let flags = name.flags(source.as_ref(), host);
            image
                .v4
                .published
                .insert(key, PortTarget::new(index, endpoint.generation, inside.port, flags, name.counter));
        }
        if let Some(source) = source {
            image.v4.sources.insert(inside, source);
        }
    }
    image
}

/// One name of a container port: a host address and port.
#[derive(Clone, Copy)]
struct Name {
    addr: Ipv4Addr,
    port: u16,
    counter: u32,
}

impl Name {
    /// Bits of `target_flag`, where replies are called `source`.
    fn flags(&self, source: Option<&PortSource<Addr4>>, host: &HostFacts) -> u16 {
        let Some(source) = source else { return target_flag::INSIDE_ONLY };
        if !self.is_outside(host) {
            target_flag::INSIDE_ONLY
        } else if (Addr4::from(self.addr), self.port) != (source.addr, source.port) {
            target_flag::NEEDS_FLOW
        } else if source.flags & source_flag::AMBIGUOUS != 0 {
            target_flag::ENDS_FLOW
        } else {
            0
        }
    }

    /// Whether clients outside may use it. The bridge's address is for containers only.
    fn is_outside(&self, host: &HostFacts) -> bool {
        self.addr != host.bridge.addr.addr()
    }

    /// The lower, the better as the source of replies: the externals in order, other local addresses;
    /// then the lower port.
    fn rank(&self, host: &HostFacts) -> (usize, u16) {
        let mut externals = host.externals.iter().flat_map(|external| &external.addrs);
        (externals.position(|addr| *addr == self.addr).unwrap_or(usize::MAX), self.port)
    }
}

/// The published container ports and all their names; none without a name.
fn names(endpoint: &state::Endpoint, host: &HostFacts) -> BTreeMap<PortKey<Addr4>, Vec<Name>> {
    let mut names: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for binding in &endpoint.ports {
        let Some(proto) = proto_number(binding.proto) else { continue };
        let inside = PortKey::new(endpoint.addr.into(), binding.container_port, proto);
        for addr in expand(binding.host_addr, host) {
            let name = Name { addr, port: binding.host_port, counter: binding.counter };
            names.entry(inside).or_default().push(name);
        }
    }
    names
}

/// The name that replies get, unless their client's flow has another; `None` if there is none outside.
fn source(names: &[Name], host: &HostFacts) -> Option<PortSource<Addr4>> {
    let outside = || names.iter().filter(|name| name.is_outside(host));
    let flags = if outside().count() > 1 { source_flag::AMBIGUOUS } else { 0 };
    let canonical = outside().min_by_key(|name| name.rank(host))?;
    Some(PortSource::new(canonical.addr.into(), canonical.port, flags, canonical.counter))
}

/// The local addresses that a binding to `addr` stands for, the preferred one first. 127.0.0.0/8 does
/// not arrive from any interface, and what is not local is not ours.
fn expand(addr: Ipv4Addr, host: &HostFacts) -> impl Iterator<Item = Ipv4Addr> {
    let wanted = move |local: &&Ipv4Addr| addr.is_unspecified() || **local == addr;
    host.local_addrs.iter().filter(wanted).filter(|local| !local.is_loopback()).copied()
}

/// The protocol's number; `None` for one that the data plane does not translate.
pub fn proto_number(proto: Proto) -> Option<u8> {
    match proto {
        Proto::Tcp => Some(proto::TCP),
        Proto::Udp => Some(proto::UDP),
        Proto::Sctp => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::Netns;
    use crate::reconcile::diff;
    use crate::state::{Mac, PortBinding};

    const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
    const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
    const ETH0: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ETH1: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    #[test]
    fn a_wildcard_binding_is_every_local_address_and_no_other() {
        let image = endpoint_image(1, &endpoint(&[(Ipv4Addr::UNSPECIFIED, 8080, 80)]), &host(&[ETH0]));
        let keys: Vec<_> = image.v4.published.keys().map(|k| (Ipv4Addr::from(k.addr), k.port)).collect();
        assert_eq!(keys, [(BRIDGE, 8080), (ETH0, 8080)]);
    }

    #[test]
    fn one_outside_name_is_unambiguous_though_the_bridge_has_one_too() {
        let image = endpoint_image(1, &endpoint(&[(Ipv4Addr::UNSPECIFIED, 8080, 80)]), &host(&[ETH0]));
        assert_eq!(source_of(&image, 80), (ETH0, 8080, 0));
    }

    #[test]
    fn two_outside_names_are_ambiguous() {
        let wildcard = endpoint_image(1, &endpoint(&[(Ipv4Addr::UNSPECIFIED, 8080, 80)]), &host(&[ETH0, ETH1]));
        assert_eq!(source_of(&wildcard, 80), (ETH0, 8080, source_flag::AMBIGUOUS));
        let flags: Vec<_> = wildcard.v4.published.iter().map(|(k, t)| (Ipv4Addr::from(k.addr), t.flags)).collect();
        let wanted =
            [(BRIDGE, target_flag::INSIDE_ONLY), (ETH0, target_flag::ENDS_FLOW), (ETH1, target_flag::NEEDS_FLOW)];
        assert_eq!(flags, wanted);
        let two_ports = endpoint_image(1, &endpoint(&[(ETH0, 9090, 80), (ETH0, 8080, 80)]), &host(&[ETH0]));
        assert_eq!(source_of(&two_ports, 80), (ETH0, 8080, source_flag::AMBIGUOUS));
        let two_containers_ports = endpoint_image(1, &endpoint(&[(ETH0, 9090, 81), (ETH0, 8080, 80)]), &host(&[ETH0]));
        assert_eq!(source_of(&two_containers_ports, 80), (ETH0, 8080, 0));
    }

    #[test]
    fn a_specific_address_is_published_only_while_it_is_local() {
        let endpoint = endpoint(&[(ETH1, 8080, 80)]);
        assert_eq!(endpoint_image(1, &endpoint, &host(&[ETH0])).v4.published.len(), 0);
        let image = endpoint_image(1, &endpoint, &host(&[ETH0, ETH1]));
        assert_eq!((image.v4.published.len(), source_of(&image, 80)), (1, (ETH1, 8080, 0)));
    }

    #[test]
    fn loopback_and_sctp_bindings_give_no_entry() {
        let mut endpoint = endpoint(&[(Ipv4Addr::LOCALHOST, 8080, 80), (ETH0, 8080, 80)]);
        endpoint.ports[1].proto = Proto::Sctp;
        let image = endpoint_image(1, &endpoint, &host(&[ETH0]));
        assert_eq!((image.v4.published.len(), image.v4.sources.len()), (0, 0));
    }

    #[test]
    fn without_externals_the_port_has_the_bridges_name_only() {
        let image = endpoint_image(1, &endpoint(&[(Ipv4Addr::UNSPECIFIED, 8080, 80)]), &host(&[]));
        let flags: Vec<_> = image.v4.published.values().map(|target| target.flags).collect();
        assert_eq!(flags, [target_flag::INSIDE_ONLY]);
        assert!(image.v4.sources.is_empty(), "a reply would leave with the bridge's address");
    }

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

    fn source_of(image: &Image, port: u16) -> (Ipv4Addr, u16, u16) {
        let source = image.v4.sources[&PortKey::new(CONTAINER.into(), port, proto::TCP)];
        (source.addr.into(), source.port, source.flags)
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
            local_addrs: externals.iter().copied().chain([BRIDGE, Ipv4Addr::LOCALHOST]).collect(),
            local_addrs6: vec![],
        }
    }

    fn endpoint(ports: &[(Ipv4Addr, u16, u16)]) -> state::Endpoint {
        let binding = |(i, (host_addr, host_port, container_port)): (usize, &(Ipv4Addr, u16, u16))| PortBinding {
            host_addr: *host_addr,
            host_port: *host_port,
            container_port: *container_port,
            proto: Proto::Tcp,
            counter: 3 + i as u32,
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
