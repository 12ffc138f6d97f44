//! A container's interfaces: made and taken away.

use std::net::IpAddr;

use anyhow::{Context, Error, Result, anyhow};
use ipnet::IpNet;
use nix::errno::Errno;

use crate::agent::Agent;
use crate::announce::announce;
use crate::bridge;
use crate::datapath::Attachment;
use crate::desired;
use crate::endpoint_plan::taken_interface;
use crate::host;
use crate::netlink::Veth;
use crate::netns::Netns;
use crate::reconcile::diff;
use crate::state::{Container, Endpoint, State};
use crate::xdp_externals::prepare_for_xdp;

impl Endpoint {
    /// What the host's end of its interface is to the programs.
    pub(crate) fn attachment(&self) -> Attachment {
        if self.host_mac.is_some() { Attachment::RoutedContainer } else { Attachment::Container }
    }
}

impl Agent {
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
        let old = self.gateways(&endpoint.container);
        // Routes that are there are not touched before all that may be refused is done.
        let first =
            if old.is_empty() { gateways(&self.state, &endpoint.container, Some(endpoint)) } else { Vec::new() };
        netns.configure(&endpoint.interface, self.nets(endpoint)?, first).await?;
        endpoint.takes_xdp = self.has_xdp() && prepare_for_xdp(netns, endpoint).await;
        let name = endpoint.container.clone();
        let made = endpoint.clone();
        self.change(&name, |state| {
            state.containers.extend(container.map(|container| (name.clone(), container)));
            state.endpoints.insert(index, made);
        })?;
        let new = self.gateways(&name);
        if old != new && !old.is_empty() {
            netns.set_default_routes(old, new).await?;
        }
        self.datapath.attach_all(endpoint.attachment(), endpoint.ifindex, &endpoint.ifname)?;
        let bridge = self.bridge_of(endpoint.network)?;
        self.netlink.enslave(endpoint.ifindex, bridge).await?;
        self.netlink.set_up(endpoint.ifindex).await?;
        let carries = bridge::until_operational(&self.netlink, endpoint.ifindex, bridge).await;
        self.warn("wait for the container's interface", carries);
        self.announce(bridge, endpoint).await;
        Ok(())
    }

    /// Takes an endpoint away that may be half made, also from the state on disk, and goes on past errors.
    pub(crate) async fn undo_endpoint(&mut self, index: u32, endpoint: Endpoint) -> Vec<Error> {
        let name = endpoint.container.clone();
        let is_known = self.state.endpoints.contains_key(&index);
        let mut errors = self.take_endpoint(index, endpoint).await;
        if is_known {
            errors.extend(self.store.save_container(&name, &self.state).err());
        }
        errors
    }

    /// As [`Self::undo_endpoint`], but the state is still to be saved: an agent that finds an endpoint there whose
    /// interface is gone forgets it.
    pub(crate) async fn take_endpoint(&mut self, index: u32, endpoint: Endpoint) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut note = |result: Result<()>| errors.extend(result.err());
        note(self.forget_endpoint(index, &endpoint.container));
        let ifindex = match endpoint.ifindex {
            0 => self.netlink.link(&endpoint.ifname).await.map(|link| link.map(|link| link.ifindex)),
            ifindex => Ok(Some(ifindex)),
        };
        match ifindex {
            Ok(Some(ifindex)) => {
                if !self.state.is_adopted(endpoint.network) {
                    note(self.delete_veth(ifindex).await);
                }
                // A link that is taken off an interface that is there costs the kernel a grace period of RCU more.
                note(self.datapath.detach(ifindex));
                note(self.datapath.forget_drops(ifindex));
            }
            Ok(None) => {}
            Err(error) => note(Err(error)),
        }
        self.release_addresses(endpoint.network, endpoint.addr, endpoint.addr6);
        self.counters.give_back_pair(endpoint.counter);
        errors
    }

    async fn delete_veth(&mut self, ifindex: u32) -> Result<()> {
        self.netlink.delete_link(ifindex).await?;
        self.deleted.insert(ifindex);
        Ok(())
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
        if !self.state.endpoints.contains_key(&index) {
            return Ok(());
        }
        let mut before = desired::part(container, &self.state, &self.host);
        self.state.endpoints.remove(&index);
        let after = desired::part(container, &self.state, &self.host);
        before.retain_keys_of(&self.image);
        self.apply(&diff(&after, &before))
    }

    /// Where the container's default routes lead: to the first network of each family that has a gateway.
    pub(crate) fn gateways(&self, container: &str) -> Vec<IpAddr> {
        gateways(&self.state, container, None)
    }

    pub(crate) fn bridge_of(&self, network: u32) -> Result<u32> {
        let bridge = self.host.bridges.get(&network).context("the network has no bridge, or it is gone")?;
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

    /// Tells host and containers who has the addresses from now on.
    async fn announce(&self, bridge: u32, endpoint: &Endpoint) {
        let addrs = endpoint.addr.map(IpAddr::V4).into_iter().chain(endpoint.addr6.map(IpAddr::V6));
        for addr in addrs {
            let learned = self.netlink.learn_neighbour(bridge, addr, endpoint.mac.0).await;
            self.warn("tell the host the container's address", learned);
            self.warn("tell the containers the container's address", announce(bridge, addr, endpoint.mac.0));
        }
    }
}

/// Where a container's default routes lead, with one more endpoint or as it is.
fn gateways(state: &State, container: &str, more: Option<&Endpoint>) -> Vec<IpAddr> {
    let known = state.endpoints_of(container);
    let first = |family: fn(&crate::state::Network) -> Option<IpAddr>| {
        let mut endpoints = known.iter().map(|(_, endpoint)| *endpoint).chain(more);
        endpoints.find_map(|endpoint| family(state.networks.get(&endpoint.network)?))
    };
    let v4 = first(|network| network.v4.as_ref().and_then(|subnet| subnet.gateway));
    let v6 = first(|network| network.v6.as_ref().and_then(|subnet| subnet.gateway));
    v4.into_iter().chain(v6).collect()
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

fn refuse_ifname(error: Error, interface: &str) -> Error {
    if error.downcast_ref() == Some(&Errno::EEXIST) {
        return taken_interface(interface).into();
    }
    anyhow!(error)
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
    fn the_default_route_leads_to_the_first_network_that_has_a_gateway() {
        let mut state = State::new(String::new());
        let subnet = samples::network("inside").v4.map(|subnet| crate::api::Subnet { gateway: None, ..subnet });
        state.networks.insert(1, Network { v4: subnet, internal: true, ..samples::network("inside") });
        state.networks.insert(2, samples::network("bridge"));
        state.endpoints.insert(1, Endpoint { network: 1, ..samples::endpoint("web") });
        assert!(gateways(&state, "web", None).is_empty());
        let second = Endpoint { network: 2, generation: 2, ..samples::endpoint("web") };
        let gateway = ["172.17.0.1".parse::<IpAddr>().unwrap()];
        assert_eq!(gateways(&state, "web", Some(&second)), gateway);
        state.endpoints.insert(2, second);
        assert_eq!(gateways(&state, "web", None), gateway);
    }
}
