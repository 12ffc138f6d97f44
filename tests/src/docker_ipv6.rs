//! Docker Engine's networks with IPv6: who is seen by whom, in both families.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netpath_tests::engine::{Engine, FOR_NETPATH, Release};
use netpath_tests::reach::Server;
use netpath_tests::sockets::{accept, at, eventually};
use netpath_tests::{Family, Namespace, World};

use crate::docker_mode::{is_known, served, world};

on_docker! {
    a_network_of_both_families_is_served,
    the_default_network_of_both_families_is_served,
    a_port_on_one_ipv6_address_is_published_there_alone,
}

pub(crate) const SUBNET: &str = "fd00:d0c::/64";
/// The programs of IPv6 are loaded when the first network has it.
const LOADING: Duration = Duration::from_secs(60);

fn a_network_of_both_families_is_served(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.docker(&["network", "create", "--ipv6", "--subnet", SUBNET, "dual"]);
    is_served_in_both_families(&world, &engine, "dual");
}

fn the_default_network_of_both_families_is_served(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &[&FOR_NETPATH[..], &["--ipv6", "--fixed-cidr-v6", SUBNET]].concat());
    is_served_in_both_families(&world, &engine, "bridge");
}

fn is_served_in_both_families(world: &World, engine: &Engine<'_>, network: &str) {
    knows(world, network);
    let in_network = ["--network", network];
    engine.start_container("web", &[&in_network[..], &["-p", "8080:80", "-p", "8080:80/udp"]].concat());
    engine.start_container("app", &in_network);
    world.client.ip(&format!("route add {SUBNET} via {}", Family::V6.host()));
    for round in ["at first", "after a restart"] {
        served(world, "web", &[8080]);
        served(world, "app", &[]);
        eventually("the processes are known", || ["web", "app"].iter().all(|name| is_known(world, engine, name)));
        let (web, app) = (engine.inside("web"), engine.inside("app"));
        for family in Family::BOTH {
            eprintln!("{round}, {family:?}");
            are_served(world, family, (&web, engine.ip_of("web", network, family)), &app);
            let own = engine.ip_of("app", network, family);
            let server = Server::new(&web, family, 8000);
            assert_eq!(server.sees(&app, at(engine.ip_of("web", network, family), 8000)), own);
        }
        engine.docker(&["restart", "-t", "0", "web"]);
    }
}

/// The container `web` publishes port 80 as 8080, and shares its network with `app`.
fn are_served(world: &World, family: Family, (web, address): (&Namespace, IpAddr), app: &Namespace) {
    let (server, published) = (Server::new(web, family, 80), at(family.host(), 8080));
    assert_eq!(server.sees(&world.client, published), family.client());
    assert_eq!(server.sees(&world.host, published), family.host());
    assert_eq!(server.sees(app, published), family.host(), "by way of the host");
    assert_ne!(server.sees_tcp(&world.host, at(family.loopback(), 8080)), family.loopback());
    server.is_not_reached(&world.client, at(address, 80));
    let outside = world.client.listen_at(at(family.any(), 7000));
    let _client = web.connect(at(family.client(), 7000));
    assert_eq!(accept(&outside).1.ip(), family.host());
}

fn a_port_on_one_ipv6_address_is_published_there_alone(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.docker(&["network", "create", "--ipv6", "--subnet", SUBNET, "dual"]);
    knows(&world, "dual");
    let published = format!("[{}]:8080:80", Family::V6.host());
    let udp = format!("{published}/udp");
    engine.start_container("web", &["--network", "dual", "-p", &published, "-p", &udp, "-p", "[::1]:8081:81"]);
    served(&world, "web", &[8080, 8081]);
    let inside = engine.inside("web");
    let [v4, v6] = Family::BOTH.map(|family| Server::new(&inside, family, 80));
    let own = Server::new(&inside, Family::V6, 81);
    assert_eq!(v6.sees(&world.client, at(Family::V6.host(), 8080)), Family::V6.client());
    v4.is_not_reached(&world.client, at(Family::V4.host(), 8080));
    v6.is_not_reached(&world.host, at(Family::V6.loopback(), 8080));
    own.sees_tcp(&world.host, at(Family::V6.loopback(), 8081));
    own.is_not_reached(&world.client, at(Family::V6.host(), 8081));
}

/// Waits until netpath knows Docker's network `name`.
pub(crate) fn knows(world: &World, name: &str) {
    let (name, deadline) = (format!("docker/{name}"), Instant::now() + LOADING);
    while world.json(&["network", "ls"]).as_array().unwrap().iter().all(|network| network["name"] != *name) {
        assert!(Instant::now() < deadline, "{name} is not served within {LOADING:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
