//! Networks and containers that somebody else has connected: served as they are, and left as they are.

use std::net::IpAddr;
use std::rc::Rc;

use netpath_tests::sockets::{accept, at, converse, eventually};
use netpath_tests::{CLIENT, HOST, Namespace, Plane, World, netfilter, reach};
use serde_json::{Value, json};

on_netpath! {
    an_adopted_container_is_served_like_netpaths_own,
    what_is_adopted_survives_the_agent,
    what_is_forgotten_is_left_as_it_was,
    policy_holds_in_adopted_networks,
}

on_netpath_once! {
    a_container_is_adopted_in_two_networks_at_once,
    a_bridge_that_goes_takes_its_network_with_it,
    a_bridge_that_went_without_an_agent_costs_nothing_else,
    a_veth_that_goes_takes_its_container_with_it,
    what_cannot_be_adopted_is_refused,
    adopted_networks_survive_a_lost_state,
}

/// A bridge that the test makes, 10.77.NUMBER.1/24 on the host.
struct Foreign<'a> {
    world: &'a World,
    number: u8,
}

/// A container that the test connects.
struct Pod {
    name: String,
    address: IpAddr,
    inside: Rc<Namespace>,
}

fn an_adopted_container_is_served_like_netpaths_own(plane: Plane) {
    let world = World::new(plane);
    let foreign = Foreign::new(&world, 1);
    foreign.adopt(json!({}));
    let web = foreign.pod("web", 2);
    web.adopt(&[&foreign], json!({"publish": ["8080:80"]}));
    let shown = world.endpoint("web").unwrap();
    assert_eq!(shown["endpoints"][0]["mac"], mac_text(web.inside.mac("eth0")), "{shown}");
    assert_eq!((&shown["files"], &shown["endpoints"][0]["ifname"]), (&Value::Null, &json!("v1-web")));
    talk_both_ways(&world, &web);
    let own = world.container("own", &["8081:80"]);
    let listener = own.inside.listen(80);
    let mut client = web.inside.connect(at(HOST, 8081));
    converse(&mut client, &mut accept(&listener).0);
    let listener = web.inside.listen(80);
    let mut client = web.inside.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
}

fn what_is_adopted_survives_the_agent(plane: Plane) {
    let world = World::new(plane);
    let foreign = Foreign::new(&world, 1);
    foreign.adopt(json!({"icc": false}));
    let web = foreign.pod("web", 2);
    web.adopt(&[&foreign], json!({"publish": ["8080:80"]}));
    let (inside, outside) = (web.inside.listen(80), world.client.listen(7000));
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&inside).0);
    let mut outbound = (web.inside.connect(at(CLIENT, 7000)), accept(&outside).0);
    let before = (world.json(&["ps"]), world.json(&["network", "ls"]), foreign.seen());
    world.kill_agent();
    world.start_agent();
    assert_eq!((world.json(&["ps"]), world.json(&["network", "ls"]), foreign.seen()), before);
    converse(&mut published.0, &mut published.1);
    converse(&mut outbound.0, &mut outbound.1);
    drop((inside, outside));
    talk_both_ways(&world, &web);
}

fn what_is_forgotten_is_left_as_it_was(plane: Plane) {
    let world = World::new(plane);
    let foreign = Foreign::new(&world, 1);
    let (web, other) = (foreign.pod("web", 2), foreign.pod("other", 3));
    let before = foreign.seen();
    foreign.adopt(json!({"mtu": 1300}));
    web.adopt(&[&foreign], json!({"publish": ["8080:80"]}));
    other.adopt(&[&foreign], json!({"publish": ["8081:80"]}));
    let _listeners = (web.inside.listen(80), other.inside.listen(80));
    assert_eq!(foreign.seen(), before);
    delete(&world, "containers/web");
    world.client.assert_closed(at(HOST, 8080));
    assert!(world.client.try_connect(0, at(HOST, 8081), netpath_tests::sockets::PATIENCE).is_ok());
    assert_eq!(foreign.seen(), before);
    delete(&world, "containers/other");
    delete(&world, "networks/n1");
    assert_eq!(foreign.seen(), before);
    foreign.adopt(json!({}));
    web.adopt(&[&foreign], json!({"publish": ["8080:80"]}));
    world.netpath_ok(&["down"]);
    assert_eq!(foreign.seen(), before);
    world.client.assert_closed(at(HOST, 8080));
}

