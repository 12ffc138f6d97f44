//! Writes a decision into the packet.
//!
//! The transport checksum goes through `bpf_l4_csum_replace`, which knows CHECKSUM_PARTIAL and
//! CHECKSUM_COMPLETE: address deltas with BPF_F_PSEUDO_HDR, port deltas in a call of their own without
//! it. The network header is written with its own checksum adjusted, so its sum never changes.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use netpath_common::{Addr4, Address, Reason, Tuple, proto};
use netpath_ebpf::{
    checksum::Delta,
    family::{Family, V4},
    packet::{Kind, L3, Packet},
};
use network_types::eth::EthHdr;

/// How a family's network header is written.
pub(super) trait StoreL3: Family {
    /// Writes addresses and hop count into the network header at `l3_off`, as `l3` describes it.
    fn store_l3(
        ctx: &TcContext,
        l3_off: usize,
        l3: &L3<Self::Addr>,
        src_addr: &Self::Addr,
        dst_addr: &Self::Addr,
        hops: u8,
    ) -> Result<(), Reason>;

    /// The same for the packet's own header, with the ports that follow it, in one write.
    fn store_l3_and_ports(
        ctx: &TcContext,
        l3: &L3<Self::Addr>,
        tuple: &Tuple<Self::Addr>,
        hops: u8,
    ) -> Result<(), Reason>;
}

/// The second half of an IPv4 header.
#[repr(C)]
struct Ipv4Tail {
    ttl: u8,
    proto: u8,
    check: u16,
    src_addr: Addr4,
    dst_addr: Addr4,
}

/// The same and the ports behind it.
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
    fn store_l3(
        ctx: &TcContext,
        l3_off: usize,
        l3: &L3<Addr4>,
        src_addr: &Addr4,
        dst_addr: &Addr4,
        hops: u8,
    ) -> Result<(), Reason> {
        let tail = Ipv4Tail::new(l3, src_addr, dst_addr, hops);
        ctx.store(l3_off + Ipv4Tail::OFF, &tail, 0).map_err(|_| Reason::RewriteFailed)
    }

    #[inline(always)]
    fn store_l3_and_ports(ctx: &TcContext, l3: &L3<Addr4>, tuple: &Tuple<Addr4>, hops: u8) -> Result<(), Reason> {
        let tail = Ipv4Tail::new(l3, &tuple.src_addr, &tuple.dst_addr, hops);
        let both = Ipv4TailAndPorts { tail, ports: [tuple.src_port.to_be(), tuple.dst_port.to_be()] };
        ctx.store(EthHdr::LEN + Ipv4Tail::OFF, &both, 0).map_err(|_| Reason::RewriteFailed)
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
    ctx: &TcContext,
    packet: &Packet<F>,
    tuple: &Tuple<F::Addr>,
    hops: u8,
) -> Result<(), Reason> {
    let has_ports = packet.kind == Kind::Tcp || packet.kind == Kind::Udp;
    if has_ports && packet.l3.l4_off == EthHdr::LEN + F::HEADER_LEN {
        // Nearly every packet: no options, so the ports follow the addresses.
        if *tuple != packet.tuple {
            adjust_check::<F>(ctx, packet, tuple, &L4Layout::of(packet))?;
        }
        return F::store_l3_and_ports(ctx, &packet.l3, tuple, hops);
    }
    if *tuple != packet.tuple && packet.kind != Kind::LaterFragment {
        rewrite_l4::<F>(ctx, packet, tuple)?;
    }
    F::store_l3(ctx, EthHdr::LEN, &packet.l3, &tuple.src_addr, &tuple.dst_addr, hops)
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
                flags: u64::from(BPF_F_MARK_MANGLED_0),
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
fn rewrite_l4<F: Family>(ctx: &TcContext, packet: &Packet<F>, tuple: &Tuple<F::Addr>) -> Result<(), Reason> {
    let layout = L4Layout::of(packet);
    adjust_check::<F>(ctx, packet, tuple, &layout)?;
    store_port(ctx, layout.src_port_off, packet.tuple.src_port, tuple.src_port)?;
    store_port(ctx, layout.dst_port_off, packet.tuple.dst_port, tuple.dst_port)
}

/// Adjusts the transport checksum to new addresses and ports.
#[inline(always)]
fn adjust_check<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F>,
    tuple: &Tuple<F::Addr>,
    layout: &L4Layout,
) -> Result<(), Reason> {
    if layout.has_pseudo_header {
        let delta = address_delta::<F>(&packet.l3, &tuple.src_addr, &tuple.dst_addr);
        let flags = layout.flags | u64::from(BPF_F_PSEUDO_HDR);
        ctx.l4_csum_replace(layout.check_off, 0, u64::from(delta.value()), flags).map_err(|_| Reason::RewriteFailed)?;
    }
    let ports = Delta::of_word(packet.tuple.src_port.to_be(), tuple.src_port.to_be())
        .plus(Delta::of_word(packet.tuple.dst_port.to_be(), tuple.dst_port.to_be()));
    if packet.tuple.src_port == tuple.src_port && packet.tuple.dst_port == tuple.dst_port {
        return Ok(());
    }
    ctx.l4_csum_replace(layout.check_off, 0, u64::from(ports.value()), layout.flags).map_err(|_| Reason::RewriteFailed)
}

#[inline(always)]
fn store_port(ctx: &TcContext, off: usize, old: u16, new: u16) -> Result<(), Reason> {
    if old == new {
        return Ok(());
    }
    ctx.store(off, &new.to_be(), 0).map_err(|_| Reason::RewriteFailed)
}
