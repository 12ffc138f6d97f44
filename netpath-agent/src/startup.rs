//! From options to a running agent: takes over what an earlier agent left, builds what is missing, and
//! undoes what it has built if it fails half way.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use netpath_common::{Config, External, LAYOUT, PortRange, config_flag};
use netpath_ebpf::family::{V4, V6};

use crate::agent::{Agent, Attach, DEFAULT_NETWORK_INDEX, facts, mtu, network_mtu, read_interfaces};
use crate::api::GatewayMode;
use crate::bridge;
use crate::counters::Counters;
use crate::datapath::{self, Adoption, Datapath, Sizes};
use crate::desired::{BridgeFacts, HostFacts};
use crate::endpoints::name_in_alias;
use crate::exits::Exits;
use crate::externals::Interfaces;
use crate::host;
use crate::netlink::{Link, Netlink, Notices};
use crate::network_mode::DEFAULT_NETWORK;
use crate::networks;
use crate::options::Options;
use crate::recovery;
use crate::state::{Loaded, Network, State, Store};
use crate::subnets;

/// Ports that masquerade gives to inside ports below 1024; those under 600 belong to services.
const PRIVILEGED_PORTS: PortRange = PortRange { first: 600, last: 1023 };
/// Counters are made for so many.
const MAX_NETWORKS: u32 = 256;
/// The default network's pair of counters.
const DEFAULT_NETWORK_COUNTER: u32 = 1;
/// Below this beginning of the ephemeral range the ports above it are the larger part.
const LOW_EPHEMERAL: u16 = 16_384;

/// Brings everything up that `options` ask for.
///
/// # Errors
/// If any of it fails; what this call has made is gone again then.
pub async fn start(options: Options, store: Store) -> Result<(Agent, Notices)> {
    host::require_bpf_fs(&options.pin_dir)?;
    let (netlink, notices) = Netlink::subscribe()?;
    let (datapath, adoption) = load_datapath(&options)?;
    let pin_dir = options.pin_dir.clone();
    match assemble(options, store, datapath, netlink).await {
        Ok(agent) => Ok((agent, notices)),
        Err(error) => {
            if adoption == Adoption::Fresh {
                for error in datapath::teardown(&pin_dir) {
                    tracing::warn!("undo the start: {error:#}");
                }
            }
            Err(error)
        }
    }
}

async fn assemble(options: Options, store: Store, datapath: Datapath, netlink: Netlink) -> Result<Agent> {
    let interfaces = read_interfaces(&netlink).await?;
    let image = datapath.image()?;
    let mut state = load_state(&store, &datapath, &interfaces, &options.bridge)?;
    drop_dead_endpoints(&mut state, &interfaces.links, &host::boot_id()?);
    let default = default_network(&options, &interfaces, &state)?;
    state.networks.insert(DEFAULT_NETWORK_INDEX, default);

    let host = facts(&interfaces, &options, &state, BTreeMap::new());
    let mut fresh = Vec::new();
    let bridges = build_bridges(&netlink, &mut state, &interfaces, &host, &mut fresh).await;
    let finished = match bridges {
        Ok(bridges) => {
            let agent = Agent {
                counters: Counters::new(max_counters(&options), &state),
                last_automatic_port: 0,
                addresses: BTreeMap::new(),
                host: HostFacts { bridges, ..host },
                options,
                store,
                state,
                datapath,
                netlink: netlink.clone(),
                image,
                exits: Exits::default(),
                unsettled: false,
                unfit: 0,
            };
            finish(agent).await
        }
        Err(error) => Err(error),
    };
    if finished.is_err() {
        for ifindex in fresh {
            if let Err(error) = netlink.delete_link(ifindex).await {
                tracing::warn!("undo the start: {error:#}");
            }
        }
    }
    finished
}

/// The default network as the options have it.
fn default_network(options: &Options, interfaces: &Interfaces, state: &State) -> Result<Network> {
    let known = state.networks.get(&DEFAULT_NETWORK_INDEX);
    let (v4, v6) = subnets::of_default(options, interfaces, known, state)?;
    let created = known.is_some_and(|network| network.created && network.bridge == options.bridge);
    Ok(Network {
        name: DEFAULT_NETWORK.to_owned(),
        counter: known.map_or(DEFAULT_NETWORK_COUNTER, |network| network.counter),
        bridge: options.bridge.clone(),
        created,
        v4,
        v6,
        icc: options.icc,
        internal: false,
        masquerade: options.masquerade,
        mtu: options.mtu,
        mode4: GatewayMode::Nat,
        mode6: GatewayMode::Nat,
        trusted: Vec::new(),
        binding_addr: Some(options.binding_addr),
    })
}

