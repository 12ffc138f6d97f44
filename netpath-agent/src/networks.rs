//! Networks: creating and removing them, connecting containers to more than one.

use anyhow::{Context, Error, Result, anyhow};

use crate::adopted;
use crate::agent::{Addresses, Agent, mtu, read_interfaces};
use crate::api::{self, GatewayMode, NetworkCreate, Owner};
use crate::bridge;
use crate::containers::check_name;
use crate::datapath::Attachment;
use crate::desired::BridgeFacts;
use crate::endpoint_plan::Asked;
use crate::endpoints::join;
use crate::externals::Interfaces;
use crate::host;
use crate::ipam::Allocator;
use crate::ipv6;
use crate::network_mode::DEFAULT_NETWORK;
use crate::refusal::Refusal;
use crate::state::{MAX_NETWORKS, Network, State};
use crate::subnets::{self, Subnets};

impl Agent {
    pub fn networks(&self) -> Vec<api::Network> {
        self.state.networks.iter().map(|(index, network)| self.show_network(*index, network)).collect()
    }

    /// # Errors
    /// A [`Refusal`] if there is no such network.
    pub fn network(&self, name: &str) -> Result<api::Network> {
        let (index, network) = self.find_network(name)?;
        Ok(self.show_network(index, network))
    }

    /// Creates a network.
    ///
    /// # Errors
    /// A [`Refusal`] if the request cannot be served; nothing has changed then, nor after any other error.
    pub async fn create_network(&mut self, request: NetworkCreate) -> Result<api::NetworkCreated> {
        check_name(&request.name, "network")?;
        let owner = if request.adopt { Owner::Other } else { Owner::Netpath };
        self.create_network_of(owner, request).await
    }

    /// As [`Self::create_network`], for one whose name need not be one that netpath gives.
    pub(crate) async fn create_network_of(
        &mut self,
        owner: Owner,
        request: NetworkCreate,
    ) -> Result<api::NetworkCreated> {
        self.check_new(&request)?;
        let interfaces = read_interfaces(&self.netlink).await?;
        let adopted = adopted::bridge(&request, &interfaces.links)?;
        let (bridge, subnets) = if request.adopt {
            (request.bridge.clone(), subnets::of_adopted(&request, adopted, &interfaces, &self.state))
        } else {
            let bridge = match &request.bridge {
                Some(name) => name.clone(),
                None => format!("br-{}", hex(&host::random::<6>()?)),
            };
            let pools = &self.options.address_pools;
            let subnets = subnets::of_new(&request, &bridge, &interfaces, &self.state, pools);
            (Some(bridge), subnets)
        };
        let Subnets { v4, v6, skipped } = subnets.map_err(Refusal::invalid)?;
        let Some(counter) = self.counters.take_pair() else {
            return Err(Refusal::Taken("no counter is free for another network".to_owned()).into());
        };
        let name = request.name.clone();
        let network = Network {
            name: request.name,
            counter,
            bridge,
            created: false,
            owner,
            v4,
            v6,
            icc: request.icc.unwrap_or(true),
            internal: request.internal,
            masquerade: request.masquerade.unwrap_or(true),
            mtu: adopted.map(|link| link.mtu).or(request.mtu).or(self.options.mtu),
            mode4: request.gateway_mode_ipv4,
            mode6: request.gateway_mode_ipv6,
            trusted: request.trusted,
            binding_addr: request.binding_addr,
            shortcuts: request.shortcuts.unwrap_or(true),
        };
        if let Err(error) = self.add_network(network, &interfaces).await {
            self.counters.give_back_pair(counter);
            return Err(error.context(format!("create network `{name}`")));
        }
        tracing::info!("created network `{name}`");
        Ok(api::NetworkCreated { network: self.network(&name)?, skipped })
    }

