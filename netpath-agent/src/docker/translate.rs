//! What the Engine API says, as networks and containers to serve. Pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};
use bollard::models::{self, NetworkContainer, PortTypeEnum};
use ipnet::IpNet;

use super::PREFIX;
use super::routed::Routed;
use super::said::{AskedPort, Details, LABEL, Said, Summary};
use crate::api::NetworkCreate;
use crate::binding::PortBinding;
use crate::network_labels;
use crate::port_spec::{self, Proto};
use crate::state::Mac;

const FROM: &str = "netpath.from";
const ICC: &str = "netpath.icc";

/// Everything of Docker's that is to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub networks: Vec<NetworkCreate>,
    pub containers: Vec<Container>,
    /// What cannot be served, by its name, and why.
    pub faults: BTreeMap<String, String>,
    /// Options that the Engine has to be started with first: until then it forwards by itself, and nothing is served.
    pub waits_for: Vec<&'static str>,
}

/// A container of Docker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub hostname: Option<String>,
    /// What it was created with has been told; else `expose` and `links` are empty, and ports may be missing.
    pub is_known: bool,
    /// Of its first process; absent until it has one.
    pub pid: Option<u32>,
    pub endpoints: Vec<Endpoint>,
    /// Without counters.
    pub ports: Vec<PortBinding>,
    /// `PORT/PROTO`
    pub expose: Vec<String>,
    /// `NAME:ALIAS`
    pub links: Vec<String>,
    /// It may talk to containers of its networks as far as those say.
    pub icc: bool,
}

/// A container's interface in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the network.
    pub network: String,
    pub address: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    pub mac: Mac,
}

/// What of `said` is to be served. `icc` is whether containers of Docker's default network may talk to each other.
pub(super) fn wanted(said: &Said, icc: bool) -> Wanted {
    let mut wanted = Wanted::default();
    let mut members: BTreeMap<&str, Vec<(&NetworkCreate, &NetworkContainer)>> = BTreeMap::new();
    let summaries: HashMap<&str, &Summary> = said.summaries.iter().map(|summary| (&*summary.id, summary)).collect();
    let mut networks = Vec::new();
    for said in said.networks.iter().filter(|network| is_bridge(network)) {
        match network(said, icc) {
            Ok(network) => networks.push((network, said.containers.as_ref())),
            Err(error) => {
                let name = format!("{PREFIX}{}", said.name.as_deref().unwrap_or_default());
                wanted.faults.insert(name, format!("{error:#}"));
            }
        }
    }
    networks.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    for (network, containers) in &networks {
        // What is called `ep-ID` is on its way in or out.
        let containers = containers.iter().flat_map(|containers| containers.iter());
        for (id, member) in containers.filter(|(id, _)| !id.starts_with("ep-")) {
            members.entry(id).or_default().push((network, member));
        }
    }
    for (id, members) in members {
        let summary = summaries.get(id).copied();
        match container(id, &members, summary, said.details.get(id)) {
            Ok(container) => wanted.containers.push(container),
            Err(error) => {
                let name = summary.and_then(|summary| summary.name.clone()).unwrap_or_else(|| id.to_owned());
                wanted.faults.insert(name, format!("{error:#}"));
            }
        }
    }
    wanted.networks = networks.into_iter().map(|(network, _)| network).collect();
    wanted
}

/// Whether netpath can serve the network.
pub(super) fn is_bridge(network: &models::Network) -> bool {
    network.driver.as_deref() == Some("bridge") && network.config_only != Some(true)
}

/// Whether the network is the one that Docker makes by itself.
pub(super) fn is_default(network: &models::Network) -> bool {
    option(network, "com.docker.network.bridge.default_bridge") == Some("true")
}

pub(super) fn option<'a>(network: &'a models::Network, key: &str) -> Option<&'a str> {
    network.options.as_ref()?.get(key).map(String::as_str)
}

/// Name of the bridge's interface.
pub(super) fn bridge(network: &models::Network) -> String {
    let named = option(network, "com.docker.network.bridge.name").map(str::to_owned);
    named.unwrap_or_else(|| format!("br-{:.12}", network.id.as_deref().unwrap_or_default()))
}