/// Finds or makes the bridge of every network; notes those it has made.
async fn build_bridges(
    netlink: &Netlink,
    state: &mut State,
    interfaces: &Interfaces,
    host: &HostFacts,
    fresh: &mut Vec<u32>,
) -> Result<BTreeMap<u32, BridgeFacts>> {
    let mut bridges = BTreeMap::new();
    for index in state.networks.keys().copied().collect::<Vec<_>>() {
        let network = &state.networks[&index];
        let mtu = mtu(network, host);
        let bridge = bridge::ensure(netlink, &networks::wanted(network, mtu), interfaces).await;
        let bridge = bridge.with_context(|| format!("set up network `{}`", network.name))?;
        fresh.extend(bridge.fresh.then_some(bridge.ifindex));
        let mtu = network_mtu(index, mtu, state);
        bridges.insert(index, BridgeFacts { ifindex: bridge.ifindex, mac: bridge.mac, mtu });
        state.networks.entry(index).and_modify(|network| network.created = bridge.created);
    }
    Ok(bridges)
}

async fn finish(mut agent: Agent) -> Result<Agent> {
    for (index, network) in &agent.state.networks {
        let addresses = networks::allocators(network, *index, &agent.state);
        let addresses = addresses.with_context(|| format!("set up network `{}`", network.name))?;
        agent.addresses.insert(*index, addresses);
    }
    let interfaces = read_interfaces(&agent.netlink).await?;
    remove_strays(&agent.netlink, &agent.options.bridge, &agent.state, &interfaces.links).await;
    let bridges = std::mem::take(&mut agent.host.bridges);
    agent.host = facts(&interfaces, &agent.options, &agent.state, bridges);
    agent.store.save(&agent.state)?;
    agent.attach_externals(Attach::Anew)?;
    agent.settle()?;
    attach(&mut agent, &interfaces.links).await?;
    agent.adopt_containers().await;
    set_ip_forward(&agent.options)?;
    if agent.state.networks.values().any(|network| network.v6.is_some()) {
        networks::forward_ipv6(agent.options.ip_forward)?;
    }
    Ok(agent)
}

fn load_datapath(options: &Options) -> Result<(Datapath, Adoption)> {
    let sizes = Sizes {
        max_flows: options.max_flows,
        max_ports: options.max_ports,
        // Index 0 is nobody's.
        max_endpoints: options.max_endpoints + 1,
        max_counters: max_counters(options),
    };
    let config = config(options)?;
    let (mut datapath, adoption) = Datapath::load(&options.pin_dir, &sizes, config)?;
    if adoption == Adoption::Adopted {
        let old = datapath.config();
        if old.max_flows != config.max_flows {
            tracing::warn!(
                "--max-flows {} takes effect after `netpath down`: the pinned table has {} entries",
                config.max_flows,
                old.max_flows
            );
        }
        // The key decides where the ports of living flows lie.
        datapath.set_config(Config { hash_key: old.hash_key, max_flows: old.max_flows, ..config })?;
        tracing::info!("took over the data plane pinned in {}", options.pin_dir.display());
    }
    Ok((datapath, adoption))
}

/// One counter for each published port, two for each endpoint, network and link; index 0 is nobody's.
fn max_counters(options: &Options) -> u32 {
    1 + 2 * MAX_NETWORKS + 2 * 2 * options.max_endpoints + options.max_ports
}

fn config(options: &Options) -> Result<Config> {
    let ports = match options.masquerade_ports {
        Some(ports) => ports,
        None => masquerade_ports(host::ephemeral_ports()?)?,
    };
    Ok(Config {
        layout: LAYOUT,
        hash_key: u64::from_ne_bytes(host::random()?),
        netns_cookie: host::netns_cookie()?,
        flags: if options.shortcuts { config_flag::SHORTCUTS } else { 0 },
        max_flows: options.max_flows,
        timeouts: options.timeouts,
        ports,
        privileged_ports: PRIVILEGED_PORTS,
        primary_ifindex: 0,
        primary: External::default(),
    })
}

/// The ports for masquerade: the larger part of what the host's own sockets do not get by themselves.
fn masquerade_ports(ephemeral: PortRange) -> Result<PortRange> {
    let below = (ephemeral.first > 1024).then(|| PortRange { first: 1024, last: ephemeral.first - 1 });
    let above = (ephemeral.last < u16::MAX).then(|| PortRange { first: ephemeral.last + 1, last: u16::MAX });
    let chosen = if ephemeral.first <= LOW_EPHEMERAL { above.or(below) } else { below };
    chosen.with_context(|| {
        format!(
            "net.ipv4.ip_local_port_range {}-{} leaves no port for masquerade; narrow it or choose --masquerade-ports",
            ephemeral.first, ephemeral.last
        )
    })
}

