//! Masquerade: ports, flows and their ends.

use netpath_common::{Address as _, CtState, MappingKey, PortKey, PortRange, Reason, Share, Tuple, proto};
use netpath_ebpf::decision::Out;
use netpath_ebpf::port_alloc::CANDIDATES;

use super::{Addr, CLIENT, HOST, ICMP, OTHER_CLIENT, OTHER_HOST, World, container};
use crate::frame::{ACK, FIN_ACK, RST, SYN, SYN_ACK, answer, echo_request, tcp, tcp_at, udp};
use crate::world::{UPLINK, veth};

/// The host port that a UDP packet of container `n` gets.
fn port(world: &World, n: u8, src_port: u16, dst: (Addr, u16)) -> Result<u16, Reason> {
    world.send(n, &udp((container(n), src_port), dst)).map(|decision| decision.tuple.src_port)
}

#[test]
fn outbound_packet_gets_the_hosts_address_and_leaves_by_the_route() {
    let world = World::new();
    let decision = world.send(1, &tcp((container(1), 40000), (CLIENT, 80), SYN)).unwrap();
    assert_eq!(decision.tuple.src_addr, HOST);
    assert!((1024..=32767).contains(&decision.tuple.src_port));
    assert_eq!((decision.tuple.dst_addr, decision.tuple.dst_port), (CLIENT, 80));
    assert_eq!(decision.out, Out::External { ifindex: UPLINK, next_hop: CLIENT });
}

#[test]
fn reply_comes_back_to_the_container_and_its_port() {
    let world = World::new();
    for frame in [
        tcp((container(1), 40000), (CLIENT, 80), SYN),
        udp((container(1), 40000), (CLIENT, 53)),
        echo_request(container(1), CLIENT, 77),
    ] {
        let out = world.send(1, &frame).unwrap().tuple;
        let back = world.arrive(&answer(&out, SYN_ACK)).unwrap();
        assert_eq!(back.tuple.dst_addr, container(1));
        assert_eq!(back.out, Out::Container(veth(1)));
        assert_eq!(back.tuple.dst_port, if out.proto == ICMP { 77 } else { 40000 });
    }
}

#[test]
fn an_inside_port_keeps_its_host_port_for_all_destinations() {
    let world = World::new();
    let first = port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    assert_eq!(first, 5000);
    let second = port(&world, 2, 5000, (CLIENT, 53)).unwrap();
    assert_ne!(second, first);
    for dst in [(OTHER_CLIENT, 53), (CLIENT, 54), (OTHER_CLIENT, 7009)] {
        assert_eq!(port(&world, 1, 5000, dst), Ok(first));
        assert_eq!(port(&world, 2, 5000, dst), Ok(second));
    }
}

#[test]
fn mapping_is_found_again_behind_one_that_has_died() {
    let world = World::new();
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    world.wait(100);
    let second = port(&world, 2, 5000, (CLIENT, 53)).unwrap();
    world.wait(100);
    // The first mapping is dead by now, the second one is not.
    assert_eq!(port(&world, 2, 5000, (OTHER_CLIENT, 53)), Ok(second));
}

#[test]
fn mapping_is_found_again_behind_a_port_that_nobody_can_have() {
    let mut world = World::new();
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    let next = port(&world, 2, 5000, (CLIENT, 53)).unwrap();
    world = World::new();
    world.sockets.insert((proto::UDP, next));
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    world.wait(100);
    let behind = port(&world, 2, 5000, (CLIENT, 53)).unwrap();
    assert_ne!(behind, next);
    world.wait(100);
    // The first mapping is dead by now, and there never was one at the socket's port.
    assert_eq!(port(&world, 2, 5000, (OTHER_CLIENT, 53)), Ok(behind));
}

