//! Flows: lookup, create, refresh, expire.
//!
//! A flow is one entry under the tuple as the container sees it; the other direction finds it through
//! the mapping of its host port.

use core::hint::cold_path;

use netpath_common::{
    Config, CtState, Endpoint, Flow, Inside, MappingKey, Reason, TcpFlags, Tuple, flow_flag, proto, seen,
};

use crate::{
    env::Env,
    family::Family,
    fault::{self, Fault},
    flow_table::{forget, insert, purge, remove, remove_dead, reply_tuple},
    mapping::{Port, Request, allocate},
    named_flow,
    packet::{Kind, Packet},
    tcp_state::{self, Direction},
};

/// What creating a flow needs to know about the inside.
#[derive(Clone, Copy)]
pub struct Owner {
    /// Index into `ENDPOINTS`.
    pub index: u32,
    pub generation: u32,
}

impl Owner {
    #[inline(always)]
    pub const fn new(index: u32, endpoint: &Endpoint) -> Self {
        Self { index, generation: endpoint.generation }
    }
}

/// Seconds a flow in this state may be silent.
#[inline(always)]
pub const fn timeout_s(config: &Config, state: CtState, protocol: u8) -> u32 {
    let timeouts = &config.timeouts;
    match state {
        CtState::Established => timeouts.tcp,
        CtState::SynSent | CtState::Closing => timeouts.tcp_transitory,
        CtState::Unreplied | CtState::Assured if protocol != proto::UDP && protocol != proto::SCTP => timeouts.icmp,
        CtState::Unreplied => timeouts.udp_unreplied,
        CtState::Assured => timeouts.udp,
    }
}

/// Whether a flow has been silent for too long.
#[inline(always)]
pub fn is_expired<A>(config: &Config, flow: &Flow<A>, protocol: u8, now_s: u32) -> bool {
    // A CPU whose clock is a moment behind sees a flow of the future: age 0, not 136 years.
    let age = now_s.wrapping_sub(flow.last_seen_s) as i32;
    if fault::is_active::<A>(Fault::TimeoutIgnored) {
        return false;
    }
    if fault::is_active::<A>(Fault::TimeoutShort) {
        return age.saturating_mul(4) > timeout_s(config, flow.state(protocol), protocol) as i32;
    }
    age > 0 && age as u32 > timeout_s(config, flow.state(protocol), protocol)
}

#[inline(always)]
fn mapping_key<F: Family>(flow: &Flow<F::Addr>, protocol: u8) -> MappingKey<F::Addr> {
    MappingKey::new(flow.nat_addr, flow.nat_port, protocol)
}

/// Whether the packet may begin a flow from the inside.
///
/// # Errors
///
/// [`Reason::NoFlow`] where it would belong to a flow that is not there, [`Reason::Untranslatable`]
/// where there is nothing to translate it by.
#[inline(always)]
pub fn may_begin<F: Family>(packet: &Packet<F>) -> Result<(), Reason> {
    match packet.kind {
        Kind::Tcp if packet.tcp.flags.is_opening() || fault::is_active::<F::Addr>(Fault::AnySegmentBegins) => Ok(()),
        Kind::Udp | Kind::Sctp | Kind::Request => Ok(()),
        Kind::Tcp | Kind::Reply | Kind::IcmpError => Err(Reason::NoFlow),
        Kind::LaterFragment => Err(Reason::Fragment),
        Kind::Other => Err(Reason::Untranslatable),
    }
}

/// The flow of a packet from the container: its name outside, and the flow refreshed.
///
/// `nat_addr` is the address of the interface that the packet leaves by; a flow with another one ended
/// when the address or the route changed, unless that is the container's own. One with the name of a port that is
/// not published any more has ended too.
#[inline(always)]
pub fn lookup<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    owner: Owner,
    nat_addr: &F::Addr,
) -> Option<(F::Addr, u16)> {
    let now_s = env.now_s();
    let pointer = env.flow(&packet.tuple)?;
    // SAFETY: `env.flow` returns valid pointers; see `Env`.
    let flow = unsafe { &mut *pointer };
    let is_own = flow.nat_addr == packet.tuple.src_addr;
    let is_dead = (flow.generation != owner.generation && !fault::is_active::<F::Addr>(Fault::GenerationIgnored))
        || !(is_own || (flow.nat_addr == *nat_addr && flow.flags & flow_flag::NAMED == 0))
        || is_expired(config, flow, packet.tuple.proto, now_s)
        || is_over::<F, E>(env, packet, flow, now_s);
    if is_dead {
        cold_path();
        remove_dead::<F, E>(env, &packet.tuple, flow);
        return None;
    }
    let name = (flow.nat_addr, flow.nat_port);
    refresh::<F, E>(env, config, flow, packet, Direction::Orig, now_s);
    Some(name)
}

