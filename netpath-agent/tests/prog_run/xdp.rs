//! XDP: what is decided before the kernel has a packet, and what is left to tc.

use std::net::IpAddr;

use netpath_agent::xdp::Mode;
use netpath_common::{Reason, config_flag};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{C1, C2, CLIENT, HEADER_LEN, HOST, ICMP, LOOPBACK, NOBODY, STRANGER};
use crate::frame::{Ip, Parts, TCP, UDP, echo, flipped, frame, of_kind, sealed, tcp, udp};
use crate::setup::{BRIDGE_MAC, C1_MAC, DROP, LOOPBACK_MAC, Plane, REDIRECT, ROUTER_MAC};

const IN: ([u8; 6], [u8; 6]) = (ROUTER_MAC, LOOPBACK_MAC);

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_REDIRECT: i32 = 4;

fn plane() -> Plane {
    let mut plane = Plane::new();
    plane.datapath.load_xdp(Mode::Native).unwrap();
    plane
}

fn ask(src: IpAddr, dst: IpAddr, port: u16, data: &[u8]) -> Vec<u8> {
    frame(IN, Ip::default(), UDP, src, dst, &udp((src, 40000), (dst, port), data))
}

fn assert_passes(plane: &Plane, sent: &[u8], what: &str) {
    let run = plane.datapath.test_run_xdp(sent, 1).unwrap();
    assert_eq!((run.verdict, &run.frame[..]), (XDP_PASS, sent), "{what}");
}

#[test]
fn published_udp_goes_into_the_container_byte_for_byte() {
    let mut plane = plane();
    plane.publish(UDP, 5353, 53);
    for data in [&b""[..], b"odd", b"even", &[0xff; 1400]] {
        let sent = ask(CLIENT, HOST, 5353, data);
        let run = plane.datapath.test_run_xdp(&sent, 1).unwrap();
        assert_eq!(run.verdict, XDP_REDIRECT);
        assert_eq!((&run.frame[..6], &run.frame[6..12]), (&C1_MAC[..], &BRIDGE_MAC[..]));
        let (before, after) = (Parts::of_frame(&sent), Parts::of_frame(&run.frame));
        assert_eq!((after.src, after.dst, after.ports(), after.ttl), (CLIENT, C1, (40000, 53), 63));
        after.assert_checksums();
        assert_eq!(after.rest(), before.rest());
        // What tc makes of it.
        assert_eq!(run.frame[12..], plane.run("from_external", &sent).frame[12..]);
    }
}

#[test]
fn replies_to_masqueraded_udp_go_into_the_container() {
    let plane = plane();
    let question = udp((C1, 40000), (CLIENT, 53), b"question");
    let out = plane.run("from_container", &frame((C1_MAC, BRIDGE_MAC), Ip::default(), UDP, C1, CLIENT, &question));
    let port = Parts::of_frame(&out.frame).ports().0;
    let answer =
        |src_port| frame(IN, Ip::default(), UDP, CLIENT, HOST, &udp((CLIENT, src_port), (HOST, port), b"answer"));
    let run = plane.datapath.test_run_xdp(&answer(53), 1).unwrap();
    let back = Parts::of_frame(&run.frame);
    assert_eq!((run.verdict, back.dst, back.ports()), (XDP_REDIRECT, C1, (53, 40000)));
    back.assert_checksums();
    assert_passes(&plane, &answer(54), "from somebody who was not asked");
}

