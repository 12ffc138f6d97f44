//! What is dropped, and counted: direct access, loopback addresses from the wire, spoofed sources.

use std::net::{IpAddr, Ipv4Addr};

use netpath_tests::frames::FrameSocket;
use netpath_tests::reach::Server;
use netpath_tests::sockets::{accept, assert_silent, at, converse, receive, send};
use netpath_tests::watcher::Watcher;
use netpath_tests::{CLIENT, Container, Family, HOST, Options, Plane, World};

on_every_plane! {
    container_addresses_are_not_reachable_from_outside,
    ports_published_on_loopback_are_not_reachable_from_outside,
}

on_netpath! {
    loopback_addresses_from_the_wire_are_dropped_and_counted,
    direct_access_is_counted,
    a_priority_tag_gets_no_frame_past_the_checks,
    a_second_priority_tag_does_not_either,
    an_interface_that_is_not_served_leads_to_no_container,
    a_frame_with_a_priority_tag_reaches_a_published_port,
    sources_outside_the_subnet_are_dropped_and_counted,
    a_neighbours_source_is_dropped_and_counted,
    protocols_that_cannot_be_masqueraded_do_not_leave,
}

#[test]
fn the_watcher_sees_what_leaks() {
    crate::planes::run(leaks_without_rules, Plane::Iptables { proxy: false });
}

/// An address for documentation, which nobody here owns.
const FOREIGN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn container_addresses_are_not_reachable_from_outside(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80", "5353:53/udp"]);
    let _listener = web.inside.listen(80);
    let server = web.inside.udp(53);
    world.client.ip(&format!("route add 172.17.0.0/16 via {HOST}"));
    world.client.assert_no_answer(at(web.address, 80));
    send(&world.client.udp(0), b"question", at(web.address, 53));
    assert_silent(&server);
}

fn ports_published_on_loopback_are_not_reachable_from_outside(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["127.0.0.1:8080:80"]);
    let _listener = web.inside.listen(80);
    route_loopback_to_host(&world);
    world.client.assert_no_answer(at(Ipv4Addr::LOCALHOST, 8080));
    world.client.assert_closed(at(HOST, 8080));
}

fn loopback_addresses_from_the_wire_are_dropped_and_counted(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let _listeners = (web.inside.listen(80), world.host.listen(9000));
    // Otherwise the kernel drops such packets by itself.
    world.host.set_sysctl("net/ipv4/conf/all/route_localnet", "1");
    route_loopback_to_host(&world);
    for port in [8080, 9000] {
        let before = world.drops("loopback-address");
        world.client.assert_no_answer(at(Ipv4Addr::LOCALHOST, port));
        assert!(world.drops("loopback-address") > before);
    }
}

fn route_loopback_to_host(world: &World) {
    world.client.ip("addr del 127.0.0.1/8 dev lo");
    world.client.set_sysctl("net/ipv4/conf/all/route_localnet", "1");
    world.client.ip(&format!("route add 127.0.0.1/32 via {HOST} src {CLIENT}"));
}

fn direct_access_is_counted(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["5353:53/udp"]);
    world.client.ip(&format!("route add 172.17.0.0/16 via {HOST}"));
    let before = world.drops("direct-access");
    let client = world.client.udp(0);
    (0..5).for_each(|_| send(&client, b"question", at(web.address, 53)));
    assert_eq!(world.drops("direct-access"), before + 5);
}

/// The kernel takes VLAN 0 for no VLAN (802.1Q: such a tag says a priority only), and so must the checks.
const PRIORITY_TAG: [u8; 4] = [0x81, 0x00, 0x00, 0x00];

fn a_priority_tag_gets_no_frame_past_the_checks(plane: Plane) {
    let world = World::new(plane);
    let dns = world.container("dns", &["5353:53/udp"]);
    let server = dns.inside.udp(53);
    let (wire, host_mac) = (FrameSocket::new(&world.client, "eth0"), world.host.mac("up0"));
    let before = world.drops("direct-access");
    (0..5).for_each(|_| wire.send_udp(host_mac, &PRIORITY_TAG, at(CLIENT, 7000), at(dns.address, 53), b"question"));
    assert_silent(&server);
    assert_eq!(world.drops("direct-access"), before + 5);
}

fn a_second_priority_tag_does_not_either(plane: Plane) {
    let world = World::new(plane);
    let dns = world.container("dns", &["5353:53/udp"]);
    let server = dns.inside.udp(53);
    let (wire, host_mac) = (FrameSocket::new(&world.client, "eth0"), world.host.mac("up0"));
    let tags = [PRIORITY_TAG, PRIORITY_TAG].concat();
    (0..5).for_each(|_| wire.send_udp(host_mac, &tags, at(CLIENT, 7000), at(dns.address, 53), b"question"));
    assert_silent(&server);
}

