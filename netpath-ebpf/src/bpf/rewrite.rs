//! Writes a decision into the packet.
//!
//! The transport checksum goes through `bpf_l4_csum_replace`, which knows CHECKSUM_PARTIAL and
//! CHECKSUM_COMPLETE: address deltas with BPF_F_PSEUDO_HDR, port deltas in a call of their own without
//! it.
//!
//! CHECKSUM_COMPLETE is a sum over the network header, too. With BPF_F_PSEUDO_HDR the helper takes the
//! transport checksum's change into it, but not that of the addresses. An IPv4 header is written with its own
//! checksum adjusted, so its sum does not change. An IPv6 header has none and is written with
//! BPF_F_RECOMPUTE_CSUM, which takes addresses and hop count into the sum. (BPF_F_IPV6, Linux 6.16, says instead
//! that addresses and transport checksum cancel. The hop count would still be missing.)

use core::hint::cold_path;

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use netpath_common::{Addr4, Addr6, Address, Reason, Tuple, proto};
use netpath_ebpf::{
    checksum::Delta,
    family::{Family, V4, V6},
    fault::{self, Fault},
    packet::{Kind, L3, Packet},
};
use network_types::eth::EthHdr;

use super::frame::Context;

/// How a family's network header is written.
pub(super) trait StoreL3: Family {
    /// Writes addresses and hop count into the network header at `l3_off`, as `l3` describes it.
    fn store_l3<C: Context>(
        ctx: &C,
        l3_off: usize,
        l3: &L3<Self::Addr>,
        src_addr: &Self::Addr,
        dst_addr: &Self::Addr,
        hops: u8,
    ) -> Result<(), Reason>;

    /// Writes addresses into the header at `l3_off` of a packet that an ICMP error quotes. The error's own
    /// checksum, at `check_off`, covers it.
    fn store_quoted<C: Context>(
        ctx: &C,
        check_off: usize,
        l3_off: usize,
        l3: &L3<Self::Addr>,
        src_addr: &Self::Addr,
        dst_addr: &Self::Addr,
    ) -> Result<(), Reason>;

    /// Writes addresses, hop count and the ports that follow the packet's own header.
    fn store_l3_and_ports<C: Context>(
        ctx: &C,
        packet: &Packet<Self>,
        tuple: &Tuple<Self::Addr>,
        hops: u8,
    ) -> Result<(), Reason>;
}

/// All of an IPv6 header behind the flow label.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv6Tail {
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    src_addr: Addr6,
    dst_addr: Addr6,
}

impl Ipv6Tail {
    const OFF: usize = 4;
    const HOP_LIMIT_OFF: usize = 7;
    const ADDRS_OFF: usize = 8;
}

/// Writes addresses and hop count into a header that extension headers may follow.
#[inline(always)]
fn store_v6<C: Context>(
    ctx: &C,
    l3_off: usize,
    l3: &L3<Addr6>,
    src_addr: &Addr6,
    dst_addr: &Addr6,
    hops: u8,
) -> Result<(), Reason> {
    if l3.l4_off == l3_off + V6::HEADER_LEN {
        return store_plain_v6(ctx, l3_off, l3, src_addr, dst_addr, hops);
    }
    cold_path();
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    ctx.write(l3_off + Ipv6Tail::HOP_LIMIT_OFF, &hops, flags)?;
    ctx.write(l3_off + Ipv6Tail::ADDRS_OFF, &[*src_addr, *dst_addr], flags)
}

/// The same where the transport header follows at once: the packet's protocol is the next header then.
#[inline(always)]
fn store_plain_v6<C: Context>(
    ctx: &C,
    l3_off: usize,
    l3: &L3<Addr6>,
    src_addr: &Addr6,
    dst_addr: &Addr6,
    hops: u8,
) -> Result<(), Reason> {
    let tail = Ipv6Tail {
        payload_length: (l3.len as u16).wrapping_sub(V6::HEADER_LEN as u16).to_be(),
        next_header: l3.proto,
        hop_limit: hops,
        src_addr: *src_addr,
        dst_addr: *dst_addr,
    };
    ctx.write(l3_off + Ipv6Tail::OFF, &tail, u64::from(BPF_F_RECOMPUTE_CSUM))
}

impl StoreL3 for V6 {
    #[inline(always)]
    fn store_l3<C: Context>(
        ctx: &C,
        l3_off: usize,
        l3: &L3<Addr6>,
        src_addr: &Addr6,
        dst_addr: &Addr6,
        hops: u8,
    ) -> Result<(), Reason> {
        store_v6(ctx, l3_off, l3, src_addr, dst_addr, hops)
    }

