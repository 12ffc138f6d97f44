//! Answers a container whose new flow was refused: "communication administratively prohibited" (RFC 5508, REQ-8).
//!
//! The refused packet becomes the answer. One that waits for its checksum (CHECKSUM_PARTIAL) goes on waiting: veths take
//! that for a right one, and compute it only where their transmit offload is off. The container then finds the error
//! wrong and drops it, as if none had been sent.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT},
    helpers::generated::{bpf_csum_diff, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use netpath_common::{Addr4, Addr6, Address, Network};
use netpath_ebpf::{
    checksum::check_of,
    env::Env,
    family::{Family, V4, V6},
    flow_table::may_answer,
    packet::Packet,
};
use network_types::eth::EthHdr;

use super::{
    family_maps::FamilyMaps,
    frame::{Context as _, some_bytes},
    kernel::Kernel,
    maps,
};

/// Bytes of the refused packet that are quoted, at most: network and transport header with their options in nearly all
/// cases, and more than the 8 bytes of the latter that RFC 792 asks for in all.
const MAX_QUOTED: usize = 124;
const HEADER_LEN: usize = 8;
/// What the kernel gives its own ICMP errors.
const HOPS: u8 = 64;
const INTERNETWORK_CONTROL: u8 = 0xc0;

/// An ICMP error that is being made.
#[repr(C)]
pub(super) struct Draft {
    icmp_type: u8,
    code: u8,
    check: u16,
    unused: u32,
    quoted: [u8; MAX_QUOTED + 8],
}

/// How a family says that a packet was refused.
pub(super) trait Refusal: FamilyMaps {
    /// Type and code.
    const PROHIBITED: (u8, u8);
    type Header: Copy;

    fn gateway(network: &Network) -> Self::Addr;
    /// The network header of an ICMP message of `len` bytes.
    fn header(src_addr: Self::Addr, dst_addr: Self::Addr, len: u16) -> Self::Header;
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Header4 {
    words: [u16; 6],
    src_addr: Addr4,
    dst_addr: Addr4,
}

impl Refusal for V4 {
    /// RFC 1812, 5.2.7.1.
    const PROHIBITED: (u8, u8) = (3, 13);
    type Header = Header4;

    #[inline(always)]
    fn gateway(network: &Network) -> Addr4 {
        network.gateway4
    }

    #[inline(always)]
    fn header(src_addr: Addr4, dst_addr: Addr4, len: u16) -> Header4 {
        const DONT_FRAGMENT: u16 = 0x4000;
        let len = len + Self::HEADER_LEN as u16;
        let (version, hops) = ([0x45, INTERNETWORK_CONTROL], [HOPS, Self::ICMP]);
        let mut words =
            [u16::from_ne_bytes(version), len.to_be(), 0, DONT_FRAGMENT.to_be(), u16::from_ne_bytes(hops), 0];
        let sum = u32::from(words[0]) + u32::from(words[1]) + u32::from(words[3]) + u32::from(words[4]);
        words[5] = check_of(sum + src_addr.word_sum() + dst_addr.word_sum());
        Header4 { words, src_addr, dst_addr }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Header6 {
    version: u32,
    len: u16,
    next_header: u8,
    hops: u8,
    src_addr: Addr6,
    dst_addr: Addr6,
}

impl Refusal for V6 {
    /// RFC 4443, 3.1.
    const PROHIBITED: (u8, u8) = (1, 1);
    type Header = Header6;

    #[inline(always)]
    fn gateway(network: &Network) -> Addr6 {
        network.gateway6.by_words()
    }

    #[inline(always)]
    fn header(src_addr: Addr6, dst_addr: Addr6, len: u16) -> Header6 {
        let version = u32::from_ne_bytes([0x60, 0, 0, 0]);
        Header6 { version, len: len.to_be(), next_header: Self::ICMP, hops: HOPS, src_addr, dst_addr }
    }
}

/// Sends the packet in hand back as an ICMP error, or nothing if its sender has been told often enough.
#[inline(always)]
pub(super) fn refusal<F: Refusal>(ctx: &TcContext) -> i32 {
    let Some(hand) = F::hand() else { return TC_ACT_SHOT };
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
    let packet = unsafe { &(*hand).packet };
    answer(ctx, packet).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn answer<F: Refusal>(ctx: &TcContext, packet: &Packet<F>) -> Option<i32> {
    let env = Kernel { ctx };
    let container = &packet.tuple.src_addr;
    let index = Env::<F>::endpoint_index(&env, container)?;
    let endpoint = maps::ENDPOINTS.get(index)?;
    let network = maps::NETWORKS.get(endpoint.network)?;
    let gateway = F::gateway(network);
    if gateway == F::Addr::UNSPECIFIED || !may_answer::<F, _>(&env, index, Env::<F>::now_s(&env)) {
        return None;
    }
    let draft = maps::DRAFT.get_ptr_mut(0)?;
    // SAFETY: as in `refusal`.
    let draft = unsafe { &mut *draft };
    let quoted_len = quote(ctx, draft, packet.l3.len)?;
    let len = HEADER_LEN + quoted_len;
    (draft.icmp_type, draft.code) = F::PROHIBITED;
    draft.unused = 0;
    draft.check = 0;
    draft.check = check::<F>(draft, len, gateway.word_sum() + container.word_sum())?;
    let header = F::header(gateway, container.by_words(), len as u16);
    let ethernet = EthHdr { dst_addr: endpoint.mac, src_addr: endpoint.gateway_mac, ether_type: F::ETHER_TYPE.to_be() };
    let total = EthHdr::LEN + F::HEADER_LEN + len;
    // SAFETY: the context is valid; nothing is held that points into the packet.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, total as u32, 0) } != 0 {
        return None;
    }
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    ctx.write(0, &ethernet, flags).ok()?;
    ctx.write(EthHdr::LEN, &header, flags).ok()?;
    let offset = (EthHdr::LEN + F::HEADER_LEN) as u32;
    // SAFETY: the draft is longer than any message, and the helper checks that the frame is long enough.
    let stored = unsafe {
        bpf_skb_store_bytes(ctx.skb.skb.cast(), offset, ptr::from_mut(draft).cast_const().cast(), len as u32, flags)
    };
    if stored != 0 {
        return None;
    }
    // SAFETY: no pointers.
    Some(unsafe { bpf_redirect(endpoint.ifindex, 0) as i32 })
}

/// Copies the start of the packet, which has `len` bytes, into the draft, with zeros behind it; says how many.
#[inline(always)]
fn quote(ctx: &TcContext, draft: &mut Draft, len: u32) -> Option<usize> {
    let len = some_bytes::<MAX_QUOTED>((len as usize).min(MAX_QUOTED))?;
    let quoted = draft.quoted.as_mut_ptr();
    // SAFETY: `len` is less than the array's length by the checks above.
    let loaded = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), EthHdr::LEN as u32, quoted.cast(), len as u32) };
    if loaded != 0 {
        return None;
    }
    // Up to the next multiple of four, which the checksum is made over.
    let mut i = len;
    while i < len + 3 {
        // SAFETY: the array has 8 bytes more than `MAX_QUOTED`.
        unsafe { *quoted.add(i) = 0 };
        i += 1;
    }
    Some(len)
}

/// The checksum of the draft's first `len` bytes. `addrs` is the sum of both addresses' 16-bit words.
#[inline(always)]
fn check<F: Family>(draft: &mut Draft, len: usize, addrs: u32) -> Option<u16> {
    let padded = ((black_box(len) & 0xff) + 3) & !3;
    if padded > size_of::<Draft>() {
        return None;
    }
    // SAFETY: so many bytes are in the draft, by the check above.
    let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, ptr::from_mut(draft).cast(), padded as u32, 0) };
    if sum < 0 {
        return None;
    }
    let sum = sum as u32;
    let message = (sum & 0xffff) + (sum >> 16);
    let pseudo_header = if F::ICMP_HAS_PSEUDO_HEADER {
        addrs + u32::from(u16::from(F::ICMP).to_be()) + u32::from((len as u16).to_be())
    } else {
        0
    };
    Some(check_of(message + pseudo_header))
}
