//! Publishing ports of containers and unpublishing them: all of it or nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Error, Result};

use crate::agent::Agent;
use crate::api::{self, GatewayMode};
use crate::binding::host_name;
use crate::desired_ports::Gateway;
use crate::host_ports::{Check, ProcPorts};
use crate::port_parts;
use crate::ports::{self, Request, Resolver, Scope};
use crate::refusal::Refusal;
use crate::state::{Endpoint, Network, PortBinding};

impl Agent {
    /// Publishes more ports of a container.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such container or a port is not to be had; nothing has changed then.
    pub fn publish(&mut self, name: &str, request: &api::Ports) -> Result<api::Container> {
        let container = self.find(name)?;
        let (mode, keeps_ports) = (&container.network_mode, container.keeps_ports);
        let networks: Vec<u32> = self.state.endpoints_of(name).iter().map(|(_, endpoint)| endpoint.network).collect();
        if networks.is_empty() {
            let reason =
                format!("container `{name}` is in no network of its own (--net={mode}): it has no port to publish");
            return Err(Refusal::Invalid(reason).into());
        }
        let request = Request { publish: &request.ports, from: &request.from, ..Request::default() };
        let bindings = self.resolve_ports(&request, name, &networks, keeps_ports)?;
        let new = self.with_counters(bindings)?;
        let counters: Vec<u32> = new.iter().map(|port| port.counter).collect();
        let published = self.change(name, |state| {
            state.containers.get_mut(name).into_iter().for_each(|container| container.ports.extend(new.clone()));
        });
        if let Err(error) = published {
            counters.into_iter().for_each(|counter| self.counters.give_back(counter));
            return Err(error);
        }
        self.container(name)
    }

    /// Closes published ports of a container.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such container or port; nothing has changed then.
    pub fn unpublish(&mut self, name: &str, request: &api::Ports) -> Result<api::Container> {
        let old = self.find(name)?.ports.clone();
        let left = self.with_counters(port_parts::without(&old, &request.ports, name)?)?;
        let (new, freed) = (counters_beside(&left, &old), counters_beside(&old, &left));
        let unpublished = self.change(name, |state| {
            state.containers.get_mut(name).into_iter().for_each(|container| container.ports = left.clone());
        });
        if let Err(error) = unpublished {
            new.into_iter().for_each(|counter| self.counters.give_back(counter));
            return Err(error);
        }
        freed.into_iter().for_each(|counter| self.counters.give_back(counter));
        self.container(name)
    }

    /// Makes the published ports of a container exactly `wanted`, whose owner keeps them; equal ones are not touched.
    ///
    /// # Errors
    /// A [`Refusal`] if another container publishes one; nothing has changed then.
    pub(crate) fn set_ports(&mut self, name: &str, wanted: &[PortBinding]) -> Result<()> {
        let old = self.find(name)?.ports.clone();
        let known = |port: &PortBinding| {
            let counter = old.iter().find(|old| PortBinding { counter: 0, ..(*old).clone() } == *port);
            PortBinding { counter: counter.map_or(0, |old| old.counter), ..port.clone() }
        };
        let ports: Vec<PortBinding> = wanted.iter().map(known).collect();
        if ports.len() == old.len() && ports.iter().all(|port| port.counter != 0) {
            return Ok(());
        }
        self.check_ports(name, wanted)?;
        let ports = self.with_counters(ports)?;
        let (new, freed) = (counters_beside(&ports, &old), counters_beside(&old, &ports));
        let changed = self.change(name, |state| {
            state.containers.get_mut(name).into_iter().for_each(|container| container.ports = ports.clone());
        });
        let unused = if changed.is_ok() { freed } else { new };
        unused.into_iter().for_each(|counter| self.counters.give_back(counter));
        changed
    }

    /// Checks that no other container publishes one of `wanted`.
    ///
    /// # Errors
    /// A [`Refusal`] that names it.
    pub(crate) fn check_ports(&self, name: &str, wanted: &[PortBinding]) -> Result<(), Refusal> {
        for port in wanted.iter().filter(|port| !port.is_direct()) {
            let overlaps = |(other, binding): &(&str, &PortBinding)| {
                *other != name
                    && !binding.is_direct()
                    && binding.proto == port.proto
                    && ports::overlap(binding.host_addr, port.host_addr)
                    && binding.host_ports().start() <= port.host_ports().end()
                    && port.host_ports().start() <= binding.host_ports().end()
            };
            if let Some((holder, _)) = self.state.bindings().find(overlaps) {
                return Err(Refusal::Taken(format!(
                    "port {}/{} is already published by container `{holder}`",
                    host_name(port.host_addr, &port.host_ports()),
                    port.proto
                )));
            }
        }
        Ok(())
    }

    /// Keeps published ports by sockets, where the kernel took no programs that do; `error` says why not.
    pub(crate) fn do_without_hooks(&mut self, error: &Error) {
        tracing::warn!("serve the host's own access to published ports: {error:#}");
        if self.datapath.keeps_ports() {
            tracing::warn!("the programs of an earlier agent go on keeping published ports for containers");
            return;
        }
        tracing::warn!("published ports are kept for containers by a socket each, while this agent runs");
        self.held_ports.begin();
        for (name, error) in self.hold_free_ports() {
            tracing::warn!("keep the ports of container `{name}` from other programs: {error:#}");
        }
    }

