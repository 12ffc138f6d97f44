//! Containers reach the outside under the host's address.

use netpath_tests::icmp::{self, IcmpSocket};
use netpath_tests::sockets::{accept, ask, assert_silent, at, converse, local, peer, send};
use netpath_tests::{CLIENT, HOST, Plane, SECOND_CLIENT, World};

on_every_plane! {
    tcp_server_outside_sees_the_hosts_address,
    udp_server_outside_sees_the_hosts_address,
    echo_outside_sees_the_hosts_address_and_answers,
    free_source_ports_are_kept,
    two_containers_may_use_the_same_source_port_to_the_same_server,
    two_containers_may_use_the_same_echo_identifier,
    one_udp_port_keeps_its_mapping_to_several_destinations,
    strangers_cannot_send_into_a_mapping,
    many_outbound_connections_at_once_are_kept_apart,
    refusals_from_outside_reach_the_container,
    published_containers_reach_the_outside_too,
    containers_reach_the_host_under_their_own_address,
}

fn tcp_server_outside_sees_the_hosts_address(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let listener = world.client.listen(7000);
    let mut client = app.inside.connect(at(CLIENT, 7000));
    let (mut server, from) = accept(&listener);
    assert_eq!(from.ip(), HOST);
    assert_eq!((local(&client).ip(), peer(&client)), (app.address, at(CLIENT, 7000)));
    converse(&mut client, &mut server);
}

fn udp_server_outside_sees_the_hosts_address(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let seen = ask(&app.inside.udp(0), &world.client.udp(7000), at(CLIENT, 7000));
    assert_eq!(seen.ip(), HOST);
}

fn echo_outside_sees_the_hosts_address_and_answers(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    assert_eq!(icmp::echo(&app.inside, &world.client, CLIENT, 77, b"of even length"), HOST);
    assert_eq!(icmp::echo(&app.inside, &world.client, CLIENT, 77, b"of odd length"), HOST);
}

fn free_source_ports_are_kept(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let listener = world.client.listen(7000);
    let _client = app.inside.connect_from(5000, at(CLIENT, 7000));
    assert_eq!(accept(&listener).1, at(HOST, 5000));
    assert_eq!(ask(&app.inside.udp(5001), &world.client.udp(7000), at(CLIENT, 7000)), at(HOST, 5001));
    let privileged = ask(&app.inside.udp(600), &world.client.udp(7001), at(CLIENT, 7001));
    assert!(privileged.port() < 1024, "a privileged port stays one, got {privileged}");
}

fn two_containers_may_use_the_same_source_port_to_the_same_server(plane: Plane) {
    let world = World::new(plane);
    let containers = [world.container("one", &[]), world.container("two", &[])];
    let listener = world.client.listen(7000);
    let mut pairs = containers.each_ref().map(|container| {
        let client = container.inside.connect_from(5000, at(CLIENT, 7000));
        let (server, from) = accept(&listener);
        assert_eq!(from.ip(), HOST);
        (client, server)
    });
    assert_ne!(peer(&pairs[0].1), peer(&pairs[1].1));
    pairs.iter_mut().for_each(|(client, server)| converse(client, server));
    let server = world.client.udp(7000);
    let seen = containers.map(|container| {
        let client = container.inside.udp(5000);
        (ask(&client, &server, at(CLIENT, 7000)), client)
    });
    assert_ne!(seen[0].0, seen[1].0);
}

fn two_containers_may_use_the_same_echo_identifier(plane: Plane) {
    let world = World::new(plane);
    let containers = [world.container("one", &[]), world.container("two", &[])];
    for _ in 0..2 {
        for container in &containers {
            assert_eq!(icmp::echo(&container.inside, &world.client, CLIENT, 77, b"who is it?"), HOST);
        }
    }
}

fn one_udp_port_keeps_its_mapping_to_several_destinations(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let client = app.inside.udp(0);
    let servers = [at(CLIENT, 7001), at(CLIENT, 7002), at(SECOND_CLIENT, 7003)];
    let seen = servers.map(|server| ask(&client, &world.client.udp_at(server), server));
    // RFC 4787, REQ-1: endpoint-independent mapping.
    assert_eq!((seen[1], seen[2]), (seen[0], seen[0]));
}

fn strangers_cannot_send_into_a_mapping(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let client = app.inside.udp(0);
    let seen = ask(&client, &world.client.udp(7001), at(CLIENT, 7001));
    // RFC 4787, REQ-8: filtering by address and port.
    send(&world.client.udp(7002), b"let me in", seen);
    assert_silent(&client);
}

fn many_outbound_connections_at_once_are_kept_apart(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let listener = world.client.listen(7000);
    let mut open = Vec::new();
    for _ in 0..50 {
        let client = app.inside.connect(at(CLIENT, 7000));
        let (server, from) = accept(&listener);
        assert_eq!(from.ip(), HOST);
        open.push((client, server));
    }
    open.iter_mut().for_each(|(client, server)| converse(client, server));
}

fn refusals_from_outside_reach_the_container(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let refused = app.inside.try_connect(0, at(CLIENT, 7000), netpath_tests::sockets::PATIENCE);
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let client = app.inside.udp(0);
    let errors = IcmpSocket::new(&app.inside);
    send(&client, b"question", at(CLIENT, 7000));
    let error = errors.receive(icmp::UNREACHABLE);
    assert_eq!(error.src_addr, CLIENT);
    assert_eq!(error.inner_addresses(), (app.address, CLIENT), "the packet that the error is about");
}

fn published_containers_reach_the_outside_too(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let (inside, outside) = (web.inside.listen(80), world.client.listen(7000));
    let mut to_web = world.client.connect(at(HOST, 8080));
    let mut from_web = web.inside.connect(at(CLIENT, 7000));
    let ((mut web_end, _), (mut client_end, from)) = (accept(&inside), accept(&outside));
    assert_eq!(from.ip(), HOST);
    converse(&mut to_web, &mut web_end);
    converse(&mut from_web, &mut client_end);
}

fn containers_reach_the_host_under_their_own_address(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let listener = world.host.listen(7000);
    for address in [netpath_tests::topology::GATEWAY, HOST] {
        let mut client = app.inside.connect(at(address, 7000));
        let (mut server, from) = accept(&listener);
        assert_eq!(from.ip(), app.address);
        converse(&mut client, &mut server);
    }
}
