//! ADD: connects the container, or does nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use netpath_agent::api::{Attach, Connect, Container, Endpoint, Netns, Network, Ports};
use netpath_agent::client::{container_path, network_path};
use netpath_agent::cni::Attachment;
use serde_json::Value;

use crate::agent::{Agent, Failure};
use crate::error::{CniError, Code};
use crate::result::{Interface, Ip, Route, Success};
use crate::{Request, chained, inside, ipam, network, ports};

pub(crate) fn add(request: &Request) -> Result<Value, CniError> {
    if let Some(before) = &request.config.prev_result {
        return chained::add(request, before);
    }
    let given = ipam::add(request)?;
    let added = connect(request, given.as_ref());
    added.map_err(|error| if given.is_some() { ipam::with_undone(request, error) } else { error })
}

impl Request {
    /// What the runtime calls the interface that this is about.
    pub(crate) fn attachment(&self) -> Attachment {
        Attachment {
            network: self.config.name.clone(),
            container: self.environment.container.clone(),
            interface: self.environment.ifname.clone(),
        }
    }

    pub(crate) fn netns(&self) -> Result<&Path, CniError> {
        let missing = || CniError::new(Code::InvalidEnvironment, "missing: CNI_NETNS");
        self.environment.netns.as_deref().ok_or_else(missing)
    }

    /// Whether an endpoint is the one that this is about.
    pub(crate) fn is_about(&self, endpoint: &Endpoint) -> bool {
        endpoint.interface == self.environment.ifname && endpoint.cni.as_ref() == Some(&self.config.name)
    }
}

fn connect(request: &Request, given: Option<&Success>) -> Result<Value, CniError> {
    let agent = Agent::behind(&request.config.socket)?;
    let attach = wanted(request, given)?;
    let (missing, network) = (network::own(&request.config, given), request.config.network());
    let attach = || attach_or_connect(&agent, request, &attach, network);
    let container = network::with(&agent, missing.as_ref(), attach)?;
    let finished = finish(&agent, request, given, &container);
    finished.map_err(|error| match agent.remove(&request.attachment()) {
        Ok(_) => error,
        Err(failure) => error.and(&failure.error()),
    })
}

fn wanted(request: &Request, given: Option<&Success>) -> Result<Attach, CniError> {
    let (address, address6) = match given {
        Some(given) => by_family(given.ips.iter().map(|ip| ip.address.addr()))?,
        None => by_family(asked_addresses(request)?)?,
    };
    let mac = request.config.mac().or(request.environment.args.get("MAC").map(String::as_str));
    Ok(Attach { address, address6, mac: mac.map(str::to_owned), ..self::request(request)? })
}

/// What the agent is asked for whoever makes the interface.
pub(crate) fn request(request: &Request) -> Result<Attach, CniError> {
    let (config, environment) = (&request.config, &request.environment);
    Ok(Attach {
        name: environment.container.clone(),
        netns: Netns::Path(request.netns()?.to_owned()),
        network: Some(config.network().to_owned()),
        interface: Some(environment.ifname.clone()),
        cni: Some(config.name.clone()),
        publish: ports::specs(&config.runtime_config.port_mappings)?,
        from: Vec::new(),
        publish_all: false,
        keeps_ports: false,
        icc: None,
        expose: Vec::new(),
        links: Vec::new(),
        address: None,
        address6: None,
        mac: None,
        hostname: None,
        command: Vec::new(),
        env: Vec::new(),
        names: None,
        adopt: Vec::new(),
    })
}

/// Addresses that the runtime asks for, with or without a prefix length.
fn asked_addresses(request: &Request) -> Result<Vec<IpAddr>, CniError> {
    let texts = request.config.ips().iter().chain(request.environment.args.get("IP"));
    let parse = |text: &String| text.parse().or_else(|_| text.parse::<IpNet>().map(|net| net.addr()));
    let invalid = |text| CniError::new(Code::InvalidConfig, format!("`{text}` is no address"));
    texts.map(|text| parse(text).map_err(|_| invalid(text))).collect()
}

pub(crate) fn by_family(
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), CniError> {
    let (mut v4, mut v6) = (None, None);
    for address in addresses {
        let earlier = match address {
            IpAddr::V4(address) => v4.replace(address).map(IpAddr::V4),
            IpAddr::V6(address) => v6.replace(address).map(IpAddr::V6),
        };
        if let Some(earlier) = earlier {
            let error = format!("{earlier} and {address} are of one family: an interface has one address of each");
            return Err(CniError::new(Code::InvalidConfig, error));
        }
    }
    Ok((v4, v6))
}

/// A container that has attachments already gets one more interface.
pub(crate) fn attach_or_connect(
    agent: &Agent,
    request: &Request,
    attach: &Attach,
    network: &str,
) -> Result<Container, Failure> {
    match agent.post("/v1/containers", attach) {
        Err(Failure::Taken(error)) => match agent.container(&attach.name)? {
            Some(container) if is_cnis(&container) => join(agent, request, attach, network, &container),
            _ => Err(Failure::Taken(error)),
        },
        attached => attached,
    }
}

fn is_cnis(container: &Container) -> bool {
    container.endpoints.iter().any(|endpoint| endpoint.cni.is_some())
}

