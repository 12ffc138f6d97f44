//! Writes the translation of an ICMP error: two network headers, the quoted ports and their checksums.

use aya_ebpf::programs::TcContext;
use netpath_common::{Reason, proto};
use netpath_ebpf::{
    checksum::Delta,
    family::Family,
    icmp::{Inner, Translation},
    packet::{Bytes, Packet, bounded},
};
use network_types::eth::EthHdr;

use super::{
    rewrite::{StoreL3, address_delta},
    skb::Skb,
};

/// Rewrites the ICMP error `packet`, which quotes `inner`.
///
/// # Errors
///
/// [`Reason::RewriteFailed`].
#[inline(always)]
pub(super) fn rewrite_error<F: StoreL3>(
    ctx: &TcContext,
    packet: &Packet<F>,
    inner: &Inner<F>,
    translation: &Translation<F>,
    hops: u8,
) -> Result<(), Reason> {
    let outer_check_off = packet.l3.l4_off + 2;
    let new = &translation.inner;
    rewrite_quoted_check::<F>(ctx, outer_check_off, inner, translation)?;
    let l4_off = inner.l3.l4_off;
    let (src_off, dst_off) = if inner.is_query { (l4_off + 4, l4_off + 4) } else { (l4_off, l4_off + 2) };
    replace_word(ctx, outer_check_off, src_off, inner.tuple.src_port.to_be(), new.src_port.to_be())?;
    replace_word(ctx, outer_check_off, dst_off, inner.tuple.dst_port.to_be(), new.dst_port.to_be())?;
    // The quoted network header's sum stays the same, so the outer checksum does not see it change.
    F::store_l3(ctx, packet.l3.l4_off + 8, &inner.l3, &new.src_addr, &new.dst_addr, inner.l3.ttl)?;
    F::store_l3(ctx, EthHdr::LEN, &packet.l3, &translation.src_addr, &translation.dst_addr, hops)
}

/// Adjusts the quoted packet's own transport checksum where the quotation reaches so far.
#[inline(always)]
fn rewrite_quoted_check<F: Family>(
    ctx: &TcContext,
    outer_check_off: usize,
    inner: &Inner<F>,
    translation: &Translation<F>,
) -> Result<(), Reason> {
    let new = &translation.inner;
    let check_off = inner.l3.l4_off
        + match inner.l3.proto {
            proto::TCP => 16,
            proto::UDP => 6,
            _ => 2,
        };
    let Some(check) = Skb(ctx).get::<u16>(bounded(check_off)) else { return Ok(()) };
    if check == 0 && inner.l3.proto == proto::UDP {
        return Ok(());
    }
    let ports = Delta::of_word(inner.tuple.src_port.to_be(), new.src_port.to_be())
        .plus(Delta::of_word(inner.tuple.dst_port.to_be(), new.dst_port.to_be()));
    let delta =
        if inner.is_query { ports } else { ports.plus(address_delta::<F>(&inner.l3, &new.src_addr, &new.dst_addr)) };
    replace_word(ctx, outer_check_off, check_off, check, delta.apply(check))
}

/// Replaces a 16-bit word, given as it lies in memory, under the checksum at `check_off`.
#[inline(always)]
fn replace_word(ctx: &TcContext, check_off: usize, off: usize, old: u16, new: u16) -> Result<(), Reason> {
    if old == new {
        return Ok(());
    }
    ctx.l4_csum_replace(check_off, u64::from(old), u64::from(new), 2).map_err(|_| Reason::RewriteFailed)?;
    ctx.store(off, &new, 0).map_err(|_| Reason::RewriteFailed)
}
