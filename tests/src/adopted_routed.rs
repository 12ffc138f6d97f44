//! Containers that somebody else has connected without a bridge: the host routes to each of their interfaces.

use std::rc::Rc;
use std::time::Duration;

use netpath_tests::reach::{Server, pings};
use netpath_tests::sockets::{accept, at, converse, eventually};
use netpath_tests::transfer::Transfer;
use netpath_tests::{Family, Namespace, Options, Plane, World};
use serde_json::{Value, json};

on_netpath! {
    both_families_are_served_without_a_bridge,
    containers_with_and_without_a_bridge_reach_each_other,
    an_interface_that_is_not_served_leads_to_no_routed_container,
}

on_netpath_once! {
    the_host_reaches_a_container_without_a_bridge,
    an_interface_that_was_taken_for_external_is_one_no_more,
    a_host_end_may_get_another_hardware_address,
    what_cannot_be_adopted_without_a_bridge_is_refused,
}

const SUBNETS: [&str; 2] = ["10.77.0.0/24", "fd00:77::/64"];
const GATEWAYS: [&str; 2] = ["10.77.0.1", "fd00:77::1"];

/// A container that the test connects.
struct Pod<'a> {
    world: &'a World,
    name: String,
    number: u8,
    inside: Rc<Namespace>,
}

fn both_families_are_served_without_a_bridge(plane: Plane) {
    let world = World::with(plane, Options::dual());
    adopt_network(&world, json!({"mtu": 1400}));
    let (web, app) = (Pod::new(&world, 2), Pod::new(&world, 3));
    web.adopt(&["8080:80", "8080:80/udp"]);
    app.adopt(&["8081:80"]);
    for family in Family::BOTH {
        let server = Server::new(&web.inside, family, 80);
        assert_eq!(server.sees(&world.client, at(family.host(), 8080)), family.client());
        assert_eq!(server.sees(&app.inside, at(web.address(family), 80)), app.address(family));
        // As hairpin has it everywhere.
        assert_eq!(server.sees(&app.inside, at(family.host(), 8080)), family.host());
        assert_eq!(server.sees(&web.inside, at(family.host(), 8080)), family.host());
        server.is_not_reached(&world.client, at(web.address(family), 80));
        let outside = Server::new(&world.client, family, 7000);
        assert_eq!(outside.sees(&web.inside, at(family.client(), 7000)), family.host());
        for to in [family.client(), app.address(family), gateway(family)] {
            assert!(pings(&web.inside, to), "{to}");
        }
        let listener = app.inside.listen_at(at(family.any(), 81));
        let client = web.inside.connect(at(app.address(family), 81));
        let server = accept(&listener).0;
        let transfer = Transfer::start(&client, &server);
        transfer.advance(10 << 20);
        transfer.finish();
    }
    world.kill_agent();
    world.start_agent();
    for family in Family::BOTH {
        let server = Server::new(&web.inside, family, 80);
        assert_eq!(server.sees(&world.client, at(family.host(), 8080)), family.client());
        assert_eq!(server.sees(&app.inside, at(web.address(family), 80)), app.address(family));
    }
}

fn the_host_reaches_a_container_without_a_bridge(plane: Plane) {
    let world = World::with(plane, Options::dual());
    adopt_network(&world, json!({}));
    let web = Pod::new(&world, 2);
    web.adopt(&["8080:80", "8080:80/udp"]);
    for family in Family::BOTH {
        let server = Server::new(&web.inside, family, 80);
        for address in [family.loopback(), family.host()] {
            let seen = server.sees(&world.host, at(address, 8080));
            assert!([gateway(family), address].contains(&seen), "{address}: {seen}");
        }
        assert_eq!(server.sees(&world.host, at(web.address(family), 80)), gateway(family));
    }
}

