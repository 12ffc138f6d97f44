//! Published ports: the two read-only maps that translate without state.

use crate::{Address, family_type, map_type};

/// One port of one address, or a block of 256 ports that are published together.
///
/// Key of `PUBLISHED_PORTS_*` (host address and port) and of `PUBLISHED_SOURCES_*` (container address
/// and port). The agent writes both maps, the eBPF programs read them. A look-up asks for the port first,
/// then for its block; a range of ports is its whole blocks and its single ports at both ends.
///
/// The unspecified address stands for a binding to all host addresses; only the host's own sockets look
/// there, for destinations in 127.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PortKey<A> {
    pub addr: A,
    /// Host byte order.
    pub port: u16,
    pub proto: u8,
    /// 0: one port; 1: a block.
    kind: u8,
}

/// Ports in a block.
pub const BLOCK_LEN: u16 = 256;

/// Where a published port leads. Value of `PUBLISHED_PORTS_*`.
///
/// It is dead as soon as the endpoint at `endpoint` has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortTarget {
    /// Index into `ENDPOINTS`.
    pub endpoint: u32,
    pub generation: u32,
    /// Index into `COUNTERS` of the port binding.
    pub counter: u32,
    /// Container port, host byte order; of a block the one that its first port leads to.
    pub port: u16,
    /// Bits of [`target_flag`].
    pub flags: u16,
}

/// Bits of [`PortTarget::flags`].
pub mod target_flag {
    /// The container port has another name that replies get (see [`super::PortSource`]), so a client of
    /// this one needs a flow.
    pub const NEEDS_FLOW: u16 = 1;
    /// The container port has other names, but replies get this one: a flow of another name that the
    /// same client used before ends here.
    pub const ENDS_FLOW: u16 = 2;
    /// The host address is a bridge's own, loopback or unspecified: not reachable from outside.
    pub const INSIDE_ONLY: u16 = 4;
    /// Only sources in `ALLOWED_*` may use it.
    pub const ALLOW_LIST: u16 = 8;
    /// The port lies in the host's ephemeral range: a connection of the host's own may have it.
    pub const EPHEMERAL: u16 = 16;
    /// Somebody keeps the port from others by a socket of his own, as Docker Engine does: no `bind` is refused for it.
    pub const KEPT_ELSEWHERE: u16 = 32;
}

/// What a container's published port is called outside. Value of `PUBLISHED_SOURCES_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortSource<A> {
    pub addr: A,
    /// Index into `COUNTERS` of the port binding.
    pub counter: u32,
    /// Host port, host byte order; of a block the one that its first port is called.
    pub port: u16,
    /// Bits of [`source_flag`].
    pub flags: u16,
}

/// Bits of [`PortSource::flags`].
pub mod source_flag {
    /// The container port is published at more than one (address, port): a reply first looks for the
    /// flow of its client in `FLOWS_*`, and takes this source if there is none.
    pub const AMBIGUOUS: u16 = 1;
}

/// A source that may use a published port: the data of a key of the LPM tries `ALLOWED_*`, whose prefix
/// length is 32 plus that of the address. Written by the agent, read by eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct AllowedSource<A> {
    /// [`PortTarget::counter`] of the port binding.
    pub binding: u32,
    pub addr: A,
}

/// The word of the arrays `PORT_BITS`, `SOURCE_BITS` and `RESERVED_*` that a port's bit lies in, and the bit; `None` for a
/// protocol without ports. A bit says that `PUBLISHED_PORTS_*` or `PUBLISHED_SOURCES_*` has the port at some
/// address, of either family, or that a host address of the family has it. The agent writes the words, eBPF reads them before it looks further.
#[inline(always)]
pub const fn port_bit(proto: u8, port: u16) -> Option<(u32, u64)> {
    let class = match proto {
        crate::proto::TCP => 0,
        crate::proto::UDP => 1,
        crate::proto::SCTP => 2,
        _ => return None,
    };
    Some((class * 1024 + port as u32 / 64, 1 << (port % 64)))
}

/// Number of words of each of these arrays.
pub const PORT_BITS_WORDS: u32 = 3 * 1024;

map_type!(PortTarget = 16);
family_type!(AllowedSource = 8, 20; PortKey = 8, 20; PortSource = 12, 24);

impl<A: Address> PortKey<A> {
    #[inline(always)]
    pub const fn new(addr: A, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, kind: 0 }
    }

    /// The block of 256 ports that `port` lies in.
    #[inline(always)]
    pub const fn block(addr: A, port: u16, proto: u8) -> Self {
        Self { addr, port: port & !(BLOCK_LEN - 1), proto, kind: 1 }
    }

    /// Turns the key into that of the block.
    #[inline(always)]
    pub const fn widen(&mut self) {
        self.port &= !(BLOCK_LEN - 1);
        self.kind = 1;
    }

    pub const fn is_block(&self) -> bool {
        self.kind != 0
    }
}

impl PortTarget {
    pub const fn new(endpoint: u32, generation: u32, port: u16, flags: u16, counter: u32) -> Self {
        Self { endpoint, generation, counter, port, flags }
    }
}

impl<A: Address> PortSource<A> {
    pub const fn new(addr: A, port: u16, flags: u16, counter: u32) -> Self {
        Self { addr, counter, port, flags }
    }
}
