//! What is decided before the kernel has a packet is what is decided after, and TCP's connections do not notice.

use netpath_common::{PortKey, PortSource, PortTarget, Reason, network_flag, proto, target_flag};
use netpath_ebpf::decision::Out;
use netpath_ebpf::family::Family as _;

use super::{CLIENT, Family, HOST, LOOPBACK, NOBODY, OTHER_CLIENT, World, container};
use crate::frame::{ACK, RST, SYN, SYN_ACK, answer, echo_request, sctp, tcp, udp};
use crate::world::veth;

fn published() -> World {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    world.publish(proto::UDP, 5353, 1, 53);
    world
}

#[test]
fn udp_is_decided_on_as_it_would_be_later() {
    let world = published();
    let early = world.arrive_early(&udp((CLIENT, 40000), (HOST, 5353))).unwrap().unwrap();
    assert_eq!((early.tuple.dst_addr, early.tuple.dst_port), (container(1), 53));
    assert_eq!((early.out, early.endpoint), (Out::Container(veth(1)), 1));
    let hosts = world.arrive_early(&udp((CLIENT, 40000), (HOST, 53))).unwrap().unwrap();
    assert_eq!((hosts.out, hosts.endpoint), (Out::Kernel, 0));
    let asked = world.send(2, &udp((container(2), 40000), (CLIENT, 53))).unwrap().tuple;
    let reply = world.arrive_early(&answer(&asked, 0)).unwrap().unwrap();
    assert_eq!((reply.tuple.dst_addr, reply.out, reply.endpoint), (container(2), Out::Container(veth(2)), 2));
}

#[test]
fn what_is_refused_is_refused_early_for_the_same_reason() {
    let mut world = published();
    let target = PortTarget::new(1, 1, 81, target_flag::ALLOW_LIST, 7);
    world.published.insert(PortKey::new(HOST, 8081, proto::TCP), target);
    world.published.insert(PortKey::new(HOST, 8081, proto::SCTP), target);
    for (frame, reason) in [
        (udp((CLIENT, 1), (container(1), 53)), Reason::DirectAccess),
        (tcp((CLIENT, 1), (container(1), 80), SYN), Reason::DirectAccess),
        (tcp((CLIENT, 1), (container(1), 80), ACK), Reason::DirectAccess),
        (tcp((CLIENT, 1), (NOBODY, 80), RST), Reason::DirectAccess),
        (echo_request(CLIENT, container(1), 7), Reason::DirectAccess),
        (tcp((LOOPBACK, 1), (HOST, 8080), SYN), Reason::LoopbackAddress),
        (tcp((CLIENT, 1), (LOOPBACK, 8080), ACK), Reason::LoopbackAddress),
        (tcp((container(2), 1), (HOST, 8080), SYN), Reason::MartianSource),
        (tcp((container(2), 1), (container(1), 80), SYN), Reason::MartianSource),
        (tcp((OTHER_CLIENT, 1), (HOST, 8081), SYN), Reason::SourceNotAllowed),
        (sctp((OTHER_CLIENT, 8081), (HOST, 8081)), Reason::SourceNotAllowed),
    ] {
        assert_eq!(world.arrive_early(&frame).unwrap_err(), reason, "{}", reason.name());
        assert_eq!(world.arrive(&frame).unwrap_err(), reason, "{} later", reason.name());
    }
    assert_eq!(world.flow_count(), 0);
}

#[test]
fn tcp_that_passes_is_left_for_later() {
    let mut world = published();
    let asked = world.send(2, &tcp((container(2), 40000), (CLIENT, 80), SYN)).unwrap().tuple;
    for frame in [
        tcp((CLIENT, 40000), (HOST, 8080), SYN),
        tcp((CLIENT, 40000), (HOST, 8080), ACK),
        tcp((CLIENT, 40000), (HOST, 22), SYN),
        answer(&asked, SYN_ACK),
        echo_request(CLIENT, HOST, 7),
    ] {
        assert!(world.arrive_early(&frame).unwrap().is_none());
    }
    let target = PortTarget::new(1, 1, 81, target_flag::ALLOW_LIST, 7);
    world.published.insert(PortKey::new(HOST, 8081, proto::TCP), target);
    world.allowed.insert((7, CLIENT));
    assert!(world.arrive_early(&tcp((CLIENT, 1), (HOST, 8081), SYN)).unwrap().is_none());
}

#[test]
fn visitors_of_routed_and_unprotected_networks_are_left_for_later_but_for_closed_ports() {
    let mut world = World::new();
    world.second.flags = network_flag::EXISTS | network_flag::ICC | Family::ROUTED;
    world.published.insert(PortKey::new(container(4), 80, proto::TCP), PortTarget::new(4, 4, 80, 0, 0));
    world.sources.insert(PortKey::new(container(4), 80, proto::TCP), PortSource::new(container(4), 80, 0, 0));
    for frame in [
        tcp((CLIENT, 1), (container(4), 80), SYN),
        tcp((CLIENT, 1), (container(4), 80), ACK),
        echo_request(CLIENT, container(4), 7),
    ] {
        assert!(world.arrive_early(&frame).unwrap().is_none());
    }
    let closed = world.arrive_early(&tcp((CLIENT, 1), (container(4), 81), SYN));
    assert_eq!(closed.unwrap_err(), Reason::DirectAccess);

    for flag in [network_flag::TRUSTED, Family::UNPROTECTED] {
        world.second.flags = network_flag::EXISTS | flag;
        assert!(world.arrive_early(&tcp((CLIENT, 1), (container(5), 81), ACK)).unwrap().is_none());
    }
    world.second.flags = network_flag::EXISTS | Family::UNPROTECTED;
    assert!(world.arrive_early(&tcp((CLIENT, 1), (container(5), 81), SYN)).unwrap().is_none());
}

#[test]
fn a_connection_that_is_looked_at_twice_lives_as_one_that_is_looked_at_once() {
    // Port 80 of container 5 is reached by its own address: its packets leave a trace.
    let look = |twice: bool| {
        let mut world = World::new();
        world.second.flags |= Family::UNPROTECTED;
        let mut verdicts = Vec::new();
        for flags in [SYN, SYN_ACK, ACK, ACK, RST, ACK, SYN, SYN_ACK] {
            let question = tcp((CLIENT, 40000), (container(5), 80), flags);
            if flags == SYN_ACK {
                let reply = tcp((container(5), 80), (CLIENT, 40000), flags);
                verdicts.push(world.send(5, &reply).map(|decision| decision.tuple));
                continue;
            }
            if twice {
                assert!(world.arrive_early(&question).unwrap().is_none());
            }
            verdicts.push(world.arrive(&question).map(|decision| decision.tuple));
        }
        (verdicts, world.flow_count())
    };
    assert_eq!(look(true), look(false));
}
