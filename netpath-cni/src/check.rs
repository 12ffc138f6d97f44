//! CHECK: whether the container's network is still what ADD made of it.

use std::net::IpAddr;

use ipnet::IpNet;
use netpath_agent::api::{Container, Endpoint, Netns, Network};
use netpath_agent::client::network_path;

use crate::agent::Agent;
use crate::error::{CniError, Code};
use crate::result::{Interface, Ip, Success};
use crate::{Request, inside, ipam, ports};

pub(crate) fn check(request: &Request) -> Result<(), CniError> {
    let missing = || CniError::new(Code::InvalidConfig, "`prevResult` is missing");
    let before = Success::parse(request.config.prev_result.as_ref().ok_or_else(missing)?)?;
    let agent = Agent::behind(&request.config.socket)?;
    let name = &request.environment.container;
    let unknown = |what: String| CniError::new(Code::UnknownContainer, what);
    let container = agent.container(name)?.ok_or_else(|| unknown(format!("no container is called `{name}`")))?;
    let endpoint = container.endpoints.iter().find(|endpoint| request.is_about(endpoint));
    let interface = &request.environment.ifname;
    let endpoint = endpoint.ok_or_else(|| {
        unknown(format!("{interface} of container `{name}` is no attachment to network `{}`", request.config.name))
    })?;
    let own = Netns::Path(request.netns()?.to_owned());
    if !inside::is_same(&container.netns, &own)? {
        return Err(changed(format!("container `{name}` was connected in another network namespace than CNI_NETNS")));
    }
    check_endpoint(&before, endpoint)?;
    check_ports(request, &container)?;
    check_host(&agent, endpoint)?;
    check_inside(&agent, request, &before, endpoint)?;
    ipam::pass_on(request, "CHECK")
}

/// What the agent serves is what the result says.
fn check_endpoint(before: &Success, endpoint: &Endpoint) -> Result<(), CniError> {
    let served = [endpoint.address.map(IpAddr::V4), endpoint.address6.map(IpAddr::V6)];
    match expected(before, endpoint).find(|net| !served.contains(&Some(net.addr()))) {
        Some(net) => Err(changed(format!("netpath does not serve {net} at {}", endpoint.interface))),
        None => Ok(()),
    }
}

/// The addresses that the result gives the interface.
fn expected<'a>(before: &'a Success, endpoint: &Endpoint) -> impl Iterator<Item = IpNet> + 'a {
    let is_it = |known: &Interface| !known.sandbox.is_empty() && known.name == endpoint.interface;
    let index = before.interfaces.iter().position(is_it);
    let of_this = move |ip: &&Ip| ip.interface.is_none() || ip.interface == index;
    before.inside().filter(of_this).map(|ip| ip.address)
}

fn check_ports(request: &Request, container: &Container) -> Result<(), CniError> {
    let missing = ports::missing(&request.config.runtime_config.port_mappings, container);
    match missing.first() {
        Some(mapping) => Err(changed(format!(
            "host port {}/{} is not published for port {} of container `{}`",
            mapping.host_port, mapping.protocol, mapping.container_port, container.name
        ))),
        None => Ok(()),
    }
}

fn check_host(agent: &Agent, endpoint: &Endpoint) -> Result<(), CniError> {
    let link = inside::host_link(agent, &endpoint.ifname)?;
    let link = link.ok_or_else(|| changed(format!("the host has no interface {}", endpoint.ifname)))?;
    if !link.up {
        return Err(changed(format!("interface {} of the host is down", link.ifname)));
    }
    let network: Network = agent.get(&network_path(&endpoint.network))?;
    match network.bridge {
        Some(bridge) if link.master.is_none() => {
            Err(changed(format!("interface {} of the host is not in bridge {bridge}", link.ifname)))
        }
        _ => Ok(()),
    }
}

fn check_inside(agent: &Agent, request: &Request, before: &Success, endpoint: &Endpoint) -> Result<(), CniError> {
    let found = inside::look(agent, request.netns()?)?;
    let name = &endpoint.interface;
    let link = found.links.iter().find(|link| link.ifname == *name);
    let link = link.ok_or_else(|| changed(format!("the container has no interface {name}")))?;
    if inside::mac(link.mac) != endpoint.mac {
        let mac = inside::mac(link.mac);
        return Err(changed(format!(
            "interface {name} of the container has hardware address {mac}, want {}",
            endpoint.mac
        )));
    }
    if !link.up {
        return Err(changed(format!("interface {name} of the container is down")));
    }
    for net in expected(before, endpoint) {
        if !found.addresses.iter().any(|address| address.ifindex == link.ifindex && address.net == net) {
            return Err(changed(format!("interface {name} of the container has lost its address {net}")));
        }
    }
    // A later plugin may have given a route another gateway.
    for route in &before.routes {
        if !found.routes.iter().any(|known| known.dst.trunc() == route.dst.trunc()) {
            return Err(changed(format!("the container has no route to {}", route.dst)));
        }
    }
    Ok(())
}

fn changed(message: String) -> CniError {
    CniError::new(Code::Changed, message)
}
