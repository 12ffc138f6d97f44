//! The agent between two requests: what it knows and what it holds. Here are the steps that keep state,
//! maps and kernel in agreement; what requests make of them is in the files beside.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use netpath_common::{PortRange, config_flag};

use crate::announce::announce;
use crate::api;
use crate::counters::Counters;
use crate::datapath::{Attachment, Datapath};
use crate::desired::{self, Addrs, BridgeFacts, HostFacts, container_image, desired};
use crate::exits::Exits;
use crate::externals::{self, Interfaces};
use crate::host;
use crate::ipam::Allocator;
use crate::netlink::{Netlink, Notice};
use crate::options::Options;
use crate::reconcile::{Change, Image, diff};
use crate::refusal::Refusal;
use crate::state::{Network, State, Store};

/// Index of the default network.
pub const DEFAULT_NETWORK_INDEX: u32 = 1;

pub struct Agent {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) state: State,
    pub(crate) datapath: Datapath,
    pub(crate) netlink: Netlink,
    pub(crate) host: HostFacts,
    /// Network index to its addresses.
    pub(crate) addresses: BTreeMap<u32, Addresses>,
    pub(crate) counters: Counters,
    /// What the maps hold.
    pub(crate) image: Image,
    pub(crate) exits: Exits,
    /// The host port given out automatically last.
    pub(crate) last_automatic_port: u16,
    /// What was tried last did not come to its end: maps or programs may be behind what the host is like.
    pub(crate) unsettled: bool,
    /// Entries about published ports that found their table full.
    pub(crate) unfit: usize,
}

/// What to do with an external interface that has its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// Leave it.
    Missing,
    /// Give it this agent's in place of an earlier one's.
    Anew,
}

/// A network's addresses.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub v4: Option<Allocator>,
    pub v6: Option<Allocator>,
}

impl Agent {
    pub fn info(&self) -> api::Info {
        let external = |facts: &desired::ExternalFacts| api::External {
            ifname: facts.ifname.clone(),
            ifindex: facts.ifindex,
            addresses: facts
                .addrs
                .iter()
                .copied()
                .map(Into::into)
                .chain(facts.addrs6.iter().copied().map(Into::into))
                .collect(),
        };
        api::Info {
            shortcuts: self.datapath.config().flags & config_flag::SHORTCUTS != 0,
            externals: self.host.externals.iter().map(external).collect(),
            state_dir: self.options.state_dir.clone(),
            pin_dir: self.options.pin_dir.clone(),
        }
    }

