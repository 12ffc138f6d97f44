//! The entry points, one per hook, and the one place where a [`Reason`] becomes a verdict.

use core::hint::cold_path;

use aya_ebpf::{bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use netpath_common::{Reason, config_flag, proto, under_way};
use netpath_ebpf::{
    env::Env,
    external,
    family::{Family, V4, V6},
    fault::{self, Fault},
    icmp::{self, Inner},
    inside,
    packet::{Bytes, Kind},
    policy::{self, Arrival, Step},
};
use network_types::eth::EthHdr;

use super::{
    arp, event,
    family_maps::FamilyMaps,
    forward::{NextHop, PASS, carry_out, carry_out_error},
    fragments,
    frame::{Context as _, Frame},
    hand::Hand,
    icmp::is_intact,
    kernel::Kernel,
    maps, nd,
    rewrite::StoreL3,
    skb,
};

const ARP: u16 = 0x0806;

/// tc ingress of an external interface.
#[classifier]
pub(super) fn from_external(ctx: TcContext) -> i32 {
    at_ingress::<V4>(&ctx)
}

/// The same for IPv6.
#[classifier]
pub(super) fn from_external6(ctx: TcContext) -> i32 {
    at_ingress::<V6>(&ctx)
}

/// tc egress of an external interface.
#[classifier]
pub(super) fn to_external(ctx: TcContext) -> i32 {
    at_egress::<V4>(&ctx)
}

/// The same for IPv6.
#[classifier]
pub(super) fn to_external6(ctx: TcContext) -> i32 {
    at_egress::<V6>(&ctx)
}

/// tc ingress of a container's host-side veth: what the container sends, but for IPv6.
#[classifier]
pub(super) fn from_container(ctx: TcContext) -> i32 {
    let result = match ctx.ether_type() {
        V4::ETHER_TYPE => leave_container::<V4>(&ctx, |_, _| Ok(())),
        ARP => arrival(&ctx).and_then(|arrival| arp::check(&ctx, &arrival)).map(|()| PASS),
        V6::ETHER_TYPE => leave_to_ipv6(&ctx),
        _ => Err(Reason::UnknownProtocol),
    };
    verdict(&ctx, result)
}

/// `from_container6` decides on IPv6, if it is there: before the first network has IPv6 no container has an address.
#[inline(always)]
fn leave_to_ipv6(ctx: &TcContext) -> Result<i32, Reason> {
    let env = Kernel { ctx };
    let config = Env::<V4>::config(&env).ok_or(Reason::EndpointGone)?;
    if config.flags & config_flag::IPV6 == 0 { Err(Reason::SpoofedSource) } else { Ok(PASS) }
}

/// The same for IPv6. It leaves everything else to `from_container`.
#[classifier]
pub(super) fn from_container6(ctx: TcContext) -> i32 {
    let result = match ctx.ether_type() {
        V6::ETHER_TYPE => leave_container::<V6>(&ctx, nd::decide),
        _ => Ok(PASS),
    };
    verdict(&ctx, result)
}

#[inline(always)]
fn at_ingress<F: Path>(ctx: &TcContext) -> i32 {
    let is_ours = ctx.ether_type() == F::ETHER_TYPE && !skb::is_for_others(ctx);
    verdict(ctx, if is_ours { arrive_external::<F>(ctx) } else { pass_by(ctx) })
}

/// What is not the program's to decide. The kernel strips a priority tag only after this hook, and one behind it
/// too: what came to light then, nobody would have looked at.
#[inline(always)]
fn pass_by(ctx: &TcContext) -> Result<i32, Reason> {
    if skb::is_double_tagged(ctx) { Err(Reason::UnknownProtocol) } else { Ok(PASS) }
}

#[inline(always)]
fn at_egress<F: Path>(ctx: &TcContext) -> i32 {
    let is_ours = ctx.ether_type() == F::ETHER_TYPE;
    verdict(ctx, if is_ours { leave_external::<F>(ctx) } else { Ok(PASS) })
}

/// What `from_container` leaves to it: packets that stay on this host, and ICMP errors.
#[classifier]
pub(super) fn inside_from_container(ctx: TcContext) -> i32 {
    verdict(&ctx, stay_inside::<V4>(&ctx))
}

/// The same for IPv6.
#[classifier]
pub(super) fn inside_from_container6(ctx: TcContext) -> i32 {
    verdict(&ctx, stay_inside::<V6>(&ctx))
}

#[inline(always)]
pub(super) fn verdict(ctx: &TcContext, result: Result<i32, Reason>) -> i32 {
    match result {
        Ok(verdict) => verdict,
        Err(reason) => {
            cold_path();
            event::drop(ctx, reason);
            TC_ACT_SHOT
        }
    }
}

/// A family that the programs handle.
trait Path: FamilyMaps + StoreL3 + NextHop {}
impl<F: FamilyMaps + StoreL3 + NextHop> Path for F {}

#[inline(always)]
fn arrive_external<F: Path>(ctx: &TcContext) -> Result<i32, Reason> {
    let hand = match skb::load::<F>(ctx, false) {
        Ok(hand) => hand,
        // The stack knows best what to do with a broken packet for the host. One for a container it might
        // forward: it does not look behind IPv6's first header.
        Err(reason) => return if is_inside::<F>(ctx, F::DST_OFF) { Err(reason) } else { Ok(PASS) },
    };
    if hand.packet.kind == Kind::IcmpError {
        cold_path();
        if read_quoted(ctx, hand) && error_from_external(ctx, hand) {
            return carry_out_error(ctx, hand);
        }
    }
    if let Err(reason) = decide_from_external(ctx, hand) {
        return fragments::hold_back(ctx, hand, reason);
    }
    fragments::admit(ctx, hand)?;
    carry_out(ctx, hand)
}

/// Whether a packet that could not be read has an address of a container network there.
#[inline(always)]
fn is_inside<F: Path>(ctx: &TcContext, off: usize) -> bool {
    cold_path();
    let addr = Frame(ctx).get::<F::Addr>(EthHdr::LEN + off);
    addr.is_none_or(|addr| Env::<F>::in_any_network(&Kernel { ctx }, &addr))
}

// What decides is not inlined: with IPv6's addresses, one stack would not do for it and for what rewrites.

#[inline(never)]
fn decide_from_external<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let decision = external::from_external(&env, config, &hand.packet, ctx.ifindex())?;
    hand.plan.set(&decision);
    Ok(())
}

