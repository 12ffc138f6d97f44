//! External interfaces.

use crate::{Addr4, Addr6, map_type};

/// An external interface. Value of the hash map `EXTERNALS` keyed by ifindex (`u32`), written by the
/// agent, read by eBPF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct External {
    /// The interface's primary address: the source of what is masqueraded through it. All zero: none.
    pub addr4: Addr4,
    /// As `addr4`.
    pub addr6: Addr6,
    /// Hardware address. XDP leaves frames to others alone, which a promiscuous interface sees too.
    pub mac: [u8; 6],
    pub _pad: [u8; 2],
}

/// An interface from which the containers of a network may be reached by their own addresses. Key of the
/// hash map `TRUSTED` (value 1), written by the agent, read by eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct TrustedKey {
    pub ifindex: u32,
    /// Index into `NETWORKS`.
    pub network: u32,
}

map_type!(External = 28, TrustedKey = 8);

impl TrustedKey {
    #[inline(always)]
    pub const fn new(ifindex: u32, network: u32) -> Self {
        Self { ifindex, network }
    }
}
