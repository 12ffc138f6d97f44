//! Shares: what each container has of the table of flows.

use crate::map_type;

/// What an endpoint has of the table of flows. Value of the arrays `SHARES_*`, by the endpoint's index; element 0 is
/// for all endpoints together. Written by eBPF, put right by the agent's sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Share {
    /// Number of flows in the table, dead ones that nobody has collected yet among them. Two's complement: corrections
    /// may take it below zero for a moment.
    pub flows: u64,
    /// The second, in [`crate::seconds`], in which `answered` was begun.
    pub answered_s: u32,
    /// Refusals that were answered in that second.
    pub answered: u32,
}

map_type!(Share = 16);

impl Share {
    /// Number of flows.
    #[inline(always)]
    pub const fn flows(&self) -> u32 {
        if (self.flows as i64) < 0 { 0 } else { self.flows as u32 }
    }
}