/// It has no programs that could say so: the bridge has.
fn an_interface_that_is_not_served_leads_to_no_container(plane: Plane) {
    let agent = ["--external", "up0"].map(str::to_owned).to_vec();
    let world = World::with(plane, Options { ipv6: true, second_wire: true, agent, ..Options::default() });
    let web = world.container("web", &["8080:80", "8080:80/udp"]);
    for family in Family::BOTH {
        let subnet = world.network("bridge").subnet(family);
        world.stranger().ip(&format!("route add {subnet} via {}", family.second_host()));
        let server = Server::new(&web.inside, family, 80);
        server.is_not_reached(world.stranger(), at(web.ip(family), 80));
        // The host itself and who comes by an external interface get through.
        assert_eq!(server.sees(&world.host, at(web.ip(family), 80)), world.gateway(family));
        assert_eq!(server.sees(&world.client, at(family.host(), 8080)), family.client());
    }
    assert!(world.drops("direct-access") >= 2);
}

fn a_frame_with_a_priority_tag_reaches_a_published_port(plane: Plane) {
    let world = World::new(plane);
    let dns = world.container("dns", &["5353:53/udp"]);
    let server = dns.inside.udp(53);
    let (wire, host_mac) = (FrameSocket::new(&world.client, "eth0"), world.host.mac("up0"));
    wire.send_udp(host_mac, &PRIORITY_TAG, at(CLIENT, 7000), at(HOST, 5353), b"question");
    assert_eq!(receive(&server), (b"question".to_vec(), at(CLIENT, 7000)));
}

fn sources_outside_the_subnet_are_dropped_and_counted(plane: Plane) {
    refuses_source(plane, FOREIGN);
}

fn a_neighbours_source_is_dropped_and_counted(plane: Plane) {
    refuses_source(plane, Ipv4Addr::new(172, 17, 0, 3).into());
}

/// A container that takes `source` as a second address sends under it in vain, and goes on under its own.
fn refuses_source(plane: Plane, source: IpAddr) {
    let world = World::new(plane);
    let (app, neighbour) = (world.container("app", &[]), world.container("neighbour", &["8080:80"]));
    let mut watcher = Watcher::new(&world.client, FOREIGN, 24);
    let (outside, next_door) = (world.client.udp(7000), neighbour.inside.udp(7000));
    // So that the spoofed packets are not held back for want of a neighbour's hardware address.
    reaches_outside(&world, &app);
    netpath_tests::sockets::ask(&app.inside.udp(0), &next_door, at(neighbour.address, 7000));
    app.inside.ip(&format!("addr add {source}/32 dev eth0"));
    let spoofer = app.inside.within(|| std::net::UdpSocket::bind((source, 0)).unwrap());
    let before = world.drops("spoofed-source");
    (0..5).for_each(|_| send(&spoofer, b"not me", at(CLIENT, 7000)));
    (0..5).for_each(|_| send(&spoofer, b"not me", at(neighbour.address, 7000)));
    assert_silent(&outside);
    // To its own address the spoofer does not even leave the container.
    if source != neighbour.address {
        assert_silent(&next_door);
        assert_eq!(world.drops("spoofed-source"), before + 10);
    } else {
        assert_eq!(world.drops("spoofed-source"), before + 5);
    }
    assert!(watcher.take().is_empty(), "nothing with the spoofed source leaves the host");
    app.inside.ip(&format!("addr del {source}/32 dev eth0"));
    reaches_outside(&world, &app);
}

fn protocols_that_cannot_be_masqueraded_do_not_leave(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let esp = socket2::Protocol::from(libc::IPPROTO_ESP);
    let socket =
        app.inside.within(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(esp)).unwrap());
    let before = world.drops("untranslatable");
    (0..5).for_each(|_| _ = socket.send_to(&[1; 40], &at(CLIENT, 0).into()).unwrap());
    reaches_outside(&world, &app);
    assert_eq!(world.drops("untranslatable"), before + 5);
}

fn reaches_outside(world: &World, app: &Container) {
    let listener = world.client.listen(7000);
    let mut client = app.inside.connect(at(CLIENT, 7000));
    let (mut server, from) = accept(&listener);
    assert_eq!(from.ip(), HOST);
    converse(&mut client, &mut server);
}

/// Without its rules a bridge lets everything out as it is: what the watcher is for.
fn leaks_without_rules(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let mut watcher = Watcher::new(&world.client, app.address, 32);
    reaches_outside(&world, &app);
    assert_eq!(watcher.take().len(), 0);
    netpath_tests::netfilter::flush(&world.host);
    send(&app.inside.udp(0), b"question", at(CLIENT, 7000));
    let caught = watcher.take();
    assert_eq!(caught.iter().map(|c| (c.src_addr, c.dst_addr)).collect::<Vec<_>>(), [(app.address, CLIENT)]);
}
