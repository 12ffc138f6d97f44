//! Links: pairs of containers that may talk though their network refuses it.

use crate::map_type;

/// An exposed port of one container that another may use. Key of `LINKS`, written by the agent, read by
/// eBPF. Generations are never used twice, so an entry is dead as soon as one of its endpoints is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct LinkKey {
    /// Generation of the endpoint that may open connections.
    pub from: u32,
    /// Generation of the endpoint that exposes the port.
    pub to: u32,
    /// Port of `to`, host byte order.
    pub port: u16,
    pub proto: u8,
    _pad: u8,
}

/// Value of `LINKS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Link {
    /// Index into `COUNTERS`: packets to the exposed port; the next index counts replies.
    pub counter: u32,
}

map_type!(LinkKey = 12, Link = 4);

impl LinkKey {
    #[inline(always)]
    pub const fn new(from: u32, to: u32, port: u16, proto: u8) -> Self {
        Self { from, to, port, proto, _pad: 0 }
    }
}