fn join(
    agent: &Agent,
    request: &Request,
    attach: &Attach,
    network: &str,
    container: &Container,
) -> Result<Container, Failure> {
    if !inside::is_same(&container.netns, &attach.netns).map_err(Failure::Other)? {
        let error = format!("container `{}` is in another network namespace than CNI_NETNS", attach.name);
        return Err(Failure::Other(CniError::new(Code::InvalidEnvironment, error)));
    }
    let path = format!("{}/endpoints", network_path(network));
    let connect = Connect {
        container: attach.name.clone(),
        interface: attach.interface.clone(),
        address: attach.address,
        address6: attach.address6,
        mac: attach.mac.clone(),
        cni: attach.cni.clone(),
        adopt: attach.adopt.first().cloned(),
    };
    let connected: Container = agent.post(&path, &connect)?;
    // A runtime tells all networks of a container the same mappings.
    let missing: Vec<_> = ports::missing(&request.config.runtime_config.port_mappings, &connected);
    if missing.is_empty() {
        return Ok(connected);
    }
    let missing: Vec<_> = missing.into_iter().cloned().collect();
    let ports = ports::specs(&missing).map_err(Failure::Other)?;
    let published = agent.post(&format!("{}/ports", container_path(&attach.name)), &Ports { ports, from: Vec::new() });
    if published.is_err() {
        // The failure says why there is no attachment; this one only would be left of it.
        let _ = agent.remove(&request.attachment());
    }
    published
}

/// What the agent does not do: routes of its own to other places than everywhere. Then the answer.
fn finish(agent: &Agent, request: &Request, given: Option<&Success>, container: &Container) -> Result<Value, CniError> {
    let endpoint = container.endpoints.iter().find(|endpoint| request.is_about(endpoint));
    let lost = || CniError::new(Code::Agent, "the agent has lost the interface that it has just made");
    let endpoint = endpoint.ok_or_else(lost)?;
    let mut routes = default_routes(container, endpoint);
    if let Some(given) = given {
        check_subnets(given, endpoint)?;
        let more: Vec<Route> = given.routes.iter().filter(|route| route.dst.prefix_len() != 0).cloned().collect();
        inside::add_routes(agent, request.netns()?, &more, endpoint)?;
        routes.extend(more);
    }
    let network: Network = network::find(agent, &request.config)?;
    let names: Vec<&str> = network.bridge.as_deref().into_iter().chain([endpoint.ifname.as_str()]).collect();
    let host = inside::host_interfaces(agent, &names)?;
    let own = Interface {
        name: endpoint.interface.clone(),
        mac: endpoint.mac.clone(),
        mtu: Some(endpoint.mtu),
        sandbox: request.netns()?.display().to_string(),
    };
    let dns = given.map(|given| given.dns.clone()).filter(|dns| dns.as_object().is_some_and(|dns| !dns.is_empty()));
    let success = Success {
        ips: addresses(endpoint, host.len()),
        interfaces: host.into_iter().chain([own]).collect(),
        routes,
        dns: dns.or(request.config.dns.clone()).unwrap_or_default(),
    };
    Ok(success.json(request.config.version))
}

/// The default routes that lead through `endpoint`: the first with a gateway has them.
fn default_routes(container: &Container, endpoint: &Endpoint) -> Vec<Route> {
    let first4 = container.endpoints.iter().find(|endpoint| endpoint.gateway.is_some());
    let first6 = container.endpoints.iter().find(|endpoint| endpoint.gateway6.is_some());
    let v4 = endpoint.gateway.filter(|_| first4 == Some(endpoint)).map(IpAddr::V4);
    let v6 = endpoint.gateway6.filter(|_| first6 == Some(endpoint)).map(IpAddr::V6);
    let everywhere = |gateway: IpAddr| match gateway {
        IpAddr::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    let gateways = v4.into_iter().chain(v6);
    gateways.map(|gateway| Route { dst: everywhere(gateway), gw: Some(gateway) }).collect()
}

/// The network may be older than the IPAM plugin's configuration.
fn check_subnets(given: &Success, endpoint: &Endpoint) -> Result<(), CniError> {
    for ip in &given.ips {
        let (length, gateway) = match ip.address {
            IpNet::V4(_) => (endpoint.prefix_len, endpoint.gateway.map(IpAddr::V4)),
            IpNet::V6(_) => (endpoint.prefix_len6, endpoint.gateway6.map(IpAddr::V6)),
        };
        if ip.address.prefix_len() != length || ip.gateway.is_some_and(|asked| gateway.is_some_and(|has| has != asked))
        {
            let gateway = gateway.map_or_else(|| "none".to_owned(), |gateway| gateway.to_string());
            let network = &endpoint.network;
            let error = format!(
                "the IPAM plugin gave {}, but network `{network}` has prefix length {length} and gateway {gateway}; \
                 remove the network with `netpath network rm {network}`, and it is made anew",
                ip.address
            );
            return Err(CniError::new(Code::InvalidConfig, error));
        }
    }
    Ok(())
}

/// The addresses of an endpoint whose interface stands at `index` in the result.
pub(crate) fn addresses(endpoint: &Endpoint, index: usize) -> Vec<Ip> {
    let v4 =
        endpoint.address.map(|address| (IpAddr::V4(address), endpoint.prefix_len, endpoint.gateway.map(IpAddr::V4)));
    let v6 =
        endpoint.address6.map(|address| (IpAddr::V6(address), endpoint.prefix_len6, endpoint.gateway6.map(IpAddr::V6)));
    let ip = |(address, length, gateway)| Ip {
        address: IpNet::new_assert(address, length),
        gateway,
        interface: Some(index),
    };
    v4.into_iter().chain(v6).map(ip).collect()
}
