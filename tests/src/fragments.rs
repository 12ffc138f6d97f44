//! Fragments, whatever order they come in: a datagram arrives whole and once, or not at all.
//!
//! Sent through packet sockets; the receiver's kernel puts them together.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use netpath_tests::frames::FrameSocket;
use netpath_tests::packets::{ACK, HOP_BY_HOP, Packet, SYN, Segment};
use netpath_tests::sockets::{PATIENCE, REFUSAL, at, receive, send};
use netpath_tests::{Container, Family, Namespace, Options, Plane, World};

on_every_plane! {
    fragments_reach_a_published_port_in_any_order,
    fragments_leave_a_container_in_any_order,
    fragments_cross_between_containers_in_any_order,
    fragments_reach_the_host_itself_in_any_order,
    overlapping_fragments_make_no_datagram,
}

on_netpath! {
    fragments_for_routers_leave_in_any_order,
    fragments_for_routers_do_not_leave_when_their_first_one_was_dropped,
    fragments_of_unlinked_containers_do_not_pass,
    a_flood_of_fragments_harms_nobody_else,
    fragments_that_wait_in_vain_are_counted,
}

/// Who sends, who receives, and how the sender's frames get there.
struct Road {
    sender: FrameSocket,
    next_hop: [u8; 6],
    from: SocketAddr,
    to: SocketAddr,
    receiver: UdpSocket,
    next_id: u32,
}

impl Road {
    fn new(sender: (&Namespace, SocketAddr), next_hop: [u8; 6], to: SocketAddr, receiver: UdpSocket) -> Self {
        let (namespace, from) = sender;
        Self { sender: FrameSocket::new(namespace, "eth0"), next_hop, from, to, receiver, next_id: 1 }
    }

    /// The fragments of a datagram that nobody has sent yet, and its message.
    fn datagram(&mut self, length: usize, size: usize) -> (Vec<Packet>, Vec<u8>) {
        self.next_id += 1;
        let message: Vec<u8> = (0..length).map(|i| (i * 7 + self.next_id as usize) as u8).collect();
        let packet = Packet { id: self.next_id, ..Packet::udp(self.from, self.to, &message) };
        (packet.fragments(size), message)
    }

    fn send(&self, packets: &[Packet]) {
        packets.iter().for_each(|packet| self.sender.send_packet(self.next_hop, &packet.bytes()));
    }

    /// Panics unless these messages and no others have arrived, in any order.
    #[track_caller]
    fn assert_received(&mut self, mut messages: Vec<Vec<u8>>) {
        let mut received: Vec<_> = messages.iter().map(|_| receive(&self.receiver).0).collect();
        messages.sort();
        received.sort();
        assert!(received == messages, "{} datagrams, not those that were sent", received.len());
        let (last, message) = self.datagram(3, 64);
        self.send(&last);
        assert_eq!(receive(&self.receiver).0, message, "nothing else");
    }

    /// In order, the other way round, the first one in the middle, repeated, two datagrams mixed.
    fn assert_any_order(&mut self) {
        let (parts, message) = self.datagram(3000, 1208);
        self.send(&parts);
        self.assert_received(vec![message]);

        let (mut parts, message) = self.datagram(3000, 1208);
        parts.reverse();
        self.send(&parts);
        self.assert_received(vec![message]);

        let (mut parts, message) = self.datagram(60_000, 1400);
        parts.reverse();
        self.send(&parts);
        self.assert_received(vec![message]);

        let (mut parts, message) = self.datagram(3000, 400);
        parts.swap(0, 3);
        self.send(&parts);
        self.assert_received(vec![message]);

        let (parts, message) = self.datagram(3000, 1208);
        let repeated: Vec<Packet> = [2, 2, 0, 0, 2, 1].map(|index| parts[index].clone()).into();
        self.send(&repeated);
        self.assert_received(vec![message]);

        let ((one, first), (other, second)) = (self.datagram(2500, 808), self.datagram(2500, 808));
        let mixed: Vec<Packet> =
            one.iter().rev().zip(other.iter().rev()).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
        self.send(&mixed);
        self.assert_received(vec![first, second]);
    }
}

fn inward(world: &World, app: &Container, family: Family) -> Road {
    let receiver = app.inside.udp_at(at(family.any(), 53));
    let from = at(family.client(), 4000);
    Road::new((&world.client, from), world.host.mac("up0"), at(family.host(), 5353), receiver)
}

