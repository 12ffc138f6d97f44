//! Ports and policies change while traffic flows; a container's namespace vanishes.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::Duration;

use netpath_tests::frames::FrameSocket;
use netpath_tests::reach::pings;
use netpath_tests::sockets::{PATIENCE, REFUSAL, accept, ask, at, converse, eventually};
use netpath_tests::topology::GATEWAY;
use netpath_tests::{CLIENT, Family, HOST, NetworkOptions, Options, Plane, World, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

on_every_plane! {
    a_port_published_later_is_reachable,
    an_unpublished_port_is_closed,
}

on_netpath! {
    connections_from_outside_end_with_their_port,
}

on_netpath_once! {
    a_new_container_is_announced_to_the_others,
    a_container_has_the_addresses_it_asks_for,
    a_network_on_a_bridge_that_is_there_has_its_subnet,
    a_networks_shortcuts_can_be_switched_while_running,
}

on_netpath! {
    icc_can_be_switched_while_running,
    shortcuts_can_be_switched_while_running,
    a_vanished_namespace_takes_its_endpoint_with_it,
    a_name_and_its_ports_can_be_used_again,
    a_new_host_address_serves_published_ports,
    a_new_external_interface_is_served,
    a_full_table_of_ports_keeps_no_interface_from_being_served,
    a_flood_of_changes_hides_none,
    a_bridge_removed_by_hand_is_made_anew_by_a_restart,
    a_gateway_that_is_not_the_bridge_is_not_announced_as_the_bridge,
}

fn a_port_published_later_is_reachable(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let (listener, other) = (web.inside.listen(80), web.inside.listen(90));
    let mut before = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    world.client.assert_closed(at(HOST, 9090));
    world.publish(&web, "9090:90");
    let mut client = world.client.connect(at(HOST, 9090));
    converse(&mut client, &mut accept(&other).0);
    converse(&mut before.0, &mut before.1);
}

fn an_unpublished_port_is_closed(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80", "9090:90"]);
    let (listener, _other) = (web.inside.listen(80), web.inside.listen(90));
    let mut before = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    world.unpublish(&web, "9090:90");
    world.client.assert_closed(at(HOST, 9090));
    converse(&mut before.0, &mut before.1);
}

fn connections_from_outside_end_with_their_port(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let listener = web.inside.listen(80);
    let (mut client, mut server) = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    converse(&mut client, &mut server);
    world.unpublish(&web, "8080:80");
    client.write_all(b"anybody there?").unwrap();
    server.set_read_timeout(Some(REFUSAL)).unwrap();
    assert!(server.read(&mut [0; 64]).is_err(), "what the client says does not arrive any more");
}

fn a_new_container_is_announced_to_the_others(plane: Plane) {
    let world = World::with(plane, Options { ipv6: true, ..Options::default() });
    let first = world.container("first", &[]);
    let mut wires = Family::BOTH.map(|family| (family, FrameSocket::new(&first.inside, "eth0")));
    let second = world.container("second", &[]);
    let mac = second.inside.mac("eth0");
    for (family, wire) in &mut wires {
        assert!(wire.sees_announcement(second.ip(*family), mac, PATIENCE), "{family:?}");
    }
}

fn a_container_has_the_addresses_it_asks_for(plane: Plane) {
    let world = World::with(plane, Options { ipv6: true, ..Options::default() });
    let inside = world.namespace("app");
    let path = inside.path().display().to_string();
    let mut args = vec!["attach", "app", "--netns", &path, "--mac-address", "02:42:c0:ff:ee:01"];
    args.extend(["--ip", "172.17.200.9", "--ip6", "fd00:17::c0de"]);
    world.netpath_ok(&args);
    assert_eq!(inside.mac("eth0"), [2, 0x42, 0xc0, 0xff, 0xee, 1]);
    for (asked, family) in [("172.17.200.9", Family::V4), ("fd00:17::c0de", Family::V6)] {
        let asked: IpAddr = asked.parse().unwrap();
        assert!(inside.addresses().contains(&asked), "{asked} is not among {:?}", inside.addresses());
        assert!(pings(&world.host, asked), "{family:?}");
    }
}

fn a_network_on_a_bridge_that_is_there_has_its_subnet(plane: Plane) {
    let world = World::new(plane);
    world.host.ip("link add lan0 type bridge");
    world.host.ip("addr add 10.60.0.1/24 dev lan0");
    world.host.ip("link set lan0 up");
    let before = world.host.ip("-4 -o addr show dev lan0");
    world.netpath_ok(&["network", "create", "--bridge", "lan0", "lan"]);
    let app = world.namespace("app");
    world.netpath_ok(&["attach", "app", "--net", "lan", "--netns", &app.path().display().to_string()]);
    assert!(app.addresses().contains(&"10.60.0.2".parse().unwrap()), "{:?}", app.addresses());
    assert!(pings(&app, "10.60.0.1".parse().unwrap()));
    world.netpath_ok(&["detach", "app"]);
    world.netpath_ok(&["network", "rm", "lan"]);
    assert_eq!(world.host.ip("-4 -o addr show dev lan0"), before, "somebody else's bridge is left as it was");
}

fn icc_can_be_switched_while_running(plane: Plane) {
    let world = World::new(plane);
    let (one, two) = (world.container("one", &[]), world.container("two", &[]));
    let listener = two.inside.listen(80);
    let mut before = (one.inside.connect(at(two.address, 80)), accept(&listener).0);
    patch(&world, "networks/bridge", r#"{"icc":false}"#);
    one.inside.assert_no_answer(at(two.address, 80));
    patch(&world, "networks/bridge", r#"{"icc":true}"#);
    converse(&mut before.0, &mut before.1);
}

fn shortcuts_can_be_switched_while_running(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let (inside, outside) = (web.inside.listen(80), world.client.listen(7000));
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&inside).0);
    let mut outbound = (web.inside.connect(at(CLIENT, 7000)), accept(&outside).0);
    for shortcuts in [false, true, false] {
        patch(&world, "info", &format!(r#"{{"shortcuts":{shortcuts}}}"#));
        converse(&mut published.0, &mut published.1);
        converse(&mut outbound.0, &mut outbound.1);
    }
}

fn a_networks_shortcuts_can_be_switched_while_running(plane: Plane) {
    let world = World::new(plane);
    world.lets_netfilter_work();
    world.create_network("ruled", NetworkOptions::default());
    let web = world.container_on("ruled", "web", &["8080:80"]);
    let listener = web.inside.listen(80);
    let reaches = || world.client.try_connect(0, at(HOST, 8080), REFUSAL).is_ok();
    program::stdout_of(
        world.host.command("iptables").args(["-A", "FORWARD", "-p", "tcp", "--dport", "80", "-j", "DROP"]),
    );
    for (switch, is_open) in [("off", false), ("on", true), ("off", false)] {
        world.netpath_ok(&["network", "set", "ruled", &format!("--shortcuts={switch}")]);
        assert_eq!(reaches(), is_open, "{switch}");
        let shown = world.netpath_ok(&["network", "ls"]);
        assert_eq!(shown.contains("no shortcuts"), !is_open, "{shown}");
    }
    // As the state says.
    world.kill_agent();
    world.start_agent();
    assert!(!reaches());
    drop(listener);
    let nothing = world.netpath(&["network", "set", "ruled"]);
    assert_eq!(nothing.status.code(), Some(2), "{nothing:?}");
    world.netpath_ok(&["network", "create", "--shortcuts=off", "another"]);
    let another = world.netpath_ok(&["network", "inspect", "another"]);
    assert!(another.contains("\"shortcuts\": false") && another.contains("\"icc\": true"), "{another}");
}

fn a_vanished_namespace_takes_its_endpoint_with_it(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    assert_eq!(world.host.interfaces().len(), 3, "up0, the bridge and one veth");
    web.inside.remove();
    eventually("the endpoint goes away", || world.endpoint("web").is_none());
    assert_eq!(world.host.interfaces().len(), 2, "up0 and the bridge");
    world.client.assert_closed(at(HOST, 8080));
}

fn a_name_and_its_ports_can_be_used_again(plane: Plane) {
    let world = World::new(plane);
    let first = world.container("web", &["8080:80"]);
    world.netpath_ok(&["detach", "web"]);
    assert_eq!(first.inside.interfaces(), Vec::<String>::new());
    let inside = world.namespace("again");
    let path = inside.path().display().to_string();
    world.netpath_ok(&["attach", "web", "--netns", &path, "-p", "8080:80"]);
    let listener = inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
}

fn a_new_host_address_serves_published_ports(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let listener = web.inside.listen(80);
    world.host.ip("addr add 198.18.0.11/24 dev up0");
    let address = "198.18.0.11:8080".parse().unwrap();
    eventually("the port opens at the new address", || {
        world.client.try_connect(0, address, Duration::from_millis(200)).is_ok()
    });
    drop(accept(&listener));
    let mut client = world.client.connect(address);
    converse(&mut client, &mut accept(&listener).0);
    world.host.ip("addr del 198.18.0.11/24 dev up0");
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
}

fn a_new_external_interface_is_served(plane: Plane) {
    let world = World::with(plane, Options::default());
    let web = world.container("web", &["8080:80"]);
    let listener = web.inside.listen(80);
    let (host, remote) = add_wire(&world);
    eventually("the port opens at the new interface", || {
        world.client.try_connect(0, at(host, 8080), Duration::from_millis(200)).is_ok()
    });
    drop(accept(&listener));
    let mut stream = world.client.connect(at(host, 8080));
    converse(&mut stream, &mut accept(&listener).0);
    let seen = ask(&web.inside.udp(0), &world.client.udp_at(at(remote, 7000)), at(remote, 7000));
    assert_eq!(seen.ip(), host, "masqueraded with the address of the interface it leaves by");
}

fn a_full_table_of_ports_keeps_no_interface_from_being_served(plane: Plane) {
    // One port takes an entry for the wire's address, one for the bridge's and one for the host's own use.
    let world = World::with(plane, Options::agent("--max-ports 3"));
    let web = world.container("web", &["8080:80"]);
    let (host, remote) = add_wire(&world);
    eventually("the agent says that a port has no room", || {
        world.instance().log_text().contains("have no room, --max-ports is 3")
    });
    let seen = ask(&web.inside.udp(0), &world.client.udp_at(at(remote, 7000)), at(remote, 7000));
    assert_eq!(seen.ip(), host, "masqueraded with the address of the interface it leaves by");
    let listener = web.inside.listen(80);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&listener).0);
    world.host.ip("link del up1");
    eventually("the agent says that every port has room", || {
        world.instance().log_text().contains("all published ports have room again")
    });
}

fn a_flood_of_changes_hides_none(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let listener = web.inside.listen(80);
    let agent = world.take_agent();
    let signal = |signal| kill(Pid::from_raw(agent.pid() as i32), signal).unwrap();
    signal(Signal::SIGSTOP);
    let routes = world.dir().join("routes");
    let lines: String = (0..4000).map(|i| format!("route add 10.{}.{}.0/24 dev up0\n", i / 256, i % 256)).collect();
    fs::write(&routes, lines).unwrap();
    world.host.ip(&format!("-batch {}", routes.display()));
    // There is no room left for word of this.
    world.host.ip("addr add 198.18.0.11/24 dev up0");
    signal(Signal::SIGCONT);
    let address = "198.18.0.11:8080".parse().unwrap();
    eventually("the port opens at the new address", || {
        world.client.try_connect(0, address, Duration::from_millis(200)).is_ok()
    });
    drop(accept(&listener));
    world.container("second", &[]);
}

fn a_bridge_removed_by_hand_is_made_anew_by_a_restart(plane: Plane) {
    const A_MOMENT: Duration = Duration::from_secs(2);
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let (inside, outside) = (web.inside.listen(80), world.client.listen(7000));
    // From here on the container remembers the gateway's hardware address.
    converse(&mut web.inside.connect(at(CLIENT, 7000)), &mut accept(&outside).0);
    let old_mac = world.host.mac("netpath0");
    world.host.ip("link del netpath0");
    eventually("the agent says that the bridge is gone", || {
        world.instance().log_text().contains("bridge netpath0 has been removed")
    });
    let free = world.namespace("free").path().display().to_string();
    let refused = world.netpath(&["attach", "app", "--netns", &free]);
    let message = program::text(&refused.stderr);
    assert!(!refused.status.success() && message.contains("restart the agent"), "{}: {message}", refused.status);
    let mut wire = FrameSocket::new(&web.inside, "eth0");
    world.kill_agent();
    world.start_agent();
    let new_mac = world.host.mac("netpath0");
    assert_ne!(new_mac, old_mac);
    let mut outbound = web.inside.try_connect(0, at(CLIENT, 7000), A_MOMENT).unwrap();
    converse(&mut outbound, &mut accept(&outside).0);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&inside).0);
    assert!(wire.sees_announcement(GATEWAY, new_mac, A_MOMENT), "the gateway's new hardware address is announced");
    world.netpath_ok(&["attach", "app", "--netns", &free]);
}

