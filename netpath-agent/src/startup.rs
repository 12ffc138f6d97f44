//! From options to a running agent: takes over what an earlier agent left, builds what is missing, and
//! undoes what it has built if it fails half way.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use netpath_common::{Config, config_flag};
use netpath_ebpf::family::{V4, V6};

use crate::adopted;
use crate::agent::{Agent, DEFAULT_NETWORK_INDEX, facts, mtu, network_mtu, read_interfaces};
use crate::api::{GatewayMode, Owner};
use crate::bridge;
use crate::counters::Counters;
use crate::datapath::{Adoption, Datapath};
use crate::desired::{BridgeFacts, HostFacts};
use crate::docker;
use crate::endpoints::name_in_alias;
use crate::exits::Exits;
use crate::externals::Interfaces;
use crate::following::Attach;
use crate::held_ports::HeldPorts;
use crate::host;
use crate::ipv6;
use crate::loading::Loaded;
use crate::netlink::{Link, Netlink, Notices};
use crate::network_mode::DEFAULT_NETWORK;
use crate::networks;
use crate::options::Options;
use crate::reconcile::Image;
use crate::recovery;
use crate::state::{Endpoint, MAX_NETWORKS, Network, State};
use crate::store::{self, Store};
use crate::subnets::{self, Subnets};
use crate::teardown;

/// The default network's pair of counters.
const DEFAULT_NETWORK_COUNTER: u32 = 1;

/// Brings everything up that `options` ask for.
///
/// # Errors
/// If any of it fails; what this call has made is gone again then.
pub async fn start(mut options: Options, store: Store) -> Result<(Agent, Notices)> {
    host::require_no_realtime()?;
    host::require_bpf_fs(&options.pin_dir)?;
    let (netlink, notices) = Netlink::subscribe()?;
    let interfaces = read_interfaces(&netlink).await?;
    warn_of_missing(&options, &interfaces.links);
    let saved = load_state(&store)?;
    let was = saved.clone().map_or_else(|| host::boot_id().map(State::new), Ok)?;
    // What cannot be is said before the programs are loaded, which takes seconds.
    let state = plan(was, &options, &interfaces)?;
    let Loaded { datapath, adoption, config } = Loaded::load(&mut options)?;
    let pin_dir = options.pin_dir.clone();
    let start = Start { options, store, saved, state, interfaces, netlink: netlink.clone() };
    match start.assemble(datapath, adoption, config).await {
        Ok(agent) => Ok((agent, notices)),
        Err(error) => {
            if adoption == Adoption::Fresh {
                for error in teardown::data_plane(&pin_dir, &netlink).await {
                    tracing::warn!("undo the start: {error:#}");
                }
            }
            Err(error)
        }
    }
}

/// What is there before the data plane is.
struct Start {
    options: Options,
    store: Store,
    /// The state as the last agent left it.
    saved: Option<State>,
    /// The state as it is to be.
    state: State,
    interfaces: Interfaces,
    netlink: Netlink,
}