    /// Removes a network that no container is connected to.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such network or it is in use.
    pub async fn delete_network(&mut self, name: &str) -> Result<api::Network> {
        let was = self.network(name)?;
        let (index, _) = self.find_network(name)?;
        if name == DEFAULT_NETWORK {
            return Err(Refusal::Invalid(format!("{name} is a pre-defined network and cannot be removed")).into());
        }
        if !was.containers.is_empty() {
            let containers = was.containers.join(", ");
            return Err(Refusal::Taken(format!("network {name} has active endpoints: {containers}")).into());
        }
        let errors = self.remove_network(index).await;
        tracing::info!("removed network `{name}`");
        match join(&errors) {
            Some(errors) => Err(anyhow!(errors).context(format!("remove network `{name}`"))),
            None => Ok(was),
        }
    }

    /// Takes a network without endpoints away, and goes on past errors.
    pub(crate) async fn remove_network(&mut self, index: u32) -> Vec<Error> {
        let Some(network) = self.state.networks.remove(&index) else { return Vec::new() };
        self.addresses.remove(&index);
        let bridge = self.host.bridges.remove(&index);
        self.host.trusted.retain(|(_, other)| *other != index);
        self.counters.give_back_pair(network.counter);
        let mut errors = vec![self.store.save(&self.state), self.reconcile()];
        errors.extend(bridge.map(|bridge| self.datapath.detach(bridge.ifindex)));
        if let Some(bridge) = bridge.filter(|_| network.created) {
            errors.push(self.netlink.delete_link(bridge.ifindex).await);
        }
        errors.into_iter().filter_map(Result::err).collect()
    }

    /// Changes a network's policy live; that of the default network until the agent is started anew.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such network; if disk or map cannot be written. Nothing has changed then.
    pub fn patch_network(&mut self, name: &str, patch: &api::NetworkPatch) -> Result<api::Network> {
        let (index, network) = self.find_network(name)?;
        let old = network.clone();
        let new = Network {
            icc: patch.icc.unwrap_or(old.icc),
            shortcuts: patch.shortcuts.unwrap_or(old.shortcuts),
            ..old.clone()
        };
        if new != old {
            self.state.networks.insert(index, new);
            let changed = self.store.save(&self.state).and_then(|()| self.reconcile());
            if changed.is_err() {
                self.state.networks.insert(index, old);
                self.restore();
            }
            changed?;
        }
        self.network(name)
    }

    /// Gives a container an interface in one more network.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such network or container, or it is connected already.
    pub async fn connect(&mut self, network: &str, request: &api::Connect) -> Result<api::Container> {
        let (index, _) = self.find_network(network)?;
        let name = request.container.clone();
        let container = self.find(&name)?;
        if matches!(container.network_mode.as_str(), "host") || container.network_mode.starts_with("container:") {
            let error = format!(
                "container sharing network namespace with another container or host cannot be connected to any other network: {name}"
            );
            return Err(Refusal::Invalid(error).into());
        }
        if self.state.endpoints_of(&name).iter().any(|(_, endpoint)| endpoint.network == index) {
            let error = format!("endpoint with name {name} already exists in network {network}");
            return Err(Refusal::Taken(error).into());
        }
        let netns = container.open_netns().map_err(Refusal::invalid)?;
        if let Some(interface) = &request.adopt {
            return self.connect_adopted(network, &name, interface, request.cni.as_deref(), &netns).await;
        }
        let (endpoint_index, mut endpoint) = self.plan_endpoint(&name, index, Asked::from(request)).await?;
        if let Err(error) = self.connect_endpoint(endpoint_index, &mut endpoint, &netns, None).await {
            for error in self.undo_endpoint(endpoint_index, endpoint).await {
                tracing::warn!("undo the connection of `{name}`: {error:#}");
            }
            return Err(error.context(format!("connect container `{name}` to network `{network}`")));
        }
        tracing::info!("connected container `{name}` to network `{network}` at {}", endpoint.shown());
        self.follow_names(&name);
        self.container(&name)
    }

