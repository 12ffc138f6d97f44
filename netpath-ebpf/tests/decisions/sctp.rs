//! SCTP: ports stay what they are, since its checksum covers them with all the rest.

use netpath_common::{PortRange, Reason, proto};
use netpath_ebpf::decision::Out;

use super::{CLIENT, HOST, OTHER_CLIENT, World, container};
use crate::frame::{answer, sctp};
use crate::world::veth;

#[test]
fn a_published_port_changes_addresses_only() {
    let mut world = World::new();
    world.publish(proto::SCTP, 3868, 1, 3868);
    let question = world.arrive(&sctp((CLIENT, 3868), (HOST, 3868))).unwrap();
    assert_eq!((question.tuple.dst_addr, question.tuple.dst_port), (container(1), 3868));
    let answer = world.send(1, &sctp((container(1), 3868), (CLIENT, 3868))).unwrap();
    assert_eq!((answer.tuple.src_addr, answer.tuple.src_port), (HOST, 3868));
}

#[test]
fn masquerade_keeps_the_port_wherever_it_lies() {
    let mut world = World::new();
    world.config.ports = PortRange { first: 2000, last: 2001 };
    for port in [1, 80, 3868, 65535] {
        let out = world.send(1, &sctp((container(1), port), (CLIENT, 3868))).unwrap().tuple;
        assert_eq!((out.src_addr, out.src_port), (HOST, port));
        let back = world.arrive(&answer(&out, 0)).unwrap();
        assert_eq!((back.tuple.dst_addr, back.tuple.dst_port), (container(1), port));
        assert_eq!(back.out, Out::Container(veth(1)));
    }
}

#[test]
fn a_port_that_is_taken_towards_a_destination_is_refused() {
    let world = World::new();
    world.send(1, &sctp((container(1), 3868), (CLIENT, 3868))).unwrap();
    let taken = world.send(2, &sctp((container(2), 3868), (CLIENT, 3868)));
    assert_eq!(taken.unwrap_err(), Reason::PortsExhausted);
    let elsewhere = world.send(2, &sctp((container(2), 3868), (OTHER_CLIENT, 3868))).unwrap().tuple;
    assert_eq!(world.arrive(&answer(&elsewhere, 0)).unwrap().tuple.dst_addr, container(2));
}

#[test]
fn a_published_port_is_not_masqueraded_with() {
    let mut world = World::new();
    world.publish(proto::SCTP, 3868, 2, 3868);
    let taken = world.send(1, &sctp((container(1), 3868), (CLIENT, 3868)));
    assert_eq!(taken.unwrap_err(), Reason::PortsExhausted);
}

#[test]
fn flows_end_as_those_of_udp_do() {
    let world = World::new();
    let out = world.send(1, &sctp((container(1), 3868), (CLIENT, 3868))).unwrap().tuple;
    world.arrive(&answer(&out, 0)).unwrap();
    world.wait(world.config.timeouts.udp);
    assert_eq!(world.arrive(&answer(&out, 0)).unwrap().out, Out::Container(veth(1)));
    world.wait(world.config.timeouts.udp + 1);
    assert_eq!(world.arrive(&answer(&out, 0)).unwrap().out, Out::Kernel);
}

#[test]
fn a_header_that_is_cut_short_is_malformed() {
    let world = World::new();
    let mut frame = sctp((container(1), 3868), (CLIENT, 3868));
    frame.0.pop();
    assert_eq!(world.send(1, &frame).unwrap_err(), Reason::Malformed);
}
