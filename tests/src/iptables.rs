//! The rules that Docker Engine 29 writes with iptables and ip6tables: what each thing adds, as text. Order, chains and
//! matches are those that `iptables-save` shows beside a running engine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::network::{GatewayMode, Network};
use crate::{Backend, Family, Namespace, program};

/// One rule and where it goes.
#[derive(Clone, Debug)]
pub struct Rule {
    table: &'static str,
    /// `-A CHAIN`, or `-I CHAIN` for the top of it.
    place: &'static str,
    matches: String,
}

/// One published port of one family.
#[derive(Clone, Debug)]
pub struct Port {
    /// None for every address of the host.
    pub host_addr: Option<IpAddr>,
    pub host_port: u16,
    pub address: IpAddr,
    pub port: u16,
    pub proto: String,
}

const FILTER_CHAINS: &str = "\
*filter
:FORWARD DROP
:DOCKER -
:DOCKER-BRIDGE -
:DOCKER-CT -
:DOCKER-FORWARD -
:DOCKER-INTERNAL -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-FORWARD -j DOCKER-BRIDGE
COMMIT
";

/// What the daemon writes when it starts. With the user-land proxy, connections to loopback addresses are left to it.
pub fn set_up(host: &Namespace, backend: Backend, family: Family, proxy: bool) {
    let not_loopback = if proxy { family.pick("! -d 127.0.0.0/8 ", "! -d ::1/128 ") } else { "" };
    let nat = format!(
        "*nat\n\
         :DOCKER -\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT {not_loopback}-m addrtype --dst-type LOCAL -j DOCKER\n\
         COMMIT\n"
    );
    restore(host, backend, family, &format!("{nat}{FILTER_CHAINS}"));
}

/// What a network adds.
pub fn network(network: &Network, family: Family, bridge: &str, proxy: bool) -> Vec<Rule> {
    let (options, mode) = (&network.options, network.options.mode(family));
    let subnet = network.subnet(family);
    if options.internal {
        return internal(&subnet, family, bridge, options.icc);
    }
    let (routed, unprotected) = (mode == GatewayMode::Routed, mode == GatewayMode::NatUnprotected);
    let mut rules = Vec::new();
    if options.masquerade && !routed {
        rules.push(nat("-I POSTROUTING", format!("-s {subnet} ! -o {bridge} -j MASQUERADE")));
    }
    if !proxy {
        rules.push(nat("-I POSTROUTING", format!("-m addrtype --src-type LOCAL -o {bridge} -j MASQUERADE")));
    }
    if !options.icc {
        rules.push(filter("-A DOCKER-FORWARD", format!("-i {bridge} -o {bridge} -j DROP")));
    }
    if routed {
        rules.push(filter("-A DOCKER", format!("-o {bridge} -p {} -j ACCEPT", family.pick("icmp", "ipv6-icmp"))));
    } else if family == Family::V6 && !options.icc {
        // Neighbour solicitation and advertisement: ARP, which needs no such rule, is not filtered.
        rules.extend([135, 136].map(|kind| {
            let kind = format!("-p ipv6-icmp -m icmp6 --icmpv6-type {kind}");
            filter("-A DOCKER", format!("-i {bridge} -o {bridge} {kind} -j ACCEPT"))
        }));
    }
    let outgoing = if options.icc { format!("-i {bridge}") } else { format!("-i {bridge} ! -o {bridge}") };
    rules.push(filter("-A DOCKER-FORWARD", format!("{outgoing} -j ACCEPT")));
    let default = if unprotected { "ACCEPT" } else { "DROP" };
    rules.push(filter("-A DOCKER", format!("! -i {bridge} -o {bridge} -j {default}")));
    let established = "-m conntrack --ctstate RELATED,ESTABLISHED";
    rules.push(filter("-A DOCKER-CT", format!("-o {bridge} {established} -j ACCEPT")));
    rules.push(filter("-A DOCKER-BRIDGE", format!("-o {bridge} -j DOCKER")));
    rules
}

/// An internal network has these only.
fn internal(subnet: &str, family: Family, bridge: &str, icc: bool) -> Vec<Rule> {
    let (from_inside, from_outside) = family.pick(("", ""), (" ! -o BR", " ! -i BR"));
    let verdict = if icc { "ACCEPT" } else { "DROP" };
    vec![
        filter("-A DOCKER-INTERNAL", format!("-i {bridge}{} ! -d {subnet} -j DROP", from_inside.replace("BR", bridge))),
        filter(
            "-A DOCKER-INTERNAL",
            format!("-o {bridge}{} ! -s {subnet} -j DROP", from_outside.replace("BR", bridge)),
        ),
        filter("-A DOCKER-FORWARD", format!("-i {bridge} -o {bridge} -j {verdict}")),
    ]
}

