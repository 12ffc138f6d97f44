//! Networks and containers that somebody else has connected: taken as they are, served, and let go of again. Nothing
//! here configures or removes an interface.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::agent::Agent;
use crate::api::{self, AdoptedInterface, NetworkCreate};
use crate::containers::check_texts;
use crate::endpoint_plan::{Asked, Interface, parse_mac};
use crate::netlink::Link;
use crate::netns::Netns;
use crate::refusal::Refusal;
use crate::state::{Container, Mac, Network, State};

/// An interface that was asked for and is there.
pub(crate) struct Found<'a> {
    pub network: u32,
    pub asked: &'a AdoptedInterface,
    pub interface: Interface,
}

impl Agent {
    /// Serves a container that somebody else has connected.
    ///
    /// # Errors
    /// A [`Refusal`] if the request cannot be served; nothing has changed then, nor after any other error.
    pub(crate) async fn adopt(&mut self, mut request: api::Attach) -> Result<api::Container> {
        let name = request.name.clone();
        self.check_name(&name)?;
        check_texts(&request)?;
        if request.names.is_some() {
            let error = "an adopted container has files of its own, netpath gives it none";
            return Err(Refusal::Invalid(error.to_owned()).into());
        }
        let netns = Netns::open(&request.netns).map_err(Refusal::invalid)?;
        let interfaces = std::mem::take(&mut request.adopt);
        let mut found = Vec::new();
        for interface in &interfaces {
            found.push(self.find_interface(interface, Some(&netns)).await?);
        }
        check_networks(&request, &interfaces)?;
        request.network = request.network.or(interfaces.first().map(|interface| interface.network.clone()));
        let networks: Vec<u32> = found.iter().map(|found| found.network).collect();
        let container = self.plan(&request, &networks, Some(&netns))?;
        let adopted = self.adopt_all(&name, container, found, request.cni.as_deref()).await;
        adopted.with_context(|| format!("adopt container `{name}`"))?;
        self.watch(&name);
        self.follow_names(&name);
        tracing::info!("adopted container `{name}`");
        self.container(&name)
    }

    /// Serves one more interface of an adopted container.
    pub(crate) async fn connect_adopted(
        &mut self,
        network: &str,
        name: &str,
        interface: &AdoptedInterface,
        cni: Option<&str>,
        netns: &Netns,
    ) -> Result<api::Container> {
        if interface.network != network {
            let error = format!("the interface to adopt is in network {}, not in {network}", interface.network);
            return Err(Refusal::Invalid(error).into());
        }
        let found = self.find_interface(interface, Some(netns)).await?;
        let adopted = self.adopt_interface(name, found, cni, None).await;
        adopted.with_context(|| format!("adopt container `{name}` in network `{network}`"))?;
        tracing::info!("adopted container `{name}` in network `{network}`");
        self.follow_names(name);
        self.container(name)
    }

    /// Forgets adopted networks whose bridge is not among the links that are `alive`, with everything in them.
    pub(crate) async fn forget_gone_bridges(&mut self, alive: &BTreeSet<u32>) {
        let bridges = self.host.bridges.iter().filter(|(_, bridge)| !alive.contains(&bridge.ifindex));
        let gone: Vec<u32> = bridges.map(|(index, _)| *index).filter(|index| self.state.is_adopted(*index)).collect();
        for index in gone {
            let network = &self.state.networks[&index];
            tracing::info!("network `{}` is forgotten: its bridge has gone", network.name);
            self.forget_network(index).await;
        }
    }

    /// Forgets an adopted network with everything in it.
    pub(crate) async fn forget_network(&mut self, index: u32) {
        let endpoints = self.state.endpoints.values().filter(|endpoint| endpoint.network == index);
        for ifindex in endpoints.map(|endpoint| endpoint.ifindex).collect::<Vec<_>>() {
            self.forget_link(ifindex).await;
        }
        for error in self.remove_network(index).await {
            tracing::warn!("forget a network: {error:#}");
        }
    }

