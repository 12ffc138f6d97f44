//! A container's interfaces: planned, made, taken away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use ipnet::IpNet;
use nix::errno::Errno;

use crate::agent::{Addresses, Agent};
use crate::announce::announce;
use crate::api;
use crate::bridge;
use crate::desired::{Addrs, container_image};
use crate::host;
use crate::ipam::{Allocator, IpamError};
use crate::netlink::Veth;
use crate::netns::Netns;
use crate::reconcile::diff;
use crate::refusal::Refusal;
use crate::state::{Container, Endpoint, Mac, State};
use crate::xdp_externals::prepare_for_xdp;

/// What is asked of a new endpoint; the rest is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    pub address: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    pub mac: Option<&'a str>,
    pub interface: Option<&'a str>,
    pub cni: Option<&'a str>,
}

impl<'a> From<&'a api::Attach> for Asked<'a> {
    fn from(request: &'a api::Attach) -> Self {
        Self {
            address: request.address,
            address6: request.address6,
            mac: request.mac.as_deref(),
            interface: request.interface.as_deref(),
            cni: request.cni.as_deref(),
        }
    }
}

impl<'a> From<&'a api::Connect> for Asked<'a> {
    fn from(request: &'a api::Connect) -> Self {
        Self {
            address: request.address,
            address6: request.address6,
            mac: request.mac.as_deref(),
            interface: request.interface.as_deref(),
            cni: request.cni.as_deref(),
        }
    }
}

/// The interface of a new endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Host end of the veth pair.
    pub ifname: String,
    /// 0 while it is yet to be made.
    pub ifindex: u32,
    /// Name inside the container.
    pub interface: String,
    pub mac: Mac,
    pub mtu: u32,
}

impl Agent {
    /// Reserves everything that a new endpoint needs but the interface.
    ///
    /// # Errors
    /// A [`Refusal`] if it is not to be had; nothing is reserved then.
    pub(crate) async fn plan_endpoint(
        &mut self,
        container: &str,
        network: u32,
        asked: Asked<'_>,
    ) -> Result<(u32, Endpoint)> {
        if self.state.is_adopted(network) {
            let name = &self.state.networks[&network].name;
            let error =
                format!("network {name} is somebody else's, who makes its interfaces: they can only be adopted");
            return Err(Refusal::Invalid(error).into());
        }
        let mac = match asked.mac {
            Some(text) => parse_mac(text)?,
            None => Mac(host::random_mac()?),
        };
        let interface = self.interface_for(container, asked.interface)?;
        self.check_bridge(network).await?;
        let ifname = self.free_ifname().await?;
        let mtu = self.mtu(&self.state.networks[&network]);
        let interface = Interface { ifname, ifindex: 0, interface, mac, mtu };
        self.reserve_endpoint(container, network, asked, interface)
    }

    /// Reserves everything that a new endpoint with this interface needs.
    ///
    /// # Errors
    /// As [`Self::plan_endpoint`].
    pub(crate) fn reserve_endpoint(
        &mut self,
        container: &str,
        network: u32,
        asked: Asked<'_>,
        interface: Interface,
    ) -> Result<(u32, Endpoint)> {
        let index = self.state.free_index();
        if index > self.options.max_endpoints {
            let max = self.options.max_endpoints;
            return Err(Refusal::Taken(format!("no room for another container: --max-endpoints is {max}")).into());
        }
        self.check_mac(network, interface.mac)?;
        let (addr, addr6) = self.take_addresses(network, asked)?;
        let Some(counter) = self.counters.take_pair() else {
            self.release_addresses(network, addr, addr6);
            return Err(Refusal::Taken("no counter is free for another container".to_owned()).into());
        };
        let reset = self.datapath.reset_counter(counter).and_then(|()| self.datapath.reset_counter(counter + 1));
        if let Err(error) = reset {
            self.release_addresses(network, addr, addr6);
            self.counters.give_back_pair(counter);
            return Err(error);
        }
        let generation = self.state.next_generation;
        self.state.next_generation += 1;
        let Interface { ifname, ifindex, interface, mac, mtu } = interface;
        let container = container.to_owned();
        let takes_xdp = false;
        let cni = asked.cni.map(str::to_owned);
        Ok((
            index,
            Endpoint {
                container,
                network,
                generation,
                counter,
                ifname,
                ifindex,
                interface,
                addr,
                addr6,
                mac,
                mtu,
                cni,
                takes_xdp,
            },
        ))
    }

