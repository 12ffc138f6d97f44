//! Neighbour discovery and multicast reports from a container.

use netpath_common::{Addr6, Address as _, Reason, network_flag, proto};
use netpath_ebpf::decision::Out;
use netpath_ebpf::family::V6;
use netpath_ebpf::ipv6::link_local;
use netpath_ebpf::nd;
use netpath_ebpf::packet::Packet;
use netpath_ebpf::policy::Arrival;

use crate::frame::{Frame, SYN, ip, tcp, udp};
use crate::ipv6::{CLIENT, GATEWAY, GROUPS, HOST, NOBODY, World, container};
use crate::world::{BRIDGE_MAC, mac, veth};

const REPORT: u8 = 131;
const QUERY: u8 = 130;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const REPORT_V2: u8 = 143;

const NONE: Addr6 = Addr6::UNSPECIFIED;
const HOPS_OFF: usize = 14 + 7;
const ALL_NODES: Addr6 = GROUPS[0];

/// The link-local address of container `n`.
fn local(n: u8) -> Addr6 {
    link_local(&mac(n))
}

fn with_hops(mut frame: Frame, hops: u8) -> Frame {
    frame.set(HOPS_OFF, hops);
    frame
}

/// A message of neighbour discovery with `options` behind its target.
fn message(kind: u8, src: Addr6, dst: Addr6, target: Addr6, options: &[u8]) -> Frame {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    if kind != ROUTER_SOLICITATION {
        bytes.extend(target.0);
    }
    bytes.extend(options);
    with_hops(ip(proto::ICMPV6, src, dst, &bytes), 255)
}

/// An option that names a hardware address: the source's (1) or the target's (2).
fn link_option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1], &mac[..]].concat()
}

/// What is decided about a frame that container 1 sends from the hardware address `src_mac`.
fn says_from(world: &World, src_mac: [u8; 6], frame: &Frame) -> Result<bool, Reason> {
    let arrival = Arrival { ifindex: veth(1), src_mac, dst_mac: [0x33, 0x33, 0, 0, 0, 1] };
    let packet = Packet::<V6>::parse(frame, 14)?;
    assert!(nd::is_concerned(&packet));
    nd::passes(world, frame, 14, &packet, &arrival)
}

fn says(world: &World, frame: &Frame) -> Result<bool, Reason> {
    says_from(world, mac(1), frame)
}

fn without_icc() -> World {
    let mut world = World::new();
    world.network.flags &= !network_flag::ICC;
    world
}

#[test]
fn neighbours_are_found_though_they_do_not_talk() {
    for world in [World::new(), without_icc()] {
        for src in [container(1), local(1)] {
            for dst in [ALL_NODES, container(2), local(2), GATEWAY] {
                for target in [container(2), local(2), GATEWAY, NOBODY] {
                    let options = link_option(1, mac(1));
                    assert_eq!(says(&world, &message(SOLICITATION, src, dst, target, &options)), Ok(true));
                }
                for target in [container(1), local(1)] {
                    let options = link_option(2, mac(1));
                    assert_eq!(says(&world, &message(ADVERTISEMENT, src, dst, target, &options)), Ok(true));
                }
            }
            assert_eq!(says(&world, &message(ROUTER_SOLICITATION, src, ALL_NODES, NONE, &[])), Ok(true));
        }
    }
}

#[test]
fn a_container_is_no_router() {
    let world = World::new();
    for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
        for (src, hops) in [(local(1), 255), (container(1), 64), (NONE, 1), (local(2), 255)] {
            let frame = with_hops(message(kind, src, ALL_NODES, NONE, &[]), hops);
            assert_eq!(says(&world, &frame), Err(Reason::RouterAdvertisement));
        }
    }
}

