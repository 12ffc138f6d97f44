//! What `netpath rules`, `stats` and `monitor` show: counters and events with names in place of indices.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::Result;
use netpath_common::{Address, Counter, DropKey, Event, EventKind, Reason};

use crate::agent::Agent;
use crate::api::{self, GatewayMode, Rule};
use crate::binding::{from_clause, host_name, span};
use crate::flows::{FlowFilter, proto_name};
use crate::publishing;
use crate::state::{Container, Endpoint, Network, PortBinding};

impl Agent {
    /// What `iptables -L -v` would have shown.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn rules(&self) -> Result<Vec<Rule>> {
        let drops = self.drops()?;
        let mut rules = Vec::new();
        for network in self.state.networks.values() {
            rules.extend(self.network_rules(network)?);
        }
        for (name, container) in &self.state.containers {
            rules.extend(self.container_rules(name, container)?);
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
            drops: self.drops()?,
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

    fn network_rules(&self, network: &Network) -> Result<Vec<Rule>> {
        let bridge = &network.bridge;
        let mut rules = Vec::new();
        let rule = |kind: &str, matches, action: &str, counter| {
            new_rule(kind, &network.name, matches, action.to_owned(), counter)
        };
        let modes = [(&network.v4, network.mode4), (&network.v6, network.mode6)];
        for (subnet, mode) in modes.into_iter().filter_map(|(subnet, mode)| Some((subnet.as_ref()?.subnet, mode))) {
            let outside = format!("in !{bridge} dst {subnet}");
            if network.internal {
                rules.push(rule("internal", format!("src {subnet} out !{bridge}"), "drop", Counter::default()));
                continue;
            }
            match mode {
                GatewayMode::Routed => {
                    rules.push(rule("routed", outside, "accept icmp and published ports", Counter::default()))
                }
                GatewayMode::NatUnprotected => rules.push(rule("unprotected", outside, "accept", Counter::default())),
                GatewayMode::Nat | GatewayMode::Isolated => {}
            }
            if network.masquerade && mode != GatewayMode::Routed {
                let counter = self.datapath.counter(network.counter)?;
                let matches = format!("src {subnet} out !{bridge}");
                rules.push(rule("masquerade", matches, "to the address of the outgoing interface", counter));
            }
        }
        // What the policy refuses is counted as drops of the sender.
        let action = if network.icc { "accept" } else { "drop" };
        let counter = self.datapath.counter(network.counter + 1)?;
        rules.push(rule("icc", format!("in {bridge} out {bridge}"), action, counter));
        for ifname in network.trusted.iter().chain(&self.options.trusted) {
            rules.push(rule("trusted", format!("in {ifname} out {bridge}"), "accept", Counter::default()));
        }
        Ok(rules)
    }

    fn container_rules(&self, name: &str, container: &Container) -> Result<Vec<Rule>> {
        let mut rules = Vec::with_capacity(container.ports.len() + 2);
        let rule = |kind: &str, matches, action, counter| new_rule(kind, name, matches, action, counter);
        let endpoints = self.state.endpoints_of(name);
        let addr = |binding: &PortBinding| {
            let v6 = binding.host_addr.is_ipv6();
            let of = |e: &Endpoint| if v6 { e.addr6.map(IpAddr::from) } else { e.addr.map(IpAddr::from) };
            endpoints.iter().find_map(|(_, endpoint)| of(endpoint))
        };
        for port in &container.ports {
            let shown = publishing::show(port, &endpoints);
            let name = host_name(shown.host_addr, &shown.host_ports());
            let matches = format!("{} dst {name}{}", port.proto, from_clause(&port.from));
            let action = match addr(port) {
                Some(addr) => format!("to {}", host_name(addr, &port.container_ports())),
                None => format!("to nobody:{}", span(&port.container_ports())),
            };
            rules.push(rule("dnat", matches, action, self.datapath.counter(port.counter)?));
        }
        for link in &container.links {
            let to = format!("dst {} ({}) exposed ports", link.target, link.alias);
            rules.push(rule("link", to, "accept".to_owned(), self.datapath.counter(link.counter)?));
            let back = format!("src {} ({}) exposed ports", link.target, link.alias);
            rules.push(rule("link", back, "accept".to_owned(), self.datapath.counter(link.counter + 1)?));
        }
        for (_, endpoint) in &endpoints {
            let addrs = endpoint.shown();
            let accept = || "accept".to_owned();
            rules.push(rule("to", format!("dst {addrs}"), accept(), self.datapath.counter(endpoint.counter)?));
            rules.push(rule("from", format!("src {addrs}"), accept(), self.datapath.counter(endpoint.counter + 1)?));
        }
        Ok(rules)
    }

    /// All drops, by container and reason; the name is empty where they belong to no container.
    fn drops(&self) -> Result<Vec<api::Drop>> {
        let names: HashMap<u32, &str> =
            self.state.endpoints.values().map(|endpoint| (endpoint.ifindex, endpoint.container.as_str())).collect();
        let mut drops: Vec<_> = self.datapath.drops()?;
        drops.sort_by_key(|(key, _)| (key.ifindex, key.reason));
        let show = |(key, counter): (DropKey, Counter)| api::Drop {
            name: names.get(&key.ifindex).copied().unwrap_or_default().to_owned(),
            reason: reason_name(key.reason),
            packets: counter.packets,
            bytes: counter.bytes,
        };
        Ok(drops.into_iter().map(show).collect())
    }

    fn ifname(&self, ifindex: u32) -> String {
        let veth = self.state.endpoints.values().find(|e| e.ifindex == ifindex).map(|e| &e.ifname);
        let external = || self.host.externals.iter().find(|e| e.ifindex == ifindex).map(|e| &e.ifname);
        veth.or_else(external).cloned().unwrap_or_else(|| format!("if{ifindex}"))
    }
}

fn new_rule(kind: &str, name: &str, matches: String, action: String, counter: Counter) -> Rule {
    let (packets, bytes) = (counter.packets, counter.bytes);
    Rule { kind: kind.to_owned(), name: name.to_owned(), matches, action, packets, bytes }
}

fn drop_rule(drop: &api::Drop) -> Rule {
    let text = Reason::ALL.iter().find(|reason| reason.name() == drop.reason).map_or("", |reason| reason.text());
    Rule {
        kind: "drop".to_owned(),
        name: drop.name.clone(),
        matches: text.to_owned(),
        action: drop.reason.clone(),
        packets: drop.packets,
        bytes: drop.bytes,
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