    #[inline(always)]
    fn store_quoted<C: Context>(
        ctx: &C,
        check_off: usize,
        l3_off: usize,
        l3: &L3<Addr6>,
        src_addr: &Addr6,
        dst_addr: &Addr6,
    ) -> Result<(), Reason> {
        // Both changes cancel in the packet's sum.
        let delta = address_delta::<V6>(l3, src_addr, dst_addr);
        ctx.adjust_check(check_off, delta, 0)?;
        ctx.write(l3_off + Ipv6Tail::ADDRS_OFF, &[*src_addr, *dst_addr], 0)
    }

    #[inline(always)]
    fn store_l3_and_ports<C: Context>(
        ctx: &C,
        packet: &Packet<V6>,
        tuple: &Tuple<Addr6>,
        hops: u8,
    ) -> Result<(), Reason> {
        store_plain_v6(ctx, EthHdr::LEN, &packet.l3, &tuple.src_addr, &tuple.dst_addr, hops)?;
        // In a write of their own: their change cancels with that of the transport checksum.
        if packet.tuple.src_port == tuple.src_port && packet.tuple.dst_port == tuple.dst_port {
            return Ok(());
        }
        ctx.write(EthHdr::LEN + V6::HEADER_LEN, &[tuple.src_port.to_be(), tuple.dst_port.to_be()], 0)
    }
}

/// The second half of an IPv4 header.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv4Tail {
    ttl: u8,
    proto: u8,
    check: u16,
    src_addr: Addr4,
    dst_addr: Addr4,
}

/// The same and the ports behind it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv4TailAndPorts {
    tail: Ipv4Tail,
    /// Network byte order.
    ports: [u16; 2],
}

impl Ipv4Tail {
    const OFF: usize = 8;

    #[inline(always)]
    fn new(l3: &L3<Addr4>, src_addr: &Addr4, dst_addr: &Addr4, hops: u8) -> Self {
        let hops_delta = Delta::of_word(u16::from_ne_bytes([l3.ttl, l3.proto]), u16::from_ne_bytes([hops, l3.proto]));
        let check = address_delta::<V4>(l3, src_addr, dst_addr).plus(hops_delta).apply(l3.check);
        Self { ttl: hops, proto: l3.proto, check, src_addr: *src_addr, dst_addr: *dst_addr }
    }
}

impl StoreL3 for V4 {
    #[inline(always)]
    fn store_l3<C: Context>(
        ctx: &C,
        l3_off: usize,
        l3: &L3<Addr4>,
        src_addr: &Addr4,
        dst_addr: &Addr4,
        hops: u8,
    ) -> Result<(), Reason> {
        let tail = Ipv4Tail::new(l3, src_addr, dst_addr, hops);
        ctx.write(l3_off + Ipv4Tail::OFF, &tail, 0)
    }

    #[inline(always)]
    fn store_quoted<C: Context>(
        ctx: &C,
        _check_off: usize,
        l3_off: usize,
        l3: &L3<Addr4>,
        src_addr: &Addr4,
        dst_addr: &Addr4,
    ) -> Result<(), Reason> {
        // The header's sum stays the same, so the error's checksum does not see it change.
        Self::store_l3(ctx, l3_off, l3, src_addr, dst_addr, l3.ttl)
    }

    #[inline(always)]
    fn store_l3_and_ports<C: Context>(
        ctx: &C,
        packet: &Packet<V4>,
        tuple: &Tuple<Addr4>,
        hops: u8,
    ) -> Result<(), Reason> {
        let tail = Ipv4Tail::new(&packet.l3, &tuple.src_addr, &tuple.dst_addr, hops);
        let both = Ipv4TailAndPorts { tail, ports: [tuple.src_port.to_be(), tuple.dst_port.to_be()] };
        ctx.write(EthHdr::LEN + Ipv4Tail::OFF, &both, 0)
    }
}

/// What changing the addresses does to a checksum over them.
#[inline(always)]
pub(super) fn address_delta<F: Family>(l3: &L3<F::Addr>, src_addr: &F::Addr, dst_addr: &F::Addr) -> Delta {
    let words = F::Addr::LEN as u32 / 2;
    Delta::of_sums(l3.src_addr.word_sum(), src_addr.word_sum(), words).plus(Delta::of_sums(
        l3.dst_addr.word_sum(),
        dst_addr.word_sum(),
        words,
    ))
}

