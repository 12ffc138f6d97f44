//! What people can see of a data plane that has no rules: `netpath rules` and `netpath monitor`.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::reach::answers;
use netpath_tests::sockets::{PATIENCE, accept, at, converse, eventually};
use netpath_tests::{CLIENT, Container, Family, HOST, Options, Plane, Request, World};
use serde_json::Value;

on_netpath! {
    rules_count_the_packets_of_ports_and_links,
    rules_count_what_icc_refuses,
    rules_count_what_the_host_itself_begins,
}

on_netpath_once! {
    a_port_in_an_internal_network_is_shown_as_closed,
    a_monitor_sees_drops_and_new_flows,
    a_second_monitor_sees_what_comes_after_it,
    what_was_reported_to_a_dead_agent_is_not_news,
}

fn rules_count_the_packets_of_ports_and_links(plane: Plane) {
    let world = World::with(plane, Options { icc: false, ..Options::default() });
    let db = world.container_with("db", Request { expose: &["5432/tcp"], publish: &["8080:80"], ..Request::default() });
    let app = world.container_with("app", Request { links: &["db"], ..Request::default() });
    assert_eq!(packets(&rule(&world, "dnat", "db")), 0);
    let (http, sql) = (db.inside.listen(80), db.inside.listen(5432));
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&http).0);
    let dnat = rule(&world, "dnat", "db");
    assert!(packets(&dnat) >= 3 && dnat["bytes"].as_u64() > Some(120), "SYN, ACK and data: {dnat}");
    assert_eq!(dnat["action"], format!("to {}:80", db.address));
    let mut client = app.inside.connect(at(db.address, 5432));
    converse(&mut client, &mut accept(&sql).0);
    let link = rule(&world, "link", "app");
    assert!(packets(&link) >= 3, "{link}");
    assert_eq!(link["matches"], "dst db (db) 5432/tcp,80/tcp");
    assert!(packets(&rule(&world, "to", "db")) >= 3 && packets(&rule(&world, "from", "db")) >= 4);
    let outside = world.client.listen(7000);
    converse(&mut app.inside.connect(at(CLIENT, 7000)), &mut accept(&outside).0);
    assert!(packets(&rule(&world, "masquerade", "bridge")) >= 1);
}

fn rules_count_what_icc_refuses(plane: Plane) {
    let world = World::with(plane, Options { icc: false, ..Options::default() });
    let (one, two) = (world.container("one", &[]), world.container("two", &[]));
    let _server = two.inside.listen(80);
    assert_eq!(
        (packets(&rule(&world, "icc", "bridge")), &rule(&world, "icc", "bridge")["action"]),
        (0, &"drop".into())
    );
    assert!(!answers(&one.inside, at(two.address, 80)));
    let refused = packets(&rule(&world, "icc", "bridge"));
    assert!(refused >= 1);
    assert_eq!(packets(&rule(&world, "drop", "one")), refused);
}

fn rules_count_what_the_host_itself_begins(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80", "8080:80/udp"]);
    let http = web.inside.listen(80);
    let _dns = web.inside.udp(80);
    let counts = |proto: &str| {
        let rules = world.json(&["rules"]);
        let is_binding = |rule: &&Value| rule["kind"] == "dnat" && rule["matches"].as_str().unwrap().starts_with(proto);
        rules.as_array().unwrap().iter().filter(is_binding).map(packets).sum::<u64>()
    };
    for (number, addr) in (1..).zip([IpAddr::from(Ipv4Addr::LOCALHOST), HOST]) {
        converse(&mut world.host.connect(at(addr, 8080)), &mut accept(&http).0);
        assert_eq!(counts("tcp"), number, "a connection to {addr} is counted once");
    }
    let asker = world.host.udp(0);
    for number in 1..=3 {
        asker.send_to(b"question", at(HOST, 8080)).unwrap();
        assert_eq!(counts("udp"), number, "every datagram of a socket that is not connected is counted");
    }
}

