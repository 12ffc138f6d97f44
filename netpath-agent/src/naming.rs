//! The files that give containers names, kept in agreement with who is there: each container knows its own
//! addresses and those of the containers it is linked to.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::agent::{Agent, DEFAULT_NETWORK_INDEX};
use crate::api::{Names, Netns};
use crate::container::process;
use crate::names::hosts::Hosts;
use crate::names::link::Link;
use crate::names::resolv_conf::{self, Reach};
use crate::names::{Contents, NameFiles};
use crate::network_mode::NetworkMode;
use crate::state::{Container, Endpoint, State};

const HOSTS: &str = "/etc/hosts";

impl Agent {
    /// Where the container's files are, if it has any of its own.
    pub(crate) fn files_of(&self, name: &str) -> NameFiles {
        NameFiles::new(&std::path::absolute(self.store.dir()).unwrap_or_else(|_| self.store.dir().to_owned()), name)
    }

    /// Writes the files of a new container that asked for some.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn create_files(&self, name: &str) -> Result<()> {
        let Some(container) = self.state.containers.get(name) else { return Ok(()) };
        let Some(names) = &container.names else { return Ok(()) };
        let is_host = container.network_mode == NetworkMode::Host.to_string();
        let hosts = match self.hosts(name, container, names) {
            _ if is_host && names.add_host.is_empty() => {
                fs::read_to_string(HOSTS).with_context(|| format!("read {HOSTS}"))?
            }
            hosts => hosts,
        };
        let has_ipv6 = self.state.endpoints_of(name).iter().any(|(_, endpoint)| endpoint.addr6.is_some());
        let reach = if is_host { Reach::Host } else { Reach::Network { has_ipv6 } };
        let dns = names.dns.clone().or(&self.options.dns);
        let resolv_conf = resolv_conf::text(&resolv_conf::of_host()?, &dns, reach);
        let hostname = format!("{}\n", container.hostname(name));
        self.files_of(name).create(&Contents { hosts, hostname, resolv_conf })
    }

    /// Brings the hosts files up to date that name the container: its own, and those of who is linked to it.
    pub(crate) fn follow_names(&self, name: &str) {
        for (other, container) in &self.state.containers {
            if other == name || container.links.iter().any(|link| link.target == name) {
                self.update_hosts(other, container);
            }
        }
    }

    /// Removes the files of a container that is no more, and its addresses from the others'.
    pub(crate) fn remove_files(&self, name: &str, container: &Container) -> Result<()> {
        self.follow_names(name);
        match container.names {
            Some(_) => self.files_of(name).remove(),
            None => Ok(()),
        }
    }

    /// Takes up the containers of an earlier agent: those whose process has ended meanwhile are forgotten, the
    /// others are watched, and their files say what is true.
    pub(crate) async fn adopt_containers(&mut self) {
        for name in self.state.containers.keys().cloned().collect::<Vec<_>>() {
            self.watch(&name);
            self.process_ended(&name).await;
        }
        for (name, container) in &self.state.containers {
            self.update_hosts(name, container);
        }
        let known: BTreeSet<_> = self.state.containers.keys().map(|name| self.files_of(name)).collect();
        for files in NameFiles::all(self.store.dir()) {
            if !known.iter().any(|known| known.dir().file_name() == files.dir().file_name()) {
                self.warn("remove files of a container that is no more", files.remove());
            }
        }
    }

    /// Watches the process that a container ends with, if there is one.
    pub(crate) fn watch(&mut self, name: &str) {
        if let Some((pid, start)) = self.main_process(name)
            && let Err(error) = self.exits.watch(name, pid)
            && process::is_running(pid, start)
        {
            tracing::warn!("the end of container `{name}` will be noticed late: {error:#}");
        }
    }

    /// Forgets the container if the process it ends with is gone.
    pub async fn process_ended(&mut self, name: &str) {
        let Some((pid, start)) = self.main_process(name) else { return };
        if process::is_running(pid, start) {
            return;
        }
        tracing::info!("container `{name}` has ended");
        for error in self.discard(name).await {
            tracing::warn!("clean up after `{name}`: {error:#}");
        }
    }

    /// The process whose end is the container's, and when it started: the command of `netpath run`, and any
    /// process where no interface tells whether the namespace is there.
    fn main_process(&self, name: &str) -> Option<(u32, process::Start)> {
        let container = self.state.containers.get(name)?;
        let Netns::Pid(pid) = container.netns else { return None };
        let is_main = !container.command.is_empty() || self.state.endpoints_of(name).is_empty();
        is_main.then_some((pid, container.start()))
    }

    fn update_hosts(&self, name: &str, container: &Container) {
        let Some(names) = &container.names else { return };
        if container.network_mode == NetworkMode::Host.to_string() {
            return;
        }
        let updated = self.files_of(name).update_hosts(&self.hosts(name, container, names));
        self.warn("follow a change of names", updated.map(drop));
    }

    fn hosts(&self, name: &str, container: &Container, names: &Names) -> String {
        let bridge = self.state.networks.get(&DEFAULT_NETWORK_INDEX);
        let subnets = bridge.into_iter().flat_map(|network| [&network.v4, &network.v6]).flatten();
        let hosts = Hosts {
            has_ipv6: has_ipv6(&container.netns),
            extra: &names.add_host,
            gateways: &subnets.filter_map(|subnet| subnet.bridge).collect::<Vec<_>>(),
            links: &links(name, container, &self.state),
            hostname: container.hostname(name),
            addrs: &addrs(self.state.endpoints_of(name).into_iter().map(|(_, endpoint)| endpoint)),
        };
        hosts.text()
    }
}

