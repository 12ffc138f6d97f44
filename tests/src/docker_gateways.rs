//! Gateway modes and trusted interfaces of Docker Engine's networks, as newer Engines have them.

use std::rc::Rc;

use netpath_tests::engine::{Engine, FOR_NETPATH, Release};
use netpath_tests::reach::{Doors, Server, answers};
use netpath_tests::sockets::{accept, at};
use netpath_tests::{Container, Family, World};
use serde_json::json;

use crate::docker_ipv6::{SUBNET, knows};
use crate::docker_mode::served;
use crate::docker_options::wide_world;

on_newest_docker! {
    nat_opens_host_ports_only,
    nat_unprotected_opens_everything_and_host_ports,
    routed_opens_published_ports_and_pings_and_translates_nothing,
    routed_takes_no_host_port,
    a_network_may_be_routed_in_one_family_alone,
    isolated_networks_have_no_gateway,
    a_trusted_interface_reaches_containers_directly,
}

const SUBNET_V4: &str = "172.29.0.0/24";

/// A container of such a network with servers on ports 80, published as 8080, and 81.
struct Cell<'a> {
    world: &'a World,
    web: Container,
    family: Family,
    published: Server,
    _unpublished: Server,
}

impl Cell<'_> {
    fn doors(&self) -> Doors {
        let doors = Doors::of(&self.web, self.family, &self.world.client);
        self.published.drain();
        doors
    }

    /// Whether the client reaches the container by the host, which is seen if so.
    fn host_port_works(&self) -> bool {
        let to = at(self.family.host(), 8080);
        let works = answers(&self.world.client, to);
        self.published.drain();
        if works {
            assert_eq!(self.published.sees_tcp(&self.world.client, to), self.family.client());
        }
        works
    }

    /// Whom the client sees when the container connects to it.
    fn leaves_as(&self) -> std::net::IpAddr {
        let listener = self.world.client.listen_at(at(self.family.any(), 7000));
        let _client = self.web.inside.connect(at(self.family.client(), 7000));
        accept(&listener).1.ip()
    }
}

