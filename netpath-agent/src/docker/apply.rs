//! Makes what is served agree with what Docker has: by difference, so that what is equal is not touched and no flow ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use super::PREFIX;
use super::pairs::Pairs;
use super::served::Served;
use super::translate::{Container, Endpoint, Wanted};
use crate::adopted::Found;
use crate::agent::Agent;
use crate::api::{self, AdoptedInterface, LinkAdd, Netns as NetnsName, NetworkCreate, NetworkPatch, Owner};
use crate::container::process;
use crate::endpoint_plan::Interface;
use crate::exposed;
use crate::refusal::Refusal;
use crate::state::{self, Network};

/// How long others may wait for the agent while it serves many containers: the kernel takes a program on each interface
/// only after a grace period.
const TURN: Duration = Duration::from_secs(1);

/// What has been told of Docker's networks and containers, and is not served yet.
#[derive(Debug, Default)]
pub struct Told {
    /// The Engine has been read.
    is_read: bool,
    waits_for: Vec<&'static str>,
    /// What the log has said about those that cannot be served, by name.
    faults: BTreeMap<String, String>,
    /// Containers with an interface that has not been found, or that have not had their turn.
    waiting: Vec<Container>,
    /// Some have not had their turn.
    is_under_way: bool,
    /// Host ends whose other end has no name of its own yet, by interface index.
    unnamed: BTreeSet<u32>,
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
        self.follow_containers(&wanted.containers, &mut faults).await;
        self.tell(faults);
        self.docker.is_read |= !self.docker.is_under_way;
        self.docker.waits_for.clone_from(&wanted.waits_for);
    }

    /// Whether [`Self::go_on_with_docker`] has something to do.
    pub fn is_docker_under_way(&self) -> bool {
        self.docker.is_under_way
    }

    /// Serves more of what Docker has, after others have had their turn.
    pub async fn go_on_with_docker(&mut self) {
        self.look_for_docker().await;
        self.docker.is_read |= !self.docker.is_under_way;
    }

    /// Looks again for interfaces that are waited for: some interface has changed. Docker tells of a container before its
    /// interface has its MAC address, and again when the container has a process.
    pub(crate) async fn look_for_docker(&mut self) {
        if self.docker.waiting.is_empty() {
            return;
        }
        let (waiting, mut faults) = (std::mem::take(&mut self.docker.waiting), self.docker.faults.clone());
        self.follow_containers(&waiting, &mut faults).await;
        self.tell(faults);
    }

    async fn follow_containers(&mut self, containers: &[Container], faults: &mut BTreeMap<String, String>) {
        let begin = Instant::now();
        let served = Served::of(&self.state);
        let unlike: Vec<&Container> = containers.iter().filter(|asked| !served.is_as_asked(asked)).collect();
        let mut had_turn = unlike.len();
        if !unlike.is_empty() || !self.docker.unnamed.is_empty() {
            match self.read_pairs().await {
                Ok(pairs) => {
                    self.learn_names(&pairs);
                    // Reading is part of each turn, and more is to be done than that.
                    let turn = TURN.max(4 * begin.elapsed());
                    had_turn = 0;
                    for container in &unlike {
                        if had_turn > 0 && begin.elapsed() > turn {
                            break;
                        }
                        had_turn += 1;
                        if let Err(error) = self.follow_container(container, &pairs).await {
                            faults.insert(container.name.clone(), format!("{error:#}"));
                        }
                    }
                }
                Err(error) => tracing::error!("look for the interfaces of Docker's containers: {error:#}"),
            }
        }
        let (done, rest) = unlike.split_at(had_turn);
        for container in done {
            self.follow_links(container);
        }
        let served = Served::of(&self.state);
        // What a link leads to may be among those that come later.
        let is_left = |asked: &Container| served.lacks_interface(asked) || !rest.is_empty() && !asked.links.is_empty();
        let left = done.iter().filter(|asked| is_left(asked));
        self.docker.waiting = rest.iter().chain(left).copied().cloned().collect();
        self.docker.is_under_way = !rest.is_empty();
    }

    fn tell(&mut self, faults: BTreeMap<String, String>) {
        for (name, error) in faults.iter().filter(|(name, error)| self.docker.faults.get(*name) != Some(*error)) {
            tracing::error!("`{name}` of Docker's is not served as it should be: {error}");
        }
        self.docker.faults = faults;
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
        let asked: HashMap<&str, &Container> = wanted.containers.iter().map(|asked| (&*asked.id, asked)).collect();
        for endpoint in self.state.endpoints.values() {
            let network = self.state.networks.get(&endpoint.network);
            let Some(network) = network.filter(|network| network.owner == Owner::Docker) else { continue };
            let id =
                self.state.containers.get(&endpoint.container).and_then(|container| container.docker_id.as_deref());
            let container = id.and_then(|id| asked.get(id));
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
        self.docker.unnamed.retain(|ifindex| known.contains(ifindex));
    }

    async fn follow_network(&mut self, asked: &NetworkCreate) -> Result<()> {
        let icc = asked.icc.unwrap_or(true);
        match self.state.network(&asked.name) {
            None => self.create_network_of(Owner::Docker, asked.clone()).await.map(drop),
            Some((_, known)) if known.icc != icc => {
                self.patch_network(&asked.name, &NetworkPatch { icc: Some(icc), ..NetworkPatch::default() }).map(drop)
            }
            Some(_) => Ok(()),
        }
    }

    async fn follow_container(&mut self, asked: &Container, pairs: &Pairs) -> Result<()> {
        let by_id = |(_, known): &(&String, &state::Container)| known.docker_id.as_ref() == Some(&asked.id);
        let known = self.state.containers.iter().find(by_id).map(|(name, _)| name.clone());
        if let Some(name) = known.filter(|name| *name != asked.name) {
            self.rename(&name, &asked.name)?;
        }
        if self.state.containers.get(&asked.name).is_some_and(|known| known.docker_id.as_ref() != Some(&asked.id)) {
            return Err(Refusal::Taken(format!("the name `{}` belongs to another container", asked.name)).into());
        }
        if let Some(pid) = asked.pid {
            self.learn_process(&asked.name, pid);
        }
        self.serve(asked, pairs).await?;
        if self.state.containers.contains_key(&asked.name) && asked.is_known {
            self.set_ports(&asked.name, &asked.ports)?;
            self.follow_expose(asked)?;
        }
        Ok(())
    }

    /// Serves those of the container's interfaces that are not served yet, and are to be found.
    async fn serve(&mut self, asked: &Container, pairs: &Pairs) -> Result<()> {
        for endpoint in &asked.endpoints {
            let Some((network, _)) = self.state.network(&endpoint.network) else { continue };
            let mine = self.state.endpoints_of(&asked.name);
            if mine.iter().any(|(_, known)| known.network == network) {
                continue;
            }
            let Some(pair) = pairs.find(self.bridge_of(network)?, endpoint.mac)? else {
                let has_process = asked.pid.and_then(process::start_ticks).is_some();
                ensure!(!has_process, "no port of the bridge leads to MAC address {}", endpoint.mac);
                continue;
            };
            let name = if pair.is_named { pair.inside.ifname.clone() } else { format!("eth{}", mine.len()) };
            let (ifindex, ifname) = (pair.port.ifindex, pair.port.ifname.clone());
            let (mac, mtu) = (endpoint.mac, pair.port.mtu);
            let interface = Interface { ifname: ifname.clone(), ifindex, interface: name, mac, mtu, host_mac: None };
            let adopted = AdoptedInterface {
                network: endpoint.network.clone(),
                address: endpoint.address,
                address6: endpoint.address6,
                ..AdoptedInterface::default()
            };
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
            if !pair.is_named {
                self.docker.unnamed.insert(ifindex);
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

    /// The pairs of Docker's bridges that are not served, or have no name inside yet.
    async fn read_pairs(&self) -> Result<Pairs> {
        let docker = self.state.networks.iter().filter(|(_, network)| network.owner == Owner::Docker);
        let bridges = docker.filter_map(|(index, _)| self.bridge_of(*index).ok()).collect();
        let served = self.state.endpoints.values().map(|endpoint| endpoint.ifindex);
        let without = served.filter(|ifindex| !self.docker.unnamed.contains(ifindex)).collect();
        Pairs::read(&self.netlink, &bridges, &without).await
    }

    /// Notes the names that interfaces have been given since they are served.
    fn learn_names(&mut self, pairs: &Pairs) {
        let mut learned = BTreeSet::new();
        for endpoint in self.state.endpoints.values_mut() {
            let name = pairs.name_inside(endpoint.ifindex);
            if let Some(name) = name.filter(|_| self.docker.unnamed.remove(&endpoint.ifindex)) {
                name.clone_into(&mut endpoint.interface);
                learned.insert(endpoint.container.clone());
            }
        }
        for name in learned {
            self.warn("save the state", self.store.save_container(&name, &self.state));
        }
    }

    fn learn_process(&mut self, name: &str, pid: u32) {
        let Some(container) = self.state.containers.get_mut(name) else { return };
        if container.netns != NetnsName::Pid(pid) {
            (container.netns, container.start_ticks) = (NetnsName::Pid(pid), process::start_ticks(pid));
            self.warn("save the state", self.store.save_container(name, &self.state));
        }
    }

    /// Makes the exposed ports those that the container was created with: it may have been served before they were known.
    fn follow_expose(&mut self, asked: &Container) -> Result<()> {
        let expose = exposed::normalise(&asked.expose)?;
        let known = self.find(&asked.name)?;
        if (&known.expose, &known.hostname) == (&expose, &asked.hostname) {
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
        && network.bridge == asked.bridge
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
