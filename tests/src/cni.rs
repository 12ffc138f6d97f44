//! The CNI plugin, run as a container runtime runs it, alone and beside Debian's plugins.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use netpath_tests::cni_runtime::{Attachment, Runtime, answer, debian_plugins, pod};
use netpath_tests::reach::talk_both_ways;
use netpath_tests::sockets::{accept, at, converse, eventually};
use netpath_tests::{Family, HOST, Options, Plane, World};
use serde_json::{Value, json};

on_netpath_once! {
    a_pod_is_reached_and_reaches_out,
    a_pod_has_both_families,
    results_have_the_shape_of_their_version,
    a_check_notices_what_was_changed,
    garbage_collection_removes_what_is_not_listed,
    status_says_whether_an_add_could_succeed,
    a_pod_may_be_in_two_networks,
    addresses_and_names_may_be_asked_for,
    a_failed_add_leaves_nothing,
    two_main_plugins_for_one_interface_are_refused,
    many_pods_may_come_and_go_at_once,
    wrong_input_has_the_codes_of_the_specification,
    what_is_deleted_without_an_agent_is_free_when_it_is_back,
    addresses_come_from_debians_host_local,
    routes_of_an_ipam_plugin_are_set,
}

const LATEST: &str = "1.1.0";

fn a_pod_is_reached_and_reaches_out(plane: Plane) {
    let world = World::new(plane);
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({"subnet": "10.88.0.0/16", "bridge": "cni0"}));
    let (inside, pod) = pod(&world, "web");
    let pod = pod.publishing(&[(8080, 80)]);
    let before = world.host.interfaces();
    let result = runtime.add(&pod).unwrap();
    assert_eq!(result["ips"], json!([{"address": "10.88.0.2/16", "gateway": "10.88.0.1", "interface": 2}]));
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}]));
    let names: Vec<&Value> = (0..3).map(|index| &result["interfaces"][index]["name"]).collect();
    assert_eq!(
        (names[0], names[2], &result["interfaces"][2]["sandbox"]),
        (&json!("cni0"), &json!("eth0"), &json!(inside.path()))
    );
    talk_both_ways(&world, &inside, 8080);
    assert_eq!(runtime.check(&pod), Ok(Value::Null));
    let error = runtime.add(&pod).unwrap_err();
    assert_eq!(error["code"], 100, "a second ADD: {error}");
    for pod in [&pod, &pod, &pod.without_netns()] {
        assert_eq!(runtime.del(pod), Ok(Value::Null));
    }
    assert_eq!(runtime.check(&pod).unwrap_err()["code"], 3);
    assert_eq!(inside.interfaces(), Vec::<String>::new());
    world.client.assert_closed(at(HOST, 8080));
    // The bridge stays, as that of Debian's plugin does.
    let left: Vec<String> = world.host.interfaces().into_iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(left, ["cni0"]);
    runtime.forget();
    assert_eq!(runtime.del(&pod.without_netns()), Ok(Value::Null));
}

fn a_pod_has_both_families(plane: Plane) {
    let world = World::with(plane, Options { ipv6: true, ..Options::default() });
    let subnets = json!({"subnets": ["10.88.0.0/16", "fd00:88::/64"]});
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", subnets);
    let (inside, pod) = pod(&world, "web");
    let pod = pod.publishing(&[(8080, 80)]);
    let result = runtime.add(&pod).unwrap();
    assert_eq!((result["ips"].as_array().unwrap().len(), &result["ips"][1]["address"]), (2, &json!("fd00:88::2/64")));
    assert_eq!(result["routes"][1], json!({"dst": "::/0", "gw": "fd00:88::1"}));
    for family in Family::BOTH {
        let listener = inside.listen_at(at(family.any(), 80));
        let mut client = world.client.connect(at(family.host(), 8080));
        converse(&mut client, &mut accept(&listener).0);
        let outside = world.client.listen_at(at(family.any(), 7000));
        let mut client = inside.connect(at(family.client(), 7000));
        let (mut server, from) = accept(&outside);
        assert_eq!(from.ip(), family.host());
        converse(&mut client, &mut server);
    }
    assert_eq!(runtime.check(&pod), Ok(Value::Null));
    assert_eq!(runtime.del(&pod), Ok(Value::Null));
}