    /// Makes the planned endpoint real. The container's first packet finds maps and program in place, because
    /// the host's end of the pair comes up last. A new `container` is noted with it: nobody finds one without the
    /// other after a crash.
    ///
    /// # Errors
    /// If any of it fails; call [`Self::undo_endpoint`] then.
    pub(crate) async fn connect_endpoint(
        &mut self,
        index: u32,
        endpoint: &mut Endpoint,
        netns: &Netns,
        container: Option<Container>,
    ) -> Result<()> {
        let veth = Veth {
            ifname: &endpoint.ifname,
            mtu: endpoint.mtu,
            mac: host::random_mac()?,
            group: bridge::half_made(&self.options.bridge),
            peer_ifname: &endpoint.interface,
            peer_mac: endpoint.mac.0,
            peer_netns: netns.fd(),
        };
        self.netlink.create_veth(&veth).await.map_err(|error| refuse_ifname(error, &endpoint.interface))?;
        let link = self.netlink.link(&endpoint.ifname).await?.context("the namespace is gone")?;
        endpoint.ifindex = link.ifindex;
        self.netlink.set_alias(link.ifindex, &alias(&self.options.bridge, &endpoint.container)).await?;
        netns.configure(&endpoint.interface, self.nets(endpoint)?).await?;
        endpoint.takes_xdp = self.has_xdp() && prepare_for_xdp(netns, endpoint).await;
        let old = self.gateways(&endpoint.container);
        let name = endpoint.container.clone();
        let made = endpoint.clone();
        self.change(&name, |state| {
            state.containers.extend(container.map(|container| (name.clone(), container)));
            state.endpoints.insert(index, made);
        })?;
        let new = self.gateways(&name);
        if old != new {
            netns.set_default_routes(old, new).await?;
        }
        self.datapath.attach_container(endpoint.ifindex, &endpoint.ifname)?;
        let bridge = self.bridge_of(endpoint.network)?;
        self.netlink.enslave(endpoint.ifindex, bridge).await?;
        self.netlink.set_up(endpoint.ifindex).await?;
        self.announce(bridge, endpoint).await;
        Ok(())
    }

