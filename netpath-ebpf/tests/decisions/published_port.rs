//! Published ports.

use netpath_common::{
    Address as _, PortKey, PortRange, PortSource, PortTarget, Reason, Tuple, proto, source_flag, target_flag,
};
use netpath_ebpf::decision::Out;
use netpath_ebpf::external;
use netpath_ebpf::packet::{Kind, Packet, Tcp};

use super::{Addr, CLIENT, GATEWAY, GROUPS, HOPS_OFF, HOST, OTHER_CLIENT, OTHER_HOST, World, container};
use crate::frame::{ACK, FIN_ACK, RST, SYN, SYN_ACK, tcp, udp};
use crate::world::{UPLINK, veth};

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
    frame.set(HOPS_OFF, 1);
    assert_eq!(world.arrive(&frame).unwrap().out, Out::Kernel);
    let mut reply = tcp((container(1), 80), (CLIENT, 40000), SYN_ACK);
    reply.set(HOPS_OFF, 1);
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

/// Anybody can send a packet with a client's address and port to another name of the container.
#[test]
fn a_packet_in_a_clients_name_does_not_rename_its_connection() {
    let mut world = ambiguous();
    let target = PortTarget::new(1, 1, 80, target_flag::ENDS_FLOW, 0);
    world.published.insert(PortKey::new(HOST, 8080, proto::TCP), target);
    let names = [(HOST, 8080), (OTHER_HOST, 9090)];
    for (client, used, other) in [(1111, names[0], names[1]), (2222, names[1], names[0])] {
        world.arrive(&tcp((CLIENT, client), used, SYN)).unwrap();
        let answer = |flags| world.send(1, &tcp((container(1), 80), (CLIENT, client), flags)).unwrap().tuple;
        assert_eq!((answer(SYN_ACK).src_addr, answer(SYN_ACK).src_port), used);
        let forged: &[u8] = if used == names[1] { &[ACK, RST, FIN_ACK, SYN] } else { &[ACK, RST, FIN_ACK] };
        for flags in forged {
            let _ = world.arrive(&tcp((CLIENT, client), other, *flags));
            assert_eq!((answer(ACK).src_addr, answer(ACK).src_port), used, "after flags {flags:#x}");
        }
        // A fragment that is not the first one has the ports of one that was.
        let mut fragment = Packet::parse(&tcp((CLIENT, client), other, ACK), 14).unwrap();
        (fragment.kind, fragment.tcp) = (Kind::LaterFragment, Tcp::default());
        external::from_external(&world, &world.config, &fragment, UPLINK).unwrap();
        assert_eq!((answer(ACK).src_addr, answer(ACK).src_port), used, "after a fragment");
    }
}

#[test]
fn a_name_that_is_not_published_any_more_is_no_name() {
    let mut world = World::new();
    world.publish(proto::UDP, 5353, 1, 53);
    let target = PortTarget::new(1, 1, 53, target_flag::NEEDS_FLOW, 0);
    world.published.insert(PortKey::new(HOST, 9053, proto::UDP), target);
    world
        .sources
        .insert(PortKey::new(container(1), 53, proto::UDP), PortSource::new(HOST, 5353, source_flag::AMBIGUOUS, 0));
    world.arrive(&udp((CLIENT, 1111), (HOST, 9053))).unwrap();
    let answer = udp((container(1), 53), (CLIENT, 1111));
    assert_eq!(world.send(1, &answer).unwrap().tuple.src_port, 9053);
    world.published.clear();
    world.sources.clear();
    assert_ne!(world.send(1, &answer).unwrap().tuple.src_port, 9053);
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
    for source in [container(2), container(5), GATEWAY, HOST, Addr::UNSPECIFIED, GROUPS[0], GROUPS[1]] {
        let decision = world.arrive(&udp((source, 1000), (HOST, 5353)));
        assert_eq!(decision.unwrap_err(), Reason::MartianSource, "{source:?}");
    }
}

/// The ports from 2048 of container 1 are published from 1024 on, as a block; the source says from where.
fn block() -> World {
    let mut world = World::new();
    world.published.insert(PortKey::block(HOST, 1024, proto::TCP), PortTarget::new(1, 1, 2000, 0, 0));
    world.sources.insert(PortKey::block(container(1), 2048, proto::TCP), PortSource::new(HOST, 1072, 0, 0));
    world
}

