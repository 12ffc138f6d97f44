//! Links from point to point: two containers on one wire, without a bridge.

use netpath_tests::sockets::{accept, at, converse};
use netpath_tests::{Namespace, Plane, World, icmp, program};

on_netpath_once! {
    two_containers_without_a_network_talk_over_a_wire,
    a_wire_has_both_families,
    a_container_has_wires_beside_its_network,
    a_wire_outlives_the_agent_and_goes_with_a_container,
    a_wire_goes_with_a_container_that_ends_without_an_agent,
    down_takes_wires_away,
    wires_that_cannot_be_are_refused,
}

const SLEEP: [&str; 2] = ["sleep", "100"];

fn two_containers_without_a_network_talk_over_a_wire(plane: Plane) {
    let world = World::new(plane);
    let [a, b] = ["a", "b"].map(|name| world.inside(&world.start(name, &["--net=none"], &SLEEP)));
    let host_before = world.host.interfaces();
    let shown = world.netpath_ok(&["ptp", "create", "a", "b", "--address", "10.1.1.1", "--address", "10.1.1.2"]);
    assert!(shown.contains("10.1.1.1/32") && shown.contains("eth1"), "{shown}");
    assert_eq!(a.interfaces(), ["eth1"]);
    assert_eq!(world.host.interfaces(), host_before);
    talk(&a, &b, [10, 1, 1, 1], [10, 1, 1, 2]);
    let routes = a.ip("-4 route");
    assert!(routes.starts_with("10.1.1.2 dev eth1 ") && routes.lines().count() == 1, "{routes}");
    world.netpath_ok(&["ptp", "rm", "b", "a"]);
    assert!(a.interfaces().is_empty() && b.interfaces().is_empty());
    assert_eq!(world.json(&["ptp", "ls"]), serde_json::json!([]));
}

fn a_wire_has_both_families(plane: Plane) {
    let world = World::new(plane);
    let [a, b] = ["a", "b"].map(|name| world.inside(&world.start(name, &["--net=none"], &SLEEP)));
    let addresses = ["10.1.1.1", "10.1.1.2", "fd00:1::1", "fd00:1::2"];
    let mut args = vec!["ptp", "create", "a", "b"];
    addresses.iter().for_each(|address| args.extend(["--address", address]));
    world.netpath_ok(&args);
    talk(&a, &b, [10, 1, 1, 1], [10, 1, 1, 2]);
    let listener = b.listen_at("[fd00:1::2]:80".parse().unwrap());
    let mut client = a.connect("[fd00:1::2]:80".parse().unwrap());
    let (mut server, from) = accept(&listener);
    assert_eq!(from.ip().to_string(), "fd00:1::1");
    converse(&mut client, &mut server);
    assert!(a.ip("-6 addr show eth1").contains("fd00:1::1/128"));
}

fn a_container_has_wires_beside_its_network(plane: Plane) {
    let world = World::new(plane);
    let (a, b) = (world.container("a", &[]), world.container("b", &[]));
    let c = world.inside(&world.start("c", &["--net=none"], &SLEEP));
    world.netpath_ok(&["ptp", "create", "a", "b"]);
    world.netpath_ok(&["ptp", "create", "c", "a"]);
    let mut names = a.inside.interfaces();
    names.sort_unstable();
    assert_eq!(names, ["eth0", "eth1", "eth2"]);
    let ptps = world.json(&["ptp", "ls"]);
    let address = |i: usize, end: &str| -> [u8; 4] {
        let text = ptps[i][end]["addresses"][0].as_str().unwrap_or_default().trim_end_matches("/32").to_owned();
        text.parse::<std::net::Ipv4Addr>().unwrap_or_else(|e| panic!("{text}: {e}")).octets()
    };
    talk(&a.inside, &b.inside, address(0, "a"), address(0, "b"));
    talk(&c, &a.inside, address(1, "a"), address(1, "b"));
    // The way to the gateway is what it was.
    assert_eq!(icmp::echo(&a.inside, &b.inside, b.address, 5, b"hello"), a.address);
}