#[test]
fn mapping_is_found_again_behind_a_port_that_has_become_free() {
    type Change = fn(&mut World);
    let lose_socket: [Change; 2] = [
        |world| assert!(world.sockets.insert((proto::UDP, 5000))),
        |world| assert!(world.sockets.remove(&(proto::UDP, 5000))),
    ];
    let unpublish: [Change; 2] = [
        |world| world.publish(proto::UDP, 5000, 2, 53),
        |world| assert!(world.published.remove(&PortKey::new(HOST, 5000, proto::UDP)).is_some()),
    ];
    // As the agent's sweep does.
    let forget_mapping: [Change; 2] = [
        |world| assert_eq!(port(world, 2, 5000, (CLIENT, 53)), Ok(5000)),
        |world| assert!(world.mappings.get_mut().remove(&MappingKey::new(HOST, 5000, proto::UDP)).is_some()),
    ];
    for [take, free] in [lose_socket, unpublish, forget_mapping] {
        let mut world = World::new();
        take(&mut world);
        let behind = port(&world, 1, 5000, (CLIENT, 53)).unwrap();
        assert_ne!(behind, 5000);
        free(&mut world);
        assert_eq!(port(&world, 1, 5000, (OTHER_CLIENT, 53)), Ok(behind));
        // What has become free is there for others.
        assert_eq!(port(&world, 3, 5000, (CLIENT, 53)), Ok(5000));
    }
}

#[test]
fn mapping_is_found_again_at_every_candidate() {
    let mut candidates = Vec::new();
    for _ in 0..CANDIDATES {
        let mut world = World::new();
        world.sockets.extend(candidates.iter().map(|port| (proto::UDP, *port)));
        let behind = port(&world, 1, 5000, (CLIENT, 53)).unwrap();
        world.sockets.clear();
        assert_eq!(port(&world, 1, 5000, (OTHER_CLIENT, 53)), Ok(behind), "behind {}", candidates.len());
        candidates.push(behind);
    }
}

#[test]
fn a_first_flow_looks_no_further_for_a_mapping_than_there_are_any() {
    let world = World::new();
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    // For an own one, for a free one, to join it, and for who has it in the end.
    assert_eq!(world.mapping_look_ups.get(), 4);
}

#[test]
fn only_the_addressed_peer_may_answer() {
    let world = World::new();
    let out = world.send(1, &udp((container(1), 5000), (CLIENT, 53))).unwrap().tuple;
    for peer in [(OTHER_CLIENT, 53), (CLIENT, 54)] {
        let decision = world.arrive(&udp(peer, (out.src_addr, out.src_port))).unwrap();
        assert_eq!((decision.tuple.dst_addr, decision.out), (HOST, Out::Kernel));
    }
}

#[test]
fn published_ports_and_the_hosts_own_ports_are_never_used() {
    let mut world = World::new();
    world.publish(proto::UDP, 5353, 2, 53);
    world.sockets.insert((proto::UDP, 6000));
    let dst = (CLIENT, 2000);
    assert!(![5353, 6000].contains(&port(&world, 1, 5353, dst).unwrap()));
    assert!(![5353, 6000].contains(&port(&world, 1, 6000, dst).unwrap()));
}

#[test]
fn class_of_privileged_ports_is_kept() {
    let world = World::new();
    assert!((600..1024).contains(&port(&world, 1, 123, (CLIENT, 123)).unwrap()));
    assert!(port(&world, 1, 1024, (CLIENT, 123)).unwrap() >= 1024);
}

#[test]
fn flow_of_a_container_that_is_gone_reaches_nobody() {
    let mut world = World::new();
    let out = world.send(1, &udp((container(1), 5000), (CLIENT, 53))).unwrap().tuple;
    world.replace(1);
    assert_eq!(world.arrive(&answer(&out, 0)).unwrap_err(), Reason::EndpointGone);
    // The successor at the same address and port gets a flow of its own.
    let successor = world.send(1, &udp((container(1), 5000), (CLIENT, 53))).unwrap().tuple;
    assert_eq!(world.arrive(&answer(&successor, 0)).unwrap().out, Out::Container(veth(1)));
}