/// Plans how an ICMP error is translated. False: it quotes nothing that was.
#[inline(never)]
fn error_from_external<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> bool {
    let env = Kernel { ctx };
    let Some(config) = Env::<F>::config(&env) else { return false };
    let translation = icmp::from_external(&env, config, &hand.packet, &hand.inner);
    translation.is_some_and(|translation| hand.set_error(&translation))
}

#[inline(always)]
fn leave_external<F: Path>(ctx: &TcContext) -> Result<i32, Reason> {
    if is_hosts_own::<F>(ctx) {
        return Ok(PASS);
    }
    let hand = match skb::load::<F>(ctx, true) {
        Ok(hand) => hand,
        // The host may send what it likes.
        Err(reason) => return if is_inside::<F>(ctx, F::SRC_OFF) { Err(reason) } else { Ok(PASS) },
    };
    if hand.packet.kind == Kind::IcmpError {
        cold_path();
        if read_quoted(ctx, hand) && error_to_external(ctx, hand) {
            // A container's own name is one that its network or a flow has given it.
            let src_addr = &hand.plan.tuple.src_addr;
            let is_own = *src_addr == hand.packet.tuple.src_addr;
            if !is_own && Env::<F>::in_any_network(&Kernel { ctx }, src_addr) {
                return Err(Reason::Leak);
            }
            return carry_out_error(ctx, hand);
        }
    }
    if hand.packet.l3.is_first_fragment() {
        cold_path();
        // Until it is let out: `begin_flow` may be the one that drops it.
        fragments::remember(ctx, &hand.packet, under_way::DROPPED);
    }
    decide(ctx, hand, maps::jump::TO_EXTERNAL, decide_to_external)?;
    if hand.packet.l3.is_first_fragment() {
        cold_path();
        fragments::remember(ctx, &hand.packet, under_way::NO);
    }
    carry_out(ctx, hand)
}

/// Whether a packet is plainly the host's: its source is in no container network, and it is no ICMP error, which
/// might quote a packet that is. Its lengths are not looked at: of a merged packet (BIG TCP) they are zero.
#[inline(always)]
fn is_hosts_own<F: Path>(ctx: &TcContext) -> bool {
    let bytes = Frame(ctx);
    let protocol = bytes.get::<u8>(EthHdr::LEN + F::PROTO_OFF);
    if !matches!(protocol, Some(proto::TCP | proto::UDP)) {
        return false;
    }
    let src_addr = bytes.get::<F::Addr>(EthHdr::LEN + F::SRC_OFF);
    src_addr.is_some_and(|src_addr| !Env::<F>::in_any_network(&Kernel { ctx }, &src_addr))
}

#[inline(never)]
fn decide_to_external<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let decision = external::to_external(&env, config, &hand.packet, ctx.ifindex())?;
    hand.plan.set(&decision);
    Ok(())
}

/// As [`error_from_external`].
#[inline(never)]
fn error_to_external<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> bool {
    let env = Kernel { ctx };
    let Some(config) = Env::<F>::config(&env) else { return false };
    let translation = icmp::to_external(&env, config, &hand.packet, &hand.inner);
    translation.is_some_and(|translation| hand.set_error(&translation))
}

/// Reads what an ICMP error quotes. False: too little, or the error is not intact.
#[inline(never)]
fn read_quoted<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> bool {
    skb::linearize(ctx, skb::MAX_HEADERS);
    let inner = Inner::parse(&Frame(ctx), EthHdr::LEN, &hand.packet);
    let Ok(inner) = inner else { return false };
    hand.inner = inner;
    fault::is_active::<F::Addr>(Fault::ErrorChecksumUnread) || is_intact(ctx, &hand.packet)
}

