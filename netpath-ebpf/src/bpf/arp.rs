//! ARP from a container: it may speak for its own address only.

use aya_ebpf::programs::TcContext;
use netpath_common::{Addr4, Address, Reason};
use netpath_ebpf::{
    family::V4,
    packet::Bytes,
    policy::{self, Arrival},
};
use network_types::eth::EthHdr;

use super::{frame::Frame, kernel::Kernel};

/// An ARP packet for Ethernet and IPv4 (RFC 826).
#[derive(Clone, Copy)]
#[repr(C)]
struct ArpPacket {
    _hardware: u16,
    _protocol: u16,
    _lengths: u16,
    _operation: u16,
    mac: [u8; 6],
    addr: [u8; 4],
    _target_mac: [u8; 6],
    target: [u8; 4],
}

/// Checks who an ARP packet speaks for. A probe (RFC 5227, 2.1.1) has no sender's address: it asks for the one that
/// the sender is about to have.
///
/// # Errors
///
/// [`Reason::SpoofedSource`], [`Reason::SpoofedMac`].
#[inline(always)]
pub(super) fn check(ctx: &TcContext, arrival: &Arrival) -> Result<(), Reason> {
    let packet: ArpPacket = Frame(ctx).get(EthHdr::LEN).ok_or(Reason::Malformed)?;
    if packet.mac != arrival.src_mac {
        return Err(Reason::SpoofedMac);
    }
    let sender = Addr4(packet.addr);
    let addr = if sender == Addr4::UNSPECIFIED { Addr4(packet.target) } else { sender };
    policy::sender::<V4, _>(&Kernel { ctx }, &addr, arrival)?;
    Ok(())
}
