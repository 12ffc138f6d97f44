//! ICMP errors and packet sizes: TTL, path MTU, fragments, offloads.

use std::net::{TcpStream, UdpSocket};

use netpath_tests::foreign_xdp::ForeignXdp;
use netpath_tests::frames::FrameSocket;
use netpath_tests::icmp::{self, IcmpSocket};
use netpath_tests::sockets::{accept, ask, at, receive, send};
use netpath_tests::topology::GATEWAY;
use netpath_tests::transfer::Transfer;
use netpath_tests::{CLIENT, Container, HOST, Namespace, Plane, World, program};

on_every_plane! {
    large_transfers_arrive_intact_with_offloads,
    large_transfers_arrive_intact_without_offloads,
    datagrams_that_are_merged_as_a_list_arrive_one_by_one,
    transfers_fit_a_smaller_mtu_outside,
    a_ttl_that_ends_on_the_host_is_reported_to_the_container,
    a_ttl_that_ends_on_the_host_is_reported_to_the_client,
    a_smaller_mtu_outside_is_reported_to_the_container,
    datagrams_larger_than_the_mtu_get_out_and_back,
    datagrams_larger_than_the_mtu_get_in_and_back,
    echoes_larger_than_the_mtu_get_out_and_back,
}

const LARGE: u64 = 64 << 20;

/// More than two packets, and no multiple of eight.
const DATAGRAM: [u8; 4003] = [b'x'; 4003];

fn large_transfers_arrive_intact_with_offloads(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    transfer_both_ways(&world, &web, LARGE);
}

fn large_transfers_arrive_intact_without_offloads(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    for namespace in [&world.host, &world.client, &*web.inside] {
        switch_offloads_off(namespace);
    }
    transfer_both_ways(&world, &web, LARGE / 4);
}

fn transfers_fit_a_smaller_mtu_outside(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    shrink_wire(&world);
    transfer_both_ways(&world, &web, LARGE / 8);
}

fn a_ttl_that_ends_on_the_host_is_reported_to_the_container(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let socket = IcmpSocket::new(&app.inside);
    socket.set_ttl(1);
    socket.send_echo(CLIENT, 77, b"short-lived");
    let error = socket.receive(icmp::TIME_EXCEEDED);
    assert_eq!((error.src_addr, error.inner_addresses()), (GATEWAY, (app.address, CLIENT)));
    assert_eq!(error.body[20 + 4..][..2], 77_u16.to_be_bytes(), "the container's identifier");
    let udp = app.inside.udp(5000);
    udp.set_ttl(1).unwrap();
    send(&udp, b"short-lived", at(CLIENT, 7000));
    let error = socket.receive(icmp::TIME_EXCEEDED);
    assert_eq!((error.src_addr, error.inner_addresses()), (GATEWAY, (app.address, CLIENT)));
    assert_eq!(error.body[20..][..2], 5000_u16.to_be_bytes(), "the container's port");
}

fn a_ttl_that_ends_on_the_host_is_reported_to_the_client(plane: Plane) {
    let world = World::new(plane);
    world.container("dns", &["5353:53/udp"]);
    let errors = IcmpSocket::new(&world.client);
    let udp = world.client.udp(5000);
    udp.set_ttl(1).unwrap();
    send(&udp, b"short-lived", at(HOST, 5353));
    let error = errors.receive(icmp::TIME_EXCEEDED);
    assert_eq!((error.src_addr, error.inner_addresses()), (HOST, (CLIENT, HOST)));
    assert_eq!(error.body[20 + 2..][..2], 5353_u16.to_be_bytes(), "the published port");
}

fn a_smaller_mtu_outside_is_reported_to_the_container(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    shrink_wire(&world);
    let errors = IcmpSocket::new(&app.inside);
    let (socket, server) = (app.inside.udp(0), world.client.udp(7000));
    // Linux sets DF as long as it knows no smaller path MTU.
    send(&socket, &DATAGRAM[..1400], at(CLIENT, 7000));
    let error = errors.receive(icmp::UNREACHABLE);
    assert_eq!((error.code, error.src_addr), (4, GATEWAY), "fragmentation needed");
    assert_eq!(error.inner_addresses(), (app.address, CLIENT));
    send(&socket, &DATAGRAM[..1400], at(CLIENT, 7000));
    let (got, from) = receive(&server);
    assert_eq!((got.len(), from.ip()), (1400, HOST));
}

fn datagrams_larger_than_the_mtu_get_out_and_back(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let seen = swap_large(&app.inside.udp(0), &world.client.udp(7000), at(CLIENT, 7000));
    assert_eq!(seen.ip(), HOST);
}

