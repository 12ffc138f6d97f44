//! `netpath agent --docker` beside the Engine itself: Docker makes and reserves, netpath forwards and translates.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netpath_tests::engine::{self, Engine, FOR_NETPATH, Release};
use netpath_tests::reach::talk_both_ways;
use netpath_tests::sockets::{accept, at, converse, eventually};
use netpath_tests::transfer::Transfer;
use netpath_tests::{CLIENT, HOST, Namespace, Options, Plane, World, netfilter};
use serde_json::{Value, json};

on_docker! {
    a_container_of_dockers_is_served_while_it_is_there,
    a_restarted_container_has_its_ports_again,
    what_docker_runs_survives_the_agent,
    what_docker_starts_without_an_agent_is_served_by_the_next,
    networks_are_what_docker_says,
    links_open_a_closed_network,
    automatic_ports_and_ranges_are_served,
    a_container_reaches_what_docker_publishes,
    a_restarted_engine_costs_no_connection,
    an_engine_that_forwards_by_itself_is_left_alone,
    labels_say_who_may_come_in,
    an_engine_that_comes_late_is_followed,
}

/// The road of the packets is the same whoever has made the container.
pub(crate) const PLANE: Plane = Plane::Netpath { shortcuts: true };
const SOME: u64 = 4 << 20;

fn a_container_of_dockers_is_served_while_it_is_there(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("web", &["-p", "8080:80"]);
    served(&world, "web", &[8080]);
    let events =
        engine.docker(&["events", "--since", "1", "--until", "0s", "--format", "{{.Action}} at {{.TimeNano}}"]);
    let log = world.instance().log_text();
    eprintln!("{events}\n{}", log.lines().rfind(|line| line.contains("is served")).unwrap_or_default());
    let shown = world.endpoint("web").unwrap();
    assert_eq!(shown["endpoints"][0]["network"], "docker/bridge", "{shown}");
    talk_both_ways(&world, &engine.inside("web"), 8080);
    assert_eq!(engine.docker(&["port", "web"]), "80/tcp -> 0.0.0.0:8080");
    engine.docker(&["rename", "web", "shop"]);
    eventually("the new name is known", || world.endpoint("shop").is_some() && world.endpoint("web").is_none());
    engine.docker(&["rm", "-f", "shop"]);
    eventually("the container is forgotten", || world.endpoint("shop").is_none());
    world.client.assert_closed(at(HOST, 8080));
    assert!(world.host.interfaces().contains(&"docker0".to_owned()));
    assert_eq!(netfilter::traces(&world.host), Vec::<String>::new());
}

fn a_restarted_container_has_its_ports_again(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("web", &["-p", "8080:80", "-p", "5353:53/udp"]);
    served(&world, "web", &[8080, 5353]);
    for _ in 0..3 {
        engine.docker(&["restart", "-t", "0", "web"]);
        served(&world, "web", &[8080, 5353]);
        eventually("the new process is known", || is_known(&world, &engine, "web"));
        talk_both_ways(&world, &engine.inside("web"), 8080);
    }
    // Somebody else's bind of the port is refused by Docker's own socket.
    let taken = world.host.within(|| std::net::TcpListener::bind("0.0.0.0:8080"));
    assert_eq!(taken.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
}

fn what_docker_runs_survives_the_agent(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("web", &["-p", "8080:80"]);
    served(&world, "web", &[8080]);
    eventually("the process is known", || is_known(&world, &engine, "web"));
    let inside = engine.inside("web");
    let (listener, outside) = (inside.listen(80), world.client.listen(7000));
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    let mut outbound = (inside.connect(at(CLIENT, 7000)), accept(&outside).0);
    let before = (world.json(&["ps"]), world.json(&["network", "ls"]));
    world.kill_agent();
    world.start_agent();
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        assert_eq!((world.json(&["ps"]), world.json(&["network", "ls"])), before);
        converse(&mut published.0, &mut published.1);
        converse(&mut outbound.0, &mut outbound.1);
    }
}

fn what_docker_starts_without_an_agent_is_served_by_the_next(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("old", &["-p", "8081:80"]);
    served(&world, "old", &[8081]);
    world.kill_agent();
    engine.docker(&["rm", "-f", "old"]);
    engine.docker(&["network", "create", "back"]);
    engine.start_container("web", &["-p", "8080:80", "--network", "back"]);
    engine.start_container("app", &[]);
    world.start_agent();
    served(&world, "web", &[8080]);
    eventually("the second one is served", || world.endpoint("app").is_some());
    assert!(world.endpoint("old").is_none());
    talk_both_ways(&world, &engine.inside("web"), 8080);
}

