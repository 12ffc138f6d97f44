//! The agent between two requests: what it knows and what it holds. Here are the steps that keep state,
//! maps and kernel in agreement; what requests make of them is in the files beside.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use netpath_common::{PortRange, config_flag};

use crate::api;
use crate::arp;
use crate::bridge::Bridge;
use crate::counters::Counters;
use crate::datapath::{Attachment, Datapath};
use crate::desired::{BridgeFacts, HostFacts, Policy, desired, endpoint_image};
use crate::externals::{self, Interfaces};
use crate::host;
use crate::ipam::Allocator;
use crate::netlink::{Netlink, Notice};
use crate::options::Options;
use crate::reconcile::{Change, Image, diff};
use crate::refusal::Refusal;
use crate::state::{Endpoint, State, Store};

/// Name of the one network.
pub const NETWORK_NAME: &str = "bridge";

pub struct Agent {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) state: State,
    pub(crate) datapath: Datapath,
    pub(crate) netlink: Netlink,
    pub(crate) host: HostFacts,
    pub(crate) policy: Policy,
    pub(crate) addresses: Allocator,
    pub(crate) counters: Counters,
    /// What the maps hold.
    pub(crate) image: Image,
    /// The host port given out automatically last.
    pub(crate) last_automatic_port: u16,
}

impl Agent {
    pub fn network(&self) -> api::Network {
        let external = |facts: &crate::desired::ExternalFacts| api::External {
            ifname: facts.ifname.clone(),
            ifindex: facts.ifindex,
            addresses: facts.addrs.clone(),
        };
        api::Network {
            name: NETWORK_NAME.to_owned(),
            bridge: self.options.bridge.clone(),
            subnet: self.host.bridge.addr.trunc(),
            gateway: self.gateway(),
            mtu: self.mtu(),
            icc: self.policy.icc,
            masquerade: self.policy.masquerade,
            shortcuts: self.datapath.config().flags & config_flag::SHORTCUTS != 0,
            externals: self.host.externals.iter().map(external).collect(),
            state_dir: self.options.state_dir.clone(),
            pin_dir: self.options.pin_dir.clone(),
        }
    }

