//! Decisions at the external interfaces.

use core::hint::cold_path;

use netpath_common::{Address, Config, Reason, Tuple, network_flag, target_flag};

use crate::{
    conntrack::{self, Owner},
    decision::{Decision, Out},
    direct,
    env::Env,
    family::Family,
    fault::{self, Fault},
    named_flow,
    packet::{Kind, Packet},
    published::{self, Way},
    snat,
};

/// Decides on a packet that arrives at the external interface `ifindex`.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn from_external<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    ifindex: u32,
) -> Result<Decision<F>, Reason> {
    let tuple = &packet.tuple;
    check_loopback::<F>(tuple)?;
    let to = match published::find::<F, E>(env, &tuple.dst_addr, tuple.dst_port, tuple.proto) {
        Some(way) => {
            check_source::<F, E>(env, tuple)?;
            match to_published::<F, E>(env, config, packet, way)? {
                Some(to) => to,
                None => return Ok(Decision::pass(*tuple)),
            }
        }
        None => {
            if packet.has_ports()
                && conntrack::may_be_reply(config, packet)
                && let Some(replied) = conntrack::lookup_reply::<F, E>(env, config, packet, tuple)?
            {
                // From whom the container has addressed.
                let to = Receiver { index: replied.endpoint, port: replied.inside.port, counter: 0 };
                return into_container::<F, E>(env, config, packet, to);
            }
            if fault::is_active::<F::Addr>(Fault::AnybodyAnswers)
                && let Some(inside) = conntrack::inside_of::<F, E>(env, tuple)
                && let Some(index) = env.endpoint_index(&inside.addr)
            {
                return into_container::<F, E>(env, config, packet, Receiver { index, port: inside.port, counter: 0 });
            }
            if !env.in_any_network(&tuple.dst_addr) {
                return Ok(Decision::pass(*tuple));
            }
            cold_path();
            check_source::<F, E>(env, tuple)?;
            let index = direct::visit::<F, E>(env, config, packet, ifindex, Reason::DirectAccess)?;
            Receiver { index, port: tuple.dst_port, counter: 0 }
        }
    };
    into_container::<F, E>(env, config, packet, to)
}

/// Decides on a packet that arrives at the external interface `ifindex` before the kernel has made anything of it.
/// None: not before it has. All of TCP is left for then, when the kernel has merged its segments, but for what is
/// refused now. What asks twice leaves no other trace than who sends twice.
///
/// # Errors
///
/// A reason for which [`from_external`] would drop it, if not always the same one.
#[inline(always)]
pub fn from_external_early<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    ifindex: u32,
) -> Result<Option<Decision<F>>, Reason> {
    let tuple = &packet.tuple;
    let is_udp = packet.kind == Kind::Udp;
    let is_tcp = packet.kind == Kind::Tcp;
    let opens = is_tcp && packet.tcp.flags.is_opening();
    let is_inside = !is_udp && env.in_any_network(&tuple.dst_addr);
    if is_udp || (is_inside && (opens || !may_have_visitors::<F, E>(env, &tuple.dst_addr))) {
        let decision = from_external::<F, E>(env, config, packet, ifindex)?;
        return Ok(is_udp.then_some(decision));
    }
    check_loopback::<F>(tuple)?;
    if !is_inside
        && (opens || !is_tcp)
        && let Some(way) = published::find::<F, E>(env, &tuple.dst_addr, tuple.dst_port, tuple.proto)
    {
        check_source::<F, E>(env, tuple)?;
        way.admits::<F, E>(env, packet)?;
    }
    Ok(None)
}

/// Whether somebody may reach the container with this address by it.
#[inline(always)]
fn may_have_visitors<F: Family, E: Env<F>>(env: &E, addr: &F::Addr) -> bool {
    let endpoint = env.endpoint_index(addr).and_then(|index| env.endpoint(index));
    let network = endpoint.and_then(|endpoint| env.network(endpoint.network));
    network.is_some_and(|network| network.flags & (F::UNPROTECTED | F::ROUTED | network_flag::TRUSTED) != 0)
}

#[inline(always)]
fn check_loopback<F: Family>(tuple: &Tuple<F::Addr>) -> Result<(), Reason> {
    if F::is_loopback(&tuple.dst_addr) || F::is_loopback(&tuple.src_addr) {
        return Err(Reason::LoopbackAddress);
    }
    Ok(())
}

