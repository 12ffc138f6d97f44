//! What the maps should hold, given the agent's state and the facts of the host. Pure: no I/O. What published
//! ports give is `desired_ports`' business.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpath_common::{
    Addr4, Addr6, Address, Endpoint, External, Link, LinkKey, Network, PortRange, TrustedKey, endpoint_flag,
    network_flag,
};

use crate::api::{GatewayMode, Owner, Subnet};
use crate::desired_ports::{self, Gateway, HostAddrs, Target};
use crate::exposed;
use crate::externals::smallest_mtu;
use crate::reconcile::{FamilyImage, Image};
use crate::state::{self, Container, State};

/// What the kernel says about the interfaces of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Network index to its bridge.
    pub bridges: BTreeMap<u32, BridgeFacts>,
    /// The one with the default route first.
    pub externals: Vec<ExternalFacts>,
    /// Every address of the host but 127.0.0.0/8, the bridges' included.
    pub local_addrs: Vec<Ipv4Addr>,
    /// The same of IPv6, without ::1 and link-local ones.
    pub local_addrs6: Vec<Ipv6Addr>,
    /// Ports that the kernel gives to sockets that ask for none.
    pub ephemeral: PortRange,
    /// Interfaces from which containers may be reached directly, and the networks they may reach.
    pub trusted: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeFacts {
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Largest L3 packet in bytes that every interface of the network takes.
    pub mtu: u32,
}

/// An interface that leads to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalFacts {
    pub ifindex: u32,
    pub ifname: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// The address that masquerade uses comes first.
    pub addrs: Vec<Ipv4Addr>,
    /// As `addrs`.
    pub addrs6: Vec<Ipv6Addr>,
}

/// Everything that the maps should hold.
pub fn desired(state: &State, host: &HostFacts) -> Image {
    let mut image = host_image(host);
    for (index, network) in &state.networks {
        image.extend(network_image(*index, network, host));
    }
    let host = HostView::new(state, host);
    let endpoints = state.endpoints_by_container();
    for (name, container) in &state.containers {
        let endpoints = endpoints.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        image.extend(connected_image(container, endpoints, state, &host));
    }
    image.links = links(state, |_, _| true);
    image
}

/// What the maps should hold that a change of the container can change, links of others to it among it.
pub fn part(container: &str, state: &State, host: &HostFacts) -> Image {
    let mut image = container_image(container, state, &HostView::new(state, host));
    // All links of one container, for two of them may lead to the same ports: of containers that share a namespace.
    let leads_here = |link: &state::Link| state.way_home(&link.target).any(|name| name == container);
    image.links = links(state, |name, holder| name == container || holder.links.iter().any(leads_here));
    image
}

fn host_image(host: &HostFacts) -> Image {
    let external = |facts: &ExternalFacts| {
        let addr4 = facts.addrs.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED).into();
        let addr6 = facts.addrs6.first().copied().unwrap_or(Ipv6Addr::UNSPECIFIED).into();
        (facts.ifindex, External { addr4, addr6, mac: facts.mac, _pad: [0; 2] })
    };
    Image {
        externals: host.externals.iter().map(external).collect(),
        trusted: host.trusted.iter().map(|(ifindex, network)| (TrustedKey::new(*ifindex, *network), 1)).collect(),
        ..Image::default()
    }
}

/// What the maps should hold about a network; nothing while its bridge is gone.
fn network_image(index: u32, network: &state::Network, host: &HostFacts) -> Image {
    let mut image = Image::default();
    let (ifindex, mtu) = match (&network.bridge, host.bridges.get(&index)) {
        (Some(_), Some(bridge)) => (bridge.ifindex, bridge.mtu),
        (Some(_), None) => return image,
        (None, _) => (0, network.mtu.unwrap_or_else(|| smallest_mtu(&host.externals))),
    };
    let mut entry = Network::EMPTY;
    let is_trusted = host.trusted.iter().any(|(_, trusting)| *trusting == index);
    entry.flags = flags(network) | if is_trusted { network_flag::TRUSTED } else { 0 };
    entry.ifindex = ifindex;
    entry.mtu = mtu;
    entry.counter = network.counter;
    if let Some((addr, mask, len)) = network.v4.as_ref().and_then(prefix::<Addr4>) {
        (entry.prefix4, entry.mask4) = (addr, mask);
        entry.gateway4 = network.v4.as_ref().and_then(gateway).unwrap_or_default();
        image.v4.prefixes.extend(network.bridge.is_some().then_some(((addr, len), index)));
    }
    if let Some((addr, mask, len)) = network.v6.as_ref().and_then(prefix::<Addr6>) {
        (entry.prefix6, entry.mask6) = (addr, mask);
        entry.gateway6 = network.v6.as_ref().and_then(gateway).unwrap_or_default();
        image.v6.prefixes.extend(network.bridge.is_some().then_some(((addr, len), index)));
    }
    image.networks.insert(index, entry);
    image.gateways.extend(network.bridge.is_some().then_some((ifindex, index)));
    image
}

