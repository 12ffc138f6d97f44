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

/// How many parts of a datagram that do not touch each other are remembered.
pub const RUNS: usize = 6;

/// A datagram whose first fragment was seen. Value of `FRAGMENTS_*`; the longest unused goes when the map is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Datagram {
    /// When its first fragment passed, in [`crate::seconds`].
    pub seen_s: u32,
    /// Its ports, host byte order.
    pub src_port: u16,
    pub dst_port: u16,
    /// Where it ends, in units of eight bytes; 0: its last fragment was not seen.
    pub end: u16,
    /// One of [`datagram_state`].
    pub state: u8,
    /// One of [`under_way`].
    pub under_way: u8,
    /// What has passed of it. Disjoint, not sorted, none touches another.
    pub runs: [Run; RUNS],
}

/// Values of [`Datagram::state`].
pub mod datagram_state {
    /// There is more to come.
    pub const OPEN: u8 = 0;
    /// Fragments overlapped (RFC 5722, 4): none of it passes any more.
    pub const BROKEN: u8 = 1;
    /// All of it has passed. Its identification may be another datagram's next.
    pub const COMPLETE: u8 = 2;
}

/// Values of [`Datagram::under_way`]. No later fragment leaves by an external interface unless it is `NO`.
pub mod under_way {
    /// The first fragment took a shortcut, or has left by an external interface.
    pub const NO: u8 = 0;
    /// It went the kernel's road, and has come to no external interface yet.
    pub const YES: u8 = 1;
    /// It was dropped there. A repetition begins the datagram anew.
    pub const DROPPED: u8 = 2;
}

/// Part of a datagram, in units of eight bytes: from `start` on, up to `end`. Nothing if they are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Run {
    pub start: u16,
    pub end: u16,
}

/// Bytes of the largest frame that is held back until its datagram's first fragment comes.
pub const HELD_LEN: usize = 1520;

/// A frame that is held back. An element of the array `HELD`, written and read by eBPF.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Held {
    /// A hash that names its datagram; 0: nothing is held here.
    pub datagram: u64,
    /// When it came, in [`crate::seconds`].
    pub seen_s: u32,
    /// The interface it came by.
    pub ifindex: u32,
    /// Bytes of the frame.
    pub len: u32,
    /// Not 0: the host has got the frame too, in case that the datagram is its own.
    pub is_copy: u32,
    pub bytes: [u8; HELD_LEN],
}

/// Datagrams of the same two ends share as many elements of `HELD`. An element of the array `HELD_BUCKETS`, written and
/// read by eBPF.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct HeldBucket {
    /// When a frame was last held in it, in [`crate::seconds`].
    pub last_s: u32,
    /// Place of the next one.
    pub hand: u32,
}

map_type!(Datagram = 36, Run = 4, Held = 1544, HeldBucket = 8);
family_type!(FragmentKey = 16, 40);

impl<A: Address> FragmentKey<A> {
    #[inline(always)]
    pub const fn new(src_addr: A, dst_addr: A, id: u32, proto: u8) -> Self {
        Self { src_addr, dst_addr, id, proto, _pad: 0, _pad2: 0 }
    }
}