/// Gives the packet the addresses and ports of `tuple`, and `hops` as TTL.
///
/// # Errors
///
/// [`Reason::RewriteFailed`]; the packet is then in no state to go on.
#[inline(always)]
pub(super) fn rewrite<F: StoreL3>(
    ctx: &impl Context,
    packet: &Packet<F>,
    tuple: &Tuple<F::Addr>,
    hops: u8,
) -> Result<(), Reason> {
    let has_ports = packet.kind == Kind::Tcp || packet.kind == Kind::Udp;
    if has_ports && packet.l3.l4_off == EthHdr::LEN + F::HEADER_LEN {
        // Nearly every packet.
        return rewrite_plain(ctx, packet, tuple, hops);
    }
    if packet.kind == Kind::Sctp {
        // Its checksum does not cover the addresses, but the ports.
        if (tuple.src_port, tuple.dst_port) != (packet.tuple.src_port, packet.tuple.dst_port) {
            return Err(Reason::RewriteFailed);
        }
    } else if *tuple != packet.tuple && packet.kind != Kind::LaterFragment {
        rewrite_l4::<F>(ctx, packet, tuple)?;
    }
    F::store_l3(ctx, EthHdr::LEN, &packet.l3, &tuple.src_addr, &tuple.dst_addr, hops)
}

/// The same for a packet of TCP or UDP without options, whose ports follow the addresses.
///
/// # Errors
///
/// As in [`rewrite`].
#[inline(always)]
pub(super) fn rewrite_plain<F: StoreL3>(
    ctx: &impl Context,
    packet: &Packet<F>,
    tuple: &Tuple<F::Addr>,
    hops: u8,
) -> Result<(), Reason> {
    if *tuple != packet.tuple {
        adjust_check::<F>(ctx, packet, tuple, &L4Layout::of(packet))?;
    }
    F::store_l3_and_ports(ctx, packet, tuple, hops)
}

/// Where the transport header keeps what is rewritten.
struct L4Layout {
    check_off: usize,
    src_port_off: usize,
    dst_port_off: usize,
    has_pseudo_header: bool,
    flags: u64,
}

impl L4Layout {
    #[inline(always)]
    fn of<F: Family>(packet: &Packet<F>) -> Self {
        let l4_off = packet.l3.l4_off;
        match packet.l3.proto {
            proto::TCP => Self {
                check_off: l4_off + 16,
                src_port_off: l4_off,
                dst_port_off: l4_off + 2,
                has_pseudo_header: true,
                flags: 0,
            },
            proto::UDP => Self {
                check_off: l4_off + 6,
                src_port_off: l4_off,
                dst_port_off: l4_off + 2,
                has_pseudo_header: true,
                // RFC 768: 0 means no checksum and stays so; a computed 0 is sent as 0xffff.
                flags: if fault::is_active::<F::Addr>(Fault::ZeroChecksumFilled) {
                    0
                } else {
                    u64::from(BPF_F_MARK_MANGLED_0)
                },
            },
            _ => Self {
                check_off: l4_off + 2,
                // The identifier, whichever way the packet goes.
                src_port_off: l4_off + 4,
                dst_port_off: l4_off + 4,
                has_pseudo_header: F::ICMP_HAS_PSEUDO_HEADER,
                flags: 0,
            },
        }
    }
}

#[inline(always)]
fn rewrite_l4<F: Family>(ctx: &impl Context, packet: &Packet<F>, tuple: &Tuple<F::Addr>) -> Result<(), Reason> {
    let layout = L4Layout::of(packet);
    adjust_check::<F>(ctx, packet, tuple, &layout)?;
    store_port(ctx, layout.src_port_off, packet.tuple.src_port, tuple.src_port)?;
    store_port(ctx, layout.dst_port_off, packet.tuple.dst_port, tuple.dst_port)
}

/// Adjusts the transport checksum to new addresses and ports.
#[inline(always)]
fn adjust_check<F: Family>(
    ctx: &impl Context,
    packet: &Packet<F>,
    tuple: &Tuple<F::Addr>,
    layout: &L4Layout,
) -> Result<(), Reason> {
    if layout.has_pseudo_header && !fault::is_active::<F::Addr>(Fault::TransportChecksumKept) {
        let delta = address_delta::<F>(&packet.l3, &tuple.src_addr, &tuple.dst_addr);
        let flags = layout.flags | u64::from(BPF_F_PSEUDO_HDR);
        ctx.adjust_check(layout.check_off, delta, flags)?;
    }
    let ports = Delta::of_word(packet.tuple.src_port.to_be(), tuple.src_port.to_be())
        .plus(Delta::of_word(packet.tuple.dst_port.to_be(), tuple.dst_port.to_be()));
    if packet.tuple.src_port == tuple.src_port && packet.tuple.dst_port == tuple.dst_port {
        return Ok(());
    }
    ctx.adjust_check(layout.check_off, ports, layout.flags)
}

#[inline(always)]
fn store_port(ctx: &impl Context, off: usize, old: u16, new: u16) -> Result<(), Reason> {
    if old == new {
        return Ok(());
    }
    ctx.write(off, &new.to_be(), 0)
}
