//! Connecting containers and disconnecting them: all of it or nothing.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result, anyhow};

use crate::agent::Agent;
use crate::api::{self, Netns as NetnsName};
use crate::container::process;
use crate::endpoint_plan::Asked;
use crate::endpoints::join;
use crate::exposed;
use crate::links;
use crate::names;
use crate::netns::Netns;
use crate::network_mode::{self, NetworkMode};
use crate::ports::Request;
use crate::publishing;
use crate::refusal::Refusal;
use crate::state::{Container, Endpoint, Link, PortBinding};

/// Longest name; with the prefix of [`crate::endpoints::alias`] it fits an interface's alias.
const MAX_NAME: usize = 128;

/// Where a new container gets its network from.
enum Mode {
    /// An interface in the network with this index.
    Network(u32),
    /// Its own namespace with `lo` alone.
    None,
    /// Somebody else's namespace.
    Shared,
}

impl Agent {
    pub fn containers(&self) -> Vec<api::Container> {
        let endpoints = self.state.endpoints_by_container();
        let endpoints = |name: &str| endpoints.get(name).map_or(&[][..], Vec::as_slice);
        self.state.containers.iter().map(|(name, container)| self.show(name, container, endpoints(name))).collect()
    }

    /// # Errors
    /// A [`Refusal`] if nobody has that name.
    pub fn container(&self, name: &str) -> Result<api::Container> {
        Ok(self.show(name, self.find(name)?, &self.state.endpoints_of(name)))
    }

