//! The CNI plugin behind Debian's main plugins, as their users have `portmap` and `firewall` there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use netpath_tests::cni_runtime::{Attachment, Runtime, debian_plugins, pod};
use netpath_tests::reach::{answers, talk_both_ways};
use netpath_tests::sockets::{PATIENCE, accept, at, converse, local};
use netpath_tests::{CLIENT, HOST, Namespace, Plane, World, program};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

on_netpath_once! {
    behind_debians_bridge_plugin_netpath_publishes_and_masquerades,
    behind_debians_ptp_plugin_netpath_publishes_and_masquerades,
    pods_of_the_ptp_plugin_reach_each_other_and_are_told_apart,
    rules_of_others_apply_behind_another_plugin,
    the_other_plugin_may_masquerade,
    who_has_a_route_reaches_pods_behind_another_plugin_unless_told_otherwise,
    the_ptp_plugin_may_give_single_addresses,
    pods_of_other_nodes_have_addresses_of_the_same_subnet,
    pods_that_were_there_before_keep_their_connections,
    what_is_no_veth_to_the_host_is_refused,
}

const LATEST: &str = "1.1.0";
/// What Debian's plugins know.
const THEIRS: &str = "1.0.0";

fn behind_debians_bridge_plugin_netpath_publishes_and_masquerades(plane: Plane) {
    let Some(world) = world(plane) else { return };
    let (bridge, own) = (bridge(&world), own(json!({"ipMasq": true})));
    let runtime = Runtime::new(&world, "1.0.0", "pods", vec![bridge.clone(), own.clone()]);
    let (inside, pod) = pod(&world, "web");
    let pod = pod.publishing(&[(8080, 80)]);
    let alone = runtime.call("ADD", 0, Some(&pod), None).unwrap();
    assert_eq!(runtime.call("ADD", 1, Some(&pod), Some(alone.clone())), Ok(alone), "the result is passed on as it was");
    assert_eq!(runtime.del(&pod), Ok(Value::Null));
    let result = runtime.add(&pod).unwrap();
    let veth = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    assert_eq!(world.endpoint("web").unwrap()["endpoints"][0]["ifname"], veth);
    talk_both_ways(&world, &inside, 8080);
    assert_eq!(runtime.check(&pod), Ok(Value::Null));
    let (_other, second) = self::pod(&world, "second");
    is_refused_the_taken_port(&runtime, &second);
    // Another list on the same bridge.
    let more = Runtime::new(&world, "1.0.0", "more", vec![bridge, own]);
    more.add(&second.publishing(&[(8081, 80)])).unwrap();
    assert_eq!((more.check(&second), more.del(&second)), (Ok(Value::Null), Ok(Value::Null)));
    world.netpath_ok(&["unpublish", "web", "8080"]);
    assert_eq!(runtime.check(&pod).unwrap_err()["code"], 102);
    assert_eq!((runtime.del(&pod), runtime.del(&pod.without_netns())), (Ok(Value::Null), Ok(Value::Null)));
    assert_eq!((inside.interfaces(), world.endpoint("web")), (vec![], None));
    may_go_without_an_agent(&world, &runtime, &inside, &pod);
}

