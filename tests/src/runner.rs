//! `netpath run`: a command with its own network, mount and UTS namespace.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::sockets::PATIENCE;
use netpath_tests::web::{self, PAGE};
use netpath_tests::{CLIENT, Options, Plane, World, program};

on_netpath! {
    a_web_server_in_a_container_serves_the_page,
    the_command_sees_its_own_name_and_files,
    the_user_chooses_names_and_environment,
    the_exit_status_is_the_commands,
    a_container_ends_with_its_command,
    the_name_is_free_when_the_command_has_ended,
    the_agents_name_servers_are_for_those_who_name_none,
    rm_stops_a_container_and_frees_its_port,
    a_refused_container_never_runs,
    containers_outlive_the_agent,
}

fn a_web_server_in_a_container_serves_the_page(plane: Plane) {
    let world = World::new(plane);
    world.run("web", &["8080:80"], &web::nginx(&world.dir().join("web"), 80));
    assert_eq!(fetch_when_up(&world, "/"), PAGE);
    assert_eq!(fetch_when_up(&world, "/client"), CLIENT.to_string());
    let content: Vec<u8> = (0..8 << 20).map(|i: u32| b"0123456789abcdef"[(i % 16) as usize]).collect();
    fs::write(world.dir().join("web/file"), &content).unwrap();
    assert!(fetch_when_up(&world, "/file").as_bytes() == content);
}

fn the_command_sees_its_own_name_and_files(plane: Plane) {
    let world = World::new(plane);
    let script = "cat /proc/sys/kernel/hostname /etc/hostname /etc/hosts; ls /sys/class/net";
    let seen = world.netpath_ok(&["run", "--name", "app", "-h", "somebody", "--", "sh", "-c", script]);
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..2], ["somebody", "somebody"]);
    assert!(lines.iter().any(|line| line.starts_with("172.17.0.") && line.contains("somebody")), "{seen}");
    assert!(lines.contains(&"eth0") && lines.contains(&"lo") && !lines.contains(&"up0"), "{seen}");
    assert_ne!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "somebody");
}

fn the_user_chooses_names_and_environment(plane: Plane) {
    let world = World::new(plane);
    let options = "--add-host repo:192.0.2.7 --add-host up:host-gateway --dns 192.0.2.53 --dns-search corp.example \
                   --dns-option ndots:2 -e COLOUR=red -h web.example.org";
    let mut args = vec!["run", "--name", "app"];
    args.extend(options.split_whitespace());
    let script = "cat /etc/hosts; echo =; grep -v '^#' /etc/resolv.conf; echo =; echo $COLOUR $HOSTNAME";
    args.extend(["--", "sh", "-c", script]);
    let seen = world.netpath_ok(&args);
    let expected = "192.0.2.7\trepo\n172.17.0.1\tup\n172.17.0.2\tweb.example.org web\n=\nnameserver 192.0.2.53\n\
                    search corp.example\noptions ndots:2\n=\nred web.example.org\n";
    assert!(seen.starts_with("127.0.0.1\tlocalhost\n") && seen.ends_with(expected), "{seen}");
}

fn the_exit_status_is_the_commands(plane: Plane) {
    let world = World::new(plane);
    let output = world.netpath(&["run", "--name", "app", "--", "sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", program::text(&output.stderr));
}

fn a_container_ends_with_its_command(plane: Plane) {
    let world = World::new(plane);
    world.run("app", &["8080:80"], &["sleep", "0.3"].map(str::to_owned));
    let deadline = Instant::now() + PATIENCE;
    while world.endpoint("app").is_some() {
        assert!(Instant::now() < deadline, "`ps` still lists the container");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(world.host.interfaces().len(), 2, "up0 and the bridge");
    assert!(!world.instance().state_dir.join("containers").exists(), "its files are gone");
}

fn the_name_is_free_when_the_command_has_ended(plane: Plane) {
    let world = World::new(plane);
    for _ in 0..3 {
        world.netpath_ok(&["run", "--name", "app", "-p", "8080:80", "--", "true"]);
        assert!(world.endpoint("app").is_none());
    }
    let output = world.netpath(&["run", "--name", "app", "--", "no-such-command-here"]);
    assert_eq!(output.status.code(), Some(127), "{}", program::text(&output.stderr));
    assert!(world.endpoint("app").is_none());
}

fn the_agents_name_servers_are_for_those_who_name_none(plane: Plane) {
    let world = World::with(plane, Options::agent("--dns 192.0.2.53 --dns-search corp.example"));
    let cat = ["--", "grep", "-v", "^#", "/etc/resolv.conf"];
    let seen = world.netpath_ok(&[&["run"][..], &cat].concat());
    assert!(seen.starts_with("nameserver 192.0.2.53\nsearch corp.example\n"), "{seen}");
    let seen = world.netpath_ok(&[&["run", "--dns", "192.0.2.54"][..], &cat].concat());
    assert!(seen.starts_with("nameserver 192.0.2.54\nsearch corp.example\n"), "{seen}");
}

fn rm_stops_a_container_and_frees_its_port(plane: Plane) {
    let world = World::new(plane);
    world.run("web", &["8080:80"], &web::nginx(&world.dir().join("web"), 80));
    assert_eq!(fetch_when_up(&world, "/"), PAGE);
    world.netpath_ok(&["rm", "--force", "web"]);
    assert!(world.endpoint("web").is_none());
    world.run("again", &["8080:80"], &web::nginx(&world.dir().join("again"), 80));
    assert_eq!(fetch_when_up(&world, "/"), PAGE);
}

fn a_refused_container_never_runs(plane: Plane) {
    let world = World::new(plane);
    world.container("web", &["8080:80"]);
    let mark = world.dir().join("it-ran");
    let mark_text = mark.display().to_string();
    let output = world.netpath(&["run", "--name", "late", "-p", "8080:80", "--", "touch", &mark_text]);
    assert_eq!(output.status.code(), Some(1), "{}", program::text(&output.stderr));
    assert!(program::text(&output.stderr).contains("8080"), "{}", program::text(&output.stderr));
    assert!(!mark.exists() && world.endpoint("late").is_none());
}

fn containers_outlive_the_agent(plane: Plane) {
    let world = World::new(plane);
    world.run("web", &["8080:80"], &web::nginx(&world.dir().join("web"), 80));
    assert_eq!(fetch_when_up(&world, "/"), PAGE);
    world.kill_agent();
    assert_eq!(fetch_when_up(&world, "/"), PAGE);
}

/// Fetches `path` from port 8080 of the host, as soon as the server listens.
fn fetch_when_up(world: &World, path: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match web::fetch(&world.client, &format!("http://198.18.0.1:8080{path}")) {
            Ok(body) => return body,
            Err(error) => assert!(Instant::now() < deadline, "fetch {path}: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}