#[test]
fn a_router_advertisement_behind_other_headers_is_none_less() {
    let world = World::new();
    let advertisement = [ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let behind = |count: usize| {
        let mut bytes = Vec::new();
        for i in 1..=count {
            bytes.extend([if i == count { proto::ICMPV6 } else { proto::DESTINATION_OPTIONS }, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes.extend(advertisement);
        with_hops(ip(proto::DESTINATION_OPTIONS, local(1), ALL_NODES, &bytes), 255)
    };
    for count in 1..=8 {
        assert_eq!(says(&world, &behind(count)), Err(Reason::RouterAdvertisement), "behind {count}");
    }
    // Where it cannot be seen, nothing passes.
    for count in 9..=12 {
        assert_eq!(says(&world, &behind(count)), Err(Reason::Malformed), "behind {count}");
    }
}

#[test]
fn nobody_is_advertised_but_oneself() {
    let world = World::new();
    for target in [container(2), local(2), GATEWAY, NOBODY, CLIENT] {
        for src in [container(1), local(1)] {
            let frame = message(ADVERTISEMENT, src, ALL_NODES, target, &[]);
            assert_eq!(says(&world, &frame), Err(Reason::SpoofedSource));
        }
    }
    for kind in [SOLICITATION, ADVERTISEMENT, ROUTER_SOLICITATION] {
        for src in [container(2), local(2), GATEWAY, CLIENT] {
            let frame = message(kind, src, ALL_NODES, container(1), &[]);
            assert_eq!(says(&world, &frame), Err(Reason::SpoofedSource));
        }
    }
}

#[test]
fn no_hardware_address_is_named_but_ones_own() {
    let world = World::new();
    // A nonce first (RFC 3971), which says nothing about addresses.
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    for (kind, option) in [(SOLICITATION, 1), (ADVERTISEMENT, 2), (ROUTER_SOLICITATION, 1)] {
        for before in [&[][..], &nonce[..]] {
            let frame = |mac| {
                let options = [before, &link_option(option, mac)].concat();
                message(kind, local(1), ALL_NODES, local(1), &options)
            };
            assert_eq!(says(&world, &frame(mac(1))), Ok(true));
            assert_eq!(says(&world, &frame(mac(2))), Err(Reason::SpoofedMac));
        }
        let frame = message(kind, local(1), ALL_NODES, local(1), &[]);
        assert_eq!(says_from(&world, mac(2), &frame), Err(Reason::SpoofedMac));
    }
}

#[test]
fn an_address_is_probed_by_who_is_to_have_it() {
    let world = World::new();
    for target in [container(1), local(1)] {
        assert_eq!(says(&world, &message(SOLICITATION, NONE, ALL_NODES, target, &[])), Ok(true));
        let from_elsewhere = says_from(&world, mac(2), &message(SOLICITATION, NONE, ALL_NODES, target, &[]));
        assert_eq!(from_elsewhere, Err(Reason::SpoofedMac));
    }
    for target in [container(2), local(2), GATEWAY, NOBODY] {
        let frame = message(SOLICITATION, NONE, ALL_NODES, target, &[]);
        assert_eq!(says(&world, &frame), Err(Reason::SpoofedSource));
    }
    for frame in [
        message(SOLICITATION, NONE, container(2), container(1), &[]),
        message(ADVERTISEMENT, NONE, ALL_NODES, container(1), &[]),
        message(ROUTER_SOLICITATION, NONE, ALL_NODES, NONE, &[]),
    ] {
        assert_eq!(says(&world, &frame), Err(Reason::SpoofedSource));
    }
}

#[test]
fn groups_are_joined_under_ones_own_name_or_none() {
    for world in [World::new(), without_icc()] {
        let report = |kind, src, dst, hops| with_hops(ip(proto::ICMPV6, src, dst, &[kind, 0, 0, 0, 0, 0, 0, 0]), hops);
        for kind in [REPORT, REPORT_V2] {
            for src in [NONE, local(1), container(1)] {
                assert_eq!(says(&world, &report(kind, src, ALL_NODES, 1)), Ok(true));
                assert_eq!(says(&world, &report(kind, src, ALL_NODES, 64)), Err(Reason::Malformed));
                assert_eq!(says(&world, &report(kind, src, container(2), 1)), Err(Reason::Malformed));
            }
            assert_eq!(says(&world, &report(kind, local(2), ALL_NODES, 1)), Err(Reason::SpoofedSource));
            let as_neighbour = says_from(&world, mac(2), &report(kind, NONE, ALL_NODES, 1));
            assert_eq!(as_neighbour, Err(Reason::SpoofedSource));
        }
        // Who asks for reports is a router, or like any other sender to a group.
        assert_eq!(says(&world, &report(QUERY, local(1), ALL_NODES, 1)), Ok(false));
    }
}

#[test]
fn what_receivers_discard_does_not_pass() {
    let world = World::new();
    let good = message(SOLICITATION, local(1), ALL_NODES, local(2), &link_option(1, mac(1)));
    assert_eq!(says(&world, &with_hops(good.clone(), 254)), Err(Reason::Malformed));
    // A target that is a group, an option without length, more options than anybody sends.
    for (target, options) in
        [(ALL_NODES, vec![]), (local(2), vec![1, 0, 0, 0, 0, 0, 0, 0]), (local(2), [14, 1, 0, 0, 0, 0, 0, 0].repeat(9))]
    {
        let frame = message(SOLICITATION, local(1), ALL_NODES, target, &options);
        assert_eq!(says(&world, &frame), Err(Reason::Malformed));
    }
    for len in 54..good.0.len() {
        let cut = Frame(good.0[..len].to_vec());
        assert!(says_or_malformed(&world, &cut).is_err(), "{len} bytes");
    }
}

/// As [`says`] also for what is too short to be known.
fn says_or_malformed(world: &World, frame: &Frame) -> Result<bool, Reason> {
    Packet::<V6>::parse(frame, 14)?;
    says(world, frame)
}

#[test]
fn discovery_does_not_leave_the_link() {
    let world = World::new();
    let frame = message(SOLICITATION, container(1), CLIENT, container(1), &[]);
    assert_eq!(says(&world, &frame), Ok(false));
    assert_eq!(world.send(1, &frame).unwrap_err(), Reason::Untranslatable);
}

#[test]
fn echoes_errors_and_other_protocols_are_none_of_this() {
    for frame in [tcp((container(1), 1), (CLIENT, 2), SYN), udp((container(1), 1), (CLIENT, 2))] {
        assert!(!nd::is_concerned(&Packet::<V6>::parse(&frame, 14).unwrap()));
    }
}

#[test]
fn link_local_destinations_are_the_own_network() {
    let world = World::new();
    for src in [local(1), container(1)] {
        let to_neighbour = udp((src, 1000), (local(2), 53));
        assert_eq!(world.send_to(1, mac(2), &to_neighbour).unwrap().out, Out::Sibling(veth(2)));
        // No router forwards it.
        assert_eq!(world.send(1, &to_neighbour).unwrap().out, Out::Kernel);
        let to_bridge = udp((src, 1000), (link_local(&BRIDGE_MAC), 53));
        let decision = world.send(1, &to_bridge).unwrap();
        assert_eq!((decision.out, decision.tuple.src_addr), (Out::Kernel, src));
    }
    assert_eq!(without_icc().send_to(1, mac(2), &udp((local(1), 1), (local(2), 53))).unwrap_err(), Reason::Icc);
    assert_eq!(world.flow_count(), 0);
}

#[test]
fn a_link_local_source_is_not_masqueraded() {
    let world = World::new();
    let decision = world.send(1, &udp((local(1), 1000), (CLIENT, 53))).unwrap();
    assert_eq!((decision.out, decision.tuple.src_addr), (Out::Kernel, local(1)));
    assert_eq!(world.flow_count(), 0);
    let as_neighbour = udp((local(2), 1000), (CLIENT, 53));
    assert_eq!(world.send(1, &as_neighbour).unwrap_err(), Reason::SpoofedSource);
}

#[test]
fn nobody_outside_has_a_link_local_address() {
    let mut world = World::new();
    world.publish(proto::TCP, 8080, 1, 80);
    let frame = |src| tcp((src, 40000), (HOST, 8080), SYN);
    assert_eq!(world.arrive(&frame(local(9))).unwrap_err(), Reason::MartianSource);
    assert!(world.arrive(&frame(CLIENT)).is_ok());
}