/// What a container's address adds: no packet for it but from its bridge and from trusted interfaces.
pub fn endpoint(network: &Network, family: Family, bridge: &str, address: IpAddr) -> Vec<Rule> {
    let mode = network.options.mode(family);
    if network.options.internal || matches!(mode, GatewayMode::Routed | GatewayMode::NatUnprotected) {
        return Vec::new();
    }
    let trusted = network.options.trusted.iter().map(|ifname| format!("-d {address} -i {ifname} -j ACCEPT"));
    let matches = trusted.chain([format!("-d {address} ! -i {bridge} -j DROP")]);
    matches.map(|matches| Rule { table: "raw", place: "-A PREROUTING", matches }).collect()
}

/// What a published port adds, where address and host address are of one family.
pub fn port(network: &Network, bridge: &str, port: &Port, proxy: bool) -> Vec<Rule> {
    let Port { host_addr, host_port, address, port, proto } = port;
    let family = Family::of(*address);
    let mode = network.options.mode(family);
    let mut rules = Vec::new();
    if network.options.internal {
        return rules;
    }
    if let Some(host_addr) = host_addr.filter(|a| a.is_loopback() && a.is_ipv4() && mode != GatewayMode::Routed) {
        let matches = format!("-d {host_addr} -p {proto} -m {proto} --dport {host_port} ! -i lo -j DROP");
        rules.push(Rule { table: "raw", place: "-A PREROUTING", matches });
    }
    let here = format!("-p {proto} -m {proto} --dport {port}");
    if mode != GatewayMode::Routed {
        let to = host_addr.map_or_else(String::new, |address| format!("-d {address} "));
        let not_from_bridge = if proxy { format!("! -i {bridge} ") } else { String::new() };
        let not_link_local = family.pick("", "! -s fe80::/10 ");
        let target = crate::sockets::at(*address, *port);
        let matches = format!(
            "{not_from_bridge}{not_link_local}{to}-p {proto} -m {proto} --dport {host_port} \
             -j DNAT --to-destination {target}"
        );
        rules.push(nat("-A DOCKER", matches));
        if !proxy {
            rules.push(nat("-A POSTROUTING", format!("-s {address} -d {address} {here} -j MASQUERADE")));
        }
    }
    if mode != GatewayMode::NatUnprotected {
        rules.push(filter("-I DOCKER", format!("-d {address} ! -i {bridge} -o {bridge} {here} -j ACCEPT")));
    }
    rules
}

/// What a link adds for one exposed port of `child`: without state, both ways.
pub fn link(bridge: &str, parent: IpAddr, child: IpAddr, port: u16, proto: &str) -> Vec<Rule> {
    let between = |from: IpAddr, to: IpAddr, port: String| {
        filter("-I DOCKER", format!("-s {from} -d {to} -i {bridge} -o {bridge} -p {proto} -m {proto} {port} -j ACCEPT"))
    };
    vec![between(parent, child, format!("--dport {port}")), between(child, parent, format!("--sport {port}"))]
}

/// Adds `rules`, in order.
pub fn add(host: &Namespace, backend: Backend, family: Family, rules: &[Rule]) {
    change(host, backend, family, rules, |rule| format!("{} {}", rule.place, rule.matches));
}

/// Deletes `rules`.
pub fn delete(host: &Namespace, backend: Backend, family: Family, rules: &[Rule]) {
    change(host, backend, family, rules, |rule| format!("-D {} {}", &rule.place[3..], rule.matches));
}

fn change(host: &Namespace, backend: Backend, family: Family, rules: &[Rule], line: impl Fn(&Rule) -> String) {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    rules.iter().for_each(|rule| tables.entry(rule.table).or_default().push(line(rule)));
    let text: String =
        tables.iter().map(|(table, lines)| format!("*{table}\n{}\nCOMMIT\n", lines.join("\n"))).collect();
    if !text.is_empty() {
        restore(host, backend, family, &text);
    }
}

fn nat(place: &'static str, matches: String) -> Rule {
    Rule { table: "nat", place, matches }
}

fn filter(place: &'static str, matches: String) -> Rule {
    Rule { table: "filter", place, matches }
}

fn restore(host: &Namespace, backend: Backend, family: Family, rules: &str) {
    let backend = match backend {
        Backend::System => "",
        Backend::Legacy => "-legacy",
        Backend::Nft => "-nft",
    };
    let command = format!("{}{backend}-restore", family.pick("iptables", "ip6tables"));
    program::feed(host.command(command).args(["--noflush", "--wait"]), rules);
}