fn behind_debians_ptp_plugin_netpath_publishes_and_masquerades(plane: Plane) {
    let Some(world) = world(plane) else { return };
    let runtime = Runtime::new(&world, THEIRS, "pods", vec![ptp(&world), own(json!({"ipMasq": true}))]);
    let (inside, pod) = pod(&world, "web");
    let pod = pod.publishing(&[(8080, 80)]);
    let result = runtime.add(&pod).unwrap();
    let veth = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(world.endpoint("web").unwrap()["endpoints"][0]["ifname"], veth);
    let network = &world.json(&["network", "ls"])[1];
    assert_eq!(
        (&network["name"], &network["bridge"], &network["owner"]),
        (&json!("pods"), &Value::Null, &json!("other"))
    );
    let shown = world.netpath_ok(&["network", "ls"]);
    assert!(shown.contains("pods") && shown.contains("no shortcuts"), "{shown}");
    talk_both_ways(&world, &inside, 8080);
    assert_eq!(runtime.check(&pod), Ok(Value::Null));
    let (_other, second) = self::pod(&world, "second");
    is_refused_the_taken_port(&runtime, &second);
    // Connections live on under the next agent, and the host's end is no way to the outside to it.
    let listener = inside.listen(80);
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    drop(listener);
    let before = (world.json(&["ps"]), world.json(&["network", "ls"]));
    world.kill_agent();
    world.start_agent();
    assert_eq!((world.json(&["ps"]), world.json(&["network", "ls"])), before);
    converse(&mut published.0, &mut published.1);
    let (_, info) = world.instance().api("GET", "info", &Value::Null);
    let externals: Vec<&Value> = info["externals"].as_array().unwrap().iter().map(|one| &one["ifname"]).collect();
    assert!(!externals.contains(&&json!(veth)), "{info}");
    talk_both_ways(&world, &inside, 8080);
    assert_eq!((runtime.del(&pod), runtime.del(&pod.without_netns())), (Ok(Value::Null), Ok(Value::Null)));
    assert_eq!((inside.interfaces(), world.endpoint("web")), (vec![], None));
    world.client.assert_closed(at(HOST, 8080));
    may_go_without_an_agent(&world, &runtime, &inside, &pod);
}

/// `pod` asks for host port 8080, which somebody has.
fn is_refused_the_taken_port(runtime: &Runtime<'_>, pod: &Attachment) {
    let error = runtime.add(&pod.publishing(&[(8080, 80)])).unwrap_err();
    assert!(error["code"] == 100 && error["msg"].as_str().unwrap().contains("8080"), "{error}");
    assert_eq!(runtime.del(pod), Ok(Value::Null));
}

/// `pod`, which publishes port 8080, is deleted while no agent runs, and comes back.
fn may_go_without_an_agent(world: &World, runtime: &Runtime<'_>, inside: &Namespace, pod: &Attachment) {
    runtime.add(pod).unwrap();
    world.kill_agent();
    assert_eq!(runtime.del(pod), Ok(Value::Null));
    world.start_agent();
    assert_eq!(world.json(&["ps"]), json!([]));
    runtime.add(pod).unwrap();
    talk_both_ways(world, inside, 8080);
}

fn pods_of_the_ptp_plugin_reach_each_other_and_are_told_apart(plane: Plane) {
    let Some(world) = world(plane) else { return };
    for (shortcuts, reach) in [(true, true), (false, true), (true, false)] {
        let own = own(json!({"shortcuts": shortcuts, "portIsolation": !reach}));
        let runtime = Runtime::new(&world, THEIRS, "pods", vec![ptp(&world), own]);
        let (one, two) = (Pod::new(&world, &runtime, 8081), Pod::new(&world, &runtime, 8080));
        let listener = two.inside.listen(80);
        if reach {
            let mut client = one.inside.connect(at(two.address, 80));
            let (mut server, from) = accept(&listener);
            assert_eq!(from.ip(), one.address);
            converse(&mut client, &mut server);
        } else {
            one.inside.assert_no_answer(at(two.address, 80));
        }
        // Through the host, and from the host itself.
        let mut client = one.inside.connect(at(HOST, 8080));
        converse(&mut client, &mut accept(&listener).0);
        let mut client = world.host.connect(at(two.address, 80));
        converse(&mut client, &mut accept(&listener).0);
        // Nobody speaks in another one's name.
        one.inside.ip(&format!("addr add {}/32 dev eth0", two.address));
        let spoofed = one.inside.udp_at(at(two.address, 0));
        let outside = world.client.udp_at(at(CLIENT, 7001));
        spoofed.send_to(b"spoofed", at(CLIENT, 7001)).unwrap();
        netpath_tests::sockets::assert_silent(&outside);
        for pod in [&one, &two] {
            assert_eq!(runtime.del(&pod.attachment), Ok(Value::Null));
        }
        world.netpath_ok(&["network", "rm", "pods"]);
    }
}

