//! `netpath down` leaves nothing behind.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use netpath_tests::cleanup;
use netpath_tests::sockets::{accept, at, converse};
use netpath_tests::{HOST, Plane, World, program};

on_netpath! {
    down_leaves_nothing,
    down_works_without_an_agent,
    down_twice_is_fine,
    an_agent_starts_afresh_after_down,
    down_keeps_a_bridge_it_did_not_make,
}

on_netpath_once! {
    an_interrupted_test_leaves_nothing,
}

fn down_leaves_nothing(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let _listener = web.inside.listen(80);
    world.netpath_ok(&["down"]);
    assert_nothing_left(&world);
    assert_eq!(web.inside.interfaces(), Vec::<String>::new(), "the container's end is gone too");
    world.client.assert_closed(at(HOST, 8080));
}

fn down_works_without_an_agent(plane: Plane) {
    let world = World::new(plane);
    world.container("web", &["8080:80"]);
    world.kill_agent();
    down_by_directories(&world);
    assert_nothing_left(&world);
    world.client.assert_closed(at(HOST, 8080));
}

fn down_twice_is_fine(plane: Plane) {
    let world = World::new(plane);
    world.netpath_ok(&["down"]);
    down_by_directories(&world);
    assert_nothing_left(&world);
}

fn an_agent_starts_afresh_after_down(plane: Plane) {
    let world = World::new(plane);
    world.container("web", &["8080:80"]);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    world.start_agent();
    assert_eq!(world.json(&["ps"]).as_array().map(Vec::len), Some(0));
    let web = world.container("again", &["8080:80"]);
    let listener = web.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
}

fn down_keeps_a_bridge_it_did_not_make(plane: Plane) {
    let world = World::new(plane);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    world.host.ip("link add mine type bridge");
    world.host.ip("addr add 10.9.0.1/24 dev mine");
    world.host.ip("link set mine up");
    let options = ["--bridge=mine".to_owned()];
    let agent = world.instance().start(&world.host, &options);
    let web = world.container("web", &["8080:80"]);
    assert!(web.address.to_string().starts_with("10.9.0."), "{}", web.address);
    world.netpath_ok(&["down"]);
    drop(agent);
    let mut left = world.host.interfaces();
    left.sort();
    assert_eq!(left, ["mine", "up0"]);
    assert!(world.host.ip("addr show mine").contains("10.9.0.1/24"));
}

pub(crate) fn down_by_directories(world: &World) {
    let instance = world.instance();
    let (state, pins) = (instance.state_dir.display().to_string(), instance.pin_dir.display().to_string());
    let output = world.netpath(&["down", "--state-dir", &state, "--pin-dir", &pins]);
    assert!(output.status.success(), "down: {}", program::text(&output.stderr));
}

fn assert_nothing_left(world: &World) {
    assert_eq!(world.host.interfaces(), ["up0"]);
    assert!(!world.instance().pin_dir.exists(), "pins are left");
    assert!(!world.instance().state_dir.join("state.json").exists(), "the state is left");
    let links = world.host.ip("-d link show up0");
    assert!(!links.contains("tcx") && !links.contains("prog/"), "a program is left: {links}");
}

/// Set in the process that is interrupted.
const TO_BE_INTERRUPTED: &str = "NETPATH_TEST_IS_TO_BE_INTERRUPTED";

fn an_interrupted_test_leaves_nothing(plane: Plane) {
    if env::var_os(TO_BE_INTERRUPTED).is_some() {
        let world = World::new(plane);
        let web = world.container("web", &["8080:80"]);
        println!("\nserved at {}", web.address);
        sleep(Duration::from_secs(60));
        panic!("nobody has interrupted this");
    }
    let test = "teardown::an_interrupted_test_leaves_nothing::netpath";
    let mut child = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(TO_BE_INTERRUPTED, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let name = format!("np{}-1", child.id());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.starts_with("served at")), "a world is there");
    let places = [cleanup::directory(&name), cleanup::pin_directory(&name), format!("/run/netns/{name}-host").into()];
    assert!(places.iter().all(|path| path.exists()), "{places:?}");
    program::stdout_of(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 2), "ended by the handler");
    assert!(!places.iter().any(|path| path.exists()), "{places:?}");
    let left = fs::read_dir(Path::new("/run/netns")).unwrap().flatten();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&name)).collect();
    assert!(left.is_empty(), "{left:?}");
}
