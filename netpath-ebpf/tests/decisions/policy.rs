//! Who may talk to whom.

use netpath_common::{Reason, config_flag, network_flag, proto};
use netpath_ebpf::decision::Out;
use netpath_ebpf::env::Route;

use super::{CLIENT, ELSEWHERE, GATEWAY, GROUPS, HOST, LOOPBACK, NOBODY, PROTO_OFF, World, container};
use crate::frame::{SYN, SYN_ACK, tcp, udp};
use crate::world::{BRIDGE_MAC, mac, veth};

fn without_icc() -> World {
    let mut world = World::new();
    world.network.flags &= !network_flag::ICC;
    world
}

#[test]
fn neighbours_talk_directly() {
    let world = World::new();
    let decision = world.send_to(1, mac(2), &tcp((container(1), 40000), (container(2), 80), SYN)).unwrap();
    assert_eq!(decision.out, Out::Sibling(veth(2)));
    assert_eq!(decision.tuple.src_addr, container(1));
}

#[test]
fn neighbours_talk_through_the_gateway_where_there_is_no_bridge() {
    let mut world = World::new();
    world.network.ifindex = 0;
    for n in 1..4 {
        world.endpoints[usize::from(n)].gateway_ifindex = veth(n);
        world.endpoints[usize::from(n)].gateway_mac = mac(100 + n);
    }
    let frame = tcp((container(1), 40000), (container(2), 80), SYN);
    let decision = world.send_to(1, mac(101), &frame).unwrap();
    assert_eq!((decision.out, decision.tuple.src_addr), (Out::Across(2), container(1)));
    // The gateway of another container is none of this one's.
    assert_eq!(world.send_to(1, mac(102), &frame).unwrap().out, Out::Kernel);
    assert!(matches!(
        world.send_to(1, mac(101), &udp((container(1), 1), (CLIENT, 53))).unwrap().out,
        Out::External { .. }
    ));
    world.network.flags &= !network_flag::ICC;
    assert_eq!(world.send_to(1, mac(101), &frame).unwrap_err(), Reason::Icc);
}

#[test]
fn a_network_without_shortcuts_leaves_everything_to_the_kernel() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 2, 80);
    world.network.flags |= network_flag::NO_SHORTCUTS;
    let question = tcp((CLIENT, 40000), (HOST, 8080), SYN);
    let decision = world.arrive(&question).unwrap();
    assert_eq!((decision.out, decision.tuple.dst_addr), (Out::Kernel, container(2)));
    for (n, frame) in [
        (2, tcp((container(2), 80), (CLIENT, 40000), SYN_ACK)),
        (1, udp((container(1), 5000), (CLIENT, 53))),
        (1, tcp((container(1), 40000), (container(2), 80), SYN)),
    ] {
        assert_eq!(world.send(n, &frame).unwrap().out, Out::Kernel);
    }
    // Its own name comes at the end of that road.
    let out = world.leave(&udp((container(1), 5000), (CLIENT, 53))).unwrap();
    assert_eq!(out.tuple.src_addr, HOST);
    let back = world.arrive(&udp((CLIENT, 53), (HOST, out.tuple.src_port))).unwrap();
    assert_eq!((back.out, back.tuple.dst_addr), (Out::Kernel, container(1)));
}

#[test]
fn without_icc_neighbours_do_not_talk_by_any_road() {
    let world = without_icc();
    let to_neighbour = tcp((container(1), 40000), (container(2), 80), SYN);
    assert_eq!(world.send_to(1, mac(2), &to_neighbour).unwrap_err(), Reason::Icc);
    assert_eq!(world.send(1, &to_neighbour).unwrap_err(), Reason::Icc);
    // A foreign IP address to the neighbour's hardware address, and groups.
    assert_eq!(world.send_to(1, mac(2), &udp((container(1), 1), (CLIENT, 53))).unwrap_err(), Reason::Icc);
    assert_eq!(world.send_to(1, mac(2), &udp((container(1), 1), (GATEWAY, 53))).unwrap_err(), Reason::Icc);
    for group in GROUPS {
        assert_eq!(world.send_to(1, [0xff; 6], &udp((container(1), 1), (group, 5353))).unwrap_err(), Reason::Icc);
    }
}