    /// All of `found` as interfaces of a new container, or nothing.
    async fn adopt_all(
        &mut self,
        name: &str,
        container: Container,
        found: Vec<Found<'_>>,
        cni: Option<&str>,
    ) -> Result<()> {
        let mut new = Some(container.clone());
        for found in found {
            if let Err(error) = self.adopt_interface(name, found, cni, new.take()).await {
                if self.state.containers.contains_key(name) {
                    for error in self.discard(name).await {
                        tracing::warn!("undo the adoption of `{name}`: {error:#}");
                    }
                } else {
                    self.give_back(&container);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Serves an interface; a new `container` is noted with it.
    pub(crate) async fn adopt_interface(
        &mut self,
        name: &str,
        found: Found<'_>,
        cni: Option<&str>,
        container: Option<Container>,
    ) -> Result<()> {
        let Found { network, asked, interface } = found;
        let addresses = Asked { address: asked.address, address6: asked.address6, cni, ..Asked::default() };
        let (index, endpoint) = self.reserve_endpoint(name, network, addresses, interface)?;
        let made = endpoint.clone();
        // With an address of its own it may have been taken for an interface to the outside.
        let was_external = self.host.externals.iter().any(|external| external.ifindex == endpoint.ifindex);
        let detached = if was_external { self.datapath.detach(endpoint.ifindex) } else { Ok(()) };
        // The programs first. Else answers to what the maps already lead here would go by the kernel's road, where Docker's
        // rules may still masquerade them.
        let attachment = endpoint.attachment();
        let attached = detached.and_then(|()| self.datapath.attach_all(attachment, endpoint.ifindex, &endpoint.ifname));
        let served = attached.and_then(|()| {
            self.change(name, |state| {
                state.containers.extend(container.map(|container| (name.to_owned(), container)));
                state.endpoints.insert(index, made);
            })
        });
        if served.is_err() {
            for error in self.undo_endpoint(index, endpoint).await {
                tracing::warn!("undo the adoption of `{name}`: {error:#}");
            }
        }
        if was_external {
            // If it was not adopted, it is external as before, without programs.
            self.unsettled = true;
            let refreshed = self.refresh().await;
            self.warn("follow the host's interfaces", refreshed);
        }
        served
    }

    async fn find_interface<'a>(&self, asked: &'a AdoptedInterface, netns: Option<&Netns>) -> Result<Found<'a>> {
        let AdoptedInterface { network, ifname, interface, .. } = asked;
        let (index, known) = self.find_network(network)?;
        let refuse = |why: String| Err(Refusal::Invalid(format!("cannot adopt interface {ifname}: {why}")).into());
        if known.owner.is_netpath() {
            return refuse(format!("network {network} is netpath's own, not an adopted one"));
        }
        let Some(link) = self.netlink.link(ifname).await? else {
            return refuse("there is no such interface".to_owned());
        };
        match &known.bridge {
            Some(bridge) if link.master != Some(self.bridge_of(index)?) => {
                return refuse(format!("it is no port of {bridge}, the bridge of network {network}"));
            }
            None if link.kind.as_deref() != Some("veth") || link.master.is_some() => {
                return refuse(format!(
                    "network {network} has no bridge, and the interface is no veth that the host routes to by itself"
                ));
            }
            _ => {}
        }
        if let Some(endpoint) = self.state.endpoints.values().find(|endpoint| endpoint.ifindex == link.ifindex) {
            return refuse(format!("it belongs to container `{}`", endpoint.container));
        }
        if asked.address.is_none() && asked.address6.is_none() {
            return refuse("the container's address is missing".to_owned());
        }
        let inside = match netns {
            Some(netns) => netns.links().await?.into_iter().find(|link| link.ifname == *interface),
            None => None,
        };
        if known.bridge.is_none() && inside.as_ref().is_none_or(|inside| inside.peer != Some(link.ifindex)) {
            return refuse(format!("it is not the other end of the container's interface {interface}"));
        }
        let mac = match &asked.mac {
            Some(text) => Some(parse_mac(text)?),
            None => inside.map(|inside| Mac(inside.mac)),
        };
        let Some(mac) = mac else {
            return refuse(format!("the container has no interface {interface}"));
        };
        let interface = Interface {
            ifname: link.ifname,
            ifindex: link.ifindex,
            interface: interface.clone(),
            mac,
            mtu: link.mtu,
            host_mac: known.bridge.is_none().then_some(Mac(link.mac)),
        };
        Ok(Found { network: index, asked, interface })
    }
}

/// The bridge that is to be adopted; `None`: none is.
///
/// # Errors
/// A [`Refusal`] if there is none of that name.
pub(crate) fn bridge<'a>(request: &NetworkCreate, links: &'a [Link]) -> Result<Option<&'a Link>> {
    let name = request.bridge.as_ref().filter(|_| request.adopt);
    let found = name.map(|name| find_bridge(name, links)).transpose();
    found.map_err(|error| Refusal::invalid(error).into())
}

