//! Makes what is served agree with what Docker has: by difference, so that what is equal is not touched and no flow ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::PREFIX;
use super::translate::{Container, Endpoint, Wanted};
use crate::adopted::Found;
use crate::agent::Agent;
use crate::api::{self, AdoptedInterface, LinkAdd, Netns as NetnsName, NetworkCreate, NetworkPatch, Owner};
use crate::container::process;
use crate::endpoint_plan::Interface;
use crate::exposed;
use crate::netlink::Link;
use crate::netns::Netns;
use crate::refusal::Refusal;
use crate::state::{self, Network};

/// What the log has said about Docker's networks and containers that cannot be served, by name.
#[derive(Debug, Default)]
pub struct Told {
    /// The Engine has been read.
    is_read: bool,
    waits_for: Vec<&'static str>,
    faults: BTreeMap<String, String>,
    /// Host ends that were taken for a container's because no other came into question, by interface index.
    guessed: BTreeSet<u32>,
}

impl Agent {
    /// Serves what Docker has, and forgets what it has no more.
    pub async fn follow_docker(&mut self, wanted: &Wanted) {
        let mut faults = wanted.faults.clone();
        self.forget_gone(wanted).await;
        for network in &wanted.networks {
            if let Err(error) = self.follow_network(network).await {
                faults.insert(network.name.clone(), format!("{error:#}"));
            }
        }
        for container in &wanted.containers {
            if let Err(error) = self.follow_container(container, wanted).await {
                faults.insert(container.name.clone(), format!("{error:#}"));
            }
        }
        for container in &wanted.containers {
            self.follow_links(container);
        }
        for (name, error) in faults.iter().filter(|(name, error)| self.docker.faults.get(*name) != Some(*error)) {
            tracing::error!("`{name}` of Docker's is not served as it should be: {error}");
        }
        self.docker.faults = faults;
        (self.docker.is_read, self.docker.waits_for) = (true, wanted.waits_for.clone());
    }

    /// How it stands with Docker Engine; `None` if the agent follows none.
    pub(crate) fn show_docker(&self) -> Option<api::Docker> {
        Some(api::Docker {
            socket: self.options.docker.clone()?,
            is_read: self.docker.is_read,
            waits_for: self.docker.waits_for.iter().map(|option| (*option).to_owned()).collect(),
            faults: self.docker.faults.clone(),
        })
    }

    /// Forgets networks, containers and endpoints that Docker has no more, or has otherwise.
    async fn forget_gone(&mut self, wanted: &Wanted) {
        let docker: Vec<(u32, Network)> =
            self.state.networks.iter().map(|(index, network)| (*index, network.clone())).collect();
        for (index, network) in docker.into_iter().filter(|(_, network)| network.owner == Owner::Docker) {
            let asked = wanted.networks.iter().find(|asked| asked.name == network.name);
            if !asked.is_some_and(|asked| is_same(&network, asked)) {
                tracing::info!("network `{}` is forgotten", network.name);
                self.forget_network(index).await;
            }
        }
        let mut gone = Vec::new();
        for endpoint in self.state.endpoints.values() {
            let network = self.state.networks.get(&endpoint.network);
            let Some(network) = network.filter(|network| network.owner == Owner::Docker) else { continue };
            let id = self.state.containers.get(&endpoint.container).and_then(|container| container.docker_id.as_ref());
            let container = wanted.containers.iter().find(|container| Some(&container.id) == id);
            let is_wanted = |asked: &Endpoint| {
                asked.network == network.name
                    && (asked.address, asked.address6, asked.mac) == (endpoint.addr, endpoint.addr6, endpoint.mac)
            };
            if !container.is_some_and(|container| container.endpoints.iter().any(is_wanted)) {
                gone.push(endpoint.ifindex);
            }
        }
        for ifindex in gone {
            self.forget_endpoint_of(ifindex, "Docker has disconnected it").await;
        }
        let known: BTreeSet<u32> = self.state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
        self.docker.guessed.retain(|ifindex| known.contains(ifindex));
    }

    async fn follow_network(&mut self, asked: &NetworkCreate) -> Result<()> {
        let icc = asked.icc.unwrap_or(true);
        match self.state.network(&asked.name) {
            None => self.create_network_of(Owner::Docker, asked.clone()).await.map(drop),
            Some((_, known)) if known.icc != icc => {
                self.patch_network(&asked.name, &NetworkPatch { icc: Some(icc) }).map(drop)
            }
            Some(_) => Ok(()),
        }
    }

