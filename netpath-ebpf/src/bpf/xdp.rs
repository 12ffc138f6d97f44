//! XDP on an external interface: what can be decided before the kernel has made a packet of the frame.
//!
//! Drops what nobody may send, and sends published UDP straight into the container. All else goes on to tc, and so
//! does what this program does not take: fragments, options, tags, ICMP errors, and frames that do not lie in place
//! as a whole.

use core::hint::cold_path;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, xdp_action},
    helpers::generated::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use netpath_common::{Address, Reason, endpoint_flag};
use netpath_ebpf::{
    checksum::{self, Delta},
    decision::Out,
    env::Env,
    external,
    family::{Family, V4, V6},
    packet::{Bytes, Kind, Packet, bounded},
};
use network_types::eth::EthHdr;

use super::{
    event,
    family_maps::FamilyMaps,
    frame::{Context, Frame},
    hand::Hand,
    kernel::Kernel,
    maps,
    rewrite::{StoreL3, rewrite_plain},
};

/// Not our verdict: the kernel makes a packet of the frame, and tc decides.
const PASS: u32 = xdp_action::XDP_PASS;

impl Context for XdpContext {
    #[inline(always)]
    fn in_place(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex() as u32
    }

    /// Of frames with more than one buffer, that of the first.
    #[inline(always)]
    fn frame_len(&self) -> u32 {
        (self.data_end() - self.data()) as u32
    }

    #[inline(always)]
    fn ether_type(&self) -> u16 {
        const ETHER_TYPE_OFF: usize = 12;
        Frame(self).get::<u16>(ETHER_TYPE_OFF).map_or(0, u16::from_be)
    }

    #[inline(always)]
    fn write<T: Copy>(&self, off: usize, value: &T, _flags: u64) -> Result<(), Reason> {
        let (start, end) = self.in_place();
        let start = start + bounded(off);
        if start + size_of::<T>() > end {
            return Err(Reason::RewriteFailed);
        }
        // SAFETY: inside the packet by the check above. As for reading, the verifier allows unaligned packet stores
        // where the CPU does.
        unsafe { *(start as *mut T) = *value };
        Ok(())
    }

    #[inline(always)]
    fn adjust_check(&self, off: usize, delta: Delta, flags: u64) -> Result<(), Reason> {
        let check = Frame(self).get::<u16>(bounded(off)).ok_or(Reason::RewriteFailed)?;
        let zero_is_none = flags & u64::from(BPF_F_MARK_MANGLED_0) != 0;
        if zero_is_none && check == 0 {
            return Ok(());
        }
        let new = delta.apply(check);
        self.write(off, &if zero_is_none && new == 0 { 0xffff } else { new }, 0)
    }
}

/// XDP of an external interface, both families.
#[xdp(frags)]
pub(super) fn xdp_from_external(ctx: XdpContext) -> u32 {
    from_external(&ctx)
}

/// The same for generic mode, where packets are made one piece first. Before a program that takes several pieces the
/// kernel puts a copy in the packet's place (Linux 6.9) that does not know how long its Ethernet header is: tc would
/// see what passes without that header, and let it go.
#[xdp]
pub(super) fn xdp_from_external_generic(ctx: XdpContext) -> u32 {
    from_external(&ctx)
}

#[inline(always)]
fn from_external(ctx: &XdpContext) -> u32 {
    let result = match ctx.ether_type() {
        V4::ETHER_TYPE => arrive::<V4>(ctx),
        V6::ETHER_TYPE => arrive::<V6>(ctx),
        _ => Ok(PASS),
    };
    match result {
        Ok(verdict) => verdict,
        Err(reason) => {
            cold_path();
            event::drop(ctx, reason);
            xdp_action::XDP_DROP
        }
    }
}

#[inline(always)]
fn arrive<F: FamilyMaps + StoreL3>(ctx: &XdpContext) -> Result<u32, Reason> {
    let Some(hand) = F::hand() else { return Ok(PASS) };
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
    let hand = unsafe { &mut *hand };
    if !read(ctx, &mut hand.packet) {
        return Ok(PASS);
    }
    decide(ctx, hand)?;
    match send(ctx, hand) {
        REFUSED => Err(Reason::RewriteFailed),
        verdict => Ok(verdict),
    }
}

/// Reads the packet; false: it is none to be decided on here. Not inlined, for a stack of its own.
#[inline(never)]
fn read<F: FamilyMaps>(ctx: &XdpContext, slot: &mut Packet<F>) -> bool {
    let frame = Frame(ctx);
    if !F::is_plain(&frame, EthHdr::LEN) {
        return false;
    }
    let Some(eth) = frame.get::<EthHdr>(0) else { return false };
    let env = Kernel { ctx };
    let external = Env::<F>::external(&env, ctx.ifindex());
    if external.is_none_or(|external| external.mac != eth.dst_addr) {
        return false;
    }
    let Ok(packet) = Packet::<F>::parse(&frame, EthHdr::LEN) else { return false };
    *slot = packet;
    let is_whole = slot.l3.len <= ctx.frame_len() - EthHdr::LEN as u32 && slot.l3.fragment == 0;
    is_whole && slot.kind != Kind::IcmpError
}

/// Whether the UDP checksum is yet to be filled in, which nobody would do for a redirected frame.
#[inline(always)]
fn is_partial<F: Family>(ctx: &XdpContext, packet: &Packet<F>) -> bool {
    const CHECK_OFF: usize = 6;
    let l4_off = EthHdr::LEN + F::HEADER_LEN;
    let Some(check) = Frame(ctx).get::<u16>(l4_off + CHECK_OFF) else { return true };
    let addrs = packet.l3.src_addr.word_sum() + packet.l3.dst_addr.word_sum();
    checksum::is_partial(check, addrs, packet.l3.proto, packet.l3.len as u16 - F::HEADER_LEN as u16)
}

/// Plans what is to be done; undecided: it is not to be said here. Not inlined, as [`read`].
#[inline(never)]
fn decide<F: FamilyMaps>(ctx: &XdpContext, hand: &mut Hand<F>) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    match external::from_external_early(&env, config, &hand.packet, ctx.ifindex())? {
        Some(decision) => hand.plan.set(&decision),
        None => hand.plan.set_undecided(),
    }
    Ok(())
}

/// Instead of a verdict: the packet could not be rewritten.
const REFUSED: u32 = u32::MAX;

/// Sends the packet in hand into its container, if that is planned and the container takes frames from here. Not
/// inlined, as [`read`].
#[inline(never)]
fn send<F: FamilyMaps + StoreL3>(ctx: &XdpContext, hand: &Hand<F>) -> u32 {
    let Hand { packet, plan, .. } = hand;
    let Out::Container(ifindex) = plan.out() else { return PASS };
    let Some(endpoint) = maps::ENDPOINTS.get(plan.endpoint) else { return PASS };
    if endpoint.flags & endpoint_flag::XDP == 0 || is_partial(ctx, packet) {
        return PASS;
    }
    event::count(plan.counters[0], packet.l3.len);
    event::count(plan.counters[1], packet.l3.len);
    let macs = [endpoint.mac, endpoint.gateway_mac];
    if rewrite_plain(ctx, packet, &plan.tuple, packet.l3.ttl - 1).is_err() || ctx.write(0, &macs, 0).is_err() {
        return REFUSED;
    }
    // SAFETY: no pointers.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}
