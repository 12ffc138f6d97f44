//! Containers of Docker Engine that start at the same time: each is served before it does anything.

use std::process::Child;

use netpath_tests::engine::{Engine, FOR_NETPATH, Release};
use netpath_tests::reach::talk_both_ways;
use netpath_tests::sockets::{accept, eventually};
use netpath_tests::{HOST, World};
use serde_json::Value;

use crate::docker_mode::{is_known, served, world};

on_docker! {
    six_at_once_are_served_before_they_have_a_process,
    six_at_once_are_all_served,
}

const NAMES: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
/// What a container does first: it calls the client, and gives up where the first packet gets no answer.
const SCRIPT: &str = "echo hello | /bin/busybox nc -w 1 198.18.0.2 7000; exec /bin/sleep 3600";

/// As Compose does it: all are made, then all are started.
fn six_at_once_are_served_before_they_have_a_process(release: Release) {
    let world = world();
    let gate = Engine::gate(&world);
    let engine = Engine::start(&world, release, &[&FOR_NETPATH[..], &[&gate.option()]].concat());
    engine.docker(&["network", "create", "compose"]);
    let outside = world.client.listen(7000);
    for name in NAMES {
        let published = format!("{}:80", port(name));
        let options = ["--runtime", "gated", "--network", "compose", "-p", &published];
        engine.create_container(name, &options, SCRIPT);
    }
    let starting = NAMES.map(|name| engine.begin(&["start", name]));
    for name in NAMES {
        served(&world, name, &[port(name)]);
    }
    assert_eq!(engine.docker(&["ps", "--quiet"]), "", "no container runs yet");
    let before = NAMES.map(|name| endpoint(&world, name));
    gate.open();
    finish(starting);
    // Their first packets got out, and the answers in.
    for _ in NAMES {
        assert_eq!(accept(&outside).1.ip(), HOST);
    }
    drop(outside);
    for (name, before) in NAMES.into_iter().zip(before) {
        let inside = engine.inside(name);
        assert_eq!(inside.snmp("Tcp:", "RetransSegs"), 0, "`{name}` had to say nothing twice");
        talk_both_ways(&world, &inside, port(name));
        eventually("the process is known", || is_known(&world, &engine, name));
        assert_eq!(endpoint(&world, name), before, "it is the same port of the bridge");
    }
}

fn six_at_once_are_all_served(release: Release) {
    let world = world();
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    finish(NAMES.map(|name| engine.begin_container(name, &["-p", &format!("{}:80", port(name))], SCRIPT)));
    for name in NAMES {
        served(&world, name, &[port(name)]);
        eventually("the process is known", || is_known(&world, &engine, name));
        let interface = world.endpoint(name).unwrap()["endpoints"][0]["interface"].clone();
        assert_eq!(interface, "eth0");
        talk_both_ways(&world, &engine.inside(name), port(name));
    }
}

fn finish(starting: [Child; 6]) {
    for mut child in starting {
        assert!(child.wait().unwrap().success());
    }
}

/// The host port of the container called `name`.
fn port(name: &str) -> u16 {
    8080 + NAMES.iter().position(|one| *one == name).unwrap() as u16
}

/// Which veth has which addresses.
fn endpoint(world: &World, name: &str) -> Vec<Value> {
    let shown = world.endpoint(name).unwrap();
    ["ifname", "address", "mac"].map(|key| shown["endpoints"][0][key].clone()).into()
}