    /// Takes a container's interface in a network away.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such network or container, or it is not connected.
    pub async fn disconnect(&mut self, network: &str, name: &str) -> Result<api::Container> {
        let (index, _) = self.find_network(network)?;
        let container = self.find(name)?.clone();
        let endpoint = self.state.endpoints_of(name).into_iter().find(|(_, endpoint)| endpoint.network == index);
        let Some((endpoint, _)) = endpoint else {
            return Err(Refusal::NotFound(format!("container {name} is not connected to network {network}")).into());
        };
        let is_adopted = self.state.is_adopted(index);
        let old = self.gateways(name);
        let mut errors = self.discard_endpoint(endpoint).await;
        let new = self.gateways(name);
        // The old routes went with the interface they led to, or stay.
        let missing: Vec<_> = new.into_iter().filter(|gateway| !old.contains(gateway)).collect();
        if !missing.is_empty() && !is_adopted {
            let set = async { container.open_netns()?.set_default_routes(Vec::new(), missing).await };
            errors.extend(set.await.err());
        }
        self.follow_names(name);
        match join(&errors) {
            Some(errors) => {
                Err(anyhow!(errors).context(format!("disconnect container `{name}` from network `{network}`")))
            }
            None => self.container(name),
        }
    }

    pub(crate) fn find_network(&self, name: &str) -> Result<(u32, &Network), Refusal> {
        self.state.network(name).ok_or_else(|| Refusal::no_network(name))
    }

    async fn add_network(&mut self, mut network: Network, interfaces: &Interfaces) -> Result<()> {
        let index = self.state.free_network_index().ok_or_else(|| {
            Refusal::Taken(format!("no room for another network: there are {MAX_NETWORKS}, which is the most"))
        })?;
        let addresses = allocators(&network, index, &self.state).map_err(Refusal::invalid)?;
        self.datapath.reset_counter(network.counter)?;
        self.datapath.reset_counter(network.counter + 1)?;
        let is_dual = network.v6.is_some();
        if is_dual {
            self.serve_ipv6().await?;
        }
        let wanted_mtu = mtu(&network, &self.host);
        let bridge = match &network.bridge {
            Some(ifname) => {
                Some(bridge::of(&self.netlink, &self.options.bridge, (&network, ifname), wanted_mtu, interfaces).await?)
            }
            None => None,
        };
        network.created = bridge.is_some_and(|bridge| bridge.created);
        let facts = bridge.map(|bridge| BridgeFacts { ifindex: bridge.ifindex, mac: bridge.mac, mtu: wanted_mtu });
        self.state.networks.insert(index, network);
        self.host.bridges.extend(facts.map(|facts| (index, facts)));
        self.addresses.insert(index, addresses);
        let added = self.store.save(&self.state);
        let added = match added {
            Ok(()) => self.refresh().await.and_then(|()| self.reconcile()).and_then(|()| self.guard(index)),
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            self.state.networks.remove(&index);
            self.host.bridges.remove(&index);
            self.addresses.remove(&index);
            self.restore();
            if let Some(bridge) = bridge {
                let detached = self.datapath.detach(bridge.ifindex);
                self.warn("take the programs off the bridge", detached);
                if bridge.fresh {
                    self.warn("remove the bridge", self.netlink.delete_link(bridge.ifindex).await);
                }
            }
            return Err(error);
        }
        if is_dual {
            // The network is there, and containers of it reach each other all the same.
            self.warn("let the host forward IPv6", ipv6::forward(self.options.ip_forward));
        }
        Ok(())
    }

    /// Attaches the program that lets nobody through to the network's containers who comes by an interface that has
    /// none.
    pub(crate) fn guard(&mut self, index: u32) -> Result<()> {
        let (Some(network), Some(bridge)) = (self.state.networks.get(&index), self.host.bridges.get(&index)) else {
            return Ok(());
        };
        let Some(ifname) = &network.bridge else { return Ok(()) };
        self.datapath.attach_all(Attachment::Bridge, bridge.ifindex, ifname)
    }

    /// Makes maps and disk say what the state says again.
    fn restore(&mut self) {
        let restored = self.reconcile();
        self.warn("restore the maps", restored);
        self.warn("restore the state", self.store.save(&self.state));
    }

