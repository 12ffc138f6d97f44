//! The runner behind `netpath run`: a command in its own network, mount and UTS namespaces.
//!
//! Order: the child makes its namespaces and waits; the agent connects it and writes its files; the child lays
//! them over those in `/etc` and becomes the command. Whatever fails before that, the command never starts.
//! A container is gone when its command has ended (`docker run --rm`); a detached one leaves its log.

mod child;
pub mod process;

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::gethostname;

use crate::api::{Attach, Container, Names, Netns};
use crate::cli::{EndpointArgs, RunArgs, Variable};
use crate::client::{Client, ClientError, container_path};
use crate::commands::block_on;
use crate::names::link::{self, Link};
use crate::names::resolv_conf::Dns;
use crate::names::{self, NameFiles};
use crate::network_mode::{Asked, NetworkMode};
use crate::port_spec;
use child::{Child, Network, Order, Setup};

/// How `netpath run` ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command goes on in the background.
    Detached { name: String },
    /// The command ended, or could not be started (126, 127 as shells have it).
    Ended { status: u8 },
}

/// Starts the command and, unless detached, waits for its end. Must run on a process without threads.
pub fn run(client: &Client, args: RunArgs) -> Result<Outcome> {
    let mode = check_mode(&args)?;
    let name = args.name.clone().map_or_else(random_name, Ok)?;
    let joined = match &mode {
        NetworkMode::Container(target) => Some(find_joined(client, &name, target)?),
        _ => None,
    };
    let hostname = hostname(&args, &mode, &name, joined.as_ref())?;
    let setup = Setup {
        network: match (&mode, &joined) {
            (NetworkMode::Host, _) => Network::Host,
            (_, Some(joined)) => Network::Join(path(&joined.netns)),
            _ => Network::New,
        },
        hostname,
        detach: args.detach,
    };
    let (detach, link_env) = (args.detach, args.link_env);
    let mut child = Child::spawn(&setup, &args.command)?;
    let pid = child.pid().as_raw().cast_unsigned();
    let request = request_to_run(args, &mode, &name, setup.hostname, pid);
    let env = request.env.iter().filter_map(|variable| variable.split_once('=')).map(owned).collect();
    let container: Container = block_on(client.post("/v1/containers", &request))??;
    let order = || -> Result<Order> {
        let mut order = Order {
            files: joined.as_ref().unwrap_or(&container).files.as_deref().map(NameFiles::mounts).unwrap_or_default(),
            env,
            log: detach.then(|| container.log_dir.join(format!("{name}.log"))),
        };
        if link_env {
            order.env.splice(0..0, link_variables(client, &container)?);
        }
        Ok(order)
    };
    match order().and_then(|order| child.release(&order)) {
        Ok(None) if detach => {
            child.leave();
            Ok(Outcome::Detached { name })
        }
        Ok(None) => {
            let status = process::wait(child.leave())?;
            remove(client, &name, pid);
            Ok(Outcome::Ended { status })
        }
        Ok(Some(failure)) => {
            drop(child);
            remove(client, &name, pid);
            eprintln!("error: {}", failure.message);
            Ok(Outcome::Ended { status: failure.status })
        }
        Err(e) => {
            drop(child);
            remove(client, &name, pid);
            Err(e)
        }
    }
}

/// What options of a container's network ask the agent for.
pub(crate) fn request(args: EndpointArgs, name: String, netns: Netns) -> Attach {
    Attach {
        name,
        netns,
        network: args.net,
        interface: None,
        cni: None,
        publish: args.publish,
        from: args.from,
        publish_all: args.publish_all,
        keeps_ports: false,
        icc: args.icc,
        expose: args.expose,
        links: args.link,
        address: args.ip,
        address6: args.ip6,
        mac: args.mac_address,
        hostname: None,
        command: Vec::new(),
        env: Vec::new(),
        names: None,
        adopt: Vec::new(),
    }
}

/// Refuses what contradicts `--net`, and warns of what has no effect.
fn check_mode(args: &RunArgs) -> Result<NetworkMode> {
    let mode: NetworkMode = args.endpoint.net.as_deref().map_or_else(|| Ok(NetworkMode::default()), str::parse)?;
    let asked = Asked {
        hostname: args.hostname.is_some(),
        links: !args.endpoint.link.is_empty(),
        dns: !args.names.dns.is_empty(),
        add_host: !args.names.add_host.is_empty(),
        mac_address: args.endpoint.mac_address.is_some(),
        address: args.endpoint.ip.is_some() || args.endpoint.ip6.is_some(),
        publish: !args.endpoint.publish.is_empty() || args.endpoint.publish_all,
        expose: !args.endpoint.expose.is_empty(),
    };
    mode.check(asked)?;
    if let Some(warning) = mode.warning(asked) {
        eprintln!("warning: {warning}");
    }
    Ok(mode)
}