    /// Changes the data plane's settings until the agent is started anew.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn patch_info(&mut self, patch: &api::InfoPatch) -> Result<api::Info> {
        if let Some(shortcuts) = patch.shortcuts {
            self.set_config_flag(config_flag::SHORTCUTS, shortcuts)?;
        }
        Ok(self.info())
    }

    pub(crate) fn set_config_flag(&mut self, flag: u32, on: bool) -> Result<()> {
        let mut config = self.datapath.config();
        config.flags = if on { config.flags | flag } else { config.flags & !flag };
        self.datapath.set_config(config)
    }

    /// The MTU that a new container of the network gets.
    pub(crate) fn mtu(&self, network: &Network) -> u32 {
        mtu(network, &self.host)
    }

    /// Changes the state as far as `container` is concerned, on disk and then in the maps, or leaves both as
    /// they were.
    ///
    /// # Errors
    /// A [`Refusal`] if the port table has no room; if disk or map cannot be written.
    pub(crate) fn change(&mut self, container: &str, change: impl FnOnce(&mut State)) -> Result<()> {
        let old = self.state.clone();
        let before = self.part(container);
        change(&mut self.state);
        let after = self.part(container);
        let done = self.check_room(&before, &after).and_then(|()| self.store.save(&self.state));
        let done = done.and_then(|()| self.apply(&diff(&after, &before)));
        if done.is_err() {
            self.state = old;
            let restored = self.reconcile();
            self.warn("restore the maps", restored);
            self.warn("restore the state", self.store.save(&self.state));
        }
        done
    }

    /// What the maps should hold that a change of `container` can change, the links of others to it among it.
    fn part(&self, container: &str) -> Image {
        let mut image = container_image(container, &self.state, &Addrs::new(&self.state, &self.host));
        image.links = desired::links(&self.state);
        image
    }

    fn check_room(&self, before: &Image, after: &Image) -> Result<()> {
        let published = self.image.published_len() + after.published_len() - before.published_len();
        let max = self.options.max_ports;
        if published <= max as usize || after.published_len() <= before.published_len() {
            return Ok(());
        }
        let error = format!("the table of published ports is full: want {published} entries, --max-ports is {max}");
        Err(Refusal::Taken(error).into())
    }

    /// Makes the maps hold what they should.
    pub(crate) fn reconcile(&mut self) -> Result<()> {
        let desired = desired(&self.state, &self.host);
        self.apply(&diff(&desired, &self.image))
    }

    /// As [`Self::reconcile`], where it is the host that has changed: published ports that find their table full
    /// stand back, and nothing else waits for them.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let desired = desired(&self.state, &self.host);
        let changes = diff(&desired, &self.image);
        let applied = self.datapath.apply_fitting(&changes).context("write the maps");
        match &applied {
            Ok(unfit) if unfit.is_empty() => self.image.apply(&changes),
            _ => self.image = self.datapath.image()?,
        }
        let unfit = applied?;
        if unfit.len() != self.unfit {
            match unfit.first() {
                Some(error) => tracing::warn!(
                    "{} of the entries that published ports need have no room, --max-ports is {}: {error:#}",
                    unfit.len(),
                    self.options.max_ports
                ),
                None => tracing::info!("all published ports have room again"),
            }
            self.unfit = unfit.len();
        }
        Ok(())
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
        let (mut look, mut bridges) = (false, BTreeSet::new());
        for notice in notices {
            match notice {
                Notice::LinkGone(ifindex) => {
                    self.notice_bridge_gone(ifindex);
                    look |= !self.forget_link(ifindex).await;
                }
                Notice::Link(ifindex) => {
                    look |= self.endpoint_of(ifindex).is_none();
                    bridges
                        .extend(self.host.bridges.iter().find(|(_, b)| b.ifindex == ifindex).map(|(index, _)| *index));
                }
                Notice::Address(_) | Notice::Route => look = true,
            }
        }
        if look {
            let refreshed = self.refresh().await;
            self.warn("follow the host's interfaces", refreshed);
        }
        for index in bridges {
            if let Err(error) = self.announce_bridge(index) {
                // Nobody is missed on a bridge that is down or gone.
                tracing::debug!("announce the bridge: {error:#}");
            }
        }
    }

    /// Tells the containers of a network the bridge's hardware address: one that was made anew has another than
    /// they remember. A bridge that is just coming up may lose this without an error; when it is up, the kernel
    /// gives notice, and it is said again.
    pub(crate) fn announce_bridge(&self, index: u32) -> Result<()> {
        let (Some(network), Some(bridge)) = (self.state.networks.get(&index), self.host.bridges.get(&index)) else {
            return Ok(());
        };
        let mut addrs = [&network.v4, &network.v6].into_iter().flatten().filter_map(|subnet| subnet.bridge);
        addrs.try_for_each(|addr| announce(bridge.ifindex, addr, bridge.mac))
    }

    fn notice_bridge_gone(&self, ifindex: u32) {
        let network = self.host.bridges.iter().find(|(_, bridge)| bridge.ifindex == ifindex);
        if let Some(network) = network.and_then(|(index, _)| self.state.networks.get(index)) {
            tracing::error!(
                "bridge {} has been removed: its containers are cut off until the agent is restarted, which makes it anew",
                network.bridge
            );
        }
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
        self.forget_ended();
        let mut bridges = self.host.bridges.clone();
        for bridge in bridges.values_mut() {
            if let Some(link) = interfaces.links.iter().find(|link| link.ifindex == bridge.ifindex) {
                bridge.mac = link.mac;
            }
        }
        let facts = facts(&interfaces, &self.options, &self.state, bridges);
        if facts == self.host && !self.unsettled && self.unfit == 0 {
            return Ok(());
        }
        if facts.externals != self.host.externals {
            tracing::info!("external interfaces: {}", describe(&facts));
        }
        let old = std::mem::replace(&mut self.host, facts);
        self.unsettled = true;
        self.follow_mtu(&old).await;
        // No interface is external to the programs that has none of them; and what one lacks is no reason to leave
        // out the others.
        let attached = self.attach_externals(Attach::Missing);
        let settled = self.settle();
        self.detach_externals().and(settled).and(attached)?;
        self.unsettled = false;
        Ok(())
    }

    /// Attaches the programs to every external interface, and goes on past errors.
    ///
    /// # Errors
    /// The first of them.
    pub(crate) fn attach_externals(&mut self, what: Attach) -> Result<()> {
        let mut done = Ok(());
        for external in &self.host.externals {
            if what == Attach::Anew || !self.datapath.has_all(external.ifindex, Attachment::External) {
                done = done.and(self.datapath.attach_external(external.ifindex, &external.ifname));
            }
        }
        done
    }

    /// Takes the programs off what is no external interface any more.
    fn detach_externals(&mut self) -> Result<()> {
        let wanted: BTreeSet<u32> = self.host.externals.iter().map(|external| external.ifindex).collect();
        for (ifindex, attachment) in self.datapath.attached()? {
            if attachment == Attachment::External && !wanted.contains(&ifindex) {
                self.datapath.detach(ifindex)?;
            }
        }
        Ok(())
    }

    fn endpoint_of(&self, ifindex: u32) -> Option<u32> {
        self.state.endpoints.iter().find(|(_, endpoint)| endpoint.ifindex == ifindex).map(|(index, _)| *index)
    }

    /// Removes the endpoint whose veth is gone, and its container with the last one; `false` if `ifindex` is
    /// nobody's veth.
    async fn forget_link(&mut self, ifindex: u32) -> bool {
        let Some(index) = self.endpoint_of(ifindex) else { return false };
        let endpoint = &self.state.endpoints[&index];
        let name = endpoint.container.clone();
        tracing::info!("container `{name}` is disconnected: its interface {} has gone", endpoint.ifname);
        let errors = if self.state.endpoints_of(&name).len() > 1 {
            self.discard_endpoint(index).await
        } else {
            self.discard(&name).await
        };
        for error in errors {
            tracing::warn!("clean up after `{name}`: {error:#}");
        }
        true
    }

    /// Gives the bridges whose MTU follows the externals their new one. Containers keep theirs: where it is too
    /// large, path MTU discovery says so.
    async fn follow_mtu(&mut self, old: &HostFacts) {
        for (index, network) in &self.state.networks {
            let new = mtu(network, &self.host);
            if new == mtu(network, old) {
                continue;
            }
            tracing::info!("the MTU of new containers in network `{}` is {new}", network.name);
            let Some(bridge) = self.host.bridges.get_mut(index) else { continue };
            bridge.mtu = network_mtu(*index, new, &self.state);
            if network.created {
                let set = self.netlink.set_mtu(bridge.ifindex, new).await;
                self.warn("change the bridge's MTU", set);
            }
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

/// What `interfaces` mean to the networks behind `bridges`.
pub(crate) fn facts(
    interfaces: &Interfaces,
    options: &Options,
    state: &State,
    bridges: BTreeMap<u32, BridgeFacts>,
) -> HostFacts {
    let own = state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
    let bridge_names: BTreeSet<&str> = state.networks.values().map(|network| network.bridge.as_str()).collect();
    let every = PortRange { first: 1, last: u16::MAX };
    HostFacts {
        bridges,
        externals: interfaces.externals(&options.externals, &bridge_names, &own),
        local_addrs: interfaces.local_addrs(),
        local_addrs6: interfaces.local_addrs6(),
        ephemeral: host::ephemeral_ports().unwrap_or(every),
        trusted: trusted(interfaces, options, state),
    }
}

/// Interfaces and the networks whose containers they may reach directly.
fn trusted(interfaces: &Interfaces, options: &Options, state: &State) -> Vec<(u32, u32)> {
    let mut trusted = Vec::new();
    for (index, network) in &state.networks {
        for ifname in network.trusted.iter().chain(&options.trusted) {
            let link = interfaces.links.iter().find(|link| link.ifname == *ifname);
            trusted.extend(link.map(|link| (link.ifindex, *index)));
        }
    }
    trusted
}

/// The MTU of a network: as asked for, or that of the externals.
pub(crate) fn mtu(network: &Network, host: &HostFacts) -> u32 {
    network.mtu.unwrap_or_else(|| externals::smallest_mtu(&host.externals))
}

/// The largest packet that the bridge and every container of the network take.
pub(crate) fn network_mtu(index: u32, mtu: u32, state: &State) -> u32 {
    let endpoints = state.endpoints.values().filter(|endpoint| endpoint.network == index);
    endpoints.map(|endpoint| endpoint.mtu).fold(mtu, u32::min)
}

fn describe(facts: &HostFacts) -> String {
    let one = |external: &desired::ExternalFacts| {
        let v4 = external.addrs.iter().map(ToString::to_string);
        let addrs: Vec<_> = v4.chain(external.addrs6.iter().map(ToString::to_string)).collect();
        format!("{} ({})", external.ifname, addrs.join(", "))
    };
    let all: Vec<_> = facts.externals.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
