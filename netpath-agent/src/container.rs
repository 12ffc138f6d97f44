//! The runner behind `netpath run`: a command in its own network, mount and UTS namespaces.
//!
//! Order: the child makes its namespaces and waits; the agent connects it; the child gets its `/etc`
//! files and becomes the command. Whatever fails before that, the command never starts. Nothing is left
//! on the host's file system but a detached container's log.

mod child;
pub mod process;

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use crate::api::{Attach, Endpoint, Netns};
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
        publish: args.endpoint.publish,
        address: args.endpoint.ip,
        mac: args.endpoint.mac_address,
        hostname: Some(hostname.clone()),
        command: args.command,
    };
    let endpoint: Endpoint = block_on(client.post("/v1/endpoints", &request))??;
    let order = files.contents(&endpoint, child.pid()).map(|files| Order {
        files,
        env,
        log: args.detach.then(|| endpoint.log_dir.join(format!("{}.log", endpoint.name))),
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
    fn contents(self, endpoint: &Endpoint, pid: Pid) -> Result<Vec<(PathBuf, String)>> {
        let has_ipv6 = fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).is_ok_and(|text| !text.is_empty());
        let hosts = Hosts {
            has_ipv6,
            extra: &self.names.add_host,
            gateways: &[endpoint.gateway.into()],
            links: &[],
            hostname: self.hostname,
            addrs: &[endpoint.address.into()],
        };
        let dns = Dns { servers: self.names.dns, search: self.names.dns_search, options: self.names.dns_option };
        let resolv_conf = resolv_conf::text(&resolv_conf::of_host()?, &dns, Reach::Network { has_ipv6: false });
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
    if let Ok(Err(e)) = block_on(client.delete::<Endpoint>(&format!("/v1/endpoints/{}", encode(name)))) {
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