fn network(said: &models::Network, icc: bool) -> Result<NetworkCreate> {
    let name = said.name.as_deref().context("a network without a name")?;
    let mut request = NetworkCreate { name: format!("{PREFIX}{name}"), adopt: true, ..NetworkCreate::default() };
    for (key, value) in said.options.iter().flatten() {
        network_labels::apply(&mut request, key, value)?;
    }
    request.bridge = Some(bridge(said));
    // The bridge says it.
    request.mtu = None;
    request.internal = said.internal.unwrap_or(false);
    let has_ipv6 = said.enable_ipv6 == Some(true);
    for config in said.ipam.iter().filter_map(|ipam| ipam.config.as_ref()).flatten() {
        let subnet: IpNet = parse(config.subnet.as_deref().unwrap_or_default())?;
        if subnet.addr().is_ipv6() && !has_ipv6 {
            continue;
        }
        request.subnets.push(subnet);
        if let Some(gateway) = config.gateway.as_deref().filter(|gateway| !gateway.is_empty()) {
            request.gateways.push(parse::<IpAddr>(gateway.split('/').next().unwrap_or(gateway))?);
        }
    }
    if is_default(said) {
        // Docker turns it off with its rules, whatever it was told.
        request.masquerade = Some(true);
        request.icc = Some(request.icc != Some(false) && icc);
    }
    for (key, value) in said.labels.iter().flatten().filter(|(key, _)| key.starts_with(LABEL)) {
        match key.as_str() {
            ICC => request.icc = Some(network_labels::boolean(key, value)?),
            _ => bail!("unknown label `{key}` of a network, want {ICC}"),
        }
    }
    Ok(request)
}

fn container(
    id: &str,
    members: &[(&NetworkCreate, &NetworkContainer)],
    summary: Option<&Summary>,
    details: Option<&Details>,
) -> Result<Container> {
    let endpoints = members.iter().map(|(network, member)| endpoint(network, member)).collect::<Result<Vec<_>>>()?;
    let of_network =
        members.iter().find(|(network, _)| !network.internal).and_then(|(network, _)| network.binding_addr);
    let has_ipv6 = endpoints.iter().any(|endpoint| endpoint.address6.is_some());
    let asked = details.map_or(&[][..], |details| &details.asked_ports);
    Ok(Container {
        id: id.to_owned(),
        is_known: details.is_some(),
        name: summary
            .and_then(|summary| summary.name.clone())
            .or_else(|| members.first()?.1.name.clone())
            .context("a container without a name")?,
        hostname: details.and_then(|details| details.hostname.clone()),
        pid: details.and_then(|details| details.pid),
        ports: ports(summary, asked, of_network, has_ipv6, Routed::of(members.iter().map(|(network, _)| *network)))?,
        icc: icc(summary)?,
        endpoints,
        expose: details.map(|details| details.exposed.clone()).unwrap_or_default(),
        links: details.into_iter().flat_map(|details| &details.links).map(|link| self::link(link)).collect(),
    })
}

/// What its label says of talking to other containers.
fn icc(summary: Option<&Summary>) -> Result<bool> {
    summary.and_then(|summary| summary.labels.get(ICC)).map_or(Ok(true), |value| network_labels::boolean(ICC, value))
}

fn endpoint(network: &NetworkCreate, member: &NetworkContainer) -> Result<Endpoint> {
    let address = |text: &Option<String>| text.as_deref().and_then(|text| text.split('/').next()?.parse().ok());
    let (address, address6) = (address(&member.ipv4_address), address(&member.ipv6_address));
    let v4 = |addr| if let IpAddr::V4(addr) = addr { Some(addr) } else { None };
    let v6 = |addr| if let IpAddr::V6(addr) = addr { Some(addr) } else { None };
    Ok(Endpoint {
        network: network.name.clone(),
        address: address.and_then(v4),
        address6: address6.and_then(v6),
        mac: member.mac_address.as_deref().unwrap_or_default().parse()?,
    })
}

/// `/db:/web/alias` as `db:alias`.
fn link(text: &str) -> String {
    let (target, alias) = text.split_once(':').unwrap_or((text, text));
    format!("{}:{}", target.trim_start_matches('/'), alias.rsplit('/').next().unwrap_or(alias))
}

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Single {
    from: Vec<IpNet>,
    proto: Proto,
    addr: IpAddr,
    /// 0 at the container's own address.
    host_port: u16,
    container_port: u16,
}