fn results_have_the_shape_of_their_version(plane: Plane) {
    let world = World::new(plane);
    for (version, family, mtu) in [
        ("0.3.0", json!("4"), Value::Null),
        ("0.3.1", json!("4"), Value::Null),
        ("0.4.0", json!("4"), Value::Null),
        ("1.0.0", Value::Null, Value::Null),
        ("1.1.0", Value::Null, json!(1500)),
    ] {
        let runtime = Runtime::of_netpath(&world, version, "pods", json!({"dns": {"nameservers": ["192.0.2.53"]}}));
        let (_inside, pod) = pod(&world, &format!("web-{version}"));
        let result = runtime.add(&pod).unwrap();
        assert_eq!((&result["cniVersion"], &result["ips"][0]["version"]), (&json!(version), &family));
        assert_eq!((&result["interfaces"][2]["mtu"], &result["dns"]["nameservers"]), (&mtu, &json!(["192.0.2.53"])));
        match (version, runtime.check(&pod)) {
            ("0.3.0" | "0.3.1", Err(error)) => assert_eq!(error["code"], 1, "{error}"),
            (_, checked) => assert_eq!(checked, Ok(Value::Null)),
        }
        assert_eq!(runtime.del(&pod), Ok(Value::Null));
    }
    let asked = |input: &[u8]| answer(Runtime::bare_command(&world).env("CNI_COMMAND", "VERSION"), input).unwrap();
    let versions = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(asked(br#"{"cniVersion": "1.0.0"}"#), json!({"cniVersion": "1.0.0", "supportedVersions": versions}));
}

fn a_check_notices_what_was_changed(plane: Plane) {
    let world = World::new(plane);
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({"subnet": "10.88.0.0/16"}));
    let (inside, pod) = pod(&world, "web");
    let pod = pod.publishing(&[(8080, 80)]);
    let result = runtime.add(&pod).unwrap();
    let veth = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
    let noticed = |what: &str, wanted: &str| {
        let error = runtime.check(&pod).unwrap_err();
        assert!(error["code"] == 102 && error["msg"].as_str().unwrap().contains(wanted), "{what}: {error}");
    };
    inside.ip("route del default");
    noticed("no route", "route to 0.0.0.0/0");
    inside.ip("route add default via 10.88.0.1");
    assert_eq!(runtime.check(&pod), Ok(Value::Null));
    inside.ip("addr add 10.88.0.99/16 dev eth0");
    inside.ip("addr del 10.88.0.2/16 dev eth0");
    noticed("no address", "10.88.0.2/16");
    inside.ip("addr add 10.88.0.2/16 dev eth0");
    inside.ip("route replace default via 10.88.0.1");
    assert_eq!(runtime.check(&pod), Ok(Value::Null));
    world.netpath_ok(&["unpublish", "web", "8080"]);
    noticed("no port", "8080");
    world.netpath_ok(&["publish", "web", "8080:80"]);
    world.host.ip(&format!("link set {veth} nomaster"));
    noticed("no bridge", "not in bridge");
    world.host.ip(&format!("link del {veth}"));
    eventually("the agent has noticed", || world.endpoint("web").is_none());
    assert_eq!(runtime.check(&pod).unwrap_err()["code"], 3);
    assert_eq!(runtime.del(&pod), Ok(Value::Null));
}

fn garbage_collection_removes_what_is_not_listed(plane: Plane) {
    let world = World::new(plane);
    let pods = Runtime::of_netpath(&world, LATEST, "pods", json!({}));
    let others = Runtime::of_netpath(&world, LATEST, "others", json!({}));
    let spaces: Vec<_> = ["one", "two", "three"].iter().map(|name| pod(&world, name)).collect();
    for (_, pod) in &spaces {
        pods.add(pod).unwrap();
    }
    others.add(&spaces[0].1.at("net1")).unwrap();
    world.container("netpaths-own", &[]);
    assert_eq!(pods.gc(&[&spaces[1].1]), Ok(Value::Null));
    assert_eq!(
        spaces.iter().map(|(inside, _)| inside.interfaces()).collect::<Vec<_>>(),
        [vec!["net1"], vec!["eth0"], vec![]]
    );
    let names: Vec<Value> = world.json(&["ps"]).as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["netpaths-own", "one", "two"]);
    assert_eq!(pods.gc(&[]), Ok(Value::Null));
    assert_eq!(world.json(&["ps"]).as_array().unwrap().len(), 2);
}