#[test]
fn what_nobody_may_send_is_dropped_and_counted() {
    let mut plane = plane();
    plane.publish(UDP, 5353, 53);
    plane.publish(TCP, 8080, 80);
    let syn = |src, dst, port| frame(IN, Ip::default(), TCP, src, dst, &tcp((src, 40000), (dst, port), 2, b""));
    for (sent, reason) in [
        (ask(CLIENT, C1, 53, b"x"), Reason::DirectAccess),
        (ask(CLIENT, NOBODY, 53, b"x"), Reason::DirectAccess),
        (syn(CLIENT, C1, 80), Reason::DirectAccess),
        (frame(IN, Ip::default(), ICMP, CLIENT, C1, &echo(CLIENT, C1, true, 7, b"ping")), Reason::DirectAccess),
        (ask(CLIENT, LOOPBACK, 5353, b"x"), Reason::LoopbackAddress),
        (syn(LOOPBACK, HOST, 8080), Reason::LoopbackAddress),
        (ask(C2, HOST, 5353, b"x"), Reason::MartianSource),
        (syn(C2, HOST, 8080), Reason::MartianSource),
        (syn(NOBODY, C1, 80), Reason::MartianSource),
    ] {
        let before = plane.dropped(reason);
        let run = plane.datapath.test_run_xdp(&sent, 1).unwrap();
        assert_eq!((run.verdict, &run.frame), (XDP_DROP, &sent), "{}", reason.name());
        assert_eq!(plane.dropped(reason), before + 1, "{}", reason.name());
    }
}

#[test]
fn tcp_and_what_is_the_hosts_is_left_to_tc() {
    let mut plane = plane();
    plane.publish(TCP, 8080, 80);
    for flags in [2, 0x10, 0x18, 4] {
        let l4 = tcp((CLIENT, 40000), (HOST, 8080), flags, b"");
        assert_passes(&plane, &frame(IN, Ip::default(), TCP, CLIENT, HOST, &l4), "TCP");
    }
    assert_passes(&plane, &ask(CLIENT, HOST, 5353, b"x"), "a port that is not published");
    assert_passes(&plane, &ask(CLIENT, STRANGER, 53, b"x"), "somebody else's address");
    let ping = echo(CLIENT, HOST, true, 7, b"ping");
    assert_passes(&plane, &frame(IN, Ip::default(), ICMP, CLIENT, HOST, &ping), "a ping");
}

#[test]
fn what_xdp_does_not_take_is_left_to_tc() {
    let mut plane = plane();
    plane.publish(UDP, 5353, 53);
    let l4 = udp((CLIENT, 40000), (HOST, 5353), b"question");
    let with = |ip| frame(IN, ip, UDP, CLIENT, HOST, &l4);
    assert_passes(&plane, &with(Ip { fragment: 0x2000, ..Ip::default() }), "the first fragment");
    assert_passes(&plane, &with(Ip { fragment: 5, ..Ip::default() }), "a later fragment");
    assert_passes(&plane, &with(Ip { options: &[1; 8], ..Ip::default() }), "options");
    assert_passes(&plane, &with(Ip { ttl: 1, ..Ip::default() }), "no hop left");
    assert_passes(&plane, &ask(CLIENT, HOST, 5353, &[0; 1500]), "more than the MTU");
    let whole = with(Ip::default());
    for len in 14 + HEADER_LEN..whole.len() {
        assert_passes(&plane, &whole[..len], "a frame that is cut");
    }
    let for_others = frame((ROUTER_MAC, C1_MAC), Ip::default(), UDP, CLIENT, HOST, &l4);
    assert_passes(&plane, &for_others, "a frame for somebody else");
    let to_all = frame((ROUTER_MAC, [0xff; 6]), Ip::default(), UDP, CLIENT, HOST, &l4);
    assert_passes(&plane, &to_all, "a broadcast");
    let tagged = [&whole[..12], &[0x81, 0, 0, 5], &whole[12..]].concat();
    assert_passes(&plane, &tagged, "a VLAN tag");
}

#[test]
fn a_checksum_that_hardware_was_to_fill_in_is_left_to_tc() {
    let mut plane = plane();
    plane.publish(UDP, 5353, 53);
    // The sum over the pseudo header alone is the checksum over it and zeros, complemented.
    let l4 = udp((CLIENT, 40000), (HOST, 5353), b"question");
    let mut zeros = vec![0; l4.len()];
    zeros = sealed(UDP, CLIENT, HOST, zeros);
    let pseudo = !u16::from_be_bytes([zeros[6], zeros[7]]);
    let mut partial = l4.clone();
    partial[6..8].copy_from_slice(&pseudo.to_be_bytes());
    assert_passes(&plane, &frame(IN, Ip::default(), UDP, CLIENT, HOST, &partial), "CHECKSUM_PARTIAL");
    if C1.is_ipv4() {
        let mut without = l4;
        without[6..8].fill(0);
        let run = plane.datapath.test_run_xdp(&frame(IN, Ip::default(), UDP, CLIENT, HOST, &without), 1).unwrap();
        assert_eq!((run.verdict, &Parts::of_frame(&run.frame).l4[6..8]), (XDP_REDIRECT, &[0, 0][..]));
    }
}

