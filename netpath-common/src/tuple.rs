//! The 5-tuple of a flow.

use crate::{Address, family_type};

/// IP protocol numbers.
pub mod proto {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    /// IPv6's extension headers: numbers of the same kind, with a transport header to follow.
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// Addresses are translated, ports are not: the checksum covers the whole packet (RFC 9260, 6.8).
    pub const SCTP: u8 = 132;
}

/// Addresses and ports of a flow as its packets carry them, seen from one direction.
///
/// Key of the map `FLOWS_*` (written and read by the eBPF programs, listed and swept by the agent),
/// seen from the container. For an ICMP request the identifier is the source port and the destination
/// port is 0, for a reply it is the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tuple<A> {
    pub src_addr: A,
    pub dst_addr: A,
    /// Host byte order.
    pub src_port: u16,
    /// Host byte order.
    pub dst_port: u16,
    pub proto: u8,
    // Not an array of three: LLVM would zero it with a call to a byte loop.
    _pad: u8,
    _pad2: u16,
}

family_type!(Tuple = 16, 40);

impl<A: Address> Tuple<A> {
    #[inline(always)]
    pub const fn new(src_addr: A, src_port: u16, dst_addr: A, dst_port: u16, proto: u8) -> Self {
        Self { src_addr, dst_addr, src_port, dst_port, proto, _pad: 0, _pad2: 0 }
    }

    /// The same flow as its replies carry it.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.dst_addr, self.dst_port, self.src_addr, self.src_port, self.proto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Addr4;

    #[test]
    fn reversing_twice_gives_the_tuple_back() {
        let tuple = Tuple::new(Addr4([10, 0, 0, 1]), 1234, Addr4([10, 0, 0, 2]), 80, proto::TCP);
        assert_eq!(tuple.reversed(), Tuple::new(Addr4([10, 0, 0, 2]), 80, Addr4([10, 0, 0, 1]), 1234, proto::TCP));
        assert_eq!(tuple.reversed().reversed(), tuple);
    }
}
