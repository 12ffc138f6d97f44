//! The programs that make a container's new flow and that tell it of a refusal: others jump to them.

use aya_ebpf::{bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use netpath_common::Reason;
use netpath_ebpf::{
    conntrack,
    env::Env,
    family::{V4, V6},
    packet::Packet,
};

use super::{
    answer,
    entry::{jump, verdict},
    event,
    family_maps::FamilyMaps,
    hand::Parked,
    kernel::Kernel,
    maps,
};

/// Where programs jump to that need a flow made.
#[classifier]
pub(super) fn begin_flow(ctx: TcContext) -> i32 {
    verdict(&ctx, begin::<V4>(&ctx))
}

/// The same for IPv6.
#[classifier]
pub(super) fn begin_flow6(ctx: TcContext) -> i32 {
    verdict(&ctx, begin::<V6>(&ctx))
}

/// Where programs jump to that have refused a container's new flow, and have counted that.
#[classifier]
pub(super) fn answer_refusal(ctx: TcContext) -> i32 {
    answer::refusal::<V4>(&ctx)
}

/// The same for IPv6.
#[classifier]
pub(super) fn answer_refusal6(ctx: TcContext) -> i32 {
    answer::refusal::<V6>(&ctx)
}

/// Makes the flow that is parked for the packet in hand.
#[inline(always)]
fn begin<F: FamilyMaps>(ctx: &TcContext) -> Result<i32, Reason> {
    let (Some(hand), Some(parked)) = (F::hand(), F::parked()) else { return Err(Reason::Malformed) };
    // SAFETY: this CPU's own elements, and programs do not interrupt each other on one CPU.
    let (hand, parked) = unsafe { (&*hand, &mut *parked) };
    let created = create(ctx, &hand.packet, parked);
    if created == Err(Reason::PortTaken) {
        // As often as the kernel allows: still parked.
        jump::<F>(ctx, maps::jump::BEGIN_FLOW);
    }
    parked.clear();
    match created {
        Ok(()) => {
            jump::<F>(ctx, parked.asker);
            Err(Reason::FlowTableFull)
        }
        Err(reason) if reason.is_refusal() => {
            event::drop(ctx, reason);
            jump::<F>(ctx, maps::jump::ANSWER_REFUSAL);
            Ok(TC_ACT_SHOT)
        }
        Err(reason) => Err(reason),
    }
}

/// Not inlined, for a stack of its own.
#[inline(never)]
fn create<F: FamilyMaps>(ctx: &TcContext, packet: &Packet<F>, parked: &Parked<F>) -> Result<(), Reason> {
    let env = Kernel { ctx };
    let config = Env::<F>::config(&env).ok_or(Reason::EndpointGone)?;
    let request = parked.request(packet);
    conntrack::create(&env, config, &request)?;
    Ok(())
}
