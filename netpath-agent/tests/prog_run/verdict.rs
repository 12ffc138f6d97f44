//! Verdicts and their counters; frames that make no sense.

use std::net::IpAddr;

use netpath_common::Reason;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{
    C1, C2, CLIENT, CONTRADICTIONS, ETHER_TYPE, HEADER_LEN, HOST, LOOPBACK, NOBODY, STRANGER, any_addr, is_inside,
};
use crate::frame::{Ip, Parts, TCP, UDP, checksum, flipped, frame, of_kind, tcp, udp};
use crate::setup::{BRIDGE_MAC, C1_MAC, C2_MAC, DROP, LOOPBACK_MAC, PASS, Plane, REDIRECT, ROUTER_MAC};

const IN: ([u8; 6], [u8; 6]) = (ROUTER_MAC, LOOPBACK_MAC);
const OUT: ([u8; 6], [u8; 6]) = (C1_MAC, BRIDGE_MAC);

fn ask(macs: ([u8; 6], [u8; 6]), src: IpAddr, dst: IpAddr) -> Vec<u8> {
    frame(macs, Ip::default(), UDP, src, dst, &udp((src, 5000), (dst, 53), b"question"))
}

#[test]
fn every_drop_is_counted_under_its_reason() {
    let plane = Plane::new();
    for (program, sent, reason) in [
        ("from_external", ask(IN, CLIENT, C1), Reason::DirectAccess),
        ("from_external", ask(IN, CLIENT, LOOPBACK), Reason::LoopbackAddress),
        ("from_container", ask(OUT, STRANGER, CLIENT), Reason::SpoofedSource),
        ("from_container", ask((C2_MAC, BRIDGE_MAC), C1, CLIENT), Reason::SpoofedMac),
        ("to_external", ask(OUT, NOBODY, CLIENT), Reason::Leak),
        ("from_container", frame(OUT, Ip::default(), 50, C1, CLIENT, &[0; 32]), Reason::Untranslatable),
        (
            "from_container",
            frame(OUT, Ip::default(), TCP, C1, CLIENT, &tcp((C1, 1), (CLIENT, 2), 0x10, b"")),
            Reason::NoFlow,
        ),
    ] {
        let before = plane.dropped(reason);
        assert_eq!(plane.run(program, &sent).verdict, DROP, "{program}: {}", reason.name());
        assert_eq!(plane.dropped(reason), before + 1, "{program}: {}", reason.name());
    }
}

#[test]
fn segments_that_exceed_the_mtu_take_the_kernels_road() {
    let plane = Plane::new();
    let sent = frame(OUT, Ip::default(), TCP, C1, CLIENT, &tcp((C1, 40000), (CLIENT, 80), 2, b"data"));
    // The MTU is 1500, and a length on the wire has 16 bits.
    let headers = HEADER_LEN as u16 + 20;
    for (gso_size, verdict) in [
        (0, REDIRECT),
        (1500 - headers, REDIRECT),
        (1501 - headers, PASS),
        (u16::MAX - headers, PASS),
        (u16::MAX - headers + 1, PASS),
        (u16::MAX, PASS),
    ] {
        assert_eq!(plane.run_segments("from_container", &sent, gso_size).verdict, verdict, "gso_size {gso_size}");
    }
}

#[test]
fn packets_cut_at_any_byte_never_leave_a_container() {
    let mut plane = Plane::new();
    plane.publish(TCP, 8080, 80);
    for l4 in [tcp((C1, 80), (CLIENT, 40000), 0x12, b""), udp((C1, 5000), (CLIENT, 53), b"")] {
        let proto = if l4.len() == 20 { TCP } else { UDP };
        let whole = frame(OUT, Ip::default(), proto, C1, CLIENT, &l4);
        assert_eq!(plane.run("from_container", &whole).verdict, REDIRECT);
        for len in 14 + HEADER_LEN..whole.len() {
            for program in ["from_container", "to_external"] {
                // The frame is short, and the packet itself says so or not.
                assert_eq!(plane.run(program, &whole[..len]).verdict, DROP, "{program} at {len} bytes");
                let honest = frame(OUT, Ip::default(), proto, C1, CLIENT, &l4[..len - 14 - HEADER_LEN]);
                assert_eq!(plane.run(program, &honest).verdict, DROP, "{program} at {len} honest bytes");
            }
        }
    }
}

