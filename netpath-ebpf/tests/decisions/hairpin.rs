//! Published ports through an address of the host, from inside.

use netpath_common::{
    PortKey, PortSource, PortTarget, Reason, Tuple, config_flag, network_flag, proto, source_flag, target_flag,
};
use netpath_ebpf::decision::Out;
use proptest::prelude::*;

use super::{Addr, CLIENT, Family, GATEWAY, HOST, LOOPBACK, OTHER_HOST, SECOND_GATEWAY, World, container};
use crate::frame::{ACK, FIN_ACK, Frame, SYN, SYN_ACK, answer, echo_request, tcp, udp, unreachable};
use crate::world::mac;
use netpath_ebpf::family::Family as _;

/// The host's addresses but loopback.
const NAMES: [Addr; 4] = [HOST, OTHER_HOST, GATEWAY, SECOND_GATEWAY];

/// Port 80 of containers 1 and 4 is published at every address of the host, as 8081 and 8084.
fn published() -> World {
    let mut world = World::new();
    for n in [1, 4] {
        for protocol in [proto::TCP, proto::UDP] {
            world.publish(protocol, 8080 + u16::from(n), n, 80);
            for name in NAMES {
                let flags = if name == HOST { 0 } else { target_flag::INSIDE_ONLY };
                let target = PortTarget::new(u32::from(n), u32::from(n), 80, flags, 70);
                world.published.insert(PortKey::new(name, 8080 + u16::from(n), protocol), target);
            }
        }
    }
    world
}

/// Container `from` asks, container `to` answers, under the host's address `name`.
fn converse(world: &World, from: u8, to: u8, name: Addr, frame: impl Fn((Addr, u16), (Addr, u16), u8) -> Frame) {
    let asked = (name, 8080 + u16::from(to));
    let question = world.send(from, &frame((container(from), 40000), asked, SYN)).unwrap();
    let mapped = question.tuple.src_port;
    let arrives = Tuple::new(name, mapped, container(to), 80, question.tuple.proto);
    assert_eq!((question.tuple, question.out), (arrives, Out::Across(u32::from(to))));
    assert_eq!(question.counters, [10 * u32::from(from) + 1, 70]);
    let reply = world.send(to, &frame((container(to), 80), (name, mapped), SYN_ACK)).unwrap();
    let returns = Tuple::new(asked.0, asked.1, container(from), 40000, question.tuple.proto);
    assert_eq!((reply.tuple, reply.out), (returns, Out::Across(u32::from(from))));
}

#[test]
fn a_neighbour_another_network_and_the_container_itself_are_reached_by_every_name() {
    for (from, to) in [(2, 1), (1, 1), (4, 1), (5, 1), (1, 4)] {
        for name in NAMES {
            for shortcuts in [config_flag::SHORTCUTS, 0] {
                let mut world = published();
                world.config.flags = shortcuts;
                converse(&world, from, to, name, tcp);
                converse(&world, from, to, name, |src, dst, _| udp(src, dst));
            }
        }
    }
}

#[test]
fn neither_masquerade_nor_inter_container_communication_matters() {
    let mut world = published();
    world.network.flags &= !(Family::MASQUERADE | network_flag::ICC);
    for (from, to, name) in [(2, 1, HOST), (1, 1, GATEWAY), (4, 1, HOST)] {
        converse(&world, from, to, name, tcp);
    }
}

#[test]
fn the_name_that_was_used_comes_back_though_there_are_others() {
    let mut world = published();
    world.publish(proto::TCP, 9091, 1, 80);
    let source = PortSource::new(HOST, 9091, source_flag::AMBIGUOUS, 0);
    world.sources.insert(PortKey::new(container(1), 80, proto::TCP), source);
    converse(&world, 2, 1, HOST, tcp);
    // And where the port has names inside only, and so no source.
    world.sources.clear();
    converse(&world, 3, 1, GATEWAY, tcp);
}