fn policy_holds_in_adopted_networks(plane: Plane) {
    let world = World::new(plane);
    let (open, closed, inner) = (Foreign::new(&world, 1), Foreign::new(&world, 2), Foreign::new(&world, 3));
    open.adopt(json!({}));
    closed.adopt(json!({"icc": false}));
    inner.adopt(json!({"internal": true}));
    for (foreign, talk) in [(&open, true), (&closed, false), (&inner, true)] {
        let (one, two) = (foreign.pod("one", 2), foreign.pod("two", 3));
        one.adopt(&[foreign], json!({}));
        two.adopt(&[foreign], json!({}));
        let listener = two.inside.listen(80);
        if talk {
            let mut client = one.inside.connect(at(two.address, 80));
            converse(&mut client, &mut accept(&listener).0);
        } else {
            one.inside.assert_no_answer(at(two.address, 80));
        }
        if foreign.number == 3 {
            let _outside = world.client.listen(7000);
            one.inside.assert_closed(at(CLIENT, 7000));
        }
        [one, two].iter().for_each(|pod| delete(&world, &format!("containers/{}", pod.name)));
    }
}

fn a_container_is_adopted_in_two_networks_at_once(plane: Plane) {
    let world = World::new(plane);
    let (first, second) = (Foreign::new(&world, 1), Foreign::new(&world, 2));
    first.adopt(json!({"internal": true}));
    second.adopt(json!({}));
    let web = first.pod("web", 2);
    second.connect(&web, 2, "eth1");
    web.inside.ip("route replace default via 10.77.2.1");
    web.adopt(&[&first, &second], json!({"publish": ["8080:80"]}));
    talk_both_ways(&world, &web);
    delete(&world, "networks/n2/endpoints/web");
    world.client.assert_closed(at(HOST, 8080));
    let body = json!({"container": "web", "adopt": second.interface(&web, "eth1")});
    let (status, answer) = world.instance().api("POST", "networks/n2/endpoints", &body);
    assert_eq!(status, 200, "{answer}");
    talk_both_ways(&world, &web);
}

fn a_bridge_that_goes_takes_its_network_with_it(plane: Plane) {
    let world = World::new(plane);
    let foreign = Foreign::new(&world, 1);
    foreign.adopt(json!({}));
    foreign.pod("web", 2).adopt(&[&foreign], json!({"publish": ["8080:80"]}));
    world.host.ip("link del br-n1");
    eventually("the network is forgotten", || world.json(&["network", "ls"]).as_array().unwrap().len() == 1);
    assert!(world.endpoint("web").is_none());
    world.client.assert_closed(at(HOST, 8080));
}

fn a_bridge_that_went_without_an_agent_costs_nothing_else(plane: Plane) {
    let world = World::new(plane);
    let foreign = Foreign::new(&world, 1);
    foreign.adopt(json!({}));
    foreign.pod("web", 2).adopt(&[&foreign], json!({}));
    let own = world.container("own", &["8081:80"]);
    world.kill_agent();
    world.host.ip("link del br-n1");
    world.start_agent();
    assert_eq!(world.json(&["network", "ls"]).as_array().unwrap().len(), 1);
    assert!(world.endpoint("web").is_none());
    let listener = own.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8081));
    converse(&mut client, &mut accept(&listener).0);
}

fn a_veth_that_goes_takes_its_container_with_it(plane: Plane) {
    let world = World::new(plane);
    let foreign = Foreign::new(&world, 1);
    foreign.adopt(json!({}));
    foreign.pod("web", 2).adopt(&[&foreign], json!({"publish": ["8080:80"]}));
    world.host.ip("link del v1-web");
    eventually("the container is forgotten", || world.endpoint("web").is_none());
    let again = Pod { inside: world.namespace("again"), name: "web".to_owned(), address: [10, 77, 1, 2].into() };
    foreign.connect(&again, 2, "eth0");
    again.adopt(&[&foreign], json!({"publish": ["8080:80"]}));
}

