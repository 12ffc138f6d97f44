//! Sends a packet where its decision says.

use core::hint::cold_path;

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_UNSPEC, bpf_redir_neigh},
    helpers::generated::{bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use netpath_common::{Addr4, Address, Reason};
use netpath_ebpf::{
    decision::{Decision, Out},
    family::{Family, V4},
    packet::Packet,
};

use super::{
    event,
    family_maps::FamilyMaps,
    kernel::Kernel,
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

/// Rewrites the packet, counts it and sends it on.
///
/// # Errors
///
/// [`Reason::RewriteFailed`].
#[inline(always)]
pub(super) fn carry_out<F: FamilyMaps + StoreL3 + NextHop>(
    ctx: &TcContext,
    packet: &Packet<F>,
    decision: &Decision<F>,
) -> Result<i32, Reason> {
    if packet.l3.is_first_fragment() {
        cold_path();
        // Only here: a container that sends it is known to be who it says.
        let tuple = &packet.tuple;
        Kernel { ctx }.remember_fragment::<F>(&packet.fragment_key(), tuple.src_port, tuple.dst_port);
    }
    event::count(decision.counters[0], packet.l3.len);
    event::count(decision.counters[1], packet.l3.len);
    match decision.out {
        Out::Kernel => {
            if decision.tuple != packet.tuple {
                rewrite::<F>(ctx, packet, &decision.tuple, packet.l3.ttl)?;
            }
            Ok(PASS)
        }
        Out::Container(ifindex) => {
            rewrite::<F>(ctx, packet, &decision.tuple, packet.l3.ttl - 1)?;
            Ok(redirect_peer(ifindex))
        }
        Out::Sibling(ifindex) => {
            const PACKET_HOST: u32 = 0;
            // The host's veth end took it for somebody else's frame, by its hardware address.
            ctx.change_type(PACKET_HOST).map_err(|_| Reason::RewriteFailed)?;
            Ok(redirect_peer(ifindex))
        }
        Out::External { ifindex, next_hop } => {
            rewrite::<F>(ctx, packet, &decision.tuple, packet.l3.ttl - 1)?;
            const _: () = assert!(size_of::<bpf_redir_neigh>() == size_of::<[u32; 5]>());
            let mut params = F::redirect_params(&next_hop);
            // SAFETY: the parameters have the helper's layout and are valid for the call.
            let verdict = unsafe {
                bpf_redirect_neigh(ifindex, params.as_mut_ptr().cast(), size_of::<bpf_redir_neigh>() as i32, 0)
            };
            Ok(verdict as i32)
        }
    }
}

#[inline(always)]
pub(super) fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: no pointers.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

const _: () = assert!(TC_ACT_REDIRECT == 7);
