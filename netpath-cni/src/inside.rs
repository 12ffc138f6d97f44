//! Looking at interfaces, the host's and a container's, and setting routes: where the agent's word is not enough.

use std::path::Path;

use netpath_agent::api::{Endpoint, Netns as NetnsName};
use netpath_agent::externals::Interfaces;
use netpath_agent::netlink::{Link, Netlink};
use netpath_agent::netns::Netns;

use crate::agent::Agent;
use crate::error::{CniError, Code};
use crate::result::{Interface, Route};

/// Whether two names stand for one namespace.
pub(crate) fn is_same(one: &NetnsName, other: &NetnsName) -> Result<bool, CniError> {
    let id = |name: &NetnsName| Netns::open(name).and_then(|netns| netns.id());
    Ok(id(one).map_err(|error| failed(&error))? == id(other).map_err(|error| failed(&error))?)
}

/// What is in the namespace at `path`.
pub(crate) fn look(agent: &Agent, path: &Path) -> Result<Interfaces, CniError> {
    let look = async { Netns::open(&NetnsName::Path(path.to_owned()))?.look().await };
    agent.block_on(look).map_err(|error| failed(&error))
}

/// Adds routes that lead to gateways behind `endpoint`; one without a gateway leads to the network's.
pub(crate) fn add_routes(agent: &Agent, path: &Path, routes: &[Route], endpoint: &Endpoint) -> Result<(), CniError> {
    if routes.is_empty() {
        return Ok(());
    }
    let mut all = Vec::new();
    for route in routes {
        let own = if route.dst.addr().is_ipv4() {
            endpoint.gateway.map(Into::into)
        } else {
            endpoint.gateway6.map(Into::into)
        };
        let none = || {
            CniError::new(
                Code::InvalidConfig,
                format!("route to {}: network and IPAM plugin name no gateway", route.dst),
            )
        };
        all.push((route.dst, route.gw.or(own).ok_or_else(none)?));
    }
    let add = async { Netns::open(&NetnsName::Path(path.to_owned()))?.add_routes(all).await };
    agent.block_on(add).map_err(|error| failed(&error))
}

/// Interfaces of the host, as a result shows them.
pub(crate) fn host_interfaces(agent: &Agent, names: &[&str]) -> Result<Vec<Interface>, CniError> {
    let find = async {
        let netlink = Netlink::connect()?;
        let mut links = Vec::new();
        for name in names {
            links.push(netlink.link(name).await?);
        }
        Ok(links)
    };
    let links = agent.block_on(find).map_err(|error| failed(&error))?;
    let shown = names.iter().zip(links).map(|(name, link)| {
        let gone = || CniError::new(Code::Changed, format!("the host has no interface {name}"));
        let link = link.ok_or_else(gone)?;
        Ok(Interface { name: link.ifname, mac: mac(link.mac), mtu: Some(link.mtu), sandbox: String::new() })
    });
    shown.collect()
}

/// The host's interface of that name.
pub(crate) fn host_link(agent: &Agent, name: &str) -> Result<Option<Link>, CniError> {
    agent.block_on(async { Netlink::connect()?.link(name).await }).map_err(|error| failed(&error))
}

/// The host's interfaces.
pub(crate) fn host_links(agent: &Agent) -> Result<Vec<Link>, CniError> {
    agent.block_on(async { Netlink::connect()?.links().await }).map_err(|error| failed(&error))
}

pub(crate) fn delete_host_link(agent: &Agent, ifindex: u32) -> Result<(), CniError> {
    agent.block_on(async { Netlink::connect()?.delete_link(ifindex).await }).map_err(|error| failed(&error))
}

pub(crate) fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn failed(error: &anyhow::Error) -> CniError {
    CniError::new(Code::Io, format!("{error:#}"))
}