/// Whether a flow has ended though it has not expired: a SYN begins the next connection of a closed one,
/// or its port has gone to somebody else. The latter is looked at once a second, and always while closing.
#[inline(always)]
fn is_over<F: Family, E: Env<F>>(env: &E, packet: &Packet<F>, flow: &Flow<F::Addr>, now_s: u32) -> bool {
    let is_closing = flow.state(packet.tuple.proto) == CtState::Closing;
    if is_closing && packet.kind == Kind::Tcp && packet.tcp.flags.is_opening() {
        return true;
    }
    if (!is_closing && flow.last_seen_s == now_s) || flow.flags & (flow_flag::SHARED | flow_flag::NAMED) != 0 {
        return false;
    }
    has_lost_port::<F, E>(env, packet, flow)
}

/// Whether the flow's port has gone to somebody else. Not inlined, for a stack of its own.
#[inline(never)]
fn has_lost_port<F: Family, E: Env<F>>(env: &E, packet: &Packet<F>, flow: &Flow<F::Addr>) -> bool {
    let mapping = env.mapping(&mapping_key::<F>(flow, packet.tuple.proto));
    mapping.is_none_or(|mapping| {
        // SAFETY: as in `lookup`.
        let mapping = unsafe { &*mapping };
        mapping.addr != packet.tuple.src_addr || mapping.port != packet.tuple.src_port
    })
}

/// The container's end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Replied<A> {
    pub inside: Inside<A>,
    /// Index into `ENDPOINTS`.
    pub endpoint: u32,
}

/// The flow that `packet`, which has `tuple` outside, replies to at a masquerade port, refreshed. `None`: no
/// such flow, the packet is the host's.
///
/// # Errors
///
/// [`Reason::EndpointGone`].
#[inline(always)]
pub fn lookup_reply<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    tuple: &Tuple<F::Addr>,
) -> Result<Option<Replied<F::Addr>>, Reason> {
    let Some(inside) = inside_of::<F, E>(env, tuple) else { return Ok(None) };
    let orig = Tuple::new(inside.addr, inside.port, tuple.src_addr, tuple.src_port, tuple.proto);
    let Some(pointer) = env.flow(&orig) else { return Ok(None) };
    // SAFETY: as in `lookup`.
    let flow = unsafe { &mut *pointer };
    let now_s = env.now_s();
    if flow.nat_addr != tuple.dst_addr
        || flow.nat_port != tuple.dst_port
        || is_expired(config, flow, tuple.proto, now_s)
    {
        return Ok(None);
    }
    let endpoint = u32::from(flow.endpoint);
    if env.endpoint(endpoint).is_none_or(|e| e.generation != flow.generation)
        && !fault::is_active::<F::Addr>(Fault::GenerationIgnored)
    {
        return Err(Reason::EndpointGone);
    }
    refresh::<F, E>(env, config, flow, packet, Direction::Reply, now_s);
    if fault::is_active::<F::Addr>(Fault::ResetEndsFlow) && packet.tcp.flags.has(TcpFlags::RST) {
        flow.generation = 0;
    }
    let mut inside = inside;
    if fault::is_active::<F::Addr>(Fault::WrongReplyPort) {
        inside.port ^= 1;
    }
    Ok(Some(Replied { inside, endpoint }))
}

/// Whether a packet's destination port can be one that masquerade uses.
#[inline(always)]
pub fn may_be_reply<F: Family>(config: &Config, packet: &Packet<F>) -> bool {
    let Tuple { dst_port: port, proto: protocol, .. } = packet.tuple;
    let any = protocol == F::ICMP || protocol == proto::SCTP;
    config.ports.contains(port) || config.privileged_ports.contains(port) || any
}

/// Whose masquerade port a packet from outside is addressed to.
#[inline(always)]
pub fn inside_of<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>) -> Option<Inside<F::Addr>> {
    // SAFETY: as in `lookup`.
    let mapping = unsafe { &*env.mapping(&MappingKey::new(tuple.dst_addr, tuple.dst_port, tuple.proto))? };
    if mapping.shared != 0
        && let Some(inside) = env.reply(tuple)
    {
        return Some(*inside);
    }
    Some(Inside { addr: mapping.addr, port: mapping.port, _pad: 0 })
}

