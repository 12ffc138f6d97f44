//! Debian's containerd with the CNI plugin: a container runtime that nobody wrote for a test, driven by `ctr`.

use std::process::{Child, Stdio};

use netpath_tests::containerd_daemon::{ContainerdDaemon, IMAGE, Release};
use netpath_tests::reach::talk_both_ways;
use netpath_tests::sockets::{at, eventually};
use netpath_tests::{HOST, Namespace, Plane, World, containerd_daemon, program};
use serde_json::json;

on_containerd! {
    containers_of_containerd_are_connected,
}

fn containers_of_containerd_are_connected(release: Release) {
    let world = World::new(PLANE);
    let plugin = json!({"type": "netpath-cni", "subnet": "10.94.0.0/16"});
    let containerd = ContainerdDaemon::start(&world, release, "1.0.0", "ctr", &[plugin]);
    let mut first = run_container(&containerd, "web");
    let name = format!("{}-web", containerd.name);
    eventually("the container is connected", || world.endpoint(&name).is_some());
    let shown = world.endpoint(&name).unwrap();
    assert_eq!((&shown["endpoints"][0]["interface"], &shown["endpoints"][0]["cni"]), (&json!("eth0"), &json!("ctr")));
    let inside = inside(&containerd, "web");
    world.netpath_ok(&["publish", &name, "8080:80"]);
    talk_both_ways(&world, &inside, 8080);
    let mut second = run_container(&containerd, "app");
    let other = format!("{}-app", containerd.name);
    eventually("the second container is connected", || world.endpoint(&other).is_some());
    for (container, client) in [("web", &mut first), ("app", &mut second)] {
        ctr(&containerd, &["task", "kill", "--signal", "SIGKILL", container]);
        client.wait().unwrap();
    }
    assert_eq!(world.json(&["ps"]), json!([]), "the runtime has deleted what it added");
    world.client.assert_closed(at(HOST, 8080));
}

pub(crate) const PLANE: Plane = Plane::Netpath { shortcuts: true };

/// Runs `test` with that containerd, as root.
pub(crate) fn run(test: fn(Release), release: Release) {
    match crate::planes::missing(PLANE).or_else(|| containerd_daemon::missing(release)) {
        None => test(release),
        Some(why) => eprintln!("skipped: {why}"),
    }
}

/// `ctr run`, which stays until the container ends, and then takes it off its network.
fn run_container(containerd: &ContainerdDaemon<'_>, container: &str) -> Child {
    let mut command = containerd.command(&containerd.name);
    command.args(["run", "--rm", "--snapshotter", "native", "--cni", IMAGE, container]);
    command.args(["/bin/busybox", "sleep", "60"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

fn ctr(containerd: &ContainerdDaemon<'_>, args: &[&str]) -> String {
    program::stdout_of(containerd.command(&containerd.name).args(args))
}

/// The network namespace of a container.
fn inside(containerd: &ContainerdDaemon<'_>, container: &str) -> Namespace {
    let tasks = ctr(containerd, &["task", "ls"]);
    let pid = tasks
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| if words.next() == Some(container) { words.next()?.parse().ok() } else { None });
    Namespace::of_process(pid.unwrap_or_else(|| panic!("no task {container}: {tasks}")))
}
