//! Where a socket of the host is led, and which ports it may not have.

use std::collections::HashMap;

use netpath_common::{Addr4, Addr6, Address, Endpoint, PortKey, PortTarget, proto, target_flag};
use netpath_ebpf::family::{Family, V4, V6};
use netpath_ebpf::host::{Destination, HostEnv, SocketFamily, mapped, unmapped};

/// Of every port binding.
const COUNTER: u32 = 70_000;
const HOST: Addr4 = Addr4([198, 18, 0, 1]);
const LOOPBACK: Addr4 = Addr4([127, 0, 0, 1]);
const OTHER_LOOPBACK: Addr4 = Addr4([127, 0, 0, 5]);
const ANY: Addr4 = Addr4::UNSPECIFIED;
const CONTAINER: Addr4 = Addr4([172, 17, 0, 2]);
const HOST6: Addr6 = Addr6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const LOOPBACK6: Addr6 = Addr6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const ANY6: Addr6 = Addr6::UNSPECIFIED;
const CONTAINER6: Addr6 = Addr6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

#[test]
fn a_host_address_leads_to_the_container_and_is_its_clients() {
    let host = Host::new().publish4(HOST, 8080, 80).publish6(HOST6, 8080, 80);
    assert_eq!(host.to4(HOST), Some(led(HOST, CONTAINER, 80, HOST)));
    assert_eq!(host.to6(HOST6), Some(led(HOST6, CONTAINER6, 80, HOST6)));
    assert_eq!(host.to6(mapped(HOST)), Some(led(mapped(HOST), mapped(CONTAINER), 80, mapped(HOST))));
}

#[test]
fn a_wildcard_binding_is_every_loopback_address() {
    let host = Host::new().publish4(ANY, 8080, 80).publish6(ANY6, 8080, 81);
    for addr in [LOOPBACK, OTHER_LOOPBACK] {
        assert_eq!(host.to4(addr), Some(led(addr, CONTAINER, 80, ANY)));
        assert_eq!(host.to6(mapped(addr)), Some(led(mapped(addr), mapped(CONTAINER), 80, ANY6)));
    }
    assert_eq!(host.to6(LOOPBACK6), Some(led(LOOPBACK6, CONTAINER6, 81, ANY6)));
    assert_eq!((host.to4(HOST), host.to6(HOST6)), (None, None), "every other address has an entry of its own");
}

#[test]
fn the_unspecified_address_is_loopback() {
    let host = Host::new().publish4(LOOPBACK, 8080, 80).publish6(LOOPBACK6, 8080, 80);
    assert_eq!(host.to4(ANY), Some(led(LOOPBACK, CONTAINER, 80, ANY)));
    assert_eq!(host.to6(ANY6), Some(led(LOOPBACK6, CONTAINER6, 80, ANY6)));
    assert_eq!(host.to4(OTHER_LOOPBACK), None);
}

#[test]
fn a_block_leads_to_the_port_with_the_same_place() {
    let mut host = Host::new();
    host.ports4.insert(PortKey::block(LOOPBACK, 0x1f00, proto::TCP), PortTarget::new(1, 7, 0x100, 0, COUNTER));
    assert_eq!(host.to4(LOOPBACK), Some(led(LOOPBACK, CONTAINER, 0x190, ANY)));
    assert!(host.is_taken4(LOOPBACK));
}

#[test]
fn a_dead_target_leads_nowhere_and_keeps_no_port() {
    let mut host = Host::new().publish4(LOOPBACK, 8080, 80);
    host.endpoint.generation += 1;
    assert_eq!(host.to4(LOOPBACK), None);
    assert!(!host.is_taken4(LOOPBACK));
}

#[test]
fn a_container_by_its_own_name_is_left_alone() {
    assert_eq!(Host::new().publish4(CONTAINER, 8080, 8080).to4(CONTAINER), None);
}

#[test]
fn a_source_that_the_owner_chose_stays() {
    let mut host = Host::new().publish4(HOST, 8080, 80).publish4(LOOPBACK, 8080, 80);
    host.own4 = Addr4([198, 18, 0, 9]);
    assert_eq!(host.to4(HOST), Some(led(HOST, CONTAINER, 80, ANY)));
    host.own4 = LOOPBACK;
    assert_eq!((host.to4(HOST), host.to4(LOOPBACK)), (None, None), "from loopback there is no way off the host");
}

#[test]
fn ipv6_loopback_leads_to_a_container_without_ipv6() {
    let mut host = Host::new().publish4(ANY, 8080, 80);
    host.endpoint.addr6 = ANY6;
    let wanted = Some(led(LOOPBACK6, mapped(CONTAINER), 80, ANY6));
    assert_eq!(host.to6(LOOPBACK6), wanted);
    assert_eq!(V6::destination(&host, &LOOPBACK6, 8080, proto::UDP, false), None, "the kernel would refuse it");
    host = host.publish6(ANY6, 8080, 80);
    assert_eq!(host.to6(LOOPBACK6), wanted);
    host.has_receiver = true;
    assert_eq!(host.to6(LOOPBACK6), None, "a server of the host has the port");
    host.has_receiver = false;
    host.is_v6_only = true;
    assert_eq!(host.to6(LOOPBACK6), None, "the socket cannot speak IPv4");
}

#[test]
fn a_binding_to_ipv4_loopback_is_none_to_ipv6_loopback() {
    assert_eq!(Host::new().publish4(LOOPBACK, 8080, 80).to6(LOOPBACK6), None);
}