fn flags(network: &state::Network) -> u32 {
    let translated = |mode| network.masquerade && !network.internal && mode != GatewayMode::Routed;
    [
        (true, network_flag::EXISTS),
        (network.icc, network_flag::ICC),
        (network.internal, network_flag::INTERNAL),
        (!network.shortcuts, network_flag::NO_SHORTCUTS),
        (translated(network.mode4), network_flag::MASQUERADE4),
        (translated(network.mode6), network_flag::MASQUERADE6),
        (network.mode4 == GatewayMode::Routed, network_flag::ROUTED4),
        (network.mode6 == GatewayMode::Routed, network_flag::ROUTED6),
        (network.mode4 == GatewayMode::NatUnprotected, network_flag::UNPROTECTED4),
        (network.mode6 == GatewayMode::NatUnprotected, network_flag::UNPROTECTED6),
    ]
    .iter()
    .fold(0, |flags, (is_set, flag)| if *is_set { flags | flag } else { flags })
}

/// Address, mask and length of a subnet's prefix.
fn prefix<A: TryFrom<IpAddr>>(subnet: &Subnet) -> Option<(A, A, u8)> {
    let net = subnet.subnet;
    Some((A::try_from(net.network()).ok()?, A::try_from(net.netmask()).ok()?, net.prefix_len()))
}

/// The bridge's own address in a subnet.
fn gateway<A: TryFrom<IpAddr>>(subnet: &Subnet) -> Option<A> {
    subnet.bridge.and_then(|addr| addr.try_into().ok())
}

/// What of the host matters to a container: its addresses as published ports need them, of both families, and the
/// bridges.
struct HostView<'a> {
    /// Network index to its bridge.
    bridges: &'a BTreeMap<u32, BridgeFacts>,
    v4: HostAddrs<Addr4>,
    v6: HostAddrs<Addr6>,
}

impl<'a> HostView<'a> {
    fn new(state: &State, host: &'a HostFacts) -> Self {
        let bridges = || state.networks.values().flat_map(|network| [&network.v4, &network.v6]);
        let bridges = || bridges().flatten().filter_map(|subnet| subnet.bridge);
        let externals = &host.externals;
        Self {
            bridges: &host.bridges,
            v4: HostAddrs {
                local: host.local_addrs.iter().copied().map(Addr4::from).collect(),
                external: externals.iter().flat_map(|e| &e.addrs).copied().map(Addr4::from).collect(),
                bridges: bridges().filter_map(|addr| Addr4::try_from(addr).ok()).collect(),
                ephemeral: host.ephemeral,
            },
            v6: HostAddrs {
                local: host.local_addrs6.iter().copied().map(Addr6::from).collect(),
                external: externals.iter().flat_map(|e| &e.addrs6).copied().map(Addr6::from).collect(),
                bridges: bridges().filter_map(|addr| Addr6::try_from(addr).ok()).collect(),
                ephemeral: host.ephemeral,
            },
        }
    }
}

/// What the maps should hold about a container: its endpoints and published ports.
fn container_image(name: &str, state: &State, host: &HostView<'_>) -> Image {
    match state.containers.get(name) {
        Some(container) => connected_image(container, &state.endpoints_of(name), state, host),
        None => Image::default(),
    }
}

fn connected_image(
    container: &Container,
    endpoints: &[(u32, &state::Endpoint)],
    state: &State,
    host: &HostView<'_>,
) -> Image {
    let mut image = Image::default();
    for (index, endpoint) in endpoints {
        image.extend(endpoint_image(*index, endpoint, container.no_icc, host));
    }
    publish(container, state, endpoints, |e| e.addr.map(Addr4::from), |n| n.mode4, &host.v4, &mut image.v4);
    publish(container, state, endpoints, |e| e.addr6.map(Addr6::from), |n| n.mode6, &host.v6, &mut image.v6);
    image
}

