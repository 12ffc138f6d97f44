//! `netpath-netavark`, asked as Podman and netavark ask it.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::rc::Rc;

use netpath_tests::reach::Server;
use netpath_tests::sockets::{accept, at, converse};
use netpath_tests::{CLIENT, Container, Family, HOST, Namespace, Plane, World, program};
use serde_json::{Value, json};

on_netpath_once! {
    a_container_of_podman_is_served_until_it_is_torn_down,
    a_network_gets_what_it_does_not_say,
    a_container_may_be_in_two_networks,
    a_network_of_netpaths_own_can_be_used_and_stays,
    nothing_is_left_of_a_set_up_that_failed,
    what_makes_no_sense_is_refused,
}

const ID: &str = "4c0ffee04c0ffee04c0ffee04c0ffee04c0ffee04c0ffee04c0ffee04c0ffee0";

fn plugin(world: &World, arguments: &[&str], input: &Value) -> Output {
    let binary = program::netpath_binary().with_file_name("netpath-netavark");
    assert!(binary.is_file(), "no {}: run `cargo build -p netpath-netavark`", binary.display());
    let mut command = Command::new(binary);
    command.args(arguments).env("NETPATH_SOCKET", &world.instance().socket);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may have seen enough before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
    child.wait_with_output().unwrap()
}

fn answer(world: &World, arguments: &[&str], input: &Value) -> Value {
    let output = plugin(world, arguments, input);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() }
}

fn refusal(world: &World, arguments: &[&str], input: &Value) -> String {
    let output = plugin(world, arguments, input);
    assert!(!output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told["error"].as_str().unwrap().to_owned()
}

fn network(name: &str, options: Value) -> Value {
    json!({
        "name": name, "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
        "driver": "netpath-netavark", "created": "2026-11-22T00:00:00Z", "dns_enabled": true, "internal": false,
        "ipv6_enabled": false, "options": options,
    })
}

fn request(network: &Value, interface: &str, ip: &str, ports: Value) -> Value {
    json!({
        "container_id": ID, "container_name": "web", "port_mappings": ports, "network": network,
        "network_options": { "interface_name": interface, "static_ips": [ip], "static_mac": null, "aliases": [] },
    })
}

fn set_up(world: &World, inside: &Namespace, request: &Value) -> Value {
    answer(world, &["setup", path(inside)], request)
}

fn path(namespace: &Namespace) -> &str {
    let path: &Path = namespace.path();
    path.to_str().unwrap()
}

/// The container at its first address.
fn container(inside: &Rc<Namespace>, address: &str) -> Container {
    Container { name: ID.to_owned(), address: address.parse().unwrap(), address6: None, inside: Rc::clone(inside) }
}

fn a_container_of_podman_is_served_until_it_is_torn_down(plane: Plane) {
    let world = World::new(plane);
    let mut web = network("web", json!({ "mtu": "1400" }));
    web["subnets"] = json!([{ "subnet": "10.89.3.0/24", "gateway": "10.89.3.1" }]);
    let web = answer(&world, &["create"], &web);
    let inside = world.namespace("pod");
    let ports = json!([
        { "container_port": 80, "host_port": 8080, "host_ip": "", "protocol": "tcp,udp", "range": 1 },
        { "container_port": 90, "host_port": 9090, "host_ip": "198.18.0.1", "protocol": "tcp", "range": 2 },
    ]);
    let request = request(&web, "eth7", "10.89.3.9", ports);
    let status = set_up(&world, &inside, &request);
    let interface = &status["interfaces"]["eth7"];
    assert_eq!(interface["subnets"], json!([{ "ipnet": "10.89.3.9/24", "gateway": "10.89.3.1" }]));
    let link = inside.ip("-o link show dev eth7");
    assert!(link.contains("mtu 1400") && link.contains(interface["mac_address"].as_str().unwrap()), "{link}");

    let server = Server::new(&inside, Family::V4, 80);
    assert_eq!(server.sees(&world.client, at(HOST, 8080)), CLIENT);
    let last = inside.listen(91);
    converse(&mut world.client.connect(at(HOST, 9091)), &mut accept(&last).0);
    let outside = Server::new(&world.client, Family::V4, 7000);
    assert_eq!(outside.sees(&container(&inside, "10.89.3.9").inside, at(CLIENT, 7000)), HOST);

    for _ in 0..2 {
        assert_eq!(answer(&world, &["teardown", path(&inside)], &request), Value::Null);
        assert_eq!(inside.interfaces(), [] as [String; 0]);
        assert_eq!((containers(&world), networks(&world)), (vec![], vec!["bridge".to_owned()]));
    }
    world.client.assert_closed(at(HOST, 8080));
}

fn a_network_gets_what_it_does_not_say(plane: Plane) {
    let world = World::new(plane);
    let asked = network("web", json!({}));
    let web = answer(&world, &["create"], &asked);
    for name in ["name", "id", "driver", "created"] {
        assert_eq!(web[name], asked[name]);
    }
    let subnet = &web["subnets"][0];
    let (net, gateway) = (subnet["subnet"].as_str().unwrap(), subnet["gateway"].as_str().unwrap());
    let prefix = net.split_once(".0/").unwrap().0;
    assert!(gateway.starts_with(prefix) && gateway.ends_with(".1"), "{subnet}");
    assert_eq!((&web["ipam_options"]["driver"], &web["dns_enabled"]), (&json!("host-local"), &json!(false)));
    assert!(web["network_interface"].as_str().unwrap().starts_with("br-"));
    assert_eq!(networks(&world), ["bridge"], "it is Podman that keeps it");
}

fn a_container_may_be_in_two_networks(plane: Plane) {
    let world = World::new(plane);
    let (mut one, mut other) = (network("one", json!({})), network("other", json!({})));
    one["subnets"] = json!([{ "subnet": "10.89.1.0/24" }]);
    other["subnets"] = json!([{ "subnet": "10.89.2.0/24" }]);
    let inside = world.namespace("pod");
    let ports = json!([{ "container_port": 80, "host_port": 8080, "host_ip": "", "protocol": "tcp", "range": 1 }]);
    let first = request(&one, "eth0", "10.89.1.5", ports.clone());
    let second = request(&other, "eth1", "10.89.2.5", ports);
    set_up(&world, &inside, &first);
    set_up(&world, &inside, &second);
    assert_eq!(inside.interfaces(), ["eth0", "eth1"]);
    let server = inside.listen(80);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&server).0);
    answer(&world, &["teardown", path(&inside)], &first);
    assert_eq!(
        (inside.interfaces(), networks(&world)),
        (vec!["eth1".into()], vec!["bridge".into(), "podman-other".into()])
    );
    answer(&world, &["teardown", path(&inside)], &second);
    assert_eq!(containers(&world), [] as [String; 0]);
}