#[test]
fn silent_flow_ends_after_its_time_out_and_not_before() {
    let timeouts = World::new().config.timeouts;
    for (frame, replied, timeout) in [
        (udp((container(1), 5000), (CLIENT, 53)), false, timeouts.udp_unreplied),
        (udp((container(1), 5000), (CLIENT, 53)), true, timeouts.udp),
        (echo_request(container(1), CLIENT, 7), true, timeouts.icmp),
        (tcp((container(1), 5000), (CLIENT, 80), SYN), false, timeouts.tcp_transitory),
        (tcp((container(1), 5000), (CLIENT, 80), SYN), true, timeouts.tcp),
    ] {
        let world = World::new();
        let out = world.send(1, &frame).unwrap().tuple;
        let reply = answer(&out, SYN_ACK);
        if replied {
            world.arrive(&reply).unwrap();
        }
        world.wait(timeout);
        assert_eq!(world.arrive(&reply).unwrap().tuple.dst_addr, container(1), "ended early: {out:?}");
        let timeout = if out.proto == proto::TCP { timeouts.tcp } else { timeouts.udp.max(timeouts.icmp) };
        world.wait(timeout + 1);
        assert_eq!(world.arrive(&reply).unwrap().out, Out::Kernel, "went on too long: {out:?}");
    }
}

#[test]
fn only_a_syn_begins_a_tcp_flow() {
    let world = World::new();
    for flags in [ACK, SYN_ACK, RST, FIN_ACK, 0, SYN | 1, SYN | RST, 0x3f] {
        let frame = tcp((container(1), 40000), (CLIENT, 80), flags);
        assert_eq!(world.send(1, &frame).unwrap_err(), Reason::NoFlow, "flags {flags:#x}");
        assert_eq!(world.leave(&frame).unwrap_err(), Reason::NoFlow, "flags {flags:#x}");
    }
}

#[test]
fn next_connection_of_a_closed_one_keeps_the_port() {
    let world = World::new();
    let (inside, server) = ((container(1), 40000), (CLIENT, 80));
    let first = world.send(1, &tcp(inside, server, SYN)).unwrap().tuple;
    world.arrive(&answer(&first, SYN_ACK)).unwrap();
    world.send(1, &tcp(inside, server, FIN_ACK)).unwrap();
    world.arrive(&answer(&first, FIN_ACK)).unwrap();
    let tuple = Tuple::new(inside.0, inside.1, server.0, server.1, proto::TCP);
    assert_eq!(world.flow_of(&tuple).unwrap().state(proto::TCP), CtState::Closing);
    let second = world.send(1, &tcp(inside, server, SYN)).unwrap().tuple;
    assert_eq!(second, first);
    assert_eq!(world.flow_of(&tuple).unwrap().state(proto::TCP), CtState::SynSent);
}

#[test]
fn blind_rst_from_outside_does_not_end_a_connection() {
    let world = World::new();
    let (inside, server) = ((container(1), 40000), (CLIENT, 80));
    let out = world.send(1, &tcp_at(inside, server, SYN, 100, 0)).unwrap().tuple;
    let host = (out.src_addr, out.src_port);
    world.arrive(&tcp_at(server, host, SYN_ACK, 500, 101)).unwrap();
    world.send(1, &tcp_at(inside, server, ACK, 101, 501)).unwrap();
    let tuple = Tuple::new(inside.0, inside.1, server.0, server.1, proto::TCP);
    let state = || world.flow_of(&tuple).unwrap().state(proto::TCP);
    world.arrive(&tcp_at(server, host, RST, 777, 0)).unwrap();
    assert_eq!(state(), CtState::Established);
    world.arrive(&tcp_at(server, host, RST, 501, 0)).unwrap();
    assert_eq!(state(), CtState::Closing);
}

#[test]
fn full_table_refuses_new_flows_and_keeps_the_living() {
    let world = World::with_flows(8);
    let living = fill(&world);
    assert_eq!(living.len(), 8);
    assert_eq!(port(&world, 3, 6000, (CLIENT, 53)), Err(Reason::FlowTableFull));
    for (n, out) in living {
        assert_eq!(world.arrive(&answer(&out, 0)).unwrap().tuple.dst_addr, container(n));
    }
}

/// Fills the table of flows with those of containers 1 and 2.
fn fill(world: &World) -> Vec<(u8, Tuple<Addr>)> {
    let mut living = Vec::new();
    for n in [1, 2] {
        let flows = (5000..).map(|port| world.send(n, &udp((container(n), port), (CLIENT, 53))));
        living.extend(flows.map_while(Result::ok).map(|decision| (n, decision.tuple)));
    }
    living
}

#[test]
fn a_container_that_takes_all_the_flows_it_can_leaves_room_for_others() {
    let world = World::with_flows(100);
    let take_all = |n| (1024..).take_while(|from| port(&world, n, *from, (CLIENT, 53)).is_ok()).count();
    assert_eq!([1, 2, 3].map(take_all), [80, 16, 4]);
    assert_eq!(world.flow_count(), 100);
}

