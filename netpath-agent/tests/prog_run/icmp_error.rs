//! ICMP errors: both packets in one are translated.

use std::net::IpAddr;

use super::{C1, CLIENT, ERRORS, HOST, ICMP, ROUTER, SHORTEST, UNREACHABLE};
use crate::frame::{Ip, Parts, TCP, UDP, echo, frame, packet, sealed, tcp, udp};
use crate::setup::{BRIDGE_MAC, C1_MAC, LOOPBACK_MAC, PASS, Plane, REDIRECT, ROUTER_MAC};

const IN: ([u8; 6], [u8; 6]) = (ROUTER_MAC, LOOPBACK_MAC);
const OUT: ([u8; 6], [u8; 6]) = (C1_MAC, BRIDGE_MAC);

/// An ICMP error from `src` to `dst` that quotes `quoted`.
fn error(src: IpAddr, dst: IpAddr, type_and_code: [u8; 2], quoted: &[u8]) -> Vec<u8> {
    let mut l4 = type_and_code.to_vec();
    l4.extend([0, 0, 0, 0, 0x05, 0x00]);
    l4.extend(quoted);
    sealed(ICMP, src, dst, l4)
}

/// The quoted packet.
fn quoted(error: &Parts) -> Parts {
    Parts::of_packet(&error.l4[8..])
}

fn assert_header_checksums(error: &Parts) {
    error.assert_checksums();
    quoted(error).assert_header_checksum();
}

#[test]
fn error_about_a_masqueraded_packet_is_translated_at_every_length() {
    let plane = Plane::new();
    for proto in [UDP, TCP, ICMP] {
        let l4 = match proto {
            UDP => udp((C1, 5000), (CLIENT, 53), b"some question"),
            TCP => tcp((C1, 40000), (CLIENT, 80), 2, b"some data"),
            _ => echo(C1, CLIENT, true, 77, b"ping ping ping"),
        };
        let sent = frame(OUT, Ip::default(), proto, C1, CLIENT, &l4);
        let out = plane.run("from_container", &sent).frame[14..].to_vec();
        for len in SHORTEST..=out.len() {
            for type_and_code in ERRORS {
                let message = error(ROUTER, HOST, type_and_code, &out[..len]);
                let run = plane.run("from_external", &frame(IN, Ip::default(), ICMP, ROUTER, HOST, &message));
                assert_eq!(run.verdict, REDIRECT);
                let after = Parts::of_frame(&run.frame);
                assert_eq!((after.src, after.dst, after.ttl), (ROUTER, C1, 63));
                assert_eq!(after.l4[..2], type_and_code);
                assert_eq!(after.l4[4..8], [0, 0, 5, 0], "the next hop's MTU is part of the message");
                assert_header_checksums(&after);
                let mut inner = quoted(&after);
                assert_eq!((inner.src, inner.dst), (C1, CLIENT));
                if len == out.len() {
                    // The whole packet is quoted: it is what the container sent, one hop on.
                    inner.assert_checksums();
                    inner.ttl = 64;
                    assert_eq!((inner.rest(), inner.l4), (Parts::of_frame(&sent).rest(), l4.clone()));
                }
            }
        }
    }
}

#[test]
fn bytes_behind_an_error_are_neither_read_nor_written() {
    let plane = Plane::new();
    let sent = frame(OUT, Ip::default(), TCP, C1, CLIENT, &tcp((C1, 40000), (CLIENT, 80), 2, b"data"));
    let out = plane.run("from_container", &sent).frame[14..].to_vec();
    // Where a longer quotation would have its checksum, the frame has something else.
    for len in SHORTEST..SHORTEST + 10 {
        let mut message = frame(IN, Ip::default(), ICMP, ROUTER, HOST, &error(ROUTER, HOST, UNREACHABLE, &out[..len]));
        let whole = message.len();
        message.extend([0xee; 20]);
        let run = plane.run("from_external", &message);
        assert_eq!((run.verdict, &run.frame[whole..]), (REDIRECT, &[0xee; 20][..]), "{len} bytes");
        assert_header_checksums(&Parts::of_frame(&run.frame[..whole]));
    }
}

#[test]
fn shorter_quotations_are_left_to_the_host() {
    let plane = Plane::new();
    let sent = frame(OUT, Ip::default(), UDP, C1, CLIENT, &udp((C1, 5000), (CLIENT, 53), b"x"));
    let out = plane.run("from_container", &sent).frame[14..].to_vec();
    for len in 0..SHORTEST {
        let message = frame(IN, Ip::default(), ICMP, ROUTER, HOST, &error(ROUTER, HOST, ERRORS[0], &out[..len]));
        let run = plane.run("from_external", &message);
        assert_eq!((run.verdict, run.frame), (PASS, message));
    }
}

#[test]
fn containers_error_leaves_with_the_published_name_inside_and_outside() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    let received = packet(Ip::default(), UDP, CLIENT, C1, &udp((CLIENT, 40000), (C1, 53), b"question"));
    let sent = frame(OUT, Ip::default(), ICMP, C1, CLIENT, &error(C1, CLIENT, UNREACHABLE, &received));
    assert_eq!(plane.run("from_container", &sent).verdict, PASS);
    let run = plane.run("to_external", &sent);
    assert_eq!(run.verdict, PASS);
    let after = Parts::of_frame(&run.frame);
    assert_eq!((after.src, after.dst), (HOST, CLIENT));
    assert_header_checksums(&after);
    let inner = quoted(&after);
    assert_eq!((inner.src, inner.dst, inner.ports()), (CLIENT, HOST, (40000, 5353)));
    inner.assert_checksums();
}

#[test]
fn quoted_options_are_skipped() {
    let plane = Plane::new();
    let sent = frame(OUT, Ip::default(), UDP, C1, CLIENT, &udp((C1, 5000), (CLIENT, 53), b"x"));
    let out = Parts::of_frame(&plane.run("from_container", &sent).frame);
    for words in 1..=10 {
        let options = vec![1; 4 * words];
        let inner = packet(Ip { options: &options, ..Ip::default() }, UDP, HOST, CLIENT, &out.l4);
        let message = frame(IN, Ip::default(), ICMP, ROUTER, HOST, &error(ROUTER, HOST, UNREACHABLE, &inner));
        let run = plane.run("from_external", &message);
        assert_eq!(run.verdict, REDIRECT, "{words} words of options");
        let after = Parts::of_frame(&run.frame);
        assert_header_checksums(&after);
        assert_eq!(quoted(&after).ports(), (5000, 53));
    }
}
