//! Fragments at the programs: what passes is noted, and what comes before its datagram's first fragment is held back
//! until that one comes.
//!
//! A frame is held as bytes. When the first fragment comes, it goes back to the end of the interface's queue, and the held
//! ones behind it, each as a copy of the first one with its own bytes put in. The programs see them all again, in order.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT},
    helpers::generated::{bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    macros::classifier,
    programs::TcContext,
};
use netpath_common::{HELD_LEN, Held, Reason, under_way};
use netpath_ebpf::{
    decision::Out,
    env::Env,
    family::{V4, V6},
    fault::{self, Fault},
    fragment::{self, HELD_PER_BUCKET, Place, Span, begun, cut, is_holdable, is_over, is_past, joins, let_out, note},
    packet::Packet,
};
use network_types::eth::EthHdr;

use super::{
    entry::jump,
    event,
    family_maps::FamilyMaps,
    frame::{Context as _, some_bytes},
    hand::Hand,
    kernel::Kernel,
    maps,
};

/// Where programs jump to with a first fragment that others have come before.
#[classifier]
pub(super) fn release_fragments(ctx: TcContext) -> i32 {
    release::<V4>(&ctx)
}

/// The same for IPv6.
#[classifier]
pub(super) fn release_fragments6(ctx: TcContext) -> i32 {
    release::<V6>(&ctx)
}

