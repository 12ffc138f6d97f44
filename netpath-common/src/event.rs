//! Events for `netpath monitor`.

use crate::{Addr6, map_type};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A packet was dropped; [`Event::reason`] says why.
    Drop = 1,
    /// A masqueraded flow began.
    NewFlow = 2,
}

/// One event, in the ring buffer `EVENTS`: written by eBPF while [`crate::config_flag::MONITOR`] is
/// set, read by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// An [`EventKind`] as a number.
    pub kind: u32,
    /// A [`crate::Reason`] as a number, 0 for a new flow.
    pub reason: u32,
    /// Interface the packet was seen on.
    pub ifindex: u32,
    /// L3 length in bytes.
    pub len: u32,
    /// IPv4 addresses stand in the first four bytes.
    pub src_addr: Addr6,
    pub dst_addr: Addr6,
    /// Host byte order, as all ports.
    pub src_port: u16,
    pub dst_port: u16,
    /// Host port of a new flow, else 0.
    pub nat_port: u16,
    pub proto: u8,
    /// 4, 6, or 0 where the packet is neither.
    pub family: u8,
}

map_type!(Event = 56);
