//! Gateway modes, trusted interfaces, internal networks, and packets from one network to another.

use netpath_common::{
    PortKey, PortSource, PortTarget, Reason, TrustedKey, config_flag, network_flag, proto, target_flag,
};
use netpath_ebpf::decision::Out;

use super::{CLIENT, ELSEWHERE, Family, GATEWAY, HOST, OTHER_CLIENT, PROTO_OFF, SECOND_GATEWAY, World, container};
use crate::frame::{ACK, RST, SYN, SYN_ACK, answer, echo_reply, echo_request, tcp, udp, unreachable};
use crate::world::{SECOND_BRIDGE_MAC, UPLINK, mac, veth};
use netpath_ebpf::family::Family as _;

/// Containers 4 and 5 are in a routed network; port 80 of container 4 is published there.
fn routed() -> World {
    let mut world = World::new();
    world.second.flags = network_flag::EXISTS | network_flag::ICC | Family::ROUTED;
    world.published.insert(PortKey::new(container(4), 80, proto::TCP), PortTarget::new(4, 4, 80, 0, 0));
    world.sources.insert(PortKey::new(container(4), 80, proto::TCP), PortSource::new(container(4), 80, 0, 0));
    world
}

/// Containers 4 and 5 are in a network that is not masqueraded; port 80 of container 4 is published.
fn unmasqueraded() -> World {
    let mut world = World::new();
    world.second.flags &= !Family::MASQUERADE;
    world.publish(proto::TCP, 8080, 4, 80);
    world
}

/// Containers 4 and 5 are in an unprotected network; port 80 of container 4 is published.
fn unprotected() -> World {
    let mut world = World::new();
    world.second.flags |= Family::UNPROTECTED;
    world.publish(proto::TCP, 8080, 4, 80);
    world
}

#[test]
fn a_routed_container_is_reached_at_its_published_ports_and_by_ping_only() {
    let world = routed();
    let question = tcp((CLIENT, 40000), (container(4), 80), SYN);
    let decision = world.arrive(&question).unwrap();
    assert_eq!((decision.tuple.dst_addr, decision.tuple.dst_port), (container(4), 80));
    assert_eq!(decision.out, Out::Container(veth(4)));
    assert_eq!(world.flow_count(), 0, "a published port needs no state");
    assert_eq!(world.arrive(&echo_request(CLIENT, container(4), 7)).unwrap().out, Out::Container(veth(4)));
    for closed in [tcp((CLIENT, 40000), (container(4), 81), SYN), udp((CLIENT, 40000), (container(4), 80))] {
        assert_eq!(world.arrive(&closed).unwrap_err(), Reason::DirectAccess);
    }
    assert_eq!(world.arrive(&tcp((CLIENT, 40000), (container(5), 80), SYN)).unwrap_err(), Reason::DirectAccess);
}

#[test]
fn a_routed_container_leaves_under_its_own_address_by_both_roads() {
    let world = routed();
    for (n, frame) in [
        (4, tcp((container(4), 80), (CLIENT, 40000), SYN_ACK)),
        (4, echo_reply(container(4), CLIENT, 7)),
        (5, tcp((container(5), 40000), (CLIENT, 80), SYN)),
        (5, udp((container(5), 40000), (CLIENT, 53))),
    ] {
        for decision in [world.send(n, &frame).unwrap(), world.leave(&frame).unwrap()] {
            assert_eq!(decision.tuple.src_addr, container(n));
        }
    }
    let mut other = udp((container(5), 0), (CLIENT, 0));
    other.set(PROTO_OFF, 50);
    assert_eq!(world.send(5, &other).unwrap().tuple.src_addr, container(5));
}

/// Conntrack would know one half of a connection otherwise.
#[test]
fn networks_of_which_one_takes_no_shortcuts_meet_in_the_kernel() {
    for is_first in [true, false] {
        let mut world = unprotected();
        let network = if is_first { &mut world.network } else { &mut world.second };
        network.flags |= network_flag::NO_SHORTCUTS;
        let question = tcp((container(1), 40000), (container(4), 80), SYN);
        assert_eq!(world.send(1, &question).unwrap().out, Out::Kernel);
        let reply = answer(&world.send(1, &question).unwrap().tuple, SYN_ACK);
        assert_eq!(world.send(4, &reply).unwrap().out, Out::Kernel);
    }
}