/// The state on disk, or what the kernel still has of it.
fn load_state(store: &Store, datapath: &Datapath, interfaces: &Interfaces, bridge: &str) -> Result<State> {
    let image = datapath.image()?;
    match store.load()? {
        Loaded::State(state) => return Ok(state),
        Loaded::Nothing if image.networks.is_empty() => return Ok(State::new(host::boot_id()?)),
        Loaded::Nothing => tracing::warn!("{} has no state, but a data plane is pinned", store.dir().display()),
        Loaded::Corrupt { moved_to, error } => {
            tracing::warn!("the state is corrupt ({error:#}); it is set aside as {}", moved_to.display());
        }
    }
    let generations4 = datapath.flows::<V4>()?.into_iter().map(|(_, flow)| flow.generation);
    let generations6 = datapath.flows::<V6>()?.into_iter().map(|(_, flow)| flow.generation);
    let generation = generations4.chain(generations6).max().unwrap_or(0);
    let state = recovery::recover(&image, interfaces, bridge, host::boot_id()?, generation);
    tracing::warn!("rebuilt the state from the kernel: {} containers", state.endpoints.len());
    Ok(state)
}

/// Forgets endpoints of an earlier boot, and those whose veth is gone; and containers with them.
fn drop_dead_endpoints(state: &mut State, links: &[Link], boot_id: &str) {
    let same_boot = state.boot_id == boot_id;
    let mut dead = BTreeSet::new();
    state.endpoints.retain(|_, endpoint| {
        let is_veth = |link: &Link| link.ifindex == endpoint.ifindex && link.ifname == endpoint.ifname;
        let alive = same_boot && links.iter().any(is_veth);
        if !alive {
            dead.insert(endpoint.container.clone());
        }
        alive
    });
    for name in dead {
        if state.endpoints_of(&name).is_empty() {
            tracing::info!("container `{name}` has gone while no agent ran");
            state.containers.remove(&name);
        }
    }
    if !same_boot {
        state.containers.clear();
    }
    boot_id.clone_into(&mut state.boot_id);
}

/// Deletes veths of this network that the state does not know: an agent died while it made them.
async fn remove_strays(netlink: &Netlink, bridge: &str, state: &State, links: &[Link]) {
    let known: BTreeSet<u32> = state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
    for link in links {
        let is_ours = link.alias.as_deref().is_some_and(|alias| name_in_alias(bridge, alias).is_some());
        if is_ours && !known.contains(&link.ifindex) {
            tracing::info!("interface {} belongs to no container; it is deleted", link.ifname);
            if let Err(error) = netlink.delete_link(link.ifindex).await {
                tracing::warn!("delete {}: {error:#}", link.ifname);
            }
        }
    }
}

/// Attaches this agent's programs to containers and host, in place of an earlier agent's, and puts every veth into
/// the bridge.
async fn attach(agent: &mut Agent, links: &[Link]) -> Result<()> {
    let wanted: BTreeSet<u32> = agent.state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
    let externals: BTreeSet<u32> = agent.host.externals.iter().map(|external| external.ifindex).collect();
    let bridges: BTreeSet<u32> = agent.host.bridges.values().map(|bridge| bridge.ifindex).collect();
    for ifindex in agent.datapath.attached()?.into_keys() {
        if !wanted.contains(&ifindex) && !externals.contains(&ifindex) && !bridges.contains(&ifindex) {
            agent.datapath.detach(ifindex)?;
        }
    }
    for index in agent.host.bridges.keys().copied().collect::<Vec<_>>() {
        agent.guard(index)?;
    }
    for endpoint in agent.state.endpoints.values() {
        let bridge = agent.bridge_of(endpoint.network)?;
        agent.datapath.attach_container(endpoint.ifindex, &endpoint.ifname)?;
        let master = links.iter().find(|link| link.ifindex == endpoint.ifindex).and_then(|link| link.master);
        if master != Some(bridge) {
            agent.netlink.enslave(endpoint.ifindex, bridge).await?;
        }
        agent.netlink.set_up(endpoint.ifindex).await?;
    }
    agent.datapath.retire_earlier()?;
    let hooks = agent.datapath.attach_hooks();
    agent.warn("serve the host's own access to published ports, and keep those ports for containers", hooks);
    for index in agent.state.networks.keys() {
        agent.warn("announce the bridge", agent.announce_bridge(*index));
    }
    Ok(())
}

fn set_ip_forward(options: &Options) -> Result<()> {
    if host::ip_forward()? {
        return Ok(());
    }
    if options.ip_forward {
        tracing::info!("net.ipv4.ip_forward is set to 1");
        return host::enable_ip_forward();
    }
    tracing::warn!("net.ipv4.ip_forward is 0 and --ip-forward=false: containers will not reach the outside");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masquerade_and_the_hosts_own_sockets_never_share_a_port() {
        let range = |first, last| PortRange { first, last };
        for (ephemeral, want) in [
            (range(32768, 60999), range(1024, 32767)),
            (range(16385, 60999), range(1024, 16384)),
            (range(16384, 60999), range(61000, 65535)),
            (range(1024, 50000), range(50001, 65535)),
            (range(10000, 65535), range(1024, 9999)),
        ] {
            assert_eq!(masquerade_ports(ephemeral).unwrap(), want, "{ephemeral:?}");
        }
        assert!(masquerade_ports(range(1024, 65535)).is_err());
    }
}
