//! ICMP errors: whether one is intact, and writing its translation: two network headers, the quoted ports and their
//! checksums.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::BPF_F_PSEUDO_HDR,
    helpers::generated::{bpf_csum_diff, bpf_skb_load_bytes},
    programs::TcContext,
};
use netpath_common::{Address as _, Reason, Tuple, proto};
use netpath_ebpf::{
    checksum::{Delta, check_of},
    family::Family,
    fault::{self, Fault},
    icmp::Inner,
    packet::{Bytes, Packet, bounded},
};
use network_types::eth::EthHdr;

use super::{
    frame::{Context as _, Frame, some_bytes},
    hand::Hand,
    maps,
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
    rewrite_quoted_check(ctx, packet, inner, new)?;
    let l4_off = inner.l3.l4_off;
    let (src_off, dst_off) = if inner.is_query { (l4_off + 4, l4_off + 4) } else { (l4_off, l4_off + 2) };
    if !fault::is_active::<F::Addr>(Fault::QuotedPortKept) {
        replace_word::<F>(ctx, outer_check_off, src_off, inner.tuple.src_port.to_be(), new.src_port.to_be())?;
        replace_word::<F>(ctx, outer_check_off, dst_off, inner.tuple.dst_port.to_be(), new.dst_port.to_be())?;
    }
    if !fault::is_active::<F::Addr>(Fault::QuotedAddressKept) {
        F::store_quoted(ctx, outer_check_off, packet.l3.l4_off + 8, &inner.l3, &new.src_addr, &new.dst_addr)?;
    }
    if F::ICMP_HAS_PSEUDO_HEADER {
        let delta = address_delta::<F>(&packet.l3, &plan.tuple.src_addr, &plan.tuple.dst_addr);
        ctx.adjust_check(outer_check_off, delta, u64::from(BPF_F_PSEUDO_HDR))?;
    }
    F::store_l3(ctx, EthHdr::LEN, &packet.l3, &plan.tuple.src_addr, &plan.tuple.dst_addr, hops)
}

/// Bytes that are summed up at a time: more, `bpf_csum_diff` does not take on all kernels (Linux 6.12 has 512).
const CHUNK: usize = 512;
/// Longer errors there are none: a router quotes what fits into 576 bytes of IPv4 (RFC 1812, 4.3.2.3) or 1,280 of IPv6
/// (RFC 4443, 2.4), and not more than an Ethernet frame takes.
const MAX_CHUNKS: usize = 3;

/// Part of a message, and zeros up to a multiple of four bytes behind it.
pub(super) type Chunk = [u8; CHUNK + 4];

/// Whether the checksum of an ICMP error is right (RFC 5508, REQ-3): translating would make a new one out of it. One that
/// is too long for that is not looked at. Not inlined, for a stack of its own.
#[inline(never)]
pub(super) fn is_intact<F: Family>(ctx: &TcContext, packet: &Packet<F>) -> bool {
    let len = packet.l3.len.wrapping_sub((packet.l3.l4_off - EthHdr::LEN) as u32) as usize & 0xffff;
    if len > CHUNK * MAX_CHUNKS {
        return true;
    }
    // Or the compiler counts the chunks by `len` alone, whose limit older verifiers (Linux 6.1) lose sight of when it lies
    // on the stack: they walk through the loop until they give up.
    let len = black_box(len);
    let Some(chunk) = maps::CHUNK.get_ptr_mut(0) else { return false };
    let mut sum = 0;
    if F::ICMP_HAS_PSEUDO_HEADER {
        let addrs = packet.l3.src_addr.word_sum() + packet.l3.dst_addr.word_sum();
        sum = addrs + u32::from(u16::from(F::ICMP).to_be()) + u32::from((len as u16).to_be());
    }
    let mut summed = 0;
    while summed < CHUNK * MAX_CHUNKS && summed < len {
        let Some(part) = sum_of(ctx, packet.l3.l4_off + summed, len - summed, chunk) else { return false };
        sum += part;
        summed += CHUNK;
    }
    check_of(sum) == 0
}

/// The sum of the next bytes of `left`, at `off`, not more than a chunk; at most 0x1fffe.
#[inline(always)]
fn sum_of(ctx: &TcContext, off: usize, left: usize, chunk: *mut Chunk) -> Option<u32> {
    let len = some_bytes::<CHUNK>(left.min(CHUNK))?;
    let bytes = chunk.cast::<u8>();
    let padded = (len + 3) & 0x3fc;
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU. A chunk has room for `padded`
    // bytes, which is not more than `CHUNK`, and for three zeros behind `len` bytes.
    let sum = unsafe {
        if bpf_skb_load_bytes(ctx.skb.skb.cast(), off as u32, bytes.cast(), len as u32) != 0 {
            return None;
        }
        *bytes.add(len) = 0;
        *bytes.add(len + 1) = 0;
        *bytes.add(len + 2) = 0;
        bpf_csum_diff(ptr::null_mut(), 0, bytes.cast(), padded as u32, 0)
    };
    let sum = sum as u32;
    Some((sum & 0xffff) + (sum >> 16))
}

/// Adjusts the quoted packet's own transport checksum where the quotation reaches so far. What follows the error in its
/// frame is no part of the quotation.
#[inline(always)]
fn rewrite_quoted_check<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F>,
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
    if check_off + size_of::<u16>() > EthHdr::LEN + packet.l3.len as usize {
        return Ok(());
    }
    let Some(check) = Frame(ctx).get::<u16>(bounded(check_off)) else { return Ok(()) };
    if check == 0 && inner.l3.proto == proto::UDP {
        return Ok(());
    }
    let ports = Delta::of_word(inner.tuple.src_port.to_be(), new.src_port.to_be())
        .plus(Delta::of_word(inner.tuple.dst_port.to_be(), new.dst_port.to_be()));
    let has_pseudo_header = !inner.is_query || F::ICMP_HAS_PSEUDO_HEADER;
    let delta =
        if has_pseudo_header { ports.plus(address_delta::<F>(&inner.l3, &new.src_addr, &new.dst_addr)) } else { ports };
    replace_word::<F>(ctx, packet.l3.l4_off + 2, check_off, check, delta.apply(check))
}

/// Replaces a 16-bit word, given as it lies in memory, under the checksum at `check_off`.
#[inline(always)]
fn replace_word<F: Family>(ctx: &TcContext, check_off: usize, off: usize, old: u16, new: u16) -> Result<(), Reason> {
    if old == new {
        return Ok(());
    }
    if !fault::is_active::<F::Addr>(Fault::ErrorChecksumKept) {
        ctx.l4_csum_replace(check_off, u64::from(old), u64::from(new), 2).map_err(|_| Reason::RewriteFailed)?;
    }
    ctx.write(off, &new, 0)
}