fn status_says_whether_an_add_could_succeed(plane: Plane) {
    let world = World::new(plane);
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({"subnet": "10.88.0.0/30", "bridge": "cni0"}));
    assert_eq!(runtime.status(), Ok(Value::Null));
    let (_inside, one) = pod(&world, "one");
    runtime.add(&one).unwrap();
    let code = |wanted: u64| {
        let error = runtime.status().unwrap_err();
        assert_eq!(error["code"], wanted, "{error}");
    };
    code(50);
    let (_inside, two) = pod(&world, "two");
    assert_eq!(runtime.add(&two).unwrap_err()["code"], 100);
    runtime.del(&one).unwrap();
    assert_eq!(runtime.status(), Ok(Value::Null));
    world.host.ip("link set cni0 down");
    code(51);
    world.host.ip("link set cni0 up");
    world.kill_agent();
    code(50);
    let error = runtime.add(&one).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    let absent = Runtime::of_netpath(&world, LATEST, "pods", json!({"network": "nobodys"}));
    world.start_agent();
    assert_eq!(absent.status().unwrap_err()["code"], 50);
    assert_eq!(absent.add(&one).unwrap_err()["code"], 7);
}

fn a_pod_may_be_in_two_networks(plane: Plane) {
    let world = World::new(plane);
    let first = Runtime::of_netpath(&world, LATEST, "first", json!({"subnet": "10.88.0.0/16"}));
    let second = Runtime::of_netpath(&world, LATEST, "second", json!({"subnet": "10.89.0.0/16"}));
    let (inside, pod) = pod(&world, "web");
    // A runtime tells both the same ports.
    let pod = pod.publishing(&[(8080, 80)]);
    let more = pod.at("net1");
    first.add(&pod).unwrap();
    let result = second.add(&more).unwrap();
    assert_eq!((&result["ips"][0]["address"], &result["routes"]), (&json!("10.89.0.2/16"), &json!([])));
    assert_eq!(inside.interfaces(), ["eth0", "net1"]);
    talk_both_ways(&world, &inside, 8080);
    assert_eq!((first.check(&pod), second.check(&more)), (Ok(Value::Null), Ok(Value::Null)));
    let (_elsewhere, elsewhere) = self::pod(&world, "elsewhere");
    let stolen = Attachment { netns: elsewhere.netns, ..pod.at("net2") };
    assert_eq!(second.add(&stolen).unwrap_err()["code"], 4, "another namespace under the same name");
    first.del(&pod).unwrap();
    assert_eq!(inside.interfaces(), ["net1"]);
    world.client.assert_closed(at(HOST, 8080));
    second.del(&more).unwrap();
    assert!(world.endpoint("web").is_none());
}

fn addresses_and_names_may_be_asked_for(plane: Plane) {
    let world = World::new(plane);
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({"subnet": "10.88.0.0/16", "mtu": 1400}));
    let (inside, one) = pod(&world, "one");
    let capabilities = json!({"ips": ["10.88.0.77/16"], "mac": "02:00:00:00:00:77"});
    let one = Attachment { capabilities, ifname: "very-long-name0".to_owned(), ..one };
    let result = runtime.add(&one).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.88.0.77/16");
    assert_eq!(inside.mac("very-long-name0"), [2, 0, 0, 0, 0, 0x77]);
    assert_eq!(result["interfaces"][2]["mtu"], 1400);
    assert_eq!(runtime.check(&one), Ok(Value::Null));
    let (_inside, two) = pod(&world, "two");
    let args = "IgnoreUnknown=1;K8S_POD_NAME=two;IP=10.88.0.78;COLOUR=red".to_owned();
    let two = Attachment { args, ..two };
    assert_eq!(runtime.add(&two).unwrap()["ips"][0]["address"], "10.88.0.78/16");
    let (_inside, three) = pod(&world, "three");
    let three = Attachment { args: "IP=10.88.0.78".to_owned(), ..three };
    assert_eq!(runtime.add(&three).unwrap_err()["code"], 100);
}