#[test]
fn two_askers_with_the_same_port_are_kept_apart() {
    let world = published();
    for n in [2, 3, 1, 5] {
        converse(&world, n, 1, HOST, tcp);
    }
    let flows: Vec<_> =
        [2, 3].map(|n| world.send(n, &tcp((container(n), 40000), (HOST, 8081), ACK)).unwrap().tuple.src_port).into();
    assert_ne!(flows[0], flows[1]);
}

#[test]
fn nobody_else_gets_in_through_the_asking_containers_port() {
    let world = published();
    let question = world.send(2, &udp((container(2), 40000), (HOST, 8081))).unwrap().tuple;
    let mapped = (HOST, question.src_port);
    for n in [2, 3, 4] {
        let guess = world.send(n, &udp((container(n), 80), mapped)).unwrap();
        assert_eq!((guess.out, guess.tuple.dst_addr), (Out::Kernel, HOST), "container {n}");
    }
    let other_port = world.send(1, &udp((container(1), 81), mapped)).unwrap();
    assert_eq!(other_port.out, Out::Kernel);
    assert_eq!(world.arrive(&udp((CLIENT, 8081), mapped)).unwrap().out, Out::Kernel);
}

#[test]
fn what_is_not_published_is_the_hosts() {
    let world = published();
    for name in NAMES {
        let decision = world.send(2, &tcp((container(2), 40000), (name, 22), SYN)).unwrap();
        assert_eq!((decision.tuple.dst_addr, decision.out), (name, Out::Kernel));
    }
    assert_eq!(world.send(2, &echo_request(container(2), HOST, 8081)).unwrap().out, Out::Kernel);
    assert_eq!(world.flow_count(), 0);
}

#[test]
fn a_connection_that_is_not_known_is_the_hosts_to_refuse() {
    let world = published();
    for flags in [ACK, SYN_ACK] {
        let decision = world.send(2, &tcp((container(2), 40000), (HOST, 8081), flags)).unwrap();
        assert_eq!((decision.tuple.dst_addr, decision.out), (HOST, Out::Kernel));
    }
    assert_eq!(world.flow_count(), 0);
}

#[test]
fn loopback_addresses_do_not_come_from_a_container() {
    let mut world = published();
    let target = PortTarget::new(1, 1, 80, target_flag::INSIDE_ONLY, 0);
    world.published.insert(PortKey::new(LOOPBACK, 8081, proto::TCP), target);
    let forged = world.send(2, &tcp((container(2), 40000), (LOOPBACK, 8081), SYN));
    assert_eq!(forged.unwrap_err(), Reason::LoopbackAddress);
}

#[test]
fn a_list_looks_at_the_containers_own_address() {
    let mut world = published();
    let target = PortTarget::new(1, 1, 80, target_flag::ALLOW_LIST, 7);
    world.published.insert(PortKey::new(HOST, 8081, proto::TCP), target);
    world.allowed.insert((7, container(2)));
    assert!(world.send(2, &tcp((container(2), 40000), (HOST, 8081), SYN)).is_ok());
    let refused = world.send(3, &tcp((container(3), 40000), (HOST, 8081), SYN));
    assert_eq!(refused.unwrap_err(), Reason::SourceNotAllowed);
}

#[test]
fn an_answer_to_the_hosts_own_connection_is_the_hosts() {
    let mut world = published();
    let target = PortTarget::new(1, 1, 80, target_flag::EPHEMERAL, 0);
    world.published.insert(PortKey::new(GATEWAY, 40000, proto::TCP), target);
    world.connections.insert(Tuple::new(container(2), 80, GATEWAY, 40000, proto::TCP));
    let reply = world.send(2, &tcp((container(2), 80), (GATEWAY, 40000), SYN_ACK)).unwrap();
    assert_eq!((reply.tuple.dst_addr, reply.out), (GATEWAY, Out::Kernel));
}

#[test]
fn a_frame_to_a_neighbours_hardware_address_goes_to_the_neighbour() {
    let world = published();
    let decision = world.send_to(2, mac(3), &tcp((container(2), 40000), (HOST, 8081), SYN)).unwrap();
    assert_eq!((decision.tuple.dst_addr, decision.out), (HOST, Out::Kernel));
    assert_eq!(world.flow_count(), 0);
}

