//! Flows without a mapping: the name that the container has in them is given, because it is one of its published
//! ports or its own address.
//!
//! They tell replies apart that have more than one possible name, and let in what belongs to a flow where new
//! ones are refused.

use netpath_common::{Config, CtState, Flow, Reason, Tuple, flow_flag, proto};

use crate::{
    conntrack::{Owner, is_expired, refresh},
    env::Env,
    family::Family,
    fault::{self, Fault},
    flow_table::{insert, remove_dead},
    mapping::Request,
    packet::{Kind, Packet},
    tcp_state::Direction,
};

/// The name that a packet from the container has in its flow, and the flow refreshed.
#[inline(always)]
pub fn lookup<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    owner: Owner,
) -> Option<(F::Addr, u16)> {
    let now_s = env.now_s();
    // SAFETY: `living` returns valid pointers.
    let flow = unsafe { &mut *living::<F, E>(env, config, &packet.tuple, owner, now_s)? };
    if flow.flags & flow_flag::NAMED == 0 {
        return None;
    }
    let name = (flow.nat_addr, flow.nat_port);
    refresh::<F, E>(env, config, flow, packet, Direction::Orig, now_s);
    Some(name)
}

/// What is known about a packet to a container's own address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Its flow, in which the container has its own name.
    Yes,
    /// Another flow with the same ends, in which the container has another name.
    Otherwise,
    No,
}

/// Looks for the flow of a packet to the container's own address, and refreshes it.
#[inline(always)]
pub fn lookup_own<F: Family, E: Env<F>>(env: &E, config: &Config, packet: &Packet<F>, owner: Owner) -> Known {
    let now_s = env.now_s();
    let Some(flow) = living::<F, E>(env, config, &packet.tuple.reversed(), owner, now_s) else { return Known::No };
    // SAFETY: as in `lookup`.
    let flow = unsafe { &mut *flow };
    if flow.nat_addr != packet.tuple.dst_addr {
        return Known::Otherwise;
    }
    refresh::<F, E>(env, config, flow, packet, Direction::Reply, now_s);
    Known::Yes
}

/// What the sender of a flow's packets is called.
#[derive(Clone, Copy)]
pub struct Name<A> {
    pub addr: A,
    pub port: u16,
    /// Not one of masquerade's.
    pub is_given: bool,
}

/// What the sender of `tuple` is called in its flow.
#[inline(always)]
pub fn peek<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    tuple: &Tuple<F::Addr>,
    owner: Owner,
) -> Option<Name<F::Addr>> {
    // SAFETY: as in `lookup`.
    let flow = unsafe { &*living::<F, E>(env, config, tuple, owner, env.now_s())? };
    Some(Name { addr: flow.nat_addr, port: flow.nat_port, is_given: flow.flags & flow_flag::NAMED != 0 })
}

/// Whether the flow under `tuple` is one in which its sender has its own name.
#[inline(always)]
pub fn is_own<F: Family, E: Env<F>>(env: &E, config: &Config, tuple: &Tuple<F::Addr>, owner: Owner) -> bool {
    // SAFETY: as in `lookup`.
    living::<F, E>(env, config, tuple, owner, env.now_s())
        .is_some_and(|flow| unsafe { (*flow).nat_addr } == tuple.src_addr)
}

/// The flow under `tuple` if it is alive; as valid as what [`Env::flow`] returns.
#[inline(always)]
fn living<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    tuple: &Tuple<F::Addr>,
    owner: Owner,
    now_s: u32,
) -> Option<*mut Flow<F::Addr>> {
    let pointer = env.flow(tuple)?;
    // SAFETY: `env.flow` returns valid pointers; see `Env`.
    let flow = unsafe { &*pointer };
    let is_alive = flow.generation == owner.generation && !is_expired(config, flow, tuple.proto, now_s);
    is_alive.then_some(pointer)
}