#[test]
fn what_a_routed_container_began_is_answered_and_nothing_else() {
    let world = routed();
    for frame in [tcp((container(5), 40000), (CLIENT, 80), SYN), udp((container(5), 40000), (CLIENT, 53))] {
        let out = world.send(5, &frame).unwrap().tuple;
        let back = world.arrive(&answer(&out, SYN_ACK)).unwrap();
        assert_eq!((back.tuple.dst_addr, back.out), (container(5), Out::Container(veth(5))));
    }
    for stranger in [udp((OTHER_CLIENT, 53), (container(5), 40000)), udp((CLIENT, 54), (container(5), 40000))] {
        assert_eq!(world.arrive(&stranger).unwrap_err(), Reason::DirectAccess);
    }
    world.wait(world.config.timeouts.tcp + 1);
    let late = world.arrive(&udp((CLIENT, 53), (container(5), 40000)));
    assert_eq!(late.unwrap_err(), Reason::DirectAccess);
}

#[test]
fn without_masquerade_a_container_leaves_under_its_own_address_and_is_answered() {
    let world = unmasqueraded();
    assert_eq!(world.arrive(&tcp((CLIENT, 40000), (container(4), 80), SYN)).unwrap_err(), Reason::DirectAccess);
    for frame in [tcp((container(5), 40000), (CLIENT, 80), SYN), udp((container(5), 40000), (CLIENT, 53))] {
        let out = world.send(5, &frame).unwrap().tuple;
        assert_eq!((out.src_addr, out.src_port), (container(5), 40000));
        assert_eq!(world.leave(&frame).unwrap().tuple, out);
        let back = world.arrive(&answer(&out, SYN_ACK)).unwrap();
        assert_eq!((back.tuple.dst_addr, back.out), (container(5), Out::Container(veth(5))));
    }
    for stranger in [udp((OTHER_CLIENT, 53), (container(5), 40000)), echo_request(CLIENT, container(5), 7)] {
        assert_eq!(world.arrive(&stranger).unwrap_err(), Reason::DirectAccess);
    }
    let mut other = udp((container(5), 0), (CLIENT, 0));
    other.set(PROTO_OFF, 50);
    assert_eq!(world.send(5, &other).unwrap().tuple.src_addr, container(5));
}

#[test]
fn a_published_port_keeps_its_name_where_nothing_is_masqueraded() {
    let world = unmasqueraded();
    let question = world.arrive(&tcp((CLIENT, 40000), (HOST, 8080), SYN)).unwrap();
    assert_eq!((question.tuple.dst_addr, question.tuple.dst_port), (container(4), 80));
    let reply = answer(&question.tuple, SYN_ACK);
    for decision in [world.send(4, &reply).unwrap(), world.leave(&reply).unwrap()] {
        assert_eq!((decision.tuple.src_addr, decision.tuple.src_port), (HOST, 8080));
    }
}

#[test]
fn a_routed_port_with_a_list_is_open_to_its_sources_only() {
    let mut world = routed();
    let target = PortTarget::new(4, 4, 80, target_flag::ALLOW_LIST, 7);
    world.published.insert(PortKey::new(container(4), 80, proto::TCP), target);
    world.allowed.extend([(7, CLIENT), (7, container(1))]);
    assert!(world.arrive(&tcp((CLIENT, 1), (container(4), 80), SYN)).is_ok());
    assert!(world.send(1, &tcp((container(1), 1), (container(4), 80), SYN)).is_ok());
    let stranger = world.arrive(&tcp((OTHER_CLIENT, 1), (container(4), 80), SYN));
    assert_eq!(stranger.unwrap_err(), Reason::SourceNotAllowed);
    let neighbour = world.send(2, &tcp((container(2), 1), (container(4), 80), SYN));
    assert_eq!(neighbour.unwrap_err(), Reason::SourceNotAllowed);
}

