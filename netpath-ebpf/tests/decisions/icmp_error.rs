//! ICMP errors.

use netpath_common::{PortKey, PortTarget, Reason, Tuple, proto, target_flag};
use netpath_ebpf::decision::Out;
use netpath_ebpf::family::Family as _;
use netpath_ebpf::icmp::{self, Inner, Translation};
use netpath_ebpf::packet::Packet;

use super::{CLIENT, Family, HOST, ICMP, OTHER_CLIENT, ROUTER, World, container};
use crate::frame::{ACK, Frame, SYN, SYN_ACK, echo_request, tcp, udp, unreachable};
use crate::world::veth;

/// The shortest quotation: a network header and eight bytes.
const SHORTEST: usize = Family::HEADER_LEN + 8;

fn parse(frame: &Frame) -> Result<(Packet<Family>, Inner<Family>), Reason> {
    let packet = Packet::parse(frame, 14)?;
    let inner = Inner::parse(frame, 14, &packet)?;
    Ok((packet, inner))
}

fn arrive(world: &World, frame: &Frame) -> Option<Translation<Family>> {
    let (packet, inner) = parse(frame).unwrap();
    icmp::from_external(world, &world.config, &packet, &inner)
}

fn leave(world: &World, frame: &Frame) -> Option<Translation<Family>> {
    let (packet, inner) = parse(frame).unwrap();
    icmp::to_external::<Family, _>(world, &world.config, &packet, &inner)
}

#[test]
fn error_about_a_masqueraded_packet_reaches_the_container_in_its_own_terms() {
    let world = World::new();
    for frame in [
        udp((container(1), 40000), (CLIENT, 53)),
        tcp((container(1), 40000), (CLIENT, 80), SYN),
        echo_request(container(1), CLIENT, 77),
    ] {
        let out = world.send(1, &frame).unwrap().tuple;
        let sent = match out.proto {
            proto::TCP => tcp((out.src_addr, out.src_port), (CLIENT, 80), SYN),
            proto::UDP => udp((out.src_addr, out.src_port), (CLIENT, 53)),
            _ => echo_request(out.src_addr, CLIENT, out.src_port),
        };
        let translation = arrive(&world, &unreachable(ROUTER, HOST, &sent, SHORTEST)).unwrap();
        assert_eq!((translation.src_addr, translation.dst_addr), (ROUTER, container(1)));
        assert_eq!(translation.inner.src_addr, container(1));
        assert_eq!(translation.inner.src_port, if out.proto == ICMP { 77 } else { 40000 });
        assert_eq!(translation.out, Out::Container(veth(1)));
    }
}

#[test]
fn an_error_for_a_container_that_is_gone_reaches_nobody() {
    let mut world = World::new();
    let out = world.send(1, &udp((container(1), 40000), (CLIENT, 53))).unwrap().tuple;
    let error = unreachable(ROUTER, HOST, &udp((out.src_addr, out.src_port), (CLIENT, 53)), SHORTEST);
    assert!(arrive(&world, &error).is_some());
    world.replace(1);
    assert!(arrive(&world, &error).is_none());
}

#[test]
fn an_error_about_the_hosts_own_connection_from_a_published_port_is_the_hosts() {
    let mut world = World::new();
    let target = PortTarget::new(1, 1, 80, target_flag::EPHEMERAL, 0);
    world.published.insert(PortKey::new(HOST, 40000, proto::TCP), target);
    let error = unreachable(ROUTER, HOST, &tcp((HOST, 40000), (CLIENT, 443), ACK), SHORTEST);
    assert!(arrive(&world, &error).is_some());
    world.connections.insert(Tuple::new(CLIENT, 443, HOST, 40000, proto::TCP));
    assert!(arrive(&world, &error).is_none());
}

#[test]
fn error_about_a_published_ports_reply_reaches_the_container() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let reply = tcp((HOST, 8080), (CLIENT, 40000), SYN_ACK);
    let translation = arrive(&world, &unreachable(ROUTER, HOST, &reply, SHORTEST)).unwrap();
    assert_eq!(translation.dst_addr, container(1));
    assert_eq!((translation.inner.src_addr, translation.inner.src_port), (container(1), 80));
}

