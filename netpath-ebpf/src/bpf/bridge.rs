//! tc egress of a bridge, and of a container's host end without one: what the kernel sends to containers on its own road.
//!
//! External interfaces have programs that decide who may reach a container. Others have none: one without an address,
//! one that `--external` does not name, one that came up while no agent was there. What comes from them ends here.

use aya_ebpf::{macros::classifier, programs::TcContext};
use netpath_common::{Network, Reason, TrustedKey, network_flag};
use netpath_ebpf::{
    env::Env,
    family::{Family, V4, V6},
};

use super::{entry, forward::PASS, frame::Context as _, kernel::Kernel, maps, skb};

/// tc egress of a bridge, and of a container's host end without one.
#[classifier]
pub(super) fn to_bridge(ctx: TcContext) -> i32 {
    entry::verdict(&ctx, admit(&ctx))
}

/// Lets through what has been decided on: the host's own packets, those from external interfaces and from networks.
#[inline(always)]
fn admit(ctx: &TcContext) -> Result<i32, Reason> {
    let from = skb::ingress_ifindex(ctx);
    let env = Kernel { ctx };
    if from == 0 || network_of(from).is_some() || Env::<V4>::external(&env, from).is_some() {
        return Ok(PASS);
    }
    let index = network_of(ctx.ifindex()).ok_or(Reason::DirectAccess)?;
    let network = Env::<V4>::network(&env, index).ok_or(Reason::DirectAccess)?;
    let is_admitted = is_open(ctx, network) || Env::<V4>::is_trusted(&env, &TrustedKey::new(from, index));
    if is_admitted && !network.has(network_flag::INTERNAL) { Ok(PASS) } else { Err(Reason::DirectAccess) }
}

/// Index of the network that is behind this interface.
#[inline(always)]
fn network_of(ifindex: u32) -> Option<u32> {
    // SAFETY: one word; an interface that goes takes the containers behind it along.
    unsafe { maps::GATEWAYS.get(ifindex) }.copied()
}

/// Whether the network's containers are meant to be reached by their own addresses.
#[inline(always)]
fn is_open(ctx: &TcContext, network: &Network) -> bool {
    let flags = match ctx.ether_type() {
        V4::ETHER_TYPE => V4::ROUTED | V4::UNPROTECTED,
        V6::ETHER_TYPE => V6::ROUTED | V6::UNPROTECTED,
        _ => 0,
    };
    network.flags & flags != 0
}
