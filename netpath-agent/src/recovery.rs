//! The state rebuilt from what the kernel still has, for when the file is lost: pinned maps, and the
//! aliases of bridges and veths. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use netpath_common::{self as common, Address as _, endpoint_flag, network_flag, target_flag};

use crate::api::{GatewayMode, Netns, Owner, Subnet};
use crate::bridge;
use crate::desired_ports;
use crate::endpoints::name_in_alias;
use crate::externals::Interfaces;
use crate::netlink::{Address, Link};
use crate::reconcile::{FamilyImage, Image};
use crate::state::{Container, Endpoint, Mac, Network, PortBinding, State};

/// Rebuilds the state of an agent whose default network is behind `bridge`. `generation` is the highest seen in
/// any flow. Lost are namespaces, commands, host names, links, exposed ports and a subnet's range; an address that
/// stood for all is taken for the unspecified one.
pub fn recover(image: &Image, interfaces: &Interfaces, bridge: &str, boot_id: String, generation: u32) -> State {
    let mut state = State::new(boot_id);
    let highest = image.endpoints.values().map(|endpoint| endpoint.generation).fold(generation, u32::max);
    state.next_generation = highest + 1;
    for (index, entry) in &image.networks {
        if let Some(network) = network(*index, entry, interfaces, bridge) {
            state.networks.insert(*index, network);
        }
    }
    let mut interface_counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut entries: Vec<_> = image.endpoints.iter().collect();
    entries.sort_by_key(|(_, entry)| entry.generation);
    for (index, entry) in entries {
        let Some(link) = interfaces.links.iter().find(|link| link.ifindex == entry.ifindex) else { continue };
        let keeps_ports = is_kept_elsewhere(&image.v4, *index) || is_kept_elsewhere(&image.v6, *index);
        if name_in_alias(bridge, link.alias.as_deref().unwrap_or_default()).is_none() {
            // Agents name the interfaces that they make.
            state.networks.entry(entry.network).and_modify(|network| match network.owner {
                _ if keeps_ports => network.owner = Owner::Docker,
                Owner::Netpath => network.owner = Owner::Other,
                Owner::Docker | Owner::Other => {}
            });
        }
        let name = name(link, bridge);
        let container = state.containers.entry(name.clone()).or_insert_with(container);
        container.ports.extend(ports(image, *index));
        container.keeps_ports |= keeps_ports;
        container.no_icc |= entry.has(endpoint_flag::NO_ICC);
        let count = interface_counts.entry(name.clone()).or_default();
        let interface = format!("eth{count}");
        *count += 1;
        state.endpoints.insert(*index, endpoint(name, interface, entry, link));
    }
    state
}

fn container() -> Container {
    Container {
        network_mode: crate::network_mode::DEFAULT_NETWORK.to_owned(),
        netns: Netns::Path(PathBuf::from("unknown")),
        hostname: None,
        command: Vec::new(),
        created: 0,
        start_ticks: None,
        netns_id: None,
        ports: Vec::new(),
        expose: Vec::new(),
        links: Vec::new(),
        env: Vec::new(),
        names: None,
        docker_id: None,
        keeps_ports: false,
        no_icc: false,
    }
}

fn endpoint(container: String, interface: String, entry: &common::Endpoint, link: &Link) -> Endpoint {
    Endpoint {
        container,
        network: entry.network,
        generation: entry.generation,
        counter: entry.counter,
        ifname: link.ifname.clone(),
        ifindex: link.ifindex,
        interface,
        addr: is_set(entry.addr4.to_ip()).then(|| Ipv4Addr::from(entry.addr4)),
        addr6: is_set(entry.addr6.to_ip()).then(|| Ipv6Addr::from(entry.addr6)),
        mac: Mac(entry.mac),
        mtu: link.mtu,
        host_mac: (entry.gateway_ifindex == entry.ifindex).then_some(Mac(entry.gateway_mac)),
        cni: None,
        takes_xdp: false,
    }
}

/// A network that the maps know, if its bridge is still there or it has none.
fn network(index: u32, entry: &common::Network, interfaces: &Interfaces, default: &str) -> Option<Network> {
    let link = match entry.ifindex {
        0 => None,
        ifindex => Some(interfaces.links.iter().find(|link| link.ifindex == ifindex)?),
    };
    let known = link.and_then(|link| link.alias.as_deref()).and_then(bridge::name_in_alias);
    let is_default = link.is_some_and(|link| link.ifname == default);
    if index == crate::agent::DEFAULT_NETWORK_INDEX && !is_default {
        return None;
    }
    let internal = entry.has(network_flag::INTERNAL);
    let subnet = |net: IpNet, known: IpAddr| {
        let is_its = |address: &&Address| Some(address.ifindex) == link.map(|link| link.ifindex);
        let address = interfaces.addresses.iter().filter(is_its).find(|address| address.net.trunc() == net);
        let bridge = match link {
            Some(_) => address.map(|address| address.net.addr()),
            None => Some(known).filter(|addr| !addr.is_unspecified()),
        };
        Subnet { subnet: net, ip_range: None, bridge, gateway: bridge.filter(|_| !internal) }
    };
    let mode = |routed, unprotected| match (entry.has(routed), entry.has(unprotected)) {
        (true, _) => GatewayMode::Routed,
        (_, true) => GatewayMode::NatUnprotected,
        _ => GatewayMode::Nat,
    };
    let name = match link {
        Some(_) if is_default => crate::network_mode::DEFAULT_NETWORK.to_owned(),
        Some(link) => known.unwrap_or(&link.ifname).to_owned(),
        None => format!("network-{index}"),
    };
    let net = |prefix: IpAddr, mask| is_set(prefix).then(|| IpNet::with_netmask(prefix, mask).ok()).flatten();
    let net4 = net(entry.prefix4.to_ip(), entry.mask4.to_ip());
    let net6 = net(entry.prefix6.to_ip(), entry.mask6.to_ip());
    Some(Network {
        name,
        counter: entry.counter,
        bridge: link.map(|link| link.ifname.clone()),
        created: known.is_some(),
        owner: if link.is_some() { Owner::Netpath } else { Owner::Other },
        v4: net4.map(|net| subnet(net, entry.gateway4.to_ip())),
        v6: net6.map(|net| subnet(net, entry.gateway6.to_ip())),
        icc: entry.has(network_flag::ICC),
        internal,
        masquerade: entry.has(network_flag::MASQUERADE4 | network_flag::MASQUERADE6),
        mtu: link.is_none().then_some(entry.mtu),
        mode4: mode(network_flag::ROUTED4, network_flag::UNPROTECTED4),
        mode6: mode(network_flag::ROUTED6, network_flag::UNPROTECTED6),
        trusted: Vec::new(),
        binding_addr: None,
        shortcuts: !entry.has(network_flag::NO_SHORTCUTS),
    })
}

