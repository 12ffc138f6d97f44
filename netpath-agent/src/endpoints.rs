//! Connecting containers and disconnecting them, publishing ports and unpublishing them: all of it or
//! nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Error, Result, anyhow, ensure};
use ipnet::Ipv4Net;
use nix::errno::Errno;

use crate::agent::{Agent, NETWORK_NAME};
use crate::api;
use crate::arp;
use crate::desired::endpoint_image;
use crate::host;
use crate::ipam::IpamError;
use crate::netlink::Veth;
use crate::netns::{CONTAINER_IFNAME, Netns};
use crate::ports::{self, ProcPorts, Resolver};
use crate::reconcile::{Image, diff};
use crate::refusal::Refusal;
use crate::state::{Endpoint, Mac, PortBinding};

/// Longest name; with the prefix of [`alias`] it fits an interface's alias.
const MAX_NAME: usize = 128;

impl Agent {
    pub fn endpoints(&self) -> Vec<api::Endpoint> {
        self.state.endpoints.values().map(|endpoint| self.show(endpoint)).collect()
    }

    /// # Errors
    /// A [`Refusal`] if nobody has that name.
    pub fn endpoint(&self, name: &str) -> Result<api::Endpoint> {
        let (_, endpoint) = self.find(name)?;
        Ok(self.show(endpoint))
    }

    /// Connects a network namespace.
    ///
    /// # Errors
    /// A [`Refusal`] if the request cannot be served; nothing has changed then, nor after any other
    /// error.
    pub async fn attach(&mut self, request: api::Attach) -> Result<api::Endpoint> {
        self.check_name(&request.name)?;
        let netns = Netns::open(&request.netns).map_err(Refusal::invalid)?;
        let (index, mut endpoint) = self.plan(request).await?;
        let name = endpoint.name.clone();
        if let Err(error) = self.connect(index, &mut endpoint, &netns).await {
            for error in self.undo(index, endpoint).await {
                tracing::warn!("undo the connection of `{name}`: {error:#}");
            }
            return Err(error.context(format!("connect container `{name}`")));
        }
        tracing::info!("connected container `{name}` at {} by {}", endpoint.addr, endpoint.ifname);
        self.endpoint(&name)
    }

    /// Disconnects a container and forgets it.
    ///
    /// # Errors
    /// A [`Refusal`] if nobody has that name. Otherwise everything that failed, the rest being done.
    pub async fn detach(&mut self, name: &str) -> Result<api::Endpoint> {
        let (index, endpoint) = self.find(name)?;
        let was = self.show(endpoint);
        let errors = self.discard(index).await;
        tracing::info!("disconnected container `{name}`");
        match join(&errors) {
            Some(errors) => Err(anyhow!(errors).context(format!("disconnect container `{name}`"))),
            None => Ok(was),
        }
    }

    /// Publishes more ports of a container.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such container or a port is not to be had; nothing has changed then.
    pub fn publish(&mut self, name: &str, request: &api::Ports) -> Result<api::Endpoint> {
        let (index, endpoint) = self.find(name)?;
        let mut endpoint = endpoint.clone();
        let bindings = self.resolve_ports(&request.ports, name)?;
        let new = self.with_counters(bindings)?;
        endpoint.ports.extend(new.iter().cloned());
        if let Err(error) = self.put_endpoint(index, endpoint) {
            new.iter().for_each(|port| self.counters.give_back(port.counter));
            return Err(error);
        }
        self.endpoint(name)
    }

    /// Closes published ports of a container.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such container or port; nothing has changed then.
    pub fn unpublish(&mut self, name: &str, request: &api::Ports) -> Result<api::Endpoint> {
        let (index, endpoint) = self.find(name)?;
        let left = ports::without(&endpoint.ports, &request.ports, name)?;
        let kept: std::collections::BTreeSet<u32> = left.iter().map(|port| port.counter).collect();
        let freed: Vec<u32> = endpoint.ports.iter().map(|port| port.counter).filter(|c| !kept.contains(c)).collect();
        let endpoint = Endpoint { ports: left, ..endpoint.clone() };
        self.put_endpoint(index, endpoint)?;
        freed.into_iter().for_each(|counter| self.counters.give_back(counter));
        self.endpoint(name)
    }

