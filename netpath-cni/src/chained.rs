//! Behind another main plugin, which has made bridge and interface: netpath adopts both, publishes ports, and leaves what
//! the other one said as it is.

use netpath_agent::api::{AdoptedInterface, Attach, Network};
use netpath_agent::netlink::Link;
use serde_json::Value;

use crate::agent::{Agent, Failure};
use crate::error::{CniError, Code};
use crate::result::{Ip, Success};
use crate::{Request, add, inside, network};

/// What the plugin before has made.
struct Made<'a> {
    bridge: String,
    /// The host's end of the container's interface.
    veth: String,
    addresses: Vec<&'a Ip>,
}

pub(crate) fn add(request: &Request, before: &Value) -> Result<Value, CniError> {
    let success = Success::parse(before)?;
    let agent = Agent::behind(&request.config.socket)?;
    let made = made(&agent, request, &success)?;
    let network = match &request.config.network {
        Some(name) => name.clone(),
        None => of_bridge(&agent, &made.bridge)?.unwrap_or_else(|| request.config.name.clone()),
    };
    let subnets = made.addresses.iter().map(|ip| ip.address.trunc()).collect();
    let missing = network::adopted(&request.config, &made.bridge, subnets);
    let (address, address6) = add::by_family(made.addresses.iter().map(|ip| ip.address.addr()))?;
    let interface = request.environment.ifname.clone();
    let adopted =
        AdoptedInterface { network: network.clone(), ifname: made.veth, interface, address, address6, mac: None };
    let attach = Attach { network: Some(network.clone()), adopt: vec![adopted], ..add::request(request)? };
    network::with(&agent, missing.as_ref(), || add::attach_or_connect(&agent, request, &attach, &network))?;
    Ok(before.clone())
}

/// The network that a bridge belongs to: several lists may share one.
fn of_bridge(agent: &Agent, bridge: &str) -> Result<Option<String>, Failure> {
    let networks: Vec<Network> = agent.get("/v1/networks")?;
    Ok(networks.into_iter().find(|network| network.bridge == bridge).map(|network| network.name))
}

fn made<'a>(agent: &Agent, request: &Request, before: &'a Success) -> Result<Made<'a>, CniError> {
    let ifname = &request.environment.ifname;
    let refuse = |why: String| CniError::new(Code::InvalidConfig, format!("chain after another plugin: {why}"));
    let index = before.interfaces.iter().position(|known| !known.sandbox.is_empty() && known.name == *ifname);
    let index = index.ok_or_else(|| refuse(format!("`prevResult` has no interface {ifname} of the container")))?;
    let addresses: Vec<&Ip> = before.ips.iter().filter(|ip| ip.interface.is_none_or(|other| other == index)).collect();
    if addresses.is_empty() {
        return Err(refuse(format!("`prevResult` has no address of {ifname}")));
    }
    let links = inside::host_links(agent)?;
    let hosts = before.interfaces.iter().filter(|known| known.sandbox.is_empty());
    let bridge_of = |link: &Link| links.iter().find(|bridge| Some(bridge.ifindex) == link.master && bridge.bridge);
    for host in hosts {
        let link = links.iter().find(|link| link.ifname == host.name);
        if let Some((link, bridge)) = link.and_then(|link| Some((link, bridge_of(link)?))) {
            return Ok(Made { bridge: bridge.ifname.clone(), veth: link.ifname.clone(), addresses });
        }
    }
    Err(refuse(format!(
        "no host interface of `prevResult` is in a bridge, which is what netpath can serve {ifname} behind"
    )))
}