fn is_set(addr: IpAddr) -> bool {
    !addr.is_unspecified()
}

fn name(link: &Link, bridge: &str) -> String {
    let known = link.alias.as_deref().and_then(|alias| name_in_alias(bridge, alias));
    known.unwrap_or(&link.ifname).to_owned()
}

/// The bindings that lead to the endpoint, each once.
fn ports(image: &Image, index: u32) -> Vec<PortBinding> {
    let all = desired_ports::recover(&image.v4, index).into_iter().chain(desired_ports::recover(&image.v6, index));
    let mut seen = BTreeSet::new();
    all.filter(|binding| seen.insert(binding.counter)).collect()
}

/// Whether somebody else keeps the host ports of the endpoint.
fn is_kept_elsewhere<A>(image: &FamilyImage<A>, index: u32) -> bool {
    let mut targets = image.published.values().filter(|target| target.endpoint == index);
    targets.any(|target| target.flags & target_flag::KEPT_ELSEWHERE != 0)
}

#[cfg(test)]
mod tests {
    use netpath_common::PortRange;

    use super::*;
    use crate::desired::{BridgeFacts, ExternalFacts, HostFacts, desired};
    use crate::endpoints::alias;
    use crate::netlink::Address;
    use crate::port_spec::Proto;
    use crate::state::samples;

    const ETH0: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

    #[test]
    fn what_is_recovered_is_what_was_lost() {
        let lost = lost();
        let state = recover(&desired(&lost, &host()), &interfaces(), "netpath0", "boot".to_owned(), 11);
        assert_eq!(state.next_generation, 12);
        assert_eq!(state.networks, lost.networks);
        assert_eq!(state.endpoints, lost.endpoints);
        assert_eq!(state.containers, lost.containers);
    }

    #[test]
    fn a_container_whose_veth_is_gone_is_not_recovered() {
        let interfaces = Interfaces { links: vec![], ..interfaces() };
        let state = recover(&desired(&lost(), &host()), &interfaces, "netpath0", "boot".to_owned(), 0);
        assert_eq!((state.endpoints.len(), state.networks.len(), state.next_generation), (0, 0, 8));
    }

    fn lost() -> State {
        let port = |host_addr: Ipv4Addr, host_port, count, counter, proto| PortBinding {
            host_addr: host_addr.into(),
            host_port,
            container_port: 80,
            count,
            proto,
            counter,
            from: vec![],
        };
        let ports = vec![
            port(Ipv4Addr::UNSPECIFIED, 8080, 1, 5, Proto::Tcp),
            port(ETH0, 9090, 1, 6, Proto::Tcp),
            port(ETH0, 53, 1000, 7, Proto::Udp),
        ];
        let mut state = State::new("boot".to_owned());
        state.networks.insert(1, samples::network("bridge"));
        state.containers.insert("web".to_owned(), Container { ports, ..container() });
        let endpoint = Endpoint { generation: 7, ifindex: 9, mtu: 1400, ..samples::endpoint("web") };
        state.endpoints.insert(3, endpoint);
        state
    }

    fn host() -> HostFacts {
        let external = ExternalFacts {
            ifindex: 3,
            ifname: "eth0".to_owned(),
            mac: [0; 6],
            mtu: 1500,
            addrs: vec![ETH0],
            addrs6: vec![],
        };
        HostFacts {
            bridges: BTreeMap::from([(1, BridgeFacts { ifindex: 2, mac: [2; 6], mtu: 1500 })]),
            externals: vec![external],
            local_addrs: vec![BRIDGE, ETH0],
            local_addrs6: vec![],
            ephemeral: PortRange { first: 32768, last: 60999 },
            trusted: vec![],
        }
    }

    fn interfaces() -> Interfaces {
        let link = |ifindex, ifname: &str, mtu, alias: Option<String>| Link {
            ifindex,
            ifname: ifname.to_owned(),
            mac: [2; 6],
            mtu,
            up: true,
            loopback: false,
            ethernet: true,
            bridge: ifindex == 2,
            kind: None,
            xdp: None,
            alias,
            master: None,
            peer: None,
            peer_netns: None,
        };
        let address = |ifindex, text: &str| Address {
            ifindex,
            net: text.parse().unwrap(),
            universe: true,
            secondary: false,
            usable: true,
        };
        Interfaces {
            links: vec![
                link(2, "netpath0", 1500, Some(bridge::alias("netpath0", "bridge"))),
                link(9, "veth0123456", 1400, Some(alias("netpath0", "web"))),
            ],
            addresses: vec![address(2, "172.17.0.1/16"), address(3, "192.0.2.1/24")],
            routes: vec![],
        }
    }
}
