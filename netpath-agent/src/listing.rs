//! What `netpath rules`, `stats` and `monitor` show: counters and events with names in place of indices.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::Result;
use netpath_common::{Address, Counter, DropKey, Event, EventKind, Reason};

use crate::agent::Agent;
use crate::api::{self, GatewayMode, Rule};
use crate::binding::{from_clause, host_name, span};
use crate::exposed;
use crate::flows::{FlowFilter, proto_name};
use crate::publishing;
use crate::state::{Container, Endpoint, Network, PortBinding};

impl Agent {
    /// What `iptables -L -v` would have shown.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        let counted = self.datapath.drops()?;
        let mut rules = Vec::new();
        for (index, network) in &self.state.networks {
            rules.extend(self.network_rules(*index, network, &counted)?);
        }
        let drops = self.show_drops(counted);
        let endpoints = self.state.endpoints_by_container();
        for (name, container) in &self.state.containers {
            let endpoints = endpoints.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            rules.extend(self.container_rules(name, container, endpoints)?);
            rules.extend(drops.iter().filter(|drop| drop.name == *name).map(drop_rule));
        }
        rules.extend(drops.iter().filter(|drop| drop.name.is_empty()).map(drop_rule));
        Ok(rules)
    }

    /// # Errors
    /// If a map cannot be read.
    pub fn stats(&self) -> Result<api::Stats> {
        let program = |program: crate::datapath::ProgramInfo| api::Program {
            name: program.name,
            instructions: program.instructions,
            run_count: program.run_count,
            run_time_ns: program.run_time_ns,
        };
        let map = |map: crate::datapath::MapInfo| api::MapMemory {
            name: map.name,
            max_entries: map.max_entries,
            bytes: map.bytes,
        };
        Ok(api::Stats {
            containers: self.state.containers.len(),
            networks: self.state.networks.len(),
            published_ports: self.state.bindings().map(|(_, port)| usize::from(port.count)).sum(),
            flows: self.flows(&FlowFilter::default())?.len(),
            max_flows: self.datapath.config().max_flows,
            max_ports: self.options.max_ports,
            programs: self.datapath.programs()?.into_iter().map(program).collect(),
            drops: self.show_drops(self.datapath.drops()?),
            maps: self.datapath.maps()?.into_iter().map(map).collect(),
        })
    }

    /// An event for people.
    pub fn show_event(&self, event: &Event) -> api::Event {
        let is_drop = event.kind == EventKind::Drop as u32;
        api::Event {
            kind: if is_drop { "drop" } else { "new-flow" }.to_owned(),
            reason: is_drop.then(|| reason_name(event.reason)),
            ifname: self.ifname(event.ifindex),
            proto: proto_name(event.proto),
            src: show_addr(event.family, &event.src_addr.0),
            sport: event.src_port,
            dst: show_addr(event.family, &event.dst_addr.0),
            dport: event.dst_port,
            nat_port: (!is_drop).then_some(event.nat_port),
            bytes: event.len,
        }
    }

    fn network_rules(&self, index: u32, network: &Network, drops: &[(DropKey, Counter)]) -> Result<Vec<Rule>> {
        let bridge = network.shown_gateway();
        let mut rules = Vec::new();
        let rule = |kind: &str, matches, action: &str, counter| {
            new_rule(kind, &network.name, matches, action.to_owned(), counter)
        };
        let modes = [(&network.v4, network.mode4), (&network.v6, network.mode6)];
        for (subnet, mode) in modes.into_iter().filter_map(|(subnet, mode)| Some((subnet.as_ref()?.subnet, mode))) {
            let outside = format!("in !{bridge} dst {subnet}");
            if network.internal {
                let dropped = self.dropped_in(index, Reason::Internal, drops);
                rules.push(rule("internal", format!("src {subnet} out !{bridge}"), "drop", Some(dropped)));
                rules.push(rule("direct", outside, "drop", None));
                continue;
            }
            match mode {
                GatewayMode::Routed => rules.push(rule("routed", outside, "accept icmp and published ports", None)),
                GatewayMode::NatUnprotected => rules.push(rule("unprotected", outside, "accept", None)),
                GatewayMode::Nat | GatewayMode::Isolated => rules.push(rule("direct", outside, "drop", None)),
            }
            if network.masquerade && mode != GatewayMode::Routed {
                let counter = self.datapath.counter(network.counter)?;
                let matches = format!("src {subnet} out !{bridge}");
                rules.push(rule("masquerade", matches, "to the address of the outgoing interface", Some(counter)));
            }
        }
        let (action, counter) = if network.icc {
            ("accept", self.datapath.counter(network.counter + 1)?)
        } else {
            ("drop", self.dropped_in(index, Reason::Icc, drops))
        };
        rules.push(rule("icc", format!("in {bridge} out {bridge}"), action, Some(counter)));
        for ifname in network.trusted.iter().chain(&self.options.trusted) {
            rules.push(rule("trusted", format!("in {ifname} out {bridge}"), "accept", None));
        }
        Ok(rules)
    }

    /// What the containers of network `index` sent and was dropped for `reason`.
    fn dropped_in(&self, index: u32, reason: Reason, drops: &[(DropKey, Counter)]) -> Counter {
        let is_here = |ifindex: u32| self.state.endpoints.values().any(|e| e.ifindex == ifindex && e.network == index);
        let counted = drops.iter().filter(|(key, _)| key.reason == reason as u32 && is_here(key.ifindex));
        counted.fold(Counter::default(), |sum, (_, counter)| Counter {
            packets: sum.packets + counter.packets,
            bytes: sum.bytes + counter.bytes,
        })
    }

    fn container_rules(&self, name: &str, container: &Container, endpoints: &[(u32, &Endpoint)]) -> Result<Vec<Rule>> {
        let mut rules = Vec::with_capacity(container.ports.len() + 2);
        let rule = |kind: &str, matches, action, counter| new_rule(kind, name, matches, action, Some(counter));
        let is_open = |endpoint: &Endpoint| self.state.networks.get(&endpoint.network).is_some_and(|n| !n.internal);
        let reachable: Vec<_> = endpoints.iter().copied().filter(|(_, endpoint)| is_open(endpoint)).collect();
        let addr = |binding: &PortBinding| {
            let v6 = binding.host_addr.is_ipv6();
            let of = |e: &Endpoint| if v6 { e.addr6.map(IpAddr::from) } else { e.addr.map(IpAddr::from) };
            reachable.iter().find_map(|(_, endpoint)| of(endpoint))
        };
        for port in &container.ports {
            let shown = publishing::show(port, &reachable);
            let name = host_name(shown.host_addr, &shown.host_ports());
            let matches = format!("{} dst {name}{}", port.proto, from_clause(&port.from));
            let action = match addr(port) {
                Some(addr) => format!("to {}", host_name(addr, &port.container_ports())),
                None => format!("closed: {} is in internal networks only", span(&port.container_ports())),
            };
            rules.push(rule("dnat", matches, action, self.datapath.counter(port.counter)?));
        }
        for link in container.links.iter().filter(|link| self.needs_link(name, &link.target)) {
            let ports = self.state.containers.get(&link.target).map(exposed::names).unwrap_or_default();
            let ports = if ports.is_empty() { "no port".to_owned() } else { ports.join(",") };
            let to = format!("dst {} ({}) {ports}", link.target, link.alias);
            rules.push(rule("link", to, "accept".to_owned(), self.datapath.counter(link.counter)?));
            let back = format!("src {} ({}) {ports}", link.target, link.alias);
            rules.push(rule("link", back, "accept".to_owned(), self.datapath.counter(link.counter + 1)?));
        }
        for (_, endpoint) in endpoints {
            let addrs = endpoint.shown();
            let accept = || "accept".to_owned();
            let closed = self.state.containers.get(&endpoint.container).is_some_and(|container| container.no_icc);
            if let Some(network) = self.state.networks.get(&endpoint.network).filter(|network| closed && network.icc) {
                let matches = format!("src or dst {addrs} in {0} out {0}", network.shown_gateway());
                rules.push(rule("icc", matches, "drop".to_owned(), Counter::default()));
            }
            rules.push(rule("to", format!("dst {addrs}"), accept(), self.datapath.counter(endpoint.counter)?));
            rules.push(rule("from", format!("src {addrs}"), accept(), self.datapath.counter(endpoint.counter + 1)?));
        }
        Ok(rules)
    }

    /// Whether containers of a network that both are in may not talk anyhow.
    fn needs_link(&self, name: &str, target: &str) -> bool {
        let targets = self.state.networks_of(target);
        let shared = self.state.networks_of(name).into_iter().filter(|index| targets.contains(index));
        let is_closed = |name: &str| self.state.containers.get(name).is_some_and(|container| container.no_icc);
        let mut networks = shared.filter_map(|index| self.state.networks.get(&index));
        networks.any(|network| !network.icc || is_closed(name) || is_closed(target))
    }

    /// All drops, by container and reason; the name is empty where they belong to no container.
    fn show_drops(&self, mut drops: Vec<(DropKey, Counter)>) -> Vec<api::Drop> {
        let names: HashMap<u32, &str> =
            self.state.endpoints.values().map(|endpoint| (endpoint.ifindex, endpoint.container.as_str())).collect();
        drops.sort_by_key(|(key, _)| (key.ifindex, key.reason));
        let show = |(key, counter): (DropKey, Counter)| api::Drop {
            name: names.get(&key.ifindex).copied().unwrap_or_default().to_owned(),
            reason: reason_name(key.reason),
            packets: counter.packets,
            bytes: counter.bytes,
        };
        drops.into_iter().map(show).collect()
    }

    fn ifname(&self, ifindex: u32) -> String {
        let veth = self.state.endpoints.values().find(|e| e.ifindex == ifindex).map(|e| &e.ifname);
        let external = || self.host.externals.iter().find(|e| e.ifindex == ifindex).map(|e| &e.ifname);
        veth.or_else(external).cloned().unwrap_or_else(|| format!("if{ifindex}"))
    }
}