/// Decides, and once more if that takes a flow that is to be made first: `begin_flow` makes it and jumps back to `this`
/// program's beginning. Three programs make flows; the verifier walks through that for none of them.
#[inline(always)]
fn decide<F: Path>(
    ctx: &TcContext,
    hand: &mut Hand<F>,
    this: u32,
    once: impl FnOnce(&TcContext, &mut Hand<F>) -> Result<(), Reason>,
) -> Result<(), Reason> {
    let result = once(ctx, hand);
    if result.is_ok() {
        return result;
    }
    cold_path();
    let Some(parked) = F::parked() else { return result };
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
    let parked = unsafe { &mut *parked };
    if parked.is_there() {
        parked.asker = this;
        jump::<F>(ctx, maps::jump::BEGIN_FLOW);
        // The next packet must not get this one's flow.
        parked.clear();
    }
    result
}

/// Goes on in another program; returns if that fails. The kernel allows 33 jumps, should a flow vanish over and over
/// before it is found.
#[inline(always)]
pub(super) fn jump<F: FamilyMaps>(ctx: &TcContext, place: u32) {
    // The agent has filled the table before it attaches anything.
    // SAFETY: the context is valid, and the program jumped to is of the same type.
    let _ = unsafe { maps::JUMPS.tail_call(ctx, place + F::JUMP) };
}

#[inline(always)]
fn arrival(ctx: &TcContext) -> Result<Arrival, Reason> {
    let eth: EthHdr = Frame(ctx).get(0).ok_or(Reason::Malformed)?;
    Ok(Arrival { ifindex: ctx.ifindex(), src_mac: eth.src_addr, dst_mac: eth.dst_addr })
}

/// `signal` decides on packets that pass before anybody asks who may talk to whom, and on no others.
#[inline(always)]
fn leave_container<F: Path>(
    ctx: &TcContext,
    signal: impl FnOnce(&TcContext, &mut Hand<F>) -> Result<(), Reason>,
) -> Result<i32, Reason> {
    let hand = skb::load::<F>(ctx, false)?;
    hand.arrival = arrival(ctx)?;
    hand.plan.set_undecided();
    signal(ctx, hand)?;
    if !hand.plan.is_undecided() {
        return Ok(PASS);
    }
    if let Err(reason) = decide(ctx, hand, maps::jump::FROM_CONTAINER, decide_from_container) {
        return fragments::hold_back(ctx, hand, reason);
    }
    if hand.plan.is_undecided() {
        cold_path();
        jump::<F>(ctx, maps::jump::INSIDE);
        return Err(Reason::Isolated);
    }
    fragments::admit(ctx, hand)?;
    carry_out(ctx, hand)
}

#[inline(never)]
fn decide_from_container<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let Hand { packet, arrival, .. } = &*hand;
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let sender = policy::sender::<F, _>(&env, &packet.tuple.src_addr, arrival)?;
    match policy::from_container(&env, config, packet, arrival, &sender)? {
        Step::Done(decision) => hand.plan.set(&decision),
        Step::Inside => hand.plan.set_undecided(),
    }
    Ok(())
}

/// Goes on where `from_container` has jumped away, with the packet that it has read.
#[inline(always)]
fn stay_inside<F: Path>(ctx: &TcContext) -> Result<i32, Reason> {
    let hand = F::hand().ok_or(Reason::Malformed)?;
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
    let hand = unsafe { &mut *hand };
    if hand.packet.kind == Kind::IcmpError {
        return if error_inside(ctx, hand)? { carry_out_error(ctx, hand) } else { Ok(PASS) };
    }
    if let Err(reason) = decide(ctx, hand, maps::jump::INSIDE, decide_inside) {
        return fragments::hold_back(ctx, hand, reason);
    }
    fragments::admit(ctx, hand)?;
    carry_out(ctx, hand)
}

#[inline(never)]
fn decide_inside<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let Hand { packet, arrival, .. } = &*hand;
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let sender = policy::sender::<F, _>(&env, &packet.tuple.src_addr, arrival)?;
    let decision = inside::from_container(&env, config, packet, arrival, &sender)?;
    hand.plan.set(&decision);
    Ok(())
}

/// As [`error_from_external`]. False: the error passes as it is.
#[inline(always)]
fn error_inside<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> Result<bool, Reason> {
    let is_read = read_quoted(ctx, hand);
    plan_error_inside(ctx, hand, is_read)?;
    Ok(!hand.plan.is_undecided())
}

#[inline(never)]
fn plan_error_inside<F: Path>(ctx: &TcContext, hand: &mut Hand<F>, is_read: bool) -> Result<(), Reason> {
    // First: what reads both cases of the translation at once reads what nobody wrote, which only Linux 6.3 allows.
    hand.plan.set_undecided();
    let env = Kernel { ctx };
    let Hand { packet, arrival, .. } = &*hand;
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let sender = policy::sender::<F, _>(&env, &packet.tuple.src_addr, arrival)?;
    let inner = is_read.then_some(&hand.inner);
    let translation = inside::error_from_container(&env, config, packet, inner, arrival, &sender)?;
    event::count(sender.endpoint.counter + 1, packet.l3.len);
    if let Some(translation) = translation {
        hand.set_error(&translation);
    }
    Ok(())
}