#[test]
fn error_about_somebody_elses_packet_is_the_hosts() {
    let world = World::new();
    world.send(1, &udp((container(1), 5000), (CLIENT, 53))).unwrap();
    for foreign in
        [udp((HOST, 22), (CLIENT, 53)), udp((HOST, 5000), (OTHER_CLIENT, 53)), udp((HOST, 5000), (CLIENT, 54))]
    {
        assert!(arrive(&world, &unreachable(ROUTER, HOST, &foreign, SHORTEST)).is_none());
    }
}

#[test]
fn containers_error_about_a_published_port_shows_the_published_name_only() {
    let mut world = World::new();
    world.publish(proto::UDP, 5353, 1, 53);
    let received = udp((CLIENT, 40000), (container(1), 53));
    let translation = leave(&world, &unreachable(container(1), CLIENT, &received, SHORTEST)).unwrap();
    assert_eq!(translation.src_addr, HOST);
    assert_eq!((translation.inner.dst_addr, translation.inner.dst_port), (HOST, 5353));
    assert_eq!((translation.inner.src_addr, translation.inner.src_port), (CLIENT, 40000));
}

#[test]
fn hosts_error_about_a_packet_on_its_road_to_a_container_shows_the_published_name_only() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let forwarded = tcp((CLIENT, 40000), (container(1), 80), SYN);
    let translation = leave(&world, &unreachable(HOST, CLIENT, &forwarded, SHORTEST)).unwrap();
    assert_eq!(translation.src_addr, HOST);
    assert_eq!((translation.inner.dst_addr, translation.inner.dst_port), (HOST, 8080));
}

#[test]
fn quotation_of_fewer_than_eight_transport_bytes_is_malformed() {
    let quoted = udp((HOST, 5000), (CLIENT, 53));
    for len in 0..SHORTEST {
        assert!(parse(&unreachable(ROUTER, HOST, &quoted, len)).is_err(), "{len} bytes");
    }
    assert!(parse(&unreachable(ROUTER, HOST, &quoted, SHORTEST)).is_ok());
}

#[test]
fn bytes_behind_an_error_are_no_part_of_its_quotation() {
    let quoted = udp((HOST, 5000), (CLIENT, 53));
    for len in Family::HEADER_LEN..=SHORTEST {
        let mut frame = unreachable(ROUTER, HOST, &quoted, len);
        frame.0.extend([0; 32]);
        assert_eq!(parse(&frame).is_ok(), len == SHORTEST, "{len} bytes");
    }
}

#[test]
fn a_container_sends_no_error_about_a_packet_it_never_got() {
    let world = World::new();
    let out = world.send(1, &udp((container(1), 40000), (CLIENT, 53))).unwrap().tuple;
    let answer = udp((CLIENT, 53), (container(1), 40000));
    assert!(leave(&world, &unreachable(container(1), CLIENT, &answer, SHORTEST)).is_some());
    // Another container, and another receiver.
    assert!(leave(&world, &unreachable(container(2), CLIENT, &answer, SHORTEST)).is_none());
    assert!(leave(&world, &unreachable(container(1), OTHER_CLIENT, &answer, SHORTEST)).is_none());
    assert_eq!(out.src_addr, HOST);
}

#[test]
fn an_error_in_a_container_networks_name_or_about_it_does_not_come_from_outside() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let reply = tcp((HOST, 8080), (CLIENT, 40000), SYN_ACK);
    assert!(arrive(&world, &unreachable(container(2), HOST, &reply, SHORTEST)).is_none());
    assert!(arrive(&world, &unreachable(ROUTER, OTHER_CLIENT, &reply, SHORTEST)).is_none());
    let inside = tcp((HOST, 8080), (container(2), 40000), SYN_ACK);
    assert!(arrive(&world, &unreachable(ROUTER, HOST, &inside, SHORTEST)).is_none());
}

#[test]
fn a_ping_with_identifier_zero_opens_nothing_for_other_icmp() {
    let world = World::new();
    world.send(1, &echo_request(container(1), CLIENT, 0)).unwrap();
    let foreign = tcp((HOST, 22), (CLIENT, 40000), SYN);
    let forged = unreachable(container(1), CLIENT, &foreign, SHORTEST);
    assert_eq!(world.leave(&forged).unwrap_err(), Reason::NoFlow);
}
