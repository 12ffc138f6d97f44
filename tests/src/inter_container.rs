//! Containers reach each other, or with `--icc=false` do not.

use std::net::IpAddr;

use netpath_tests::icmp;
use netpath_tests::reach::talk_both_ways;
use netpath_tests::sockets::{accept, ask, assert_silent, at, converse, local, send};
use netpath_tests::{HOST, Options, Plane, World};

on_every_plane! {
    containers_reach_each_other_under_their_own_addresses,
    icc_off_refuses_containers_each_other,
    icc_off_leaves_published_ports_and_the_outside_alone,
}

on_netpath! {
    icc_drops_are_counted_for_both_protocols,
    one_container_may_be_closed_in_an_open_network,
}

fn containers_reach_each_other_under_their_own_addresses(plane: Plane) {
    let world = World::new(plane);
    let (one, two) = (world.container("one", &[]), world.container("two", &[]));
    let listener = two.inside.listen(80);
    let mut client = one.inside.connect(at(two.address, 80));
    let (mut server, from) = accept(&listener);
    assert_eq!((from, from.ip()), (local(&client), one.address));
    converse(&mut client, &mut server);
    assert_eq!(ask(&one.inside.udp(0), &two.inside.udp(53), at(two.address, 53)).ip(), one.address);
    assert_eq!(icmp::echo(&one.inside, &two.inside, two.address, 5, b"hello"), one.address);
}

fn icc_off_refuses_containers_each_other(plane: Plane) {
    let world = World::with(plane, Options { icc: false, ..Options::default() });
    let (one, two) = (world.container("one", &[]), world.container("two", &["8080:80", "5353:53/udp"]));
    let _listener = two.inside.listen(80);
    one.inside.assert_no_answer(at(two.address, 80));
    let server = two.inside.udp(53);
    send(&one.inside.udp(0), b"question", at(two.address, 53));
    assert_silent(&server);
}

fn icc_off_leaves_published_ports_and_the_outside_alone(plane: Plane) {
    let world = World::with(plane, Options { icc: false, ..Options::default() });
    let web = world.container("web", &["8080:80"]);
    talk_both_ways(&world, &web.inside, 8080);
}

fn one_container_may_be_closed_in_an_open_network(plane: Plane) {
    let world = World::new(plane);
    let (one, two) = (world.container("one", &[]), world.container("two", &[]));
    let sleep = ["sleep", "600"];
    let shut = world.start("shut", &["--icc=false", "--expose=80", "-p", "8080:80"], &sleep);
    let inside = world.inside(&shut);
    let address: IpAddr = shut["address"].as_str().unwrap().parse().unwrap();
    let (listener, _others) = (inside.listen(80), two.inside.listen(80));
    one.inside.assert_no_answer(at(address, 80));
    inside.assert_no_answer(at(two.address, 80));
    one.inside.connect(at(two.address, 80));
    for from in [&world.client, &one.inside] {
        let mut client = from.connect(at(HOST, 8080));
        converse(&mut client, &mut accept(&listener).0);
    }
    world.netpath_ok(&["link", "add", "one", "shut"]);
    let mut client = one.inside.connect(at(address, 80));
    converse(&mut client, &mut accept(&listener).0);
    two.inside.assert_no_answer(at(address, 80));
    assert_eq!(world.json(&["inspect", "shut"])["icc"], false);
    assert!(
        world.netpath_ok(&["rules"]).lines().any(|line| line.contains("icc") && line.contains(&address.to_string()))
    );
    world.kill_agent();
    world.start_agent();
    two.inside.assert_no_answer(at(address, 80));
}

fn icc_drops_are_counted_for_both_protocols(plane: Plane) {
    let world = World::with(plane, Options { icc: false, ..Options::default() });
    let (one, two) = (world.container("one", &[]), world.container("two", &[]));
    one.inside.assert_no_answer(at(two.address, 80));
    let after_tcp = world.drops("icc");
    assert!(after_tcp > 0);
    send(&one.inside.udp(0), b"question", at(two.address, 53));
    assert_eq!(world.drops("icc"), after_tcp + 1);
}