/// kube-proxy leads service addresses and node ports to pods by rules of netfilter.
fn rules_of_others_apply_behind_another_plugin(plane: Plane) {
    let Some(world) = world(plane) else { return };
    world.lets_netfilter_work();
    let behind = |main: Value| vec![main, own(json!({"ipMasq": true}))];
    let alone = own(json!({"subnet": "10.94.0.0/24", "shortcuts": false}));
    for list in [behind(bridge(&world)), behind(ptp(&world)), vec![alone]] {
        let runtime = Runtime::new(&world, THEIRS, "pods", list);
        let web = Pod::new(&world, &runtime, 8080);
        let service: IpAddr = [10, 96, 0, 1].into();
        let outside = world.client.listen(7000);
        let rules = [
            format!("PREROUTING -d {service} -p tcp --dport 443 -j DNAT --to-destination {CLIENT}:7000"),
            format!("PREROUTING -d {HOST} -p tcp --dport 30080 -j DNAT --to-destination {}:80", web.address),
        ];
        // What conntrack does not know, kube-proxy drops.
        let invalid = "FORWARD -m conntrack --ctstate INVALID -j DROP";
        rules.iter().for_each(|rule| iptables(&world, &["-t", "nat", "-A"], rule));
        iptables(&world, &["-A"], invalid);
        let mut client = web.inside.connect(at(service, 443));
        let (mut server, from) = accept(&outside);
        assert_eq!(from.ip(), HOST);
        converse(&mut client, &mut server);
        let listener = web.inside.listen(80);
        for port in [30080, 8080] {
            let mut client = world.client.connect(at(HOST, port));
            let (mut server, from) = accept(&listener);
            assert_eq!(from, local(&client));
            converse(&mut client, &mut server);
        }
        drop((listener, outside));
        talk_both_ways(&world, &web.inside, 8080);
        rules.iter().for_each(|rule| iptables(&world, &["-t", "nat", "-D"], rule));
        iptables(&world, &["-D"], invalid);
        assert_eq!(runtime.del(&web.attachment), Ok(Value::Null));
        world.netpath_ok(&["network", "rm", "pods"]);
    }
}

fn the_other_plugin_may_masquerade(plane: Plane) {
    let Some(world) = world(plane) else { return };
    world.lets_netfilter_work();
    for mut main in [bridge(&world), ptp(&world)] {
        main["ipMasq"] = json!(true);
        let runtime = Runtime::new(&world, THEIRS, "pods", vec![main, own(json!({}))]);
        let web = Pod::new(&world, &runtime, 8080);
        talk_both_ways(&world, &web.inside, 8080);
        assert_eq!(runtime.del(&web.attachment), Ok(Value::Null));
        world.netpath_ok(&["network", "rm", "pods"]);
    }
}

fn who_has_a_route_reaches_pods_behind_another_plugin_unless_told_otherwise(plane: Plane) {
    let Some(world) = world(plane) else { return };
    world.client.ip(&format!("route add 10.93.0.0/24 via {HOST}"));
    for (policy, (outside, neighbour)) in [
        (Value::Null, (true, true)),
        (json!("open"), (true, true)),
        (json!("same-bridge"), (false, true)),
        (json!("isolated"), (false, false)),
    ] {
        for main in [bridge(&world), ptp(&world)] {
            let runtime = Runtime::new(&world, THEIRS, "pods", vec![main, own(json!({"ingressPolicy": policy}))]);
            let (web, other) = (Pod::new(&world, &runtime, 8080), Pod::new(&world, &runtime, 8081));
            let _listeners = (web.inside.listen(80), web.inside.listen(81));
            assert_eq!(answers(&world.client, at(web.address, 81)), outside, "{policy}");
            assert_eq!(answers(&other.inside, at(web.address, 81)), neighbour, "{policy}");
            assert!(answers(&world.client, at(HOST, 8080)), "{policy}");
            for pod in [&web, &other] {
                assert_eq!(runtime.del(&pod.attachment), Ok(Value::Null));
            }
            world.netpath_ok(&["network", "rm", "pods"]);
        }
    }
    let runtime = Runtime::new(&world, THEIRS, "pods", vec![ptp(&world), own(json!({"ingressPolicy": "closed"}))]);
    assert_eq!(runtime.add(&pod(&world, "web").1).unwrap_err()["code"], 6);
}