    /// Changes the network's policy until the agent is started anew.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn patch_network(&mut self, patch: api::NetworkPatch) -> Result<api::Network> {
        if let Some(icc) = patch.icc {
            self.policy.icc = icc;
            self.reconcile()?;
        }
        if let Some(shortcuts) = patch.shortcuts {
            self.set_config_flag(config_flag::SHORTCUTS, shortcuts)?;
        }
        Ok(self.network())
    }

    pub(crate) fn set_config_flag(&mut self, flag: u32, on: bool) -> Result<()> {
        let mut config = self.datapath.config();
        config.flags = if on { config.flags | flag } else { config.flags & !flag };
        self.datapath.set_config(config)
    }

    /// The gateway that containers get.
    pub(crate) fn gateway(&self) -> std::net::Ipv4Addr {
        self.options.default_gateway.unwrap_or(self.host.bridge.addr.addr())
    }

    /// The MTU that a new container gets.
    pub(crate) fn mtu(&self) -> u32 {
        self.options.mtu.unwrap_or_else(|| externals::smallest_mtu(&self.host.externals))
    }

    /// Puts `endpoint` on disk and then into the maps, or leaves both as they were.
    ///
    /// # Errors
    /// A [`Refusal`] if the port table has no room; if disk or map cannot be written.
    pub(crate) fn put_endpoint(&mut self, index: u32, endpoint: Endpoint) -> Result<()> {
        let part = |endpoint: &Endpoint| endpoint_image(index, endpoint, &self.host);
        let before = self.state.endpoints.get(&index).map(part).unwrap_or_default();
        let after = part(&endpoint);
        let published = self.image.published_len() - before.published_len() + after.published_len();
        if published > self.options.max_ports as usize {
            let max = self.options.max_ports;
            let error = format!("the table of published ports is full: want {published} entries, --max-ports is {max}");
            return Err(Refusal::Taken(error).into());
        }
        let old = self.state.endpoints.insert(index, endpoint);
        let done = self.store.save(&self.state).and_then(|()| self.apply(&diff(&after, &before)));
        if let Err(error) = done {
            match old {
                Some(old) => self.state.endpoints.insert(index, old),
                None => self.state.endpoints.remove(&index),
            };
            let restored = self.reconcile();
            self.warn("restore the maps", restored);
            self.warn("restore the state", self.store.save(&self.state));
            return Err(error);
        }
        Ok(())
    }

    /// Makes the maps hold what they should.
    pub(crate) fn reconcile(&mut self) -> Result<()> {
        let desired = desired(&self.state.endpoints, &self.host, self.policy);
        self.apply(&diff(&desired, &self.image))
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) -> Result<()> {
        let applied = self.datapath.apply(changes).context("write the maps");
        match &applied {
            Ok(()) => self.image.apply(changes),
            Err(_) => self.image = self.datapath.image()?,
        }
        applied
    }

    /// Acts on what has changed on the host, a burst of changes at once.
    pub async fn notice(&mut self, notices: impl IntoIterator<Item = Notice>) {
        let (mut look, mut announce) = (false, false);
        for notice in notices {
            match notice {
                Notice::LinkGone(ifindex) if ifindex == self.host.bridge.ifindex => {
                    tracing::error!(
                        "bridge {} has been removed: its containers are cut off until the agent is restarted, which makes it anew",
                        self.options.bridge
                    );
                }
                Notice::LinkGone(ifindex) => look |= !self.forget_link(ifindex).await,
                Notice::Link(ifindex) => {
                    look |= self.endpoint_of(ifindex).is_none();
                    announce |= ifindex == self.host.bridge.ifindex;
                }
                Notice::Address(_) | Notice::Route => look = true,
            }
        }
        if look {
            let refreshed = self.refresh().await;
            self.warn("follow the host's interfaces", refreshed);
        }
        if announce && let Err(error) = self.announce_bridge() {
            // Nobody is missed on a bridge that is down or gone.
            tracing::debug!("announce the bridge: {error:#}");
        }
    }

    /// Tells the containers the bridge's hardware address: one that was made anew has another than they
    /// remember. A bridge that is just coming up may lose this without an error; when it is up, the kernel
    /// gives notice, and it is said again.
    pub(crate) fn announce_bridge(&self) -> Result<()> {
        let bridge = &self.host.bridge;
        arp::announce(bridge.ifindex, bridge.addr.addr(), bridge.mac)
    }

    /// Compares the host with what the agent believes, and acts on the difference.
    ///
    /// # Errors
    /// If the host cannot be read or a map not be written.
    pub async fn refresh(&mut self) -> Result<()> {
        let interfaces = read_interfaces(&self.netlink).await?;
        let alive: BTreeSet<u32> = interfaces.links.iter().map(|link| link.ifindex).collect();
        let gone: Vec<u32> = self.state.endpoints.values().map(|e| e.ifindex).filter(|i| !alive.contains(i)).collect();
        for ifindex in gone {
            self.forget_link(ifindex).await;
        }
        let mut bridge = self.host.bridge.clone();
        if let Some(link) = interfaces.links.iter().find(|link| link.ifindex == bridge.ifindex) {
            bridge.mac = link.mac;
        }
        let facts = facts(&interfaces, &self.options, &self.state, bridge);
        if facts == self.host {
            return Ok(());
        }
        tracing::info!("external interfaces: {}", describe(&facts));
        let old_mtu = self.mtu();
        self.host = facts;
        if self.mtu() != old_mtu {
            self.change_mtu().await;
        }
        self.reconcile()?;
        self.attach_externals()
    }

    /// Attaches the programs to every external interface, and takes them off what is none any more.
    pub(crate) fn attach_externals(&mut self) -> Result<()> {
        let wanted: BTreeSet<u32> = self.host.externals.iter().map(|external| external.ifindex).collect();
        let attached = self.datapath.attached()?;
        for (ifindex, attachment) in &attached {
            if *attachment == Attachment::External && !wanted.contains(ifindex) {
                self.datapath.detach(*ifindex)?;
            }
        }
        for external in &self.host.externals {
            if attached.get(&external.ifindex) != Some(&Attachment::External) {
                self.datapath.attach_external(external.ifindex, &external.ifname)?;
            }
        }
        Ok(())
    }

    /// Removes the endpoint whose veth is gone; `false` if `ifindex` is nobody's veth.
    async fn forget_link(&mut self, ifindex: u32) -> bool {
        let Some(index) = self.endpoint_of(ifindex) else { return false };
        let endpoint = &self.state.endpoints[&index];
        let name = endpoint.name.clone();
        tracing::info!("container `{name}` is disconnected: its interface {} has gone", endpoint.ifname);
        for error in self.discard(index).await {
            tracing::warn!("clean up after `{name}`: {error:#}");
        }
        true
    }

    fn endpoint_of(&self, ifindex: u32) -> Option<u32> {
        self.state.endpoints.iter().find(|(_, endpoint)| endpoint.ifindex == ifindex).map(|(index, _)| *index)
    }

    /// Gives the bridge its new MTU. Containers keep theirs: where it is too large, path MTU discovery
    /// says so.
    async fn change_mtu(&mut self) {
        let mtu = self.mtu();
        tracing::info!("the MTU of new containers is {mtu}");
        self.host.bridge.mtu = network_mtu(mtu, &self.state);
        if self.state.network.as_ref().is_some_and(|network| network.created) {
            let set = self.netlink.set_mtu(self.host.bridge.ifindex, mtu).await;
            self.warn("change the bridge's MTU", set);
        }
    }

    pub(crate) fn warn(&self, what: &str, result: Result<()>) {
        if let Err(error) = result {
            tracing::warn!("{what}: {error:#}");
        }
    }
}

