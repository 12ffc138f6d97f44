//! The same promises for IPv4, and where everybody is in it.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use crate::frame::ICMP4;

#[path = "fragment.rs"]
mod fragment;
#[path = "hairpin.rs"]
mod hairpin;
#[path = "icmp_error.rs"]
mod icmp_error;
#[path = "translation.rs"]
mod translation;
#[path = "verdict.rs"]
mod verdict;
#[path = "xdp.rs"]
mod xdp;

pub(crate) use netpath_tests::program_world::HOST4 as HOST;
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));
pub(crate) const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
pub(crate) const C1: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 2));
pub(crate) const C2: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 3));

pub(crate) const ICMP: u8 = ICMP4;
/// Type and code of errors: too big, unreachable, time exceeded, parameter problem, source quench.
pub(crate) const ERRORS: [[u8; 2]; 5] = [[3, 4], [3, 3], [11, 0], [12, 0], [4, 0]];
/// Type and code of a port that is unreachable.
pub(crate) const UNREACHABLE: [u8; 2] = [3, 3];
/// The shortest quotation that is of use: a network header and eight bytes.
pub(crate) const SHORTEST: usize = 28;

pub(crate) const HEADER_LEN: usize = 20;
pub(crate) const ETHER_TYPE: [u8; 2] = [0x08, 0x00];
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// In the containers' subnet, but of no container.
pub(crate) const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 9, 9));
/// In nobody's subnet.
pub(crate) const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));
/// Where a TCP frame with four bytes of data gets which value that contradicts the rest of it: version, length, data
/// offset.
pub(crate) const CONTRADICTIONS: [(usize, u8); 7] =
    [(14, 0x44), (14, 0x65), (14, 0x4f), (17, 19), (17, 200), (46, 0x40), (46, 0x70)];

pub(crate) fn any_addr() -> impl Strategy<Value = IpAddr> {
    any::<[u8; 4]>().prop_map(IpAddr::from)
}

/// Whether an address lies in the containers' subnet.
pub(crate) fn is_inside(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V4(addr) if addr.octets()[..2] == [172, 17])
}
