//! Neighbour discovery from a container: reads what [`netpath_ebpf::nd`] decides on.

use core::hint::cold_path;

use aya_ebpf::programs::TcContext;
use netpath_common::Reason;
use netpath_ebpf::{decision::Decision, family::V6, nd};
use network_types::eth::EthHdr;

use super::{frame::Frame, hand::Hand, kernel::Kernel, skb};

/// Decides on signalling that passes, and on nothing else.
///
/// # Errors
///
/// As [`nd::passes`].
#[inline(always)]
pub(super) fn decide(ctx: &TcContext, hand: &mut Hand<V6>) -> Result<(), Reason> {
    if nd::is_concerned(&hand.packet) {
        cold_path();
        decide_signal(ctx, hand)?;
    }
    Ok(())
}

/// Not inlined, for a stack of its own.
#[inline(never)]
fn decide_signal(ctx: &TcContext, hand: &mut Hand<V6>) -> Result<(), Reason> {
    let Hand { packet, arrival, .. } = &*hand;
    skb::linearize(ctx, packet.l3.l4_off + nd::MAX_LEN);
    if nd::passes(&Kernel { ctx }, &Frame(ctx), EthHdr::LEN, packet, arrival)? {
        hand.plan.set(&Decision::pass(packet.tuple));
    }
    Ok(())
}
