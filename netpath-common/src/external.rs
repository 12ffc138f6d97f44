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
}

map_type!(External = 20);
