//! The same promises for IPv6, and where everybody is in it.

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use crate::frame::ICMP6;

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

pub(crate) use netpath_tests::program_world::HOST6 as HOST;
pub(crate) const CLIENT: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
pub(crate) const ROUTER: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 9));
pub(crate) const C1: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 2));
pub(crate) const C2: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 3));

pub(crate) const ICMP: u8 = ICMP6;
/// Type and code of errors: too big, unreachable, time exceeded, parameter problem.
pub(crate) const ERRORS: [[u8; 2]; 5] = [[2, 0], [1, 4], [1, 0], [3, 0], [4, 1]];
/// Type and code of a port that is unreachable.
pub(crate) const UNREACHABLE: [u8; 2] = [1, 4];
/// The shortest quotation that is of use: a network header and eight bytes.
pub(crate) const SHORTEST: usize = 48;

pub(crate) const HEADER_LEN: usize = 40;
pub(crate) const ETHER_TYPE: [u8; 2] = [0x86, 0xdd];
pub(crate) const LOOPBACK: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// In the containers' subnet, but of no container.
pub(crate) const NOBODY: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 9, 9));
/// In nobody's subnet.
pub(crate) const STRANGER: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 9, 9));
/// Where a TCP frame with four bytes of data gets which value that contradicts the rest of it: version, length, data
/// offset.
pub(crate) const CONTRADICTIONS: [(usize, u8); 6] =
    [(14, 0x40), (14, 0x50), (19, 19), (19, 200), (66, 0x40), (66, 0x70)];

pub(crate) fn any_addr() -> impl Strategy<Value = IpAddr> {
    any::<[u8; 16]>().prop_map(IpAddr::from)
}

/// Whether an address lies in the containers' subnet.
pub(crate) fn is_inside(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.segments()[..4] == [0xfd00, 0x17, 0, 0])
}