/// The published ports: those that Docker has given out, else those that were asked for by number; and those that need no
/// number.
fn ports(
    summary: Option<&Summary>,
    asked: &[AskedPort],
    of_network: Option<IpAddr>,
    has_ipv6: bool,
    routed: Routed,
) -> Result<Vec<PortBinding>> {
    let mut singles = summary.map(given_out).transpose()?.unwrap_or_default();
    let is_known = !singles.is_empty();
    let asked_for = asked_for(asked, of_network, has_ipv6, routed)?;
    singles.extend(asked_for.into_iter().filter(|single| !is_known || single.host_port == 0));
    let labels = summary.into_iter().flat_map(|summary| &summary.labels);
    for (key, value) in labels.filter(|(key, _)| *key != ICC) {
        ensure!(key == FROM, "unknown label `{key}` of a container, want {FROM} or {ICC}");
        for text in value.split(',') {
            let matched = restrict(&mut singles, text.trim()).with_context(|| format!("label {FROM}={value}"))?;
            ensure!(matched || !is_known, "label {FROM}={value}: the container publishes no such port");
        }
    }
    for single in singles.iter().filter(|single| single.proto == Proto::Sctp && single.host_port > 0) {
        ensure!(
            single.host_port == single.container_port,
            "cannot publish {}/sctp at host port {}: an SCTP port is published under its own number only",
            single.container_port,
            single.host_port
        );
    }
    Ok(merge(singles))
}

fn given_out(summary: &Summary) -> Result<Vec<Single>> {
    let mut singles = Vec::new();
    for port in &summary.ports {
        let proto = match port.typ {
            Some(PortTypeEnum::UDP) => Proto::Udp,
            Some(PortTypeEnum::SCTP) => Proto::Sctp,
            _ => Proto::Tcp,
        };
        let addr = port.ip.as_deref().filter(|addr| !addr.is_empty()).map(parse::<IpAddr>).transpose()?;
        let every = Ipv4Addr::UNSPECIFIED.into();
        let (addr, host_port) = match (addr, port.public_port.filter(|port| *port > 0)) {
            (addr, Some(port)) => (addr.unwrap_or(every), port),
            // Published, but not at the host.
            (Some(addr), None) => (addr, 0),
            // Exposed.
            (None, None) => continue,
        };
        singles.push(Single { from: vec![], proto, addr, host_port, container_port: port.private_port });
    }
    Ok(singles)
}

fn asked_for(asked: &[AskedPort], of_network: Option<IpAddr>, has_ipv6: bool, routed: Routed) -> Result<Vec<Single>> {
    let mut singles = Vec::new();
    let mut every = vec![of_network.unwrap_or(Ipv4Addr::UNSPECIFIED.into())];
    if has_ipv6 && every == [IpAddr::V4(Ipv4Addr::UNSPECIFIED)] {
        every.push(Ipv6Addr::UNSPECIFIED.into());
    }
    for port in asked {
        let (number, proto) = port.container_port.split_once('/').unwrap_or((&port.container_port, "tcp"));
        let (container_port, proto): (u16, Proto) = (parse(number)?, parse(proto)?);
        // A range, or none: which one it is, Docker will choose.
        let number = port.host_port.as_deref().unwrap_or_default().parse().ok().filter(|port| *port > 0);
        let named = port.host_ip.as_deref().map(parse).transpose()?;
        for addr in named.map_or_else(|| every.clone(), |addr| vec![addr]) {
            let place = routed.every(addr).map(|every| (every, 0)).or(number.map(|port| (addr, port)));
            let single = |(addr, host_port)| Single { from: vec![], proto, addr, host_port, container_port };
            singles.extend(place.map(single));
        }
    }
    Ok(singles)
}

/// Lets only `[PORT[-LAST][/PROTO]=]CIDR` use these container ports; `false` if it names none of them.
fn restrict(singles: &mut [Single], text: &str) -> Result<bool> {
    let from = port_spec::parse_from(text)?;
    let is_meant = |single: &&mut Single| {
        from.ports.as_ref().is_none_or(|ports| ports.contains(&single.container_port))
            && from.proto.is_none_or(|proto| proto == single.proto)
    };
    let mut matched = false;
    for single in singles.iter_mut().filter(is_meant) {
        matched = true;
        if !single.from.contains(&from.net) {
            single.from.push(from.net);
            single.from.sort();
        }
    }
    Ok(matched)
}