fn a_gateway_that_is_not_the_bridge_is_not_announced_as_the_bridge(plane: Plane) {
    const OTHER_GATEWAY: &str = "172.17.0.254";
    let world = World::with(plane, Options::agent(&format!("--default-gateway {OTHER_GATEWAY}")));
    let web = world.container("web", &[]);
    let mut wires = [FrameSocket::new(&web.inside, "eth0"), FrameSocket::new(&web.inside, "eth0")];
    world.kill_agent();
    world.start_agent();
    let mac = world.host.mac("netpath0");
    assert!(wires[0].sees_announcement(GATEWAY, mac, PATIENCE), "the bridge's address is announced");
    assert!(!wires[1].sees_announcement(OTHER_GATEWAY.parse().unwrap(), mac, REFUSAL));
}

/// Lays another wire from the host to the client; the addresses of both.
fn add_wire(world: &World) -> (IpAddr, IpAddr) {
    let (host, client) = (world.host.path().display(), world.client.path().display());
    let wire = format!("link add up1 netns {host} type veth peer name eth1 netns {client}");
    program::ip(wire.split_whitespace());
    for (namespace, ifname, address) in [(&world.host, "up1", "198.19.0.1"), (&world.client, "eth1", "198.19.0.2")] {
        namespace.ip(&format!("addr add {address}/24 dev {ifname}"));
        namespace.ip(&format!("link set {ifname} up"));
    }
    ("198.19.0.1".parse().unwrap(), "198.19.0.2".parse().unwrap())
}

/// Changes what the API has at `path`.
fn patch(world: &World, path: &str, body: &str) {
    let body = serde_json::from_str(body).unwrap();
    let (status, answer) = world.instance().api("PATCH", path, &body);
    assert_eq!(status, 200, "{answer}");
}