/// It has no programs that could say so: the containers' own interfaces have.
fn an_interface_that_is_not_served_leads_to_no_routed_container(plane: Plane) {
    let agent = ["--external", "up0"].map(str::to_owned).to_vec();
    let world = World::with(plane, Options { ipv6: true, second_wire: true, agent, ..Options::default() });
    adopt_network(&world, json!({}));
    let web = Pod::new(&world, 2);
    web.adopt(&["8080:80", "8080:80/udp"]);
    for (family, subnet) in Family::BOTH.into_iter().zip(SUBNETS) {
        world.stranger().ip(&format!("route add {subnet} via {}", family.second_host()));
        let server = Server::new(&web.inside, family, 80);
        server.is_not_reached(world.stranger(), at(web.address(family), 80));
        assert_eq!(server.sees(&world.host, at(web.address(family), 80)), gateway(family));
        assert_eq!(server.sees(&world.client, at(family.host(), 8080)), family.client());
    }
    assert!(world.drops("direct-access") >= 2);
}

fn an_interface_that_was_taken_for_external_is_one_no_more(plane: Plane) {
    let world = World::with(plane, Options::dual());
    adopt_network(&world, json!({}));
    let web = Pod::new(&world, 2);
    let is_external = || {
        let (_, info) = world.instance().api("GET", "info", &Value::Null);
        info["externals"].as_array().unwrap().iter().any(|external| external["ifname"] == web.veth())
    };
    eventually("the interface is taken for external", is_external);
    web.adopt(&["8080:80", "8080:80/udp"]);
    assert!(!is_external());
    for family in Family::BOTH {
        let server = Server::new(&web.inside, family, 80);
        assert_eq!(server.sees(&world.client, at(family.host(), 8080)), family.client());
        let outside = Server::new(&world.client, family, 7000);
        assert_eq!(outside.sees(&web.inside, at(family.client(), 7000)), family.host());
    }
    // A veth that goes takes its container with it.
    world.host.ip(&format!("link del {}", web.veth()));
    eventually("the container is forgotten", || world.endpoint(&web.name).is_none());
}

fn a_host_end_may_get_another_hardware_address(plane: Plane) {
    let world = World::with(plane, Options::dual());
    adopt_network(&world, json!({"icc": false}));
    let web = Pod::new(&world, 2);
    web.adopt(&["8080:80"]);
    world.host.ip(&format!("link set {} address 02:00:00:00:77:77", web.veth()));
    // Without ICC nothing leaves but what is for the gateway. As soon as the kernel tells: udev gives many a veth another
    // address just after it was made.
    std::thread::sleep(Duration::from_secs(2));
    assert!(pings(&web.inside, Family::V4.client()));
    let listener = web.inside.listen(80);
    let mut client = world.client.connect(at(Family::V4.host(), 8080));
    converse(&mut client, &mut accept(&listener).0);
    // Also while no agent looks.
    world.kill_agent();
    world.host.ip(&format!("link set {} address 02:00:00:00:77:78", web.veth()));
    world.start_agent();
    web.inside.ip("neigh flush dev eth0");
    eventually("the container reaches the outside again", || pings(&web.inside, Family::V4.client()));
}

/// Who is on a bridge and who is not reach each other's published ports, and each other where the network says so.
fn containers_with_and_without_a_bridge_reach_each_other(plane: Plane) {
    let world = World::with(plane, Options::dual());
    adopt_network(&world, json!({}));
    let web = Pod::new(&world, 2);
    web.adopt(&["8080:80", "8080:80/udp"]);
    let app = world.container("app", &["8081:81", "8081:81/udp"]);
    for family in Family::BOTH {
        let (on_bridge, routed) = (Server::new(&app.inside, family, 81), Server::new(&web.inside, family, 80));
        assert_eq!(on_bridge.sees(&web.inside, at(family.host(), 8081)), family.host());
        assert_eq!(routed.sees(&app.inside, at(family.host(), 8080)), family.host());
        routed.is_not_reached(&app.inside, at(web.address(family), 80));
    }
}