#[test]
fn an_unprotected_container_is_reached_at_every_port_and_answers_under_its_own_address() {
    let world = unprotected();
    let mut other = udp((CLIENT, 0), (container(5), 0));
    other.set(PROTO_OFF, 50);
    for (n, frame) in [
        (4, tcp((CLIENT, 40000), (container(4), 80), SYN)),
        (5, tcp((CLIENT, 40000), (container(5), 81), SYN)),
        (5, udp((CLIENT, 40000), (container(5), 53))),
        (5, other),
    ] {
        let question = world.arrive(&frame).unwrap();
        assert_eq!((question.tuple.dst_addr, question.out), (container(n), Out::Container(veth(n))));
        let mut reply = answer(&question.tuple, SYN_ACK);
        reply.set(PROTO_OFF, question.tuple.proto);
        for decision in [world.send(n, &reply).unwrap(), world.leave(&reply).unwrap()] {
            assert_eq!(decision.tuple, question.tuple.reversed());
        }
    }
    let ping = world.arrive(&echo_request(CLIENT, container(5), 7)).unwrap();
    assert_eq!(ping.tuple.dst_addr, container(5));
    assert_eq!(world.send(5, &echo_reply(container(5), CLIENT, 7)).unwrap().tuple.src_addr, container(5));
}

#[test]
fn an_unprotected_containers_own_connections_are_masqueraded() {
    let world = unprotected();
    let out = world.send(5, &tcp((container(5), 40000), (CLIENT, 80), SYN)).unwrap().tuple;
    assert_eq!(out.src_addr, HOST);
    assert_eq!(world.arrive(&answer(&out, SYN_ACK)).unwrap().tuple.dst_addr, container(5));
    // A packet to the inside end reaches it, and changes nothing about the connection.
    assert!(world.arrive(&tcp((CLIENT, 80), (container(5), 40000), ACK)).is_ok());
    assert_eq!(world.send(5, &tcp((container(5), 40000), (CLIENT, 80), ACK)).unwrap().tuple, out);
}

#[test]
fn a_client_gets_its_answers_from_the_name_it_used_last() {
    let world = unprotected();
    let reply = tcp((container(4), 80), (CLIENT, 40000), SYN_ACK);
    world.arrive(&tcp((CLIENT, 40000), (container(4), 80), SYN)).unwrap();
    world.arrive(&tcp((CLIENT, 40000), (HOST, 8080), SYN)).unwrap();
    assert_eq!(world.send(4, &reply).unwrap().tuple.src_addr, HOST);
    world.arrive(&tcp((CLIENT, 40000), (container(4), 80), SYN)).unwrap();
    assert_eq!(world.send(4, &reply).unwrap().tuple.src_addr, container(4));
    // Both ends talk: a SYN in the client's name, which anybody can send, is not believed.
    world.arrive(&tcp((CLIENT, 40000), (HOST, 8080), SYN)).unwrap();
    assert_eq!(world.send(4, &reply).unwrap().tuple.src_addr, container(4));
    world.arrive(&tcp((CLIENT, 40000), (container(4), 80), RST)).unwrap();
    world.arrive(&tcp((CLIENT, 40000), (HOST, 8080), SYN)).unwrap();
    assert_eq!(world.send(4, &reply).unwrap().tuple.src_addr, HOST);
}

#[test]
fn without_shortcuts_visitors_take_the_kernels_road() {
    let mut world = unprotected();
    world.config.flags &= !config_flag::SHORTCUTS;
    let question = world.arrive(&tcp((CLIENT, 40000), (container(5), 81), SYN)).unwrap();
    assert_eq!((question.tuple.dst_addr, question.out), (container(5), Out::Kernel));
    let reply = tcp((container(5), 81), (CLIENT, 40000), SYN_ACK);
    assert_eq!(world.send(5, &reply).unwrap().out, Out::Kernel);
    assert_eq!(world.leave(&reply).unwrap().tuple.src_addr, container(5));
}

