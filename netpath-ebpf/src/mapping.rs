//! Masquerade ports: which inside address and port a host port belongs to.
//!
//! An inside address and port keeps one host port for all destinations (RFC 4787 REQ-1). When ports run
//! out, ports of closed connections go first, then ports are shared towards different destinations
//! (RFC 7857, 3).

use netpath_common::{Address as _, Config, CtState, Flow, Inside, Mapping, MappingKey, Reason, Tuple, seen};

use crate::{
    conntrack::{Owner, timeout_s},
    env::Env,
    family::Family,
    fault::{self, Fault},
    flow_table::{NO_RING, reply_tuple},
    hash::Hash,
    packet::{Kind, Packet},
    port_alloc::Candidates,
    port_search::{free_port, is_usable, own_port},
};

/// Candidates tried for a shared port.
const SHARED_CANDIDATES: u32 = 8;
/// A closed connection's port rests this long, in seconds, before somebody else may have it: longer than
/// its last segments live on any but the slowest path.
const CLOSED_HOLD_S: u32 = 2;

/// A new flow, which needs a host port unless it is the container's [own](Self::is_own).
pub struct Request<'a, F: Family> {
    pub packet: &'a Packet<F>,
    pub owner: Owner,
    /// What the container is called in the flow: its own address if it keeps its name.
    pub nat_addr: F::Addr,
    pub now_s: u32,
}

/// The host port a flow got, or none. One word: the kernel takes no BTF of an `Option` that hides in a
/// field, and the verifier no value that is undefined where there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Port(u32);

impl Port {
    /// No port.
    const NONE: Self = Self(0);
    const SHARED: u32 = 1 << 16;

    #[inline(always)]
    const fn new(port: u16, is_shared: bool) -> Self {
        Self(port as u32 | if is_shared { Self::SHARED } else { 0 })
    }

    /// Host byte order.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    /// Others use it too: replies find the flow by their whole tuple.
    #[inline(always)]
    pub const fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }
}

impl<F: Family> Request<'_, F> {
    /// Whether the container keeps its own name in the flow.
    #[inline(always)]
    pub fn is_own(&self) -> bool {
        self.nat_addr == self.packet.tuple.src_addr
    }

    #[inline(always)]
    pub fn owns(&self, mapping: &Mapping<F::Addr>) -> bool {
        mapping.generation == self.owner.generation
            && mapping.addr == self.packet.tuple.src_addr
            && mapping.port == self.packet.tuple.src_port
    }

    #[inline(always)]
    pub(crate) fn key(&self, port: u16) -> MappingKey<F::Addr> {
        MappingKey::new(self.nat_addr, port, self.packet.tuple.proto)
    }

    #[inline(always)]
    pub(crate) fn reply(&self, port: u16) -> Tuple<F::Addr> {
        reply_tuple::<F>(&self.packet.tuple, self.nat_addr, port)
    }

    #[inline(always)]
    fn destination(&self, config: &Config) -> u32 {
        let tuple = &self.packet.tuple;
        Hash::new(config.hash_key).addr(&tuple.dst_addr).word(u32::from(tuple.dst_port)).finish() as u32
    }

    #[inline(always)]
    fn deadline_s(&self, config: &Config) -> u32 {
        let state = if self.packet.kind == Kind::Tcp { CtState::SynSent } else { CtState::Unreplied };
        self.now_s.wrapping_add(timeout_s(config, state, self.packet.tuple.proto))
    }

    #[inline(always)]
    pub fn flow(&self, port: u16) -> Flow<F::Addr> {
        Flow {
            last_seen_s: self.now_s,
            generation: self.owner.generation,
            nat_addr: self.nat_addr,
            ack_orig: self.packet.tcp.ack,
            end_reply: 0,
            ring: NO_RING,
            endpoint: self.owner.index as u16,
            nat_port: port,
            seen_orig: if self.packet.kind == Kind::Tcp { seen::SYN } else { seen::PACKET },
            seen_reply: 0,
            reset: 0,
            flags: 0,
        }
    }

    #[inline(always)]
    fn mapping(&self, config: &Config) -> Mapping<F::Addr> {
        Mapping {
            deadline_s: self.deadline_s(config),
            addr: self.packet.tuple.src_addr,
            generation: self.owner.generation,
            endpoint: self.owner.index,
            destination: self.destination(config),
            port: self.packet.tuple.src_port,
            shared: 0,
            many: 0,
            closed: 0,
            _pad: [0; 3],
        }
    }
}