fn what_cannot_be_adopted_without_a_bridge_is_refused(plane: Plane) {
    let world = World::with(plane, Options::dual());
    let api = |path: &str, body: &Value, wanted: &str| {
        let (status, answer) = world.instance().api("POST", path, body);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!([400, 409].contains(&status) && error.contains(wanted), "{body}: {status} {answer}, want `{wanted}`");
    };
    let network = |subnets: &[&str]| json!({"name": "routed", "adopt": true, "subnets": subnets});
    api("networks", &network(&[]), "say which subnet");
    api("networks", &network(&["172.17.0.0/24"]), "overlaps network `bridge`");
    adopt_network(&world, json!({}));
    let (web, other) = (Pod::new(&world, 2), Pod::new(&world, 3));
    let attach = |change: &[(&str, &str)]| {
        let mut interface = web.interface();
        change.iter().for_each(|(key, value)| interface[*key] = json!(value));
        json!({"name": "web", "netns": {"path": web.inside.path()}, "adopt": [interface]})
    };
    api("containers", &attach(&[("ifname", "up0")]), "not the other end of the container's interface eth0");
    api("containers", &attach(&[("ifname", &other.veth())]), "not the other end");
    api("containers", &attach(&[("ifname", "netpath0")]), "no veth that the host routes to by itself");
    api("containers", &attach(&[("address", "10.78.0.2")]), "out of range");
    api("containers", &attach(&[("address", "10.77.0.1")]), "already in use");
    api("containers", &attach(&[("interface", "eth7")]), "not the other end of the container's interface eth7");
    world.host.ip(&format!("link set {} master netpath0", web.veth()));
    api("containers", &attach(&[]), "no veth that the host routes to by itself");
    world.host.ip(&format!("link set {} nomaster", web.veth()));
    web.adopt(&[]);
    let (status, answer) = world.instance().api(
        "POST",
        "containers",
        &json!({"name": "own", "network": "routed",
        "netns": {"path": other.inside.path()}}),
    );
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("can only be adopted"), "{answer}");
}

fn adopt_network(world: &World, more: Value) {
    let mut body = json!({"name": "routed", "adopt": true, "subnets": SUBNETS, "gateways": GATEWAYS});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, answer) = world.instance().api("POST", "networks", &body);
    assert_eq!((status, &answer["bridge"]), (200, &Value::Null), "{answer}");
}

fn gateway(family: Family) -> std::net::IpAddr {
    family.pick(GATEWAYS[0], GATEWAYS[1]).parse().unwrap()
}

impl<'a> Pod<'a> {
    /// Connected as CNI's plugin `ptp` does it: the gateway's address on each host end, and a route to each container.
    fn new(world: &'a World, number: u8) -> Self {
        let name = format!("pod{number}");
        let pod = Self { world, inside: world.namespace(&name), name, number };
        let (veth, host, inside) = (pod.veth(), &world.host, &pod.inside);
        host.ip(&format!("link add {veth} type veth peer name eth0 netns {}", inside.path().display()));
        host.ip(&format!("link set {veth} mtu 1400 up"));
        inside.ip("link set eth0 mtu 1400 up");
        for family in Family::BOTH {
            let (bits, nodad) = family.pick((32, ""), (128, "nodad"));
            let (address, gateway, len) = (pod.address(family), gateway(family), family.pick(24, 64));
            host.ip(&format!("addr add {gateway}/{bits} dev {veth} {nodad}"));
            host.ip(&format!("route add {address}/{bits} dev {veth}"));
            inside.ip(&format!("addr add {address}/{len} dev eth0 {nodad}"));
            inside.ip(&format!("route del {} dev eth0", family.pick(SUBNETS[0], SUBNETS[1])));
            inside.ip(&format!("route add {gateway}/{bits} dev eth0"));
            inside.ip(&format!("-{} route add default via {gateway}", family.pick(4, 6)));
        }
        pod
    }

    fn address(&self, family: Family) -> std::net::IpAddr {
        family.pick(format!("10.77.0.{}", self.number), format!("fd00:77::{}", self.number)).parse().unwrap()
    }

    fn veth(&self) -> String {
        format!("v-{}", self.name)
    }

    fn interface(&self) -> Value {
        json!({"network": "routed", "ifname": self.veth(), "interface": "eth0", "address": self.address(Family::V4),
               "address6": self.address(Family::V6)})
    }

    fn adopt(&self, publish: &[&str]) {
        let body = json!({"name": self.name, "netns": {"path": self.inside.path()}, "adopt": [self.interface()],
                          "publish": publish});
        let (status, answer) = self.world.instance().api("POST", "containers", &body);
        assert_eq!(status, 200, "{answer}");
    }
}
