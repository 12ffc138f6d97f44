//! Published ports.

use netpath_common::{Address as _, PortKey, PortSource, PortTarget, Reason, proto, source_flag, target_flag};
use netpath_ebpf::decision::Out;

use super::{Addr, CLIENT, GATEWAY, GROUPS, HOPS_OFF, HOST, OTHER_HOST, World, container};
use crate::frame::{ACK, SYN, SYN_ACK, tcp, udp};
use crate::world::veth;

#[test]
fn published_port_leads_into_the_container_and_keeps_the_client() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let decision = world.arrive(&tcp((CLIENT, 40000), (HOST, 8080), SYN)).unwrap();
    assert_eq!((decision.tuple.dst_addr, decision.tuple.dst_port), (container(1), 80));
    assert_eq!((decision.tuple.src_addr, decision.tuple.src_port), (CLIENT, 40000));
    assert_eq!(decision.out, Out::Container(veth(1)));
}

#[test]
fn reply_leaves_from_the_published_address_without_any_state() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let reply = tcp((container(1), 80), (CLIENT, 40000), SYN_ACK);
    for decision in [world.send(1, &reply).unwrap(), world.leave(&reply).unwrap()] {
        assert_eq!((decision.tuple.src_addr, decision.tuple.src_port), (HOST, 8080));
        assert_eq!((decision.tuple.dst_addr, decision.tuple.dst_port), (CLIENT, 40000));
    }
    assert_eq!(world.flow_count(), 0);
}

#[test]
fn protocols_are_published_one_by_one() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let decision = world.arrive(&udp((CLIENT, 40000), (HOST, 8080))).unwrap();
    assert_eq!((decision.tuple.dst_addr, decision.out), (HOST, Out::Kernel));
}

#[test]
fn packets_to_the_host_itself_are_left_alone() {
    let world = World::new();
    let decision = world.arrive(&tcp((CLIENT, 40000), (HOST, 22), SYN)).unwrap();
    assert_eq!((decision.tuple.dst_addr, decision.tuple.dst_port, decision.out), (HOST, 22, Out::Kernel));
}

#[test]
fn port_of_a_container_that_is_gone_leads_nowhere() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    world.replace(1);
    assert_eq!(world.arrive(&tcp((CLIENT, 40000), (HOST, 8080), SYN)).unwrap_err(), Reason::EndpointGone);
}

#[test]
fn without_shortcuts_the_kernel_forwards_what_is_translated() {
    let mut world = World::new();
    world.config.flags = 0;
    world.publish(proto::TCP, 8080, 1, 80);
    let decision = world.arrive(&tcp((CLIENT, 40000), (HOST, 8080), SYN)).unwrap();
    assert_eq!((decision.tuple.dst_addr, decision.out), (container(1), Out::Kernel));
}

#[test]
fn a_packet_at_the_end_of_its_hops_takes_the_kernels_road() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let mut frame = tcp((CLIENT, 40000), (HOST, 8080), SYN);
    frame.0[HOPS_OFF] = 1;
    assert_eq!(world.arrive(&frame).unwrap().out, Out::Kernel);
    let mut reply = tcp((container(1), 80), (CLIENT, 40000), SYN_ACK);
    reply.0[HOPS_OFF] = 1;
    assert_eq!(world.send(1, &reply).unwrap().out, Out::Kernel);
}

/// The container's port 80 is published at 8080 and, behind another host address, at 9090.
fn ambiguous() -> World {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    world
        .sources
        .insert(PortKey::new(container(1), 80, proto::TCP), PortSource::new(HOST, 8080, source_flag::AMBIGUOUS, 0));
    let target = PortTarget::new(1, 1, 80, target_flag::NEEDS_FLOW, 0);
    world.published.insert(PortKey::new(OTHER_HOST, 9090, proto::TCP), target);
    world
}

#[test]
fn every_client_gets_its_reply_from_the_name_it_used() {
    let world = ambiguous();
    world.arrive(&tcp((CLIENT, 1111), (HOST, 8080), SYN)).unwrap();
    world.arrive(&tcp((CLIENT, 2222), (OTHER_HOST, 9090), SYN)).unwrap();
    let first = world.send(1, &tcp((container(1), 80), (CLIENT, 1111), SYN_ACK)).unwrap();
    let second = world.send(1, &tcp((container(1), 80), (CLIENT, 2222), SYN_ACK)).unwrap();
    assert_eq!((first.tuple.src_addr, first.tuple.src_port), (HOST, 8080));
    assert_eq!((second.tuple.src_addr, second.tuple.src_port), (OTHER_HOST, 9090));
}

#[test]
fn a_second_name_costs_a_flow_for_its_own_clients_only() {
    let world = ambiguous();
    world.arrive(&tcp((CLIENT, 1111), (HOST, 8080), SYN)).unwrap();
    assert_eq!(world.flow_count(), 0);
    world.arrive(&tcp((CLIENT, 2222), (OTHER_HOST, 9090), SYN)).unwrap();
    world.arrive(&tcp((CLIENT, 2222), (OTHER_HOST, 9090), ACK)).unwrap();
    assert_eq!(world.flow_count(), 1);
}

#[test]
fn a_client_that_goes_over_to_the_first_name_gets_its_replies_from_there() {
    let mut world = ambiguous();
    let target = PortTarget::new(1, 1, 80, target_flag::ENDS_FLOW, 0);
    world.published.insert(PortKey::new(HOST, 8080, proto::TCP), target);
    world.arrive(&tcp((CLIENT, 2222), (OTHER_HOST, 9090), SYN)).unwrap();
    world.arrive(&tcp((CLIENT, 2222), (HOST, 8080), SYN)).unwrap();
    let reply = world.send(1, &tcp((container(1), 80), (CLIENT, 2222), SYN_ACK)).unwrap();
    assert_eq!((reply.tuple.src_addr, reply.tuple.src_port), (HOST, 8080));
}

#[test]
fn the_bridges_name_of_a_port_is_not_reachable_from_outside() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let target = PortTarget::new(1, 1, 80, target_flag::INSIDE_ONLY, 0);
    world.published.insert(PortKey::new(GATEWAY, 8080, proto::TCP), target);
    assert_eq!(world.arrive(&tcp((CLIENT, 1), (GATEWAY, 8080), SYN)).unwrap_err(), Reason::DirectAccess);
}

#[test]
fn nobody_outside_has_a_containers_or_the_hosts_own_address() {
    let mut world = World::new();
    world.publish(proto::UDP, 5353, 1, 53);
    for source in [container(2), GATEWAY, HOST, Addr::UNSPECIFIED, GROUPS[0], GROUPS[1]] {
        let decision = world.arrive(&udp((source, 1000), (HOST, 5353)));
        assert_eq!(decision.unwrap_err(), Reason::MartianSource, "{source:?}");
    }
}