/// Finds the inside address and port's mapping, or gives it one.
///
/// # Errors
///
/// [`Reason::PortsExhausted`]. [`Reason::PortTaken`]: another CPU was faster, and there is another port or it is the very
/// mapping that was looked for: to be tried anew.
#[inline(never)]
pub fn allocate<F: Family, E: Env<F>>(env: &E, config: &Config, request: &Request<'_, F>) -> Result<Port, Reason> {
    let tuple = &request.packet.tuple;
    let by = if fault::is_active::<F::Addr>(Fault::MappingByDestination) { tuple.dst_port & 0xff } else { 0 };
    let candidates = Candidates::new(config, &tuple.src_addr, tuple.src_port ^ by, tuple.proto, tuple.proto == F::ICMP);
    let own = own_port::<F, E>(env, request, &candidates);
    let port = if own == 0 { free_port::<F, E>(env, config, request, &candidates) } else { own };
    if port != 0 {
        // Sharing it if another CPU was faster would be too early: others are free.
        if own == 0 && !claim::<F, E>(env, config, request, port) {
            return Err(Reason::PortTaken);
        }
        let joined = join::<F, E>(env, config, request, port);
        if joined != Port::NONE {
            return Ok(joined);
        }
    }
    share::<F, E>(env, config, request, &candidates)
}

/// Whether the mapping's last connection has closed and rested.
#[inline(always)]
pub(crate) fn is_takeable<A>(config: &Config, mapping: &Mapping<A>, now_s: u32) -> bool {
    // The deadline of a mapping whose only flow closed is one transitory time-out after that.
    let closed_s = mapping.deadline_s.wrapping_sub(config.timeouts.tcp_transitory);
    mapping.closed != 0 && mapping.many == 0 && (now_s.wrapping_sub(closed_s) as i32) >= CLOSED_HOLD_S as i32
}

/// Adds a flow to the mapping that its inside address and port have already.
#[inline(never)]
fn join<F: Family, E: Env<F>>(env: &E, config: &Config, request: &Request<'_, F>, port: u16) -> Port {
    let Some(pointer) = env.mapping(&request.key(port)) else { return Port::NONE };
    // SAFETY: `env.mapping` returns valid pointers; see `Env`.
    let mapping = unsafe { &mut *pointer };
    let is_shared = mapping.shared != 0;
    if is_shared && !claim_reply::<F, E>(env, request, port) {
        return Port::NONE;
    }
    if mapping.destination != request.destination(config) {
        mapping.many = 1;
    }
    mapping.closed = 0;
    extend(config, mapping, request);
    Port::new(port, is_shared)
}

#[inline(always)]
fn extend<F: Family>(config: &Config, mapping: &mut Mapping<F::Addr>, request: &Request<'_, F>) {
    let deadline_s = request.deadline_s(config);
    if (deadline_s.wrapping_sub(mapping.deadline_s) as i32) > 0 {
        mapping.deadline_s = deadline_s;
    }
}

/// Makes the port the inside address and port's own: it is free, dead, or takeable.
#[inline(never)]
fn claim<F: Family, E: Env<F>>(env: &E, config: &Config, request: &Request<'_, F>, port: u16) -> bool {
    let key = request.key(port);
    let wanted = request.mapping(config);
    if env.insert_mapping(&key, &wanted).is_ok() {
        return true;
    }
    let lock = mapping_lock::<F>(&key);
    if !env.try_lock(lock) {
        return false;
    }
    let replaced = replace::<F, E>(env, config, request, &key, &wanted);
    env.unlock(lock);
    replaced
}