#[test]
fn a_container_with_its_share_goes_on_with_its_flows_and_gets_others_when_they_end() {
    let world = World::with_flows(100);
    for from in 0..80 {
        port(&world, 1, 5000 + from, (CLIENT, 53)).unwrap();
    }
    assert_eq!(port(&world, 1, 6000, (CLIENT, 53)), Err(Reason::FlowQuota));
    assert_eq!(port(&world, 1, 5000, (CLIENT, 53)), Ok(5000));
    world.wait(world.config.timeouts.udp_unreplied + 1);
    // It comes to them on its way round the ring.
    let refused = (6000..6080).filter(|from| port(&world, 1, *from, (CLIENT, 53)).is_err()).count();
    assert!(refused < 8, "{refused} refused");
}

#[test]
fn what_a_container_before_has_left_is_not_on_the_share_of_the_next_one() {
    let mut world = World::with_flows(100);
    for from in 0..50 {
        port(&world, 1, 5000 + from, (CLIENT, 53)).unwrap();
    }
    world.replace(1);
    *world.shares[1].get_mut() = Share::default();
    for from in 0..50 {
        port(&world, 1, 5000 + from, (CLIENT, 53)).unwrap();
    }
    let shares = [0, 1].map(|index| world.shares[index].get_mut().flows());
    assert_eq!(shares, [world.flow_count() as u32, 50]);
}

#[test]
fn a_flow_in_the_place_of_a_dead_one_that_is_being_removed_is_on_its_containers_share() {
    let mut world = World::new();
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    world.replace(1);
    world.lock_flow(&Tuple::new(container(1), 5000, CLIENT, 53, proto::UDP));
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    assert_eq!([0, 1].map(|index| world.shares[index].get_mut().flows()), [1, 1]);
}

#[test]
fn a_flow_in_the_place_of_its_containers_own_dead_one_is_counted_once() {
    let mut world = World::new();
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    world.wait(world.config.timeouts.udp_unreplied + 1);
    world.lock_flow(&Tuple::new(container(1), 5000, CLIENT, 53, proto::UDP));
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    assert_eq!([0, 1].map(|index| world.shares[index].get_mut().flows()), [1, 1]);
}

#[test]
fn a_container_that_takes_all_the_ports_it_can_leaves_some_for_others() {
    let mut world = World::with_flows(4096);
    world.config.ports = PortRange { first: 2000, last: 2799 };
    let server = (CLIENT, 53);
    let taken: Vec<u16> = (10000..20000).filter_map(|from| port(&world, 1, from, server).ok()).collect();
    assert!(taken.len() > 650 && taken[64..].iter().all(|port| *port < 2700), "{} ports", taken.len());
    let others: Vec<u16> = (10000..10060).filter_map(|from| port(&world, 2, from, server).ok()).collect();
    assert!(others.len() > 50 && others.iter().filter(|port| **port >= 2700).count() > 20, "{others:?}");
    // What it has it keeps when it is not modest any more.
    assert_eq!(port(&world, 2, 10000, server), Ok(others[0]));
}

#[test]
fn expired_flows_make_room_without_any_sweep() {
    let world = World::with_flows(8);
    assert_eq!(fill(&world).len(), 8);
    world.wait(world.config.timeouts.udp_unreplied + 1);
    assert_eq!(fill(&world).len(), 8);
    assert_eq!(world.flow_count(), 8);
}

#[test]
fn exhausted_ports_are_shared_towards_other_destinations_only() {
    let mut world = World::new();
    world.config.ports = PortRange { first: 2000, last: 2001 };
    let server = (CLIENT, 53);
    let mut ports = [port(&world, 1, 5000, server).unwrap(), port(&world, 2, 5000, server).unwrap()];
    ports.sort_unstable();
    assert_eq!(ports, [2000, 2001]);
    assert_eq!(port(&world, 3, 5000, server), Err(Reason::PortsExhausted));
    let shared = world.send(3, &udp((container(3), 5000), (OTHER_CLIENT, 53))).unwrap().tuple;
    assert_eq!(world.arrive(&answer(&shared, 0)).unwrap().tuple.dst_addr, container(3));
    // The owner of the port still gets its own replies, and nobody else's.
    let owner = (1..=2).find(|n| port(&world, *n, 5000, server) == Ok(shared.src_port)).unwrap();
    let out = world.send(owner, &udp((container(owner), 5000), server)).unwrap().tuple;
    assert_eq!(world.arrive(&answer(&out, 0)).unwrap().tuple.dst_addr, container(owner));
}