/// # Errors
/// If the kernel refuses to list them.
pub(crate) async fn read_interfaces(netlink: &Netlink) -> Result<Interfaces> {
    Ok(Interfaces {
        links: netlink.links().await?,
        addresses: netlink.addresses().await?,
        routes: netlink.routes().await?,
    })
}

/// What `interfaces` mean to the network behind `bridge`.
pub(crate) fn facts(interfaces: &Interfaces, options: &Options, state: &State, bridge: BridgeFacts) -> HostFacts {
    let own = state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
    let externals = interfaces.externals(&options.externals, &options.bridge, &own);
    let every = PortRange { first: 1, last: u16::MAX };
    HostFacts {
        bridge,
        externals,
        local_addrs: interfaces.local_addrs(),
        local_addrs6: interfaces.local_addrs6(),
        ephemeral: host::ephemeral_ports().unwrap_or(every),
    }
}

pub(crate) fn bridge_facts(bridge: &Bridge, mtu: u32, state: &State) -> BridgeFacts {
    BridgeFacts { ifindex: bridge.ifindex, mac: bridge.mac, addr: bridge.addr, mtu: network_mtu(mtu, state) }
}

/// The largest packet that the bridge and every container take.
fn network_mtu(mtu: u32, state: &State) -> u32 {
    state.endpoints.values().map(|endpoint| endpoint.mtu).fold(mtu, u32::min)
}

fn describe(facts: &HostFacts) -> String {
    let one = |external: &crate::desired::ExternalFacts| {
        let addrs: Vec<_> = external.addrs.iter().map(ToString::to_string).collect();
        format!("{} ({})", external.ifname, addrs.join(", "))
    };
    let all: Vec<_> = facts.externals.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
