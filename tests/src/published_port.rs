//! A client outside reaches a published port, and nothing else.

use netpath_tests::sockets::{accept, ask, at, converse, local, peer};
use netpath_tests::{CLIENT, Family, HOST, Options, Plane, World};

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

on_netpath! {
    a_range_of_a_thousand_ports_is_open_from_its_first_to_its_last,
    sixty_thousand_ports_are_as_good_as_one,
    a_part_of_a_range_can_be_closed,
    a_source_that_is_not_on_the_list_is_refused,
    every_exposed_port_is_published_at_a_free_one_when_asked,
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

fn a_range_of_a_thousand_ports_is_open_from_its_first_to_its_last(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &[]);
    let printed = world.netpath_ok(&["publish", "web", "20000-20999:30000-30999"]);
    assert_eq!(printed, "30000-30999/tcp -> 0.0.0.0:20000-20999\n");
    for port in [20000, 20255, 20256, 20512, 20999] {
        talk(&world, &web, port, port + 10_000);
    }
    world.client.assert_closed(at(HOST, 19999));
    world.client.assert_closed(at(HOST, 21000));
}

fn sixty_thousand_ports_are_as_good_as_one(plane: Plane) {
    // Three addresses, those of host and bridge and the unspecified one, take 330 entries each.
    let world = World::with(plane, Options::agent("--max-ports 1000"));
    let web = world.container("web", &[]);
    world.netpath_ok(&["publish", "web", "1000-60999:1000-60999"]);
    for port in [1000, 1024, 31_000, 60_927, 60_999] {
        talk(&world, &web, port, port);
    }
    world.client.assert_closed(at(HOST, 999));
    world.client.assert_closed(at(HOST, 61000));
    assert_eq!(world.json(&["stats"])["published_ports"], 60_000);
}

fn a_part_of_a_range_can_be_closed(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["20000-20999:20000-20999"]);
    let listener = web.inside.listen(20700);
    let mut before = (world.client.connect(at(HOST, 20700)), accept(&listener).0);
    world.netpath_ok(&["unpublish", "web", "20500-20599"]);
    converse(&mut before.0, &mut before.1);
    let expected = "20000-20499/tcp -> 0.0.0.0:20000-20499\n20600-20999/tcp -> 0.0.0.0:20600-20999\n";
    assert_eq!(world.netpath_ok(&["port", "web"]), expected);
    for port in [20000, 20499, 20600, 20999] {
        talk(&world, &web, port, port);
    }
    let _listeners = (web.inside.listen(20500), web.inside.listen(20599));
    world.client.assert_closed(at(HOST, 20500));
    world.client.assert_closed(at(HOST, 20599));
}

fn a_source_that_is_not_on_the_list_is_refused(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &[]);
    let own = format!("8080-8089={CLIENT}");
    world.netpath_ok(&["publish", "web", "8080-8099:80-99", "--from", &own, "--from", "8090-8099=192.0.2.0/24"]);
    talk(&world, &web, 8080, 80);
    talk(&world, &web, 8089, 89);
    let _listener = web.inside.listen(90);
    world.client.assert_no_answer(at(HOST, 8090));
}

fn every_exposed_port_is_published_at_a_free_one_when_asked(plane: Plane) {
    let world = World::with(plane, Options { ipv6: true, ..Options::default() });
    let inside = world.namespace("web");
    let netns = inside.path().display().to_string();
    world.host.set_sysctl("net/ipv4/ip_local_port_range", "40000 40003");
    world.host.set_sysctl("net/ipv4/ip_local_reserved_ports", "40001");
    world.netpath_ok(&["attach", "web", "--netns", &netns, "-P", "--expose", "80-81", "--expose", "53/udp"]);
    let ports = world.netpath_ok(&["port", "web"]);
    let host_port = |port: &str| {
        let line = ports.lines().find(|line| line.starts_with(port)).unwrap_or_else(|| panic!("{port} in {ports}"));
        line.rsplit(':').next().unwrap().parse::<u16>().unwrap()
    };
    let (http, other, dns) = (host_port("80/tcp"), host_port("81/tcp"), host_port("53/udp"));
    assert!([http, other, dns].iter().all(|port| [40000, 40002, 40003].contains(port)), "{ports}");
    assert_ne!(http, other);
    for family in Family::BOTH {
        let listeners = [80, 81].map(|port| inside.listen_at(at(family.any(), port)));
        for (listener, port) in listeners.iter().zip([http, other]) {
            let mut client = world.client.connect(at(family.host(), port));
            converse(&mut client, &mut accept(listener).0);
        }
        let (server, client) = (inside.udp_at(at(family.any(), 53)), world.client.udp_at(at(family.any(), 0)));
        assert_eq!(ask(&client, &server, at(family.host(), dns)).ip(), family.client());
    }
    // Three of four are free, and both of these are taken for TCP.
    let second = world.namespace("second").path().display().to_string();
    let output = world.netpath(&["attach", "second", "--netns", &second, "-P", "--expose", "80-81"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("all ports are allocated"), "{error}");
}

/// A conversation through `host_port` with a server on `port` of the container.
fn talk(world: &World, container: &netpath_tests::Container, host_port: u16, port: u16) {
    let listener = container.inside.listen(port);
    let mut client = world.client.connect(at(HOST, host_port));
    let (mut server, from) = accept(&listener);
    assert_eq!(from, local(&client));
    converse(&mut client, &mut server);
}
