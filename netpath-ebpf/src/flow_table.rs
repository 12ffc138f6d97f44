//! The table of flows: insert, collect, remove.
//!
//! An expired flow is dead at once, and is removed by whoever creates the next one and comes across it on
//! the ring.

use netpath_common::{Config, Flow, Reason, Tuple, flow_flag};

use crate::{conntrack::is_expired, env::Env, family::Family, hash::Hash};

/// A flow that lies in no place of the ring.
pub const NO_RING: u32 = u32::MAX;
/// Places of the ring looked at when a flow is created.
const RING_STEPS: u32 = 8;
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
    if env.insert_flow(tuple, flow).is_err() {
        flow.ring = collect::<F, E>(env, config, now_s);
        env.insert_flow(tuple, flow).map_err(|_| Reason::FlowTableFull)?;
    }
    if flow.ring != NO_RING
        && let Some(place) = env.ring(flow.ring)
    {
        // SAFETY: `env` returns valid pointers; see `Env`.
        unsafe { *place = *tuple };
    }
    Ok(())
}

/// Finds a place in the ring, removing the expired flow that may lie there.
#[inline(never)]
fn collect<F: Family, E: Env<F>>(env: &E, config: &Config, now_s: u32) -> u32 {
    for _ in 0..RING_STEPS {
        let position = env.advance_ring(config.max_flows);
        let Some(place) = env.ring(position) else { return NO_RING };
        // SAFETY: as in `insert`.
        let tuple = unsafe { *place };
        if tuple.proto == 0 {
            return position;
        }
        let Some(pointer) = env.flow(&tuple) else { return position };
        // SAFETY: as in `insert`.
        let flow = unsafe { &*pointer };
        if flow.ring != position {
            return position;
        }
        let is_dead = is_expired(config, flow, tuple.proto, now_s)
            || env.endpoint(u32::from(flow.endpoint)).is_none_or(|e| e.generation != flow.generation);
        if is_dead {
            remove_if_dead::<F, E>(env, &tuple, flow);
            return position;
        }
    }
    NO_RING
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
    env.remove_flow(tuple);
}
