//! Counters.

use crate::map_type;

/// Packets and bytes (L3 length, in bytes). Value of the per-CPU maps `COUNTERS` and `DROPS`, written
/// by eBPF, read by the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// Where a packet was dropped and why. Key of the per-CPU hash map `DROPS`, written by eBPF,
/// read by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DropKey {
    /// Interface the packet was seen on: the veth of an endpoint, or an external interface.
    pub ifindex: u32,
    /// A [`crate::Reason`] as a number.
    pub reason: u32,
}

map_type!(Counter = 16, DropKey = 8);
