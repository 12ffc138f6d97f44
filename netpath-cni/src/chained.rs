//! Behind another main plugin, which has made the interfaces: netpath adopts them, publishes ports, and leaves what the
//! other one said as it is.

use std::net::IpAddr;

use ipnet::IpNet;
use netpath_agent::api::{AdoptedInterface, Attach, Network, NetworkCreate};
use netpath_agent::netlink::Link;
use serde_json::Value;

use crate::agent::{Agent, Failure};
use crate::error::{CniError, Code};
use crate::result::{Ip, Success};
use crate::{Request, add, inside, network};

/// What the plugin before has made.
struct Made<'a> {
    /// `None`: the host routes to the container's interface by itself.
    bridge: Option<Link>,
    /// The host's end of the container's interface.
    host: Link,
    ips: Vec<&'a Ip>,
}

pub(crate) fn add(request: &Request, before: &Value) -> Result<Value, CniError> {
    let success = Success::parse(before)?;
    let agent = Agent::behind(&request.config.socket)?;
    let made = made(&agent, request, &success)?;
    let known = match &request.config.network {
        Some(name) => Some(name.clone()),
        None => made.known_network(&agent)?,
    };
    let missing = if known.is_none() { Some(made.network(request)?) } else { None };
    let network = known.unwrap_or_else(|| request.config.name.clone());
    let (address, address6) = add::by_family(made.ips.iter().map(|ip| ip.address.addr()))?;
    let interface = request.environment.ifname.clone();
    let adopted = AdoptedInterface {
        network: network.clone(),
        ifname: made.host.ifname,
        interface,
        address,
        address6,
        mac: None,
    };
    let attach = Attach { network: Some(network.clone()), adopt: vec![adopted], ..add::request(request)? };
    network::with(&agent, missing.as_ref(), || add::attach_or_connect(&agent, request, &attach, &network))?;
    Ok(before.clone())
}

fn refuse(why: &str) -> CniError {
    CniError::new(Code::InvalidConfig, format!("chain after another plugin: {why}"))
}

fn made<'a>(agent: &Agent, request: &Request, before: &'a Success) -> Result<Made<'a>, CniError> {
    let ifname = &request.environment.ifname;
    // Some plugins do not list it.
    let index = before.interfaces.iter().position(|known| !known.sandbox.is_empty() && known.name == *ifname);
    let is_its = |ip: &&Ip| index.is_none() || ip.interface.is_none() || ip.interface == index;
    let ips: Vec<&Ip> = before.ips.iter().filter(is_its).collect();
    if ips.is_empty() {
        return Err(refuse(&format!("`prevResult` has no address of {ifname}")));
    }
    let inside = inside::look(agent, request.netns()?)?.links;
    let own = inside.iter().find(|link| link.ifname == *ifname);
    let own = own.ok_or_else(|| refuse(&format!("the container has no interface {ifname}")))?;
    if own.kind.as_deref() != Some("veth") {
        let kind = own.kind.as_deref().unwrap_or("network card");
        return Err(refuse(&format!(
            "{ifname} of the container is a {kind}, whose packets do not pass through the host; netpath serves veth pairs"
        )));
    }
    let links = inside::host_links(agent)?;
    let is_other_end = |link: &&Link| Some(link.ifindex) == own.peer && link.peer == Some(own.ifindex);
    let host = links.iter().find(is_other_end).filter(|_| own.peer_netns.is_some()).cloned();
    let host = host.ok_or_else(|| refuse(&format!("the other end of {ifname} is not in the host's namespace")))?;
    let master = links.iter().find(|link| Some(link.ifindex) == host.master).cloned();
    if let Some(master) = master.as_ref().filter(|master| !master.bridge) {
        let (host, master) = (&host.ifname, &master.ifname);
        return Err(refuse(&format!("{host}, the host's end of {ifname}, belongs to {master}, which is no bridge")));
    }
    Ok(Made { bridge: master, host, ips })
}

impl Made<'_> {
    /// The network that has the bridge, or the addresses without one: several lists may share it.
    fn known_network(&self, agent: &Agent) -> Result<Option<String>, Failure> {
        let networks: Vec<Network> = agent.get("/v1/networks")?;
        let bridge = self.bridge.as_ref().map(|bridge| &bridge.ifname);
        let has_addresses = |network: &Network| {
            let subnets = || [network.v4, network.v6].into_iter().flatten();
            self.ips.iter().all(|ip| subnets().any(|subnet| subnet.subnet.contains(&ip.address.addr())))
        };
        let is_it =
            |network: &Network| network.bridge.as_ref() == bridge && (bridge.is_some() || has_addresses(network));
        Ok(networks.into_iter().find(is_it).map(|network| network.name))
    }

    /// The network to make.
    fn network(&self, request: &Request) -> Result<NetworkCreate, CniError> {
        let config = &request.config;
        // Those behind a bridge are the bridge's.
        let mut subnets = if self.bridge.is_none() { config.subnets() } else { Vec::new() };
        if subnets.is_empty() {
            subnets = self.ips.iter().map(|ip| ip.address.trunc()).collect();
        }
        let is_host = |subnet: &&IpNet| subnet.prefix_len() == subnet.max_prefix_len();
        if let Some(single) = subnets.iter().find(is_host).filter(|_| self.bridge.is_none()) {
            let error = format!("{single} is a single address; say with `subnet` which ones the containers have");
            return Err(refuse(&error));
        }
        let is_in_subnet = |addr: &IpAddr| subnets.iter().any(|subnet| subnet.contains(addr));
        let gateways = self.ips.iter().filter_map(|ip| ip.gateway).filter(is_in_subnet);
        let (bridge, gateways, mtu) = match &self.bridge {
            // Its addresses say.
            Some(bridge) => (Some(bridge.ifname.clone()), Vec::new(), None),
            None => (None, gateways.collect(), Some(self.host.mtu)),
        };
        Ok(NetworkCreate { subnets, gateways, bridge, mtu, adopt: true, ..config.wanted() })
    }
}
