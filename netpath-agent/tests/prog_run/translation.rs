//! What changes in a packet, and what does not.

use super::{C1, C2, CLIENT, HOST, ICMP};
use crate::frame::{Ip, Parts, TCP, UDP, echo, frame, sealed, tcp, udp};
use crate::setup::{BRIDGE_MAC, C1_MAC, C2_MAC, LOOPBACK_MAC, PASS, Plane, REDIRECT, ROUTER_MAC};

const IN: ([u8; 6], [u8; 6]) = (ROUTER_MAC, LOOPBACK_MAC);
const OUT: ([u8; 6], [u8; 6]) = (C1_MAC, BRIDGE_MAC);

#[test]
fn published_port_and_its_reply_are_translated_byte_for_byte() {
    let mut plane = Plane::new();
    plane.publish(TCP, 8080, 80);
    plane.publish(UDP, 5353, 5353);
    for (proto, host_port, port, payload) in [(TCP, 8080, 80, &b"hello"[..]), (UDP, 5353, 5353, b"odd")] {
        let l4 = |src, dst| if proto == TCP { tcp(src, dst, 0x18, payload) } else { udp(src, dst, payload) };
        let sent = frame(IN, Ip::default(), proto, CLIENT, HOST, &l4((CLIENT, 40000), (HOST, host_port)));
        let run = plane.run("from_external", &sent);
        assert_eq!(run.verdict, REDIRECT);
        let (before, after) = (Parts::of_frame(&sent), Parts::of_frame(&run.frame));
        assert_eq!((after.src, after.dst, after.ports(), after.ttl), (CLIENT, C1, (40000, port), 63));
        after.assert_checksums();
        assert_eq!(after.rest(), before.rest());

        let reply = frame(OUT, Ip::default(), proto, C1, CLIENT, &l4((C1, port), (CLIENT, 40000)));
        let run = plane.run("from_container", &reply);
        assert_eq!(run.verdict, REDIRECT);
        let (before, after) = (Parts::of_frame(&reply), Parts::of_frame(&run.frame));
        assert_eq!((after.src, after.dst, after.ports(), after.ttl), (HOST, CLIENT, (host_port, 40000), 63));
        after.assert_checksums();
        assert_eq!(after.rest(), before.rest());
    }
}

#[test]
fn masqueraded_packet_goes_out_and_its_reply_comes_back() {
    let plane = Plane::new();
    for proto in [TCP, UDP, ICMP] {
        let l4 = match proto {
            TCP => tcp((C1, 40000), (CLIENT, 80), 2, b""),
            UDP => udp((C1, 40000), (CLIENT, 80), b"question"),
            _ => echo(C1, CLIENT, true, 40000, b"ping"),
        };
        let run = plane.run("from_container", &frame(OUT, Ip::default(), proto, C1, CLIENT, &l4));
        assert_eq!(run.verdict, REDIRECT);
        let out = Parts::of_frame(&run.frame);
        assert_eq!((out.src, out.dst, out.ttl), (HOST, CLIENT, 63));
        out.assert_checksums();

        let answer = match proto {
            TCP => tcp((CLIENT, 80), (HOST, out.ports().0), 0x12, b""),
            UDP => udp((CLIENT, 80), (HOST, out.ports().0), b"answer"),
            _ => echo(CLIENT, HOST, false, out.id(), b"ping"),
        };
        let run = plane.run("from_external", &frame(IN, Ip::default(), proto, CLIENT, HOST, &answer));
        assert_eq!(run.verdict, REDIRECT);
        let back = Parts::of_frame(&run.frame);
        assert_eq!((back.src, back.dst, back.ttl), (CLIENT, C1, 63));
        assert_eq!(if proto == ICMP { back.id() } else { back.ports().1 }, 40000);
        back.assert_checksums();
    }
}

#[test]
fn kernels_road_gives_the_same_bytes_but_for_the_hop() {
    let mut plane = Plane::new();
    let sent = frame(OUT, Ip::default(), UDP, C1, CLIENT, &udp((C1, 5000), (CLIENT, 53), b"question"));
    let shortcut = Parts::of_frame(&plane.run("from_container", &sent).frame);
    plane.set_flags(0);
    let first_half = plane.run("from_container", &sent);
    assert_eq!((first_half.verdict, &first_half.frame), (PASS, &sent));
    let second_half = plane.run("to_external", &sent);
    assert_eq!(second_half.verdict, PASS);
    let road = Parts::of_frame(&second_half.frame);
    assert_eq!((road.src, road.ports(), road.ttl), (shortcut.src, shortcut.ports(), 64));
    road.assert_checksums();
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    let mut l4 = udp((CLIENT, 40000), (HOST, 5353), b"data");
    l4[6..8].fill(0);
    let run = plane.run("from_external", &frame(IN, Ip::default(), UDP, CLIENT, HOST, &l4));
    let after = Parts::of_frame(&run.frame);
    assert_eq!((after.dst, after.ports().1), (C1, 53));
    assert_eq!(after.l4[6..8], [0, 0]);
}