    /// Connects a network namespace.
    ///
    /// # Errors
    /// A [`Refusal`] if the request cannot be served; nothing has changed then, nor after any other
    /// error.
    pub async fn attach(&mut self, mut request: api::Attach) -> Result<api::Container> {
        if !request.adopt.is_empty() {
            return self.adopt(request).await;
        }
        let name = request.name.clone();
        self.check_name(&name)?;
        let mode = self.mode(&request)?;
        let netns = match mode {
            Mode::Network(_) | Mode::None => Some(Netns::open(&request.netns).map_err(Refusal::invalid)?),
            Mode::Shared => None,
        };
        if !matches!(mode, Mode::Network(_)) {
            // As Docker has it: there is nothing to publish them on.
            request.publish.clear();
            request.publish_all = false;
            request.from.clear();
        }
        check_texts(&request)?;
        let network = if let Mode::Network(index) = mode { Some(index) } else { None };
        let container = self.plan(&request, network.as_slice(), netns.as_ref())?;
        let planned = match mode {
            Mode::Network(network) => self.plan_endpoint(&name, network, Asked::from(&request)).await.map(Some),
            Mode::None | Mode::Shared => Ok(None),
        };
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                self.give_back(&container);
                return Err(error);
            }
        };
        if let Err(error) = self.make(&name, container.clone(), planned.clone(), netns.as_ref()).await {
            for error in self.undo(&name, container, planned).await {
                tracing::warn!("undo the connection of `{name}`: {error:#}");
            }
            return Err(error.context(format!("connect container `{name}`")));
        }
        self.watch(&name);
        self.follow_names(&name);
        let endpoint = self.state.endpoints_of(&name).first().map(|(_, endpoint)| (*endpoint).clone());
        match endpoint {
            Some(endpoint) => {
                tracing::info!("connected container `{name}` at {} by {}", endpoint.shown(), endpoint.ifname)
            }
            None => tracing::info!(
                "container `{name}` runs in network mode {}",
                request.network.as_deref().unwrap_or("none")
            ),
        }
        self.container(&name)
    }

    /// Disconnects a container and forgets it.
    ///
    /// # Errors
    /// A [`Refusal`] if nobody has that name. Otherwise everything that failed, the rest being done.
    pub async fn detach(&mut self, name: &str) -> Result<api::Container> {
        let was = self.container(name)?;
        let errors = self.discard(name).await;
        tracing::info!("disconnected container `{name}`");
        match join(&errors) {
            Some(errors) => Err(anyhow!(errors).context(format!("disconnect container `{name}`"))),
            None => Ok(was),
        }
    }

    /// Takes everything away that belongs to the container, and goes on past errors.
    pub(crate) async fn discard(&mut self, name: &str) -> Vec<Error> {
        let Some(container) = self.state.containers.get(name).cloned() else { return Vec::new() };
        self.undo(name, container, None).await
    }

    /// Forgets containers without an interface of their own whose process has ended.
    pub(crate) fn forget_ended(&mut self) {
        let has_ended = |container: &Container| match &container.netns {
            NetnsName::Pid(pid) => !process::is_running(*pid, container.start()),
            NetnsName::Path(path) => !path.exists(),
        };
        let connected = self.state.endpoints_by_container();
        let containers = self.state.containers.iter();
        let ended = containers.filter(|(name, c)| !connected.contains_key(name.as_str()) && has_ended(c));
        let ended: Vec<(String, Container)> =
            ended.map(|(name, container)| (name.clone(), container.clone())).collect();
        for (name, container) in ended {
            tracing::info!("container `{name}` has ended");
            self.give_back(&container);
            self.state.containers.remove(&name);
            self.release_ports();
            self.state.forget_dead_ptps();
            self.warn("remove a container's files", self.remove_files(&name, &container));
            self.warn("save the state", self.store.save(&self.state));
        }
    }

    pub(crate) fn find(&self, name: &str) -> Result<&Container, Refusal> {
        self.state.containers.get(name).ok_or_else(|| Refusal::no_container(name))
    }

    /// As [`Self::discard`], for a container that may be half made.
    async fn undo(&mut self, name: &str, container: Container, planned: Option<(u32, Endpoint)>) -> Vec<Error> {
        let mut errors = Vec::new();
        let known: Vec<u32> = self.state.endpoints_of(name).iter().map(|(index, _)| *index).collect();
        if let Some((index, endpoint)) = planned.filter(|(index, _)| !known.contains(index)) {
            // The interface may be there without the state knowing.
            errors.extend(self.undo_endpoint(index, endpoint).await);
        }
        let had_endpoints = !known.is_empty();
        for index in known {
            if let Some(endpoint) = self.state.endpoints.get(&index).cloned() {
                errors.extend(self.take_endpoint(index, endpoint).await);
            }
        }
        errors.extend(self.discard_ptps(|ptp| ptp.has(name)).await);
        if self.state.containers.remove(name).is_some() || had_endpoints {
            self.release_ports();
            errors.extend(self.store.save_container(name, &self.state).err());
        }
        errors.extend(self.remove_files(name, &container).err());
        self.give_back(&container);
        errors
    }

    async fn make(
        &mut self,
        name: &str,
        container: Container,
        planned: Option<(u32, Endpoint)>,
        netns: Option<&Netns>,
    ) -> Result<()> {
        match (planned, netns) {
            (Some((index, mut endpoint)), Some(netns)) => {
                self.connect_endpoint(index, &mut endpoint, netns, Some(container)).await?;
            }
            (_, netns) => {
                self.change(name, |state| drop(state.containers.insert(name.to_owned(), container)))?;
                if let Some(netns) = netns {
                    netns.set_up_loopback().await?;
                }
            }
        }
        self.create_files(name)
    }

    /// What the state will say about a new container; its counters are taken.
    pub(crate) fn plan(&mut self, request: &api::Attach, networks: &[u32], netns: Option<&Netns>) -> Result<Container> {
        let expose = exposed::normalise(&request.expose).map_err(Refusal::invalid)?;
        let ports = Request {
            publish: &request.publish,
            publish_all: request.publish_all,
            expose: &request.expose,
            from: &request.from,
        };
        let wanted = links::parse_all(&request.links, &request.name, &networks.iter().copied().collect(), &self.state)?;
        let bindings = self.resolve_ports(&ports, &request.name, networks, request.keeps_ports)?;
        let mut container = Container {
            network_mode: network_mode(request)?.to_string(),
            netns: request.netns.clone(),
            hostname: request.hostname.clone(),
            command: request.command.clone(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            start_ticks: if let NetnsName::Pid(pid) = request.netns { process::start_ticks(pid) } else { None },
            netns_id: netns.map(Netns::id).transpose()?,
            ports: self.with_counters(bindings)?,
            expose,
            links: Vec::new(),
            env: request.env.clone(),
            names: request.names.clone(),
            docker_id: None,
            keeps_ports: request.keeps_ports,
            no_icc: request.icc == Some(false),
        };
        for link in wanted {
            let Some(counter) = self.counters.take_pair() else {
                self.give_back(&container);
                return Err(Refusal::Taken("no counter is free for another link; raise --max-ports".to_owned()).into());
            };
            container.links.push(Link { target: link.name, alias: link.alias, counter });
            let reset = self.datapath.reset_counter(counter).and_then(|()| self.datapath.reset_counter(counter + 1));
            if let Err(error) = reset {
                self.give_back(&container);
                return Err(error);
            }
        }
        Ok(container)
    }

    pub(crate) fn give_back(&mut self, container: &Container) {
        container.ports.iter().for_each(|port| self.counters.give_back(port.counter));
        container.links.iter().for_each(|link| self.counters.give_back_pair(link.counter));
    }

    fn mode(&self, request: &api::Attach) -> Result<Mode, Refusal> {
        let mode = network_mode(request)?;
        let names = request.names.as_ref();
        let asked = network_mode::Asked {
            hostname: false,
            links: !request.links.is_empty(),
            dns: names.is_some_and(|names| !names.dns.is_empty()),
            add_host: names.is_some_and(|names| !names.add_host.is_empty()),
            mac_address: request.mac.is_some(),
            address: request.address.is_some() || request.address6.is_some(),
            publish: !request.publish.is_empty() || request.publish_all,
            expose: !request.expose.is_empty(),
        };
        mode.check(asked).map_err(Refusal::invalid)?;
        match mode {
            NetworkMode::Network(name) => Ok(Mode::Network(self.find_network(&name)?.0)),
            NetworkMode::None => Ok(Mode::None),
            NetworkMode::Host => Ok(Mode::Shared),
            NetworkMode::Container(name) if name == request.name => {
                Err(Refusal::Invalid("cannot join own network".to_owned()))
            }
            NetworkMode::Container(name) if self.state.containers.contains_key(&name) => Ok(Mode::Shared),
            NetworkMode::Container(name) => {
                Err(Refusal::NotFound(format!("cannot join network of a non running container: {name}")))
            }
        }
    }

    pub(crate) fn check_name(&self, name: &str) -> Result<(), Refusal> {
        check_name(name, "container")?;
        match self.state.containers.get(name) {
            Some(_) => Err(Refusal::Taken(format!("the name `{name}` is already in use by another container"))),
            None => Ok(()),
        }
    }

    fn show(&self, name: &str, container: &Container, endpoints: &[(u32, &Endpoint)]) -> api::Container {
        let link = |link: &Link| api::Link { name: link.target.clone(), alias: link.alias.clone() };
        let container = container.clone();
        let port = |port: &PortBinding| publishing::show(port, endpoints);
        api::Container {
            name: name.to_owned(),
            network_mode: container.network_mode,
            address: endpoints.iter().find_map(|(_, endpoint)| endpoint.addr),
            address6: endpoints.iter().find_map(|(_, endpoint)| endpoint.addr6),
            netns: container.netns,
            hostname: container.hostname,
            command: container.command,
            created: container.created,
            start_ticks: container.start_ticks,
            endpoints: endpoints.iter().filter_map(|(_, endpoint)| self.show_endpoint(endpoint)).collect(),
            ports: container.ports.iter().map(port).collect(),
            icc: !container.no_icc,
            expose: container.expose,
            links: container.links.iter().map(link).collect(),
            env: container.env,
            files: container.names.map(|_| self.files_of(name).dir().to_owned()),
            log_dir: self.store.log_dir(),
        }
    }

    fn show_endpoint(&self, endpoint: &Endpoint) -> Option<api::Endpoint> {
        let network = self.state.networks.get(&endpoint.network)?;
        let len = |subnet: &Option<api::Subnet>| subnet.as_ref().map_or(0, |subnet| subnet.subnet.prefix_len());
        let gateway = |subnet: &Option<api::Subnet>| subnet.as_ref().and_then(|subnet| subnet.gateway);
        Some(api::Endpoint {
            network: network.name.clone(),
            interface: endpoint.interface.clone(),
            address: endpoint.addr,
            prefix_len: len(&network.v4),
            gateway: gateway(&network.v4).and_then(|addr| if let IpAddr::V4(addr) = addr { Some(addr) } else { None }),
            address6: endpoint.addr6,
            prefix_len6: len(&network.v6),
            gateway6: gateway(&network.v6).and_then(|addr| if let IpAddr::V6(addr) = addr { Some(addr) } else { None }),
            mac: endpoint.mac.to_string(),
            mtu: endpoint.mtu,
            ifname: endpoint.ifname.clone(),
            ifindex: endpoint.ifindex,
            cni: endpoint.cni.clone(),
        })
    }
}