#[test]
fn a_block_leads_to_as_many_container_ports_and_back() {
    let world = block();
    for offset in [0, 1, 48, 255] {
        let decision = world.arrive(&tcp((CLIENT, 40000), (HOST, 1024 + offset), SYN)).unwrap();
        assert_eq!((decision.tuple.dst_addr, decision.tuple.dst_port), (container(1), 2000 + offset));
    }
    // Container port 2048 is the one that host port 1072 leads to.
    let reply = world.send(1, &tcp((container(1), 2048 + 7), (CLIENT, 40000), SYN_ACK)).unwrap();
    assert_eq!((reply.tuple.src_addr, reply.tuple.src_port), (HOST, 1072 + 7));
}

#[test]
fn a_block_ends_where_it_ends() {
    let world = block();
    for port in [1023, 1280] {
        assert_eq!(world.arrive(&tcp((CLIENT, 40000), (HOST, port), SYN)).unwrap().out, Out::Kernel);
    }
    assert_eq!(world.arrive(&udp((CLIENT, 40000), (HOST, 1024))).unwrap().out, Out::Kernel);
    for port in [2047, 2048 + 256] {
        let reply = tcp((container(1), port), (CLIENT, 40000), SYN_ACK);
        assert_eq!(world.send(1, &reply).unwrap_err(), Reason::NoFlow);
    }
}

#[test]
fn a_port_of_its_own_goes_before_the_block_around_it() {
    let mut world = block();
    world.publish(proto::TCP, 1030, 2, 80);
    let decision = world.arrive(&tcp((CLIENT, 40000), (HOST, 1030), SYN)).unwrap();
    assert_eq!((decision.tuple.dst_addr, decision.tuple.dst_port), (container(2), 80));
}

#[test]
fn no_port_of_a_block_is_masqueraded_with() {
    let mut world = World::new();
    world.config.ports = PortRange { first: 1024, last: 1535 };
    world.published.insert(PortKey::block(HOST, 1024, proto::UDP), PortTarget::new(1, 1, 2048, 0, 0));
    for port in 1024..1040 {
        let out = world.send(2, &udp((container(2), port), (CLIENT, 53))).unwrap().tuple;
        assert!(out.src_port >= 1280, "port {}", out.src_port);
    }
}

#[test]
fn a_listed_port_is_open_to_its_sources_only() {
    let mut world = World::new();
    let target = PortTarget::new(1, 1, 80, target_flag::ALLOW_LIST, 7);
    world.published.insert(PortKey::new(HOST, 8080, proto::TCP), target);
    world.allowed.extend([(7, CLIENT), (8, OTHER_CLIENT)]);
    assert_eq!(world.arrive(&tcp((CLIENT, 1), (HOST, 8080), SYN)).unwrap().tuple.dst_addr, container(1));
    let refused = world.arrive(&tcp((OTHER_CLIENT, 1), (HOST, 8080), SYN));
    assert_eq!(refused.unwrap_err(), Reason::SourceNotAllowed);
}

#[test]
fn a_connection_of_the_hosts_own_keeps_its_port_though_that_is_published() {
    let mut world = World::new();
    for (protocol, frame) in
        [(proto::TCP, tcp((CLIENT, 443), (HOST, 40000), ACK)), (proto::UDP, udp((CLIENT, 443), (HOST, 40000)))]
    {
        world.connections.insert(Tuple::new(CLIENT, 443, HOST, 40000, protocol));
        let key = PortKey::new(HOST, 40000, protocol);
        world.published.insert(key, PortTarget::new(1, 1, 80, target_flag::EPHEMERAL, 0));
        let decision = world.arrive(&frame).unwrap();
        assert_eq!((decision.tuple.dst_addr, decision.out), (HOST, Out::Kernel));
        // Others reach the container, and so does everybody where the port is not an ephemeral one.
        let other = if protocol == proto::TCP {
            tcp((OTHER_CLIENT, 443), (HOST, 40000), ACK)
        } else {
            udp((OTHER_CLIENT, 443), (HOST, 40000))
        };
        assert_eq!(world.arrive(&other).unwrap().tuple.dst_addr, container(1));
        world.published.insert(key, PortTarget::new(1, 1, 80, 0, 0));
        assert_eq!(world.arrive(&frame).unwrap().tuple.dst_addr, container(1));
    }
}

#[test]
fn a_new_connection_is_the_containers_whatever_the_host_has() {
    let mut world = World::new();
    world.connections.insert(Tuple::new(CLIENT, 443, HOST, 40000, proto::TCP));
    let target = PortTarget::new(1, 1, 80, target_flag::EPHEMERAL, 0);
    world.published.insert(PortKey::new(HOST, 40000, proto::TCP), target);
    let decision = world.arrive(&tcp((CLIENT, 443), (HOST, 40000), SYN)).unwrap();
    assert_eq!(decision.tuple.dst_addr, container(1));
}