fn a_network_of_netpaths_own_can_be_used_and_stays(plane: Plane) {
    let world = World::new(plane);
    let used = answer(&world, &["create"], &network("used", json!({ "network": "bridge" })));
    assert_eq!(used["subnets"], json!([{ "subnet": "172.17.0.0/16", "gateway": "172.17.0.1" }]));
    let inside = world.namespace("pod");
    let request = request(&used, "eth0", "172.17.0.77", Value::Null);
    set_up(&world, &inside, &request);
    let neighbour = world.container("neighbour", &[]);
    let server = Server::new(&inside, Family::V4, 80);
    assert_eq!(server.sees(&neighbour.inside, at("172.17.0.77".parse::<IpAddr>().unwrap(), 80)), neighbour.address);
    answer(&world, &["teardown", path(&inside)], &request);
    assert_eq!(networks(&world), ["bridge"]);
}

fn nothing_is_left_of_a_set_up_that_failed(plane: Plane) {
    let world = World::new(plane);
    world.container("web", &["8080:80"]);
    let mut taken = network("taken", json!({}));
    taken["subnets"] = json!([{ "subnet": "10.89.1.0/24" }]);
    let inside = world.namespace("pod");
    let ports = json!([{ "container_port": 80, "host_port": 8080, "host_ip": "", "protocol": "tcp", "range": 1 }]);
    let error = refusal(&world, &["setup", path(&inside)], &request(&taken, "eth0", "10.89.1.5", ports));
    assert!(error.contains("8080"), "{error}");
    assert_eq!((inside.interfaces(), networks(&world)), (vec![], vec!["bridge".to_owned()]));
    assert_eq!(containers(&world), ["web"]);
}

fn what_makes_no_sense_is_refused(plane: Plane) {
    let world = World::new(plane);
    assert!(refusal(&world, &["create"], &network("web", json!({ "vlan": "7" }))).contains("vlan=7"));
    assert!(refusal(&world, &["create"], &network("web", json!({ "network": "nowhere" }))).contains("nowhere"));
    assert!(refusal(&world, &["create"], &json!("web")).contains("JSON"));
    let mut overlapping = network("web", json!({}));
    overlapping["subnets"] = json!([{ "subnet": "172.17.9.0/24" }]);
    assert!(refusal(&world, &["create"], &overlapping).contains("172.17."));
    assert!(refusal(&world, &["dance"], &Value::Null).contains("setup NETNS"));
    assert_eq!(answer(&world, &["info"], &Value::Null)["api_version"], "1.0.0");
    world.kill_agent();
    let error = refusal(&world, &["create"], &network("web", json!({})));
    assert!(error.contains(world.instance().socket.to_str().unwrap()), "{error}");
}

fn containers(world: &World) -> Vec<String> {
    names(&world.json(&["ps"]))
}

fn networks(world: &World) -> Vec<String> {
    names(&world.json(&["network", "ls"]))
}

fn names(list: &Value) -> Vec<String> {
    let mut names: Vec<_> =
        list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}
