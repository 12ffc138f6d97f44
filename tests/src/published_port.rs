//! A client outside reaches a published port, and nothing else.

use netpath_tests::sockets::{accept, ask, at, converse, local, peer};
use netpath_tests::{CLIENT, HOST, Plane, World};

on_every_plane! {
    tcp_reaches_the_container_and_it_sees_the_clients_address,
    udp_reaches_the_container_and_it_sees_the_clients_address,
    udp_reply_comes_from_the_published_port_when_the_server_is_not_connected,
    two_containers_may_listen_on_the_same_port,
    one_container_port_may_be_published_twice,
    a_binding_to_another_address_is_not_reachable_through_this_one,
    unpublished_ports_are_closed,
    a_published_tcp_port_publishes_no_udp,
    the_containers_refusal_reaches_the_client,
    many_connections_at_once_are_kept_apart,
}

fn tcp_reaches_the_container_and_it_sees_the_clients_address(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let listener = web.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    let (mut server, from) = accept(&listener);
    assert_eq!(from, local(&client), "what accept says");
    assert_eq!(peer(&server), local(&client), "what getpeername says in the container");
    assert_eq!(local(&server), at(web.address, 80));
    assert_eq!((from.ip(), peer(&client)), (CLIENT, at(HOST, 8080)));
    converse(&mut client, &mut server);
}

fn udp_reaches_the_container_and_it_sees_the_clients_address(plane: Plane) {
    let world = World::new(plane);
    let dns = world.container("dns", &["5353:53/udp"]);
    let server = dns.inside.udp(53);
    let client = world.client.udp(0);
    let seen = ask(&client, &server, at(HOST, 5353));
    assert_eq!(seen, at(CLIENT, client.local_addr().unwrap().port()));
}

fn udp_reply_comes_from_the_published_port_when_the_server_is_not_connected(plane: Plane) {
    let world = World::new(plane);
    let dns = world.container("dns", &["5353:53/udp"]);
    let server = dns.inside.udp(53);
    // A connected socket takes answers from the address it asked only.
    for port in [4001, 4002] {
        let client = world.client.udp(port);
        world.client.within(|| client.connect(at(HOST, 5353))).unwrap();
        for _ in 0..3 {
            client.send(b"question").unwrap();
            let (_, from) = netpath_tests::sockets::receive(&server);
            assert_eq!(from, at(CLIENT, port));
            server.send_to(b"answer", from).unwrap();
            assert_eq!(client.recv(&mut [0; 64]).unwrap(), b"answer".len());
        }
    }
}

fn two_containers_may_listen_on_the_same_port(plane: Plane) {
    let world = World::new(plane);
    let (one, two) = (world.container("one", &["8081:80"]), world.container("two", &["8082:80"]));
    let listeners = [(8081, one.inside.listen(80), one.address), (8082, two.inside.listen(80), two.address)];
    for (port, listener, address) in &listeners {
        let mut client = world.client.connect(at(HOST, *port));
        let (mut server, _) = accept(listener);
        assert_eq!(local(&server), at(*address, 80));
        converse(&mut client, &mut server);
    }
}

fn one_container_port_may_be_published_twice(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80", "9090:80"]);
    let listener = web.inside.listen(80);
    let mut open = Vec::new();
    for port in [8080, 9090, 8080, 9090] {
        let mut client = world.client.connect(at(HOST, port));
        let (mut server, from) = accept(&listener);
        assert_eq!(from, local(&client));
        converse(&mut client, &mut server);
        open.push((client, server));
    }
    open.iter_mut().for_each(|(client, server)| converse(client, server));
}

fn a_binding_to_another_address_is_not_reachable_through_this_one(plane: Plane) {
    let world = World::new(plane);
    world.host.ip("addr add 198.18.0.11/24 dev up0");
    let web = world.container("web", &["198.18.0.11:8080:80"]);
    let listener = web.inside.listen(80);
    world.client.assert_closed(at(HOST, 8080));
    let mut client = world.client.connect("198.18.0.11:8080".parse().unwrap());
    let (mut server, _) = accept(&listener);
    converse(&mut client, &mut server);
}

fn unpublished_ports_are_closed(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let _listeners = (web.inside.listen(80), web.inside.listen(81));
    world.client.assert_closed(at(HOST, 80));
    world.client.assert_closed(at(HOST, 81));
    world.client.assert_closed(at(HOST, 8081));
}

fn a_published_tcp_port_publishes_no_udp(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let server = web.inside.udp(80);
    netpath_tests::sockets::send(&world.client.udp(0), b"question", at(HOST, 8080));
    netpath_tests::sockets::assert_silent(&server);
}

fn the_containers_refusal_reaches_the_client(plane: Plane) {
    let world = World::new(plane);
    world.container("web", &["8080:80", "5353:53/udp"]);
    let refused = world.client.try_connect(0, at(HOST, 8080), netpath_tests::sockets::PATIENCE);
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let client = world.client.udp(0);
    world.client.within(|| client.connect(at(HOST, 5353))).unwrap();
    client.send(b"question").unwrap();
    let refused = client.recv(&mut [0; 64]);
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "port unreachable by icmp");
}

fn many_connections_at_once_are_kept_apart(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let listener = web.inside.listen(80);
    let mut open = Vec::new();
    for _ in 0..50 {
        let client = world.client.connect(at(HOST, 8080));
        let (server, from) = accept(&listener);
        assert_eq!(from, local(&client));
        open.push((client, server));
    }
    open.iter_mut().for_each(|(client, server)| converse(client, server));
}