fn the_ptp_plugin_may_give_single_addresses(plane: Plane) {
    let world = World::new(plane);
    let (inside, pod) = pod(&world, "web");
    let before = connect_alone(&world, &inside);
    let pod = pod.publishing(&[(8080, 80)]);
    let alone = Runtime::of_netpath(&world, LATEST, "pods", json!({}));
    let error = alone.call("ADD", 0, Some(&pod), Some(before.clone())).unwrap_err();
    assert!(error["code"] == 7 && error["msg"].as_str().unwrap().contains("`subnet`"), "{error}");
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({"ipMasq": true, "subnet": "10.93.0.0/16"}));
    runtime.call("ADD", 0, Some(&pod), Some(before.clone())).unwrap();
    talk_both_ways(&world, &inside, 8080);
    assert_eq!(runtime.call("CHECK", 0, Some(&pod), Some(before.clone())), Ok(Value::Null));
    // Another list for the same addresses shares the network.
    let (_inside, more) = self::pod(&world, "more");
    world.host.ip(&format!("link add cali2 type veth peer name eth0 netns {}", more.netns.as_ref().unwrap().display()));
    let ips = json!([{"address": "10.93.0.8/32", "interface": 0}]);
    let result = json!({"cniVersion": LATEST, "interfaces": [{"name": "cali2"}], "ips": ips});
    let second = Runtime::of_netpath(&world, LATEST, "more", json!({}));
    second.call("ADD", 0, Some(&more), Some(result)).unwrap();
    assert_eq!(world.endpoint("more").unwrap()["endpoints"][0]["network"], "pods");
    // Their maps tell what a lost state told.
    world.kill_agent();
    std::fs::remove_file(world.instance().state_dir.join("state.json")).unwrap();
    std::fs::remove_file(world.instance().state_dir.join("networks.json")).unwrap();
    world.start_agent();
    talk_both_ways(&world, &inside, 8080);
    world.netpath_ok(&["down"]);
    assert!(world.host.interfaces().contains(&"cali1".to_owned()));
    world.client.assert_closed(at(HOST, 8080));
}

/// As with Calico, whose pods have addresses of one subnet on every node, given out one by one.
fn pods_of_other_nodes_have_addresses_of_the_same_subnet(plane: Plane) {
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 93, 200, 5));
    let world = World::new(plane);
    let (inside, pod) = pod(&world, "web");
    let before = connect_alone(&world, &inside);
    world.client.ip(&format!("addr add {ELSEWHERE}/32 dev lo"));
    world.host.ip(&format!("route add {ELSEWHERE} via {CLIENT}"));
    world.client.ip(&format!("route add 10.93.0.0/24 via {HOST}"));
    for more in [json!({}), json!({"shortcuts": true}), json!({"ipMasq": true})] {
        let mut keys = json!({"subnet": "10.93.0.0/16"});
        keys.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        let runtime = Runtime::of_netpath(&world, LATEST, "pods", keys);
        let pod = pod.publishing(&[(8080, 80)]);
        runtime.call("ADD", 0, Some(&pod), Some(before.clone())).unwrap();
        let listener = inside.listen(80);
        for to in [at(HOST, 8080), at(IpAddr::from([10, 93, 0, 7]), 80)] {
            let mut client = connect_as(&world.client, ELSEWHERE, to);
            let (mut server, from) = accept(&listener);
            assert_eq!(from, local(&client), "{more}");
            converse(&mut client, &mut server);
        }
        let outside = world.client.listen_at(at(ELSEWHERE, 7000));
        let mut client = inside.connect(at(ELSEWHERE, 7000));
        converse(&mut client, &mut accept(&outside).0);
        runtime.call("DEL", 0, Some(&pod), Some(before.clone())).unwrap();
        world.netpath_ok(&["network", "rm", "pods"]);
    }
}

fn pods_that_were_there_before_keep_their_connections(plane: Plane) {
    let Some(world) = world(plane) else { return };
    world.client.ip(&format!("route add 10.93.0.0/24 via {HOST}"));
    let before = Runtime::new(&world, THEIRS, "pods", vec![ptp(&world)]);
    let (earlier, attachment) = pod(&world, "earlier");
    before.add(&attachment).unwrap();
    let outside = world.client.listen(7000);
    let mut client = earlier.connect(at(CLIENT, 7000));
    let mut server = accept(&outside).0;
    let runtime = Runtime::new(&world, THEIRS, "pods", vec![ptp(&world), own(json!({}))]);
    let web = Pod::new(&world, &runtime, 8080);
    converse(&mut client, &mut server);
    let listener = web.inside.listen(80);
    for to in [at(web.address, 80), at(HOST, 8080)] {
        let mut client = earlier.connect(to);
        converse(&mut client, &mut accept(&listener).0);
    }
}