fn a_failed_add_leaves_nothing(plane: Plane) {
    let world = World::new(plane);
    let _web = world.container("web", &["8080:80"]);
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({}));
    let (inside, pod) = pod(&world, "pod");
    let picture = || {
        let containers = world.json(&["ps"]);
        (
            world.host.interfaces(),
            inside.interfaces(),
            containers,
            world.json(&["network", "ls"]),
            world.json(&["rules"]).as_array().unwrap().len(),
        )
    };
    let before = picture();
    let error = runtime.add(&pod.publishing(&[(9090, 90), (8080, 80)])).unwrap_err();
    assert!(error["code"] == 100 && error["msg"].as_str().unwrap().contains("8080"), "{error}");
    assert_eq!(picture(), before);
    inside.ip("link add eth0 type bridge");
    let before = picture();
    let error = runtime.add(&pod.publishing(&[(9090, 90)])).unwrap_err();
    assert!(error["code"] == 100 && error["msg"].as_str().unwrap().contains("eth0"), "{error}");
    assert_eq!(picture(), before);
    assert_eq!(runtime.del(&pod), Ok(Value::Null));
    assert_eq!(picture(), before, "the interface is somebody else's");
}

fn two_main_plugins_for_one_interface_are_refused(plane: Plane) {
    let world = World::new(plane);
    let plugin = |name: &str| json!({"type": "netpath-cni", "network": name});
    let (own, twice) = (json!({"type": "netpath-cni"}), vec![json!({"type": "netpath-cni"}); 2]);
    world.netpath_ok(&["network", "create", "other"]);
    let (inside, pod) = pod(&world, "pod");
    for plugins in [twice, vec![own, plugin("other")], vec![plugin("other"), plugin("bridge")]] {
        let runtime = Runtime::new(&world, LATEST, "pods", plugins);
        let error = runtime.add(&pod).unwrap_err();
        assert!([7, 100].contains(&error["code"].as_u64().unwrap()), "{error}");
        assert_eq!(runtime.del(&pod), Ok(Value::Null));
        assert_eq!((inside.interfaces(), world.json(&["ps"])), (vec![], json!([])));
    }
}

fn many_pods_may_come_and_go_at_once(plane: Plane) {
    const PODS: u16 = 12;
    let world = World::new(plane);
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({"subnet": "10.88.0.0/16", "bridge": "cni0"}));
    let spaces: Vec<_> = (0..PODS).map(|number| pod(&world, &format!("pod{number}"))).collect();
    let numbered = spaces.iter().zip(8000..);
    let pods: Vec<Attachment> = numbered.map(|((_, pod), port)| pod.publishing(&[(port, 80)])).collect();
    // All of them find no network.
    for _ in 0..2 {
        let results: Vec<Value> = runtime.call_all("ADD", &pods).into_iter().map(Result::unwrap).collect();
        let addresses: BTreeSet<&str> =
            results.iter().map(|result| result["ips"][0]["address"].as_str().unwrap()).collect();
        assert_eq!(addresses.len(), usize::from(PODS), "{addresses:?}");
        assert!(runtime.call_all("DEL", &pods).iter().all(Result::is_ok));
        assert_eq!(world.json(&["ps"]), json!([]));
    }
}

