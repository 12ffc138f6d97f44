//! The walks over the candidates of an inside address and port: to the port that it has, or to one that it can have.

use core::hint::black_box;

use netpath_common::Config;

use crate::{
    env::Env,
    family::Family,
    fault::{self, Fault},
    flow_table::flows_of,
    mapping::{Request, is_alive, is_takeable},
    port_alloc::{CANDIDATES, Candidates, FIRST_KEPT, MODEST_FLOWS},
    published,
};

/// The port that the inside address and port have already, or 0, which no candidate is. It may be any candidate: those
/// before it may have been somebody else's when it was chosen, published, or a socket's, and be free by now. From where on
/// nobody in the bucket has a mapping stands in [`Reach`](netpath_common::Reach): most have theirs at the first candidate,
/// or none yet.
#[inline(never)]
pub(crate) fn own_port<F: Family, E: Env<F>>(env: &E, request: &Request<'_, F>, candidates: &Candidates) -> u16 {
    let Some(reach) = env.reach(candidates.bucket()) else { return 0 };
    // SAFETY: `env` returns valid pointers; see `Env`.
    let mut groups = u64::from_le_bytes(unsafe { (*reach).groups });
    for i in 0..CANDIDATES {
        if i.is_power_of_two() {
            if groups == 0 {
                break;
            }
            groups >>= 8;
        }
        let port = candidates.get(i);
        if let Some(mapping) = env.mapping(&request.key(port)) {
            // SAFETY: as above.
            let mapping = unsafe { &*mapping };
            if request.owns(mapping) && is_alive(mapping, request.now_s) {
                return port;
            }
        }
    }
    0
}

/// The first candidate that nobody has, else the first whose last connection has closed if it can still be had, else 0.
#[inline(never)]
pub(crate) fn free_port<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    request: &Request<'_, F>,
    candidates: &Candidates,
) -> u16 {
    // Ports, not numbers of candidates: to the verifier a port is any number.
    let zero = config.zero() as u16;
    let mut closed = 0;
    let mut group = 0;
    let is_modest = flows_of::<F, E>(env, request.owner.index) < MODEST_FLOWS;
    let len = if is_modest || !candidates.has_kept() { CANDIDATES } else { FIRST_KEPT };
    for i in 0..CANDIDATES {
        // Whatever the last round has found: to the verifier all its ends are one.
        closed |= zero;
        if i >= len {
            break;
        }
        if i > 1 && i.is_power_of_two() {
            group += 1;
        }
        let port = candidates.get(i);
        if let Some(mapping) = env.mapping(&request.key(port)) {
            // SAFETY: as in `own_port`.
            let mapping = unsafe { &*mapping };
            if is_alive(mapping, request.now_s) {
                if closed == 0 && is_takeable(config, mapping, request.now_s) {
                    extend_reach::<F, E>(env, candidates, i, group);
                    closed = port;
                }
                continue;
            }
        }
        if is_usable::<F, E>(env, config, request, port) {
            extend_reach::<F, E>(env, candidates, i, group);
            return port;
        }
    }
    // It may have been published, or a socket may have taken it, since its connection closed.
    if closed == 0 || is_usable::<F, E>(env, config, request, closed) { closed } else { 0 }
}

/// Has searches come as far as candidate `i`, which is in that group, before anybody has a mapping there.
#[inline(always)]
fn extend_reach<F: Family, E: Env<F>>(env: &E, candidates: &Candidates, i: u32, group: usize) {
    if i != 0
        && let Some(reach) = env.reach(candidates.bucket())
        // SAFETY: as in `own_port`.
        && let Some(byte) = unsafe { &mut *reach }.groups.get_mut(group)
    {
        *byte = 1;
    }
}

/// A port that is published or that a TCP or UDP socket of the host owns is never used (port shadow,
/// CVE-2021-3773). The kernel tells no program about SCTP's sockets.
#[inline(never)]
pub(crate) fn is_usable<F: Family, E: Env<F>>(env: &E, config: &Config, request: &Request<'_, F>, port: u16) -> bool {
    let proto = black_box(request.packet.tuple.proto) | config.zero() as u8;
    (fault::is_active::<F::Addr>(Fault::PublishedPortTaken)
        || published::find::<F, E>(env, &request.nat_addr, port, proto).is_none())
        && (proto == F::ICMP || !env.host_socket(&request.reply(port)))
}
