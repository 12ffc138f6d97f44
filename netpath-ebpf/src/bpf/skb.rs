//! An skb: what the programs of tc are given.

use core::hint::cold_path;

use aya_ebpf::programs::TcContext;
use netpath_common::Reason;
use netpath_ebpf::{
    checksum::Delta,
    family::Family,
    packet::{Kind, Packet, bounded},
};
use network_types::eth::EthHdr;

use super::{
    family_maps::FamilyMaps,
    fragments::ports_of_first,
    frame::{Context, Frame},
    hand::Hand,
};

/// Headers up to the checksum inside an ICMP error, with as many extension headers as are walked through in
/// both packets.
pub(super) const MAX_HEADERS: usize = EthHdr::LEN + 40 + 256 + 8 + 40 + 256 + 20;
/// The least that lies before the payload of a packet in segments: Ethernet, IPv4, UDP.
const MIN_HEADERS: usize = EthHdr::LEN + 20 + 8;

impl Context for TcContext {
    #[inline(always)]
    fn in_place(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the whole program.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.len()
    }

    /// An 802.1Q tag makes it another one than IP's, but for VLAN 0: that is a priority only, and the kernel takes
    /// the frame as untagged.
    #[inline(always)]
    fn ether_type(&self) -> u16 {
        // SAFETY: as in `ifindex`.
        let is_tagged = unsafe { (*self.skb.skb).vlan_present } != 0 && vlan_id(self) != 0;
        if is_tagged { 0x8100 } else { inner_type(self) }
    }

    #[inline(always)]
    fn write<T: Copy>(&self, off: usize, value: &T, flags: u64) -> Result<(), Reason> {
        self.store(off, value, flags).map_err(|_| Reason::RewriteFailed)
    }

    #[inline(always)]
    fn adjust_check(&self, off: usize, delta: Delta, flags: u64) -> Result<(), Reason> {
        self.l4_csum_replace(off, 0, u64::from(delta.value()), flags).map_err(|_| Reason::RewriteFailed)
    }
}

/// The interface by which the packet came to this host; 0: it is the host's own.
#[inline(always)]
pub(super) fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as in `ifindex`.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

/// EtherType behind the first tag, host byte order.
#[inline(always)]
fn inner_type(ctx: &TcContext) -> u16 {
    // SAFETY: as in `ifindex`.
    u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16)
}

#[inline(always)]
fn vlan_id(ctx: &TcContext) -> u32 {
    const VLAN_ID: u32 = 0xfff;
    // SAFETY: as in `ifindex`.
    unsafe { (*ctx.skb.skb).vlan_tci & VLAN_ID }
}

/// Whether a priority tag hides another tag.
#[inline(always)]
pub(super) fn is_double_tagged(ctx: &TcContext) -> bool {
    const ETH_P_8021Q: u16 = 0x8100;
    const ETH_P_8021AD: u16 = 0x88a8;
    // SAFETY: as in `ifindex`.
    let is_tagged = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    is_tagged && matches!(inner_type(ctx), ETH_P_8021Q | ETH_P_8021AD) && vlan_id(ctx) == 0
}

/// Whether the frame is for somebody else, seen only because the interface is promiscuous.
#[inline(always)]
pub(super) fn is_for_others(ctx: &TcContext) -> bool {
    const PACKET_OTHERHOST: u32 = 3;
    // SAFETY: as in `ifindex`.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_OTHERHOST }
}

/// Makes the headers readable in place, of a packet in segments no more than there is of the first one: what lies behind may
/// be a list of whole datagrams (`rx-gro-list`), and Linux 5.10 panics where it sends on a list whose first one has grown.
#[inline(always)]
pub(super) fn linearize(ctx: &TcContext, len: usize) {
    let len = bounded(len);
    if ctx.data() + len > ctx.data_end() && ctx.data_end() - ctx.data() < ctx.len() as usize {
        let first = match gso_size(ctx) {
            0 => ctx.len(),
            size => size.saturating_add(MIN_HEADERS as u32),
        };
        // A failure leaves the packet as it is, and parsing finds it too short.
        let _ = ctx.pull_data(ctx.len().min(first).min(MAX_HEADERS as u32));
    }
}

/// Bytes of transport payload in each segment of a packet that is several; 0: it is one.
#[inline(always)]
fn gso_size(ctx: &TcContext) -> u32 {
    // SAFETY: as in `ifindex`.
    unsafe { (*ctx.skb.skb).gso_size }
}

/// Takes the packet in hand. `leaves`: it is on its way out of this host.
///
/// # Errors
///
/// [`Reason::Malformed`].
#[inline(always)]
pub(super) fn load<F: FamilyMaps>(ctx: &TcContext, leaves: bool) -> Result<&'static mut Hand<F>, Reason> {
    let hand = F::hand().ok_or(Reason::Malformed)?;
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
    let hand = unsafe { &mut *hand };
    read(ctx, &mut hand.packet)?;
    if hand.packet.kind == Kind::LaterFragment {
        cold_path();
        let first = ports_of_first(ctx, &hand.packet, leaves);
        hand.packet.set_ports((first >> 16) as u16, first as u16);
        hand.packet.follow((first >> 32) as u8);
    }
    Ok(hand)
}

/// Not inlined, for a stack of its own.
#[inline(never)]
fn read<F: Family>(ctx: &TcContext, slot: &mut Packet<F>) -> Result<(), Reason> {
    // Up to TCP without options.
    let min_headers = EthHdr::LEN + F::HEADER_LEN + 20;
    if ctx.data() + min_headers > ctx.data_end() {
        cold_path();
        linearize(ctx, min_headers);
    }
    if !F::is_plain(&Frame(ctx), EthHdr::LEN) {
        cold_path();
        linearize(ctx, MAX_HEADERS);
    }
    *slot = Packet::<F>::parse(&Frame(ctx), EthHdr::LEN)?;
    if slot.l3.len as usize > ctx.len() as usize - EthHdr::LEN {
        return Err(Reason::Malformed);
    }
    let gso_size = gso_size(ctx);
    if gso_size != 0 {
        slot.segment_len = (slot.l3.l4_off - EthHdr::LEN) as u32 + slot.l4_header_len().saturating_add(gso_size);
    }
    Ok(())
}