fn datagrams_larger_than_the_mtu_get_in_and_back(plane: Plane) {
    let world = World::new(plane);
    let dns = world.container("dns", &["5353:53/udp"]);
    let seen = swap_large(&world.client.udp(0), &dns.inside.udp(53), at(HOST, 5353));
    assert_eq!(seen.ip(), CLIENT);
}

fn echoes_larger_than_the_mtu_get_out_and_back(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    assert_eq!(icmp::echo(&app.inside, &world.client, CLIENT, 77, &DATAGRAM), HOST);
}

/// As `ask`, with [`DATAGRAM`] both ways.
fn swap_large(asker: &UdpSocket, answerer: &UdpSocket, to: std::net::SocketAddr) -> std::net::SocketAddr {
    // First a small one, so that a lost fragment is not mistaken for a lost flow.
    ask(asker, answerer, to);
    send(asker, &DATAGRAM, to);
    let (question, from) = receive(answerer);
    assert!(question == DATAGRAM, "the large question arrives intact");
    send(answerer, &DATAGRAM, from);
    let (answer, source) = receive(asker);
    assert!(answer == DATAGRAM && source == to, "the large answer arrives intact");
    from
}

/// Fills a connection to a published port and one to the outside, each in both directions at once.
fn transfer_both_ways(world: &World, web: &Container, bytes: u64) {
    let (inside, outside) = (web.inside.listen(80), world.client.listen(7000));
    let published = (world.client.connect(at(HOST, 8080)), accept(&inside).0);
    fill(&published.0, &published.1, bytes);
    let outbound = (web.inside.connect(at(CLIENT, 7000)), accept(&outside).0);
    fill(&outbound.0, &outbound.1, bytes);
}

fn fill(one: &TcpStream, other: &TcpStream, bytes: u64) {
    let transfers = [Transfer::start(one, other), Transfer::start(other, one)];
    transfers.iter().for_each(|transfer| transfer.advance(bytes));
    for transfer in transfers {
        assert!(transfer.finish() >= bytes);
    }
}

fn switch_offloads_off(namespace: &Namespace) {
    let off = ["tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"];
    for ifname in namespace.interfaces() {
        let output = program::output_of(namespace.command("ethtool").args(["-K", &ifname]).args(off));
        // A bridge refuses some of them and says so.
        let refused = program::text(&output.stderr);
        assert!(output.status.success() || refused.contains("Cannot change"), "ethtool -K {ifname}: {refused}");
    }
}

/// `rx-gro-list` makes one packet of many datagrams, each whole behind the first one: who makes the first one longer by a piece
/// of the next (`bpf_skb_pull_data`) breaks the list, and Linux 5.10 panics where it sends that on.
fn datagrams_that_are_merged_as_a_list_arrive_one_by_one(plane: Plane) {
    // Few enough for a socket, where each takes a page or more.
    const COUNT: u32 = 8;
    let world = World::new(plane);
    let dns = world.container("dns", &["5353:53/udp"]);
    // Merged is what comes until the time is over: a veth would hand on each one at once.
    let hold = "mount -t sysfs sysfs /sys && cd /sys/class/net/up0 && echo 2000000 >gro_flush_timeout";
    program::stdout_of(world.host.command("unshare").args(["-m", "sh", "-c", hold]));
    program::stdout_of(world.host.command("ethtool").args(["-K", "up0", "gro", "on", "rx-gro-list", "on"]));
    let _merges = ForeignXdp::attach_natively(&world.host, "up0");
    let mut frames = FrameSocket::new(&world.host, "up0");
    frames.ignore_outgoing();
    let (server, client) = (dns.inside.udp(53), world.client.udp(5000));
    // Shorter than the TCP header that the programs want to see in one piece.
    for number in 0..COUNT {
        send(&client, &number.to_be_bytes(), at(HOST, 5353));
    }
    let mut buffer = [0; 8];
    let arrived = (0..COUNT).map_while(|_| {
        let (length, from) = server.recv_from(&mut buffer).ok()?;
        assert_eq!((length, from), (4, at(CLIENT, 5000)));
        Some(u32::from_be_bytes(buffer[..4].try_into().unwrap()))
    });
    assert_eq!(arrived.collect::<Vec<_>>(), (0..COUNT).collect::<Vec<_>>());
    assert!(frames.take().iter().any(|frame| frame.len() > 14 + 20 + 8 + 4), "nothing was merged");
}

/// Makes the wire between host and client narrower than what the containers were told.
fn shrink_wire(world: &World) {
    world.host.ip("link set up0 mtu 1280");
    world.client.ip("link set eth0 mtu 1280");
}