#[test]
fn a_trusted_interface_reaches_one_networks_published_ports() {
    let mut world = World::new();
    world.published.insert(PortKey::new(HOST, 8081, proto::TCP), PortTarget::new(4, 4, 81, 0, 0));
    world.sources.insert(PortKey::new(container(4), 81, proto::TCP), PortSource::new(HOST, 8081, 0, 0));
    world.second.flags |= network_flag::TRUSTED;
    world.trusted.insert(TrustedKey::new(UPLINK, 1));
    let question = world.arrive(&tcp((CLIENT, 40000), (container(4), 81), SYN)).unwrap();
    assert_eq!(question.tuple.dst_addr, container(4));
    let reply = world.send(4, &tcp((container(4), 81), (CLIENT, 40000), SYN_ACK)).unwrap();
    assert_eq!((reply.tuple.src_addr, reply.tuple.src_port), (container(4), 81));
    let unpublished = world.arrive(&tcp((CLIENT, 40000), (container(4), 82), SYN));
    assert_eq!(unpublished.unwrap_err(), Reason::DirectAccess);
    let other_network = world.arrive(&tcp((CLIENT, 40000), (container(1), 81), SYN));
    assert_eq!(other_network.unwrap_err(), Reason::DirectAccess);
    world.trusted = [TrustedKey::new(UPLINK + 1, 1)].into();
    let other_interface = world.arrive(&tcp((CLIENT, 40001), (container(4), 81), SYN));
    assert_eq!(other_interface.unwrap_err(), Reason::DirectAccess);
}

#[test]
fn a_direct_visit_does_not_make_a_protected_container_reachable() {
    let world = World::new();
    // Its own connection, and somebody who knows the inside end of it.
    world.send(1, &udp((container(1), 40000), (CLIENT, 53))).unwrap();
    let visit = world.arrive(&udp((CLIENT, 53), (container(1), 40000)));
    assert_eq!(visit.unwrap_err(), Reason::DirectAccess);
}

#[test]
fn nobody_outside_is_in_a_container_network() {
    for (world, n) in [(routed(), 4), (unprotected(), 4)] {
        for source in [container(1), container(5), GATEWAY, ELSEWHERE] {
            let visit = world.arrive(&tcp((source, 40000), (container(n), 81), SYN));
            assert_eq!(visit.unwrap_err(), Reason::MartianSource);
        }
    }
}

#[test]
fn an_internal_network_reaches_itself_and_its_bridge_only() {
    let mut world = World::new();
    world.second.flags = network_flag::EXISTS | network_flag::ICC | network_flag::INTERNAL;
    world.publish(proto::TCP, 8080, 1, 80);
    world.published.insert(PortKey::new(SECOND_GATEWAY, 8080, proto::TCP), PortTarget::new(1, 1, 80, 0, 0));
    let neighbour = tcp((container(4), 40000), (container(5), 80), SYN);
    assert_eq!(world.send_to(4, mac(5), &neighbour).unwrap().out, Out::Sibling(veth(5)));
    for port in [53, 8080] {
        let to_bridge = world.send(4, &tcp((container(4), 40000), (SECOND_GATEWAY, port), SYN)).unwrap();
        assert_eq!((to_bridge.out, to_bridge.tuple.src_addr), (Out::Kernel, container(4)));
    }
    for dst in [CLIENT, HOST, GATEWAY, container(1), ELSEWHERE] {
        let sent = tcp((container(4), 40000), (dst, 8080), SYN);
        assert_eq!(world.send(4, &sent).unwrap_err(), Reason::Internal);
        assert!(world.leave(&sent).is_err());
        let error = unreachable(container(4), dst, &tcp((dst, 80), (container(4), 1), SYN), world.quotation());
        assert_eq!(world.complain(4, &error).unwrap_err(), Reason::Internal);
    }
    for from in [1, 2] {
        let sent = tcp((container(from), 40000), (container(4), 80), SYN);
        assert_eq!(world.send(from, &sent).unwrap_err(), Reason::Internal);
    }
    assert_eq!(world.arrive(&tcp((CLIENT, 1), (container(4), 80), SYN)).unwrap_err(), Reason::Internal);
}

