//! ARP from a container: it may speak for its own address only.

use aya_ebpf::programs::TcContext;
use netpath_common::{Addr4, Address, Reason};
use netpath_ebpf::{
    family::V4,
    packet::Bytes,
    policy::{self, Arrival},
};
use network_types::eth::EthHdr;

use super::{kernel::Kernel, skb::Skb};

/// An ARP packet for Ethernet and IPv4 (RFC 826), up to the sender's address.
#[derive(Clone, Copy)]
#[repr(C)]
struct ArpSender {
    _hardware: u16,
    _protocol: u16,
    _lengths: u16,
    _operation: u16,
    mac: [u8; 6],
    addr: [u8; 4],
}

/// Checks who an ARP packet speaks for. A probe (RFC 5227) speaks for nobody.
///
/// # Errors
///
/// [`Reason::SpoofedSource`], [`Reason::SpoofedMac`].
#[inline(always)]
pub(super) fn check(ctx: &TcContext, arrival: &Arrival) -> Result<(), Reason> {
    let sender: ArpSender = Skb(ctx).get(EthHdr::LEN).ok_or(Reason::Malformed)?;
    let addr = Addr4(sender.addr);
    if sender.mac != arrival.src_mac {
        return Err(Reason::SpoofedMac);
    }
    if addr == Addr4::UNSPECIFIED {
        return Ok(());
    }
    policy::sender::<V4, _>(&Kernel { ctx }, &addr, arrival)?;
    Ok(())
}
