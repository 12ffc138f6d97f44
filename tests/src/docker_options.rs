//! Options of Docker Engine's networks and ports that say under which address somebody is seen, or reached.

use std::io::ErrorKind;
use std::net::IpAddr;

use netpath_tests::engine::{Engine, FOR_NETPATH, Release};
use netpath_tests::reach::Server;
use netpath_tests::sockets::{PATIENCE, accept, at};
use netpath_tests::{CLIENT, Family, HOST, Options, World};

use crate::docker_mode::{PLANE, options, served};

on_docker! {
    without_masquerade_a_container_leaves_under_its_own_address,
    a_port_without_an_address_is_published_where_its_network_says,
    a_port_is_published_at_its_one_address_alone,
    the_host_reaches_an_ipv4_container_by_ipv6_sockets,
}

const GATEWAY: &str = "{{.NetworkSettings.Networks.bridge.Gateway}}";

fn without_masquerade_a_container_leaves_under_its_own_address(release: Release) {
    let world = wide_world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    let network = ["network", "create", "--subnet", "172.29.0.0/24", "-o"];
    engine.docker(&[&network[..], &["com.docker.network.bridge.enable_ip_masquerade=false", "plain"]].concat());
    engine.start_container("web", &["--network", "plain", "-p", "8080:80"]);
    served(&world, "web", &[8080]);
    world.client.ip(&format!("route add 172.29.0.0/24 via {HOST}"));
    let (inside, address) = (engine.inside("web"), engine.ip("web", "plain"));
    let outside = world.client.listen(7000);
    let _connection = inside.connect(at(CLIENT, 7000));
    assert_eq!(accept(&outside).1.ip(), address);
    let server = Server::new(&inside, Family::V4, 80);
    assert_eq!(server.sees_tcp(&world.client, at(HOST, 8080)), CLIENT);
    server.is_not_reached(&world.client, at(address, 80));
}

fn a_port_without_an_address_is_published_where_its_network_says(release: Release) {
    let world = wide_world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    let option = format!("com.docker.network.bridge.host_binding_ipv4={HOST}");
    engine.docker(&["network", "create", "-o", &option, "bound"]);
    let elsewhere = format!("{}:8081:81", Family::V4.second_host());
    engine.start_container("web", &["--network", "bound", "-p", "8080:80", "-p", "8080:80/udp", "-p", &elsewhere]);
    served(&world, "web", &[8080, 8081]);
    let inside = engine.inside("web");
    let (server, other) = (Server::new(&inside, Family::V4, 80), inside.listen(81));
    assert_eq!(server.sees(&world.client, at(HOST, 8080)), CLIENT);
    server.is_not_reached(world.stranger(), at(Family::V4.second_host(), 8080));
    server.is_not_reached(&world.host, at(Family::V4.loopback(), 8080));
    let _client = world.stranger().connect(at(Family::V4.second_host(), 8081));
    assert_eq!(accept(&other).1.ip(), Family::V4.stranger());
}

fn a_port_is_published_at_its_one_address_alone(release: Release) {
    let world = wide_world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    let one = format!("{HOST}:8080:80");
    let udp = format!("{one}/udp");
    engine.start_container("web", &["-p", &one, "-p", &udp, "-p", "127.0.0.1:8081:81"]);
    served(&world, "web", &[8080, 8081]);
    let inside = engine.inside("web");
    let [server, own] = [80, 81].map(|port| Server::new(&inside, Family::V4, port));
    assert_eq!(server.sees(&world.client, at(HOST, 8080)), CLIENT);
    assert_eq!(server.sees(&world.host, at(HOST, 8080)), HOST);
    server.is_not_reached(world.stranger(), at(Family::V4.second_host(), 8080));
    server.is_not_reached(&world.host, at(Family::V4.loopback(), 8080));
    own.sees_tcp(&world.host, at(Family::V4.loopback(), 8081));
    own.is_not_reached(&world.client, at(HOST, 8081));
}

fn the_host_reaches_an_ipv4_container_by_ipv6_sockets(release: Release) {
    let world = wide_world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("web", &["-p", "8080:80"]);
    served(&world, "web", &[8080]);
    let server = Server::new(&engine.inside("web"), Family::V4, 80);
    let gateway: IpAddr = engine.docker(&["inspect", "--format", GATEWAY, "web"]).parse().unwrap();
    let mapped = |address: &str| -> IpAddr { format!("::ffff:{address}").parse().unwrap() };
    assert_eq!(server.sees_tcp(&world.host, at(Family::V6.loopback(), 8080)), gateway);
    assert_eq!(server.sees_tcp(&world.host, at(mapped("127.0.0.1"), 8080)), gateway);
    assert_eq!(server.sees_tcp(&world.host, at(mapped(&HOST.to_string()), 8080)), HOST);
    let refused = world.host.try_connect(0, at(Family::V6.host(), 8080), PATIENCE);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused, "no address of IPv6 publishes it");
}

/// A world with two wires, whose containers' addresses may be seen.
pub(crate) fn wide_world() -> World {
    World::with(PLANE, Options { second_wire: true, ..options() })
}