    /// Takes everything away that belongs to the endpoint, and goes on past errors.
    pub(crate) async fn discard(&mut self, index: u32) -> Vec<Error> {
        match self.state.endpoints.get(&index).cloned() {
            Some(endpoint) => self.undo(index, endpoint).await,
            None => Vec::new(),
        }
    }

    /// As [`Self::discard`], for an endpoint that may be half made.
    async fn undo(&mut self, index: u32, endpoint: Endpoint) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut note = |result: Result<()>| errors.extend(result.err());
        note(self.apply(&diff(&Image::default(), &self.in_maps(index, &endpoint))));
        let ifindex = match endpoint.ifindex {
            0 => self.netlink.link(&endpoint.ifname).await.map(|link| link.map(|link| link.ifindex)),
            ifindex => Ok(Some(ifindex)),
        };
        match ifindex {
            Ok(Some(ifindex)) => {
                note(self.datapath.detach(ifindex));
                note(self.datapath.forget_drops(ifindex));
                note(self.netlink.delete_link(ifindex).await);
                note(self.datapath.forget_drops(ifindex));
            }
            Ok(None) => {}
            Err(error) => note(Err(error)),
        }
        if self.state.endpoints.remove(&index).is_some() {
            note(self.store.save(&self.state));
        }
        self.addresses.release(endpoint.addr);
        self.counters.give_back_pair(endpoint.counter);
        endpoint.ports.iter().for_each(|port| self.counters.give_back(port.counter));
        errors
    }

    /// What of the endpoint's image is in the maps.
    fn in_maps(&self, index: u32, endpoint: &Endpoint) -> Image {
        let mut image = endpoint_image(index, endpoint, &self.host);
        image.retain_keys_of(&self.image);
        image
    }

    fn find(&self, name: &str) -> Result<(u32, &Endpoint), Refusal> {
        self.state.find(name).ok_or_else(|| Refusal::no_endpoint(name))
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !first || !rest || name.len() > MAX_NAME {
            return Err(Refusal::Invalid(format!(
                "invalid container name `{name}`, only [a-zA-Z0-9][a-zA-Z0-9_.-]* up to {MAX_NAME} characters is allowed"
            )));
        }
        match self.state.find(name) {
            Some(_) => Err(Refusal::Taken(format!("the name `{name}` is already in use by another container"))),
            None => Ok(()),
        }
    }

    fn resolve_ports(&mut self, specs: &[String], name: &str) -> Result<Vec<PortBinding>> {
        let (default, last) = (self.options.binding_addr, self.last_automatic_port);
        let mut resolver = Resolver::new(ProcPorts::default(), &self.state, default, &self.host.local_addrs, last);
        let bindings = resolver.resolve(specs, name)?;
        self.last_automatic_port = resolver.last_automatic();
        Ok(bindings)
    }

    /// Gives each binding a counter of its own, at zero.
    fn with_counters(&mut self, mut bindings: Vec<PortBinding>) -> Result<Vec<PortBinding>> {
        for i in 0..bindings.len() {
            let Some(counter) = self.counters.take() else {
                bindings[..i].iter().for_each(|port| self.counters.give_back(port.counter));
                return Err(Refusal::Taken("no counter is free for another port; raise --max-ports".to_owned()).into());
            };
            bindings[i].counter = counter;
            self.datapath.reset_counter(counter)?;
        }
        Ok(bindings)
    }

    /// Two interfaces with one hardware address would take each other's frames.
    fn check_mac(&self, mac: Mac) -> Result<()> {
        let holder = self.state.endpoints.values().find(|endpoint| endpoint.mac == mac);
        let holder = holder.map(|endpoint| format!("container `{}`", endpoint.name));
        let bridge = (mac.0 == self.host.bridge.mac).then(|| "the bridge".to_owned());
        match holder.or(bridge) {
            Some(holder) => Err(Refusal::Taken(format!("MAC address {mac} is already in use by {holder}")).into()),
            None => Ok(()),
        }
    }

    async fn check_bridge(&self) -> Result<()> {
        let bridge = &self.options.bridge;
        let link = self.netlink.link(bridge).await?;
        ensure!(
            link.is_some_and(|link| link.ifindex == self.host.bridge.ifindex),
            "bridge {bridge} has been removed; restart the agent, which makes it anew"
        );
        Ok(())
    }

    /// Reserves everything that a new endpoint needs but the interface.
    async fn plan(&mut self, request: api::Attach) -> Result<(u32, Endpoint)> {
        let index = self.state.free_index();
        if index > self.options.max_endpoints {
            let max = self.options.max_endpoints;
            return Err(Refusal::Taken(format!("no room for another container: --max-endpoints is {max}")).into());
        }
        let mac = parse_mac(request.mac.as_deref())?;
        self.check_mac(mac)?;
        self.check_bridge().await?;
        let bindings = self.resolve_ports(&request.publish, &request.name)?;
        let ifname = self.free_ifname().await?;
        let addr = match request.address {
            Some(addr) => self.addresses.allocate_exact(addr).map(|()| addr),
            None => self.addresses.allocate(),
        };
        let addr = addr.map_err(refuse_address)?;
        let (ports, counter) = match self.take_counters(bindings) {
            Ok(taken) => taken,
            Err(error) => {
                self.addresses.release(addr);
                return Err(error);
            }
        };
        let generation = self.state.next_generation;
        self.state.next_generation += 1;
        let endpoint = Endpoint {
            name: request.name,
            generation,
            counter,
            ifname,
            ifindex: 0,
            addr,
            mac,
            mtu: self.mtu(),
            netns: request.netns,
            hostname: request.hostname,
            command: request.command,
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            ports,
        };
        Ok((index, endpoint))
    }

    fn take_counters(&mut self, bindings: Vec<PortBinding>) -> Result<(Vec<PortBinding>, u32)> {
        let ports = self.with_counters(bindings)?;
        let Some(counter) = self.counters.take_pair() else {
            ports.iter().for_each(|port| self.counters.give_back(port.counter));
            return Err(Refusal::Taken("no counter is free for another container".to_owned()).into());
        };
        self.datapath.reset_counter(counter)?;
        self.datapath.reset_counter(counter + 1)?;
        Ok((ports, counter))
    }

    /// Makes the planned endpoint real. The container's first packet finds maps and program in place,
    /// because the host's end of the pair comes up last.
    async fn connect(&mut self, index: u32, endpoint: &mut Endpoint, netns: &Netns) -> Result<()> {
        let veth = Veth {
            ifname: &endpoint.ifname,
            mtu: endpoint.mtu,
            mac: host::random_mac()?,
            peer_ifname: CONTAINER_IFNAME,
            peer_mac: endpoint.mac.0,
            peer_netns: netns.fd(),
        };
        self.netlink.create_veth(&veth).await.map_err(refuse_ifname)?;
        let link = self.netlink.link(&endpoint.ifname).await?.context("the namespace is gone")?;
        endpoint.ifindex = link.ifindex;
        self.netlink.set_alias(link.ifindex, &alias(&self.options.bridge, &endpoint.name)).await?;
        let net = Ipv4Net::new(endpoint.addr, self.host.bridge.addr.prefix_len())?;
        netns.configure(net, self.gateway()).await?;
        self.put_endpoint(index, endpoint.clone())?;
        self.datapath.attach_container(endpoint.ifindex, &endpoint.ifname)?;
        self.netlink.enslave(endpoint.ifindex, self.host.bridge.ifindex).await?;
        self.netlink.set_up(endpoint.ifindex).await?;
        self.announce(endpoint).await;
        Ok(())
    }

    /// Tells host and containers who has the address from now on.
    async fn announce(&self, endpoint: &Endpoint) {
        let bridge = self.host.bridge.ifindex;
        let learned = self.netlink.learn_neighbour(bridge, endpoint.addr.into(), endpoint.mac.0).await;
        self.warn("tell the host the container's address", learned);
        self.warn("tell the containers the container's address", arp::announce(bridge, endpoint.addr, endpoint.mac.0));
    }

    /// `veth` and seven hexadecimal digits, as Docker names them.
    async fn free_ifname(&self) -> Result<String> {
        for _ in 0..3 {
            let random = u32::from_ne_bytes(host::random()?) >> 4;
            let ifname = format!("veth{random:07x}");
            if self.netlink.link(&ifname).await?.is_none() {
                return Ok(ifname);
            }
        }
        Err(anyhow!("find a free interface name: three random ones are taken"))
    }

    fn show(&self, endpoint: &Endpoint) -> api::Endpoint {
        let port = |port: &PortBinding| api::PortBinding {
            host_addr: port.host_addr,
            host_port: port.host_port,
            container_port: port.container_port,
            count: port.count,
            proto: port.proto,
            from: port.from.clone(),
        };
        let endpoint = endpoint.clone();
        api::Endpoint {
            name: endpoint.name,
            address: endpoint.addr,
            prefix_len: self.host.bridge.addr.prefix_len(),
            gateway: self.gateway(),
            mac: endpoint.mac.to_string(),
            mtu: endpoint.mtu,
            ifname: endpoint.ifname,
            ifindex: endpoint.ifindex,
            network: NETWORK_NAME.to_owned(),
            netns: endpoint.netns,
            hostname: endpoint.hostname,
            command: endpoint.command,
            created: endpoint.created,
            ports: endpoint.ports.iter().map(port).collect(),
            log_dir: self.store.log_dir(),
        }
    }
}

