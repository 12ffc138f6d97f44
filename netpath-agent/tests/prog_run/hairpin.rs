//! Containers that reach a published port through the host's address, and ports that stay what they are.

use netpath_common::config_flag;

use super::{C1, C2, CLIENT, HOST, ICMP, UNREACHABLE};
use crate::frame::{Ip, Parts, SCTP, TCP, UDP, frame, packet, sealed, tcp, udp};
use crate::setup::{BRIDGE_MAC, C1_MAC, C2_MAC, DROP, LOOPBACK_MAC, PASS, Plane, REDIRECT, ROUTER_MAC};
use netpath_common::Reason;

const FROM_C1: ([u8; 6], [u8; 6]) = (C1_MAC, BRIDGE_MAC);
const FROM_C2: ([u8; 6], [u8; 6]) = (C2_MAC, BRIDGE_MAC);

/// The hardware addresses of a frame: to whom, from whom.
fn macs(frame: &[u8]) -> (&[u8], &[u8]) {
    (&frame[..6], &frame[6..12])
}

fn published() -> Plane {
    let mut plane = Plane::new();
    plane.publish(TCP, 8080, 80);
    plane.publish(UDP, 8080, 80);
    plane
}

#[test]
fn question_and_answer_are_translated_byte_for_byte() {
    for flags in [config_flag::SHORTCUTS, 0] {
        let mut plane = published();
        plane.set_flags(flags);
        for (proto, macs_out, asker, to_asker) in [
            (TCP, FROM_C2, C2, C2_MAC),
            (UDP, FROM_C2, C2, C2_MAC),
            (TCP, FROM_C1, C1, C1_MAC),
            (UDP, FROM_C1, C1, C1_MAC),
        ] {
            let l4 = |src, dst, flags| {
                if proto == TCP { tcp(src, dst, flags, b"hello") } else { udp(src, dst, b"odd") }
            };
            let sent = frame(macs_out, Ip::default(), proto, asker, HOST, &l4((asker, 40000), (HOST, 8080), 2));
            let run = plane.run("from_container", &sent);
            assert_eq!((run.verdict, macs(&run.frame)), (REDIRECT, (&C1_MAC[..], &BRIDGE_MAC[..])));
            let (before, after) = (Parts::of_frame(&sent), Parts::of_frame(&run.frame));
            assert_eq!((after.src, after.dst, after.ports().1, after.ttl), (HOST, C1, 80, 63));
            after.assert_checksums();
            assert_eq!(after.rest(), before.rest());

            let reply = l4((C1, 80), (HOST, after.ports().0), 0x12);
            let reply = frame(FROM_C1, Ip::default(), proto, C1, HOST, &reply);
            let run = plane.run("from_container", &reply);
            assert_eq!((run.verdict, macs(&run.frame)), (REDIRECT, (&to_asker[..], &BRIDGE_MAC[..])));
            let (before, after) = (Parts::of_frame(&reply), Parts::of_frame(&run.frame));
            assert_eq!((after.src, after.dst, after.ports(), after.ttl), (HOST, asker, (8080, 40000), 63));
            after.assert_checksums();
            assert_eq!(after.rest(), before.rest());
        }
    }
}

#[test]
fn the_last_hop_is_not_taken() {
    let plane = published();
    let ip = Ip { ttl: 1, ..Ip::default() };
    let sent = frame(FROM_C2, ip, UDP, C2, HOST, &udp((C2, 40000), (HOST, 8080), b"question"));
    let run = plane.run("from_container", &sent);
    assert_eq!((run.verdict, Parts::of_frame(&run.frame).ttl), (REDIRECT, 1));
}

#[test]
fn fragments_follow_their_first_one() {
    let plane = published();
    let datagram = udp((C2, 40000), (HOST, 8080), &[7; 64]);
    let first = frame(FROM_C2, Ip { fragment: 0x2000, ..Ip::default() }, UDP, C2, HOST, &datagram[..40]);
    let second = frame(FROM_C2, Ip { fragment: 5, ..Ip::default() }, UDP, C2, HOST, &datagram[40..]);
    let (first, second) = (plane.run("from_container", &first), plane.run("from_container", &second));
    assert_eq!((first.verdict, second.verdict), (REDIRECT, REDIRECT));
    let (mut whole, second) = (Parts::of_frame(&first.frame), Parts::of_frame(&second.frame));
    assert_eq!((second.src, second.dst, second.ttl), (HOST, C1, 63));
    whole.l4.extend(&second.l4);
    assert_eq!(whole.ports().1, 80);
    whole.assert_checksums();
}