fn outward(world: &World, app: &Container, family: Family, port: u16) -> Road {
    let receiver = world.client.udp_at(at(family.any(), port));
    let bridge = if world.plane.is_netpath() { "netpath0" } else { "docker0" };
    let road =
        Road::new((&app.inside, at(app.ip(family), 4000)), world.host.mac(bridge), at(family.client(), port), receiver);
    // Both kernels know the way, and masquerade has a flow.
    let socket = app.inside.udp_at(at(family.any(), 4000));
    send(&socket, b"before", road.to);
    assert_eq!(receive(&road.receiver).0, b"before");
    road
}

fn fragments_reach_a_published_port_in_any_order(plane: Plane) {
    let world = World::with(plane, Options::dual());
    let app = world.container("app", &["5353:53/udp"]);
    Family::BOTH.into_iter().for_each(|family| inward(&world, &app, family).assert_any_order());
}

fn fragments_leave_a_container_in_any_order(plane: Plane) {
    let world = World::with(plane, Options::dual());
    let app = world.container("app", &[]);
    Family::BOTH.into_iter().for_each(|family| outward(&world, &app, family, 7000).assert_any_order());
}

fn fragments_cross_between_containers_in_any_order(plane: Plane) {
    let world = World::with(plane, Options::dual());
    let (one, other) = (world.container("one", &[]), world.container("other", &[]));
    for family in Family::BOTH {
        let (from, to) = (at(one.ip(family), 4000), at(other.ip(family), 53));
        let receiver = other.inside.udp_at(at(family.any(), 53));
        Road::new((&one.inside, from), other.inside.mac("eth0"), to, receiver).assert_any_order();
    }
}

fn fragments_reach_the_host_itself_in_any_order(plane: Plane) {
    let world = World::with(plane, Options::dual());
    for family in Family::BOTH {
        let receiver = world.host.udp_at(at(family.any(), 53));
        let from = at(family.client(), 4000);
        Road::new((&world.client, from), world.host.mac("up0"), at(family.host(), 53), receiver).assert_any_order();
    }
}

/// RFC 5722, and RFC 3128 for IPv4.
fn overlapping_fragments_make_no_datagram(plane: Plane) {
    let world = World::with(plane, Options::dual());
    let app = world.container("app", &["5353:53/udp"]);
    for family in Family::BOTH {
        for mut road in [inward(&world, &app, family), outward(&world, &app, family, 7000)] {
            for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
                let (mut parts, _) = road.datagram(2400, 808);
                // Eight bytes of the part before it once more.
                parts[1].l4 = [&parts[0].l4[800..], &parts[1].l4].concat();
                parts[1].offset -= 8;
                road.send(&order.map(|index| parts[index].clone()));
                road.assert_received(Vec::new());
            }
        }
    }
}

/// The packet with options that routers look at, so that it takes the kernel's road.
fn for_routers(packet: &Packet) -> Packet {
    const NO_OPERATION: u8 = 1;
    /// Four bytes of padding (RFC 8200, 4.2).
    const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];
    let mut packet = packet.clone();
    match packet.src {
        IpAddr::V4(_) => packet.options = vec![NO_OPERATION; 40],
        IpAddr::V6(_) => packet.extensions = vec![(HOP_BY_HOP, PADDING.to_vec())],
    }
    packet
}

fn fragments_for_routers_leave_in_any_order(plane: Plane) {
    let world = World::with(plane, Options::dual());
    let app = world.container("app", &[]);
    for family in Family::BOTH {
        let mut road = outward(&world, &app, family, 7000);
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let (parts, message) = road.datagram(2400, 808);
            // Not all fragments of a datagram have IPv4's options, nor all the same road therefore.
            for with_options in [&[0, 1, 2][..], &[0], &[1, 2]] {
                road.next_id += 1;
                let part = |index: usize| Packet { id: road.next_id, ..parts[index].clone() };
                let has_options = |index: usize| family == Family::V6 || with_options.contains(&index);
                let part = |index| if has_options(index) { for_routers(&part(index)) } else { part(index) };
                road.send(&order.map(part));
                road.assert_received(vec![message.clone()]);
            }
        }
    }
}