/// Ports in a row as one binding.
fn merge(mut singles: Vec<Single>) -> Vec<PortBinding> {
    singles.sort_by_key(|single| (single.proto, single.addr, single.host_port, single.container_port));
    singles.dedup();
    let follows = |one: &Single, other: &Single| {
        (one.proto, one.addr, &one.from) == (other.proto, other.addr, &other.from)
            && (one.host_port.checked_add(1) == Some(other.host_port) || (one.host_port, other.host_port) == (0, 0))
            && one.container_port.checked_add(1) == Some(other.container_port)
    };
    let binding = |run: &[Single]| {
        let Single { from, proto, addr, host_port, container_port } = run[0].clone();
        PortBinding { host_addr: addr, host_port, container_port, count: run.len() as u16, proto, counter: 0, from }
    };
    singles.chunk_by(follows).map(binding).collect()
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().with_context(|| format!("understand `{text}` of the Engine API"))
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerInspectResponse, ContainerSummary};

    use super::*;
    use crate::docker::said;

    /// Of Debian's docker.io 20.10.24: a container with `-p 8080:80 -p 9000-9003:9000-9003 -p 81`, and one that is just
    /// being started.
    const NETWORKS: &str = include_str!("samples/networks.json");
    const CONTAINERS: &str = include_str!("samples/containers.json");
    const DETAILS: &str = include_str!("samples/details.json");

    #[test]
    fn ports_that_were_given_out_are_ranges_where_they_can_be() {
        let wanted = wanted(&said(), true);
        assert_eq!(wanted.faults, BTreeMap::new());
        let web = find(&wanted, "web");
        let ports: Vec<_> = web.ports.iter().map(|p| (p.host_port, p.container_port, p.count)).collect();
        assert_eq!(ports, [(8080, 80, 1), (9000, 9000, 4), (32771, 81, 1)]);
        assert_eq!((web.hostname.is_some(), web.pid.is_some()), (true, true));
        let endpoint = &web.endpoints[0];
        assert_eq!(
            (endpoint.network.as_str(), endpoint.address),
            ("docker/bridge", Some(Ipv4Addr::new(172, 17, 0, 2)))
        );
    }

    #[test]
    fn of_a_container_that_is_being_started_the_ports_with_a_number_are_known() {
        let mut said = said();
        for summary in &mut said.summaries {
            summary.ports.clear();
        }
        let wanted = wanted(&said, true);
        let ports: Vec<_> =
            find(&wanted, "web").ports.iter().map(|p| (p.host_port, p.container_port, p.count)).collect();
        assert_eq!(ports, [(8080, 80, 1), (9000, 9000, 4)]);
    }

    #[test]
    fn on_a_routed_network_ports_need_no_number_and_take_none() {
        let routed = |change: fn(&mut Said)| {
            let mut said = said();
            for network in &mut said.networks {
                let key = "com.docker.network.bridge.gateway_mode_ipv4".to_owned();
                network.options.get_or_insert_default().insert(key, "routed".to_owned());
            }
            change(&mut said);
            let wanted = wanted(&said, true);
            let ports = find(&wanted, "web").ports.iter();
            ports.map(|p| (p.host_addr.to_string(), p.host_port, p.container_port, p.count)).collect::<Vec<_>>()
        };
        let own = [("0.0.0.0".to_owned(), 0, 80, 2), ("0.0.0.0".to_owned(), 0, 9000, 4)];
        let is_starting = |said: &mut Said| said.summaries.iter_mut().for_each(|summary| summary.ports.clear());
        assert_eq!(routed(is_starting), own);
        // Whatever was asked for: with `-P` it is nothing.
        let is_listed = |said: &mut Said| {
            said.details.clear();
            for port in said.summaries.iter_mut().flat_map(|summary| &mut summary.ports) {
                port.public_port = None;
            }
        };
        assert_eq!(routed(is_listed), own);
    }

    #[test]
    fn networks_are_what_their_options_say() {
        let wanted = wanted(&said(), false);
        let names: Vec<_> = wanted.networks.iter().map(|n| (n.name.as_str(), n.bridge.as_deref().unwrap())).collect();
        assert_eq!(names.len(), 3, "the bridges alone: {names:?}");
        let [default, closed, inner] = &wanted.networks[..] else { panic!("want three, got {names:?}") };
        assert_eq!((default.name.as_str(), default.bridge.as_deref()), ("docker/bridge", Some("docker0")));
        assert_eq!((default.masquerade, default.icc), (Some(true), Some(false)));
        assert_eq!((closed.name.as_str(), closed.icc, closed.internal), ("docker/closed", Some(false), false));
        assert!(closed.bridge.as_ref().is_some_and(|bridge| bridge.starts_with("br-") && bridge.len() == 15));
        assert_eq!((inner.name.as_str(), inner.internal, inner.subnets.len()), ("docker/inner", true, 1));
    }

    #[test]
    fn a_label_opens_ports_to_some_sources_only() {
        let mut said = said();
        label(&mut said, FROM, "80/tcp=10.0.0.0/8,9001=192.0.2.1");
        let wanted = wanted(&said, true);
        let from: Vec<_> = find(&wanted, "web").ports.iter().map(|p| (p.host_port, p.count, p.from.len())).collect();
        assert_eq!(from, [(8080, 1, 1), (9000, 1, 0), (9001, 1, 1), (9002, 2, 0), (32771, 1, 0)]);
    }

    #[test]
    fn a_label_closes_a_container() {
        let mut said = said();
        assert!(find(&wanted(&said, true), "web").icc);
        label(&mut said, ICC, "false");
        assert!(!find(&wanted(&said, true), "web").icc);
    }

    #[test]
    fn a_container_with_a_label_that_means_nothing_is_not_served() {
        for (key, value, why) in [
            (FROM, "80=everybody", "80=everybody"),
            (FROM, "7=10.0.0.0/8", "publishes no such port"),
            ("netpath.form", "x", "unknown label `netpath.form`"),
            (ICC, "perhaps", "netpath.icc"),
        ] {
            let mut said = said();
            label(&mut said, key, value);
            let wanted = wanted(&said, true);
            assert!(wanted.faults["web"].contains(why), "{key}={value}: {:?}", wanted.faults);
            assert!(wanted.containers.iter().all(|container| container.name != "web"));
        }
    }

    #[test]
    fn a_label_of_a_network_closes_it() {
        let mut said = said();
        let inner = said.networks.iter_mut().find(|network| network.name.as_deref() == Some("inner")).unwrap();
        inner.labels = Some(HashMap::from([(ICC.to_owned(), "false".to_owned())]));
        assert_eq!(wanted(&said, true).networks[2].icc, Some(false));
        let inner = said.networks.iter_mut().find(|network| network.name.as_deref() == Some("inner")).unwrap();
        inner.labels = Some(HashMap::from([(ICC.to_owned(), "perhaps".to_owned())]));
        assert!(wanted(&said, true).faults["docker/inner"].contains("perhaps"));
    }

    #[test]
    fn links_are_named_as_netpath_names_them() {
        assert_eq!(link("/db:/web/alias"), "db:alias");
        assert_eq!(find(&wanted(&said(), true), "app").links, ["web:w"]);
    }

    #[test]
    fn of_a_container_that_tells_nothing_what_the_list_says_is_known() {
        let mut said = said();
        said.details.clear();
        let wanted = wanted(&said, true);
        let web = find(&wanted, "web");
        assert_eq!((web.is_known, web.pid, web.ports.len()), (false, None, 3));
        assert!(find(&wanted, "app").links.is_empty());
    }

    #[test]
    fn who_is_on_his_way_is_not_served_yet() {
        let mut said = said();
        for network in &mut said.networks {
            let all = network.containers.take().unwrap_or_default();
            network.containers = Some(all.into_iter().map(|(id, member)| (format!("ep-{id}"), member)).collect());
        }
        assert!(wanted(&said, true).containers.is_empty());
    }

    #[test]
    fn nobody_misses_what_is_forgotten_of_networks() {
        let (mut said, whole) = (said(), wanted(&said(), true));
        said::forget_unread(&mut said.networks, &said.summaries);
        let members = || said.networks.iter().filter_map(|network| network.containers.as_ref()).flatten();
        assert!(members().count() > 0 && members().all(|(_, member)| member.endpoint_id.is_none()));
        assert!(members().all(|(_, member)| member.name.is_none()), "each has a summary in the sample");
        assert_eq!(wanted(&said, true), whole);
    }

    fn said() -> Said {
        let details: Vec<ContainerInspectResponse> = serde_json::from_str(DETAILS).unwrap();
        let summaries: Vec<ContainerSummary> = serde_json::from_str(CONTAINERS).unwrap();
        Said {
            networks: serde_json::from_str(NETWORKS).unwrap(),
            summaries: summaries.into_iter().filter_map(Summary::of).collect(),
            details: details.into_iter().map(|details| (details.id.clone().unwrap(), details.into())).collect(),
        }
    }

    fn label(said: &mut Said, key: &str, value: &str) {
        let web = said.summaries.iter_mut().find(|summary| summary.name.as_deref() == Some("web")).unwrap();
        web.labels.insert(key.to_owned(), value.to_owned());
    }

    fn find<'a>(wanted: &'a Wanted, name: &str) -> &'a Container {
        wanted.containers.iter().find(|container| container.name == name).unwrap()
    }
}