fn what_is_no_veth_to_the_host_is_refused(plane: Plane) {
    let world = World::new(plane);
    let (inside, pod) = pod(&world, "web");
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({}));
    let own = json!({"name": "eth0", "sandbox": inside.path()});
    let ips = json!([{"address": "10.93.0.2/24"}]);
    let refused = |before: &Value, wanted: &str| {
        let error = runtime.call("ADD", 0, Some(&pod), Some(before.clone())).unwrap_err();
        assert!(error["code"] == 7 && error["msg"].as_str().unwrap().contains(wanted), "{error}");
    };
    assert_eq!(runtime.call("ADD", 0, Some(&pod), Some(json!("x"))).unwrap_err()["code"], 6);
    let before = json!({"cniVersion": LATEST, "interfaces": [own], "ips": ips});
    refused(&before, "no interface eth0");
    refused(&json!({"cniVersion": LATEST, "interfaces": [own]}), "no address");
    inside.ip("link add eth0 type bridge");
    refused(&before, "a bridge, whose packets do not pass through the host");
    inside.ip("link del eth0");
    inside.ip("link add eth0 type veth peer name eth1");
    refused(&before, "not in the host's namespace");
    assert_eq!(runtime.del(&pod), Ok(Value::Null));
    assert_eq!((inside.interfaces().len(), world.json(&["network", "ls"]).as_array().unwrap().len()), (2, 1));
}

/// A pod whose port 80 is published.
struct Pod {
    inside: Rc<Namespace>,
    attachment: Attachment,
    address: IpAddr,
}

impl Pod {
    fn new(world: &World, runtime: &Runtime<'_>, host_port: u16) -> Self {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let (inside, attachment) = pod(world, &format!("pod{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let attachment = attachment.publishing(&[(host_port, 80)]);
        let result = runtime.add(&attachment).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        Self { inside, attachment, address }
    }
}

/// Gives a pod 10.93.0.7 as plugins do that give out addresses one by one, and list the host's interface alone; their
/// result.
fn connect_alone(world: &World, inside: &Namespace) -> Value {
    world.host.ip(&format!("link add cali1 type veth peer name eth0 netns {}", inside.path().display()));
    for (namespace, command) in [
        (&world.host, "link set cali1 up"),
        (&world.host, "route add 10.93.0.7/32 dev cali1"),
        (&world.host, "addr add 169.254.1.1/32 dev cali1"),
        (inside, "addr add 10.93.0.7/32 dev eth0"),
        (inside, "link set eth0 up"),
        (inside, "route add 169.254.1.1 dev eth0"),
        (inside, "route add default via 169.254.1.1"),
    ] {
        namespace.ip(command);
    }
    json!({"cniVersion": LATEST, "interfaces": [{"name": "cali1"}], "ips": [{"address": "10.93.0.7/32"}]})
}

fn connect_as(from: &Namespace, addr: IpAddr, to: SocketAddr) -> TcpStream {
    from.within(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.bind(&at(addr, 0).into()).unwrap();
        socket.connect_timeout(&to.into(), PATIENCE).unwrap_or_else(|e| panic!("connect as {addr} to {to}: {e}"));
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    })
}

/// `None` where Debian's plugins are missing, which it says.
fn world(plane: Plane) -> Option<World> {
    match debian_plugins() {
        Ok(_) => Some(World::new(plane)),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

fn ipam(world: &World) -> Value {
    json!({"type": "host-local", "dataDir": world.dir().join("leases"), "routes": [{"dst": "0.0.0.0/0"}],
           "ranges": [[{"subnet": "10.93.0.0/24"}]]})
}

fn bridge(world: &World) -> Value {
    json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam(world)})
}

fn ptp(world: &World) -> Value {
    json!({"type": "ptp", "ipam": ipam(world)})
}

fn own(more: Value) -> Value {
    let mut plugin = json!({"type": "netpath-cni", "capabilities": {"portMappings": true}});
    plugin.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    plugin
}

fn iptables(world: &World, what: &[&str], rule: &str) {
    program::stdout_of(world.host.command("iptables").args(what).args(rule.split(' ')));
}