fn what_cannot_be_adopted_is_refused(plane: Plane) {
    let world = World::new(plane);
    let foreign = Foreign::new(&world, 1);
    let api = |path: &str, body: &Value, wanted: &str| {
        let (status, answer) = world.instance().api("POST", path, body);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!([400, 409].contains(&status) && error.contains(wanted), "{body}: {status} {answer}, want `{wanted}`");
    };
    let network = |more: Value| merged(json!({"name": "n1", "adopt": true}), more);
    api("networks", &network(json!({})), "say which subnet it serves");
    api("networks", &network(json!({"bridge": "nobody"})), "no bridge nobody");
    api("networks", &network(json!({"bridge": "up0"})), "no bridge up0");
    let subnet = json!({"bridge": "br-n1", "subnets": ["10.77.1.0/24"], "gateways": ["10.78.1.1"]});
    api("networks", &network(subnet), "no matching subnet for gateway 10.78.1.1");
    api("networks", &network(json!({"bridge": "br-n1", "subnets": ["172.17.0.0/24"]})), "overlaps network `bridge`");
    foreign.adopt(json!({}));
    let pod = foreign.pod("pod", 2);
    let taken = foreign.pod("taken", 3);
    taken.adopt(&[&foreign], json!({}));
    let attach = |interface: Value| {
        let interface = merged(foreign.interface(&pod, "eth0"), interface);
        json!({"name": "pod", "netns": {"path": pod.inside.path()}, "adopt": [interface]})
    };
    api("containers", &attach(json!({"network": "bridge"})), "is netpath's own");
    api("containers", &attach(json!({"ifname": "nobody"})), "there is no such interface");
    api("containers", &attach(json!({"ifname": "up0"})), "no port of br-n1");
    api("containers", &attach(json!({"ifname": "v1-taken"})), "belongs to container `taken`");
    api("containers", &attach(json!({"interface": "eth7"})), "no interface eth7");
    api("containers", &attach(json!({"address": "10.77.1.3"})), "already in use");
    api("containers", &attach(json!({"address": "10.78.1.3"})), "out of range");
    api("containers", &attach(json!({"address": null})), "address is missing");
    api("containers", &merged(attach(json!({})), json!({"network": "bridge"})), "no interface to adopt is in");
    api("containers", &merged(attach(json!({})), json!({"names": {}})), "files of its own");
    let own = json!({"name": "pod", "netns": {"path": pod.inside.path()}, "network": "n1"});
    api("containers", &own, "can only be adopted");
    pod.adopt(&[&foreign], json!({}));
}

fn adopted_networks_survive_a_lost_state(plane: Plane) {
    let world = World::new(plane);
    let foreign = Foreign::new(&world, 1);
    foreign.adopt(json!({}));
    let web = foreign.pod("web", 2);
    web.adopt(&[&foreign], json!({"publish": ["8080:80"]}));
    let before = foreign.seen();
    world.kill_agent();
    std::fs::remove_file(world.instance().state_dir.join("state.json")).unwrap();
    world.start_agent();
    talk_both_ways(&world, &web);
    world.netpath_ok(&["down"]);
    assert_eq!(foreign.seen(), before);
}

impl<'a> Foreign<'a> {
    fn new(world: &'a World, number: u8) -> Self {
        let foreign = Self { world, number };
        let bridge = foreign.bridge();
        world.host.ip(&format!("link add {bridge} type bridge"));
        world.host.ip(&format!("addr add 10.77.{number}.1/24 dev {bridge}"));
        world.host.ip(&format!("link set {bridge} up"));
        foreign
    }

    fn bridge(&self) -> String {
        format!("br-n{}", self.number)
    }

    /// Adopts the bridge as network `nNUMBER`.
    fn adopt(&self, more: Value) {
        let body = json!({"name": format!("n{}", self.number), "bridge": self.bridge(), "adopt": true});
        let (status, answer) = self.world.instance().api("POST", "networks", &merged(body, more));
        assert_eq!(status, 200, "{answer}");
        assert_eq!((&answer["owner"], &answer["mtu"]), (&json!("other"), &json!(1500)), "{answer}");
    }