#[test]
fn without_icc_host_outside_and_published_ports_are_reached() {
    let mut world = without_icc();
    world.publish(proto::TCP, 8080, 2, 80);
    assert_eq!(world.send(1, &udp((container(1), 1), (GATEWAY, 53))).unwrap().out, Out::Kernel);
    assert!(world.send(1, &udp((container(1), 1), (CLIENT, 53))).is_ok());
    assert!(world.arrive(&tcp((CLIENT, 40000), (HOST, 8080), SYN)).is_ok());
}

#[test]
fn spoofed_addresses_are_dropped() {
    let world = World::new();
    for spoofed in [container(2), CLIENT, NOBODY, GATEWAY] {
        let frame = udp((spoofed, 1000), (CLIENT, 53));
        assert_eq!(world.send(1, &frame).unwrap_err(), Reason::SpoofedSource);
    }
}

#[test]
fn containers_are_not_reached_from_outside_but_by_published_ports() {
    let world = World::new();
    let frame = tcp((CLIENT, 40000), (container(1), 80), SYN);
    assert_eq!(world.arrive(&frame).unwrap_err(), Reason::DirectAccess);
}

#[test]
fn loopback_addresses_do_not_come_from_outside() {
    let world = World::new();
    assert_eq!(world.arrive(&udp((CLIENT, 1), (LOOPBACK, 53))).unwrap_err(), Reason::LoopbackAddress);
    assert_eq!(world.arrive(&udp((LOOPBACK, 1), (HOST, 53))).unwrap_err(), Reason::LoopbackAddress);
}

#[test]
fn nothing_leaves_with_an_address_of_a_container_network() {
    let mut world = World::new();
    assert_eq!(world.leave(&udp((container(9), 1), (CLIENT, 53))).unwrap_err(), Reason::Leak);
    assert_eq!(world.leave(&udp((GATEWAY, 1), (CLIENT, 53))).unwrap_err(), Reason::Leak);
    assert_eq!(world.leave(&udp((HOST, 1), (CLIENT, 53))).unwrap().tuple.src_addr, HOST);
    world.network.flags = network_flag::EXISTS | network_flag::INTERNAL;
    assert_eq!(world.leave(&udp((container(1), 1), (CLIENT, 53))).unwrap_err(), Reason::Internal);
    assert_eq!(world.send(1, &udp((container(1), 1), (CLIENT, 53))).unwrap_err(), Reason::Internal);
}

#[test]
fn protocols_without_ports_do_not_leave() {
    let world = World::new();
    let mut frame = udp((container(1), 1), (CLIENT, 53));
    frame.set(PROTO_OFF, 50);
    assert_eq!(world.send(1, &frame).unwrap_err(), Reason::Untranslatable);
}

#[test]
fn routes_by_interfaces_that_are_not_served_are_refused() {
    let mut world = World::new();
    world.route = Route::To { ifindex: 77, next_hop: CLIENT };
    assert_eq!(world.send(1, &udp((container(1), 1), (CLIENT, 53))).unwrap_err(), Reason::NotExternal);
    assert_eq!(world.send(1, &udp((container(1), 1), (ELSEWHERE, 53))).unwrap_err(), Reason::Isolated);
}

#[test]
fn both_roads_give_the_same_translation() {
    for frame in [udp((container(1), 5000), (CLIENT, 53)), tcp((container(1), 40000), (CLIENT, 80), SYN)] {
        let mut world = World::new();
        let shortcut = world.send(1, &frame).unwrap();
        world.config.flags &= !config_flag::SHORTCUTS;
        let first_half = world.send_to(1, BRIDGE_MAC, &frame).unwrap();
        assert_eq!(first_half.out, Out::Kernel);
        assert_eq!(first_half.tuple.src_addr, container(1));
        assert_eq!(world.leave(&frame).unwrap().tuple, shortcut.tuple);
    }
}

#[test]
fn what_is_too_big_does_not_leave_by_an_interface_that_is_not_served_either() {
    let mut world = World::new();
    world.route = Route::TooBig { ifindex: 77 };
    assert_eq!(world.send(1, &udp((container(1), 1), (CLIENT, 53))).unwrap_err(), Reason::NotExternal);
    world.route = Route::TooBig { ifindex: crate::world::UPLINK };
    assert_eq!(world.send(1, &udp((container(1), 1), (CLIENT, 53))).unwrap().out, Out::Kernel);
}
