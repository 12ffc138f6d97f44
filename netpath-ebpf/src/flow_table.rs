//! The table of flows: insert, collect, remove.
//!
//! An expired flow is dead at once, and is removed by whoever creates the next one and comes across it on
//! the ring.

use netpath_common::{Config, Flow, Reason, Tuple, flow_flag};

use crate::{
    conntrack::is_expired,
    env::{Env, Refused},
    family::Family,
    hash::Hash,
};

/// A flow that lies in no place of the ring.
pub const NO_RING: u32 = u32::MAX;
/// Places of the ring looked at when a flow is created.
const RING_STEPS: u32 = 8;
/// Places looked at for a container that has its share.
const PURGE_STEPS: u32 = 4;
/// A container may have this many times as many flows as are free.
const SHARE: u32 = 4;
/// The index of all endpoints together among the shares.
pub const ALL: u32 = 0;

/// The tuple that replies to a flow have outside.
#[inline(always)]
pub fn reply_tuple<F: Family>(tuple: &Tuple<F::Addr>, nat_addr: F::Addr, nat_port: u16) -> Tuple<F::Addr> {
    Tuple::new(tuple.dst_addr, tuple.dst_port, nat_addr, nat_port, tuple.proto)
}

/// Name of the lock that protects the removal of an expired flow. The agent takes it too.
#[inline(always)]
pub fn flow_lock<F: Family>(tuple: &Tuple<F::Addr>) -> u64 {
    Hash::new(u64::from(tuple.proto))
        .addr(&tuple.src_addr)
        .addr(&tuple.dst_addr)
        .word((u32::from(tuple.src_port) << 16) | u32::from(tuple.dst_port))
        .finish()
}

/// Inserts a flow and gives it a place in the ring, collecting an expired flow if it comes across one.
#[inline(always)]
pub fn insert<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    tuple: &Tuple<F::Addr>,
    flow: &mut Flow<F::Addr>,
    now_s: u32,
) -> Result<(), Reason> {
    flow.ring = collect::<F, E>(env, config, now_s);
    let endpoint = u32::from(flow.endpoint);
    if has_its_share::<F, E>(env, config, endpoint) {
        return Err(Reason::FlowQuota);
    }
    let mut inserted = put::<F, E>(env, tuple, flow);
    if inserted.is_err() {
        flow.ring = collect::<F, E>(env, config, now_s);
        inserted = put::<F, E>(env, tuple, flow);
    }
    if inserted.is_err() {
        return Err(Reason::FlowTableFull);
    }
    if flow.ring != NO_RING
        && let Some(place) = env.ring(flow.ring)
    {
        // SAFETY: `env` returns valid pointers; see `Env`.
        unsafe { *place = *tuple };
    }
    Ok(())
}

/// Puts a flow into the table and on its endpoint's share. Not inlined, for a stack of its own.
#[inline(never)]
fn put<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), Refused> {
    if env.insert_flow(tuple, flow).is_ok() {
        count::<F, E>(env, ALL, 1);
    } else {
        // A dead one that somebody else is about to remove, or the table is full.
        let dead = env.flow(tuple).ok_or(Refused)?;
        // SAFETY: as in `insert`.
        let (endpoint, generation) = unsafe { (u32::from((*dead).endpoint), (*dead).generation) };
        env.replace_flow(tuple, flow)?;
        leave::<F, E>(env, endpoint, generation);
    }
    count::<F, E>(env, flow.endpoint.into(), 1);
    Ok(())
}

/// Whether an endpoint has its share of the table. One alone gets four fifths of it, the next one four fifths of the rest,
/// and so on: whatever one container does, there is room for another's flow. (Dynamic thresholds, by which switches share
/// their buffers: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998.)
#[inline(always)]
fn has_its_share<F: Family, E: Env<F>>(env: &E, config: &Config, endpoint: u32) -> bool {
    let free = config.max_flows.saturating_sub(flows_of::<F, E>(env, ALL));
    // A full table speaks for itself.
    free != 0 && flows_of::<F, E>(env, endpoint) >= SHARE.saturating_mul(free)
}

/// How many flows an endpoint has, dead ones that nobody has collected among them.
#[inline(always)]
pub fn flows_of<F: Family, E: Env<F>>(env: &E, endpoint: u32) -> u32 {
    // SAFETY: `env` returns valid pointers; see `Env`.
    env.share(endpoint).map_or(0, |share| unsafe { (*share).flows() })
}