#[test]
fn owner_of_a_shared_port_does_not_take_over_the_guests_destination() {
    let mut world = World::new();
    world.config.ports = PortRange { first: 2000, last: 2000 };
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    let guest = world.send(2, &udp((container(2), 5000), (OTHER_CLIENT, 53))).unwrap().tuple;
    assert_eq!(guest.src_port, 2000);
    assert_eq!(port(&world, 1, 5000, (OTHER_CLIENT, 53)), Err(Reason::PortsExhausted));
    assert_eq!(world.arrive(&answer(&guest, 0)).unwrap().tuple.dst_addr, container(2));
}

#[test]
fn a_claim_on_a_shared_port_that_was_taken_meanwhile_makes_no_flow() {
    let mut world = World::new();
    world.config.ports = PortRange { first: 2000, last: 2000 };
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    let (late, server) = ((container(2), 5000), (OTHER_CLIENT, 53));
    world.before_next_flow(move |world| assert_eq!(port(world, 3, 5000, server), Ok(2000)));
    assert_eq!(port(&world, 2, late.1, server), Err(Reason::PortsExhausted));
    assert!(world.flow_of(&Tuple::new(late.0, late.1, server.0, server.1, proto::UDP)).is_none());
    let reply = world.arrive(&udp(server, (HOST, 2000))).unwrap();
    assert_eq!((reply.tuple.dst_addr, reply.out), (container(3), Out::Container(veth(3))));
}

#[test]
fn a_port_that_another_cpu_claims_first_is_not_shared_while_others_are_free() {
    let world = World::new();
    let server = (CLIENT, 53);
    world.before_next_mapping(move |world| assert_eq!(port(world, 2, 5000, server), Ok(5000)));
    let other = port(&world, 1, 5000, server).unwrap();
    assert_ne!(other, 5000);
    for (n, port) in [(2, 5000), (1, other)] {
        assert_eq!(world.mapping_of(HOST, port, proto::UDP).unwrap().shared, 0);
        let reply = world.arrive(&udp(server, (HOST, port))).unwrap();
        assert_eq!(reply.tuple.dst_addr, container(n));
    }
    world.assert_unlocked();
}

#[test]
fn a_mapping_that_another_cpu_makes_first_is_joined() {
    let world = World::new();
    world.before_next_mapping(|world| assert_eq!(port(world, 1, 5000, (OTHER_CLIENT, 53)), Ok(5000)));
    assert_eq!(port(&world, 1, 5000, (CLIENT, 53)), Ok(5000));
    assert_eq!(world.mapping_of(HOST, 5000, proto::UDP).unwrap().shared, 0);
}

#[test]
fn owner_of_a_port_that_began_to_be_shared_meanwhile_makes_no_flow() {
    let mut world = World::new();
    world.config.ports = PortRange { first: 2000, last: 2000 };
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    let (owner, server) = ((container(1), 5000), (OTHER_CLIENT, 53));
    world.before_next_flow(move |world| assert_eq!(port(world, 2, 5000, server), Ok(2000)));
    assert_eq!(port(&world, 1, owner.1, server), Err(Reason::PortsExhausted));
    assert!(world.flow_of(&Tuple::new(owner.0, owner.1, server.0, server.1, proto::UDP)).is_none());
    let reply = world.arrive(&udp(server, (HOST, 2000))).unwrap();
    assert_eq!((reply.tuple.dst_addr, reply.out), (container(2), Out::Container(veth(2))));
}

#[test]
fn what_a_mapping_keeps_of_its_destination_depends_on_the_hosts_key() {
    let kept = |hash_key| {
        let mut world = World::new();
        world.config.hash_key = hash_key;
        assert_eq!(port(&world, 1, 5000, (CLIENT, 53)), Ok(5000));
        world.mapping_of(HOST, 5000, proto::UDP).unwrap().destination
    };
    assert_eq!(kept(1), kept(1));
    assert_ne!(kept(1), kept(2));
}

