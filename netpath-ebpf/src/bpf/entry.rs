//! The entry points, one per hook, and the one place where a [`Reason`] becomes a verdict.

use core::hint::cold_path;

use aya_ebpf::{bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use netpath_common::Reason;
use netpath_ebpf::{
    env::Env,
    external,
    family::{Family, V4, V6},
    icmp::{self, Inner},
    inside,
    packet::{Bytes, Kind, Packet},
    policy::{self, Arrival, Step},
};
use network_types::eth::EthHdr;

use super::{
    arp, event,
    family_maps::FamilyMaps,
    forward::{NextHop, PASS, carry_out, carry_out_error},
    hand::Hand,
    kernel::Kernel,
    maps, nd,
    rewrite::StoreL3,
    skb::{self, Skb},
};

const ARP: u16 = 0x0806;

/// tc ingress of an external interface.
#[classifier]
pub(super) fn from_external(ctx: TcContext) -> i32 {
    if skb::ether_type(&ctx) == V6::ETHER_TYPE {
        return verdict(&ctx, keep_out::<V6>(&ctx));
    }
    at_ingress::<V4>(&ctx)
}

/// Keeps what is addressed to containers directly out, until the agent attaches `from_external6`.
#[inline(always)]
fn keep_out<F: FamilyMaps>(ctx: &TcContext) -> Result<i32, Reason>
where
    for<'a> Kernel<'a>: Env<F>,
{
    const DST_OFF: usize = EthHdr::LEN + 24;
    skb::linearize(ctx, DST_OFF + F::HEADER_LEN);
    let dst_addr: F::Addr = Skb(ctx).get(DST_OFF).ok_or(Reason::Malformed)?;
    if Env::<F>::in_any_network(&Kernel { ctx }, &dst_addr) { Err(Reason::DirectAccess) } else { Ok(PASS) }
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
    let result = match skb::ether_type(&ctx) {
        V4::ETHER_TYPE => leave_container::<V4>(&ctx, |_, _, _| Ok(false)),
        ARP => arrival(&ctx).and_then(|arrival| arp::check(&ctx, &arrival)).map(|()| PASS),
        // Until the agent attaches `from_container6`, nothing else would look at it.
        _ => Err(Reason::UnknownProtocol),
    };
    verdict(&ctx, result)
}

/// The same for IPv6. It leaves everything else to `from_container`.
#[classifier]
pub(super) fn from_container6(ctx: TcContext) -> i32 {
    let result = match skb::ether_type(&ctx) {
        V6::ETHER_TYPE => leave_container::<V6>(&ctx, nd::passes),
        _ => Ok(PASS),
    };
    verdict(&ctx, result)
}

#[inline(always)]
fn at_ingress<F: Path>(ctx: &TcContext) -> i32 {
    let is_ours = skb::ether_type(ctx) == F::ETHER_TYPE && !skb::is_for_others(ctx);
    verdict(ctx, if is_ours { arrive_external::<F>(ctx) } else { Ok(PASS) })
}

#[inline(always)]
fn at_egress<F: Path>(ctx: &TcContext) -> i32 {
    let is_ours = skb::ether_type(ctx) == F::ETHER_TYPE;
    verdict(ctx, if is_ours { leave_external::<F>(ctx) } else { Ok(PASS) })
}

/// What `from_container` leaves to it: packets that stay on this host, and ICMP errors.
#[classifier]
pub(super) fn inside_from_container(ctx: TcContext) -> i32 {
    verdict(&ctx, stay_inside::<V4>(&ctx))
}

#[inline(always)]
fn verdict(ctx: &TcContext, result: Result<i32, Reason>) -> i32 {
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
    let hand = match skb::load::<F>(&Kernel { ctx }) {
        Ok(hand) => hand,
        // Whoever it is for, the stack knows best what to do with a broken packet; it is not forwarded.
        Err(_) => return Ok(PASS),
    };
    if hand.packet.kind == Kind::IcmpError {
        cold_path();
        if error_from_external(ctx, hand) {
            return carry_out_error(ctx, hand);
        }
    }
    decide_from_external(ctx, hand)?;
    carry_out(ctx, hand)
}

// What decides is not inlined: with IPv6's addresses, one stack would not do for it and for what rewrites.

#[inline(never)]
fn decide_from_external<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let decision = external::from_external(&env, config, &hand.packet, skb::ifindex(ctx))?;
    hand.plan.set(&decision);
    Ok(())
}

/// Plans how an ICMP error is translated. False: it quotes nothing that was.
#[inline(never)]
fn error_from_external<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> bool {
    let env = Kernel { ctx };
    let Some(config) = Env::<F>::config(&env) else { return false };
    if !read_quoted(ctx, hand) {
        return false;
    }
    let translation = icmp::from_external(&env, config, &hand.packet, &hand.inner);
    translation.is_some_and(|translation| hand.set_error(&translation))
}

