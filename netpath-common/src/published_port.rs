//! Published ports: the two read-only maps that translate without state.

use crate::{Addr4, Addr6, Address, map_type};

/// One port of one address.
///
/// Key of `PUBLISHED_PORTS_*` (host address and port) and of `PUBLISHED_SOURCES_*` (container address
/// and port). The agent writes both maps, the eBPF programs read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PortKey<A> {
    pub addr: A,
    /// Host byte order.
    pub port: u16,
    pub proto: u8,
    _pad: u8,
}

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
    /// Container port, host byte order.
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
    /// The host address is a bridge's own: not reachable from outside.
    pub const INSIDE_ONLY: u16 = 4;
}

/// What a container's published port is called outside. Value of `PUBLISHED_SOURCES_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortSource<A> {
    pub addr: A,
    /// Index into `COUNTERS` of the port binding.
    pub counter: u32,
    /// Host port, host byte order.
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

map_type!(
    PortKey<Addr4> = 8,
    PortKey<Addr6> = 20,
    PortTarget = 16,
    PortSource<Addr4> = 12,
    PortSource<Addr6> = 24,
);

impl<A: Address> PortKey<A> {
    #[inline(always)]
    pub const fn new(addr: A, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, _pad: 0 }
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