fn network_mode(request: &api::Attach) -> Result<NetworkMode, Refusal> {
    request.network.as_deref().map_or_else(|| Ok(NetworkMode::default()), |text| text.parse().map_err(Refusal::invalid))
}

/// Checks what goes into the container's files, where a line end would make lines of its own.
pub(crate) fn check_texts(request: &api::Attach) -> Result<(), Refusal> {
    request.hostname.as_deref().map_or(Ok(()), names::check_hostname).map_err(Refusal::invalid)?;
    request.names.as_ref().map_or(Ok(()), |names| names.dns.check()).map_err(Refusal::invalid)
}

/// Checks a name as Docker does.
///
/// # Errors
/// If it has other characters than it may have.
pub(crate) fn check_name(name: &str, what: &str) -> Result<(), Refusal> {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if first && rest && name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "invalid {what} name `{name}`, only [a-zA-Z0-9][a-zA-Z0-9_.-]* up to {MAX_NAME} characters is allowed"
    )))
}

impl Endpoint {
    /// Its addresses, for people.
    pub fn shown(&self) -> String {
        let v4 = self.addr.map(|addr| addr.to_string());
        let v6 = self.addr6.map(|addr| addr.to_string());
        v4.into_iter().chain(v6).collect::<Vec<_>>().join(", ")
    }
}
