//! Decisions on packets from a container: is it who it says, may it talk to whom it wants, and how is it
//! called outside.

use netpath_common::{Config, Endpoint, Network, Reason, Tuple, config_flag, network_flag};

use crate::{
    decision::{Decision, Out},
    env::{Env, Route},
    family::Family,
    packet::{Kind, Packet},
    snat,
};

/// How a frame came in from a container.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Host end of the veth pair.
    pub ifindex: u32,
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
}

/// The sender, once it is known to be who it says.
pub struct Sender<'a> {
    /// Index into `ENDPOINTS`.
    pub index: u32,
    pub endpoint: &'a Endpoint,
    pub network: &'a Network,
}

/// Finds out who sent a packet.
///
/// # Errors
///
/// [`Reason::SpoofedSource`] or [`Reason::SpoofedMac`] when it is not who it says.
#[inline(always)]
pub fn sender<'a, F: Family, E: Env<F>>(
    env: &'a E,
    src_addr: &F::Addr,
    arrival: &Arrival,
) -> Result<Sender<'a>, Reason> {
    let index = env.endpoint_index(src_addr).ok_or(Reason::SpoofedSource)?;
    let endpoint = env.endpoint(index).ok_or(Reason::SpoofedSource)?;
    if endpoint.ifindex != arrival.ifindex {
        return Err(Reason::SpoofedSource);
    }
    if endpoint.mac != arrival.src_mac {
        return Err(Reason::SpoofedMac);
    }
    let network = env.network(endpoint.network).ok_or(Reason::EndpointGone)?;
    Ok(Sender { index, endpoint, network })
}

/// Decides on a packet from a container.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn from_container<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    arrival: &Arrival,
    sender: &Sender<'_>,
) -> Result<Decision<F>, Reason> {
    let dst_addr = &packet.tuple.dst_addr;
    let mut decision = Decision::pass(packet.tuple);
    decision.counters[0] = sender.endpoint.counter + 1;
    let icc = sender.network.has(network_flag::ICC);
    let through_bridge = arrival.dst_mac == sender.network.mac;
    if F::is_group(dst_addr) {
        return if icc { Ok(decision) } else { Err(Reason::Icc) };
    }
    if F::in_network(sender.network, dst_addr) {
        decision.out = to_neighbour::<F, E>(env, config, dst_addr, arrival, sender)?;
        if icc {
            decision.counters[1] = sender.network.counter + 1;
        }
        return Ok(decision);
    }
    if !icc && !through_bridge {
        // A frame with a neighbour's hardware address and a foreign IP address: the bridge would deliver it.
        return Err(Reason::Icc);
    }
    let (ifindex, next_hop) = match env.route(packet, sender.network) {
        Route::To { ifindex, next_hop } => (ifindex, Some(next_hop)),
        Route::TooBig { ifindex } => (ifindex, None),
        Route::Kernel => return Ok(decision),
    };
    let Some(external) = env.external(ifindex) else {
        return Err(if env.in_any_network(dst_addr) { Reason::Isolated } else { Reason::NotExternal });
    };
    // `to_external` translates what takes the kernel's road, ICMP errors among it.
    let shortcut = config.flags & config_flag::SHORTCUTS != 0;
    let Some(next_hop) = next_hop else { return Ok(decision) };
    if !shortcut || packet.l3.ttl <= 1 || !through_bridge || packet.kind == Kind::IcmpError {
        return Ok(decision);
    }
    let external = F::external_addr(external);
    let source =
        snat::source_outside::<F, E>(env, config, packet, sender.index, sender.endpoint, sender.network, external)?;
    let tuple = &packet.tuple;
    decision.tuple = Tuple::new(source.addr, source.port, tuple.dst_addr, tuple.dst_port, tuple.proto);
    decision.counters[1] = source.counter;
    decision.out = Out::External { ifindex, next_hop };
    Ok(decision)
}

/// Inter-container policy, and the shortcut across.
#[inline(always)]
fn to_neighbour<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    dst_addr: &F::Addr,
    arrival: &Arrival,
    sender: &Sender<'_>,
) -> Result<Out<F::Addr>, Reason> {
    let icc = sender.network.has(network_flag::ICC);
    let neighbour = env.endpoint_index(dst_addr).and_then(|index| env.endpoint(index));
    let Some(neighbour) = neighbour else {
        // The bridge itself, or nobody. Frames to a neighbour's hardware address do not pass for it.
        let passes = icc || arrival.dst_mac == sender.network.mac;
        return if passes { Ok(Out::Kernel) } else { Err(Reason::Icc) };
    };
    if !icc {
        return Err(Reason::Icc);
    }
    let is_direct = arrival.dst_mac == neighbour.mac && neighbour.network == sender.endpoint.network;
    if is_direct && config.flags & config_flag::SHORTCUTS != 0 {
        return Ok(Out::Sibling(neighbour.ifindex));
    }
    Ok(Out::Kernel)
}
