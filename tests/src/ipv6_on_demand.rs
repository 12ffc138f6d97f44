//! IPv6's programs are loaded when the first network has IPv6, and nothing of IPv6 leaves a container before.

use std::net::Ipv6Addr;

use netpath_tests::frames::FrameSocket;
use netpath_tests::packets::Packet;
use netpath_tests::reach::Server;
use netpath_tests::sockets::{accept, at, converse};
use netpath_tests::{CLIENT, Container, Family, HOST, NetworkOptions, Plane, World};

on_netpath_once! {
    without_ipv6_nothing_of_it_leaves_a_container,
    the_first_network_with_ipv6_brings_its_programs_while_connections_live,
    the_last_network_with_ipv6_takes_its_programs_along_at_the_next_start,
    a_start_with_ipv6_on_a_host_that_had_none_serves_both,
}

/// Who speaks IPv6 in a container that has no address of it.
const SPEAKER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Names of the programs that are loaded for IPv6 alone and of the links that are pinned for it, the hooks of sockets
/// aside: there is an IPv6 socket on every host.
fn of_ipv6(world: &World) -> (Vec<String>, Vec<String>) {
    let is_its = |name: &str| name.ends_with('6') && !name.starts_with("host_");
    let stats = world.json(&["stats"]);
    let programs = stats["programs"].as_array().unwrap().iter().map(|program| program["name"].as_str().unwrap());
    // Where there are no tcx links (before Linux 6.6), a note for each filter.
    let pins = ["links", "filters"].map(|dir| world.instance().pin_dir.join(dir));
    let links = pins.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    let links = links.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    (
        programs.filter(|name| is_its(name)).map(str::to_owned).collect(),
        links.filter(|name| name.rsplit_once('-').is_some_and(|(program, _)| is_its(program))).collect(),
    )
}

/// Sends five datagrams of IPv6 from the container's interface to the host and five to `neighbour`, whatever addresses
/// there are.
fn speak_ipv6(world: &World, from: &Container, neighbour: &Container) {
    let frames = FrameSocket::new(&from.inside, "eth0");
    let mac = |namespace, ifname| FrameSocket::new(namespace, ifname).mac();
    let (to_host, to_neighbour) = (mac(&world.host, "netpath0"), mac(&*neighbour.inside, "eth0"));
    for (dst_mac, dst) in [(to_host, Family::V6.client()), (to_neighbour, "fe80::3".parse().unwrap())] {
        let packet = Packet::udp(at(SPEAKER, 5000), at(dst, 7000), b"IPv6").bytes();
        (0..5).for_each(|_| frames.send_packet(dst_mac, &packet));
    }
}

/// What containers say in IPv6 is dropped, and seen neither outside nor by a neighbour.
fn assert_no_ipv6_leaves(world: &World, app: &Container, neighbour: &Container) {
    let mut outside = FrameSocket::new(&world.client, "eth0");
    let mut next_door = FrameSocket::new(&neighbour.inside, "eth0");
    let before = world.drops("spoofed-source");
    speak_ipv6(world, app, neighbour);
    // On the same road, behind what must not come.
    let server = world.client.listen(7000);
    converse(&mut app.inside.connect(at(CLIENT, 7000)), &mut accept(&server).0);
    let inside = neighbour.inside.listen(7001);
    converse(&mut app.inside.connect(at(neighbour.address, 7001)), &mut accept(&inside).0);
    assert_eq!(world.drops("spoofed-source"), before + 10);
    let is_theirs = |frame: &[u8]| frame.get(22..38) == Some(&SPEAKER.octets());
    assert!(!next_door.sees(is_theirs), "a neighbour hears IPv6");
    assert!(!outside.sees(is_theirs), "IPv6 leaves the host");
}

fn without_ipv6_nothing_of_it_leaves_a_container(plane: Plane) {
    let world = World::new(plane);
    let (app, neighbour) = (world.container("app", &[]), world.container("neighbour", &[]));
    assert_eq!(of_ipv6(&world), (vec![], vec![]));
    assert_no_ipv6_leaves(&world, &app, &neighbour);
}

fn the_first_network_with_ipv6_brings_its_programs_while_connections_live(plane: Plane) {
    let world = World::new(plane);
    let (web, neighbour) = (world.container("web", &["8080:80"]), world.container("neighbour", &[]));
    let (listener, outside) = (web.inside.listen(80), world.client.listen(7000));
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    let mut outbound = (web.inside.connect(at(CLIENT, 7000)), accept(&outside).0);
    drop(outside);

    world.create_network("dual", NetworkOptions::dual());
    let (programs, links) = of_ipv6(&world);
    assert_eq!(programs.len(), 7, "{programs:?}");
    // Two at the external interface, and one at each of the two containers.
    assert_eq!(links.len(), 4, "{links:?}");
    let both = world.container_on("dual", "both", &["8081:80"]);
    for family in Family::BOTH {
        let server = Server::new(&both.inside, family, 80);
        assert_eq!(server.sees_tcp(&world.client, at(family.host(), 8081)), family.client());
    }
    converse(&mut published.0, &mut published.1);
    converse(&mut outbound.0, &mut outbound.1);
    assert_no_ipv6_leaves(&world, &web, &neighbour);
}

fn the_last_network_with_ipv6_takes_its_programs_along_at_the_next_start(plane: Plane) {
    let world = World::new(plane);
    let (app, neighbour) = (world.container("app", &[]), world.container("neighbour", &[]));
    world.create_network("dual", NetworkOptions::dual());
    world.netpath_ok(&["network", "rm", "dual"]);
    assert_eq!(of_ipv6(&world).1.len(), 4);
    world.kill_agent();
    world.start_agent();
    assert_eq!(of_ipv6(&world), (vec![], vec![]));
    assert_no_ipv6_leaves(&world, &app, &neighbour);
}

fn a_start_with_ipv6_on_a_host_that_had_none_serves_both(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    world.kill_agent();
    world.start_agent_with(&["--ipv6".to_owned()]);
    let (_, links) = of_ipv6(&world);
    assert_eq!(links.len(), 3, "{links:?}");
    let server = Server::new(&web.inside, Family::V4, 80);
    assert_eq!(server.sees_tcp(&world.client, at(HOST, 8080)), CLIENT);
}
