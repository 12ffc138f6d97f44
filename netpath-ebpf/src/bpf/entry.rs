//! The entry points, one per hook, and the one place where a [`Reason`] becomes a verdict.

use core::hint::cold_path;

use aya_ebpf::{bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use netpath_common::Reason;
use netpath_ebpf::{
    decision::Out,
    env::Env,
    external,
    family::{Family, V4},
    icmp::{self, Inner},
    packet::{Bytes, Kind, Packet},
    policy::{self, Arrival},
};
use network_types::eth::EthHdr;

use super::{
    arp, event,
    family_maps::FamilyMaps,
    forward::{NextHop, PASS, carry_out, redirect_peer},
    icmp::rewrite_error,
    kernel::Kernel,
    rewrite::StoreL3,
    skb::{self, Skb},
};

const ARP: u16 = 0x0806;

/// tc ingress of an external interface.
#[classifier]
pub(super) fn from_external(ctx: TcContext) -> i32 {
    verdict(
        &ctx,
        match skb::ether_type(&ctx) {
            V4::ETHER_TYPE if !skb::is_for_others(&ctx) => arrive_external::<V4>(&ctx),
            _ => Ok(PASS),
        },
    )
}

/// tc egress of an external interface.
#[classifier]
pub(super) fn to_external(ctx: TcContext) -> i32 {
    verdict(
        &ctx,
        match skb::ether_type(&ctx) {
            V4::ETHER_TYPE => leave_external::<V4>(&ctx),
            _ => Ok(PASS),
        },
    )
}

/// tc ingress of a container's host-side veth: what the container sends.
#[classifier]
pub(super) fn from_container(ctx: TcContext) -> i32 {
    verdict(&ctx, arrive_container(&ctx))
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
    let env = Kernel { ctx };
    let packet = match skb::load::<F>(&env) {
        Ok(packet) => packet,
        // Whoever it is for, the stack knows best what to do with a broken packet; it is not forwarded.
        Err(_) => return Ok(PASS),
    };
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    if packet.kind == Kind::IcmpError
        && let Some(verdict) = error_from_external(&env, config, packet)?
    {
        return Ok(verdict);
    }
    let decision = external::from_external(&env, config, packet)?;
    carry_out(ctx, packet, &decision)
}

#[inline(always)]
fn error_from_external<F: Path>(
    env: &Kernel<'_>,
    config: &netpath_common::Config,
    packet: &Packet<F>,
) -> Result<Option<i32>, Reason> {
    cold_path();
    let ctx = env.ctx;
    skb::linearize(ctx, packet.l3.l4_off + 48);
    let Ok(inner) = Inner::parse(&Skb(ctx), packet) else { return Ok(None) };
    let Some(translation) = icmp::from_external(env, config, packet, &inner) else { return Ok(None) };
    let (hops, verdict) = match translation.out {
        Out::Container(ifindex) => (packet.l3.ttl - 1, Some(ifindex)),
        Out::Kernel | Out::Sibling(_) | Out::External { .. } => (packet.l3.ttl, None),
    };
    rewrite_error(ctx, packet, &inner, &translation, hops)?;
    Ok(Some(verdict.map_or(PASS, redirect_peer)))
}

#[inline(always)]
fn leave_external<F: Path>(ctx: &TcContext) -> Result<i32, Reason> {
    let env = Kernel { ctx };
    let packet = skb::load::<F>(&env)?;
    if packet.kind == Kind::IcmpError {
        cold_path();
        skb::linearize(ctx, packet.l3.l4_off + 48);
        if let Ok(inner) = Inner::parse(&Skb(ctx), packet)
            && let Some(translation) = icmp::to_external(&env, packet, &inner)
        {
            if Env::<F>::in_any_network(&env, &translation.src_addr) {
                return Err(Reason::Leak);
            }
            rewrite_error(ctx, packet, &inner, &translation, packet.l3.ttl)?;
            return Ok(PASS);
        }
    }
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let decision = external::to_external(&env, config, packet, skb::ifindex(ctx))?;
    carry_out(ctx, packet, &decision)
}

#[inline(always)]
fn arrive_container(ctx: &TcContext) -> Result<i32, Reason> {
    let eth: EthHdr = Skb(ctx).get(0).ok_or(Reason::Malformed)?;
    let arrival = Arrival { ifindex: skb::ifindex(ctx), src_mac: eth.src_addr, dst_mac: eth.dst_addr };
    match skb::ether_type(ctx) {
        V4::ETHER_TYPE => arrive_container_ip::<V4>(ctx, &arrival),
        ARP => arp::check(ctx, &arrival).map(|()| PASS),
        _ => Err(Reason::UnknownProtocol),
    }
}

#[inline(always)]
fn arrive_container_ip<F: Path>(ctx: &TcContext, arrival: &Arrival) -> Result<i32, Reason> {
    let env = Kernel { ctx };
    let packet = skb::load::<F>(&env)?;
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let sender = policy::sender::<F, _>(&env, &packet.tuple.src_addr, arrival)?;
    let decision = policy::from_container(&env, config, packet, arrival, &sender)?;
    carry_out(ctx, packet, &decision)
}