#[test]
fn errors_are_translated_both_ways() {
    let plane = published();
    let question = udp((C2, 40000), (HOST, 8080), b"question");
    let run = plane.run("from_container", &frame(FROM_C2, Ip::default(), UDP, C2, HOST, &question));
    let arrived = run.frame[14..].to_vec();
    let port = Parts::of_frame(&run.frame).ports().0;
    let reply = udp((C1, 80), (HOST, port), b"answer");
    let run = plane.run("from_container", &frame(FROM_C1, Ip::default(), UDP, C1, HOST, &reply));
    let returned = run.frame[14..].to_vec();
    for (macs_out, from, to, quoted, original, ends) in
        [(FROM_C1, C1, C2, arrived, question, (C2, HOST)), (FROM_C2, C2, C1, returned, reply, (C1, HOST))]
    {
        let mut message = UNREACHABLE.to_vec();
        message.extend([0; 6]);
        message.extend(quoted);
        let message = sealed(ICMP, from, HOST, message);
        let run = plane.run("from_container", &frame(macs_out, Ip::default(), ICMP, from, HOST, &message));
        assert_eq!(run.verdict, REDIRECT);
        let after = Parts::of_frame(&run.frame);
        assert_eq!((after.src, after.dst, after.ttl), (HOST, to, 63));
        after.assert_checksums();
        let inner = Parts::of_packet(&after.l4[8..]);
        assert_eq!((inner.src, inner.dst, &inner.l4), (ends.0, ends.1, &original));
        inner.assert_checksums();
    }
}

#[test]
fn what_is_not_published_passes_to_the_host_untouched() {
    let plane = published();
    for l4 in [tcp((C2, 40000), (HOST, 22), 2, b""), tcp((C2, 40000), (HOST, 8080), 0x10, b"")] {
        let sent = frame(FROM_C2, Ip::default(), TCP, C2, HOST, &l4);
        let run = plane.run("from_container", &sent);
        assert_eq!((run.verdict, run.frame), (PASS, sent));
    }
}

/// An SCTP packet whose checksum is of no meaning, but must stay.
fn sctp(src_port: u16, dst_port: u16) -> Vec<u8> {
    let mut l4 = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
    l4.extend([1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef, 1, 0, 0, 4]);
    l4
}

#[test]
fn sctp_keeps_every_byte_behind_the_network_header() {
    let mut plane = Plane::new();
    plane.publish(SCTP, 3868, 3868);
    let macs_in = (ROUTER_MAC, LOOPBACK_MAC);
    for (program, macs, src, dst, l4, after_src, after_dst) in [
        ("from_external", macs_in, CLIENT, HOST, sctp(5000, 3868), CLIENT, C1),
        ("from_container", FROM_C1, C1, CLIENT, sctp(3868, 5000), HOST, CLIENT),
        ("from_container", FROM_C2, C2, CLIENT, sctp(40001, 3868), HOST, CLIENT),
        ("from_external", macs_in, CLIENT, HOST, sctp(3868, 40001), CLIENT, C2),
        ("to_external", FROM_C2, C2, CLIENT, sctp(40001, 3868), HOST, CLIENT),
    ] {
        let sent = frame(macs, Ip::default(), SCTP, src, dst, &l4);
        let run = plane.run(program, &sent);
        assert_ne!(run.verdict, DROP, "{program}");
        let after = Parts::of_frame(&run.frame);
        assert_eq!((after.src, after.dst, &after.l4), (after_src, after_dst, &l4), "{program}");
        after.assert_header_checksum();
    }
}

#[test]
fn sctp_is_not_brought_to_another_port() {
    let mut plane = Plane::new();
    plane.publish(SCTP, 3868, 3869);
    let sent = frame((ROUTER_MAC, LOOPBACK_MAC), Ip::default(), SCTP, CLIENT, HOST, &sctp(5000, 3868));
    assert_eq!(plane.run("from_external", &sent).verdict, DROP);
    assert_eq!(plane.dropped(Reason::RewriteFailed), 1);
}

#[test]
fn sctp_quoted_in_an_error_keeps_its_checksum() {
    let plane = Plane::new();
    let sent = frame(FROM_C2, Ip::default(), SCTP, C2, CLIENT, &sctp(40001, 3868));
    let out = plane.run("from_container", &sent).frame[14..].to_vec();
    let mut message = UNREACHABLE.to_vec();
    message.extend([0; 6]);
    message.extend(&out);
    let message = sealed(ICMP, CLIENT, HOST, message);
    let error = frame((ROUTER_MAC, LOOPBACK_MAC), Ip::default(), ICMP, CLIENT, HOST, &message);
    let run = plane.run("from_external", &error);
    let after = Parts::of_frame(&run.frame);
    assert_eq!((run.verdict, after.dst), (REDIRECT, C2));
    after.assert_checksums();
    let inner = Parts::of_packet(&after.l4[8..]);
    let expected = packet(Ip { ttl: 63, ..Ip::default() }, SCTP, C2, CLIENT, &sctp(40001, 3868));
    assert_eq!((inner.src, inner.l4), (C2, Parts::of_packet(&expected).l4));
}
