//! Fragments in order.

use super::{C1, CLIENT, HOST};
use crate::frame::{Ip, Parts, TCP, UDP, frame, tcp, udp};
use crate::setup::{BRIDGE_MAC, C1_MAC, C2_MAC, DROP, LOOPBACK_MAC, PASS, Plane, REDIRECT, ROUTER_MAC};
use netpath_common::{Reason, config_flag};

const MORE: u16 = 0x2000;

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
    const SYN: u8 = 2;
    const ACK: u8 = 16;
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