#[test]
fn containers_that_take_no_frames_from_xdp_get_them_from_tc() {
    let mut plane = plane();
    plane.publish_to(2, UDP, 5353, 53);
    let sent = ask(CLIENT, HOST, 5353, b"question");
    assert_passes(&plane, &sent, "its generic receive offload is off");
    assert_eq!(plane.run("from_external", &sent).verdict, REDIRECT);
}

#[test]
fn without_shortcuts_all_that_is_not_dropped_takes_the_kernels_road() {
    let mut plane = plane();
    plane.publish(UDP, 5353, 53);
    plane.set_flags(0);
    assert_passes(&plane, &ask(CLIENT, HOST, 5353, b"question"), "shortcuts off");
    assert_eq!(plane.datapath.test_run_xdp(&ask(CLIENT, C1, 53, b"x"), 1).unwrap().verdict, XDP_DROP);
    plane.set_flags(config_flag::SHORTCUTS);
    assert_eq!(plane.datapath.test_run_xdp(&ask(CLIENT, HOST, 5353, b"question"), 1).unwrap().verdict, XDP_REDIRECT);
}

/// Frames from outside that are nearly right.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let addr = || prop_oneof![1 => Just(C1), 1 => Just(C2), 4 => Just(HOST), 4 => Just(CLIENT), 1 => Just(LOOPBACK), 1 => Just(NOBODY)];
    let port = || prop_oneof![1 => Just(53u16), 1 => Just(80), 4 => Just(5353), 1 => Just(8080), 1 => any::<u16>()];
    let base = (
        addr(),
        addr(),
        port(),
        port(),
        any::<u8>(),
        prop_oneof![1 => Just(0usize), 3 => Just(1), 1 => Just(2), 1 => Just(3)],
    )
        .prop_map(|(src, dst, sport, dport, flags, kind)| of_kind(IN, kind, (src, sport), (dst, dport), flags));
    let flip = (any::<prop::sample::Index>(), any::<u8>());
    (base, proptest::collection::vec(flip, 0..2)).prop_map(|(frame, flips)| flipped(frame, flips))
}

/// Whatever comes: what XDP drops tc would have dropped, and what it redirects tc would have redirected, with the
/// same bytes behind the hardware addresses.
#[test]
fn xdp_and_tc_agree_on_random_frames() {
    let mut plane = plane();
    plane.publish(TCP, 8080, 80);
    plane.publish(UDP, 5353, 53);
    let mut runner = TestRunner::new(Config { cases: 20_000, ..Config::default() });
    let mut seen = [0; 3];
    let seen_so_far = std::cell::RefCell::new(&mut seen);
    let checked = runner.run(&nearly(), |sent| {
        let early = plane.datapath.test_run_xdp(&sent, 1).unwrap();
        prop_assert_eq!(early.frame.len(), sent.len());
        let tc = || plane.run("from_external", &sent);
        let mut seen = seen_so_far.borrow_mut();
        match early.verdict {
            XDP_PASS => {
                seen[0] += 1;
                prop_assert_eq!(&early.frame, &sent);
            }
            XDP_DROP => {
                seen[1] += 1;
                prop_assert_eq!(tc().verdict, DROP);
            }
            XDP_REDIRECT => {
                seen[2] += 1;
                let late = tc();
                prop_assert_eq!(late.verdict, REDIRECT);
                prop_assert_eq!(&early.frame[12..], &late.frame[12..]);
            }
            verdict => prop_assert!(false, "verdict {verdict}"),
        }
        Ok(())
    });
    checked.unwrap();
    assert!(seen.iter().all(|count| *count > 100), "passed, dropped, redirected: {seen:?}");
}