impl Start {
    async fn assemble(self, mut datapath: Datapath, adoption: Adoption, mut config: Config) -> Result<Agent> {
        let Self { options, store, saved, mut state, interfaces, netlink } = self;
        let image = datapath.image()?;
        if saved.is_none() && !image.networks.is_empty() {
            state = plan(recover(&datapath, &image, &interfaces, &options.bridge)?, &options, &interfaces)?;
        }
        if state.has_ipv6() {
            datapath.load_ipv6()?;
            config.flags |= datapath.config().flags & config_flag::IPV6;
        }
        if adoption == Adoption::Adopted {
            datapath.set_config(config)?;
        }
        if let Some(saved) = &saved {
            remove_dead_wires(saved, &state).await;
        }
        let host = facts(&interfaces, &options, &state, BTreeMap::new());
        let mut fresh = Vec::new();
        let bridges = build_bridges(&netlink, &options.bridge, &mut state, &interfaces, &host, &mut fresh).await;
        let finished = match bridges {
            Ok(bridges) => {
                let agent = Agent {
                    counters: Counters::new(datapath.sizes().max_counters, &state),
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
                    held_ports: HeldPorts::default(),
                    unsettled: false,
                    unfit: 0,
                    stripped: BTreeSet::new(),
                    deleted: BTreeSet::new(),
                    xdp: BTreeMap::new(),
                    docker: docker::Told::default(),
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
}

/// Names in the options that no interface has, yet or by mistake.
fn warn_of_missing(options: &Options, links: &[Link]) {
    let named = |option, names: &[String]| names.iter().map(|name| (option, name.clone())).collect::<Vec<_>>();
    let mut all = named("--external", &options.externals);
    all.extend(named("--trusted", &options.trusted));
    all.extend(options.xdp.ifnames().map(|name| ("--xdp", name.to_owned())));
    for (option, name) in all.iter().filter(|(_, name)| links.iter().all(|link| link.ifname != *name)) {
        tracing::warn!("{option} {name}: there is no such interface; it is served as soon as there is one");
    }
}

/// Interfaces that are asked to have XDP, and are there but not external.
fn warn_of_not_external(agent: &Agent, links: &[Link]) {
    for name in agent.options.xdp.ifnames().filter(|name| links.iter().any(|link| link.ifname == *name)) {
        if agent.host.externals.iter().all(|external| external.ifname != *name) {
            tracing::warn!("--xdp {name}: {name} is no external interface; it is served as soon as it is one");
        }
    }
}

/// `state` without what has died since, and with the default network as the options have it.
///
/// # Errors
/// If state, options and interfaces contradict each other.
fn plan(mut state: State, options: &Options, interfaces: &Interfaces) -> Result<State> {
    drop_dead(&mut state, &interfaces.links, &host::boot_id()?);
    adopted::drop_gone_bridges(&mut state, &interfaces.links);
    // The maps have no place for more.
    state.networks.retain(|index, _| *index <= MAX_NETWORKS);
    let default = default_network(options, interfaces, &state)?;
    state.networks.insert(DEFAULT_NETWORK_INDEX, default);
    for (index, network) in &state.networks {
        let checked = network.bridge.as_ref().map_or(Ok(()), |bridge| bridge::check(bridge, interfaces));
        let checked = checked.and_then(|()| networks::allocators(network, *index, &state));
        checked.with_context(|| format!("set up network `{}`", network.name))?;
    }
    Ok(state)
}

/// The default network as the options have it.
fn default_network(options: &Options, interfaces: &Interfaces, state: &State) -> Result<Network> {
    let known = state.networks.get(&DEFAULT_NETWORK_INDEX);
    let Subnets { v4, v6, skipped: _ } = subnets::of_default(options, interfaces, known, state)?;
    let created = known.is_some_and(|network| network.created && network.bridge.as_ref() == Some(&options.bridge));
    Ok(Network {
        name: DEFAULT_NETWORK.to_owned(),
        counter: known.map_or(DEFAULT_NETWORK_COUNTER, |network| network.counter),
        bridge: Some(options.bridge.clone()),
        created,
        owner: Owner::Netpath,
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
        shortcuts: true,
    })
}

/// Finds or makes the bridge of every network; notes those it has made.
async fn build_bridges(
    netlink: &Netlink,
    instance: &str,
    state: &mut State,
    interfaces: &Interfaces,
    host: &HostFacts,
    fresh: &mut Vec<u32>,
) -> Result<BTreeMap<u32, BridgeFacts>> {
    let mut bridges = BTreeMap::new();
    for index in state.networks.keys().copied().collect::<Vec<_>>() {
        let network = &state.networks[&index];
        let mtu = mtu(network, host);
        let Some(ifname) = &network.bridge else { continue };
        let bridge = bridge::of(netlink, instance, (network, ifname), mtu, interfaces).await;
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
    agent.follow_host_macs(&interfaces.links);
    agent.host = facts(&interfaces, &agent.options, &agent.state, bridges);
    agent.store.save(&agent.state)?;
    agent.attach_externals(Attach::Anew)?;
    warn_of_not_external(&agent, &interfaces.links);
    agent.follow_xdp(Attach::Anew, &interfaces.links).await;
    agent.settle()?;
    attach(&mut agent, &interfaces.links).await?;
    agent.adopt_containers().await;
    agent.heed_notes().await;
    set_ip_forward(&agent.options)?;
    if agent.state.has_ipv6() {
        agent.serve_ipv6().await?;
        ipv6::forward(agent.options.ip_forward)?;
    }
    Ok(agent)
}

/// The state on disk.
fn load_state(store: &Store) -> Result<Option<State>> {
    match store.load(&host::boot_id()?)? {
        store::Loaded::State(state) => Ok(Some(state)),
        store::Loaded::Nothing => Ok(None),
        store::Loaded::Corrupt { moved_to, error, networks } => {
            tracing::warn!("the state is corrupt ({error:#}); it is set aside as {}", moved_to.display());
            Ok(networks)
        }
    }
}

/// What the kernel still has of a state that is lost.
fn recover(datapath: &Datapath, image: &Image, interfaces: &Interfaces, bridge: &str) -> Result<State> {
    tracing::warn!("a data plane is pinned, but its state is lost");
    let generations4 = datapath.flows::<V4>()?.into_iter().map(|(_, flow)| flow.generation);
    let generations6 = datapath.flows::<V6>()?.into_iter().map(|(_, flow)| flow.generation);
    let generation = generations4.chain(generations6).max().unwrap_or(0);
    let state = recovery::recover(image, interfaces, bridge, host::boot_id()?, generation);
    tracing::warn!("rebuilt the state from the kernel: {} containers", state.endpoints.len());
    Ok(state)
}

/// Forgets endpoints of an earlier boot, and those whose veth is gone; containers with them, and their links from
/// point to point.
fn drop_dead(state: &mut State, links: &[Link], boot_id: &str) {
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
    state.forget_dead_ptps();
    boot_id.clone_into(&mut state.boot_id);
}

/// Takes the wires away whose one end is in a container that has gone, while its namespace has not.
async fn remove_dead_wires(saved: &State, state: &State) {
    for ptp in saved.ptps.iter().filter(|ptp| saved.boot_id == state.boot_id && !state.ptps.contains(ptp)) {
        for error in ptp.remove(&saved.containers).await {
            tracing::warn!("remove a link from point to point: {error:#}");
        }
    }
}

/// Deletes veths and bridges of the agent called `instance` that the state does not know: one died while it made them, or
/// before it had removed them.
async fn remove_strays(netlink: &Netlink, instance: &str, state: &State, links: &[Link]) {
    let veths: BTreeSet<u32> = state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
    let bridges: BTreeSet<&str> = state.networks.values().filter_map(|network| network.bridge.as_deref()).collect();
    let is_ours = |alias: &str| name_in_alias(instance, alias).is_some() || bridge::is_of(instance, alias);
    let is_known = |link: &&Link| veths.contains(&link.ifindex) || bridges.contains(link.ifname.as_str());
    let strays = links.iter().filter(|link| link.alias.as_deref().is_some_and(is_ours)).cloned();
    let half_made = netlink.links_of_group(bridge::half_made(instance)).await.unwrap_or_else(|error| {
        tracing::warn!("look for interfaces that are half made: {error:#}");
        Vec::new()
    });
    for link in strays.chain(half_made).filter(|link| !is_known(&link)) {
        tracing::info!("interface {} belongs to no container and no network; it is deleted", link.ifname);
        if let Err(error) = netlink.delete_link(link.ifindex).await {
            tracing::warn!("delete {}: {error:#}", link.ifname);
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
    for endpoint in agent.state.endpoints.values().cloned().collect::<Vec<_>>() {
        if let Err(error) = attach_endpoint(agent, &endpoint, links).await {
            // The kernel takes a namespace's interfaces away some time after the namespace.
            if agent.netlink.link(&endpoint.ifname).await?.is_some() {
                return Err(error);
            }
            agent.forget_link(endpoint.ifindex).await;
        }
    }
    agent.datapath.retire_earlier()?;
    if let Err(error) = agent.datapath.attach_hooks() {
        agent.do_without_hooks(&error);
    }
    for index in agent.state.networks.keys() {
        agent.warn("announce the bridge", agent.announce_bridge(*index));
    }
    Ok(())
}

/// Attaches the programs to the host's end of a container's veth, and puts it into its bridge.
async fn attach_endpoint(agent: &mut Agent, endpoint: &Endpoint, links: &[Link]) -> Result<()> {
    agent.datapath.attach_all(endpoint.attachment(), endpoint.ifindex, &endpoint.ifname)?;
    if agent.state.is_adopted(endpoint.network) {
        return Ok(());
    }
    let bridge = agent.bridge_of(endpoint.network)?;
    let master = links.iter().find(|link| link.ifindex == endpoint.ifindex).and_then(|link| link.master);
    if master != Some(bridge) {
        agent.netlink.enslave(endpoint.ifindex, bridge).await?;
    }
    agent.netlink.set_up(endpoint.ifindex).await
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
