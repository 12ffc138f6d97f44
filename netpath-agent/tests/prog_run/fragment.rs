//! Fragments in order.

use super::{C1, CLIENT, HOST};
use crate::frame::{Ip, Parts, UDP, frame, udp};
use crate::setup::{BRIDGE_MAC, C1_MAC, C2_MAC, DROP, LOOPBACK_MAC, PASS, Plane, REDIRECT, ROUTER_MAC};
use netpath_common::Reason;

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
