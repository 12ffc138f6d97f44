//! Programs that hang as filters of clsact qdiscs, as on kernels without tcx links, in place of links.

use netpath_tests::reach::Server;
use netpath_tests::sockets::{accept, at, converse, eventually};
use netpath_tests::{CLIENT, Family, HOST, Namespace, Options, Plane, World, program};

use serde_json::Value;

use crate::teardown::down_by_directories;

on_netpath! {
    filters_serve_both_families_on_every_road,
    a_restart_replaces_filters_and_costs_no_connection,
}

on_netpath_once! {
    down_removes_filters_and_the_qdisc_that_was_made,
    down_does_so_when_the_state_is_lost,
    filters_and_qdiscs_of_others_stay,
    filters_that_somebody_removed_are_back_after_a_restart,
    filters_that_somebody_removes_are_put_back,
    what_hangs_by_links_stays_that_way_until_down,
}

fn without_tcx(plane: Plane) -> World {
    World::with(plane, Options { ipv6: true, ..Options::agent("--tcx off") })
}

/// The programs that `tc` shows at one side of an interface.
fn filters(namespace: &Namespace, ifname: &str, side: &str) -> Vec<String> {
    let shown = program::stdout_of(namespace.command("tc").args(["filter", "show", "dev", ifname, side]));
    let names = shown.lines().filter_map(|line| line.split_once("handle ")?.1.split(' ').nth(1).map(str::to_owned));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn has_clsact(namespace: &Namespace, ifname: &str) -> bool {
    program::stdout_of(namespace.command("tc").args(["qdisc", "show", "dev", ifname])).contains("clsact")
}

fn tc(namespace: &Namespace, line: &str) {
    program::stdout_of(namespace.command("tc").args(line.split(' ')));
}

const INGRESS: [&str; 2] = ["from_external", "from_external6"];
const EGRESS: [&str; 2] = ["to_external", "to_external6"];

fn filters_serve_both_families_on_every_road(plane: Plane) {
    let world = without_tcx(plane);
    let (web, app) = (world.container("web", &["8080:80", "8080:80/udp"]), world.container("app", &[]));
    assert_eq!(
        (filters(&world.host, "up0", "ingress"), filters(&world.host, "up0", "egress")),
        (INGRESS.map(str::to_owned).to_vec(), EGRESS.map(str::to_owned).to_vec())
    );
    for family in Family::BOTH {
        let server = Server::new(&web.inside, family, 80);
        assert_eq!(server.sees(&world.client, at(family.host(), 8080)), family.client());
        assert_eq!(server.sees(&app.inside, at(family.host(), 8080)), family.host(), "hairpin");
        assert_eq!(server.sees(&app.inside, at(web.ip(family), 80)), app.ip(family), "neighbours");
        let outside = Server::new(&world.client, family, 7000);
        assert_eq!(outside.sees(&app.inside, at(family.client(), 7000)), family.host());
        server.is_not_reached(&world.client, at(family.host(), 8081));
    }
}

fn a_restart_replaces_filters_and_costs_no_connection(plane: Plane) {
    let world = without_tcx(plane);
    let web = world.container("web", &["8080:80"]);
    let (inside, outside) = (web.inside.listen(80), world.client.listen(7000));
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&inside).0);
    let mut outbound = (web.inside.connect(at(CLIENT, 7000)), accept(&outside).0);
    world.kill_agent();
    converse(&mut published.0, &mut published.1);
    world.start_agent();
    converse(&mut published.0, &mut published.1);
    converse(&mut outbound.0, &mut outbound.1);
    assert_eq!(filters(&world.host, "up0", "ingress"), INGRESS);
    assert_eq!(filters(&world.host, "up0", "egress"), EGRESS);
}

fn down_removes_filters_and_the_qdisc_that_was_made(plane: Plane) {
    let world = without_tcx(plane);
    world.container("web", &["8080:80"]);
    assert!(has_clsact(&world.host, "up0"));
    world.netpath_ok(&["down"]);
    assert!(!has_clsact(&world.host, "up0"));
    assert!(!world.instance().pin_dir.exists());
}

fn down_does_so_when_the_state_is_lost(plane: Plane) {
    let world = without_tcx(plane);
    world.kill_agent();
    std::fs::remove_dir_all(&world.instance().state_dir).unwrap();
    down_by_directories(&world);
    assert!(!has_clsact(&world.host, "up0"));
    assert!(!world.instance().pin_dir.exists());
}

fn filters_and_qdiscs_of_others_stay(plane: Plane) {
    let world = World::new(plane);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    tc(&world.host, "qdisc add dev up0 clsact");
    // One that matches nothing.
    let line = ["filter", "add", "dev", "up0", "ingress", "prio", "7", "bpf", "bytecode", "1,6 0 0 0,"];
    program::stdout_of(world.host.command("tc").args(line));
    world.start_agent_with(&["--tcx=off".to_owned()]);
    let web = world.container("web", &["8080:80"]);
    let server = web.inside.listen(80);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&server).0);
    world.netpath_ok(&["down"]);
    assert!(has_clsact(&world.host, "up0"));
    let left = program::stdout_of(world.host.command("tc").args(["filter", "show", "dev", "up0", "ingress"]));
    assert!(left.contains("pref 7") && !left.contains("from_external"), "{left}");
}

fn filters_that_somebody_removed_are_back_after_a_restart(plane: Plane) {
    let world = without_tcx(plane);
    let web = world.container("web", &["8080:80"]);
    tc(&world.host, "qdisc del dev up0 clsact");
    world.kill_agent();
    world.start_agent();
    let server = web.inside.listen(80);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&server).0);
    assert_eq!(filters(&world.host, "up0", "ingress"), INGRESS);
}

fn filters_that_somebody_removes_are_put_back(plane: Plane) {
    let world = without_tcx(plane);
    let web = world.container("web", &["8080:80"]);
    let server = web.inside.listen(80);
    let endpoint = world.endpoint("web").expect("web has an endpoint");
    let networks: Value = serde_json::from_str(&world.netpath_ok(&["network", "inspect", "bridge"])).unwrap();
    let (veth, bridge) =
        (endpoint["endpoints"][0]["ifname"].as_str().unwrap(), networks[0]["bridge"].as_str().unwrap());
    let sides = [("up0", "ingress"), ("up0", "egress"), (veth, "ingress"), (bridge, "egress")];
    let shown = || sides.map(|(ifname, side)| filters(&world.host, ifname, side));
    let whole = shown();
    assert!(whole.iter().all(|names| !names.is_empty()), "{whole:?}");
    let strip = [
        "qdisc del dev up0 clsact".to_owned(),
        "filter del dev up0 egress".to_owned(),
        format!("filter del dev {veth} ingress"),
        format!("qdisc del dev {bridge} clsact"),
    ];
    for line in strip {
        tc(&world.host, &line);
        eventually(&format!("the agent undoes `tc {line}`"), || shown() == whole);
        converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&server).0);
    }
}

fn what_hangs_by_links_stays_that_way_until_down(plane: Plane) {
    let world = World::new(plane);
    if has_clsact(&world.host, "up0") {
        return eprintln!("skipped: this kernel has no tcx links (Linux 6.6)");
    }
    let web = world.container("web", &["8080:80"]);
    world.kill_agent();
    world.start_agent_with(&["--tcx=off".to_owned()]);
    assert!(!has_clsact(&world.host, "up0"));
    let server = web.inside.listen(80);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&server).0);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    world.start_agent_with(&["--tcx=off".to_owned()]);
    assert!(has_clsact(&world.host, "up0"));
}
