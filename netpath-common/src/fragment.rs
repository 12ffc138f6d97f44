//! Fragments: only the first one of a datagram carries the ports.

use crate::{Address, family_type, map_type};

/// What all fragments of a datagram have in common (RFC 791, 3.2). Key of `FRAGMENTS_*`, written and
/// read by eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey<A> {
    pub src_addr: A,
    pub dst_addr: A,
    /// As it lies in memory.
    pub id: u32,
    pub proto: u8,
    _pad: u8,
    _pad2: u16,
}

/// Ports of a datagram, host byte order. Value of `FRAGMENTS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ports {
    pub src_port: u16,
    pub dst_port: u16,
}

map_type!(Ports = 4);
family_type!(FragmentKey = 16, 40);

impl<A: Address> FragmentKey<A> {
    #[inline(always)]
    pub const fn new(src_addr: A, dst_addr: A, id: u32, proto: u8) -> Self {
        Self { src_addr, dst_addr, id, proto, _pad: 0, _pad2: 0 }
    }
}