/// Whether a packet can have a flow at all: errors have none, and who knows whose a fragment without ports is.
#[inline(always)]
pub const fn is_trackable<F: Family>(packet: &Packet<F>) -> bool {
    packet.has_ports() || matches!(packet.kind, Kind::Other)
}

/// Whether a packet may give a client's flow another name: `flow` is the one it has, if any.
///
/// Anybody can send a segment in the client's name. One from the middle of a connection, or any while both ends
/// talk, would turn the container's next segment into somebody else's, and the client would reset the connection.
#[inline(always)]
fn may_rename<F: Family>(packet: &Packet<F>, flow: Option<&Flow<F::Addr>>) -> bool {
    let is_talking = flow.is_some_and(|flow| flow.state(packet.tuple.proto) == CtState::Established);
    // Of a fragment that is not the first one nobody knows what it says.
    packet.tuple.proto != proto::TCP || (packet.tcp.flags.is_opening() && !is_talking)
}

/// Notes a packet to the container, which the client sent to `packet`'s destination: in the flow under `orig`,
/// the tuple of the container's replies. Creates it if need be, and if the packet may.
///
/// # Errors
///
/// [`Reason::FlowTableFull`], [`Reason::FlowQuota`].
#[inline(always)]
pub fn note<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    orig: &Tuple<F::Addr>,
    owner: Owner,
) -> Result<(), Reason> {
    let now_s = env.now_s();
    if let Some(pointer) = env.flow(orig) {
        // SAFETY: as in `lookup`.
        let flow = unsafe { &mut *pointer };
        let is_alive = flow.generation == owner.generation && !is_expired(config, flow, orig.proto, now_s);
        // The next connection of a closed one has a life of its own.
        let begins_anew = packet.tcp.flags.is_opening() && flow.state(orig.proto) == CtState::Closing;
        let is_same = ((is_alive && !begins_anew) || fault::is_active::<F::Addr>(Fault::EndedNameRevived))
            && flow.nat_addr == packet.tuple.dst_addr
            && flow.nat_port == packet.tuple.dst_port
            && flow.flags & flow_flag::NAMED != 0;
        if is_same {
            refresh::<F, E>(env, config, flow, packet, Direction::Reply, now_s);
            return Ok(());
        }
        if !may_rename(packet, is_alive.then_some(&*flow)) {
            return Ok(());
        }
        remove_dead::<F, E>(env, orig, flow);
    } else if !may_rename(packet, None) {
        return Ok(());
    }
    let request = Request { packet, owner, nat_addr: packet.tuple.dst_addr, now_s };
    let mut flow = request.flow(packet.tuple.dst_port);
    flow.flags |= flow_flag::NAMED;
    // The client speaks first here.
    flow.seen_orig = 0;
    refresh::<F, E>(env, config, &mut flow, packet, Direction::Reply, now_s);
    insert::<F, E>(env, config, orig, &mut flow, now_s)
}

/// Creates the flow of a packet that the container sends under its own name. Not inlined, for a stack of its own.
///
/// # Errors
///
/// [`Reason::FlowTableFull`], [`Reason::FlowQuota`].
#[inline(never)]
pub fn create_own<F: Family, E: Env<F>>(env: &E, config: &Config, request: &Request<'_, F>) -> Result<(), Reason> {
    let tuple = &request.packet.tuple;
    let mut flow = request.flow(tuple.src_port);
    flow.flags |= flow_flag::NAMED;
    insert::<F, E>(env, config, tuple, &mut flow, request.now_s)
}

/// Ends the flow of a client that used another name of the container before, if `packet` may.
#[inline(always)]
pub fn end<F: Family, E: Env<F>>(env: &E, packet: &Packet<F>, orig: &Tuple<F::Addr>) {
    if let Some(flow) = env.flow(orig) {
        // SAFETY: as in `lookup`.
        let flow = unsafe { &*flow };
        if may_rename(packet, Some(flow)) {
            remove_dead::<F, E>(env, orig, flow);
        }
    }
}
