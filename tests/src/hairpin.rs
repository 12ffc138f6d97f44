//! Containers reach published ports through an address of the host: those of a neighbour and their own.

use std::net::IpAddr;

use netpath_tests::sockets::{accept, ask, assert_silent, at, converse, peer, receive, send};
use netpath_tests::topology::GATEWAY;
use netpath_tests::transfer::Transfer;
use netpath_tests::{Container, HOST, Options, Plane, World};

on_netpath! {
    a_neighbour_is_reached_through_every_address_of_the_host,
    a_container_reaches_itself_through_the_host,
    a_published_port_is_reached_though_neighbours_do_not_talk,
    a_client_outside_is_served_at_the_same_time,
    datagrams_larger_than_the_mtu_get_there_and_back,
    large_transfers_arrive_intact,
    the_refusal_of_a_closed_port_comes_back,
    what_is_not_published_stays_the_hosts,
    nobody_else_gets_an_answer_in,
}

/// A container that publishes TCP and UDP port 80 at 8080.
fn web(world: &World) -> Container {
    world.container("web", &["8080:80", "8080:80/udp"])
}

/// `asker` talks to `web` under the host's address `name`, and each sees that address only.
fn talk(asker: &Container, web: &Container, name: IpAddr) {
    let listener = web.inside.listen(80);
    for _ in 0..3 {
        let mut client = asker.inside.connect(at(name, 8080));
        let (mut server, from) = accept(&listener);
        assert_eq!((from.ip(), peer(&client)), (name, at(name, 8080)));
        converse(&mut client, &mut server);
    }
    let (client, server) = (asker.inside.udp(0), web.inside.udp(80));
    for _ in 0..3 {
        assert_eq!(ask(&client, &server, at(name, 8080)).ip(), name);
    }
}

fn a_neighbour_is_reached_through_every_address_of_the_host(plane: Plane) {
    let world = World::new(plane);
    let (web, app) = (web(&world), world.container("app", &[]));
    talk(&app, &web, HOST);
    talk(&app, &web, GATEWAY);
}

fn a_container_reaches_itself_through_the_host(plane: Plane) {
    let world = World::new(plane);
    let web = web(&world);
    talk(&web, &web, HOST);
    talk(&web, &web, GATEWAY);
}

fn a_published_port_is_reached_though_neighbours_do_not_talk(plane: Plane) {
    let world = World::with(plane, Options { icc: false, ..Options::default() });
    let (web, app) = (web(&world), world.container("app", &[]));
    talk(&app, &web, HOST);
    talk(&app, &web, GATEWAY);
    app.inside.assert_no_answer(at(web.address, 80));
}

fn a_client_outside_is_served_at_the_same_time(plane: Plane) {
    let world = World::new(plane);
    let (web, app) = (web(&world), world.container("app", &[]));
    let listener = web.inside.listen(80);
    let mut inside = app.inside.connect_from(40000, at(HOST, 8080));
    let mut inside_server = accept(&listener).0;
    let mut outside = world.client.connect_from(40000, at(HOST, 8080));
    let mut outside_server = accept(&listener).0;
    for _ in 0..2 {
        converse(&mut inside, &mut inside_server);
        converse(&mut outside, &mut outside_server);
    }
}

fn datagrams_larger_than_the_mtu_get_there_and_back(plane: Plane) {
    let world = World::new(plane);
    let (web, app) = (web(&world), world.container("app", &[]));
    let datagram = [b'x'; 4003];
    for asker in [&app, &web] {
        let (client, server) = (asker.inside.udp(0), web.inside.udp(80));
        send(&client, &datagram, at(HOST, 8080));
        let (question, from) = receive(&server);
        assert_eq!((question.len(), from.ip()), (datagram.len(), HOST));
        send(&server, &datagram, from);
        assert_eq!(receive(&client), (datagram.to_vec(), at(HOST, 8080)));
    }
}

fn large_transfers_arrive_intact(plane: Plane) {
    let world = World::new(plane);
    let (web, app) = (web(&world), world.container("app", &[]));
    for asker in [&app, &web] {
        let listener = web.inside.listen(80);
        let client = asker.inside.connect(at(HOST, 8080));
        let (server, _) = accept(&listener);
        for (from, to) in [(&client, &server), (&server, &client)] {
            let transfer = Transfer::start(from, to);
            transfer.advance(16 << 20);
            transfer.finish();
        }
    }
}

fn the_refusal_of_a_closed_port_comes_back(plane: Plane) {
    let world = World::new(plane);
    let (web, app) = (web(&world), world.container("app", &[]));
    for asker in [&app, &web] {
        let refused = asker.inside.try_connect(0, at(HOST, 8080), netpath_tests::sockets::PATIENCE);
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        let client = asker.inside.udp(0);
        asker.inside.within(|| client.connect(at(HOST, 8080))).unwrap();
        client.send(b"question").unwrap();
        let refused = client.recv(&mut [0; 64]);
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "port unreachable by icmp");
    }
}

fn what_is_not_published_stays_the_hosts(plane: Plane) {
    let world = World::new(plane);
    let (web, app) = (web(&world), world.container("app", &[]));
    let listener = world.host.listen(7000);
    for asker in [&app, &web] {
        let mut client = asker.inside.connect(at(HOST, 7000));
        let (mut server, from) = accept(&listener);
        assert_eq!(from.ip(), asker.address);
        converse(&mut client, &mut server);
    }
    app.inside.assert_closed(at(HOST, 81));
}

fn nobody_else_gets_an_answer_in(plane: Plane) {
    let world = World::new(plane);
    let (web, app, thief) = (web(&world), world.container("app", &[]), world.container("thief", &[]));
    let (client, server) = (app.inside.udp(0), web.inside.udp(80));
    let seen = ask(&client, &server, at(HOST, 8080));
    send(&thief.inside.udp(80), b"forged", seen);
    send(&web.inside.udp(81), b"forged", seen);
    send(&world.client.udp(8080), b"forged", seen);
    assert_silent(&client);
}
