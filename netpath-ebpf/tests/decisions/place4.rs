//! Where everybody is in IPv4.

use netpath_common::{Addr4, Endpoint, External, Network, proto};
pub(crate) use netpath_ebpf::family::V4 as Family;

use crate::world::{self, Place};

pub(crate) type Addr = Addr4;
pub(crate) type World = world::World<Family>;

/// The host at its external interface.
pub(crate) const HOST: Addr = Addr4([198, 18, 0, 1]);
pub(crate) const CLIENT: Addr = Addr4([198, 18, 0, 2]);
pub(crate) const OTHER_CLIENT: Addr = Addr4([198, 18, 0, 3]);
/// Another address of the host.
pub(crate) const OTHER_HOST: Addr = Addr4([198, 18, 0, 9]);
/// A router on the way to nowhere in particular.
pub(crate) const ROUTER: Addr = Addr4([203, 0, 113, 9]);
/// The bridge.
pub(crate) const GATEWAY: Addr = Addr4([172, 17, 0, 1]);
/// The second network's bridge.
pub(crate) const SECOND_GATEWAY: Addr = Addr4([172, 19, 0, 1]);
/// In the containers' subnet, but of no container.
pub(crate) const NOBODY: Addr = Addr4([172, 17, 0, 99]);
/// In another container network.
pub(crate) const ELSEWHERE: Addr = Addr4([172, 18, 0, 1]);
pub(crate) const LOOPBACK: Addr = Addr4([127, 0, 0, 1]);
/// For more than one receiver.
pub(crate) const GROUPS: [Addr; 2] = [Addr4([255; 4]), Addr4([224, 0, 0, 251])];

pub(crate) const ICMP: u8 = proto::ICMP;
/// Where a frame has its hop count and its protocol.
pub(crate) const HOPS_OFF: usize = 14 + 8;
pub(crate) const PROTO_OFF: usize = 14 + 9;

/// Address of container number `n`, from 1; those from 4 are in the second network.
pub(crate) const fn container(n: u8) -> Addr {
    Addr4([172, if n < 4 { 17 } else { 19 }, 0, n + 1])
}

impl Place for Family {
    const HOST: Addr = HOST;
    const CLIENT: Addr = CLIENT;
    const LOCAL: [Addr; 5] = [HOST, OTHER_HOST, GATEWAY, SECOND_GATEWAY, LOOPBACK];

    fn container(n: u8) -> Addr {
        container(n)
    }
    fn is_inside(addr: &Addr) -> bool {
        addr.0[0] == 172 && (16..32).contains(&addr.0[1])
    }
    fn link_addr(_endpoint: &Endpoint) -> Option<Addr> {
        None
    }
    fn set_subnet(network: &mut Network, n: u8) {
        network.prefix4 = Addr4([172, container(n).0[1], 0, 0]);
        network.mask4 = Addr4([255, 255, 0, 0]);
    }
    fn set_addr(endpoint: &mut Endpoint, addr: Addr) {
        endpoint.addr4 = addr;
    }
    fn set_external(external: &mut External, addr: Addr) {
        external.addr4 = addr;
    }
}