fn new_rule(kind: &str, name: &str, matches: String, action: String, counter: Option<Counter>) -> Rule {
    let (packets, bytes) = (counter.map(|counter| counter.packets), counter.map(|counter| counter.bytes));
    Rule { kind: kind.to_owned(), name: name.to_owned(), matches, action, packets, bytes }
}

fn drop_rule(drop: &api::Drop) -> Rule {
    let text = Reason::ALL.iter().find(|reason| reason.name() == drop.reason).map_or("", |reason| reason.text());
    Rule {
        kind: "drop".to_owned(),
        name: drop.name.clone(),
        matches: text.to_owned(),
        action: drop.reason.clone(),
        packets: Some(drop.packets),
        bytes: Some(drop.bytes),
    }
}

fn reason_name(number: u32) -> String {
    let reason = Reason::ALL.iter().find(|reason| **reason as u32 == number);
    reason.map_or_else(|| format!("reason-{number}"), |reason| reason.name().to_owned())
}

fn show_addr(family: u8, bytes: &[u8; 16]) -> String {
    match family {
        4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]).to_string(),
        6 => netpath_common::Addr6(*bytes).to_ip().to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_their_names_and_unknown_ones_their_number() {
        assert_eq!(reason_name(Reason::Icc as u32), "icc");
        assert_eq!(reason_name(9999), "reason-9999");
    }

    #[test]
    fn addresses_are_shown_by_family() {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[192, 0, 2, 1]);
        assert_eq!(show_addr(4, &bytes), "192.0.2.1");
        assert_eq!(show_addr(0, &bytes), "");
        assert_eq!(show_addr(6, &[0; 16]), "::");
    }
}