    /// Takes an endpoint away that may be half made, and goes on past errors.
    pub(crate) async fn undo_endpoint(&mut self, index: u32, endpoint: Endpoint) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut note = |result: Result<()>| errors.extend(result.err());
        note(self.forget_endpoint(index, &endpoint.container));
        let ifindex = match endpoint.ifindex {
            0 => self.netlink.link(&endpoint.ifname).await.map(|link| link.map(|link| link.ifindex)),
            ifindex => Ok(Some(ifindex)),
        };
        match ifindex {
            Ok(Some(ifindex)) => {
                note(self.datapath.detach(ifindex));
                note(self.datapath.forget_drops(ifindex));
                if !self.state.is_adopted(endpoint.network) {
                    note(self.netlink.delete_link(ifindex).await);
                    note(self.datapath.forget_drops(ifindex));
                }
            }
            Ok(None) => {}
            Err(error) => note(Err(error)),
        }
        self.release_addresses(endpoint.network, endpoint.addr, endpoint.addr6);
        self.counters.give_back_pair(endpoint.counter);
        errors
    }

    /// As [`Self::undo_endpoint`], for one that the state knows.
    pub(crate) async fn discard_endpoint(&mut self, index: u32) -> Vec<Error> {
        match self.state.endpoints.get(&index).cloned() {
            Some(endpoint) => self.undo_endpoint(index, endpoint).await,
            None => Vec::new(),
        }
    }

    /// Takes the endpoint out of maps and state. Unlike [`Agent::change`] it never takes anything back.
    fn forget_endpoint(&mut self, index: u32, container: &str) -> Result<()> {
        let addrs = |agent: &Self| Addrs::new(&agent.state, &agent.host);
        let mut before = container_image(container, &self.state, &addrs(self));
        before.links = crate::desired::links(&self.state);
        let known = self.state.endpoints.remove(&index).is_some();
        let mut after = container_image(container, &self.state, &addrs(self));
        after.links = crate::desired::links(&self.state);
        if !known {
            return Ok(());
        }
        before.retain_keys_of(&self.image);
        let applied = self.apply(&diff(&after, &before));
        applied.and(self.store.save(&self.state))
    }

    /// Where the container's default routes lead: to the first network of each family that has a gateway.
    pub(crate) fn gateways(&self, container: &str) -> Vec<IpAddr> {
        gateways(&self.state, container)
    }

    pub(crate) fn bridge_of(&self, network: u32) -> Result<u32> {
        let bridge = self.host.bridges.get(&network).context("the network's bridge is gone")?;
        Ok(bridge.ifindex)
    }

    /// Its addresses with their prefixes.
    fn nets(&self, endpoint: &Endpoint) -> Result<Vec<IpNet>> {
        let network = &self.state.networks[&endpoint.network];
        let mut nets = Vec::new();
        if let (Some(addr), Some(subnet)) = (endpoint.addr, &network.v4) {
            nets.push(IpNet::new(addr.into(), subnet.subnet.prefix_len())?);
        }
        if let (Some(addr), Some(subnet)) = (endpoint.addr6, &network.v6) {
            nets.push(IpNet::new(addr.into(), subnet.subnet.prefix_len())?);
        }
        Ok(nets)
    }

    fn take_addresses(&mut self, network: u32, asked: Asked<'_>) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
        let addresses = self.addresses.entry(network).or_default();
        let Addresses { v4, v6 } = addresses;
        let addr = take(v4.as_mut(), asked.address.map(IpAddr::V4), "IPv4")?;
        let addr6 = take(v6.as_mut(), asked.address6.map(IpAddr::V6), "IPv6");
        let addr6 = match addr6 {
            Ok(addr6) => addr6,
            Err(error) => {
                if let (Some(pool), Some(addr)) = (v4, addr) {
                    pool.release(addr);
                }
                return Err(error);
            }
        };
        let v4 = addr.and_then(|addr| if let IpAddr::V4(addr) = addr { Some(addr) } else { None });
        let v6 = addr6.and_then(|addr| if let IpAddr::V6(addr) = addr { Some(addr) } else { None });
        Ok((v4, v6))
    }

    fn release_addresses(&mut self, network: u32, addr: Option<Ipv4Addr>, addr6: Option<Ipv6Addr>) {
        let Some(addresses) = self.addresses.get_mut(&network) else { return };
        if let (Some(pool), Some(addr)) = (&mut addresses.v4, addr) {
            pool.release(addr.into());
        }
        if let (Some(pool), Some(addr)) = (&mut addresses.v6, addr6) {
            pool.release(addr.into());
        }
    }

    /// Two interfaces with one hardware address would take each other's frames. Who made them may have them in two
    /// networks, where they do not.
    fn check_mac(&self, network: u32, mac: Mac) -> Result<()> {
        let is_near = |other: u32| other == network || !self.state.is_adopted(network);
        let holder = self.state.endpoints.values().find(|endpoint| endpoint.mac == mac && is_near(endpoint.network));
        let holder = holder.map(|endpoint| format!("container `{}`", endpoint.container));
        let bridge = self.host.bridges.values().any(|bridge| bridge.mac == mac.0).then(|| "the bridge".to_owned());
        match holder.or(bridge) {
            Some(holder) => Err(Refusal::Taken(format!("MAC address {mac} is already in use by {holder}")).into()),
            None => Ok(()),
        }
    }

    async fn check_bridge(&self, network: u32) -> Result<()> {
        let bridge = &self.state.networks[&network].bridge;
        let link = self.netlink.link(bridge).await?;
        let ifindex = self.host.bridges.get(&network).map(|bridge| bridge.ifindex);
        ensure!(
            link.is_some_and(|link| Some(link.ifindex) == ifindex),
            "bridge {bridge} has been removed; restart the agent, which makes it anew"
        );
        Ok(())
    }

    /// Tells host and containers who has the addresses from now on.
    async fn announce(&self, bridge: u32, endpoint: &Endpoint) {
        let addrs = endpoint.addr.map(IpAddr::V4).into_iter().chain(endpoint.addr6.map(IpAddr::V6));
        for addr in addrs {
            let learned = self.netlink.learn_neighbour(bridge, addr, endpoint.mac.0).await;
            self.warn("tell the host the container's address", learned);
            self.warn("tell the containers the container's address", announce(bridge, addr, endpoint.mac.0));
        }
    }

    /// The name of a container's new interface: as asked for, `eth0`, or the next that the container does not have.
    fn interface_for(&self, container: &str, asked: Option<&str>) -> Result<String, Refusal> {
        let known = self.state.interfaces_of(container);
        let Some(asked) = asked else {
            let mut names = (0..=known.len()).map(|i| format!("eth{i}"));
            return Ok(names.find(|name| !known.contains(&name.as_str())).unwrap_or_default());
        };
        if !bridge::is_ifname(asked) {
            return Err(Refusal::Invalid(format!("`{asked}` is no interface name")));
        }
        if known.contains(&asked) {
            return Err(taken_interface(asked));
        }
        Ok(asked.to_owned())
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
        bail!("find a free interface name: three random ones are taken")
    }
}