#[test]
fn what_the_other_network_does_not_take_is_dropped() {
    let mut world = published();
    world.second.mtu = 39;
    let question = world.send(1, &tcp((container(1), 40000), (HOST, 8084), SYN));
    assert_eq!(question.unwrap_err(), Reason::TooBig);
    world.second.flags |= network_flag::INTERNAL;
    let internal = world.send(1, &tcp((container(1), 40000), (HOST, 8084), SYN));
    assert_eq!(internal.unwrap_err(), Reason::Internal);
}

#[test]
fn either_end_that_is_gone_ends_it() {
    let mut world = published();
    let frame = tcp((container(2), 40000), (HOST, 8081), SYN);
    let question = world.send(2, &frame).unwrap().tuple;
    let reply = tcp((container(1), 80), (HOST, question.src_port), SYN_ACK);
    world.replace(2);
    assert_eq!(world.send(1, &reply).unwrap_err(), Reason::EndpointGone);
    world.replace(1);
    assert_eq!(world.send(2, &frame).unwrap_err(), Reason::EndpointGone);
    // Its successor is not the one who was asked.
    assert_eq!(world.send(1, &reply).unwrap().out, Out::Kernel);
}

#[test]
fn an_unpublished_port_is_the_hosts_at_once() {
    let mut world = published();
    let frame = tcp((container(2), 40000), (HOST, 8081), SYN);
    world.send(2, &frame).unwrap();
    world.published.clear();
    assert_eq!(world.send(2, &frame).unwrap().out, Out::Kernel);
}

#[test]
fn the_masquerade_port_is_neither_published_nor_a_sockets() {
    let mut world = published();
    world.sockets.insert((proto::UDP, 5000));
    for port in [5000, 8081] {
        let question = world.send(2, &udp((container(2), port), (HOST, 8081))).unwrap().tuple;
        assert!(![5000, 8081, 8084].contains(&question.src_port));
    }
}

#[test]
fn errors_are_translated_both_ways() {
    for (from, to) in [(2, 1), (1, 1), (5, 1), (2, 4)] {
        let world = published();
        let asked = (HOST, 8080 + u16::from(to));
        let question = world.send(from, &udp((container(from), 40000), asked)).unwrap().tuple;
        let reply = world.send(to, &answer(&question, 0)).unwrap().tuple;
        // About the question, from who got it.
        let got = udp((HOST, question.src_port), (container(to), 80));
        let error = unreachable(container(to), HOST, &got, world.quotation());
        let translation = world.complain(to, &error).unwrap().unwrap();
        assert_eq!((translation.src_addr, translation.dst_addr), (HOST, container(from)));
        assert_eq!(translation.inner, Tuple::new(container(from), 40000, asked.0, asked.1, proto::UDP));
        assert_eq!(translation.out, Out::Across(u32::from(from)));
        // About the answer, from who got that.
        let got = udp((reply.src_addr, reply.src_port), (container(from), 40000));
        let error = unreachable(container(from), HOST, &got, world.quotation());
        let translation = world.complain(from, &error).unwrap().unwrap();
        assert_eq!((translation.src_addr, translation.dst_addr), (HOST, container(to)));
        assert_eq!(translation.inner, Tuple::new(container(to), 80, HOST, question.src_port, proto::UDP));
        assert_eq!(translation.out, Out::Across(u32::from(to)));
    }
}

#[test]
fn errors_about_what_never_came_are_the_hosts() {
    let world = published();
    let question = world.send(2, &udp((container(2), 40000), (HOST, 8081))).unwrap().tuple;
    let got = udp((HOST, question.src_port), (container(1), 80));
    // From somebody else, to somebody else, about another port.
    let third = unreachable(container(3), HOST, &got, world.quotation());
    assert!(world.complain(3, &third).unwrap().is_none());
    let elsewhere = unreachable(container(1), OTHER_HOST, &got, world.quotation());
    assert!(world.complain(1, &elsewhere).unwrap().is_none());
    let other = udp((HOST, question.src_port), (container(1), 81));
    assert!(world.complain(1, &unreachable(container(1), HOST, &other, world.quotation())).unwrap().is_none());
}