fn wrong_input_has_the_codes_of_the_specification(plane: Plane) {
    let world = World::new(plane);
    let (_inside, pod) = pod(&world, "pod");
    let good = Runtime::of_netpath(&world, LATEST, "pods", json!({}));
    let add = |runtime: &Runtime, pod: &Attachment| runtime.add(pod).unwrap_err();
    let with = |more: Value| Runtime::of_netpath(&world, LATEST, "pods", more);
    let missing = Attachment { netns: Some("/nowhere".into()), ..pod.clone() };
    let ports = |ports: Value| Attachment { capabilities: json!({ "portMappings": ports }), ..pod.clone() };
    for (code, wanted, error) in [
        (1, "9.9.9", add(&Runtime::of_netpath(&world, "9.9.9", "pods", json!({})), &pod)),
        (2, "`vlan`: 7", add(&with(json!({"vlan": 7})), &pod)),
        (4, "CNI_NETNS", add(&good, &pod.without_netns())),
        (4, "CNI_CONTAINERID", add(&good, &Attachment { id: "a/b".to_owned(), ..pod.clone() })),
        (4, "CNI_IFNAME", add(&good, &pod.at("sixteen-letters!"))),
        (4, "CNI_ARGS", add(&good, &Attachment { args: "COLOUR=red".to_owned(), ..pod.clone() })),
        (7, "/nowhere", add(&good, &missing)),
        (6, "large", add(&with(json!({"mtu": "large"})), &pod)),
        (7, "MTU 3", add(&with(json!({"mtu": 3})), &pod)),
        (7, "hostPort", add(&good, &ports(json!([{"hostPort": 0, "containerPort": 80}])))),
        (7, "tcpp", add(&good, &ports(json!([{"hostPort": 80, "containerPort": 80, "protocol": "tcpp"}])))),
        (7, "no-such", add(&with(json!({"ipam": {"type": "no-such"}})), &pod)),
        (7, "../x", add(&with(json!({"ipam": {"type": "../x"}})), &pod)),
        (7, "prevResult", good.check(&pod).unwrap_err()),
    ] {
        assert!(
            error["code"] == code && error["msg"].as_str().unwrap().contains(wanted),
            "want {code} {wanted}: {error}"
        );
        assert!(error["cniVersion"].is_string(), "{error}");
    }
    for (code, command, input) in [
        (4, "", "{}"),
        (4, "RUN", "{}"),
        (6, "ADD", "{"),
        (6, "VERSION", "["),
        (4, "ADD", r#"{"cniVersion": "1.1.0"}"#),
    ] {
        let error = answer(Runtime::bare_command(&world).env("CNI_COMMAND", command), input.as_bytes()).unwrap_err();
        assert_eq!(error["code"], code, "{command} {input}: {error}");
    }
    assert_eq!(world.json(&["network", "ls"]).as_array().unwrap().len(), 1);
}

fn what_is_deleted_without_an_agent_is_free_when_it_is_back(plane: Plane) {
    let world = World::new(plane);
    let runtime = Runtime::of_netpath(&world, LATEST, "pods", json!({"subnet": "10.88.0.0/16"}));
    let spaces: Vec<_> = ["one", "two", "three", "four"].iter().map(|name| pod(&world, name)).collect();
    let pods: Vec<_> = spaces.iter().zip(8001..).map(|((_, pod), port)| pod.publishing(&[(port, 80)])).collect();
    let ask = |address: &str| Attachment { capabilities: json!({"ips": [address]}), ..pod(&world, "again").1 };
    for pod in &pods {
        runtime.add(pod).unwrap();
    }
    world.kill_agent();
    // As it should be; without the namespace's name; twice, without anything; not at all.
    assert_eq!(runtime.del(&pods[0]), Ok(Value::Null));
    assert_eq!(spaces[0].0.interfaces(), Vec::<String>::new());
    assert_eq!(runtime.del(&pods[1].without_netns()), Ok(Value::Null));
    runtime.forget();
    for _ in 0..2 {
        assert_eq!(runtime.del(&pods[2].without_netns()), Ok(Value::Null));
    }
    let notes = world.instance().socket.with_file_name("netpath-cni-removed");
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 3);
    world.start_agent();
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 0);
    let names: Vec<Value> = world.json(&["ps"]).as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["four"]);
    for (inside, _) in &spaces[..3] {
        assert_eq!(inside.interfaces(), Vec::<String>::new());
    }
    let again = ask("10.88.0.4");
    runtime
        .add(&Attachment {
            capabilities: json!({"ips": ["10.88.0.4"], "portMappings": [{"hostPort": 8003, "containerPort": 80}]}),
            ..again
        })
        .unwrap();
}