#[inline(always)]
fn leave_external<F: Path>(ctx: &TcContext) -> Result<i32, Reason> {
    let hand = skb::load::<F>(&Kernel { ctx })?;
    if hand.packet.kind == Kind::IcmpError {
        cold_path();
        if error_to_external(ctx, hand) {
            // A container's own name is one that its network or a flow has given it.
            let src_addr = &hand.plan.tuple.src_addr;
            let is_own = *src_addr == hand.packet.tuple.src_addr;
            if !is_own && Env::<F>::in_any_network(&Kernel { ctx }, src_addr) {
                return Err(Reason::Leak);
            }
            return carry_out_error(ctx, hand);
        }
    }
    decide_to_external(ctx, hand)?;
    carry_out(ctx, hand)
}

#[inline(never)]
fn decide_to_external<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let decision = external::to_external(&env, config, &hand.packet, skb::ifindex(ctx))?;
    hand.plan.set(&decision);
    Ok(())
}

/// As [`error_from_external`].
#[inline(never)]
fn error_to_external<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> bool {
    if !read_quoted(ctx, hand) {
        return false;
    }
    let translation = icmp::to_external(&Kernel { ctx }, &hand.packet, &hand.inner);
    translation.is_some_and(|translation| hand.set_error(&translation))
}

#[inline(never)]
fn read_quoted<F: Path>(ctx: &TcContext, hand: &mut Hand<F>) -> bool {
    skb::linearize(ctx, skb::MAX_HEADERS);
    let inner = Inner::parse(&Skb(ctx), &hand.packet);
    inner.is_ok_and(|inner| {
        hand.inner = inner;
        true
    })
}

#[inline(always)]
fn arrival(ctx: &TcContext) -> Result<Arrival, Reason> {
    let eth: EthHdr = Skb(ctx).get(0).ok_or(Reason::Malformed)?;
    Ok(Arrival { ifindex: skb::ifindex(ctx), src_mac: eth.src_addr, dst_mac: eth.dst_addr })
}

/// `passes` says which packets pass before anybody asks who may talk to whom.
#[inline(always)]
fn leave_container<F: Path>(
    ctx: &TcContext,
    passes: impl FnOnce(&Kernel<'_>, &Packet<F>, &Arrival) -> Result<bool, Reason>,
) -> Result<i32, Reason> {
    let arrival = arrival(ctx)?;
    let env = Kernel { ctx };
    let hand = skb::load::<F>(&env)?;
    if passes(&env, &hand.packet, &arrival)? {
        return Ok(PASS);
    }
    decide_from_container(ctx, hand, &arrival)?;
    if hand.plan.is_inside() {
        cold_path();
        // The agent has filled the table before it attaches anything.
        // SAFETY: the context is valid, and the program jumped to is of the same type.
        let _ = unsafe { maps::JUMPS.tail_call(ctx, F::INSIDE) };
        return Err(Reason::Isolated);
    }
    carry_out(ctx, hand)
}

#[inline(never)]
fn decide_from_container<F: Path>(ctx: &TcContext, hand: &mut Hand<F>, arrival: &Arrival) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let packet = &hand.packet;
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let sender = policy::sender::<F, _>(&env, &packet.tuple.src_addr, arrival)?;
    match policy::from_container(&env, config, packet, arrival, &sender)? {
        Step::Done(decision) => hand.plan.set(&decision),
        Step::Inside => hand.plan.set_inside(),
    }
    Ok(())
}

/// Goes on where `from_container` has jumped away, with the packet that it has read.
#[inline(always)]
fn stay_inside<F: Path>(ctx: &TcContext) -> Result<i32, Reason> {
    let hand = F::hand().ok_or(Reason::Malformed)?;
    // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
    let hand = unsafe { &mut *hand };
    let arrival = arrival(ctx)?;
    if hand.packet.kind == Kind::IcmpError {
        return if error_inside(ctx, hand, &arrival)? { carry_out_error(ctx, hand) } else { Ok(PASS) };
    }
    decide_inside(ctx, hand, &arrival)?;
    carry_out(ctx, hand)
}

#[inline(never)]
fn decide_inside<F: Path>(ctx: &TcContext, hand: &mut Hand<F>, arrival: &Arrival) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let packet = &hand.packet;
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let sender = policy::sender::<F, _>(&env, &packet.tuple.src_addr, arrival)?;
    let decision = inside::from_container(&env, config, packet, arrival, &sender)?;
    hand.plan.set(&decision);
    Ok(())
}

/// As [`error_from_external`]. False: the error passes as it is.
#[inline(always)]
fn error_inside<F: Path>(ctx: &TcContext, hand: &mut Hand<F>, arrival: &Arrival) -> Result<bool, Reason> {
    let is_read = read_quoted(ctx, hand);
    plan_error_inside(ctx, hand, arrival, is_read)?;
    Ok(!hand.plan.is_inside())
}

#[inline(never)]
fn plan_error_inside<F: Path>(
    ctx: &TcContext,
    hand: &mut Hand<F>,
    arrival: &Arrival,
    is_read: bool,
) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let packet = &hand.packet;
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let sender = policy::sender::<F, _>(&env, &packet.tuple.src_addr, arrival)?;
    let inner = is_read.then_some(&hand.inner);
    let translation = inside::error_from_container(&env, config, packet, inner, arrival, &sender)?;
    event::count(sender.endpoint.counter + 1, packet.l3.len);
    match translation {
        Some(translation) => {
            hand.set_error(&translation);
        }
        None => hand.plan.set_inside(),
    }
    Ok(())
}
