//! Fragments in order.

use std::net::IpAddr;

use super::{C1, CLIENT, HOST, STRANGER};
use crate::frame::{Ip, Parts, TCP, UDP, frame, tcp, udp};
use crate::setup::{BRIDGE_MAC, C1_MAC, C2_MAC, DROP, LOOPBACK_MAC, PASS, Plane, REDIRECT, ROUTER_MAC};
use netpath_common::{Reason, config_flag};
use netpath_tests::program_world::Extent;

const MORE: u16 = 0x2000;
const SYN: u8 = 2;
const ACK: u8 = 16;

#[test]
fn later_fragments_follow_the_first_one_both_ways() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    let datagram = udp((CLIENT, 40000), (HOST, 5353), &[7; 64]);
    let macs = (ROUTER_MAC, LOOPBACK_MAC);
    let first = frame(macs, Ip { fragment: MORE, ..Ip::default() }, UDP, CLIENT, HOST, &datagram[..40]);
    let second = frame(macs, Ip { fragment: 5, ..Ip::default() }, UDP, CLIENT, HOST, &datagram[40..]);
    let (first, second) = (plane.run("from_external", &first), plane.run("from_external", &second));
    assert_eq!((first.verdict, second.verdict), (REDIRECT, REDIRECT));
    let (first, second) = (Parts::of_frame(&first.frame), Parts::of_frame(&second.frame));
    assert_eq!((first.dst, second.dst), (C1, C1));
    first.assert_header_checksum();
    second.assert_header_checksum();
    let mut whole = first.clone();
    whole.l4.extend(&second.l4);
    assert_eq!(whole.ports(), (40000, 53));
    Parts { header: first.header.clone(), ..whole }.assert_checksums();
    assert_eq!(second.l4, datagram[40..]);

    let datagram = udp((C1, 5000), (CLIENT, 53), &[7; 64]);
    let macs = (C1_MAC, BRIDGE_MAC);
    let first = frame(macs, Ip { fragment: MORE, ..Ip::default() }, UDP, C1, CLIENT, &datagram[..40]);
    let second = frame(macs, Ip { fragment: 5, ..Ip::default() }, UDP, C1, CLIENT, &datagram[40..]);
    for fragment in [first, second] {
        let run = plane.run("from_container", &fragment);
        assert_eq!((run.verdict, Parts::of_frame(&run.frame).src), (REDIRECT, HOST));
    }
}

#[test]
fn fragment_of_an_unknown_datagram_does_not_leave_and_passes_to_the_host() {
    let plane = Plane::new();
    let ip = Ip { fragment: 5, ..Ip::default() };
    let out = frame((C1_MAC, BRIDGE_MAC), ip, UDP, C1, CLIENT, &[7; 24]);
    assert_eq!(plane.run("from_container", &out).verdict, DROP);
    assert_eq!(plane.run("to_external", &out).verdict, DROP);
    // The container's is held back, and may go yet.
    assert_eq!(plane.dropped(Reason::Fragment), 1);
    let incoming = frame((ROUTER_MAC, LOOPBACK_MAC), ip, UDP, CLIENT, HOST, &[7; 24]);
    assert_eq!(plane.run("from_external", &incoming).verdict, PASS);
}

#[test]
fn a_spoofed_first_fragment_does_not_lend_its_ports() {
    let plane = Plane::new();
    let datagram = udp((C1, 5000), (CLIENT, 53), &[7; 64]);
    let ip = |fragment| Ip { fragment, ..Ip::default() };
    let spoofed = frame((C2_MAC, BRIDGE_MAC), ip(MORE), UDP, C1, CLIENT, &datagram[..40]);
    assert_eq!(plane.run("from_container", &spoofed).verdict, DROP);
    let later = frame((C1_MAC, BRIDGE_MAC), ip(5), UDP, C1, CLIENT, &datagram[40..]);
    assert_eq!(plane.run("from_container", &later).verdict, DROP);
    assert_eq!(plane.dropped(Reason::SpoofedMac), 1);
}

/// A fragment that the first container sends outside.
fn outward(proto: u8, fragment: u16, l4: &[u8]) -> Vec<u8> {
    frame((C1_MAC, BRIDGE_MAC), Ip { fragment, ..Ip::default() }, proto, C1, CLIENT, l4)
}

