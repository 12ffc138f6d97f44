//! Packet bytes of an skb, read in place.

use core::hint::cold_path;

use aya_ebpf::programs::TcContext;
use netpath_common::Reason;
use netpath_ebpf::{
    env::Env,
    packet::{Bytes, Kind, Packet, bounded},
};
use network_types::eth::EthHdr;

use super::{family_maps::FamilyMaps, kernel::Kernel};

/// Headers up to TCP without options.
const MIN_HEADERS: usize = EthHdr::LEN + 20 + 20;
/// Headers up to the ports inside an ICMP error, with all IPv4 options.
const MAX_HEADERS: u32 = 192;

/// The linear part of an skb.
pub(super) struct Skb<'a>(pub(super) &'a TcContext);

impl Bytes for Skb<'_> {
    #[inline(always)]
    fn get<T: Copy>(&self, off: usize) -> Option<T> {
        let start = self.0.data() + off;
        if start + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: inside the packet by the check above; `T` is plain data by the trait's contract. The
        // verifier allows unaligned packet loads where the CPU does and refuses the program elsewhere.
        Some(unsafe { *(start as *const T) })
    }
}

/// The interface the packet is seen on.
#[inline(always)]
pub(super) fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the whole program.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// EtherType, host byte order. An 802.1Q tag makes it another one than IP's, but for VLAN 0: that is a
/// priority only, and the kernel takes the frame as untagged.
#[inline(always)]
pub(super) fn ether_type(ctx: &TcContext) -> u16 {
    // SAFETY: as in `ifindex`.
    let skb = unsafe { &*ctx.skb.skb };
    const VLAN_ID: u32 = 0xfff;
    let is_tagged = skb.vlan_present != 0 && skb.vlan_tci & VLAN_ID != 0;
    if is_tagged { 0x8100 } else { u16::from_be(skb.protocol as u16) }
}

/// Whether the frame is for somebody else, seen only because the interface is promiscuous.
#[inline(always)]
pub(super) fn is_for_others(ctx: &TcContext) -> bool {
    const PACKET_OTHERHOST: u32 = 3;
    // SAFETY: as in `ifindex`.
    unsafe { (*ctx.skb.skb).pkt_type == PACKET_OTHERHOST }
}

/// Makes the headers readable in place.
#[inline(always)]
pub(super) fn linearize(ctx: &TcContext, len: usize) {
    let len = bounded(len);
    if ctx.data() + len > ctx.data_end() && ctx.data_end() - ctx.data() < ctx.len() as usize {
        // A failure leaves the packet as it is, and parsing finds it too short.
        let _ = ctx.pull_data(ctx.len().min(MAX_HEADERS));
    }
}

/// Reads the packet into this CPU's scratch space.
///
/// Not onto the stack, for two reasons: its 512 bytes are few, and what is read back from a map is any
/// number to the verifier, so that it checks what follows once and not once per kind of packet.
///
/// # Errors
///
/// [`Reason::Malformed`].
#[inline(always)]
pub(super) fn load<F: FamilyMaps>(env: &Kernel<'_>) -> Result<&'static Packet<F>, Reason>
where
    for<'a> Kernel<'a>: Env<F>,
{
    let ctx = env.ctx;
    let slot = F::scratch().ok_or(Reason::Malformed)?;
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
    let slot = unsafe { &mut *slot };
    if ctx.data() + MIN_HEADERS > ctx.data_end() {
        cold_path();
        linearize(ctx, MIN_HEADERS);
    }
    if has_options(ctx) {
        cold_path();
        linearize(ctx, MAX_HEADERS as usize);
    }
    *slot = Packet::<F>::parse(&Skb(ctx), EthHdr::LEN)?;
    if slot.l3.len as usize > ctx.len() as usize - EthHdr::LEN {
        return Err(Reason::Malformed);
    }
    // SAFETY: as in `ifindex`.
    let gso_size = unsafe { (*ctx.skb.skb).gso_size };
    if gso_size != 0 {
        slot.segment_len = (slot.l3.l4_off - EthHdr::LEN) as u32 + slot.l4_header_len().saturating_add(gso_size);
    }
    if slot.l3.fragment != 0 {
        cold_path();
        find_ports(env, slot);
    }
    Ok(slot)
}

/// Whether the first byte behind the Ethernet header is not that of an IPv4 header without options: the
/// transport header may then lie outside the linear part.
#[inline(always)]
fn has_options(ctx: &TcContext) -> bool {
    Skb(ctx).get::<u8>(EthHdr::LEN) != Some(0x45)
}

/// Gives a later fragment the ports of its first one, if that was seen.
#[inline(always)]
fn find_ports<F: FamilyMaps>(env: &Kernel<'_>, packet: &mut Packet<F>)
where
    for<'a> Kernel<'a>: Env<F>,
{
    if packet.kind == Kind::LaterFragment
        && let Some(ports) = env.fragment_ports::<F>(&packet.fragment_key())
    {
        packet.set_ports(ports.src_port, ports.dst_port);
    }
}