/// Looks after the packet in hand, on which has been decided, if it is a fragment on its way in.
///
/// # Errors
///
/// [`Reason::Fragment`], [`Reason::Malformed`].
#[inline(always)]
pub(super) fn admit<F: FamilyMaps>(ctx: &TcContext, hand: &Hand<F>) -> Result<(), Reason> {
    if hand.packet.l3.fragment == 0 {
        return Ok(());
    }
    match examine(ctx, hand) {
        MALFORMED => Err(Reason::Malformed),
        REFUSED => Err(Reason::Fragment),
        AWAITED => {
            jump::<F>(ctx, maps::jump::RELEASE);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What is to be done with the packet in hand, which was refused: held back, if it is a fragment before its first one
/// and was refused for what that one would have said.
///
/// # Errors
///
/// `reason`.
#[inline(always)]
pub(super) fn hold_back<F: FamilyMaps>(ctx: &TcContext, hand: &Hand<F>, reason: Reason) -> Result<i32, Reason> {
    let for_its_ports = matches!(reason, Reason::Fragment | Reason::Icc | Reason::Isolated | Reason::DirectAccess);
    if for_its_ports && fragment::is_orphan(&hand.packet) && hold(ctx, &hand.packet, 0) {
        Ok(TC_ACT_SHOT)
    } else {
        Err(reason)
    }
}

/// Notes whether a first fragment leaves this host, and by which ports: one of [`under_way`]. The kernel may have made it,
/// of a packet that came whole. False: nothing is known of the datagram.
#[inline(never)]
pub(super) fn remember<F: FamilyMaps>(ctx: &TcContext, packet: &Packet<F>, under_way: u8) -> bool {
    let now_s = Env::<F>::now_s(&Kernel { ctx });
    let key = packet.fragment_key();
    let (src_port, dst_port) = (packet.tuple.src_port, packet.tuple.dst_port);
    if let Some(known) = F::fragments().get_ptr_mut(&key) {
        // SAFETY: plain words, in which another CPU may note a later fragment meanwhile.
        let_out(unsafe { &mut *known }, src_port, dst_port, under_way, now_s);
        return true;
    }
    if under_way != under_way::NO {
        return false;
    }
    F::fragments().insert(&key, cut(src_port, dst_port, under_way, now_s), u64::from(BPF_ANY)).is_ok()
}

/// Source and destination port of a later fragment, and above them whether the first one is under way, in one number; 0:
/// that one was not seen, or not to leave. Not inlined, for a stack of its own.
#[inline(never)]
pub(super) fn ports_of_first<F: FamilyMaps>(ctx: &TcContext, packet: &Packet<F>, leaves: bool) -> u64 {
    let Some(datagram) = F::fragments().get_ptr(&packet.fragment_key()) else { return 0 };
    // SAFETY: a torn value gives a fragment wrong ports, as a reused identification would.
    let datagram = unsafe { &*datagram };
    if fault::is_active::<F::Addr>(Fault::FragmentsForgotten) {
        return 0;
    }
    if !joins::<F::Addr>(datagram, leaves, Env::<F>::now_s(&Kernel { ctx })) {
        return 0;
    }
    u64::from(datagram.under_way) << 32 | u64::from(datagram.src_port) << 16 | u64::from(datagram.dst_port)
}

/// It may pass.
const PASSES: u32 = 0;
const MALFORMED: u32 = 1;
/// It has passed already, wholly or in part.
const REFUSED: u32 = 2;
/// It is the first one, and others wait for it.
const AWAITED: u32 = 3;

/// Not inlined, for a stack of its own.
#[inline(never)]
fn examine<F: FamilyMaps>(ctx: &TcContext, hand: &Hand<F>) -> u32 {
    let packet = &hand.packet;
    let Ok(span) = Span::of(&packet.l3, EthHdr::LEN) else { return MALFORMED };
    if fragment::is_orphan(packet) {
        let env = Kernel { ctx };
        if is_kernels(hand) && !Env::<F>::in_any_network(&env, &packet.tuple.dst_addr) {
            // The host's, or for a container: both wait for the first one.
            hold(ctx, packet, 1);
        }
        return PASSES;
    }
    let is_first = packet.l3.is_first_fragment();
    if is_first && is_awaited(ctx, hand) {
        return AWAITED;
    }
    if register(ctx, hand, span, is_first) { PASSES } else { REFUSED }
}

/// Whether the kernel gets the packet in hand as it is.
#[inline(always)]
fn is_kernels<F: FamilyMaps>(hand: &Hand<F>) -> bool {
    hand.plan.out() == Out::Kernel && hand.plan.tuple == hand.packet.tuple
}

/// Whether a held frame is to follow the first fragment of `place`'s datagram: not if the kernel gets that one, and has
/// got the held one.
#[inline(always)]
fn follows(held: &Held, place: &Place, is_kernels: bool, now_s: u32) -> bool {
    held.datagram == place.datagram && !is_over(held.seen_s, now_s) && !(is_kernels && held.is_copy != 0)
}

/// Notes that a fragment is about to pass; false: it must not.
#[inline(always)]
fn register<F: FamilyMaps>(ctx: &TcContext, hand: &Hand<F>, span: Span, is_first: bool) -> bool {
    let packet = &hand.packet;
    let now_s = Env::<F>::now_s(&Kernel { ctx });
    let key = packet.fragment_key();
    if let Some(datagram) = F::fragments().get_ptr_mut(&key) {
        // SAFETY: plain words. CPUs that note two fragments of a datagram at once may forget one of them.
        let datagram = unsafe { &mut *datagram };
        if !(is_first && is_past(datagram, now_s)) {
            return note(datagram, span);
        }
    }
    if is_first {
        let datagram = begun(packet.tuple.src_port, packet.tuple.dst_port, span, is_kernels(hand), now_s);
        // A refusal loses the later fragments of one datagram.
        let _ = F::fragments().insert(&key, datagram, u64::from(BPF_ANY));
    }
    true
}

/// Whether later fragments of the same datagram are held. Not inlined, for a stack of its own.
#[inline(never)]
fn is_awaited<F: FamilyMaps>(ctx: &TcContext, hand: &Hand<F>) -> bool {
    let env = Kernel { ctx };
    let Some(config) = Env::<F>::config(&env) else { return false };
    let place = Place::of(config.hash_key, &hand.packet);
    let is_kernels = is_kernels(hand);
    let now_s = Env::<F>::now_s(&env);
    if maps::HELD_BUCKETS.get(place.bucket).is_none_or(|bucket| is_over(bucket.last_s, now_s)) {
        return false;
    }
    let mut i = 0;
    while i < HELD_PER_BUCKET {
        let Some(held) = maps::HELD.get(place.slot(i)) else { return false };
        if follows(held, &place, is_kernels, now_s) {
            return true;
        }
        i += 1;
    }
    false
}

/// Holds the packet in hand, a later fragment; false: it cannot be held. Not inlined, for a stack of its own.
#[inline(never)]
fn hold<F: FamilyMaps>(ctx: &TcContext, packet: &Packet<F>, is_copy: u32) -> bool {
    if !is_holdable(ctx.len()) || Span::of(&packet.l3, EthHdr::LEN).is_err() {
        return false;
    }
    let env = Kernel { ctx };
    let Some(config) = Env::<F>::config(&env) else { return false };
    let place = Place::of(config.hash_key, packet);
    // Who is at it on another CPU has the same two ends, or nearly always.
    if !Env::<F>::try_lock(&env, place.lock()) {
        return false;
    }
    let is_held = keep(ctx, &place, is_copy, Env::<F>::now_s(&env));
    Env::<F>::unlock(&env, place.lock());
    is_held
}

/// The lock of the bucket is held.
#[inline(always)]
fn keep(ctx: &TcContext, place: &Place, is_copy: u32, now_s: u32) -> bool {
    let Some(bucket) = maps::HELD_BUCKETS.get_ptr_mut(place.bucket) else { return false };
    // SAFETY: plain words; who writes holds the lock.
    let bucket = unsafe { &mut *bucket };
    let Some(held) = maps::HELD.get_ptr_mut(place.slot(bucket.hand)) else { return false };
    // SAFETY: as above.
    let held = unsafe { &mut *held };
    if held.datagram != 0 && held.is_copy == 0 {
        // Its first one has not come, or too late.
        event::count_drop(held.ifindex, Reason::Fragment, held.len - EthHdr::LEN as u32);
    }
    held.datagram = 0;
    let Some(len) = some_bytes::<HELD_LEN>(ctx.len() as usize) else { return false };
    // SAFETY: the array is not shorter than `len`, by the check above.
    let loaded = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, held.bytes.as_mut_ptr().cast(), len as u32) };
    if loaded != 0 {
        return false;
    }
    held.len = len as u32;
    held.ifindex = ctx.ifindex();
    held.seen_s = now_s;
    held.is_copy = is_copy;
    held.datagram = place.datagram;
    bucket.hand = bucket.hand.wrapping_add(1);
    bucket.last_s = now_s;
    true
}

/// Sends the packet in hand, a first fragment, and those that wait for it through the interface's queue once more.
#[inline(always)]
fn release<F: FamilyMaps>(ctx: &TcContext) -> i32 {
    let Some(hand) = F::hand() else { return TC_ACT_SHOT };
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
    let hand = unsafe { &*hand };
    let env = Kernel { ctx };
    let Some(config) = Env::<F>::config(&env) else { return TC_ACT_SHOT };
    let place = Place::of(config.hash_key, &hand.packet);
    requeue(ctx);
    if Env::<F>::try_lock(&env, place.lock()) {
        release_held(ctx, &place, is_kernels(hand), Env::<F>::now_s(&env));
        Env::<F>::unlock(&env, place.lock());
    }
    TC_ACT_SHOT
}

/// The lock of the bucket is held.
#[inline(always)]
fn release_held(ctx: &TcContext, place: &Place, is_kernels: bool, now_s: u32) {
    let Some(bucket) = maps::HELD_BUCKETS.get(place.bucket) else { return };
    // From the oldest one on.
    let oldest = bucket.hand;
    let mut i = 0;
    while i < HELD_PER_BUCKET {
        let Some(held) = maps::HELD.get_ptr_mut(place.slot(oldest.wrapping_add(i))) else { return };
        // SAFETY: as in `keep`.
        let held = unsafe { &mut *held };
        if follows(held, place, is_kernels, now_s) && become_held(ctx, held) {
            requeue(ctx);
        }
        if held.datagram == place.datagram {
            held.datagram = 0;
        }
        i += 1;
    }
}

/// Gives the packet the bytes of a held one. Not inlined: the verifier walks through it once for each one that may be held.
#[inline(never)]
fn become_held(ctx: &TcContext, held: &Held) -> bool {
    let Some(len) = some_bytes::<HELD_LEN>(held.len as usize) else { return false };
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
    // SAFETY: the context is valid, nothing is held that points into the packet, and `len` bytes are there by the check
    // above.
    unsafe {
        bpf_skb_change_tail(ctx.skb.skb, len as u32, 0) == 0
            && bpf_skb_store_bytes(ctx.skb.skb.cast(), 0, ptr::from_ref(&held.bytes).cast(), len as u32, flags) == 0
    }
}

/// Puts a copy of the packet at the end of the queue that it came from.
#[inline(always)]
fn requeue(ctx: &TcContext) {
    // SAFETY: the context is valid. A refusal loses the packet.
    let _ = unsafe { bpf_clone_redirect(ctx.skb.skb, ctx.ifindex(), u64::from(BPF_F_INGRESS)) };
}