#[test]
fn a_later_fragment_does_not_leave_when_its_first_one_was_dropped_on_the_kernels_road() {
    let mut plane = Plane::new();
    let segment = tcp((C1, 5000), (CLIENT, 80), ACK, &[7; 64]);
    plane.set_flags(0);
    let first = outward(TCP, MORE, &segment[..40]);
    assert_eq!(plane.run("from_container", &first).verdict, PASS);
    assert_eq!(plane.run("to_external", &first).verdict, DROP);
    let opening = outward(TCP, 0, &tcp((C1, 5000), (CLIENT, 80), SYN, &[]));
    assert_eq!(plane.run("to_external", &opening).verdict, PASS);
    for (flags, later) in [(0, MORE | 5), (config_flag::SHORTCUTS, MORE | 7), (config_flag::SHORTCUTS, 9)] {
        plane.set_flags(flags);
        let later = outward(TCP, later, &segment[40..56]);
        let run = plane.run("from_container", &later);
        assert_eq!((run.verdict, Parts::of_frame(&run.frame).src), (PASS, C1), "not past the leak guard");
        assert_eq!(plane.run("to_external", &later).verdict, DROP);
    }
    assert_eq!(plane.dropped(Reason::Fragment), 3);
}

#[test]
fn a_later_fragment_takes_a_shortcut_once_its_first_one_has_left() {
    let mut plane = Plane::new();
    let datagram = udp((C1, 5000), (CLIENT, 53), &[7; 96]);
    plane.set_flags(0);
    let first = outward(UDP, MORE, &datagram[..40]);
    assert_eq!(plane.run("from_container", &first).verdict, PASS);
    plane.set_flags(config_flag::SHORTCUTS);
    let second = outward(UDP, MORE | 5, &datagram[40..80]);
    assert_eq!(plane.run("from_container", &second).verdict, PASS, "behind the first one");
    for fragment in [&first, &second] {
        let run = plane.run("to_external", fragment);
        assert_eq!((run.verdict, Parts::of_frame(&run.frame).src), (PASS, HOST));
    }
    let last = plane.run("from_container", &outward(UDP, 10, &datagram[80..]));
    assert_eq!((last.verdict, Parts::of_frame(&last.frame).src), (REDIRECT, HOST));
}

#[test]
fn a_later_fragment_on_the_kernels_road_leaves_behind_a_first_one_that_took_a_shortcut() {
    let mut plane = Plane::new();
    let datagram = udp((C1, 5000), (CLIENT, 53), &[7; 64]);
    assert_eq!(plane.run("from_container", &outward(UDP, MORE, &datagram[..40])).verdict, REDIRECT);
    plane.set_flags(0);
    let later = outward(UDP, 5, &datagram[40..]);
    assert_eq!(plane.run("from_container", &later).verdict, PASS);
    let run = plane.run("to_external", &later);
    assert_eq!((run.verdict, Parts::of_frame(&run.frame).src), (PASS, HOST));
}

/// What a published port of the first container is called, other than what is masqueraded.
const NAME: IpAddr = STRANGER;

/// The first container's port 53 has the name above; its others are masqueraded.
fn named() -> Plane {
    let mut plane = Plane::new();
    (*plane).publish(UDP, (NAME, 5353), (C1, 53), Extent::Port);
    plane
}

/// Two fragments of a datagram from this port. All of them have one identification.
fn halves(port: u16) -> [Vec<u8>; 2] {
    let datagram = udp((C1, port), (CLIENT, 53), &[7; 64]);
    [outward(UDP, MORE, &datagram[..40]), outward(UDP, 5, &datagram[40..])]
}

#[track_caller]
fn assert_runs(plane: &Plane, program: &str, frame: &[u8], verdict: i32, src: IpAddr) {
    let run = plane.run(program, frame);
    assert_eq!((run.verdict, Parts::of_frame(&run.frame).src), (verdict, src));
}

/// The kernel has cut them: they left their container whole.
#[test]
fn a_later_fragment_leaves_by_the_newest_first_ones_ports() {
    let plane = named();
    for (port, src) in [(5000, HOST), (53, NAME), (5000, HOST)] {
        for half in halves(port) {
            assert_runs(&plane, "to_external", &half, PASS, src);
        }
    }
}

#[test]
fn a_datagram_in_fragments_begins_where_a_whole_one_had_its_identification() {
    for (flags, verdict) in [(config_flag::SHORTCUTS, REDIRECT), (0, PASS)] {
        let mut plane = named();
        plane.set_flags(flags);
        let [whole, _] = halves(5000);
        assert_runs(&plane, "to_external", &whole, PASS, HOST);
        for half in halves(53) {
            let src = if verdict == PASS { C1 } else { NAME };
            assert_runs(&plane, "from_container", &half, verdict, src);
            assert_runs(&plane, "to_external", &half, PASS, NAME);
        }
    }
}

