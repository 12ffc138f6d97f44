//! Verdicts and their counters; frames that make no sense.

use std::net::Ipv4Addr;

use netpath_common::Reason;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::frame::{Ip, Parts, TCP, UDP, checksum, frame, tcp, udp};
use crate::setup::{
    BRIDGE_MAC, C1, C1_MAC, C2, C2_MAC, CLIENT, DROP, HOST, LOOPBACK_MAC, PASS, Plane, REDIRECT, ROUTER_MAC,
};

const IN: ([u8; 6], [u8; 6]) = (ROUTER_MAC, LOOPBACK_MAC);
const OUT: ([u8; 6], [u8; 6]) = (C1_MAC, BRIDGE_MAC);

fn ask(macs: ([u8; 6], [u8; 6]), src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    frame(macs, Ip::default(), UDP, src, dst, &udp((src, 5000), (dst, 53), b"question"))
}

#[test]
fn every_drop_is_counted_under_its_reason() {
    let plane = Plane::new();
    let stranger = Ipv4Addr::new(10, 9, 9, 9);
    for (program, sent, reason) in [
        ("from_external", ask(IN, CLIENT, C1), Reason::DirectAccess),
        ("from_external", ask(IN, CLIENT, Ipv4Addr::LOCALHOST), Reason::LoopbackAddress),
        ("from_container", ask(OUT, stranger, CLIENT), Reason::SpoofedSource),
        ("from_container", ask((C2_MAC, BRIDGE_MAC), C1, CLIENT), Reason::SpoofedMac),
        ("to_external", ask(OUT, Ipv4Addr::new(172, 17, 9, 9), CLIENT), Reason::Leak),
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
fn the_kernel_takes_the_programs_with_their_types_and_with_room_to_spare() {
    let plane = Plane::new();
    for program in plane.datapath.programs().unwrap() {
        assert!(program.has_btf, "{}: its BTF was refused", program.name);
        // The verifier's limit is a million; older kernels walk further than this one.
        println!("{}: {} instructions verified", program.name, program.instructions);
        assert!(program.instructions < 500_000, "{}: {} instructions verified", program.name, program.instructions);
    }
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    let mut arp = [[0xff; 6], [9; 6]].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([0; 20]);
    let mut ipv6 = vec![0; 12];
    ipv6.extend([0x86, 0xdd, 0x60]);
    ipv6.extend([0; 60]);
    let for_others = frame(OUT, Ip::default(), UDP, CLIENT, HOST, &udp((CLIENT, 1), (HOST, 5353), b"x"));
    for sent in [for_others, ask(IN, CLIENT, HOST), ask(IN, CLIENT, Ipv4Addr::new(203, 0, 113, 1)), arp, ipv6] {
        for program in ["from_external", "to_external"] {
            let run = plane.run(program, &sent);
            assert_eq!((run.verdict, &run.frame), (PASS, &sent), "{program}");
        }
    }
}

#[test]
fn segments_that_exceed_the_mtu_take_the_kernels_road() {
    let plane = Plane::new();
    let sent = frame(OUT, Ip::default(), TCP, C1, CLIENT, &tcp((C1, 40000), (CLIENT, 80), 2, b"data"));
    // With the 40 bytes of their headers; the MTU is 1500, and a length on the wire has 16 bits.
    for (gso_size, verdict) in
        [(0, REDIRECT), (1460, REDIRECT), (1461, PASS), (65_495, PASS), (65_496, PASS), (u16::MAX, PASS)]
    {
        assert_eq!(plane.run_segments("from_container", &sent, gso_size).verdict, verdict, "gso_size {gso_size}");
    }
}

#[test]
fn a_container_speaks_arp_for_itself_only() {
    let plane = Plane::new();
    let arp = |mac: [u8; 6], addr: Ipv4Addr| {
        let mut frame = [[0xff; 6], C1_MAC].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(mac);
        frame.extend(addr.octets());
        frame.extend([0; 10]);
        frame
    };
    assert_eq!(plane.run("from_container", &arp(C1_MAC, C1)).verdict, PASS);
    assert_eq!(plane.run("from_container", &arp(C1_MAC, Ipv4Addr::UNSPECIFIED)).verdict, PASS);
    assert_eq!(plane.run("from_container", &arp(C1_MAC, C2)).verdict, DROP);
    assert_eq!(plane.run("from_container", &arp(C1_MAC, Ipv4Addr::new(172, 17, 0, 1))).verdict, DROP);
    assert_eq!(plane.run("from_container", &arp(C2_MAC, C2)).verdict, DROP);
}

#[test]
fn packets_cut_at_any_byte_never_leave_a_container() {
    let mut plane = Plane::new();
    plane.publish(TCP, 8080, 80);
    for l4 in [tcp((C1, 80), (CLIENT, 40000), 0x12, b""), udp((C1, 5000), (CLIENT, 53), b"")] {
        let proto = if l4.len() == 20 { TCP } else { UDP };
        let whole = frame(OUT, Ip::default(), proto, C1, CLIENT, &l4);
        assert_eq!(plane.run("from_container", &whole).verdict, REDIRECT);
        for len in 34..whole.len() {
            for program in ["from_container", "to_external"] {
                // The frame is short, and the packet itself says so or not.
                assert_eq!(plane.run(program, &whole[..len]).verdict, DROP, "{program} at {len} bytes");
                let honest = frame(OUT, Ip::default(), proto, C1, CLIENT, &l4[..len.saturating_sub(34)]);
                assert_eq!(plane.run(program, &honest).verdict, DROP, "{program} at {len} honest bytes");
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
    let (version, length, data_offset) = (14, 17, 46);
    for bad in [
        with(version, 0x44),
        with(version, 0x65),
        with(version, 0x4f),
        with(length, 19),
        with(length, 200),
        with(data_offset, 0x40),
        with(data_offset, 0x70),
    ] {
        assert_eq!(plane.run("from_container", &bad).verdict, DROP);
        assert_eq!(plane.run("to_external", &bad).verdict, DROP);
    }
}

/// Frames that are nearly right: every field may be, and any byte may be wrong.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let addr = || prop_oneof![Just(C1), Just(C2), Just(HOST), Just(CLIENT), any::<u32>().prop_map(Ipv4Addr::from)];
    let port = || prop_oneof![Just(80u16), Just(8080), Just(5000), any::<u16>()];
    let base =
        (addr(), addr(), port(), port(), any::<u8>(), 0usize..4).prop_map(|(src, dst, sport, dport, flags, kind)| {
            let l4 = match kind {
                0 => tcp((src, sport), (dst, dport), flags, b"data"),
                1 => udp((src, sport), (dst, dport), b"data"),
                2 => crate::frame::echo(if flags & 1 == 0 { 8 } else { 0 }, sport, b"data"),
                _ => vec![flags; 40],
            };
            let proto = [TCP, UDP, 1, flags][kind];
            let fragment = if flags & 0xc0 == 0xc0 { u16::from(flags) << 5 } else { 0 };
            frame(OUT, Ip { fragment, ..Ip::default() }, proto, src, dst, &l4)
        });
    (
        base,
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(mut frame, flips, cut, do_cut)| {
            for (index, value) in flips {
                let at = index.index(frame.len());
                frame[at] = value;
            }
            if do_cut {
                frame.truncate(34 + cut.index(frame.len() - 34));
            }
            frame
        })
}

#[test]
fn random_frames_neither_leak_nor_change_length() {
    let mut plane = Plane::new();
    plane.publish(TCP, 8080, 80);
    plane.publish(UDP, 8080, 80);
    let mut runner = TestRunner::new(Config { cases: 20_000, ..Config::default() });
    let checked = runner.run(&nearly(), |sent| {
        for program in netpath_agent::datapath::PROGRAMS {
            let run = plane.run(program, &sent);
            prop_assert!([PASS, DROP, REDIRECT].contains(&run.verdict), "{program}: verdict {}", run.verdict);
            prop_assert_eq!(run.frame.len(), sent.len());
            if run.verdict == PASS && program.starts_with("from_container") {
                prop_assert_eq!(&run.frame, &sent);
            }
            let is_ipv4 = run.frame.len() >= 34 && run.frame[12..14] == [8, 0];
            if is_ipv4 && program == "to_external" && run.verdict == PASS {
                let source = Parts::of_frame(&run.frame).src;
                prop_assert!(source.octets()[..2] != [172, 17], "{source} leaves");
            }
            if is_ipv4 && run.verdict == REDIRECT && run.frame != sent {
                let (before, after) = (Parts::of_frame(&sent), Parts::of_frame(&run.frame));
                let (before, after) = (checksum(&before.header), checksum(&after.header));
                prop_assert!(before != 0 || after == 0, "{program} broke the header checksum");
            }
        }
        Ok(())
    });
    checked.unwrap();
}