/// What the maps should hold about an endpoint but its published ports.
fn endpoint_image(index: u32, endpoint: &state::Endpoint, no_icc: bool, host: &HostView<'_>) -> Image {
    let mut entry = Endpoint::EMPTY;
    entry.generation = endpoint.generation;
    entry.ifindex = endpoint.ifindex;
    entry.network = endpoint.network;
    entry.counter = endpoint.counter;
    entry.mac = endpoint.mac.0;
    let flags = [(endpoint.takes_xdp, endpoint_flag::XDP), (no_icc, endpoint_flag::NO_ICC)];
    entry.flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |flags, (_, flag)| flags | flag);
    let mut image = Image::default();
    let bridge = host.bridges.get(&endpoint.network).map(|bridge| (bridge.ifindex, bridge.mac));
    (entry.gateway_ifindex, entry.gateway_mac) = match endpoint.host_mac {
        Some(mac) => (endpoint.ifindex, mac.0),
        None => bridge.unwrap_or_default(),
    };
    if endpoint.host_mac.is_some() {
        image.gateways.insert(endpoint.ifindex, endpoint.network);
        // Others in its subnet may be on other hosts, or nobody's that is served.
        image.v4.prefixes.extend(endpoint.addr.map(|addr| ((addr.into(), 32), endpoint.network)));
        image.v6.prefixes.extend(endpoint.addr6.map(|addr| ((addr.into(), 128), endpoint.network)));
    }
    if let Some(addr) = endpoint.addr {
        entry.addr4 = addr.into();
        image.v4.addresses.insert(addr.into(), index);
    }
    if let Some(addr) = endpoint.addr6 {
        entry.addr6 = addr.into();
        image.v6.addresses.insert(addr.into(), index);
        image.v6.addresses.insert(link_local(endpoint.mac.0).into(), index);
    }
    image.endpoints.insert(index, entry);
    image
}

/// The address that the kernel gives an interface by itself (RFC 4291, appendix A).
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f))
}

/// Publishes the container's ports at the endpoint that they lead to in one family: the first whose network
/// has an outside.
fn publish<A: Address + Ord + TryFrom<IpAddr>>(
    container: &Container,
    state: &State,
    endpoints: &[(u32, &state::Endpoint)],
    addr: fn(&state::Endpoint) -> Option<A>,
    mode: fn(&state::Network) -> GatewayMode,
    host: &HostAddrs<A>,
    image: &mut FamilyImage<A>,
) {
    let target = endpoints.iter().find_map(|(index, endpoint)| {
        let network = state.networks.get(&endpoint.network).filter(|network| !network.internal)?;
        let gateway = if mode(network) == GatewayMode::Routed { Gateway::Routed } else { Gateway::Nat };
        let (generation, addr) = (endpoint.generation, addr(endpoint)?);
        let kept_elsewhere = container.keeps_ports || network.owner == Owner::Docker;
        Some(Target { index: *index, generation, addr, gateway, kept_elsewhere })
    });
    if let Some(target) = target {
        desired_ports::publish(target, &container.ports, host, image);
    }
}

