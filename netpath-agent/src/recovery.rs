//! The state rebuilt from what the kernel still has, for when the file is lost: pinned maps, and the
//! aliases of the veths. Pure.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

use crate::api::Netns;
use crate::desired::NETWORK;
use crate::desired_ports;
use crate::endpoints::name_in_alias;
use crate::externals::Interfaces;
use crate::netlink::Link;
use crate::reconcile::Image;
use crate::state::{Endpoint, Mac, Network, PortBinding, State};

/// Rebuilds the state of the network behind `bridge`. `generation` is the highest seen in any flow.
/// Lost are namespaces, commands and host names.
pub fn recover(image: &Image, interfaces: &Interfaces, bridge: &str, boot_id: String, generation: u32) -> State {
    let mut state = State::new(boot_id);
    let highest = image.endpoints.values().map(|endpoint| endpoint.generation).fold(generation, u32::max);
    state.next_generation = highest + 1;
    state.network = network(image, interfaces, bridge);
    for (index, entry) in &image.endpoints {
        let Some(link) = interfaces.links.iter().find(|link| link.ifindex == entry.ifindex) else { continue };
        let endpoint = Endpoint {
            name: name(link, bridge),
            generation: entry.generation,
            counter: entry.counter,
            ifname: link.ifname.clone(),
            ifindex: link.ifindex,
            addr: entry.addr4.into(),
            mac: Mac(entry.mac),
            mtu: link.mtu,
            netns: Netns::Path(PathBuf::from("unknown")),
            hostname: None,
            command: Vec::new(),
            created: 0,
            ports: ports(image, *index),
        };
        state.endpoints.insert(*index, endpoint);
    }
    state
}

/// The network that the maps know, if its bridge is the one.
fn network(image: &Image, interfaces: &Interfaces, bridge: &str) -> Option<Network> {
    let ifindex = image.networks.get(&NETWORK)?.ifindex;
    let ((prefix, len), _) = image.v4.prefixes.iter().find(|(_, network)| **network == NETWORK)?;
    let subnet = Ipv4Net::new((*prefix).into(), *len).ok()?;
    let link = interfaces.links.iter().find(|link| link.ifindex == ifindex && link.ifname == bridge)?;
    let address =
        interfaces.addresses.iter().find(|a| a.ifindex == link.ifindex && a.net.trunc() == IpNet::V4(subnet))?;
    let created = link.alias.as_deref() == Some(crate::bridge::ALIAS);
    Some(Network {
        bridge: bridge.to_owned(),
        created,
        bridge_addr: Ipv4Net::new(v4(address.net.addr())?, address.net.prefix_len()).ok()?,
    })
}

fn v4(addr: std::net::IpAddr) -> Option<Ipv4Addr> {
    match addr {
        std::net::IpAddr::V4(addr) => Some(addr),
        std::net::IpAddr::V6(_) => None,
    }
}

fn name(link: &Link, bridge: &str) -> String {
    let known = link.alias.as_deref().and_then(|alias| name_in_alias(bridge, alias));
    known.unwrap_or(&link.ifname).to_owned()
}

fn ports(image: &Image, index: u32) -> Vec<PortBinding> {
    let mut ports = desired_ports::recover(&image.v4, index);
    ports.extend(desired_ports::recover(&image.v6, index));
    ports
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use netpath_common::PortRange;

    use super::*;
    use crate::desired::{BridgeFacts, ExternalFacts, HostFacts, Policy, desired};
    use crate::endpoints::alias;
    use crate::netlink::Address;
    use crate::port_spec::Proto;

    const ETH0: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

    #[test]
    fn what_is_recovered_is_what_was_lost() {
        let endpoint = endpoint();
        let endpoints = BTreeMap::from([(3, endpoint.clone())]);
        let image = desired(&endpoints, &host(), Policy { icc: true, masquerade: true });
        let state = recover(&image, &interfaces(), "netpath0", "boot".to_owned(), 11);
        assert_eq!(state.next_generation, 12);
        assert_eq!(state.endpoints, BTreeMap::from([(3, endpoint)]));
        let network = state.network.expect("the network is found");
        assert_eq!((network.created, network.bridge_addr.to_string()), (true, "172.17.0.1/16".to_owned()));
    }

    #[test]
    fn a_container_whose_veth_is_gone_is_not_recovered() {
        let image = desired(&BTreeMap::from([(3, endpoint())]), &host(), Policy { icc: true, masquerade: true });
        let interfaces = Interfaces { links: vec![], ..interfaces() };
        let state = recover(&image, &interfaces, "netpath0", "boot".to_owned(), 0);
        assert_eq!((state.endpoints.len(), state.network, state.next_generation), (0, None, 8));
    }

    fn endpoint() -> Endpoint {
        let port = |host_addr: Ipv4Addr, host_port, counter, proto| PortBinding {
            host_addr: host_addr.into(),
            host_port,
            container_port: 80,
            count: 1,
            proto,
            counter,
            from: vec![],
        };
        Endpoint {
            name: "web".to_owned(),
            generation: 7,
            counter: 1,
            ifname: "veth0123456".to_owned(),
            ifindex: 9,
            addr: Ipv4Addr::new(172, 17, 0, 2),
            mac: Mac([2; 6]),
            mtu: 1400,
            netns: Netns::Path(PathBuf::from("unknown")),
            hostname: None,
            command: vec![],
            created: 0,
            ports: vec![
                port(Ipv4Addr::UNSPECIFIED, 8080, 3, Proto::Tcp),
                port(ETH0, 9090, 4, Proto::Tcp),
                port(ETH0, 53, 5, Proto::Udp),
            ],
        }
    }

    fn host() -> HostFacts {
        HostFacts {
            bridge: BridgeFacts { ifindex: 2, mac: [2; 6], addr: Ipv4Net::new_assert(BRIDGE, 16), mtu: 1500 },
            externals: vec![ExternalFacts {
                ifindex: 3,
                ifname: "eth0".to_owned(),
                mtu: 1500,
                addrs: vec![ETH0],
                addrs6: vec![],
            }],
            local_addrs: vec![BRIDGE, ETH0],
            local_addrs6: vec![],
            ephemeral: PortRange { first: 32768, last: 60999 },
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
            alias,
            master: None,
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
                link(2, "netpath0", 1500, Some(crate::bridge::ALIAS.to_owned())),
                link(9, "veth0123456", 1400, Some(alias("netpath0", "web"))),
            ],
            addresses: vec![address(2, "172.17.0.1/16"), address(3, "192.0.2.1/24")],
            routes: vec![],
        }
    }
}