/// Whether one more refusal may be answered to an endpoint: so many a second, as the kernel limits its own errors to
/// (`net.ipv4.icmp_msgs_per_sec` is for all of them together; this is for each container).
#[inline(always)]
pub fn may_answer<F: Family, E: Env<F>>(env: &E, endpoint: u32, now_s: u32) -> bool {
    const ANSWERS_PER_S: u32 = 100;
    let Some(share) = env.share(endpoint) else { return false };
    // SAFETY: as in `flows_of`. CPUs that overtake each other answer some more.
    let share = unsafe { &mut *share };
    if share.answered_s != now_s {
        share.answered_s = now_s;
        share.answered = 0;
    }
    share.answered += 1;
    share.answered <= ANSWERS_PER_S
}

/// Adds to an endpoint's number of flows; `u64::MAX` takes one away.
#[inline(always)]
fn count<F: Family, E: Env<F>>(env: &E, endpoint: u32, change: u64) {
    if let Some(share) = env.share(endpoint) {
        // SAFETY: as in `flows_of`.
        env.add(unsafe { &mut (*share).flows }, change);
    }
}

/// Finds a place in the ring, removing the expired flow that may lie there.
#[inline(never)]
fn collect<F: Family, E: Env<F>>(env: &E, config: &Config, now_s: u32) -> u32 {
    for _ in 0..RING_STEPS {
        let position = env.advance_ring(config.max_flows);
        if vacate::<F, E>(env, config, position, now_s) {
            return position;
        }
    }
    NO_RING
}

/// Looks for expired flows among the next places of the ring if an endpoint has its share: some of it may be its own.
/// Not inlined, for a stack of its own. Whether it looked.
#[inline(never)]
pub fn purge<F: Family, E: Env<F>>(env: &E, config: &Config, endpoint: u32, now_s: u32) -> bool {
    let is_due = has_its_share::<F, E>(env, config, endpoint);
    if is_due {
        for _ in 0..PURGE_STEPS {
            vacate::<F, E>(env, config, env.advance_ring(config.max_flows), now_s);
        }
    }
    is_due
}

/// Whether a place of the ring can be had, and removes the expired flow that may lie there.
#[inline(always)]
fn vacate<F: Family, E: Env<F>>(env: &E, config: &Config, position: u32, now_s: u32) -> bool {
    let Some(place) = env.ring(position) else { return false };
    // SAFETY: as in `insert`.
    let tuple = unsafe { *place };
    if tuple.proto == 0 {
        return true;
    }
    let Some(pointer) = env.flow(&tuple) else { return true };
    // SAFETY: as in `insert`.
    let flow = unsafe { &*pointer };
    if flow.ring != position {
        return true;
    }
    let is_dead = is_expired(config, flow, tuple.proto, now_s)
        || env.endpoint(u32::from(flow.endpoint)).is_none_or(|e| e.generation != flow.generation);
    if is_dead {
        remove_if_dead::<F, E>(env, &tuple, flow);
    }
    is_dead
}

/// Removes a flow found dead, unless somebody else is at it or was faster. Not inlined, for a stack of its own.
/// False: somebody else is at it.
#[inline(never)]
pub fn remove_dead<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>, dead: &Flow<F::Addr>) -> bool {
    remove_if_dead::<F, E>(env, tuple, dead)
}

#[inline(always)]
fn remove_if_dead<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>, dead: &Flow<F::Addr>) -> bool {
    let (last_seen_s, generation) = (dead.last_seen_s, dead.generation);
    let lock = flow_lock::<F>(tuple);
    if !env.try_lock(lock) {
        return false;
    }
    if let Some(pointer) = env.flow(tuple) {
        // SAFETY: as in `insert`.
        let flow = unsafe { &*pointer };
        if flow.last_seen_s == last_seen_s && flow.generation == generation {
            remove::<F, E>(env, tuple, flow);
        }
    }
    env.unlock(lock);
    true
}

#[inline(always)]
pub fn remove<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) {
    if flow.flags & flow_flag::SHARED != 0 {
        env.remove_reply(&reply_tuple::<F>(tuple, flow.nat_addr, flow.nat_port));
    }
    forget::<F, E>(env, tuple, flow);
}

/// Takes a flow out of the table, and off its endpoint's share.
#[inline(always)]
pub fn forget<F: Family, E: Env<F>>(env: &E, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) {
    let (endpoint, generation) = (u32::from(flow.endpoint), flow.generation);
    if !env.remove_flow(tuple) {
        return;
    }
    count::<F, E>(env, ALL, u64::MAX);
    leave::<F, E>(env, endpoint, generation);
}

/// Takes a flow off its endpoint's share: off nobody's if another endpoint has the place.
#[inline(always)]
fn leave<F: Family, E: Env<F>>(env: &E, endpoint: u32, generation: u32) {
    if env.endpoint(endpoint).is_some_and(|owner| owner.generation == generation) {
        count::<F, E>(env, endpoint, u64::MAX);
    }
}