#[test]
fn udp_checksum_that_becomes_zero_is_sent_as_ones() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    // One of these payloads gives the translated datagram the sum that is written as 0xffff.
    let found = (0..=u16::MAX).any(|word| {
        let l4 = udp((CLIENT, 40000), (C1, 53), &word.to_be_bytes());
        if l4[6..8] != [0xff, 0xff] {
            return false;
        }
        let sent = udp((CLIENT, 40000), (HOST, 5353), &word.to_be_bytes());
        let run = plane.run("from_external", &frame(IN, Ip::default(), UDP, CLIENT, HOST, &sent));
        assert_eq!(Parts::of_frame(&run.frame).l4[6..8], [0xff, 0xff]);
        true
    });
    assert!(found, "no payload tried");
}

#[test]
fn all_header_lengths_are_translated() {
    let mut plane = Plane::new();
    plane.publish(TCP, 8080, 80);
    for options in 0..=10 {
        let options = vec![1; 4 * options];
        let ip = Ip { options: &options, ..Ip::default() };
        let sent = frame(IN, ip, TCP, CLIENT, HOST, &tcp((CLIENT, 40000), (HOST, 8080), 2, b"x"));
        let run = plane.run("from_external", &sent);
        let after = Parts::of_frame(&run.frame);
        // IPv4's options are for the kernel to look at.
        let verdict = if options.is_empty() || HOST.is_ipv6() { REDIRECT } else { PASS };
        assert_eq!((run.verdict, after.dst, after.ports()), (verdict, C1, (40000, 80)));
        after.assert_checksums();
        assert_eq!(after.rest(), Parts::of_frame(&sent).rest());
    }
}

#[test]
fn bytes_after_the_packet_are_not_part_of_it() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    let mut sent = frame(IN, Ip::default(), UDP, CLIENT, HOST, &udp((CLIENT, 40000), (HOST, 5353), b"x"));
    let len = sent.len();
    sent.extend([0xee; 17]);
    let run = plane.run("from_external", &sent);
    Parts::of_frame(&run.frame[..len]).assert_checksums();
    assert_eq!(run.frame[len..], [0xee; 17]);
}

#[test]
fn neighbours_frames_are_not_touched() {
    let plane = Plane::new();
    let sent = frame((C1_MAC, C2_MAC), Ip::default(), TCP, C1, C2, &tcp((C1, 40000), (C2, 80), 2, b""));
    let run = plane.run("from_container", &sent);
    assert_eq!((run.verdict, run.frame), (REDIRECT, sent));
}

#[test]
fn wrong_checksum_stays_wrong() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    let mut l4 = sealed(UDP, CLIENT, HOST, udp((CLIENT, 40000), (HOST, 5353), b"data"));
    l4[7] ^= 1;
    let run = plane.run("from_external", &frame(IN, Ip::default(), UDP, CLIENT, HOST, &l4));
    let after = Parts::of_frame(&run.frame);
    let right = sealed(UDP, after.src, after.dst, after.l4.clone());
    assert_ne!(after.l4, right, "a broken datagram was made to look whole");
}

#[test]
fn a_block_of_ports_is_translated_there_and_back() {
    let mut plane = Plane::new();
    plane.publish_block(UDP, 1024, 2048);
    for offset in [0, 100, 255] {
        let question = udp((CLIENT, 40000), (HOST, 1024 + offset), b"question");
        let run = plane.run("from_external", &frame(IN, Ip::default(), UDP, CLIENT, HOST, &question));
        let after = Parts::of_frame(&run.frame);
        assert_eq!((run.verdict, after.dst, after.ports()), (REDIRECT, C1, (40000, 2048 + offset)));
        after.assert_checksums();
        let answer = udp((C1, 2048 + offset), (CLIENT, 40000), b"answer");
        let run = plane.run("from_container", &frame(OUT, Ip::default(), UDP, C1, CLIENT, &answer));
        let after = Parts::of_frame(&run.frame);
        assert_eq!((run.verdict, after.src, after.ports()), (REDIRECT, HOST, (1024 + offset, 40000)));
        after.assert_checksums();
    }
    plane.unpublish_block(UDP, 1024, 2048);
    let question = frame(IN, Ip::default(), UDP, CLIENT, HOST, &udp((CLIENT, 40000), (HOST, 1024), b"question"));
    let run = plane.run("from_external", &question);
    assert_eq!((run.verdict, run.frame), (PASS, question));
}
