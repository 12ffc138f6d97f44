//! Neighbour discovery from a container: reads what [`netpath_ebpf::nd`] decides on.

use core::hint::cold_path;

use netpath_common::Reason;
use netpath_ebpf::{family::V6, nd, packet::Packet, policy::Arrival};
use network_types::eth::EthHdr;

use super::{
    kernel::Kernel,
    skb::{self, Skb},
};

/// Whether the packet is link-local signalling that passes.
///
/// # Errors
///
/// As [`nd::passes`].
#[inline(always)]
pub(super) fn passes(env: &Kernel<'_>, packet: &Packet<V6>, arrival: &Arrival) -> Result<bool, Reason> {
    if !nd::is_concerned(packet) {
        return Ok(false);
    }
    cold_path();
    skb::linearize(env.ctx, packet.l3.l4_off + nd::MAX_LEN);
    nd::passes(env, &Skb(env.ctx), EthHdr::LEN, packet, arrival)
}