fn networks_are_what_docker_says(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.docker(&["network", "create", "--internal", "inner"]);
    engine.docker(&["network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "closed"]);
    engine.docker(&["network", "create", "--label", "netpath.icc=false", "shut"]);
    engine.docker(&["network", "create", "open"]);
    for (network, talk, out) in [("inner", true, false), ("closed", false, true), ("shut", false, true)] {
        let (one, two) = (format!("{network}-one"), format!("{network}-two"));
        engine.start_container(&one, &["--network", network]);
        engine.start_container(&two, &["--network", network]);
        eventually("both are served", || [&one, &two].iter().all(|name| world.endpoint(name).is_some()));
        let (from, to, address) = (engine.inside(&one), engine.inside(&two), engine.ip(&two, network));
        let _listener = to.listen(80);
        let _outside = world.client.listen(7000);
        assert_eq!(reaches(&from, address, 80), talk, "{network}: to each other");
        assert_eq!(reaches(&from, CLIENT, 7000), out, "{network}: to the outside");
    }
    engine.docker(&["network", "connect", "open", "inner-one"]);
    eventually("it is in both networks", || networks(&world, "inner-one") == ["docker/inner", "docker/open"]);
    let _outside = world.client.listen(7000);
    assert!(reaches(&engine.inside("inner-one"), CLIENT, 7000), "by the network that has an outside");
    engine.docker(&["network", "disconnect", "open", "inner-one"]);
    eventually("it is in one network", || networks(&world, "inner-one") == ["docker/inner"]);
    engine.docker(&["network", "rm", "open"]);
    eventually("the network is forgotten", || {
        world.json(&["network", "ls"]).as_array().unwrap().iter().all(|network| network["name"] != "docker/open")
    });
}

fn links_open_a_closed_network(release: Release) {
    let world = World::with(PLANE, Options { icc: false, ..options() });
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("db", &["--expose", "5432"]);
    engine.start_container("app", &["--link", "db:data"]);
    engine.start_container("other", &[]);
    let has_link = |name: &str| world.endpoint(name).is_some_and(|c| c["links"][0]["alias"] == "data");
    eventually("the link is there", || has_link("app") && world.endpoint("other").is_some());
    let (db, address) = (engine.inside("db"), engine.ip("db", "bridge"));
    let _listeners = (db.listen(5432), db.listen(5433));
    assert!(reaches(&engine.inside("app"), address, 5432));
    assert!(!reaches(&engine.inside("app"), address, 5433));
    assert!(!reaches(&engine.inside("other"), address, 5432));
}

fn automatic_ports_and_ranges_are_served(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("many", &["-p", "20000-20999:20000-20999", "-p", "80"]);
    let shown = engine.docker(&["port", "many", "80/tcp"]);
    let port = shown.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap();
    served(&world, "many", &[20000, port]);
    let ports = world.endpoint("many").unwrap()["ports"].clone();
    assert_eq!(ports.as_array().unwrap().len(), 2, "a thousand ports are one binding: {ports}");
    let inside = engine.inside("many");
    for (host, own) in [(20000, 20000), (20500, 20500), (20999, 20999), (port, 80)] {
        let listener = inside.listen(own);
        let mut client = world.client.connect(at(HOST, host));
        converse(&mut client, &mut accept(&listener).0);
    }
}

fn a_container_reaches_what_docker_publishes(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("web", &["-p", "8080:80"]);
    engine.start_container("app", &[]);
    served(&world, "web", &[8080]);
    eventually("the second one is served", || world.endpoint("app").is_some());
    let own = world.container("own", &[]);
    let (web, app) = (engine.inside("web"), engine.inside("app"));
    let listener = web.listen(80);
    for from in [&web, &app, &own.inside, &world.host] {
        let mut client = from.connect(at(HOST, 8080));
        converse(&mut client, &mut accept(&listener).0);
    }
    let mut client = world.host.connect(at(IpAddr::from([127, 0, 0, 1]), 8080));
    converse(&mut client, &mut accept(&listener).0);
}

fn a_restarted_engine_costs_no_connection(release: Release) {
    let world = world();
    let options = [&FOR_NETPATH[..], &["--live-restore"]].concat();
    let engine = Engine::start(&world, release, &options);
    engine.start_container("web", &["-p", "8080:80"]);
    served(&world, "web", &[8080]);
    let inside = engine.inside("web");
    let listener = inside.listen(80);
    let (client, server) = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    let transfer = Transfer::start(&client, &server);
    transfer.advance(SOME);
    for _ in 0..2 {
        engine.kill_daemon();
        transfer.advance(SOME);
        engine.start_daemon(&options);
        transfer.advance(SOME);
    }
    // The new daemon binds the port that is still published.
    eventually("Docker listens again", || has_listener(&world.host, 8080));
    std::thread::sleep(Duration::from_secs(2));
    transfer.advance(SOME);
    assert!(transfer.finish() > SOME);
    engine.start_container("late", &["-p", "8081:80"]);
    served(&world, "late", &[8081]);
    talk_both_ways(&world, &engine.inside("late"), 8081);
}

fn an_engine_that_forwards_by_itself_is_left_alone(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &["--userland-proxy=false"]);
    engine.start_container("web", &["-p", "8080:80"]);
    let says = |text: &str| world.instance().log_text().contains(text);
    eventually("the log says so", || says("start dockerd with --iptables=false"));
    assert!(!says("--userland-proxy=false"), "what is there is not missing");
    assert!(world.endpoint("web").is_none());
    let listener = engine.inside("web").listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
    world.lets_netfilter_work();
}

fn labels_say_who_may_come_in(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    let says = |text: &str| world.instance().log_text().contains(text);
    engine.start_container("web", &["-p", "8080:80", "--label", &format!("netpath.from=80/tcp={CLIENT}")]);
    engine.start_container("far", &["-p", "8081:80", "--label", "netpath.from=80/tcp=10.0.0.0/8"]);
    served(&world, "web", &[8080]);
    served(&world, "far", &[8081]);
    talk_both_ways(&world, &engine.inside("web"), 8080);
    let _listener = engine.inside("far").listen(80);
    world.client.assert_no_answer(at(HOST, 8081));
    engine.start_container("wrong", &["-p", "8082:80", "--label", "netpath.from=80=everybody"]);
    eventually("the log says so", || says("netpath.from=80=everybody"));
    assert!(world.endpoint("wrong").is_none());
    assert_eq!(world.instance().log_text().matches("netpath.from=80=everybody").count(), 1, "and says it once");
}

fn an_engine_that_comes_late_is_followed(release: Release) {
    let world = world();
    let says = |text: &str| world.instance().log_text().contains(text);
    eventually("the log says so", || says("connect to Docker Engine at"));
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("web", &["-p", "8080:80"]);
    served(&world, "web", &[8080]);
    talk_both_ways(&world, &engine.inside("web"), 8080);
    assert_eq!(world.instance().log_text().matches("connect to Docker Engine at").count(), 1, "it is said once");
}

/// Runs `test` where there is an Engine to be had.
pub(crate) fn run(test: fn(Release), release: Release) {
    match crate::planes::missing(PLANE).or_else(|| engine::missing(release)) {
        None => test(release),
        Some(why) => eprintln!("skipped: {why}"),
    }
}

pub(crate) fn options() -> Options {
    Options::agent("--docker={dir}/docker/sock")
}

/// A world whose agent follows the Engine that [`Engine::start`] starts.
pub(crate) fn world() -> World {
    World::with(PLANE, options())
}

/// Waits until `name` is served with these host ports.
pub(crate) fn served(world: &World, name: &str, ports: &[u16]) {
    let has = |container: &Value, port: u16| {
        container["ports"].as_array().unwrap().iter().any(|binding| binding["host_port"] == json!(port))
    };
    eventually(&format!("`{name}` is served"), || {
        world.endpoint(name).is_some_and(|container| ports.iter().all(|port| has(&container, *port)))
    });
}

/// Whether netpath has learned the process that the container has by now.
pub(crate) fn is_known(world: &World, engine: &Engine<'_>, name: &str) -> bool {
    let pid: u32 = engine.docker(&["inspect", "--format", "{{.State.Pid}}", name]).parse().unwrap();
    world.endpoint(name).is_some_and(|container| container["netns"]["pid"] == json!(pid))
}

pub(crate) fn networks(world: &World, name: &str) -> Vec<String> {
    let container = world.endpoint(name).unwrap_or_default();
    let endpoints = container["endpoints"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> =
        endpoints.iter().filter_map(|endpoint| endpoint["network"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

/// Whether a socket listens at this port of TCP on every IPv4 address of `namespace`.
fn has_listener(namespace: &Namespace, port: u16) -> bool {
    let sockets = namespace.within(|| std::fs::read_to_string("/proc/thread-self/net/tcp")).unwrap();
    sockets.contains(&format!(" 00000000:{port:04X} 00000000:0000 0A "))
}

pub(crate) fn reaches(from: &Namespace, address: IpAddr, port: u16) -> bool {
    netpath_tests::reach::answers(from, at(address, port))
}