    /// Holds what somebody else had when its time was, where it is free by now; why the rest is not held.
    pub(crate) fn hold_free_ports(&mut self) -> Vec<(String, Error)> {
        let Self { held_ports, state, .. } = self;
        if !held_ports.is_wanted() {
            return Vec::new();
        }
        let own = state.bindings().filter(|(name, _)| !state.are_ports_kept(name));
        let failed = own.filter_map(|(name, binding)| Some((name, held_ports.hold_free(binding).err()?)));
        failed.map(|(name, error)| (name.to_owned(), error)).collect()
    }

    /// Lets go of the sockets of ports that are not published any more.
    pub(crate) fn release_ports(&mut self) {
        self.held_ports.keep_only(self.state.bindings().map(|(_, binding)| binding));
    }

    /// The bindings for a container in `networks`, with counters still to give. `keeps_ports`: who runs it keeps its host
    /// ports.
    ///
    /// # Errors
    /// A [`Refusal`] if the request is malformed, or a host port taken.
    pub(crate) fn resolve_ports(
        &mut self,
        request: &Request<'_>,
        name: &str,
        networks: &[u32],
        keeps_ports: bool,
    ) -> Result<Vec<PortBinding>> {
        let v4 = self.host.local_addrs.iter().copied().map(IpAddr::V4);
        let v6 = self.host.local_addrs6.iter().copied().map(IpAddr::V6);
        let scope = Scope {
            default_addr: self.binding_addr(networks),
            local_addrs: v4.chain(v6).collect(),
            v4: self.gateway_of(networks, |network| network.v4.is_some().then_some(network.mode4)),
            v6: self.gateway_of(networks, |network| network.v6.is_some().then_some(network.mode6)),
        };
        let check = match self.held_ports.is_wanted() {
            _ if keeps_ports => Check::Nothing,
            true => Check::Bindable,
            false => Check::Listed,
        };
        let host = ProcPorts::new(self.options.automatic_ports, check);
        let mut resolver = Resolver::new(host, scope, self.state.bindings(), self.last_automatic_port);
        let bindings = resolver.resolve(request, name)?;
        self.last_automatic_port = resolver.last_automatic();
        Ok(bindings)
    }

    /// Where a container in `networks` publishes a port without an address: its first network says so.
    fn binding_addr(&self, networks: &[u32]) -> IpAddr {
        let network = networks.first().and_then(|index| self.state.networks.get(index));
        network.and_then(|network| network.binding_addr).unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }

    /// How one family of a container in `networks` is reached; `None` if no network has it. In an internal
    /// network host ports are taken all the same: they open when the container comes into another one.
    fn gateway_of(&self, networks: &[u32], mode: fn(&Network) -> Option<GatewayMode>) -> Option<Gateway> {
        let networks = || networks.iter().filter_map(|index| self.state.networks.get(index));
        let mut outside = networks().filter(|network| !network.internal).filter_map(mode);
        match outside.next() {
            Some(GatewayMode::Routed) => Some(Gateway::Routed),
            Some(_) => Some(Gateway::Nat),
            None => networks().find_map(mode).map(|_| Gateway::Nat),
        }
    }

    /// Gives each binding that has none a counter of its own, at zero.
    ///
    /// # Errors
    /// A [`Refusal`] if there are no more.
    pub(crate) fn with_counters(&mut self, mut bindings: Vec<PortBinding>) -> Result<Vec<PortBinding>> {
        let mut taken = Vec::new();
        for binding in bindings.iter_mut().filter(|binding| binding.counter == 0) {
            let Some(counter) = self.counters.take() else {
                taken.into_iter().for_each(|counter| self.counters.give_back(counter));
                return Err(Refusal::Taken("no counter is free for another port; raise --max-ports".to_owned()).into());
            };
            taken.push(counter);
            binding.counter = counter;
            if let Err(error) = self.datapath.reset_counter(counter) {
                taken.into_iter().for_each(|counter| self.counters.give_back(counter));
                return Err(error);
            }
        }
        Ok(bindings)
    }
}

/// A binding as people see it, of a container with these endpoints. One without host ports is at the
/// container's own address.
pub(crate) fn show(port: &PortBinding, endpoints: &[(u32, &Endpoint)]) -> api::PortBinding {
    let own = |endpoint: &Endpoint| match port.host_addr {
        IpAddr::V4(_) => endpoint.addr.map(IpAddr::V4),
        IpAddr::V6(_) => endpoint.addr6.map(IpAddr::V6),
    };
    let own = endpoints.iter().find_map(|(_, endpoint)| own(endpoint)).filter(|_| port.is_direct());
    api::PortBinding {
        host_addr: own.unwrap_or(port.host_addr),
        host_port: if own.is_some() { port.container_port } else { port.host_port },
        container_port: port.container_port,
        count: port.count,
        proto: port.proto,
        from: port.from.clone(),
    }
}

/// The counters of `ports` that `others` have not.
fn counters_beside(ports: &[PortBinding], others: &[PortBinding]) -> Vec<u32> {
    let known: BTreeSet<u32> = others.iter().map(|other| other.counter).collect();
    ports.iter().map(|port| port.counter).filter(|counter| !known.contains(counter)).collect()
}
