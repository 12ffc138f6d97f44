//! The agent between two requests: what it knows and what it holds. Here are the steps that keep state,
//! maps and kernel in agreement; what requests make of them is in the files beside.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use netpath_common::{PortRange, config_flag};

use crate::announce::announce;
use crate::api;
use crate::binding::PortBinding;
use crate::counters::Counters;
use crate::datapath::Datapath;
use crate::desired::{self, BridgeFacts, HostFacts, desired, part};
use crate::docker;
use crate::exits::Exits;
use crate::externals::{self, Interfaces};
use crate::held_ports::HeldPorts;
use crate::host;
use crate::ipam::Allocator;
use crate::netlink::Netlink;
use crate::options::Options;
use crate::reconcile::{Change, Image, diff};
use crate::record::Record;
use crate::refusal::Refusal;
use crate::state::{Network, State};
use crate::store::Store;
use crate::xdp_externals::Outcome;

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
    /// Instead of the programs on the root cgroup, where those are missing.
    pub(crate) held_ports: HeldPorts,
    /// The host port given out automatically last.
    pub(crate) last_automatic_port: u16,
    /// What was tried last did not come to its end: maps or programs may be behind what the host is like.
    pub(crate) unsettled: bool,
    /// Entries about published ports that found their table full.
    pub(crate) unfit: usize,
    /// Interfaces that may have lost programs, where those are filters.
    pub(crate) stripped: BTreeSet<u32>,
    /// Veths that the agent has deleted, until the kernel has told of it.
    pub(crate) deleted: BTreeSet<u32>,
    /// External interfaces and what XDP does there.
    pub(crate) xdp: BTreeMap<u32, Outcome>,
    pub(crate) docker: docker::Told,
}

/// A network's addresses.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub v4: Option<Allocator>,
    pub v6: Option<Allocator>,
}

impl Addresses {
    /// Whether another container would not get one of each family.
    pub fn is_full(&self) -> bool {
        self.v4.iter().chain(&self.v6).any(Allocator::is_full)
    }
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
            xdp: self.show_xdp(facts.ifindex),
        };
        api::Info {
            shortcuts: self.datapath.config().flags & config_flag::SHORTCUTS != 0,
            externals: self.host.externals.iter().map(external).collect(),
            state_dir: self.options.state_dir.clone(),
            pin_dir: self.options.pin_dir.clone(),
            docker: self.show_docker(),
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

    /// Changes what the state says of `container` and its endpoints, on disk and then in the maps, or leaves both as they
    /// were.
    ///
    /// # Errors
    /// A [`Refusal`] if the port table has no room, or a port cannot be held; if disk or map cannot be written.
    pub(crate) fn change(&mut self, container: &str, change: impl FnOnce(&mut State)) -> Result<()> {
        let old = Record::of(container, &self.state);
        let held = ports(&self.state, container).to_vec();
        let before = part(container, &self.state, &self.host);
        change(&mut self.state);
        let after = part(container, &self.state, &self.host);
        let done = self.check_room(&before, &after);
        let done = done.and_then(|()| self.held_ports.hold(ports(&self.state, container), &held));
        let done = done.and_then(|()| self.store.save_container(container, &self.state));
        let done = done.and_then(|()| self.apply(&diff(&after, &before)));
        if done.is_err() {
            old.apply(&mut self.state);
            let restored = self.reconcile();
            self.warn("restore the maps", restored);
            self.warn("restore the state", self.store.save_container(container, &self.state));
        }
        self.release_ports();
        done
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

    pub(crate) fn warn(&self, what: &str, result: Result<()>) {
        if let Err(error) = result {
            tracing::warn!("{what}: {error:#}");
        }
    }
}

/// The ports that the agent has to keep for a container.
fn ports<'a>(state: &'a State, container: &str) -> &'a [PortBinding] {
    if state.are_ports_kept(container) {
        return &[];
    }
    state.containers.get(container).map_or(&[], |container| &container.ports)
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
    let bridge_names: BTreeSet<&str> =
        state.networks.values().filter_map(|network| network.bridge.as_deref()).collect();
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