/// The alias of a container's veth: it says whose it is when the state is lost.
pub(crate) fn alias(bridge: &str, name: &str) -> String {
    format!("netpath:{bridge}:{name}")
}

/// The container's name in an alias made by [`alias`].
pub(crate) fn name_in_alias<'a>(bridge: &str, alias: &'a str) -> Option<&'a str> {
    alias.strip_prefix("netpath:")?.strip_prefix(bridge)?.strip_prefix(':')
}

/// All errors in one line.
pub(crate) fn join(errors: &[Error]) -> Option<String> {
    let texts: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn parse_mac(text: Option<&str>) -> Result<Mac> {
    let Some(text) = text else { return Ok(Mac(host::random_mac()?)) };
    let mac: Mac = text.parse().map_err(Refusal::invalid)?;
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(Refusal::Invalid(format!("MAC address {mac} is no address of an interface")).into());
    }
    Ok(mac)
}

fn refuse_address(error: IpamError) -> Refusal {
    match error {
        IpamError::AlreadyAllocated(_) | IpamError::Exhausted(_) => Refusal::Taken(error.to_string()),
        _ => Refusal::invalid(error),
    }
}

fn refuse_ifname(error: Error) -> Error {
    match error.downcast_ref() {
        Some(Errno::EEXIST) => {
            Refusal::Taken(format!("the namespace already has an interface {CONTAINER_IFNAME}")).into()
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_gives_the_name_back_to_its_own_network_only() {
        assert_eq!(name_in_alias("netpath0", &alias("netpath0", "web")), Some("web"));
        assert_eq!(name_in_alias("netpath", &alias("netpath0", "web")), None);
        assert_eq!(name_in_alias("netpath0", "somebody's"), None);
        assert!(alias("123456789012345", &"x".repeat(MAX_NAME)).len() < 256);
    }

    #[test]
    fn a_group_address_is_no_containers_address() {
        assert!(parse_mac(Some("02:00:00:00:00:01")).is_ok());
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "eth0"] {
            assert!(parse_mac(Some(text)).is_err(), "{text}");
        }
    }
}