    async fn follow_container(&mut self, asked: &Container, wanted: &Wanted) -> Result<()> {
        let by_id = |(_, known): &(&String, &state::Container)| known.docker_id.as_ref() == Some(&asked.id);
        let known = self.state.containers.iter().find(by_id).map(|(name, _)| name.clone());
        if let Some(name) = known.filter(|name| *name != asked.name) {
            self.rename(&name, &asked.name)?;
        }
        if self.state.containers.get(&asked.name).is_some_and(|known| known.docker_id.as_ref() != Some(&asked.id)) {
            return Err(Refusal::Taken(format!("the name `{}` belongs to another container", asked.name)).into());
        }
        if let Some(pid) = asked.pid {
            self.learn_process(&asked.name, pid).await;
        }
        self.serve(asked, wanted).await?;
        if self.state.containers.contains_key(&asked.name) && asked.is_known {
            self.set_ports(&asked.name, &asked.ports)?;
            self.follow_expose(asked)?;
        }
        Ok(())
    }

    /// Serves those of the container's interfaces that are not served yet, and are to be found.
    async fn serve(&mut self, asked: &Container, wanted: &Wanted) -> Result<()> {
        for endpoint in &asked.endpoints {
            let Some((network, _)) = self.state.network(&endpoint.network) else { continue };
            let mine = self.state.endpoints_of(&asked.name);
            if mine.iter().any(|(_, known)| known.network == network) {
                continue;
            }
            let Some(interface) = self.find_veth(asked, endpoint, network, wanted).await? else { continue };
            let adopted = AdoptedInterface {
                network: endpoint.network.clone(),
                address: endpoint.address,
                address6: endpoint.address6,
                ..AdoptedInterface::default()
            };
            let (ifindex, ifname) = (interface.ifindex, interface.ifname.clone());
            let container = match self.state.containers.contains_key(&asked.name) {
                true => None,
                false => Some(self.new_container(asked)?),
            };
            let ports = container.clone();
            let found = Found { network, asked: &adopted, interface };
            if let Err(error) = self.adopt_interface(&asked.name, found, None, container).await {
                match ports {
                    Some(_) if self.state.containers.contains_key(&asked.name) => drop(self.discard(&asked.name).await),
                    Some(container) => self.give_back(&container),
                    None => {}
                }
                return Err(error);
            }
            if asked.pid.is_none() {
                self.docker.guessed.insert(ifindex);
            }
            tracing::info!("container `{}` of Docker's is served in `{}` by {ifname}", asked.name, endpoint.network);
        }
        Ok(())
    }