#[test]
fn a_published_port_is_taken_where_it_is_published_and_at_the_unspecified_address() {
    let wildcard = Host::new().publish4(ANY, 8080, 80);
    assert!([ANY, LOOPBACK, OTHER_LOOPBACK, HOST].into_iter().all(|addr| wildcard.is_taken4(addr)));
    let one = Host::new().publish4(HOST, 8080, 80);
    assert_eq!([ANY, LOOPBACK, HOST].map(|addr| one.is_taken4(addr)), [true, false, true]);
    assert_eq!([ANY, LOOPBACK, HOST].map(|addr| one.is_taken6(mapped(addr))), [true, false, true]);
}

#[test]
fn a_port_that_somebody_keeps_by_a_socket_is_his_to_bind() {
    let mut host = Host::new().publish4(HOST, 8080, 80);
    assert!(host.is_taken4(HOST) && host.is_taken4(Addr4::UNSPECIFIED));
    host.ports4.values_mut().for_each(|target| target.flags |= target_flag::KEPT_ELSEWHERE);
    assert!(!host.is_taken4(HOST) && !host.is_taken4(Addr4::UNSPECIFIED));
    assert!(host.to4(HOST).is_some(), "it leads to the container all the same");
}

#[test]
fn families_take_ports_from_each_other_in_sockets_for_both_only() {
    let mut host = Host::new().publish4(HOST, 8080, 80);
    assert!(host.is_taken6(ANY6));
    assert!(!host.is_taken6(LOOPBACK6));
    host.is_v6_only = true;
    assert!(!host.is_taken6(ANY6));
    let host = Host::new().publish6(ANY6, 8080, 80);
    assert!([ANY6, LOOPBACK6, HOST6].into_iter().all(|addr| host.is_taken6(addr)));
    assert!(!host.is_taken4(ANY));
}

#[test]
fn a_mapped_address_is_one_of_ten_zeros_and_two_ones() {
    assert_eq!(unmapped(&mapped(HOST)), Some(HOST));
    assert_eq!(mapped(HOST).0[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!([LOOPBACK6, ANY6, HOST6].map(|addr| unmapped(&addr)), [None; 3]);
}

/// A host that has published ports of one container, and a socket of it.
struct Host {
    endpoint: Endpoint,
    ports4: HashMap<PortKey<Addr4>, PortTarget>,
    ports6: HashMap<PortKey<Addr6>, PortTarget>,
    own4: Addr4,
    own6: Addr6,
    has_receiver: bool,
    is_v6_only: bool,
}

impl Host {
    fn new() -> Self {
        let mut endpoint = Endpoint::EMPTY;
        endpoint.generation = 7;
        endpoint.addr4 = CONTAINER;
        endpoint.addr6 = CONTAINER6;
        let (ports4, ports6) = (HashMap::new(), HashMap::new());
        Self { endpoint, ports4, ports6, own4: ANY, own6: ANY6, has_receiver: false, is_v6_only: false }
    }

    fn publish4(mut self, addr: Addr4, host_port: u16, port: u16) -> Self {
        self.ports4.insert(PortKey::new(addr, host_port, proto::TCP), PortTarget::new(1, 7, port, 0, COUNTER));
        self
    }

    fn publish6(mut self, addr: Addr6, host_port: u16, port: u16) -> Self {
        self.ports6.insert(PortKey::new(addr, host_port, proto::TCP), PortTarget::new(1, 7, port, 0, COUNTER));
        self
    }

    fn to4(&self, asked: Addr4) -> Option<Destination<Addr4>> {
        V4::destination(self, &asked, 8080, proto::TCP, true)
    }

    fn to6(&self, asked: Addr6) -> Option<Destination<Addr6>> {
        V6::destination(self, &asked, 8080, proto::TCP, true)
    }

    fn is_taken4(&self, addr: Addr4) -> bool {
        V4::is_taken(self, &addr, 8080, proto::TCP)
    }

    fn is_taken6(&self, addr: Addr6) -> bool {
        V6::is_taken(self, &addr, 8080, proto::TCP)
    }
}

/// `source`: what the container sees; unspecified, if that is left to the route.
fn led<A: Address>(asked: A, addr: A, port: u16, source: A) -> Destination<A> {
    let shows_asked = source == asked;
    assert!(shows_asked || source.is_unspecified(), "nobody is shown a third address");
    Destination { asked, addr, port, shows_asked, counter: COUNTER }
}

macro_rules! host_env {
    ($family:ty, $ports:ident, $own:ident) => {
        impl HostEnv<$family> for Host {
            fn is_port_reserved(&self, proto: u8, port: u16) -> bool {
                let is_kept = |target: &PortTarget| target.flags & target_flag::KEPT_ELSEWHERE == 0;
                self.$ports.iter().any(|(key, target)| (key.proto, key.port) == (proto, port) && is_kept(target))
            }
            fn published_port(&self, key: &PortKey<<$family as Family>::Addr>) -> Option<&PortTarget> {
                self.$ports.get(key)
            }
            fn endpoint(&self, index: u32) -> Option<&Endpoint> {
                (index == 1).then_some(&self.endpoint)
            }
            fn has_receiver(&self, _addr: &<$family as Family>::Addr, _port: u16, _proto: u8) -> bool {
                self.has_receiver
            }
            fn own_addr(&self) -> <$family as Family>::Addr {
                self.$own
            }
            fn is_v6_only(&self) -> bool {
                self.is_v6_only
            }
        }
    };
}

host_env!(V4, ports4, own4);
host_env!(V6, ports6, own6);
