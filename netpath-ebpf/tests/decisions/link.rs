//! Links: who may talk where neighbours do not.

use netpath_common::{Link, LinkKey, Reason, endpoint_flag, network_flag, proto};
use netpath_ebpf::decision::Out;
use proptest::prelude::*;

use super::{World, container};
use crate::frame::{ACK, RST, SYN, SYN_ACK, echo_request, sctp, tcp, udp, unreachable};
use crate::world::{BRIDGE_MAC, NETWORK_COUNTER, mac, veth};

const COUNTER: u32 = 500;

/// Container 1 is linked to port 80 of container 2, for one protocol.
fn linked(protocol: u8) -> World {
    let mut world = World::new();
    world.network.flags &= !network_flag::ICC;
    world.links.insert(LinkKey::new(1, 2, 80, protocol), Link { counter: COUNTER });
    world
}

#[test]
fn the_exposed_port_is_reached_and_answers() {
    for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
        let world = linked(protocol);
        let frame = |src, dst, flags| match protocol {
            proto::TCP => tcp(src, dst, flags),
            proto::UDP => udp(src, dst),
            _ => sctp(src, dst),
        };
        let (opener, exposed) = ((container(1), 40000), (container(2), 80));
        let question = world.send_to(1, mac(2), &frame(opener, exposed, SYN)).unwrap();
        assert_eq!((question.out, question.counters), (Out::Sibling(veth(2)), [11, COUNTER]));
        let answer = world.send_to(2, mac(1), &frame(exposed, opener, SYN_ACK)).unwrap();
        assert_eq!((answer.out, answer.counters), (Out::Sibling(veth(1)), [21, COUNTER + 1]));
        // By way of the bridge, too.
        assert_eq!(world.send_to(1, BRIDGE_MAC, &frame(opener, exposed, SYN)).unwrap().out, Out::Across(2));
    }
}

#[test]
fn nothing_else_is_reached() {
    let world = linked(proto::TCP);
    for refused in [
        tcp((container(1), 40000), (container(2), 81), SYN),
        udp((container(1), 40000), (container(2), 80)),
        sctp((container(1), 40000), (container(2), 80)),
        tcp((container(1), 40000), (container(3), 80), SYN),
        echo_request(container(1), container(2), 80),
    ] {
        assert_eq!(world.send_to(1, mac(2), &refused).unwrap_err(), Reason::Icc);
    }
    // Others are not linked, and the link has a direction.
    let third = tcp((container(3), 40000), (container(2), 80), SYN);
    assert_eq!(world.send_to(3, mac(2), &third).unwrap_err(), Reason::Icc);
    let back = tcp((container(2), 40000), (container(1), 80), SYN);
    assert_eq!(world.send_to(2, mac(1), &back).unwrap_err(), Reason::Icc);
}

#[test]
fn a_container_may_be_closed_in_an_open_network() {
    let mut world = linked(proto::TCP);
    world.network.flags |= network_flag::ICC;
    let from = |one, other| tcp((container(one), 40000), (container(other), 80), SYN);
    assert!(world.send_to(1, mac(3), &from(1, 3)).is_ok());
    world.endpoints[2].flags |= endpoint_flag::NO_ICC;
    // Neither it nor the others, but by the link.
    assert_eq!(world.send_to(2, mac(3), &from(2, 3)).unwrap_err(), Reason::Icc);
    assert_eq!(world.send_to(3, mac(2), &from(3, 2)).unwrap_err(), Reason::Icc);
    assert_eq!(world.send_to(1, mac(2), &from(1, 2)).unwrap().counters, [11, COUNTER]);
    assert_eq!(world.send_to(2, mac(1), &from(2, 1)).unwrap_err(), Reason::Icc);
    // The others go on as before.
    assert!(world.send_to(1, mac(3), &from(1, 3)).is_ok());
}

#[test]
fn the_exposed_port_opens_no_connection() {
    let world = linked(proto::TCP);
    let opening = tcp((container(2), 80), (container(1), 40000), SYN);
    assert_eq!(world.send_to(2, mac(1), &opening).unwrap_err(), Reason::Icc);
    for flags in [ACK, SYN_ACK, RST] {
        assert!(world.send_to(2, mac(1), &tcp((container(2), 80), (container(1), 40000), flags)).is_ok());
    }
}

#[test]
fn a_link_leads_to_nobody_elses_hardware_address() {
    let world = linked(proto::TCP);
    let question = tcp((container(1), 40000), (container(2), 80), SYN);
    for foreign in [mac(3), [0xff; 6], [4; 6]] {
        assert_eq!(world.send_to(1, foreign, &question).unwrap_err(), Reason::Icc);
    }
}

#[test]
fn a_link_ends_with_either_end() {
    for gone in [1, 2] {
        let mut world = linked(proto::TCP);
        world.replace(gone);
        let question = tcp((container(1), 40000), (container(2), 80), SYN);
        assert_eq!(world.send_to(1, mac(2), &question).unwrap_err(), Reason::Icc);
    }
}

#[test]
fn errors_about_linked_packets_pass_both_ways_and_others_do_not() {
    let world = linked(proto::UDP);
    let (opener, exposed) = ((container(1), 40000), (container(2), 80));
    let (question, answer) = (udp(opener, exposed), udp(exposed, opener));
    let from_exposed = |quoted| unreachable(container(2), container(1), quoted, world.quotation());
    let from_opener = |quoted| unreachable(container(1), container(2), quoted, world.quotation());
    assert!(world.complain(2, &from_exposed(&question)).unwrap().is_none());
    assert!(world.complain(1, &from_opener(&answer)).unwrap().is_none());
    // Who sends an error got the packet, and the other one sent it.
    assert_eq!(world.complain(2, &from_exposed(&answer)).unwrap_err(), Reason::Icc);
    let other = udp(opener, (container(2), 81));
    assert_eq!(world.complain(2, &from_exposed(&other)).unwrap_err(), Reason::Icc);
    let thirds = udp((container(3), 40000), exposed);
    assert_eq!(world.complain(2, &from_exposed(&thirds)).unwrap_err(), Reason::Icc);
}

#[test]
fn where_neighbours_talk_no_link_counts() {
    let mut world = linked(proto::TCP);
    world.network.flags |= network_flag::ICC;
    let question = world.send_to(1, mac(2), &tcp((container(1), 40000), (container(2), 80), SYN)).unwrap();
    assert_eq!(question.counters[1], NETWORK_COUNTER + 1);
}

proptest! {
    #[test]
    fn what_passes_has_the_exposed_port_at_the_exposed_end(
        from in 1u8..=3, to in 1u8..=3, src_port in 78u16..82, dst_port in 78u16..82, flags in 0u8..32,
    ) {
        prop_assume!(from != to);
        let world = linked(proto::TCP);
        let frame = tcp((container(from), src_port), (container(to), dst_port), flags);
        let is_question = (from, to, dst_port) == (1, 2, 80);
        let is_answer = (from, to, src_port) == (2, 1, 80) && flags & 0x17 != SYN;
        prop_assert_eq!(world.send_to(from, mac(to), &frame).is_ok(), is_question || is_answer);
    }
}
