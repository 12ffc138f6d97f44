//! Sends a packet where its decision says.

use core::hint::cold_path;

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_UNSPEC, bpf_redir_neigh},
    helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use netpath_common::{Addr4, Addr6, Address, Reason, config_flag};
use netpath_ebpf::{
    decision::Out,
    family::{Family, V4, V6},
    fault::{self, Fault},
    packet::Packet,
};

use super::{
    event,
    family_maps::FamilyMaps,
    hand::Hand,
    icmp::rewrite_error,
    maps,
    rewrite::{StoreL3, rewrite},
};

/// Not our verdict: the next program, then the kernel.
pub(super) const PASS: i32 = TC_ACT_UNSPEC;

/// How a family names its next hop.
pub(super) trait NextHop: Family {
    /// A `bpf_redir_neigh` as words: family, then address.
    fn redirect_params(next_hop: &Self::Addr) -> [u32; 5];
}

impl NextHop for V4 {
    #[inline(always)]
    fn redirect_params(next_hop: &Addr4) -> [u32; 5] {
        const AF_INET: u32 = 2;
        [AF_INET, next_hop.words()[0], 0, 0, 0]
    }
}

impl NextHop for V6 {
    #[inline(always)]
    fn redirect_params(next_hop: &Addr6) -> [u32; 5] {
        const AF_INET6: u32 = 10;
        let words = next_hop.words();
        [AF_INET6, words[0], words[1], words[2], words[3]]
    }
}

/// Does with the packet in hand what is planned: rewrites it, counts it and sends it on.
///
/// # Errors
///
/// [`Reason::RewriteFailed`].
#[inline(always)]
pub(super) fn carry_out<F: FamilyMaps + StoreL3 + NextHop>(ctx: &TcContext, hand: &Hand<F>) -> Result<i32, Reason> {
    match rewrite_and_send(ctx, hand) {
        REFUSED => Err(Reason::RewriteFailed),
        ACROSS => go_across(ctx, hand),
        verdict => Ok(verdict),
    }
}

/// Instead of a verdict: the packet could not be rewritten.
const REFUSED: i32 = i32::MIN;
/// Instead of a verdict: the packet goes [`across`](go_across).
const ACROSS: i32 = i32::MIN + 1;

/// Not inlined, for a stack of its own, and therefore with a result that fits into one register.
#[inline(never)]
fn rewrite_and_send<F: FamilyMaps + StoreL3 + NextHop>(ctx: &TcContext, hand: &Hand<F>) -> i32 {
    let Hand { packet, plan, .. } = hand;
    event::count(plan.counters[0], packet.l3.len);
    event::count(plan.counters[1], packet.l3.len);
    let out = plan.out();
    let hops = match out {
        Out::Kernel | Out::Sibling(_) => packet.l3.ttl,
        Out::Container(_) | Out::External { .. } => packet.l3.ttl - 1,
        Out::Across(_) => hops_across(packet),
    };
    let hops = if fault::is_active::<F::Addr>(Fault::HopsKept) { packet.l3.ttl } else { hops };
    if (hops != packet.l3.ttl || plan.tuple != packet.tuple) && rewrite::<F>(ctx, packet, &plan.tuple, hops).is_err() {
        return REFUSED;
    }
    match out {
        Out::Kernel => PASS,
        Out::Container(ifindex) => redirect_peer(ifindex),
        Out::Sibling(ifindex) => {
            if take(ctx).is_err() {
                return REFUSED;
            }
            redirect_peer(ifindex)
        }
        Out::Across(_) => ACROSS,
        Out::External { ifindex, next_hop } => {
            const _: () = assert!(size_of::<bpf_redir_neigh>() == size_of::<[u32; 5]>());
            let mut params = F::redirect_params(&next_hop);
            // SAFETY: the parameters have the helper's layout and are valid for the call.
            let verdict = unsafe {
                bpf_redirect_neigh(ifindex, params.as_mut_ptr().cast(), size_of::<bpf_redir_neigh>() as i32, 0)
            };
            verdict as i32
        }
    }
}

/// The same with an ICMP error, whose quotation is rewritten, too.
///
/// # Errors
///
/// As [`carry_out`].
#[inline(always)]
pub(super) fn carry_out_error<F: FamilyMaps + StoreL3>(ctx: &TcContext, hand: &Hand<F>) -> Result<i32, Reason> {
    let hops = hand.packet.l3.ttl;
    match hand.plan.out() {
        Out::Container(ifindex) => {
            rewrite_error(ctx, hand, hops - 1)?;
            Ok(redirect_peer(ifindex))
        }
        Out::Across(_) => {
            rewrite_error(ctx, hand, hops_across(&hand.packet))?;
            go_across(ctx, hand)
        }
        Out::Kernel | Out::Sibling(_) | Out::External { .. } => {
            rewrite_error(ctx, hand, hops)?;
            Ok(PASS)
        }
    }
}

/// The hops a packet from one container to another has left. Who sent it to the host itself need not allow
/// for a hop.
#[inline(always)]
fn hops_across<F: Family>(packet: &Packet<F>) -> u8 {
    packet.l3.ttl.saturating_sub(1).max(1)
}

/// Sends a packet from a container into the one that is planned, as the router between their networks would.
/// The kernel would not: it comes from an address of the host.
///
/// # Errors
///
/// [`Reason::EndpointGone`], [`Reason::RewriteFailed`].
#[inline(always)]
fn go_across<F: Family>(ctx: &TcContext, hand: &Hand<F>) -> Result<i32, Reason> {
    cold_path();
    let Out::Across(index) = hand.plan.out() else { return Ok(PASS) };
    let endpoint = maps::ENDPOINTS.get(index).ok_or(Reason::EndpointGone)?;
    let macs = if fault::is_active::<F::Addr>(Fault::WrongNextHop) {
        [endpoint.gateway_mac, endpoint.gateway_mac]
    } else {
        [endpoint.mac, endpoint.gateway_mac]
    };
    ctx.store(0, &macs, 0).map_err(|_| Reason::RewriteFailed)?;
    event::count(endpoint.counter, hand.packet.l3.len);
    let shortcut = maps::CONFIG.get(0).is_some_and(|config| config.flags & config_flag::SHORTCUTS != 0);
    // Without a bridge there is no port to come out of: the guard at the host end would take it for a stranger's.
    if shortcut || endpoint.gateway_ifindex == endpoint.ifindex {
        take(ctx)?;
        return Ok(redirect_peer(endpoint.ifindex));
    }
    // SAFETY: no pointers.
    Ok(unsafe { bpf_redirect(endpoint.ifindex, 0) as i32 })
}

/// Makes it our frame: the host's veth end took it for somebody else's, by its hardware address.
#[inline(always)]
fn take(ctx: &TcContext) -> Result<(), Reason> {
    const PACKET_HOST: u32 = 0;
    ctx.change_type(PACKET_HOST).map_err(|_| Reason::RewriteFailed)
}

#[inline(always)]
fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: no pointers.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

const _: () = assert!(TC_ACT_REDIRECT == 7);