#[test]
fn a_whole_datagram_takes_the_identification_of_one_in_fragments() {
    let plane = named();
    let [first, later] = halves(5000);
    assert_runs(&plane, "from_container", &first, REDIRECT, HOST);
    for half in halves(53) {
        assert_runs(&plane, "to_external", &half, PASS, NAME);
    }
    // Held back: it is none of those that the kernel has made.
    assert_runs(&plane, "from_container", &later, DROP, C1);
    assert_eq!(plane.dropped(Reason::Fragment), 0);
}

#[test]
fn a_first_fragment_with_other_ports_takes_none_of_a_datagram_that_is_not_complete() {
    let plane = named();
    let [first, later] = halves(5000);
    let [forged, _] = halves(53);
    assert_runs(&plane, "from_container", &first, REDIRECT, HOST);
    assert_runs(&plane, "from_container", &forged, DROP, C1);
    assert_runs(&plane, "from_container", &later, REDIRECT, HOST);
    assert_eq!(plane.dropped(Reason::Fragment), 1);
}

#[test]
fn a_later_fragment_does_not_leave_by_an_earlier_datagrams_ports_when_its_own_first_one_was_dropped() {
    let plane = Plane::new();
    let opening = tcp((C1, 5000), (CLIENT, 80), SYN, &[7; 64]);
    assert_runs(&plane, "to_external", &outward(TCP, MORE, &opening[..40]), PASS, HOST);
    assert_runs(&plane, "to_external", &outward(TCP, 5, &opening[40..]), PASS, HOST);
    let stray = tcp((C1, 5001), (CLIENT, 80), ACK, &[7; 64]);
    assert_runs(&plane, "to_external", &outward(TCP, MORE, &stray[..40]), DROP, C1);
    assert_runs(&plane, "to_external", &outward(TCP, 5, &stray[40..]), DROP, C1);
    assert_eq!([Reason::NoFlow, Reason::Fragment].map(|reason| plane.dropped(reason)), [1, 1]);
}

#[test]
fn a_first_fragment_that_was_dropped_on_the_kernels_road_may_come_again() {
    let mut plane = Plane::new();
    plane.set_flags(0);
    let segment = tcp((C1, 5000), (CLIENT, 80), ACK, &[7; 64]);
    let [first, later] = [outward(TCP, MORE, &segment[..40]), outward(TCP, MORE | 5, &segment[40..56])];
    let last = outward(TCP, 7, &segment[56..]);
    for fragment in [&first, &later] {
        assert_runs(&plane, "from_container", fragment, PASS, C1);
        assert_runs(&plane, "to_external", fragment, DROP, C1);
    }
    let opening = outward(TCP, 0, &tcp((C1, 5000), (CLIENT, 80), SYN, &[]));
    assert_runs(&plane, "to_external", &opening, PASS, HOST);
    for fragment in [&first, &later] {
        assert_runs(&plane, "from_container", fragment, PASS, C1);
        assert_runs(&plane, "from_container", fragment, DROP, C1);
        assert_runs(&plane, "to_external", fragment, PASS, HOST);
    }
    assert_runs(&plane, "from_container", &last, PASS, C1);
    assert_runs(&plane, "to_external", &last, PASS, HOST);
}

#[test]
fn a_first_fragment_that_was_refused_a_flow_may_come_again() {
    let mut plane = Plane::new();
    plane.set_flags(0);
    let is_refused = |port| {
        let datagram = outward(UDP, 0, &udp((C1, port), (CLIENT, 53), b"one of many"));
        plane.run("to_external", &datagram).verdict == DROP
    };
    assert!((6000..6064).any(is_refused), "the table takes 64 flows");
    let [first, later] = halves(53);
    assert_runs(&plane, "from_container", &first, PASS, C1);
    assert_runs(&plane, "to_external", &first, DROP, C1);
    // A published port needs no flow.
    (*plane).publish(UDP, (NAME, 5353), (C1, 53), Extent::Port);
    for fragment in [&first, &later] {
        assert_runs(&plane, "from_container", fragment, PASS, C1);
        assert_runs(&plane, "to_external", fragment, PASS, NAME);
    }
}