fn a_port_in_an_internal_network_is_shown_as_closed(plane: Plane) {
    let world = World::new(plane);
    world.netpath_ok(&["network", "create", "--internal", "closed"]);
    let netns = world.namespace("web").path().display().to_string();
    world.netpath_ok(&["attach", "web", "--net", "closed", "--netns", &netns, "-p", "8080:80"]);
    let action = rule(&world, "dnat", "web")["action"].clone();
    assert!(action.as_str().is_some_and(|action| action.starts_with("closed")), "{action}");
    world.netpath_ok(&["network", "connect", "bridge", "web"]);
    assert_eq!(rule(&world, "dnat", "web")["action"], "to 172.17.0.2:80");
}

fn a_monitor_sees_drops_and_new_flows(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let path = world.dir().join("monitor");
    let mut monitor = world.instance().command(&world.host, ["monitor"]);
    world.spawn(monitor.stdout(File::create(&path).unwrap()));
    world.client.ip(&format!("route add {} via {HOST}", world.network("bridge").subnet(Family::V4)));
    let (asker, deadline) = (world.client.udp(0), Instant::now() + PATIENCE);
    let seen = || fs::read_to_string(&path).unwrap();
    while !(seen().contains("direct-access") && seen().contains("new-flow")) {
        assert!(Instant::now() < deadline, "the monitor printed: {}", seen());
        asker.send_to(b"question", at(app.address, 53)).unwrap();
        app.inside.udp(0).send_to(b"question", at(CLIENT, 7000)).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
}

fn a_second_monitor_sees_what_comes_after_it(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    assert!(!has_reports(&world), "nobody monitors");
    let first = Monitor::start(&world, "first");
    first.sees_flows_to(&app, 7001);
    assert!(has_reports(&world));
    drop(first);
    eventually("the reports are given back", || {
        begin_flow(&app, 7002);
        !has_reports(&world)
    });
    let second = Monitor::start(&world, "second");
    second.sees_flows_to(&app, 7003);
    let shown = second.shown();
    assert!(!shown.contains(":7001") && !shown.contains(":7002"), "{shown}");
}

fn what_was_reported_to_a_dead_agent_is_not_news(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let first = Monitor::start(&world, "first");
    first.sees_flows_to(&app, 7001);
    world.kill_agent();
    (0..10).for_each(|_| begin_flow(&app, 7002));
    world.start_agent();
    let second = Monitor::start(&world, "second");
    second.sees_flows_to(&app, 7003);
    assert!(!second.shown().contains(":7002"), "{}", second.shown());
}

/// `netpath monitor`, as long as this lives.
struct Monitor {
    child: Child,
    path: PathBuf,
}

impl Monitor {
    fn start(world: &World, name: &str) -> Self {
        let path = world.dir().join(name);
        let mut command = world.instance().command(&world.host, ["monitor"]);
        let child = command.stdout(File::create(&path).unwrap()).spawn().unwrap();
        Self { child, path }
    }

    fn shown(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    /// Begins flows of the container until one is shown.
    fn sees_flows_to(&self, container: &Container, port: u16) {
        eventually("the monitor shows a flow", || {
            begin_flow(container, port);
            self.shown().contains(&format!(":{port}"))
        });
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn begin_flow(container: &Container, port: u16) {
    container.inside.udp(0).send_to(b"question", at(CLIENT, port)).unwrap();
}

/// Whether the agent has the memory that the data plane reports into.
fn has_reports(world: &World) -> bool {
    fs::read_to_string(format!("/proc/{}/maps", world.agent_pid())).unwrap().contains("bpf-map")
}

/// The first rule of its kind and name.
fn rule(world: &World, kind: &str, name: &str) -> Value {
    let rules = world.json(&["rules"]);
    let found = rules.as_array().unwrap().iter().find(|rule| rule["kind"] == kind && rule["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("no rule {kind} of {name} in {rules}"))
}

fn packets(rule: &Value) -> u64 {
    rule["packets"].as_u64().unwrap_or_else(|| panic!("a number of packets: {rule}"))
}
