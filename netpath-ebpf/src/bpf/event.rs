//! Counting and telling.

use netpath_common::{Addr6, Address, Counter, DropKey, Event, EventKind, Reason, config_flag};
use netpath_ebpf::{
    family::{Family, V4, V6},
    packet::Packet,
};
use network_types::eth::EthHdr;

use super::{
    family_maps::FamilyMaps,
    frame::{Context, Frame},
    maps,
};

/// An address in the width of an [`Event`].
#[inline(always)]
pub(super) fn widen<A: Address>(addr: &A) -> Addr6 {
    let words = addr.words();
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 4 {
        let word = words[i].to_ne_bytes();
        bytes[4 * i] = word[0];
        bytes[4 * i + 1] = word[1];
        bytes[4 * i + 2] = word[2];
        bytes[4 * i + 3] = word[3];
        i += 1;
    }
    Addr6(bytes)
}

/// Puts an event into the ring buffer; when it is full, the event is lost.
#[inline(always)]
pub(super) fn emit(event: &Event) {
    let _ = maps::EVENTS.output::<Event>(event, 0);
}

#[inline(always)]
fn add(counter: *mut Counter, bytes: u64) {
    // SAFETY: this CPU's own element of a per-CPU map.
    let counter = unsafe { &mut *counter };
    counter.packets += 1;
    counter.bytes += bytes;
}

/// Counts a packet of an endpoint or port binding. Index 0 counts nothing.
#[inline(always)]
pub(super) fn count(index: u32, len: u32) {
    if index != 0
        && let Some(counter) = maps::COUNTERS.get_ptr_mut(index)
    {
        add(counter, u64::from(len));
    }
}

/// Counts a drop and tells who watches.
#[inline(never)]
pub(super) fn drop<C: Context>(ctx: &C, reason: Reason) {
    let len = ctx.frame_len().saturating_sub(EthHdr::LEN as u32);
    count_drop(ctx.ifindex(), reason, len);
    #[cfg(feature = "trace")]
    aya_log_ebpf::info!(ctx, "reason {} on interface {}", reason as u32, ctx.ifindex());
    if maps::CONFIG.get(0).is_some_and(|c| c.flags & config_flag::MONITOR != 0) {
        tell(ctx, reason, len);
    }
}

/// Counts a packet of so many bytes that was dropped on an interface.
#[inline(always)]
pub(super) fn count_drop(ifindex: u32, reason: Reason, len: u32) {
    let key = DropKey { ifindex, reason: reason as u32 };
    if let Some(counter) = maps::DROPS.get_ptr_mut(key) {
        add(counter, u64::from(len));
    } else {
        let _ = maps::DROPS.insert(key, Counter { packets: 1, bytes: u64::from(len) }, 0);
    }
}

#[inline(always)]
fn tell<C: Context>(ctx: &C, reason: Reason, len: u32) {
    let mut event = Event {
        kind: EventKind::Drop as u32,
        reason: reason as u32,
        ifindex: ctx.ifindex(),
        len,
        src_addr: Addr6([0; 16]),
        dst_addr: Addr6([0; 16]),
        src_port: 0,
        dst_port: 0,
        nat_port: 0,
        proto: 0,
        family: 0,
    };
    match ctx.ether_type() {
        V4::ETHER_TYPE => describe::<V4, C>(ctx, &mut event),
        V6::ETHER_TYPE => describe::<V6, C>(ctx, &mut event),
        _ => {}
    }
    emit(&event);
}

#[inline(always)]
fn describe<F: FamilyMaps, C: Context>(ctx: &C, event: &mut Event) {
    let Some(hand) = F::hand() else { return };
    if let Ok(packet) = Packet::<F>::parse(&Frame(ctx), EthHdr::LEN) {
        // Not on the stack, and dropped is dropped: nobody has a use for the packet in hand any more.
        // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
        let hand = unsafe { &mut *hand };
        hand.packet = packet;
        let packet = &hand.packet;
        event.src_addr = widen(&packet.tuple.src_addr);
        event.dst_addr = widen(&packet.tuple.dst_addr);
        event.src_port = packet.tuple.src_port;
        event.dst_port = packet.tuple.dst_port;
        event.proto = packet.tuple.proto;
        event.family = family_of::<F>();
    }
}

/// 4 or 6.
#[inline(always)]
pub(super) const fn family_of<F: Family>() -> u8 {
    if F::Addr::LEN == 4 { 4 } else { 6 }
}
