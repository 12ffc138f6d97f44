//! Writes the translation of an ICMP error: two network headers, the quoted ports and their checksums.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use netpath_common::{Reason, Tuple, proto};
use netpath_ebpf::{
    checksum::Delta,
    family::Family,
    icmp::Inner,
    packet::{Bytes, bounded},
};
use network_types::eth::EthHdr;

use super::{
    frame::{Context as _, Frame},
    hand::Hand,
    rewrite::{StoreL3, address_delta},
};

/// Rewrites the ICMP error in hand as planned. Not inlined, for a stack of its own.
///
/// # Errors
///
/// [`Reason::RewriteFailed`].
#[inline(never)]
pub(super) fn rewrite_error<F: StoreL3>(ctx: &TcContext, hand: &Hand<F>, hops: u8) -> Result<(), Reason> {
    let Hand { packet, inner, quoted: new, plan, .. } = hand;
    let outer_check_off = packet.l3.l4_off + 2;
    rewrite_quoted_check::<F>(ctx, outer_check_off, inner, new)?;
    let l4_off = inner.l3.l4_off;
    let (src_off, dst_off) = if inner.is_query { (l4_off + 4, l4_off + 4) } else { (l4_off, l4_off + 2) };
    replace_word(ctx, outer_check_off, src_off, inner.tuple.src_port.to_be(), new.src_port.to_be())?;
    replace_word(ctx, outer_check_off, dst_off, inner.tuple.dst_port.to_be(), new.dst_port.to_be())?;
    F::store_quoted(ctx, outer_check_off, packet.l3.l4_off + 8, &inner.l3, &new.src_addr, &new.dst_addr)?;
    if F::ICMP_HAS_PSEUDO_HEADER {
        let delta = address_delta::<F>(&packet.l3, &plan.tuple.src_addr, &plan.tuple.dst_addr);
        ctx.adjust_check(outer_check_off, delta, u64::from(BPF_F_PSEUDO_HDR))?;
    }
    F::store_l3(ctx, EthHdr::LEN, &packet.l3, &plan.tuple.src_addr, &plan.tuple.dst_addr, hops)
}

/// Adjusts the quoted packet's own transport checksum where the quotation reaches so far.
#[inline(always)]
fn rewrite_quoted_check<F: Family>(
    ctx: &TcContext,
    outer_check_off: usize,
    inner: &Inner<F>,
    new: &Tuple<F::Addr>,
) -> Result<(), Reason> {
    if inner.l3.proto == proto::SCTP {
        // Its checksum does not cover the addresses.
        return Ok(());
    }
    let check_off = inner.l3.l4_off
        + match inner.l3.proto {
            proto::TCP => 16,
            proto::UDP => 6,
            _ => 2,
        };
    let Some(check) = Frame(ctx).get::<u16>(bounded(check_off)) else { return Ok(()) };
    if check == 0 && inner.l3.proto == proto::UDP {
        return Ok(());
    }
    let ports = Delta::of_word(inner.tuple.src_port.to_be(), new.src_port.to_be())
        .plus(Delta::of_word(inner.tuple.dst_port.to_be(), new.dst_port.to_be()));
    let has_pseudo_header = !inner.is_query || F::ICMP_HAS_PSEUDO_HEADER;
    let delta =
        if has_pseudo_header { ports.plus(address_delta::<F>(&inner.l3, &new.src_addr, &new.dst_addr)) } else { ports };
    replace_word(ctx, outer_check_off, check_off, check, delta.apply(check))
}

/// Replaces a 16-bit word, given as it lies in memory, under the checksum at `check_off`.
#[inline(always)]
fn replace_word(ctx: &TcContext, check_off: usize, off: usize, old: u16, new: u16) -> Result<(), Reason> {
    if old == new {
        return Ok(());
    }
    ctx.l4_csum_replace(check_off, u64::from(old), u64::from(new), 2).map_err(|_| Reason::RewriteFailed)?;
    ctx.write(off, &new, 0)
}