/// Refuses what the kernel would call a martian: nobody outside has these, and a container would trust them.
#[inline(always)]
fn check_source<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>) -> Result<(), Reason> {
    let src_addr = &tuple.src_addr;
    if fault::is_active::<F::Addr>(Fault::MartianBelieved) {
        return Ok(());
    }
    if env.in_any_network(src_addr)
        || F::is_group(src_addr)
        || F::is_link_local(src_addr)
        || *src_addr == F::Addr::UNSPECIFIED
        || *src_addr == tuple.dst_addr
    {
        cold_path();
        return Err(Reason::MartianSource);
    }
    Ok(())
}

/// Who gets a packet from outside.
struct Receiver {
    /// Index of the endpoint.
    index: u32,
    port: u16,
    /// Of the port binding; 0: none.
    counter: u32,
}

/// None: the host does.
#[inline(always)]
fn to_published<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    way: Way<'_>,
) -> Result<Option<Receiver>, Reason> {
    let tuple = &packet.tuple;
    let Way { target, port } = way;
    let endpoint = way.endpoint::<F, E>(env)?;
    if target.flags & target_flag::INSIDE_ONLY != 0 {
        return Err(Reason::DirectAccess);
    }
    if !way.admits::<F, E>(env, packet)? {
        return Ok(None);
    }
    let network = env.network(endpoint.network).ok_or(Reason::EndpointGone)?;
    let addr = F::endpoint_addr(endpoint);
    // A client may have used the container's own address before.
    let has_visitors = network.flags & (F::UNPROTECTED | network_flag::TRUSTED) != 0;
    if target.flags & (target_flag::NEEDS_FLOW | target_flag::ENDS_FLOW) != 0 || has_visitors {
        cold_path();
        // The reply alone would not tell which of its names the client used.
        let orig = Tuple::new(addr, port, tuple.src_addr, tuple.src_port, tuple.proto);
        if target.flags & target_flag::NEEDS_FLOW != 0 {
            let owner = Owner::new(target.endpoint, endpoint);
            named_flow::note::<F, E>(env, config, packet, &orig, owner)?;
        } else {
            named_flow::end::<F, E>(env, packet, &orig);
        }
    }
    Ok(Some(Receiver { index: target.endpoint, port, counter: target.counter }))
}

#[inline(always)]
fn into_container<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    to: Receiver,
) -> Result<Decision<F>, Reason> {
    let tuple = &packet.tuple;
    let endpoint = env.endpoint(to.index).ok_or(Reason::EndpointGone)?;
    let network = env.network(endpoint.network).ok_or(Reason::EndpointGone)?;
    // The kernel answers what a router must: time exceeded, fragmentation needed.
    let fits = !packet.l3.needs_router() && packet.segment_len <= network.mtu;
    let out = if fits && network.takes_shortcuts(config) { Out::Container(endpoint.ifindex) } else { Out::Kernel };
    Ok(Decision {
        tuple: Tuple::new(tuple.src_addr, tuple.src_port, F::endpoint_addr(endpoint), to.port, tuple.proto),
        out,
        endpoint: to.index,
        counters: [endpoint.counter, to.counter],
    })
}

/// Decides on a packet that leaves by the external interface `ifindex`: the kernel's road ends here,
/// and nothing goes on with a container's address.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn to_external<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    ifindex: u32,
) -> Result<Decision<F>, Reason> {
    let tuple = &packet.tuple;
    if !env.in_any_network(&tuple.src_addr) {
        return Ok(Decision::pass(*tuple));
    }
    let index = env.endpoint_index(&tuple.src_addr).ok_or(Reason::Leak)?;
    let endpoint = env.endpoint(index).ok_or(Reason::Leak)?;
    let network = env.network(endpoint.network).ok_or(Reason::Leak)?;
    if network.has(network_flag::INTERNAL) {
        return Err(Reason::Internal);
    }
    let external = F::external_addr(env.external(ifindex).ok_or(Reason::NoExternalAddress)?);
    let source = match snat::source_outside::<F, E>(env, config, packet, index, endpoint, network, external) {
        Err(_) if fault::is_active::<F::Addr>(Fault::LeakGuardOff) => return Ok(Decision::pass(*tuple)),
        source => source?,
    };
    let mut decision = Decision::pass(*tuple);
    decision.tuple = Tuple::new(source.addr, source.port, tuple.dst_addr, tuple.dst_port, tuple.proto);
    decision.counters[1] = source.counter;
    Ok(decision)
}
