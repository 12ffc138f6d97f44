//! Decisions on what a container sends to the host itself and to other networks, and on its ICMP errors.
//!
//! A program of its own in eBPF: with the roads out it would be more than the verifier and the stack take.

use core::hint::cold_path;

use netpath_common::{Config, Reason, network_flag};

use crate::{
    conntrack::Owner,
    decision::{Decision, Out},
    direct,
    env::Env,
    family::Family,
    hairpin::{self, ToHost},
    icmp::{Inner, Translation},
    link, named_flow,
    packet::Packet,
    policy::{Arrival, Road, Sender, road},
    snat,
};

/// Decides on a packet that [`policy`](crate::policy) has found to stay on this host.
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
    let mut decision = Decision::pass(packet.tuple);
    decision.counters[0] = sender.endpoint.counter + 1;
    match road::<F, E>(env, packet, arrival, sender)? {
        Road::Network => decision.out = to_network::<F, E>(env, config, packet, arrival, sender)?,
        Road::Host if !sender.network.has(network_flag::INTERNAL) => {
            to_host::<F, E>(env, config, packet, sender, &mut decision)?;
        }
        Road::Host | Road::Bridge | Road::Neighbour { .. } | Road::External { .. } => {}
    }
    Ok(decision)
}

#[inline(always)]
fn to_host<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    sender: &Sender<'_>,
    decision: &mut Decision<F>,
) -> Result<(), Reason> {
    let owner = Owner::new(sender.index, sender.endpoint);
    match hairpin::seek::<F, E>(env, config, packet, owner)? {
        ToHost::Plain => {}
        ToHost::Question(way) => {
            let source = match snat::masquerade::<F, E>(env, config, packet, owner, packet.tuple.dst_addr) {
                // A connection that is not known here is the host's to refuse.
                Err(Reason::NoFlow) => return Ok(()),
                source => source?,
            };
            decision.tuple = hairpin::ask::<F, E>(env, config, packet, &way, source.port)?;
            decision.out = hairpin::across::<F, E>(env, packet, way.target.endpoint)?;
            decision.counters[1] = way.target.counter;
        }
        ToHost::Answer { tuple, index } => {
            decision.tuple = tuple;
            decision.out = hairpin::across::<F, E>(env, packet, index)?;
        }
    }
    Ok(())
}

/// Policy between networks, and the shortcut across. Addresses stay as they are.
#[inline(always)]
fn to_network<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    arrival: &Arrival,
    sender: &Sender<'_>,
) -> Result<Out<F::Addr>, Reason> {
    cold_path();
    let tuple = &packet.tuple;
    let owner = Owner::new(sender.index, sender.endpoint);
    let is_reply = named_flow::lookup::<F, E>(env, config, packet, owner).is_some_and(|name| name.0 == tuple.src_addr);
    let index = if is_reply {
        env.endpoint_index(&tuple.dst_addr).ok_or(Reason::Isolated)?
    } else {
        direct::visit::<F, E>(env, config, packet, sender.endpoint.gateway_ifindex, Reason::Isolated)?
    };
    let through_gateway = sender.is_for_gateway(arrival);
    // Where its answer would take the kernel's road, a question does too: conntrack sees both or none.
    let receiver = env.endpoint(index).and_then(|endpoint| env.network(endpoint.network));
    let has_shortcut =
        sender.network.takes_shortcuts(config) && receiver.is_some_and(|network| network.takes_shortcuts(config));
    if !has_shortcut || packet.l3.needs_router() || !through_gateway {
        return Ok(Out::Kernel);
    }
    // The kernel says so where it is too big.
    Ok(hairpin::across::<F, E>(env, packet, index).unwrap_or(Out::Kernel))
}

/// Decides on an ICMP error from a container, which quotes `inner` if enough of it is there. `None`: it
/// passes as it is; the errors that leave are `to_external`'s to translate.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn error_from_container<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    inner: Option<&Inner<F>>,
    arrival: &Arrival,
    sender: &Sender<'_>,
) -> Result<Option<Translation<F>>, Reason> {
    let owner = Owner::new(sender.index, sender.endpoint);
    match road::<F, E>(env, packet, arrival, sender)? {
        Road::Bridge | Road::External { .. } => Ok(None),
        Road::Neighbour { neighbour, .. } => {
            let is_there = arrival.dst_mac == neighbour.mac || sender.is_for_gateway(arrival);
            let is_linked = |inner: &Inner<F>| {
                is_there && link::lets_error_pass::<F, E>(env, &inner.tuple, sender.endpoint, neighbour)
            };
            let passes = sender.network.has(network_flag::ICC) || inner.is_some_and(is_linked);
            if passes { Ok(None) } else { Err(Reason::Icc) }
        }
        Road::Host if sender.network.has(network_flag::INTERNAL) => Ok(None),
        Road::Host => Ok(inner.and_then(|inner| hairpin::error::<F, E>(env, config, packet, inner, owner))),
        Road::Network => {
            let is_about_visit = |inner: &Inner<F>| {
                let quoted = &inner.tuple;
                quoted.dst_addr == packet.tuple.src_addr
                    && quoted.src_addr == packet.tuple.dst_addr
                    && direct::is_about_visit::<F, E>(env, config, quoted, owner)
            };
            if !inner.is_some_and(is_about_visit) {
                direct::visit::<F, E>(env, config, packet, sender.endpoint.gateway_ifindex, Reason::Isolated)?;
            }
            Ok(None)
        }
    }
}