fn addresses_come_from_debians_host_local(plane: Plane) {
    if let Err(why) = debian_plugins() {
        eprintln!("skipped: {why}");
        return;
    }
    let world = World::new(plane);
    let leases = world.dir().join("leases");
    let range = json!([[{"subnet": "10.91.0.0/24", "rangeStart": "10.91.0.20", "gateway": "10.91.0.1"}]]);
    let ipam = json!({"type": "host-local", "dataDir": leases, "ranges": range, "routes": [{"dst": "0.0.0.0/0"}]});
    let runtime =
        Runtime::of_netpath(&world, "1.0.0", "pods", json!({"ipam": ipam, "bridge": "cni0", "isGateway": true}));
    let (inside, pod) = pod(&world, "web");
    let pod = pod.publishing(&[(8080, 80)]);
    let leased = || {
        fs::read_dir(leases.join("pods")).map_or(0, |dir| {
            dir.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<IpAddr>().is_ok()).count()
        })
    };
    let _holder = world.container("holder", &["9090:90"]);
    assert_eq!(runtime.add(&pod.publishing(&[(9090, 90)])).unwrap_err()["code"], 100);
    assert_eq!((leased(), world.host.interfaces().contains(&"cni0".to_owned())), (0, false), "nothing half done");
    let result = runtime.add(&pod).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.91.0.2") && address.ends_with("/24"), "{result}");
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.91.0.1"}]));
    assert_eq!(leased(), 1);
    talk_both_ways(&world, &inside, 8080);
    assert_eq!(runtime.check(&pod), Ok(Value::Null));
    fs::remove_file(leases.join("pods").join(address.trim_end_matches("/24"))).unwrap();
    let error = runtime.check(&pod).unwrap_err();
    assert!(error["msg"].as_str().unwrap().starts_with("host-local"), "{error}");
    runtime.del(&pod).unwrap();
    runtime.add(&pod).unwrap();
    assert_eq!(leased(), 1);
    world.kill_agent();
    assert_eq!((runtime.del(&pod), runtime.del(&pod)), (Ok(Value::Null), Ok(Value::Null)));
    assert_eq!(leased(), 0);
    world.start_agent();
    assert_eq!(world.json(&["ps"]).as_array().unwrap().len(), 1);
}

fn routes_of_an_ipam_plugin_are_set(plane: Plane) {
    if let Err(why) = debian_plugins() {
        eprintln!("skipped: {why}");
        return;
    }
    let world = World::new(plane);
    let addresses = json!([{"address": "10.92.0.5/24", "gateway": "10.92.0.1"}]);
    let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "203.0.113.0/24", "gw": "10.92.0.9"}, {"dst": "192.0.2.0/24"}]);
    let ipam = |routes: Value| json!({"ipam": {"type": "static", "addresses": addresses, "routes": routes}});
    let runtime = Runtime::of_netpath(&world, "1.0.0", "pods", ipam(routes));
    let (inside, pod) = pod(&world, "web");
    let result = runtime.add(&pod).unwrap();
    assert_eq!(result["routes"].as_array().unwrap().len(), 3, "{result}");
    let set = inside.ip("route show");
    for wanted in ["default via 10.92.0.1", "203.0.113.0/24 via 10.92.0.9", "192.0.2.0/24 via 10.92.0.1"] {
        assert!(set.contains(wanted), "{set}");
    }
    assert_eq!(runtime.check(&pod), Ok(Value::Null));
    inside.ip("route del 203.0.113.0/24");
    assert_eq!(runtime.check(&pod).unwrap_err()["code"], 102);
    runtime.del(&pod).unwrap();
    // One that the kernel refuses.
    let runtime =
        Runtime::of_netpath(&world, "1.0.0", "pods", ipam(json!([{"dst": "203.0.113.0/24", "gw": "198.51.100.1"}])));
    assert!(runtime.add(&pod).is_err());
    assert_eq!((inside.interfaces(), world.json(&["ps"]).as_array().unwrap().len()), (vec![], 0));
}