/// The exposed ports that linked containers may use: each end's interfaces that share a network. Only links of those
/// containers count that are meant.
fn links(state: &State, is_meant: impl Fn(&str, &Container) -> bool) -> BTreeMap<LinkKey, Link> {
    let mut links = BTreeMap::new();
    for (name, container) in state.containers.iter().filter(|(name, container)| is_meant(name, container)) {
        for link in &container.links {
            let Some(target) = state.containers.get(&link.target) else { continue };
            let ports = exposed::ports(target);
            for (_, from) in state.endpoints_of(name) {
                for (_, to) in state.endpoints_of(state.home_of(&link.target)) {
                    if from.network == to.network {
                        let key = |(proto, port)| LinkKey::new(from.generation, to.generation, port, proto);
                        links.extend(ports.iter().copied().map(|p| (key(p), Link { counter: link.counter })));
                    }
                }
            }
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use netpath_common::proto;
    use proptest::prelude::*;

    use super::*;
    use crate::port_spec::Proto;
    use crate::reconcile::diff;
    use crate::record::Record;
    use crate::state::PortBinding;
    use crate::state::samples;

    const ETH0: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ETH1: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    #[test]
    fn policy_becomes_flags() {
        let of = |change: fn(&mut state::Network)| {
            let mut network = samples::network("bridge");
            change(&mut network);
            flags(&network) & !network_flag::EXISTS
        };
        let both = network_flag::MASQUERADE4 | network_flag::MASQUERADE6;
        assert_eq!(of(|_| {}), network_flag::ICC | both);
        assert_eq!(of(|n| n.icc = false), both);
        assert_eq!(of(|n| n.masquerade = false), network_flag::ICC);
        assert_eq!(of(|n| n.internal = true), network_flag::ICC | network_flag::INTERNAL);
        let routed6 = network_flag::ICC | network_flag::MASQUERADE4 | network_flag::ROUTED6;
        assert_eq!(of(|n| n.mode6 = GatewayMode::Routed), routed6);
        assert_eq!(
            of(|n| n.mode4 = GatewayMode::NatUnprotected),
            network_flag::ICC | both | network_flag::UNPROTECTED4
        );
    }

    #[test]
    fn a_network_whose_bridge_is_gone_gives_nothing() {
        let image = desired(&state(&[]), &HostFacts { bridges: BTreeMap::new(), ..host(&[]) });
        assert_eq!((image.networks.len(), image.v4.prefixes.len()), (0, 0));
    }

    #[test]
    fn a_dual_stack_endpoint_is_known_by_three_addresses() {
        let mut state = state(&[]);
        let endpoint = state.endpoints.get_mut(&1).unwrap();
        endpoint.addr6 = Some("fd00::2".parse().unwrap());
        endpoint.mac = state::Mac([0x02, 0x42, 0xac, 0x11, 0, 2]);
        let image = desired(&state, &host(&[ETH0]));
        let addrs: Vec<_> = image.v6.addresses.keys().map(|addr| addr.to_ip().to_string()).collect();
        assert_eq!(addrs, ["fd00::2", "fe80::42:acff:fe11:2"]);
        assert_eq!(image.v4.addresses.len(), 1);
    }

    #[test]
    fn an_endpoint_that_takes_redirected_frames_says_so() {
        let mut state = state(&[]);
        let flags = |state: &State| desired(state, &host(&[ETH0])).endpoints[&1].flags;
        assert_eq!(flags(&state), 0);
        state.endpoints.get_mut(&1).unwrap().takes_xdp = true;
        assert_eq!(flags(&state), endpoint_flag::XDP);
    }

    #[test]
    fn ports_lead_to_the_first_endpoint_that_has_an_outside() {
        let mut state = state(&[(ETH0, 8080, 80)]);
        state.networks.insert(2, state::Network { internal: true, ..samples::network("inside") });
        let inside = state::Endpoint { network: 2, generation: 1, ..samples::endpoint("web") };
        state.endpoints.get_mut(&1).unwrap().generation = 2;
        state.endpoints.insert(2, inside);
        let image = desired(&state, &host(&[ETH0]));
        assert_eq!(image.v4.published.values().map(|target| target.endpoint).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_link_opens_exposed_and_published_ports_to_the_other_end_only() {
        let mut state = state(&[(ETH0, 8080, 80)]);
        state.containers.get_mut("web").unwrap().expose = vec!["53/udp".to_owned()];
        let link = state::Link { target: "web".to_owned(), alias: "w".to_owned(), counter: 9 };
        state.containers.insert("app".to_owned(), Container { links: vec![link], ..samples::container() });
        state.endpoints.insert(2, state::Endpoint { generation: 7, ..samples::endpoint("app") });
        let keys: Vec<_> = links(&state, |_, _| true).into_keys().collect();
        assert_eq!(keys, [LinkKey::new(7, 1, 53, proto::UDP), LinkKey::new(7, 1, 80, proto::TCP)]);
        state.endpoints.get_mut(&2).unwrap().network = 2;
        assert!(links(&state, |_, _| true).is_empty(), "they share no network");
    }

    proptest! {
        #[test]
        fn one_containers_change_is_the_whole_images_change(
            before in prop::collection::btree_map((1u16..9, 0usize..3), 1u16..5, 0..6),
            after in prop::collection::btree_map((1u16..9, 0usize..3), 1u16..5, 0..6),
        ) {
            let addrs = [Ipv4Addr::UNSPECIFIED, ETH0, ETH1];
            let state = |ports: &BTreeMap<(u16, usize), u16>| {
                state(&ports.iter().map(|((h, a), c)| (addrs[*a], *h, *c)).collect::<Vec<_>>())
            };
            let (before, after, host) = (state(&before), state(&after), host(&[ETH0, ETH1]));
            let part = |state: &State| part("web", state, &host);
            let whole = |state: &State| desired(state, &host);
            prop_assert_eq!(diff(&part(&after), &part(&before)), diff(&whole(&after), &whole(&before)));
        }

        #[test]
        fn one_of_many_changes_its_part_of_the_whole_image(
            before in many(),
            after in many(),
            name in prop::sample::select(&NAMES[..]),
        ) {
            let (host, mut changed) = (host(&[ETH0]), before.clone());
            Record::of(name, &after).apply(&mut changed);
            let part = |state: &State| part(name, state, &host);
            let whole = |state: &State| desired(state, &host);
            prop_assert_eq!(diff(&part(&changed), &part(&before)), diff(&whole(&changed), &whole(&before)));
        }
    }

    const NAMES: [&str; 4] = ["app", "db", "side", "web"];

    prop_compose! {
        /// A state that says something of the container with this number in `NAMES`, or nothing.
        fn one(number: u32)(
            exists in any::<bool>(),
            is_connected in any::<bool>(),
            linked in prop::collection::btree_set(prop::sample::select(&NAMES[..]), 0..3),
            // A container joins one that is there already, so nobody joins himself by way of others.
            joined in prop::option::of(prop::sample::select(&NAMES[..number.max(1) as usize])),
            exposed in prop::option::of(50u16..53),
            port in prop::option::of(80u16..83),
        ) -> State {
            let mut state = state(&[]);
            (state.containers, state.endpoints) = (BTreeMap::new(), BTreeMap::new());
            let name = NAMES[number as usize];
            let counter = 10 * number + 10;
            let link = |target: &str| state::Link { target: target.to_owned(), alias: target.to_owned(), counter };
            let binding = |container_port| PortBinding {
                host_addr: Ipv4Addr::UNSPECIFIED.into(),
                host_port: 8000 + number as u16,
                container_port,
                count: 1,
                proto: Proto::Tcp,
                counter,
                from: vec![],
            };
            let container = Container {
                network_mode: joined.filter(|joined| *joined != name).map_or("bridge".to_owned(), |name| format!("container:{name}")),
                links: linked.into_iter().map(link).collect(),
                expose: exposed.map(|port| format!("{port}/udp")).into_iter().collect(),
                ports: port.map(binding).into_iter().collect(),
                ..samples::container()
            };
            state.containers.extend(exists.then(|| (name.to_owned(), container)));
            let addr = Some(Ipv4Addr::new(172, 17, 0, number as u8 + 2));
            let endpoint = state::Endpoint { generation: number + 1, addr, ..samples::endpoint(name) };
            state.endpoints.extend(is_connected.then_some((number + 1, endpoint)));
            state
        }
    }

    prop_compose! {
        fn many()(app in one(0), db in one(1), side in one(2), web in one(3)) -> State {
            let mut state = app;
            for (name, other) in NAMES.into_iter().zip([&state.clone(), &db, &side, &web]) {
                Record::of(name, other).apply(&mut state);
            }
            state
        }
    }

    fn host(externals: &[Ipv4Addr]) -> HostFacts {
        let external = |(i, addr): (usize, &Ipv4Addr)| ExternalFacts {
            ifindex: 10 + i as u32,
            ifname: format!("eth{i}"),
            mac: [0; 6],
            mtu: 1500,
            addrs: vec![*addr],
            addrs6: vec![],
        };
        HostFacts {
            bridges: BTreeMap::from([(1, BridgeFacts { ifindex: 2, mac: [2; 6], mtu: 1500 })]),
            externals: externals.iter().enumerate().map(external).collect(),
            local_addrs: externals.iter().copied().chain([Ipv4Addr::new(172, 17, 0, 1)]).collect(),
            local_addrs6: vec![],
            ephemeral: PortRange { first: 32768, last: 60999 },
            trusted: vec![],
        }
    }

    /// One container, `web`, that publishes `ports`.
    fn state(ports: &[(Ipv4Addr, u16, u16)]) -> State {
        let binding = |(i, (host_addr, host_port, container_port)): (usize, &(Ipv4Addr, u16, u16))| PortBinding {
            host_addr: (*host_addr).into(),
            host_port: *host_port,
            container_port: *container_port,
            count: 1,
            proto: Proto::Tcp,
            counter: 5 + i as u32,
            from: vec![],
        };
        let mut state = State::new(String::new());
        state.networks.insert(1, samples::network("bridge"));
        let container = Container { ports: ports.iter().enumerate().map(binding).collect(), ..samples::container() };
        state.containers.insert("web".to_owned(), container);
        state.endpoints.insert(1, samples::endpoint("web"));
        state
    }
}