#[test]
fn networks_are_isolated() {
    let world = World::new();
    for frame in [
        tcp((container(1), 40000), (container(4), 80), SYN),
        udp((container(1), 40000), (container(4), 53)),
        echo_request(container(1), container(4), 7),
    ] {
        assert_eq!(world.send(1, &frame).unwrap_err(), Reason::Isolated);
    }
    let error = unreachable(container(1), container(4), &udp((container(4), 1), (container(1), 2)), world.quotation());
    assert_eq!(world.complain(1, &error).unwrap_err(), Reason::Isolated);
}

#[test]
fn nat_reaches_routed_at_published_ports_and_by_ping_and_is_answered() {
    let world = routed();
    let (inside, server) = ((container(1), 40000), (container(4), 80));
    let question = world.send(1, &tcp(inside, server, SYN)).unwrap();
    assert_eq!((question.tuple.src_addr, question.out), (container(1), Out::Across(4)));
    let reply = world.send(4, &tcp(server, inside, SYN_ACK)).unwrap();
    assert_eq!((reply.tuple.src_addr, reply.out), (container(4), Out::Across(1)));
    let ping = world.send(1, &echo_request(container(1), container(4), 7)).unwrap();
    assert_eq!(ping.out, Out::Across(4));
    assert_eq!(world.send(4, &echo_reply(container(4), container(1), 7)).unwrap().out, Out::Across(1));
    let closed = world.send(1, &tcp(inside, (container(4), 81), SYN));
    assert_eq!(closed.unwrap_err(), Reason::Isolated);
}

#[test]
fn routed_opens_nothing_towards_nat() {
    let mut world = routed();
    world.publish(proto::TCP, 8080, 1, 80);
    for frame in [
        tcp((container(4), 80), (container(1), 80), SYN),
        udp((container(4), 80), (container(1), 40000)),
        echo_request(container(4), container(1), 7),
        echo_reply(container(4), container(1), 7),
    ] {
        assert_eq!(world.send(4, &frame).unwrap_err(), Reason::Isolated);
    }
}

#[test]
fn errors_about_a_visit_pass_both_ways() {
    let world = routed();
    let (inside, server) = ((container(1), 40000), (container(4), 80));
    let (question, reply) = (tcp(inside, server, SYN), tcp(server, inside, SYN_ACK));
    let from_server = unreachable(container(4), container(1), &question, world.quotation());
    assert_eq!(world.complain(4, &from_server).unwrap_err(), Reason::Isolated);
    world.send(1, &question).unwrap();
    assert!(world.complain(4, &from_server).unwrap().is_none());
    let from_client = unreachable(container(1), container(4), &reply, world.quotation());
    assert!(world.complain(1, &from_client).unwrap().is_none());
}

#[test]
fn one_network_reaches_an_unprotected_one_at_every_port() {
    let world = unprotected();
    let (inside, server) = ((container(1), 40000), (container(5), 81));
    assert_eq!(world.send(1, &tcp(inside, server, SYN)).unwrap().out, Out::Across(5));
    assert_eq!(world.send(5, &tcp(server, inside, SYN_ACK)).unwrap().out, Out::Across(1));
    let back = world.send(5, &tcp(server, (container(1), 80), SYN));
    assert_eq!(back.unwrap_err(), Reason::Isolated);
}

#[test]
fn between_networks_the_kernel_does_what_a_shortcut_cannot() {
    let mut world = routed();
    let frame = tcp((container(1), 40000), (container(4), 80), SYN);
    world.second.mtu = 39;
    assert_eq!(world.send(1, &frame).unwrap().out, Out::Kernel, "too big: the kernel says so");
    world.second.mtu = 1500;
    world.config.flags &= !config_flag::SHORTCUTS;
    assert_eq!(world.send(1, &frame).unwrap().out, Out::Kernel);
    // A frame that does not come to the bridge's own address is decided on, too.
    assert_eq!(world.send_to(1, SECOND_BRIDGE_MAC, &frame).unwrap().out, Out::Kernel);
    let closed = tcp((container(1), 40000), (container(4), 81), SYN);
    assert_eq!(world.send_to(1, SECOND_BRIDGE_MAC, &closed).unwrap_err(), Reason::Isolated);
}
