//! Sockets of the host that talk to a published port.

use crate::{Address, family_type};

/// A container's address and port as a socket of the host really uses it. Key of `HOST_PEERS_*`; the
/// programs on the root cgroup write and read them. The longest unused goes when the map is full: a
/// socket then sees the container's own address in place of the one it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HostPeerKey<A> {
    /// Half of the socket's cookie each, low half first: a `u64` would leave padding behind some addresses.
    cookie: [u32; 2],
    pub addr: A,
    /// Host byte order.
    pub port: u16,
    _pad: u16,
}

/// The address and port that the socket's owner asked for. Value of `HOST_PEERS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct HostPeer<A> {
    pub addr: A,
    /// Host byte order.
    pub port: u16,
    pub _pad: u16,
}

family_type!(HostPeerKey = 16, 28; HostPeer = 8, 20);

impl<A: Address> HostPeerKey<A> {
    #[inline(always)]
    pub const fn new(cookie: u64, addr: A, port: u16) -> Self {
        Self { cookie: [cookie as u32, (cookie >> 32) as u32], addr, port, _pad: 0 }
    }
}

impl<A: Address> HostPeer<A> {
    #[inline(always)]
    pub const fn new(addr: A, port: u16) -> Self {
        Self { addr, port, _pad: 0 }
    }
}
