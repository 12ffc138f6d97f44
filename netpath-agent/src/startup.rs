//! From options to a running agent: takes over what an earlier agent left, builds what is missing, and
//! undoes what it has built if it fails half way.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use netpath_common::{Config, External, LAYOUT, PortRange, config_flag};
use netpath_ebpf::family::V4;

use crate::agent::{Agent, bridge_facts, facts, read_interfaces};
use crate::bridge::{self, Bridge};
use crate::counters::Counters;
use crate::datapath::{self, Adoption, Datapath, Sizes};
use crate::desired::Policy;
use crate::endpoints::name_in_alias;
use crate::externals::{Interfaces, smallest_mtu};
use crate::host;
use crate::ipam::Allocator;
use crate::netlink::{Link, Netlink, Notices};
use crate::options::Options;
use crate::recovery;
use crate::state::{Loaded, Network, State, Store};

/// Ports that masquerade gives to inside ports below 1024; those under 600 belong to services.
const PRIVILEGED_PORTS: PortRange = PortRange { first: 600, last: 1023 };
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

    let own = state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
    let externals = interfaces.externals(&options.externals, &options.bridge, &own);
    let mtu = options.mtu.unwrap_or_else(|| smallest_mtu(&externals));
    let bridge = bridge::ensure(&netlink, &options, &interfaces, state.network.as_ref(), mtu).await?;
    let undo = bridge.fresh.then(|| (netlink.clone(), bridge.ifindex));
    let finished = finish(options, store, state, datapath, netlink, image, &bridge, mtu).await;
    if finished.is_err()
        && let Some((netlink, ifindex)) = undo
        && let Err(error) = netlink.delete_link(ifindex).await
    {
        tracing::warn!("undo the start: {error:#}");
    }
    finished
}

#[expect(clippy::too_many_arguments, reason = "the parts of the agent, each made by a step that can fail")]
async fn finish(
    options: Options,
    store: Store,
    mut state: State,
    datapath: Datapath,
    netlink: Netlink,
    image: crate::reconcile::Image,
    bridge: &Bridge,
    mtu: u32,
) -> Result<Agent> {
    let addresses = allocator(&options, bridge, &mut state)?;
    state.network = Some(Network { bridge: options.bridge.clone(), created: bridge.created, bridge_addr: bridge.addr });
    let interfaces = read_interfaces(&netlink).await?;
    remove_strays(&netlink, &options.bridge, &state, &interfaces.links).await;
    let host = facts(&interfaces, &options, &state, bridge_facts(bridge, mtu, &state));
    let mut agent = Agent {
        policy: Policy { icc: options.icc, masquerade: options.masquerade },
        counters: Counters::new(max_counters(&options), &state),
        last_automatic_port: 0,
        options,
        store,
        state,
        datapath,
        netlink,
        host,
        addresses,
        image,
    };
    agent.store.save(&agent.state)?;
    agent.reconcile()?;
    attach(&mut agent, &interfaces.links).await?;
    set_ip_forward(&agent.options)?;
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

/// One counter for each published port, two for each endpoint and the network; index 0 is nobody's.
fn max_counters(options: &Options) -> u32 {
    1 + 2 + 2 * options.max_endpoints + options.max_ports
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
    let generation = datapath.flows::<V4>()?.iter().map(|(_, flow)| flow.generation).max().unwrap_or(0);
    let state = recovery::recover(&image, interfaces, bridge, host::boot_id()?, generation);
    tracing::warn!("rebuilt the state from the kernel: {} containers", state.endpoints.len());
    Ok(state)
}

/// Forgets endpoints of an earlier boot, and those whose veth is gone.
fn drop_dead_endpoints(state: &mut State, links: &[Link], boot_id: &str) {
    let same_boot = state.boot_id == boot_id;
    state.endpoints.retain(|_, endpoint| {
        let is_veth = |link: &Link| link.ifindex == endpoint.ifindex && link.ifname == endpoint.ifname;
        let alive = same_boot && links.iter().any(is_veth);
        if !alive {
            tracing::info!("container `{}` has gone while no agent ran", endpoint.name);
        }
        alive
    });
    boot_id.clone_into(&mut state.boot_id);
}

/// The network's addresses, with those taken that the endpoints have.
fn allocator(options: &Options, bridge: &Bridge, state: &mut State) -> Result<Allocator> {
    let mut addresses = Allocator::new(bridge.addr, options.fixed_cidr).context("use --fixed-cidr")?;
    addresses.reserve(bridge.addr.addr())?;
    if let Some(gateway) = options.default_gateway {
        addresses.reserve(gateway).context("use --default-gateway")?;
    }
    for endpoint in state.endpoints.values() {
        let (name, addr) = (&endpoint.name, endpoint.addr);
        let taken = addresses.allocate_exact(addr);
        ensure!(
            taken.is_ok(),
            "container `{name}` has address {addr}, which does not fit bridge {} with {} as the options have it; \
             disconnect it first (`netpath detach {name}` with the old options)",
            options.bridge,
            bridge.addr
        );
    }
    Ok(addresses)
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

/// Attaches this agent's programs everywhere, in place of an earlier agent's, and puts every veth into
/// the bridge.
async fn attach(agent: &mut Agent, links: &[Link]) -> Result<()> {
    let wanted: BTreeSet<u32> = agent.state.endpoints.values().map(|endpoint| endpoint.ifindex).collect();
    let externals: BTreeSet<u32> = agent.host.externals.iter().map(|external| external.ifindex).collect();
    for ifindex in agent.datapath.attached()?.into_keys() {
        if !wanted.contains(&ifindex) && !externals.contains(&ifindex) {
            agent.datapath.detach(ifindex)?;
        }
    }
    for external in &agent.host.externals {
        agent.datapath.attach_external(external.ifindex, &external.ifname)?;
    }
    let bridge = agent.host.bridge.ifindex;
    for endpoint in agent.state.endpoints.values() {
        agent.datapath.attach_container(endpoint.ifindex, &endpoint.ifname)?;
        let master = links.iter().find(|link| link.ifindex == endpoint.ifindex).and_then(|link| link.master);
        if master != Some(bridge) {
            agent.netlink.enslave(endpoint.ifindex, bridge).await?;
        }
        agent.netlink.set_up(endpoint.ifindex).await?;
    }
    agent.warn("announce the bridge", agent.announce_bridge());
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
