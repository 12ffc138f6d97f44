//! Where everybody is in IPv6.

use std::net::Ipv6Addr;

use netpath_common::{Addr6, Endpoint, External, Network, proto};
pub(crate) use netpath_ebpf::family::V6 as Family;
use netpath_ebpf::ipv6::link_local;

use crate::world::{self, Place};

pub(crate) type Addr = Addr6;
pub(crate) type World = world::World<Family>;

/// The host at its external interface.
pub(crate) const HOST: Addr = addr([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x1]);
pub(crate) const CLIENT: Addr = addr([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x2]);
pub(crate) const OTHER_CLIENT: Addr = addr([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x3]);
/// Another address of the host.
pub(crate) const OTHER_HOST: Addr = addr([0x2001, 0xdb8, 0x9, 0, 0, 0, 0, 0x9]);
/// A router on the way to nowhere in particular.
pub(crate) const ROUTER: Addr = addr([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x9]);
/// The bridge.
pub(crate) const GATEWAY: Addr = addr([0xfd00, 0x17, 0, 0, 0, 0, 0, 0x1]);
/// The second network's bridge.
pub(crate) const SECOND_GATEWAY: Addr = addr([0xfd00, 0x19, 0, 0, 0, 0, 0, 0x1]);
/// In the containers' subnet, but of no container.
pub(crate) const NOBODY: Addr = addr([0xfd00, 0x17, 0, 0, 0, 0, 0, 0x99]);
/// In another container network.
pub(crate) const ELSEWHERE: Addr = addr([0xfd00, 0x18, 0, 0, 0, 0, 0, 0x1]);
pub(crate) const LOOPBACK: Addr = addr([0, 0, 0, 0, 0, 0, 0, 0x1]);
/// For more than one receiver.
pub(crate) const GROUPS: [Addr; 2] = [addr([0xff02, 0, 0, 0, 0, 0, 0, 0x1]), addr([0xff0e, 0, 0, 0, 0, 0, 0, 0xfb])];

pub(crate) const ICMP: u8 = proto::ICMPV6;
/// Where a frame has its hop count and its protocol.
pub(crate) const HOPS_OFF: usize = 14 + 7;
pub(crate) const PROTO_OFF: usize = 14 + 6;

const fn addr(groups: [u16; 8]) -> Addr {
    let [a, b, c, d, e, f, g, h] = groups;
    Addr6::new(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

/// Second group of the addresses in container `n`'s network.
const fn subnet(n: u8) -> u16 {
    if n < 4 { 0x17 } else { 0x19 }
}

/// Address of container number `n`, from 1; those from 4 are in the second network.
pub(crate) const fn container(n: u8) -> Addr {
    addr([0xfd00, subnet(n), 0, 0, 0, 0, 0, n as u16 + 1])
}

impl Place for Family {
    const HOST: Addr = HOST;
    const CLIENT: Addr = CLIENT;
    const LOCAL: [Addr; 5] = [HOST, OTHER_HOST, GATEWAY, SECOND_GATEWAY, LOOPBACK];

    fn container(n: u8) -> Addr {
        container(n)
    }
    fn is_inside(addr: &Addr) -> bool {
        addr.0[..3] == [0xfd, 0, 0]
    }
    fn link_addr(endpoint: &Endpoint) -> Option<Addr> {
        Some(link_local(&endpoint.mac))
    }
    fn set_subnet(network: &mut Network, n: u8) {
        network.prefix6 = addr([0xfd00, subnet(n), 0, 0, 0, 0, 0, 0]);
        network.mask6 = addr([0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0]);
    }
    fn set_addr(endpoint: &mut Endpoint, addr: Addr) {
        endpoint.addr6 = addr;
    }
    fn set_external(external: &mut External, addr: Addr) {
        external.addr6 = addr;
    }
}