/// The bridge called `name`.
///
/// # Errors
/// If there is none.
pub(crate) fn find_bridge<'a>(name: &str, links: &'a [Link]) -> Result<&'a Link> {
    links.iter().find(|link| link.ifname == name && link.bridge).with_context(|| format!("there is no bridge {name}"))
}

/// Forgets adopted networks whose bridge is not among `links`, with everything in them.
pub(crate) fn drop_gone_bridges(state: &mut State, links: &[Link]) {
    let is_gone = |network: &Network| network.bridge.as_ref().is_some_and(|bridge| find_bridge(bridge, links).is_err());
    let networks = state.networks.iter().filter(|(_, network)| !network.owner.is_netpath() && is_gone(network));
    for index in networks.map(|(index, _)| *index).collect::<Vec<_>>() {
        if let Some(network) = state.networks.remove(&index) {
            tracing::info!("network `{}` is forgotten: its bridge has gone", network.name);
        }
        let gone: Vec<u32> =
            state.endpoints.iter().filter(|(_, e)| e.network == index).map(|(index, _)| *index).collect();
        for endpoint in gone.iter().filter_map(|index| state.endpoints.remove(index)).collect::<Vec<_>>() {
            if state.endpoints_of(&endpoint.container).is_empty() {
                tracing::info!("container `{}` has gone while no agent ran", endpoint.container);
                state.containers.remove(&endpoint.container);
            }
        }
    }
}

fn check_networks(request: &api::Attach, interfaces: &[AdoptedInterface]) -> Result<(), Refusal> {
    let names: BTreeSet<&str> = interfaces.iter().map(|interface| interface.network.as_str()).collect();
    if names.len() < interfaces.len() {
        return Err(Refusal::Invalid("two interfaces to adopt are in one network".to_owned()));
    }
    match &request.network {
        Some(network) if !names.contains(network.as_str()) => {
            Err(Refusal::Invalid(format!("no interface to adopt is in network {network}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Owner;
    use crate::state::{Endpoint, samples};

    #[test]
    fn what_is_on_a_bridge_that_has_gone_is_forgotten() {
        let mut state = State::new(String::new());
        state.networks.insert(1, samples::network("bridge"));
        let adopted = Network { owner: Owner::Other, bridge: Some("cni0".to_owned()), ..samples::network("cni") };
        state.networks.insert(2, adopted);
        state.containers.insert("own".to_owned(), samples::container());
        state.containers.insert("pod".to_owned(), samples::container());
        state.containers.insert("both".to_owned(), samples::container());
        for (index, container, network) in [(1, "own", 1), (2, "pod", 2), (3, "both", 1), (4, "both", 2)] {
            state.endpoints.insert(index, Endpoint { network, ..samples::endpoint(container) });
        }
        drop_gone_bridges(&mut state, &[]);
        assert_eq!(state.networks.keys().collect::<Vec<_>>(), [&1], "its own bridge an agent makes anew");
        assert_eq!(state.containers.keys().collect::<Vec<_>>(), ["both", "own"]);
        assert_eq!(state.endpoints.keys().collect::<Vec<_>>(), [&1, &3]);
    }

    #[test]
    fn an_interface_for_each_network_and_a_network_for_each_interface() {
        let interface = |network: &str| AdoptedInterface { network: network.to_owned(), ..AdoptedInterface::default() };
        let check = |network: Option<&str>, interfaces: &[AdoptedInterface]| {
            let request = serde_json::json!({"name": "pod", "netns": {"pid": 1}, "network": network});
            check_networks(&serde_json::from_value(request).unwrap(), interfaces)
        };
        assert!(check(None, &[interface("a"), interface("b")]).is_ok());
        assert!(check(Some("b"), &[interface("a"), interface("b")]).is_ok());
        assert!(check(Some("c"), &[interface("a")]).is_err());
        assert!(check(None, &[interface("a"), interface("a")]).is_err());
    }
}