fn a_wire_outlives_the_agent_and_goes_with_a_container(plane: Plane) {
    let world = World::new(plane);
    let [a, b] = ["a", "b"].map(|name| world.inside(&world.start(name, &["--net=none"], &SLEEP)));
    world.netpath_ok(&["ptp", "create", "a", "b", "--address", "10.1.1.1", "--address", "10.1.1.2"]);
    let before = world.json(&["ptp", "ls"]);
    world.kill_agent();
    talk(&a, &b, [10, 1, 1, 1], [10, 1, 1, 2]);
    world.start_agent();
    assert_eq!(world.json(&["ptp", "ls"]), before);
    talk(&a, &b, [10, 1, 1, 1], [10, 1, 1, 2]);
    world.netpath_ok(&["rm", "-f", "a"]);
    assert_eq!(world.json(&["ptp", "ls"]), serde_json::json!([]));
    assert!(b.interfaces().is_empty());
}

fn a_wire_goes_with_a_container_that_ends_without_an_agent(plane: Plane) {
    let world = World::new(plane);
    let (a, b) = (world.container("a", &[]), world.container("b", &[]));
    world.netpath_ok(&["ptp", "create", "a", "b"]);
    let veth = world.endpoint("a").unwrap()["endpoints"][0]["ifname"].as_str().unwrap().to_owned();
    world.kill_agent();
    world.host.ip(&format!("link del {veth}"));
    world.start_agent();
    assert_eq!(world.json(&["ptp", "ls"]), serde_json::json!([]));
    assert_eq!((a.inside.interfaces(), b.inside.interfaces()), (vec![], vec!["eth0".to_owned()]));
    let netns = a.inside.path().display().to_string();
    world.netpath_ok(&["attach", "a", "--netns", &netns]);
    world.netpath_ok(&["ptp", "create", "a", "b"]);
}

fn down_takes_wires_away(plane: Plane) {
    let world = World::new(plane);
    let [a, b] = ["a", "b"].map(|name| world.inside(&world.start(name, &["--net=none"], &SLEEP)));
    world.netpath_ok(&["ptp", "create", "a", "b"]);
    assert_eq!((a.interfaces(), b.interfaces()), (vec!["eth1".to_owned()], vec!["eth1".to_owned()]));
    world.netpath_ok(&["down"]);
    assert_eq!((a.interfaces(), b.interfaces()), (vec![], vec![]));
}

fn wires_that_cannot_be_are_refused(plane: Plane) {
    let world = World::new(plane);
    world.start("a", &["--net=none"], &SLEEP);
    world.start("b", &[], &SLEEP);
    world.start("h", &["--net=host"], &SLEEP);
    for (args, wanted) in [
        ("a a", "itself"),
        ("a nobody", "nobody"),
        ("a h", "--net=host"),
        ("a b --address 10.1.1.1", "two different addresses"),
        ("a b --address 10.1.1.1 --address 10.1.1.1", "two different addresses"),
        ("a b --address 172.17.0.9 --address 10.1.1.1", "172.17.0.0/16"),
        ("a b --address 127.0.0.1 --address 10.1.1.1", "127.0.0.1"),
    ] {
        let mut line = vec!["ptp", "create"];
        line.extend(args.split(' '));
        let output = world.netpath(&line);
        let error = program::text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(wanted), "{args}: {}: {error}", output.status);
    }
    world.netpath_ok(&["ptp", "create", "a", "b"]);
    assert_eq!(world.netpath(&["ptp", "create", "b", "a"]).status.code(), Some(1));
    assert_eq!(world.netpath(&["ptp", "rm", "a", "h"]).status.code(), Some(1));
}

fn talk(a: &Namespace, b: &Namespace, addr_a: [u8; 4], addr_b: [u8; 4]) {
    let listener = b.listen(80);
    let mut client = a.connect(at(addr_b, 80));
    let (mut server, from) = accept(&listener);
    assert_eq!(from.ip(), std::net::IpAddr::from(addr_a));
    converse(&mut client, &mut server);
}