#[test]
fn an_error_about_a_container_that_is_gone_does_not_reach_who_has_its_address() {
    let mut world = published();
    let question = world.send(2, &tcp((container(2), 40000), (HOST, 8081), SYN)).unwrap().tuple;
    let got = tcp((HOST, question.src_port), (container(1), 80), SYN);
    let error = unreachable(container(1), HOST, &got, world.quotation());
    assert!(world.complain(1, &error).unwrap().is_some());
    world.replace(2);
    assert!(world.complain(1, &error).unwrap().is_none());
}

#[test]
fn a_connection_that_has_expired_is_not_revived_by_a_segment_from_its_middle() {
    let world = published();
    let (asker, asked) = ((container(2), 40000), (HOST, 8081));
    let question = world.send(2, &tcp(asker, asked, SYN)).unwrap().tuple;
    let reply = |flags| tcp((container(1), 80), (HOST, question.src_port), flags);
    world.send(1, &reply(SYN_ACK)).unwrap();
    world.send(2, &tcp(asker, asked, FIN_ACK)).unwrap();
    world.send(1, &reply(FIN_ACK)).unwrap();
    world.wait(world.config.timeouts.tcp_transitory + 1);
    // Nobody's: neither end's flow is alive.
    assert_eq!(world.send(2, &tcp(asker, asked, ACK)).unwrap().out, Out::Kernel);
    assert_ne!(world.send(1, &reply(ACK)).map(|decision| decision.out), Ok(Out::Across(2)));
}

#[test]
fn the_next_connection_of_a_closed_one_lives_as_long_as_any() {
    let world = published();
    let (asker, asked) = ((container(2), 40000), (HOST, 8081));
    for _ in 0..2 {
        let question = world.send(2, &tcp(asker, asked, SYN)).unwrap().tuple;
        let reply = |flags| tcp((container(1), 80), (HOST, question.src_port), flags);
        world.send(1, &reply(SYN_ACK)).unwrap();
        world.wait(world.config.timeouts.tcp_transitory + 1);
        world.send(2, &tcp(asker, asked, ACK)).unwrap();
        assert_eq!(world.send(1, &reply(ACK)).unwrap().out, Out::Across(2));
        world.send(2, &tcp(asker, asked, FIN_ACK)).unwrap();
        world.send(1, &reply(FIN_ACK)).unwrap();
    }
}

proptest! {
    /// Random packets between three containers and the host: what goes across was asked for.
    #[test]
    fn answers_reach_who_asked_or_nobody(
        steps in proptest::collection::vec((1u8..=3, any::<bool>(), 0u16..3, 0usize..4), 1..40),
    ) {
        let world = published();
        let mut questions: Vec<(u8, u16, Tuple<Addr>)> = Vec::new();
        for (n, asks, port, choice) in steps {
            if asks {
                let decision = world.send(n, &udp((container(n), 5000 + port), (NAMES[choice], 8081))).unwrap();
                prop_assert_eq!(decision.out, Out::Across(1));
                prop_assert_eq!(decision.tuple.src_addr, NAMES[choice]);
                let taken = questions.iter().find(|(_, _, other)| *other == decision.tuple);
                prop_assert!(taken.is_none_or(|(m, p, _)| (*m, *p) == (n, 5000 + port)), "a port for two");
                questions.push((n, 5000 + port, decision.tuple));
            } else if let Some((asker, port, tuple)) = questions.get(choice) {
                let reply = world.send(1, &answer(tuple, 0)).unwrap();
                prop_assert_eq!(reply.out, Out::Across(u32::from(*asker)));
                prop_assert_eq!((reply.tuple.dst_addr, reply.tuple.dst_port), (container(*asker), *port));
                prop_assert_eq!((reply.tuple.src_addr, reply.tuple.src_port), (tuple.src_addr, 8081));
                let stolen = world.send(n, &udp((container(n), 81), (tuple.src_addr, tuple.src_port))).unwrap();
                prop_assert_eq!(stolen.out, Out::Kernel);
            }
        }
    }
}
