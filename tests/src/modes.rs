//! `netpath run --net`: the host's network, none, and another container's.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::sockets::{PATIENCE, accept, at, converse};
use netpath_tests::{Plane, World, program};

on_netpath_once! {
    without_a_network_there_is_lo_alone,
    the_hosts_network_is_seen_under_a_name_of_its_own,
    a_joined_container_shares_addresses_name_and_files,
    a_container_without_an_interface_is_gone_with_its_command,
    what_contradicts_the_mode_is_refused_in_dockers_words,
    a_container_joins_running_ones_other_than_itself,
}

fn without_a_network_there_is_lo_alone(plane: Plane) {
    let world = World::new(plane);
    let script = "tail -n +3 /proc/net/dev | cut -d: -f1; cat /proc/sys/kernel/hostname; cat /etc/hosts";
    let seen = world.netpath_ok(&["run", "--net=none", "--name", "alone", "--", "sh", "-c", script]);
    assert_eq!(seen.lines().map(str::trim).take(3).collect::<Vec<_>>(), ["lo", "alone", "127.0.0.1\tlocalhost"]);
    assert!(!seen.contains("\talone"), "it has no address: {seen}");
    let listed = world.start("still", &["--net=none"], &["sleep", "100"]);
    assert_eq!((&listed["network_mode"], listed["address"].is_null()), (&"none".into(), true), "{listed}");
    assert!(world.netpath_ok(&["ps"]).contains("still"));
}

fn the_hosts_network_is_seen_under_a_name_of_its_own(plane: Plane) {
    let world = World::new(plane);
    let script = "cut -d: -f1 /proc/net/dev; cat /proc/sys/kernel/hostname /etc/hostname";
    let output = world.netpath(&["run", "--net=host", "-p", "80:80", "-h", "guest", "--", "sh", "-c", script]);
    let seen = program::text(&output.stdout);
    assert!(seen.contains("up0") && seen.ends_with("guest\nguest\n"), "{seen}");
    let warning = "Published ports are discarded when using host network mode";
    assert!(program::text(&output.stderr).contains(warning), "{}", program::text(&output.stderr));
    let files = world.netpath_ok(&["run", "--net=host", "--", "cat", "/etc/hosts", "/etc/hostname"]);
    let own = fs::read_to_string("/etc/hosts").unwrap() + &fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(files, own);
}

fn a_joined_container_shares_addresses_name_and_files(plane: Plane) {
    let world = World::new(plane);
    let web = world.run("web", &["8080:80"], &["sleep", "100"].map(str::to_owned));
    let script = "ip -o -4 addr show eth0; cat /proc/sys/kernel/hostname /etc/hosts";
    let seen = world.netpath_ok(&["run", "--net=container:web", "--", "sh", "-c", script]);
    assert!(seen.contains(&format!("inet {}/16", web.address)), "{seen}");
    assert!(seen.ends_with(&format!("\n{}\tweb\n", web.address)) && seen.contains("\nweb\n"), "{seen}");
    let side = world.start("side", &["--net=container:web"], &["sleep", "100"]);
    assert_eq!(side["network_mode"], "container:web");
    // What one of them opens, the other one has.
    let listener = world.inside(&side).listen(80);
    let mut client = web.inside.connect(at([127, 0, 0, 1], 80));
    converse(&mut client, &mut accept(&listener).0);
    world.netpath_ok(&["rm", "-f", "web"]);
    assert!(world.endpoint("web").is_none() && world.endpoint("side").is_some());
}

fn a_container_without_an_interface_is_gone_with_its_command(plane: Plane) {
    let world = World::new(plane);
    for mode in ["none", "host"] {
        world.netpath_ok(&["run", "-d", &format!("--net={mode}"), "--name", mode, "--", "sleep", "0.2"]);
        let deadline = Instant::now() + PATIENCE;
        while world.endpoint(mode).is_some() {
            assert!(Instant::now() < deadline, "`ps` still lists the container with --net={mode}");
            thread::sleep(Duration::from_millis(20));
        }
        // The name is free.
        world.netpath_ok(&["run", &format!("--net={mode}"), "--name", mode, "--", "true"]);
        assert!(world.endpoint(mode).is_none());
    }
    assert!(!world.instance().state_dir.join("containers").exists());
}

fn what_contradicts_the_mode_is_refused_in_dockers_words(plane: Plane) {
    let world = World::new(plane);
    world.run("web", &[], &["sleep", "100"].map(str::to_owned));
    for (options, wanted) in [
        ("--net=container:web -p 80:80", "conflicting options: port publishing and the container type network mode"),
        ("--net=container:web -P", "conflicting options: port publishing and the container type network mode"),
        ("--net=container:web --expose 80", "conflicting options: port exposing and the container type network mode"),
        ("--net=container:web -h other", "conflicting options: hostname and the network mode"),
        ("--net=container:web --dns 192.0.2.1", "conflicting options: dns and the network mode"),
        (
            "--net=container:web --mac-address 02:00:00:00:00:09",
            "conflicting options: mac-address and the network mode",
        ),
        (
            "--net=container:web --add-host a:192.0.2.1",
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (
            "--net=container:web --link web",
            "conflicting options: container type network can't be used with links. This would result in undefined behavior",
        ),
        (
            "--net=host --link web",
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
        ),
        ("--net=container:", "invalid container format container:<name|id>"),
        ("--net=nowhere", "nowhere"),
    ] {
        refused(&world, options, wanted);
    }
}

fn a_container_joins_running_ones_other_than_itself(plane: Plane) {
    let world = World::new(plane);
    refused(&world, "--net=container:nobody", "cannot join network of a non running container: nobody");
    refused(&world, "--name self --net=container:self", "cannot join own network");
    world.netpath_ok(&["run", "--name", "gone", "--", "true"]);
    refused(&world, "--net=container:gone", "cannot join network of a non running container: gone");
}

/// Runs a command that must not be run.
fn refused(world: &World, options: &str, wanted: &str) {
    let mark = world.dir().join("it-ran");
    let mark_text = mark.display().to_string();
    let mut args = vec!["run"];
    args.extend(options.split_whitespace());
    args.extend(["--", "touch", &mark_text]);
    let before = world.json(&["ps"]);
    let output = world.netpath(&args);
    let error = program::text(&output.stderr);
    assert!(!output.status.success() && error.contains(wanted), "{options}: {}: {error}", output.status);
    assert!(!mark.exists() && world.json(&["ps"]) == before, "{options} changed something");
}