/// The first one is of no connection that is known, those behind it come when there is one.
fn fragments_for_routers_do_not_leave_when_their_first_one_was_dropped(plane: Plane) {
    const ID: u32 = 0x6006;
    let world = World::with(plane, Options::dual());
    let app = world.container("app", &[]);
    for family in Family::BOTH {
        let road = outward(&world, &app, family, 7000);
        let mut outside = FrameSocket::new(&world.client, "eth0");
        let segment = |flags, payload: &[u8]| {
            let segment = Packet::tcp(road.from, road.to, &Segment::new(flags, 1000, 1000), payload);
            for_routers(&Packet { id: ID, ..segment })
        };
        let parts = segment(ACK, &[7; 100]).fragments(48);
        let drops = || ["no-flow", "fragment"].map(|reason| world.drops(reason));
        let [of_no_flow, of_no_first] = drops();
        road.send(&[parts[0].clone(), segment(SYN, &[]), parts[1].clone()]);
        // This one has no options in IPv4, and nothing to keep it from a shortcut.
        road.send(&[Packet { options: Vec::new(), ..parts[2].clone() }]);
        road.send(&[Packet::udp(road.from, road.to, b"end")]);
        let is_end = |frame: &[u8]| Packet::of_frame(frame).is_some_and(|packet| packet.l4[8..] == *b"end");
        let frames = outside.until(is_end, PATIENCE).expect("the datagram behind them");
        let left: Vec<Packet> = frames.iter().filter_map(|frame| Packet::of_frame(frame)).collect();
        let of_them = |packet: &&Packet| packet.dst == family.client() && packet.id == ID;
        assert!(left.iter().filter(of_them).all(|packet| !packet.is_fragment()), "{left:#?}");
        assert!(left.iter().any(|packet| packet.segment().is_some_and(|segment| segment.flags == SYN)), "{left:#?}");
        assert_eq!(drops(), [of_no_flow + 1, of_no_first + 2]);
    }
}

fn fragments_of_unlinked_containers_do_not_pass(plane: Plane) {
    let world = World::with(plane, Options { icc: false, ..Options::dual() });
    let (one, other) = (world.container("one", &[]), world.container("other", &[]));
    let receiver = other.inside.udp_at(at(Family::V4.any(), 53));
    let (from, to) = (at(one.address, 4000), at(other.address, 53));
    let mut road = Road::new((&one.inside, from), other.inside.mac("eth0"), to, receiver);
    let (mut parts, _) = road.datagram(3000, 1208);
    parts.reverse();
    road.send(&parts);
    assert_eq!(world.drops("icc"), 1, "the first one, which says where they would go");
}

/// RFC 4787, REQ-14a. Two senders share a place with a chance of one in 32, so one flooder may be bad luck.
fn a_flood_of_fragments_harms_nobody_else(plane: Plane) {
    const FLOODERS: u8 = 5;
    let world = World::with(plane, Options::dual());
    let app = world.container("app", &["5353:53/udp"]);
    let mut road = inward(&world, &app, Family::V4);
    road.receiver.set_read_timeout(Some(REFUSAL)).expect("set a time limit");
    let survives = |flooder: u8| {
        let from = at(IpAddr::V4(Ipv4Addr::new(198, 18, 0, 100 + flooder)), 4000);
        let mut stray = Packet::udp(from, at(Family::V4.host(), 5353), &[7; 64]).fragments(32).remove(1);
        let (parts, message) = road.datagram(3000, 1208);
        road.send(&parts[1..]);
        for id in 0..5000 {
            stray.id = id;
            road.send(std::slice::from_ref(&stray));
        }
        road.send(&parts[..1]);
        let mut received = [0; 4096];
        road.receiver.recv(&mut received).is_ok_and(|length| received[..length] == message)
    };
    let survived = (0..FLOODERS).map(survives).filter(|survived| *survived).count();
    assert!(survived >= 3, "{survived} datagrams of {FLOODERS}");
    road.receiver.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
    road.assert_any_order();
}

fn fragments_that_wait_in_vain_are_counted(plane: Plane) {
    let world = World::with(plane, Options::dual());
    let app = world.container("app", &[]);
    let mut road = outward(&world, &app, Family::V4, 7000);
    for _ in 0..100 {
        let (parts, _) = road.datagram(56, 32);
        road.send(&parts[1..]);
    }
    // Those that others have taken the place of.
    assert_eq!(world.drops("fragment"), 100 - 64);
    road.assert_received(Vec::new());
}