#[test]
fn port_of_a_closed_connection_is_taken_when_ports_run_out_after_a_rest() {
    let mut world = World::new();
    world.config.ports = PortRange { first: 2000, last: 2000 };
    let server = (CLIENT, 80);
    let first = world.send(1, &tcp((container(1), 40000), server, SYN)).unwrap().tuple;
    world.arrive(&answer(&first, SYN_ACK)).unwrap();
    world.send(1, &tcp((container(1), 40000), server, FIN_ACK)).unwrap();
    world.arrive(&answer(&first, FIN_ACK)).unwrap();
    let next = tcp((container(2), 40000), server, SYN);
    assert_eq!(world.send(2, &next).unwrap_err(), Reason::PortsExhausted);
    world.wait(2);
    let second = world.send(2, &next).unwrap().tuple;
    assert_eq!(second.src_port, 2000);
    assert_eq!(world.arrive(&answer(&second, SYN_ACK)).unwrap().tuple.dst_addr, container(2));
    // What the first container still has to say goes nowhere.
    assert_eq!(world.send(1, &tcp((container(1), 40000), server, ACK)).unwrap_err(), Reason::NoFlow);
}

#[test]
fn port_of_a_closed_connection_that_has_been_published_since_is_not_taken() {
    let mut world = World::new();
    world.config.ports = PortRange { first: 2000, last: 2000 };
    let server = (CLIENT, 80);
    let first = world.send(1, &tcp((container(1), 40000), server, SYN)).unwrap().tuple;
    world.arrive(&answer(&first, SYN_ACK)).unwrap();
    world.send(1, &tcp((container(1), 40000), server, FIN_ACK)).unwrap();
    world.arrive(&answer(&first, FIN_ACK)).unwrap();
    world.wait(2);
    world.publish(proto::TCP, 2000, 3, 80);
    let next = tcp((container(2), 40000), server, SYN);
    assert_eq!(world.send(2, &next).unwrap_err(), Reason::PortsExhausted);
}

#[test]
fn flow_ends_when_the_external_address_changes() {
    let mut world = World::new();
    port(&world, 1, 5000, (CLIENT, 53)).unwrap();
    world.set_external(OTHER_HOST);
    let decision = world.send(1, &udp((container(1), 5000), (CLIENT, 53))).unwrap();
    assert_eq!(decision.tuple.src_addr, OTHER_HOST);
    world.set_external(Addr::UNSPECIFIED);
    assert_eq!(port(&world, 1, 5000, (CLIENT, 53)), Err(Reason::NoExternalAddress));
}

#[test]
fn blind_data_does_not_teach_a_flow_the_number_of_the_blind_rst_behind_it() {
    let world = World::new();
    let (inside, server) = ((container(1), 40000), (CLIENT, 80));
    let out = world.send(1, &tcp_at(inside, server, SYN, 100, 0)).unwrap().tuple;
    let host = (out.src_addr, out.src_port);
    world.arrive(&tcp_at(server, host, SYN_ACK, 500, 101)).unwrap();
    world.send(1, &tcp_at(inside, server, ACK, 101, 501)).unwrap();
    let tuple = Tuple::new(inside.0, inside.1, server.0, server.1, proto::TCP);
    for seq in [777_000_000, 3_000_000_000] {
        world.arrive(&tcp_at(server, host, ACK, seq, 101)).unwrap();
        world.arrive(&tcp_at(server, host, RST, seq, 0)).unwrap();
        assert_eq!(world.flow_of(&tuple).unwrap().state(proto::TCP), CtState::Established);
    }
}

#[test]
fn a_flow_whose_port_has_gone_to_somebody_else_ends() {
    let world = World::new();
    let (inside, server) = ((container(1), 5000), (CLIENT, 53));
    let out = world.send(1, &udp(inside, server)).unwrap().tuple;
    world.mappings.borrow_mut().clear();
    port(&world, 2, 5000, server).unwrap();
    world.wait(1);
    let again = world.send(1, &udp(inside, server)).unwrap().tuple;
    assert_ne!(again.src_port, out.src_port);
}
