//! The runner behind `netpath run`: a command in its own network, mount and UTS namespaces.
//!
//! Order: the child makes its namespaces and waits; the agent connects it; the child gets its `/etc`
//! files and becomes the command. Whatever fails before that, the command never starts. Nothing is left
//! on the host's file system but a detached container's log.

mod child;
pub mod process;

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use crate::api::{Attach, Container, Netns};
use crate::cli::{NamesArgs, RunArgs, Variable};
use crate::client::{Client, encode};
use crate::commands::block_on;
use crate::names::hosts::Hosts;
use crate::names::resolv_conf::{self, Dns, Reach};
use child::{Child, Order};

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
    let name = match args.name {
        Some(name) => name,
        None => random_name()?,
    };
    let hostname = args.hostname.unwrap_or_else(|| name.clone());
    ensure!(
        (1..=64).contains(&hostname.len()),
        "host name `{hostname}` is {} bytes long, want 1 to 64; choose one with `-h`",
        hostname.len()
    );
    let files = FilesArgs { hostname: &hostname, names: args.names };
    let env = args.env.into_iter().filter_map(Variable::value).collect();
    let mut child = Child::spawn(&hostname, &args.command, args.detach)?;
    let request = Attach {
        name: name.clone(),
        netns: Netns::Pid(child.pid().as_raw().cast_unsigned()),
        network: args.endpoint.net,
        publish: args.endpoint.publish,
        publish_all: args.endpoint.publish_all,
        expose: args.endpoint.expose,
        links: args.endpoint.link,
        address: args.endpoint.ip,
        address6: args.endpoint.ip6,
        mac: args.endpoint.mac_address,
        hostname: Some(hostname.clone()),
        command: args.command,
    };
    let container: Container = block_on(client.post("/v1/containers", &request))??;
    let order = files.contents(&container, child.pid()).map(|files| Order {
        files,
        env,
        log: args.detach.then(|| container.log_dir.join(format!("{}.log", container.name))),
    });
    match order.and_then(|order| child.release(&order)) {
        Ok(None) if args.detach => {
            child.leave();
            Ok(Outcome::Detached { name })
        }
        Ok(None) => Ok(Outcome::Ended { status: process::wait(child.leave())? }),
        Ok(Some(failure)) => {
            give_up(client, child, &name);
            eprintln!("error: {}", failure.message);
            Ok(Outcome::Ended { status: failure.status })
        }
        Err(e) => {
            give_up(client, child, &name);
            Err(e)
        }
    }
}

/// What the files in the container are made of.
struct FilesArgs<'a> {
    hostname: &'a str,
    names: NamesArgs,
}

impl FilesArgs<'_> {
    fn contents(self, container: &Container, pid: Pid) -> Result<Vec<(PathBuf, String)>> {
        let has_ipv6 = fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).is_ok_and(|text| !text.is_empty());
        let endpoints = &container.endpoints;
        let v4 = endpoints.iter().filter_map(|endpoint| endpoint.address).map(IpAddr::from);
        let addrs: Vec<IpAddr> = v4.chain(endpoints.iter().filter_map(|e| e.address6).map(IpAddr::from)).collect();
        let v4 = endpoints.iter().filter_map(|endpoint| endpoint.gateway).map(IpAddr::from);
        let gateways: Vec<IpAddr> = v4.chain(endpoints.iter().filter_map(|e| e.gateway6).map(IpAddr::from)).collect();
        let reach = Reach::Network { has_ipv6: endpoints.iter().any(|endpoint| endpoint.address6.is_some()) };
        let hosts = Hosts {
            has_ipv6,
            extra: &self.names.add_host,
            gateways: &gateways,
            links: &[],
            hostname: self.hostname,
            addrs: &addrs,
        };
        let dns = Dns { servers: self.names.dns, search: self.names.dns_search, options: self.names.dns_option };
        let resolv_conf = resolv_conf::text(&resolv_conf::of_host()?, &dns, reach);
        Ok(vec![
            ("/etc/hosts".into(), hosts.text()),
            ("/etc/hostname".into(), format!("{}\n", self.hostname)),
            ("/etc/resolv.conf".into(), resolv_conf),
        ])
    }
}

/// Ends a child that did not become the command, and its endpoint. The agent would notice by itself, but
/// after `netpath run` has ended the name and the ports are free at once this way.
fn give_up(client: &Client, child: Child, name: &str) {
    drop(child);
    if let Ok(Err(e)) = block_on(client.delete::<Container>(&format!("/v1/containers/{}", encode(name)))) {
        // Most likely the agent was faster.
        tracing::debug!("remove {name}: {e:#}");
    }
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
