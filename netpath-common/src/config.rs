//! Settings of the data plane.

use crate::{External, map_type};

/// Marks the layout of all pinned maps. Changes whenever a shared type or the meaning of a field does;
/// an agent refuses pins of another layout.
pub const LAYOUT: u64 = 0x6e65_7470_6174_680a;

/// Settings of the data plane. The one element of the array `CONFIG`, written by the agent, read by
/// eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// [`LAYOUT`] of the agent that made the maps.
    pub layout: u64,
    /// Key of the hash that chooses masquerade ports: random per host, so that nobody can guess them.
    pub hash_key: u64,
    /// Of the host's network namespace (`SO_NETNS_COOKIE`): the programs on the root cgroup look at its
    /// sockets only.
    pub netns_cookie: u64,
    /// Bits of [`config_flag`].
    pub flags: u32,
    /// Number of entries of `FLOW_RING_*`.
    pub max_flows: u32,
    pub timeouts: Timeouts,
    /// Masquerade ports for inside ports from 1024 up.
    pub ports: PortRange,
    /// Masquerade ports for inside ports below 1024.
    pub privileged_ports: PortRange,
    /// A copy of one entry of `EXTERNALS`, which spares most packets the look-up; ifindex 0: none.
    pub primary_ifindex: u32,
    pub primary: External,
}

/// Bits of [`Config::flags`].
pub mod config_flag {
    /// Redirect past the stack where that gives the same result.
    pub const SHORTCUTS: u32 = 1;
    /// Somebody reads `EVENTS`.
    pub const MONITOR: u32 = 2;
    /// IPv6's programs are attached wherever IPv4's are. Until then what containers send of IPv6 is dropped.
    pub const IPV6: u32 = 4;
}

/// How long a flow may be silent, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Timeouts {
    /// UDP without a reply.
    pub udp_unreplied: u32,
    /// UDP, replied to.
    pub udp: u32,
    /// TCP, established.
    pub tcp: u32,
    /// TCP, opening or closing.
    pub tcp_transitory: u32,
    /// ICMP queries.
    pub icmp: u32,
    pub _pad: u32,
}

/// A range of ports, both ends included, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

map_type!(Config = 96, Timeouts = 24, PortRange = 4);

impl Config {
    /// 0, which the verifier does not know: a number that it knows is any number again once this is or'ed to
    /// it, and states that differ in nothing else are one.
    #[inline(always)]
    pub const fn zero(&self) -> u32 {
        self.timeouts._pad
    }
}

impl Default for Timeouts {
    /// RFC 4787 REQ-5 (UDP, recommended value), RFC 5382 REQ-5 (TCP), RFC 5508 REQ-2 (ICMP).
    fn default() -> Self {
        Self { udp_unreplied: 120, udp: 300, tcp: 7440, tcp_transitory: 240, icmp: 60, _pad: 0 }
    }
}

impl PortRange {
    /// Number of ports, at least 1.
    #[inline(always)]
    pub const fn len(&self) -> u32 {
        (self.last.wrapping_sub(self.first) as u32) + 1
    }

    /// Never true: a range has at least one port.
    pub const fn is_empty(&self) -> bool {
        false
    }

    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        port >= self.first && port <= self.last
    }
}