/// Where a container's default routes lead.
fn gateways(state: &State, container: &str) -> Vec<IpAddr> {
    let endpoints = state.endpoints_of(container);
    let first = |family: fn(&crate::state::Network) -> Option<IpAddr>| {
        endpoints.iter().find_map(|(_, endpoint)| family(state.networks.get(&endpoint.network)?))
    };
    let v4 = first(|network| network.v4.as_ref().and_then(|subnet| subnet.gateway));
    let v6 = first(|network| network.v6.as_ref().and_then(|subnet| subnet.gateway));
    v4.into_iter().chain(v6).collect()
}

fn take(pool: Option<&mut Allocator>, asked: Option<IpAddr>, family: &str) -> Result<Option<IpAddr>> {
    match (pool, asked) {
        (None, None) => Ok(None),
        (None, Some(addr)) => {
            Err(Refusal::Invalid(format!("cannot use address {addr}: the network has no {family}")).into())
        }
        (Some(pool), Some(addr)) => {
            pool.allocate_exact(addr).map_err(refuse_address)?;
            Ok(Some(addr))
        }
        (Some(pool), None) => Ok(Some(pool.allocate().map_err(refuse_address)?)),
    }
}

/// The alias of a container's veth: it says whose it is when the state is lost. `bridge` is the default
/// network's, which tells one agent from another.
pub(crate) fn alias(bridge: &str, name: &str) -> String {
    format!("{ALIAS}{bridge}:{name}")
}

const ALIAS: &str = "netpath:";

/// Whether the alias was made by [`alias`], by whatever agent.
pub(crate) fn is_alias(alias: &str) -> bool {
    alias.strip_prefix(ALIAS).is_some_and(|named| named.contains(':'))
}

/// The container's name in an alias made by [`alias`].
pub(crate) fn name_in_alias<'a>(bridge: &str, alias: &'a str) -> Option<&'a str> {
    alias.strip_prefix(ALIAS)?.strip_prefix(bridge)?.strip_prefix(':')
}

pub(crate) fn parse_mac(text: &str) -> Result<Mac> {
    let mac: Mac = text.parse().map_err(Refusal::invalid)?;
    if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
        return Err(Refusal::Invalid(format!("MAC address {mac} is no address of an interface")).into());
    }
    Ok(mac)
}

fn refuse_address(error: IpamError) -> Error {
    match error {
        IpamError::AlreadyAllocated(_) | IpamError::Exhausted(_) => Refusal::Taken(error.to_string()).into(),
        _ => Refusal::invalid(error).into(),
    }
}

fn refuse_ifname(error: Error, interface: &str) -> Error {
    if error.downcast_ref() == Some(&Errno::EEXIST) {
        return taken_interface(interface).into();
    }
    anyhow!(error)
}

fn taken_interface(name: &str) -> Refusal {
    Refusal::Taken(format!("the namespace already has an interface {name}"))
}

/// Several errors as one line; `None` for none.
pub(crate) fn join(errors: &[Error]) -> Option<String> {
    let texts: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Network, samples};

    #[test]
    fn an_alias_names_agent_and_container() {
        assert_eq!(name_in_alias("netpath0", &alias("netpath0", "web")), Some("web"));
        assert_eq!(name_in_alias("netpath1", &alias("netpath0", "web")), None);
        assert_eq!(name_in_alias("netpath0", "netpath"), None);
        assert!(is_alias(&alias("netpath0", "web")) && !is_alias("netpath-uplink") && !is_alias("netpath:"));
    }

    #[test]
    fn group_addresses_are_no_mac_address_of_an_interface() {
        assert!(parse_mac("02:00:00:00:00:01").is_ok());
        assert!(parse_mac("01:00:5e:00:00:01").is_err());
        assert!(parse_mac("00:00:00:00:00:00").is_err());
        assert!(parse_mac("zz").is_err());
    }

    #[test]
    fn the_default_route_leads_to_the_first_network_that_has_a_gateway() {
        let mut state = State::new(String::new());
        let subnet = samples::network("inside").v4.map(|subnet| api::Subnet { gateway: None, ..subnet });
        state.networks.insert(1, Network { v4: subnet, internal: true, ..samples::network("inside") });
        state.networks.insert(2, samples::network("bridge"));
        state.endpoints.insert(1, Endpoint { network: 1, ..samples::endpoint("web") });
        assert!(gateways(&state, "web").is_empty());
        state.endpoints.insert(2, Endpoint { network: 2, generation: 2, ..samples::endpoint("web") });
        assert_eq!(gateways(&state, "web"), ["172.17.0.1".parse::<IpAddr>().unwrap()]);
    }
}
