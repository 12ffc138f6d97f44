//! Endpoints (a container's interface) and the networks they belong to.

use crate::{Addr4, Addr6, Config, config_flag, map_type};

/// A container's interface. Value of the array `ENDPOINTS`, written by the agent, read by eBPF.
///
/// An index may be used again, a generation never is: entries elsewhere name both, so that all of
/// them die at the moment the endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Never 0 for a live endpoint, never used twice.
    pub generation: u32,
    /// Interface index of the veth end on the host.
    pub ifindex: u32,
    /// Index into `NETWORKS`.
    pub network: u32,
    /// Index into `COUNTERS`: packets to the container; the next index counts packets from it.
    pub counter: u32,
    pub addr4: Addr4,
    /// All zero without IPv6.
    pub addr6: Addr6,
    /// Hardware address of the container's end.
    pub mac: [u8; 6],
    /// Bits of [`endpoint_flag`].
    pub flags: u16,
    /// Interface index of what the container's packets to elsewhere come to: the network's bridge, or `ifindex` where
    /// there is none.
    pub gateway_ifindex: u32,
    /// Its hardware address.
    pub gateway_mac: [u8; 6],
    pub _pad: [u8; 2],
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flag {
    /// The container's end takes frames that XDP redirects: it has a NAPI context, as a veth has while its
    /// generic receive offload is on (Linux 5.13, commit d3256efd8e8b). Without one they would vanish.
    pub const XDP: u16 = 1;
    /// No other container of its network may talk to it, nor it to them, but by links. Packets to groups and ICMP errors
    /// pass: with a look at this flag there the verifiers of 5.10 and 6.1 refuse the programs, for their stack.
    pub const NO_ICC: u16 = 2;
}

/// A network: a bridge, or interfaces that the host reaches one by one. Value of the array `NETWORKS`, written by the agent, read by eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Network {
    /// Bits of [`network_flag`]; 0 means there is no such network.
    pub flags: u32,
    /// Interface index of the bridge; 0 without one.
    pub ifindex: u32,
    /// Largest L3 packet in bytes that the network's interfaces take.
    pub mtu: u32,
    /// Index into `COUNTERS`: masqueraded packets; the next index counts packets between its containers.
    pub counter: u32,
    /// The subnet: an address is in it if it equals `prefix4` under `mask4`.
    pub prefix4: Addr4,
    pub mask4: Addr4,
    pub prefix6: Addr6,
    pub mask6: Addr6,
    /// Address of the host in the network; all zero if it has none.
    pub gateway4: Addr4,
    pub gateway6: Addr6,
}

/// Bits of [`Network::flags`].
pub mod network_flag {
    /// The network exists.
    pub const EXISTS: u32 = 1;
    /// Containers of the network may talk to each other.
    pub const ICC: u32 = 2;
    /// IPv4 packets that leave by an external interface get its address.
    pub const MASQUERADE4: u32 = 4;
    /// The same for IPv6.
    pub const MASQUERADE6: u32 = 8;
    /// Nothing leaves the network but to the bridge's own address, and nothing comes in.
    pub const INTERNAL: u32 = 16;
    /// Gateway mode `routed` for IPv4: containers are reached and known outside by their own addresses,
    /// at their published ports and by ping.
    pub const ROUTED4: u32 = 32;
    /// The same for IPv6.
    pub const ROUTED6: u32 = 64;
    /// Gateway mode `nat-unprotected` for IPv4: every port of a container is reached at its own address.
    pub const UNPROTECTED4: u32 = 128;
    /// The same for IPv6.
    pub const UNPROTECTED6: u32 = 256;
    /// From some interfaces published ports are reached at the container's own address too: see `TRUSTED`.
    pub const TRUSTED: u32 = 512;
    /// Packets from and to outside take the kernel's road, whatever the configuration says: what others have set up there,
    /// as rules of netfilter, applies to them.
    pub const NO_SHORTCUTS: u32 = 1024;
}

map_type!(Endpoint = 56, Network = 76);

impl Endpoint {
    pub const EMPTY: Self = Self {
        generation: 0,
        ifindex: 0,
        network: 0,
        counter: 0,
        addr4: Addr4([0; 4]),
        addr6: Addr6([0; 16]),
        mac: [0; 6],
        flags: 0,
        gateway_ifindex: 0,
        gateway_mac: [0; 6],
        _pad: [0; 2],
    };

    /// Whether a bit of [`endpoint_flag`] is set.
    #[inline(always)]
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

impl Network {
    pub const EMPTY: Self = Self {
        flags: 0,
        ifindex: 0,
        mtu: 0,
        counter: 0,
        prefix4: Addr4([0; 4]),
        mask4: Addr4([0; 4]),
        prefix6: Addr6([0; 16]),
        mask6: Addr6([0xff; 16]),
        gateway4: Addr4([0; 4]),
        gateway6: Addr6([0; 16]),
    };

    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether packets of the network may skip the kernel's stack.
    #[inline(always)]
    pub const fn takes_shortcuts(&self, config: &Config) -> bool {
        config.flags & config_flag::SHORTCUTS != 0 && !self.has(network_flag::NO_SHORTCUTS)
    }
}