#[test]
fn packets_cut_at_any_byte_never_enter_a_container() {
    let mut plane = Plane::new();
    plane.publish(TCP, 8080, 80);
    for (dst, verdict) in [(C1, DROP), (HOST, PASS)] {
        let l4 = tcp((CLIENT, 40000), (dst, 8080), 2, b"");
        let whole = frame(IN, Ip::default(), TCP, CLIENT, dst, &l4);
        for len in 14 + HEADER_LEN..whole.len() {
            // What is for the host is the stack's to judge.
            let honest = frame(IN, Ip::default(), TCP, CLIENT, dst, &l4[..len - 14 - HEADER_LEN]);
            for sent in [&whole[..len], &honest] {
                let run = plane.run("from_external", sent);
                assert_eq!((run.verdict, &run.frame[..]), (verdict, sent), "to {dst} at {len} bytes");
            }
        }
    }
}

#[test]
fn contradictory_headers_never_leave_a_container() {
    let plane = Plane::new();
    let good = frame(OUT, Ip::default(), TCP, C1, CLIENT, &tcp((C1, 40000), (CLIENT, 80), 2, b"data"));
    let with = |off: usize, value: u8| {
        let mut frame = good.clone();
        frame[off] = value;
        frame
    };
    for (off, value) in CONTRADICTIONS {
        let bad = with(off, value);
        assert_eq!(plane.run("from_container", &bad).verdict, DROP);
        assert_eq!(plane.run("to_external", &bad).verdict, DROP);
    }
}

/// Frames that are nearly right: every field may be, and any byte may be wrong.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let addr = || prop_oneof![Just(C1), Just(C2), Just(HOST), Just(CLIENT), any_addr()];
    let port = || prop_oneof![Just(80u16), Just(8080), Just(5000), any::<u16>()];
    let base = (addr(), addr(), port(), port(), any::<u8>(), 0usize..4)
        .prop_map(|(src, dst, sport, dport, flags, kind)| of_kind(OUT, kind, (src, sport), (dst, dport), flags));
    (
        base,
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(frame, flips, cut, do_cut)| {
            let mut frame = flipped(frame, flips);
            if do_cut {
                let header = 14 + HEADER_LEN;
                frame.truncate(header + cut.index(frame.len() - header));
            }
            frame
        })
}

fn source_of(frame: &[u8]) -> IpAddr {
    if C1.is_ipv4() {
        IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap())
    }
}

#[test]
fn random_frames_neither_leak_nor_change_length() {
    let mut plane = Plane::new();
    plane.publish(TCP, 8080, 80);
    plane.publish(UDP, 8080, 80);
    let mut runner = TestRunner::new(Config { cases: 20_000, ..Config::default() });
    let checked = runner.run(&nearly(), |sent| {
        for program in ["from_external", "to_external", "from_container"] {
            let run = plane.run(program, &sent);
            prop_assert!([PASS, DROP, REDIRECT].contains(&run.verdict), "{program}: verdict {}", run.verdict);
            prop_assert_eq!(run.frame.len(), sent.len());
            if run.verdict == PASS && program == "from_container" {
                prop_assert_eq!(&run.frame, &sent);
            }
            let is_ours = run.frame.len() >= 14 + HEADER_LEN && run.frame[12..14] == ETHER_TYPE;
            if is_ours && program == "to_external" && run.verdict == PASS {
                // The host may send frames that make no sense, so there may be no parts.
                let source = source_of(&run.frame);
                prop_assert!(!is_inside(source), "{source} leaves");
            }
            if is_ours && run.verdict == REDIRECT && run.frame != sent && C1.is_ipv4() {
                let (before, after) = (Parts::of_frame(&sent), Parts::of_frame(&run.frame));
                let (before, after) = (checksum(&before.header), checksum(&after.header));
                prop_assert!(before != 0 || after == 0, "{program} broke the header checksum");
            }
        }
        Ok(())
    });
    checked.unwrap();
}