    fn check_new(&self, request: &NetworkCreate) -> Result<(), Refusal> {
        let name = &request.name;
        if ["none", "host", "default"].contains(&name.as_str()) {
            return Err(Refusal::Invalid(format!("operation is not permitted on predefined {name} network")));
        }
        if self.state.network(name).is_some() {
            return Err(Refusal::Taken(format!("network with name {name} already exists")));
        }
        let modes = [request.gateway_mode_ipv4, request.gateway_mode_ipv6];
        if modes.contains(&GatewayMode::Isolated) && !request.internal {
            return Err(Refusal::Invalid(
                "gateway mode 'isolated' can only be used for an internal network".to_owned(),
            ));
        }
        if let Some(mtu) = request.mtu.filter(|mtu| !(68..=65_535).contains(mtu)) {
            return Err(Refusal::Invalid(format!("MTU {mtu} is out of range, want 68 to 65535")));
        }
        if let Some(bridge) = &request.bridge {
            if !bridge::is_ifname(bridge) {
                return Err(Refusal::Invalid(format!(
                    "`{bridge}` is no interface name: 1 to 15 characters, no `/`, `:` or `%`, no space"
                )));
            }
            if let Some(other) = self.state.networks.values().find(|network| network.bridge.as_ref() == Some(bridge)) {
                return Err(Refusal::Taken(format!("bridge {bridge} belongs to network `{}`", other.name)));
            }
        }
        Ok(())
    }

    fn show_network(&self, index: u32, network: &Network) -> api::Network {
        let endpoints = self.state.endpoints.values().filter(|endpoint| endpoint.network == index);
        api::Network {
            name: network.name.clone(),
            owner: network.owner,
            bridge: network.bridge.clone(),
            v4: network.v4,
            v6: network.v6,
            mtu: self.mtu(network),
            icc: network.icc,
            internal: network.internal,
            masquerade: network.masquerade,
            gateway_mode_ipv4: network.mode4,
            gateway_mode_ipv6: network.mode6,
            trusted: network.trusted.clone(),
            shortcuts: network.shortcuts,
            containers: endpoints.map(|endpoint| endpoint.container.clone()).collect(),
            is_full: self.addresses.get(&index).is_some_and(Addresses::is_full),
        }
    }
}

/// A network's addresses, with those taken that the bridge, the gateway and the endpoints have.
///
/// # Errors
/// If they do not fit.
pub(crate) fn allocators(network: &Network, index: u32, state: &State) -> Result<Addresses> {
    let mut addresses = Addresses::default();
    for (subnet, pool) in [(&network.v4, &mut addresses.v4), (&network.v6, &mut addresses.v6)] {
        let Some(subnet) = subnet else { continue };
        let mut allocator = Allocator::new(subnet.subnet, subnet.ip_range)?;
        for addr in subnet.bridge.into_iter().chain(subnet.gateway.filter(|addr| Some(*addr) != subnet.bridge)) {
            allocator.reserve(addr).with_context(|| format!("use gateway {addr}"))?;
        }
        *pool = Some(allocator);
    }
    for endpoint in state.endpoints.values().filter(|endpoint| endpoint.network == index) {
        let v4 = endpoint.addr.map(|addr| (std::net::IpAddr::from(addr), &mut addresses.v4));
        let v6 = endpoint.addr6.map(|addr| (std::net::IpAddr::from(addr), &mut addresses.v6));
        for (addr, pool) in v4.into_iter().chain(v6) {
            let taken = pool.as_mut().map(|pool| pool.allocate_exact(addr));
            anyhow::ensure!(
                matches!(taken, Some(Ok(()))),
                "container `{name}` has address {addr}, which does not fit network `{network}` as the options have it; \
                 disconnect it first (`netpath detach {name}` with the old options)",
                name = endpoint.container,
                network = network.name,
            );
        }
    }
    Ok(addresses)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