/// The container whose network `name` is to join.
fn find_joined(client: &Client, name: &str, target: &str) -> Result<Container> {
    ensure!(name != target, "cannot join own network");
    match block_on(client.get(&container_path(target)))? {
        Err(e) if is_not_found(&e) => bail!("cannot join network of a non running container: {target}"),
        container => container,
    }
}

/// The host name inside: as asked for, that of the network's owner, or the container's name.
fn hostname(args: &RunArgs, mode: &NetworkMode, name: &str, joined: Option<&Container>) -> Result<String> {
    if let Some(joined) = joined {
        return Ok(joined.hostname.clone().unwrap_or_else(|| joined.name.clone()));
    }
    let hostname = match &args.hostname {
        Some(hostname) => hostname.clone(),
        None if *mode == NetworkMode::Host => gethostname().context("ask for the host's name")?.display().to_string(),
        None => name.to_owned(),
    };
    names::check_hostname(&hostname)?;
    Ok(hostname)
}

fn request_to_run(args: RunArgs, mode: &NetworkMode, name: &str, hostname: String, pid: u32) -> Attach {
    let variable = |(name, value): (String, String)| format!("{name}={value}");
    let dns = Dns { servers: args.names.dns, search: args.names.dns_search, options: args.names.dns_option };
    let has_own_files = !matches!(mode, NetworkMode::Container(_));
    Attach {
        network: Some(mode.to_string()),
        hostname: Some(hostname),
        command: args.command,
        env: args.env.into_iter().filter_map(Variable::value).map(variable).collect(),
        names: has_own_files.then_some(Names { add_host: args.names.add_host, dns }),
        ..request(args.endpoint, name.to_owned(), Netns::Pid(pid))
    }
}

/// What Docker's links put into the environment.
fn link_variables(client: &Client, container: &Container) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for wanted in &container.links {
        let target: Container = block_on(client.get(&container_path(&wanted.name)))??;
        let Some(addr) = target.address.map(IpAddr::V4).or(target.address6.map(IpAddr::V6)) else { continue };
        let mut ports = Vec::new();
        for text in &target.expose {
            let (range, proto) = port_spec::parse_exposed(text)?;
            ports.extend(range.map(|port| (proto, port)));
        }
        ports.extend(target.ports.iter().flat_map(|port| port.container_ports().map(|number| (port.proto, number))));
        let link = Link { name: wanted.name.clone(), alias: wanted.alias.clone() };
        let target = link::Target { addr, ports: &ports, env: &target.env };
        let env = link.env(&container.name, &target);
        variables.extend(env.iter().filter_map(|variable| variable.split_once('=')).map(owned));
    }
    Ok(variables)
}

/// Forgets the container of a process that has ended. The agent notices by itself, but this way name and ports
/// are free when `netpath run` ends.
fn remove(client: &Client, name: &str, pid: u32) {
    let path = container_path(name);
    let result = block_on(async {
        let container: Container = client.get(&path).await?;
        // A later container may have the name already.
        if container.netns == Netns::Pid(pid) {
            let _: Container = client.delete(&path).await?;
        }
        Ok(())
    });
    if let Ok(Err::<(), anyhow::Error>(e)) = result {
        // Most likely the agent was faster.
        tracing::debug!("remove {name}: {e:#}");
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Refused { status: 404, .. }))
}

fn path(netns: &Netns) -> PathBuf {
    match netns {
        Netns::Pid(pid) => format!("/proc/{pid}/ns/net").into(),
        Netns::Path(path) => path.clone(),
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// 12 hexadecimal digits, as Docker's short container ids.
fn random_name() -> Result<String> {
    let mut bytes = [0; 6];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_name_is_twelve_hexadecimal_digits() {
        let (a, b) = (random_name().unwrap(), random_name().unwrap());
        assert!(a.len() == 12 && a.bytes().all(|byte| byte.is_ascii_hexdigit()), "{a}");
        assert_ne!(a, b);
    }
}