    /// A namespace that is connected to the bridge as 10.77.NUMBER.HOST.
    fn pod(&self, name: &str, host: u8) -> Pod {
        let inside = self.world.namespace(&format!("{name}-{}", self.number));
        let address = IpAddr::from([10, 77, self.number, host]);
        let pod = Pod { name: name.to_owned(), address, inside };
        self.connect(&pod, host, "eth0");
        pod.inside.ip(&format!("route add default via 10.77.{}.1", self.number));
        pod
    }

    fn connect(&self, pod: &Pod, host: u8, interface: &str) {
        let (veth, outside) = (self.veth(pod), &self.world.host);
        outside.ip(&format!("link add {veth} type veth peer name {interface} netns {}", pod.inside.path().display()));
        outside.ip(&format!("link set {veth} master {} up", self.bridge()));
        pod.inside.ip(&format!("addr add 10.77.{}.{host}/24 dev {interface}", self.number));
        pod.inside.ip(&format!("link set {interface} up"));
    }

    fn veth(&self, pod: &Pod) -> String {
        format!("v{}-{}", self.number, pod.name)
    }

    /// What the API is told about the interface of `pod`.
    fn interface(&self, pod: &Pod, interface: &str) -> Value {
        let listed = pod.inside.ip(&format!("-4 -o addr show dev {interface}"));
        let address = listed.split_whitespace().nth(3).and_then(|word| word.split('/').next()).unwrap();
        let network = format!("n{}", self.number);
        json!({"network": network, "ifname": self.veth(pod), "interface": interface, "address": address})
    }

    /// What somebody has set of the bridge and its ports.
    fn seen(&self) -> Vec<Value> {
        let all: Value = serde_json::from_str(&self.world.host.ip("-j addr show")).unwrap();
        let is_mine = |link: &&Value| [&link["ifname"], &link["master"]].contains(&&json!(self.bridge()));
        const FIELDS: [&str; 7] = ["ifname", "mtu", "master", "address", "ifalias", "group", "txqlen"];
        let set = |link: &Value| {
            // The kernel gives those of the link itself, some time after the interface is up.
            let addresses = link["addr_info"].as_array().unwrap().iter().filter(|address| address["scope"] != "link");
            let addresses = addresses.map(|address| address["local"].clone());
            let flags = link["flags"].as_array().unwrap().contains(&json!("UP"));
            json!([FIELDS.map(|field| link[field].clone()), addresses.collect::<Vec<_>>(), flags])
        };
        all.as_array().unwrap().iter().filter(is_mine).map(set).collect()
    }
}

impl Pod {
    /// Has netpath serve the container, whose interface in `networks[i]` is `eth{i}`.
    fn adopt(&self, networks: &[&Foreign<'_>], more: Value) {
        let interfaces = networks.iter().enumerate().map(|(i, foreign)| foreign.interface(self, &format!("eth{i}")));
        let interfaces: Vec<Value> = interfaces.collect();
        let body = json!({"name": self.name, "netns": {"path": self.inside.path()}, "adopt": interfaces});
        let (status, answer) = networks[0].world.instance().api("POST", "containers", &merged(body, more));
        assert_eq!(status, 200, "{answer}");
    }
}

/// A client outside reaches port 8080, which is published for port 80, and the container reaches the client; both see
/// whom they should.
fn talk_both_ways(world: &World, web: &Pod) {
    reach::talk_both_ways(world, &web.inside, 8080);
    assert_eq!(netfilter::traces(&world.host), Vec::<String>::new());
}

fn delete(world: &World, path: &str) {
    let (status, answer) = world.instance().api("DELETE", path, &Value::Null);
    assert_eq!(status, 200, "{answer}");
}

fn merged(mut body: Value, more: Value) -> Value {
    let (body_map, more) = (body.as_object_mut().unwrap(), more.as_object().unwrap().clone());
    body_map.extend(more);
    body
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