/// Writes a new owner over one that is dead or takeable. The lock of the mapping is held.
#[inline(always)]
fn replace<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    request: &Request<'_, F>,
    key: &MappingKey<F::Addr>,
    wanted: &Mapping<F::Addr>,
) -> bool {
    let Some(pointer) = env.mapping(key) else { return false };
    // SAFETY: as in `join`; nobody else replaces or removes the entry while the lock is held.
    let mapping = unsafe { &mut *pointer };
    let is_replaceable = !is_alive(mapping, request.now_s) || is_takeable(config, mapping, request.now_s);
    if is_replaceable {
        mapping.deadline_s = wanted.deadline_s;
        mapping.addr = wanted.addr.by_words();
        mapping.generation = wanted.generation;
        mapping.endpoint = wanted.endpoint;
        mapping.destination = wanted.destination;
        mapping.many = 0;
        mapping.closed = 0;
        mapping.port = wanted.port;
    }
    is_replaceable
}

/// Name of the lock that protects the replacement of a mapping. The agent takes it too.
#[inline(always)]
pub fn mapping_lock<F: Family>(key: &MappingKey<F::Addr>) -> u64 {
    Hash::new(1).addr(&key.addr).word((u32::from(key.port) << 8) | u32::from(key.proto)).finish()
}

/// Uses a port of somebody else towards another destination, when ports have run out.
#[inline(never)]
fn share<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    request: &Request<'_, F>,
    candidates: &Candidates,
) -> Result<Port, Reason> {
    let tuple = &request.packet.tuple;
    for i in 0..SHARED_CANDIDATES {
        let port = candidates.get(i);
        let Some(pointer) = env.mapping(&request.key(port)) else { continue };
        // SAFETY: `env.mapping` returns valid pointers; see `Env`.
        let mapping = unsafe { &mut *pointer };
        if !is_usable::<F, E>(env, config, request, port) {
            continue;
        }
        // In this order: who creates a flow of the owner's inserts it first and looks at `shared` then,
        // so one of the two sees the other.
        if mapping.shared == 0 {
            mapping.shared = 1;
        }
        if !claim_reply::<F, E>(env, request, port) {
            continue;
        }
        let is_own = mapping.addr == tuple.src_addr && mapping.port == tuple.src_port;
        if !is_own && has_flow::<F, E>(env, tuple, &mapping.addr, mapping.port) {
            give_up_reply::<F, E>(env, request, port);
            continue;
        }
        // The port now has flows to more than one destination.
        mapping.many = 1;
        extend(config, mapping, request);
        return Ok(Port::new(port, true));
    }
    Err(Reason::PortsExhausted)
}

/// Takes the replies from one destination to a shared port.
#[inline(never)]
fn claim_reply<F: Family, E: Env<F>>(env: &E, request: &Request<'_, F>, port: u16) -> bool {
    let tuple = &request.packet.tuple;
    let inside = Inside { addr: tuple.src_addr, port: tuple.src_port, _pad: 0 };
    let reply = request.reply(port);
    if env.insert_reply(&reply, &inside).is_ok() {
        return true;
    }
    let Some(existing) = env.reply(&reply) else { return false };
    if *existing == inside {
        return true;
    }
    // Left behind by a flow that is gone?
    if has_flow::<F, E>(env, tuple, &existing.addr, existing.port) {
        return false;
    }
    env.remove_reply(&reply);
    env.insert_reply(&reply, &inside).is_ok()
}

/// Gives the replies back. Not inlined, for a stack of its own; true.
#[inline(never)]
fn give_up_reply<F: Family, E: Env<F>>(env: &E, request: &Request<'_, F>, port: u16) -> bool {
    env.remove_reply(&request.reply(port));
    true
}

/// Whether an inside address and port has a flow to the destination of `tuple`. Not inlined, for a stack of its
/// own.
#[inline(never)]
fn has_flow<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>, addr: &F::Addr, port: u16) -> bool {
    env.flow(&Tuple::new(addr.by_words(), port, tuple.dst_addr, tuple.dst_port, tuple.proto)).is_some()
}

/// Whether a flow of the mapping may be alive. An endpoint that is gone does not matter here: the agent
/// that takes it down sweeps its mappings too.
#[inline(always)]
pub(crate) fn is_alive<A>(mapping: &Mapping<A>, now_s: u32) -> bool {
    (mapping.deadline_s.wrapping_sub(now_s) as i32) >= 0
}
