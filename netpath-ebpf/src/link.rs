//! Links: the exposed ports of a container that another one may use though their network refuses it.
//!
//! Stateless, as Docker's are: the exposed port may also speak first, but for TCP's bare SYN.

use netpath_common::{Endpoint, LinkKey, Tuple, proto};

use crate::{
    env::Env,
    family::Family,
    packet::{Kind, Packet},
};

/// The counter of the link that lets a packet from one neighbour to another pass.
#[inline(always)]
pub fn find<F: Family, E: Env<F>>(env: &E, packet: &Packet<F>, from: &Endpoint, to: &Endpoint) -> Option<u32> {
    let opens = packet.kind == Kind::Tcp && packet.tcp.flags.is_opening();
    let counter = question::<F, E>(env, &packet.tuple, from, to);
    if counter.is_some() || opens {
        return counter;
    }
    answer::<F, E>(env, &packet.tuple, from, to)
}

/// Whether an error may pass that `from` sends `to` the sender of the quoted packet.
#[inline(always)]
pub fn lets_error_pass<F: Family, E: Env<F>>(env: &E, quoted: &Tuple<F::Addr>, from: &Endpoint, to: &Endpoint) -> bool {
    let is_theirs = quoted.src_addr == F::endpoint_addr(to) && quoted.dst_addr == F::endpoint_addr(from);
    is_theirs && (question::<F, E>(env, quoted, to, from).is_some() || answer::<F, E>(env, quoted, to, from).is_some())
}

/// A packet to an exposed port.
#[inline(always)]
fn question<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>, from: &Endpoint, to: &Endpoint) -> Option<u32> {
    let key = LinkKey::new(from.generation, to.generation, tuple.dst_port, tuple.proto);
    link::<F, E>(env, &key)
}

/// A packet from an exposed port.
#[inline(always)]
fn answer<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>, from: &Endpoint, to: &Endpoint) -> Option<u32> {
    let key = LinkKey::new(to.generation, from.generation, tuple.src_port, tuple.proto);
    link::<F, E>(env, &key).map(|counter| counter + 1)
}

#[inline(always)]
fn link<F: Family, E: Env<F>>(env: &E, key: &LinkKey) -> Option<u32> {
    let has_ports = matches!(key.proto, proto::TCP | proto::UDP | proto::SCTP) && key.port != 0;
    if has_ports { env.link(key).map(|link| link.counter) } else { None }
}