impl Container {
    /// When its process started, where it is known by one.
    pub(crate) fn start(&self) -> process::Start {
        process::Start { ticks: self.start_ticks, created: self.created }
    }

    /// Its host name; the name where nothing else was said.
    pub(crate) fn hostname<'a>(&'a self, name: &'a str) -> &'a str {
        self.hostname.as_deref().unwrap_or(name)
    }
}

/// The addresses of the containers that a container is linked to, in the networks they share, with the names it has
/// for them.
fn links(name: &str, container: &Container, state: &State) -> Vec<(IpAddr, String)> {
    let own = state.networks_of(name);
    let mut lines = Vec::new();
    for link in &container.links {
        let Some(target) = state.containers.get(&link.target) else { continue };
        let all = state.endpoints_of(state.home_of(&link.target)).into_iter().map(|(_, endpoint)| endpoint);
        let shared = all.filter(|endpoint| own.contains(&endpoint.network));
        let names = Link { name: link.target.clone(), alias: link.alias.clone() };
        let names = names.host_names(target.hostname(&link.target));
        lines.extend(addrs(shared).into_iter().map(|addr| (addr, names.clone())));
    }
    lines
}

fn addrs<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Vec<IpAddr> {
    let both = |endpoint: &Endpoint| [endpoint.addr.map(IpAddr::V4), endpoint.addr6.map(IpAddr::V6)];
    endpoints.into_iter().flat_map(both).flatten().collect()
}

/// IPv6 is on in the namespace: `lo` has its address.
fn has_ipv6(netns: &Netns) -> bool {
    let Netns::Pid(pid) = netns else { return false };
    fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).is_ok_and(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{self, samples};

    #[test]
    fn a_link_leads_to_the_address_in_the_network_that_both_are_in() {
        let mut state = State::new(String::new());
        let link = state::Link { target: "db".to_owned(), alias: "database".to_owned(), counter: 0 };
        let web = Container { links: vec![link], ..samples::container() };
        state
            .containers
            .insert("db".to_owned(), Container { hostname: Some("0123".to_owned()), ..samples::container() });
        let endpoint = |name: &str, network, last| Endpoint {
            network,
            generation: last,
            addr: Some([10, 0, network as u8, last as u8].into()),
            addr6: None,
            ..samples::endpoint(name)
        };
        state.endpoints.insert(1, endpoint("db", 1, 1));
        state.endpoints.insert(2, endpoint("db", 2, 2));
        let line = |addr: [u8; 4]| (IpAddr::from(addr), "database 0123 db".to_owned());
        assert_eq!(links("web", &web, &state), [], "they share no network");
        state.endpoints.insert(3, endpoint("web", 2, 3));
        assert_eq!(links("web", &web, &state), [line([10, 0, 2, 2])]);
        // Who shares the namespace has the address.
        let joined = Container { network_mode: "container:db".to_owned(), ..samples::container() };
        state.containers.insert("side".to_owned(), joined);
        let link = state::Link { target: "side".to_owned(), alias: "side".to_owned(), counter: 0 };
        let web = Container { links: vec![link], ..web };
        assert_eq!(links("web", &web, &state), [([10, 0, 2, 2].into(), "side".to_owned())]);
        state.containers.remove("side");
        state.containers.remove("db");
        assert!(links("web", &web, &state).is_empty());
    }
}