    fn new_container(&mut self, asked: &Container) -> Result<state::Container> {
        let netns = asked.pid.map_or_else(|| NetnsName::Path(PathBuf::from("unknown")), NetnsName::Pid);
        self.check_ports(&asked.name, &asked.ports)?;
        Ok(state::Container {
            network_mode: asked.endpoints.first().map(|endpoint| endpoint.network.clone()).unwrap_or_default(),
            start_ticks: asked.pid.and_then(process::start_ticks),
            netns,
            hostname: asked.hostname.clone(),
            command: Vec::new(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            netns_id: None,
            expose: exposed::normalise(&asked.expose)?,
            links: Vec::new(),
            env: Vec::new(),
            names: None,
            docker_id: Some(asked.id.clone()),
            keeps_ports: true,
            no_icc: !asked.icc,
            ports: self.with_counters(asked.ports.clone())?,
        })
    }

    /// The host's end of a container's interface: by what is inside, once the container has a process. Before that the
    /// one new port of the bridge, if the network has no other container that is waited for.
    async fn find_veth(
        &self,
        asked: &Container,
        endpoint: &Endpoint,
        network: u32,
        wanted: &Wanted,
    ) -> Result<Option<Interface>> {
        let bridge = self.bridge_of(network)?;
        let links = self.netlink.links().await?;
        let is_port = |link: &&Link| link.master == Some(bridge);
        if let Some(pid) = asked.pid {
            let inside = Netns::open(&NetnsName::Pid(pid))?.links().await?;
            let own = inside.into_iter().find(|link| link.mac == endpoint.mac.0);
            let own = own.with_context(|| format!("no interface inside has MAC address {}", endpoint.mac))?;
            let outside = links.iter().filter(is_port).find(|link| Some(link.ifindex) == own.peer);
            let outside = outside.with_context(|| format!("{} inside leads to no port of the bridge", own.ifname))?;
            return Ok(Some(interface(outside, own.ifname, endpoint)));
        }
        let served: BTreeSet<u32> = self.state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
        let mut new = links.iter().filter(is_port).filter(|link| !served.contains(&link.ifindex));
        let (Some(link), None) = (new.next(), new.next()) else { return Ok(None) };
        let of_network = |container: &&Container| container.endpoints.iter().any(|e| e.network == endpoint.network);
        let is_waiting = |container: &&Container| {
            !self.state.endpoints_of(&container.name).iter().any(|(_, known)| known.network == network)
        };
        if wanted.containers.iter().filter(of_network).filter(is_waiting).count() != 1 {
            return Ok(None);
        }
        let number = self.state.endpoints_of(&asked.name).len();
        Ok(Some(interface(link, format!("eth{number}"), endpoint)))
    }

    /// Notes a container's process, and looks whether the interfaces that were taken for the container's are.
    async fn learn_process(&mut self, name: &str, pid: u32) {
        let Some(container) = self.state.containers.get_mut(name) else { return };
        if container.netns != NetnsName::Pid(pid) {
            (container.netns, container.start_ticks) = (NetnsName::Pid(pid), process::start_ticks(pid));
            self.warn("save the state", self.store.save(&self.state));
        }
        let known: Vec<u32> = self.state.endpoints_of(name).iter().map(|(_, endpoint)| endpoint.ifindex).collect();
        if !known.iter().any(|ifindex| self.docker.guessed.contains(ifindex)) {
            return;
        }
        let inside = async { Netns::open(&NetnsName::Pid(pid))?.links().await };
        let Ok(inside) = inside.await else { return };
        for ifindex in known {
            self.docker.guessed.remove(&ifindex);
            match inside.iter().find(|link| link.peer == Some(ifindex)) {
                Some(link) => {
                    let endpoints = self.state.endpoints.values_mut();
                    endpoints.filter(|e| e.ifindex == ifindex).for_each(|e| e.interface.clone_from(&link.ifname));
                }
                None => _ = self.forget_endpoint_of(ifindex, "it is another container's").await,
            }
        }
    }

    /// Makes the exposed ports those that the container was created with: it may have been served before they were known.
    fn follow_expose(&mut self, asked: &Container) -> Result<()> {
        let expose = exposed::normalise(&asked.expose)?;
        if self.find(&asked.name)?.expose == expose {
            return Ok(());
        }
        self.change(&asked.name, |state| {
            let container = state.containers.get_mut(&asked.name);
            container.into_iter().for_each(|container| {
                container.expose.clone_from(&expose);
                container.hostname.clone_from(&asked.hostname);
            });
        })
    }

    /// Makes the container's links those that are asked for, as far as their targets are there.
    fn follow_links(&mut self, asked: &Container) {
        let known = self.state.containers.get(&asked.name).filter(|_| asked.is_known);
        let Some(container) = known else { return };
        let known: BTreeSet<String> =
            container.links.iter().map(|link| format!("{}:{}", link.target, link.alias)).collect();
        let gone =
            container.links.iter().filter(|link| !asked.links.contains(&format!("{}:{}", link.target, link.alias)));
        for alias in gone.map(|link| link.alias.clone()).collect::<Vec<_>>() {
            let removed = self.remove_link(&asked.name, &alias).map(drop);
            self.warn("remove a link", removed);
        }
        for link in asked.links.iter().filter(|link| !known.contains(*link)) {
            if let Err(error) = self.add_link(&asked.name, &LinkAdd { link: link.clone() }) {
                tracing::debug!("link `{}` to {link}: {error:#}", asked.name);
            }
        }
    }

    fn rename(&mut self, old: &str, new: &str) -> Result<()> {
        if self.state.containers.contains_key(new) {
            return Err(Refusal::Taken(format!("the name `{new}` belongs to another container")).into());
        }
        let Some(container) = self.state.containers.remove(old) else { return Ok(()) };
        self.state.containers.insert(new.to_owned(), container);
        let endpoints = self.state.endpoints.values_mut().filter(|endpoint| endpoint.container == old);
        endpoints.for_each(|endpoint| new.clone_into(&mut endpoint.container));
        let links = self.state.containers.values_mut().flat_map(|container| &mut container.links);
        links.filter(|link| link.target == old).for_each(|link| new.clone_into(&mut link.target));
        tracing::info!("container `{old}` is called `{new}` from now on");
        self.store.save(&self.state)
    }
}

/// Whether the network is as it is asked for, but for what can be changed live.
fn is_same(network: &Network, asked: &NetworkCreate) -> bool {
    let subnets = [network.v4, network.v6].into_iter().flatten().map(|subnet| subnet.subnet);
    let has_subnets = asked.subnets.is_empty() || subnets.eq(sorted(asked));
    has_subnets
        && Some(&network.bridge) == asked.bridge.as_ref()
        && network.name.starts_with(PREFIX)
        && (network.internal, network.masquerade) == (asked.internal, asked.masquerade.unwrap_or(true))
        && (network.mode4, network.mode6) == (asked.gateway_mode_ipv4, asked.gateway_mode_ipv6)
        && (&network.trusted, network.binding_addr) == (&asked.trusted, asked.binding_addr)
}

fn sorted(asked: &NetworkCreate) -> Vec<ipnet::IpNet> {
    let mut subnets: Vec<_> = asked.subnets.iter().map(ipnet::IpNet::trunc).collect();
    subnets.sort_by_key(|subnet| subnet.addr().is_ipv6());
    subnets
}

fn interface(link: &Link, inside: String, endpoint: &Endpoint) -> Interface {
    Interface {
        ifname: link.ifname.clone(),
        ifindex: link.ifindex,
        interface: inside,
        mac: endpoint.mac,
        mtu: link.mtu,
    }
}