/// Notes that a packet of the flow passed.
#[inline(always)]
pub fn refresh<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    flow: &mut Flow<F::Addr>,
    packet: &Packet<F>,
    direction: Direction,
    now_s: u32,
) {
    let protocol = packet.tuple.proto;
    let before = flow.state(protocol);
    if packet.kind == Kind::Tcp {
        // A RST that nobody believes does not keep the flow alive either (RFC 7857, 7).
        if !tcp_state::note(flow, direction, &packet.tcp) {
            return;
        }
    } else if direction == Direction::Reply && flow.seen_reply == 0 {
        flow.seen_reply = seen::PACKET;
    }
    let after = flow.state(protocol);
    if after == before && flow.last_seen_s == now_s {
        return;
    }
    cold_path();
    flow.last_seen_s = now_s;
    if flow.flags & flow_flag::NAMED == 0 {
        refresh_mapping::<F, E>(env, config, flow, protocol, after != before);
    }
}

/// Brings the mapping up to date with its flow, once a second. Not inlined, for a stack of its own. False: there
/// is none.
#[inline(never)]
fn refresh_mapping<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    flow: &Flow<F::Addr>,
    protocol: u8,
    has_changed: bool,
) -> bool {
    let Some(pointer) = env.mapping(&mapping_key::<F>(flow, protocol)) else { return false };
    // SAFETY: as in `lookup`.
    let mapping = unsafe { &mut *pointer };
    let state = flow.state(protocol);
    let deadline_s = flow.last_seen_s.wrapping_add(timeout_s(config, state, protocol));
    let is_closed = state == CtState::Closing && mapping.many == 0;
    if has_changed {
        mapping.closed = u8::from(is_closed);
    }
    // The only flow brings the deadline nearer when it closes; all else only moves it away.
    if is_closed || (deadline_s.wrapping_sub(mapping.deadline_s) as i32) > 0 {
        mapping.deadline_s = deadline_s;
    }
    true
}

/// Creates the flow of a packet from the container and returns the port that it is called by.
///
/// # Errors
///
/// [`Reason::PortTaken`], to be tried anew; [`Reason::PortsExhausted`], [`Reason::FlowTableFull`], [`Reason::FlowQuota`]; no live flow is ever evicted for a new one.
#[inline(always)]
pub fn create<F: Family, E: Env<F>>(env: &E, config: &Config, request: &Request<'_, F>) -> Result<u16, Reason> {
    purge::<F, E>(env, config, request.owner.index, request.now_s);
    if request.is_own() {
        named_flow::create_own::<F, E>(env, config, request)?;
        return Ok(request.packet.tuple.src_port);
    }
    // Two calls one after the other, not one in the other: their stacks together would be too large.
    let port = allocate::<F, E>(env, config, request)?;
    establish::<F, E>(env, config, request, port)?;
    env.announce(&request.packet.tuple, port.port());
    Ok(port.port())
}

#[inline(never)]
fn establish<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    request: &Request<'_, F>,
    port: Port,
) -> Result<(), Reason> {
    let tuple = &request.packet.tuple;
    let mut flow = request.flow(port.port());
    if port.is_shared() {
        flow.flags |= flow_flag::SHARED;
    }
    if let Err(reason) = insert::<F, E>(env, config, tuple, &mut flow, request.now_s) {
        if port.is_shared() {
            env.remove_reply(&reply_tuple::<F>(tuple, request.nat_addr, port.port()));
        }
        return Err(reason);
    }
    if port.is_shared() {
        // Somebody may have taken the claim for one left behind, before the flow was there.
        let is_ours = env
            .reply(&reply_tuple::<F>(tuple, request.nat_addr, port.port()))
            .is_some_and(|inside| inside.addr == tuple.src_addr && inside.port == tuple.src_port);
        if is_ours {
            return Ok(());
        }
        forget::<F, E>(env, tuple, &flow);
        return Err(Reason::PortsExhausted);
    }
    if let Some(mapping) = env.mapping(&mapping_key::<F>(&flow, tuple.proto)) {
        // SAFETY: as in `lookup`.
        let mapping = unsafe { &*mapping };
        // Somebody may have begun to share or have taken the port meanwhile; the next packet tries anew.
        if mapping.shared != 0 || !request.owns(mapping) {
            remove::<F, E>(env, tuple, &flow);
            return Err(Reason::PortsExhausted);
        }
    }
    Ok(())
}
