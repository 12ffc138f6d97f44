//! `setup` and `teardown`: connects a container to one network, and disconnects it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use netpath_agent::api::{Container, Endpoint, NetworkCreated};
use netpath_agent::client::{container_path, encode, network_path};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::network::Network;
use crate::options::{Options, socket};

/// What netavark says of a container and one of its networks.
#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    container_id: String,
    port_mappings: Option<Vec<PortMapping>>,
    network: Network,
    network_options: PerNetwork,
}

#[derive(Debug, Deserialize)]
struct PerNetwork {
    interface_name: String,
    static_ips: Option<Vec<IpAddr>>,
    static_mac: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PortMapping {
    container_port: u16,
    host_port: u16,
    #[serde(default)]
    host_ip: String,
    /// One, or several with commas.
    protocol: String,
    /// Number of ports.
    #[serde(default)]
    range: u16,
}

pub(crate) fn set_up(request: &Request, netns: &Path) -> Result<Value> {
    let options = Options::of(&request.network)?;
    let agent = Agent::behind(&socket(options.socket.clone()))?;
    let name = options.name_of(&request.network);
    let own = options.own(&request.network);
    if agent.network(&name)?.is_none() {
        let Some(own) = &own else { bail!("netpath has no network `{name}` any more") };
        agent.post::<NetworkCreated>("/v1/networks", own)?;
    }
    let connected = connect(&agent, request, &name, netns);
    if connected.is_err() && own.is_some() {
        agent.delete_unused_network(&name)?;
    }
    let container = connected.with_context(|| format!("connect container {}", request.container_id))?;
    let endpoint = container.endpoints.iter().find(|endpoint| endpoint.network == name);
    Ok(status(endpoint.context("the agent does not know what it has connected")?))
}

pub(crate) fn tear_down(request: &Request) -> Result<()> {
    let options = Options::of(&request.network)?;
    let agent = Agent::behind(&socket(options.socket.clone()))?;
    let (name, interface) = (options.name_of(&request.network), &request.network_options.interface_name);
    let attachment = [&name, &request.container_id, interface].map(|part| encode(part)).join("/");
    agent.delete(&format!("/v1/cni/{attachment}"))?;
    if options.own(&request.network).is_some() {
        agent.delete_unused_network(&name)?;
    }
    Ok(())
}

/// A container that is there already gets one more interface: its ports are published by then.
fn connect(agent: &Agent, request: &Request, network: &str, netns: &Path) -> Result<Container> {
    let PerNetwork { interface_name, static_ips, static_mac } = &request.network_options;
    let ips = || static_ips.iter().flatten();
    let mut body = json!({
        "interface": interface_name,
        "cni": network,
        "address": ips().find(|ip| ip.is_ipv4()),
        "address6": ips().find(|ip| ip.is_ipv6()),
        "mac": static_mac,
    });
    let known: Option<Value> = agent.find(&container_path(&request.container_id))?;
    if known.is_some() {
        body["container"] = json!(request.container_id);
        return agent.post(&format!("{}/endpoints", network_path(network)), &body);
    }
    body["name"] = json!(request.container_id);
    body["netns"] = json!({ "path": netns });
    body["network"] = json!(network);
    // Podman holds a socket for each; without its port reservation nobody is to.
    body["keeps_ports"] = json!(true);
    body["publish"] = json!(specs(request.port_mappings.as_deref().unwrap_or_default()));
    agent.post("/v1/containers", &body)
}

/// The mappings as `-p` has them.
fn specs(mappings: &[PortMapping]) -> Vec<String> {
    let protocols = |mapping: &PortMapping| mapping.protocol.split(',').map(str::to_owned).collect::<Vec<_>>();
    mappings.iter().flat_map(|mapping| protocols(mapping).into_iter().map(|proto| spec(mapping, &proto))).collect()
}

fn spec(mapping: &PortMapping, proto: &str) -> String {
    let ports = |first: u16| match mapping.range {
        0 | 1 => first.to_string(),
        count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
    };
    let address = match mapping.host_ip.as_str() {
        "" => String::new(),
        v6 if v6.contains(':') => format!("[{v6}]:"),
        v4 => format!("{v4}:"),
    };
    format!("{address}{}:{}/{proto}", ports(mapping.host_port), ports(mapping.container_port))
}

/// What netavark hands on to Podman.
fn status(endpoint: &Endpoint) -> Value {
    let net = |address: IpAddr, prefix_len| IpNet::new(address, prefix_len).ok();
    let v4 = endpoint.address.and_then(|address| net(address.into(), endpoint.prefix_len));
    let v6 = endpoint.address6.and_then(|address| net(address.into(), endpoint.prefix_len6));
    let gateways = [endpoint.gateway.map(IpAddr::V4), endpoint.gateway6.map(IpAddr::V6)];
    let subnets = [v4, v6]
        .into_iter()
        .zip(gateways)
        .filter_map(|(net, gateway)| Some(json!({ "ipnet": net?, "gateway": gateway })));
    json!({
        "dns_search_domains": [],
        "dns_server_ips": [],
        "interfaces": { &endpoint.interface: { "mac_address": endpoint.mac, "subnets": subnets.collect::<Vec<_>>() } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_become_what_the_agent_takes() {
        let mapping = |host_ip: &str, host_port, container_port, protocol: &str, range| PortMapping {
            container_port,
            host_port,
            host_ip: host_ip.to_owned(),
            protocol: protocol.to_owned(),
            range,
        };
        let mappings = [
            mapping("", 8080, 80, "tcp,udp", 1),
            mapping("192.0.2.1", 7000, 9000, "udp", 3),
            mapping("::1", 65535, 443, "sctp", 0),
        ];
        assert_eq!(
            specs(&mappings),
            ["8080:80/tcp", "8080:80/udp", "192.0.2.1:7000-7002:9000-9002/udp", "[::1]:65535:443/sctp"]
        );
    }
}