/// Checks a network with `options` in both families.
fn each(release: Release, options: &[&str], check: fn(&Cell<'_>)) {
    let world = wide_world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    create(&world, &engine, options);
    engine.start_container("web", &["--network", "cell", "-p", "8080:80"]);
    served(&world, "web", &[]);
    for family in Family::BOTH {
        eprintln!("{family:?}");
        let web = container(&engine, "web");
        let [published, unpublished] = [80, 81].map(|port| Server::new(&web.inside, family, port));
        check(&Cell { world: &world, web, family, published, _unpublished: unpublished });
    }
}

/// Makes the network `cell`, which client and stranger know the way to.
fn create(world: &World, engine: &Engine<'_>, options: &[&str]) {
    let create = ["network", "create", "--ipv6", "--subnet", SUBNET, "--subnet", SUBNET_V4];
    engine.docker(&[&create[..], options, &["cell"]].concat());
    knows(world, "cell");
    for (family, subnet) in [(Family::V4, SUBNET_V4), (Family::V6, SUBNET)] {
        world.client.ip(&format!("route add {subnet} via {}", family.host()));
        world.stranger().ip(&format!("route add {subnet} via {}", family.second_host()));
    }
}

fn container(engine: &Engine<'_>, name: &str) -> Container {
    let [address, address6] = Family::BOTH.map(|family| engine.ip_of(name, "cell", family));
    Container { name: name.to_owned(), address, address6: Some(address6), inside: Rc::new(engine.inside(name)) }
}

/// The options for `mode` in both families.
fn mode(mode: &str) -> [String; 2] {
    [4, 6].map(|version| format!("--opt=com.docker.network.bridge.gateway_mode_ipv{version}={mode}"))
}

fn nat_opens_host_ports_only(release: Release) {
    let [v4, v6] = mode("nat");
    each(release, &[&v4, &v6], |cell| {
        assert_eq!(cell.doors(), Doors::NONE);
        assert!(cell.host_port_works());
        assert_eq!(cell.leaves_as(), cell.family.host());
    });
}

fn nat_unprotected_opens_everything_and_host_ports(release: Release) {
    let [v4, v6] = mode("nat-unprotected");
    each(release, &[&v4, &v6], |cell| {
        assert_eq!(cell.doors(), Doors::ALL);
        assert!(cell.host_port_works());
        assert_eq!(cell.leaves_as(), cell.family.host());
    });
}

fn routed_opens_published_ports_and_pings_and_translates_nothing(release: Release) {
    let [v4, v6] = mode("routed");
    each(release, &[&v4, &v6], |cell| {
        assert_eq!(cell.doors(), Doors { unpublished: false, ..Doors::ALL });
        assert!(!cell.host_port_works());
        assert_eq!(cell.leaves_as(), cell.web.ip(cell.family));
    });
}

fn routed_takes_no_host_port(release: Release) {
    let [v4, v6] = mode("routed");
    let world = wide_world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    create(&world, &engine, &[&v4, &v6]);
    let ports = ["8080:80", "8080:80", "80", "7000-7001:80-81"];
    for (name, port) in ["one", "two", "three", "four"].into_iter().zip(ports) {
        engine.start_container(name, &["--network", "cell", "-p", port]);
        served(&world, name, &[]);
    }
    engine.start_container("five", &["--network", "cell", "-P", "--expose", "80"]);
    served(&world, "five", &[80]);
    assert_eq!(world.json(&["inspect"])["docker"]["faults"], json!({}));
    for family in Family::BOTH {
        for name in ["one", "two", "three", "four", "five"] {
            let container = container(&engine, name);
            let server = Server::new(&container.inside, family, 80);
            let to = at(container.ip(family), 80);
            assert_eq!(server.sees_tcp(&world.client, to), family.client(), "{name}");
            let _unpublished = Server::new(&container.inside, family, 81);
            assert_eq!(answers(&world.client, at(container.ip(family), 81)), name == "four", "{name} {family:?}");
        }
        for port in [8080, 7000] {
            assert!(!answers(&world.client, at(family.host(), port)), "{family:?} {port}");
        }
    }
}

fn a_network_may_be_routed_in_one_family_alone(release: Release) {
    let [_, v6] = mode("routed");
    let world = wide_world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    create(&world, &engine, &[&v6]);
    for (name, port) in [("one", "8080:80"), ("two", "80")] {
        engine.start_container(name, &["--network", "cell", "-p", port]);
        served(&world, name, &[]);
        let container = container(&engine, name);
        let published = engine.docker(&["port", name, "80"]);
        let host_port = published.lines().find_map(|line| line.strip_prefix("0.0.0.0:")).expect("a host port of IPv4");
        let host_port = host_port.parse().unwrap_or_else(|e| panic!("a port, {published}: {e}"));
        served(&world, name, &[host_port]);
        for family in Family::BOTH {
            let published = Server::new(&container.inside, family, 80);
            let _unpublished = Server::new(&container.inside, family, 81);
            let routed = Doors { unpublished: false, ..Doors::ALL };
            assert_eq!(Doors::of(&container, family, &world.client), family.pick(Doors::NONE, routed), "{name}");
            published.drain();
            let to = at(family.host(), host_port);
            match family {
                Family::V4 => assert_eq!(published.sees_tcp(&world.client, to), family.client()),
                Family::V6 => assert!(!answers(&world.client, to)),
            }
        }
    }
}

fn isolated_networks_have_no_gateway(release: Release) {
    let [v4, v6] = mode("isolated");
    each(release, &["--internal", &v4, &v6], |cell| {
        assert_eq!(cell.doors(), Doors::NONE);
        assert!(!cell.host_port_works());
        assert_eq!(cell.web.inside.ip(cell.family.pick("-4 route show default", "-6 route show default")), "");
    });
}

fn a_trusted_interface_reaches_containers_directly(release: Release) {
    each(release, &["--opt=com.docker.network.bridge.trusted_host_interfaces=up1"], |cell| {
        assert_eq!(cell.doors(), Doors::NONE);
        // Past the first gate, what is published still decides.
        let doors = Doors::of(&cell.web, cell.family, cell.world.stranger());
        assert_eq!(doors, Doors { published: true, ..Doors::NONE });
        cell.published.drain();
        let (stranger, to) = (cell.world.stranger(), at(cell.web.ip(cell.family), 80));
        assert_eq!(cell.published.sees_tcp(stranger, to), cell.family.stranger());
    });
}
