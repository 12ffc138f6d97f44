//! The two address families, and where the wires' addresses lie in each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `v4` or `v6`, whichever this is.
    pub fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }

    /// The unspecified address.
    pub fn any(self) -> IpAddr {
        self.pick(Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into())
    }

    pub fn loopback(self) -> IpAddr {
        self.pick(Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into())
    }

    /// The host's address on the wire to the client.
    pub const fn host(self) -> IpAddr {
        self.wire(0, 1)
    }

    /// The client's address.
    pub const fn client(self) -> IpAddr {
        self.wire(0, 2)
    }

    /// Another address of the client.
    pub const fn second_client(self) -> IpAddr {
        self.wire(0, 3)
    }

    /// The host's address on the wire to the neighbour: another machine on another interface.
    pub fn second_host(self) -> IpAddr {
        self.wire(1, 1)
    }

    /// The address of the machine behind the second wire.
    pub fn stranger(self) -> IpAddr {
        self.wire(1, 2)
    }

    /// Length of the prefix that a wire's addresses share.
    pub fn wire_prefix(self) -> u8 {
        self.pick(24, 64)
    }

    /// Address `number` on wire `wire`, 198.18.WIRE.NUMBER or 2001:db8:0:WIRE::NUMBER: for benchmarks (RFC 2544) and
    /// for documentation (RFC 3849).
    pub const fn wire(self, wire: u8, number: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(198, 18, wire, number)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, wire as u16, 0, 0, 0, number as u16)),
        }
    }
}
