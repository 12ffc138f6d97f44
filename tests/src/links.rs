//! `--link`: a container knows another one by a name, whatever address that has.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::sockets::PATIENCE;
use netpath_tests::{Options, Plane, World, program};

on_netpath_once! {
    a_link_is_in_the_hosts_file_and_if_asked_in_the_environment,
    a_link_follows_its_target_to_a_new_address,
    a_link_names_the_addresses_of_both_families,
    a_link_is_added_and_removed_live,
    the_users_own_lines_stay,
    links_that_cannot_be_are_refused_in_dockers_words,
}

const SLEEP: [&str; 2] = ["sleep", "100"];

fn a_link_is_in_the_hosts_file_and_if_asked_in_the_environment(plane: Plane) {
    let world = World::new(plane);
    let options = ["-h", "box", "--expose", "5432", "--expose", "53/udp", "-p", "8080:80", "-e", "PASSWORD=gordon"];
    world.start("db", &options, &SLEEP);
    let script = "cat /etc/hosts; env";
    let seen = world.netpath_ok(&["run", "--name", "web", "--link", "db:my-db", "--", "sh", "-c", script]);
    assert!(seen.contains("\n172.17.0.2\tmy-db box db\n172.17.0.3\tweb\n"), "{seen}");
    assert!(!seen.contains("MY_DB_"), "{seen}");
    let args = ["run", "--name", "web", "--link", "db:my-db", "--link-env", "-e", "MY_DB_NAME=own", "--", "env"];
    let env = world.netpath_ok(&args);
    let mut env: Vec<&str> = env.lines().filter(|line| line.starts_with("MY_DB")).collect();
    env.sort_unstable();
    let expected = [
        "MY_DB_ENV_PASSWORD=gordon",
        "MY_DB_NAME=own",
        "MY_DB_PORT=tcp://172.17.0.2:80",
        "MY_DB_PORT_53_UDP=udp://172.17.0.2:53",
        "MY_DB_PORT_53_UDP_ADDR=172.17.0.2",
        "MY_DB_PORT_53_UDP_PORT=53",
        "MY_DB_PORT_53_UDP_PROTO=udp",
        "MY_DB_PORT_5432_TCP=tcp://172.17.0.2:5432",
        "MY_DB_PORT_5432_TCP_ADDR=172.17.0.2",
        "MY_DB_PORT_5432_TCP_PORT=5432",
        "MY_DB_PORT_5432_TCP_PROTO=tcp",
        "MY_DB_PORT_80_TCP=tcp://172.17.0.2:80",
        "MY_DB_PORT_80_TCP_ADDR=172.17.0.2",
        "MY_DB_PORT_80_TCP_PORT=80",
        "MY_DB_PORT_80_TCP_PROTO=tcp",
    ];
    assert_eq!(env, expected);
}

fn a_link_follows_its_target_to_a_new_address(plane: Plane) {
    let world = World::new(plane);
    world.start("db", &[], &SLEEP);
    world.start("web", &["--link", "db"], &["sh", "-c", "while :; do cat /etc/hosts; sleep 0.02; done"]);
    assert!(hosts(&world, "web").contains("172.17.0.2\tdb\n"), "{}", hosts(&world, "web"));
    world.netpath_ok(&["rm", "-f", "db"]);
    assert!(!hosts(&world, "web").contains("\tdb"), "{}", hosts(&world, "web"));
    // Somebody else has the address meanwhile.
    world.start("other", &[], &SLEEP);
    world.start("db", &[], &SLEEP);
    assert_eq!(hosts(&world, "web"), format!("{}172.17.0.4\tdb\n", own_lines(&world)));
    // The container sees it: its file is the same one.
    let log = world.instance().state_dir.join("logs/web.log");
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(&log).unwrap().ends_with("172.17.0.4\tdb\n") {
        assert!(Instant::now() < deadline, "the container still sees another file");
        thread::sleep(Duration::from_millis(20));
    }
    // The next agent knows what has changed without one.
    world.kill_agent();
    let listed = fs::read_to_string(hosts_path(&world, "web")).unwrap();
    world.start_agent();
    assert_eq!(hosts(&world, "web"), listed);
}

fn a_link_names_the_addresses_of_both_families(plane: Plane) {
    let world = World::with(plane, Options { ipv6: true, ..Options::default() });
    world.start("db", &[], &SLEEP);
    world.start("web", &["--link", "db:store", "--add-host", "host:host-gateway"], &SLEEP);
    let text = hosts(&world, "web");
    for line in [
        "172.17.0.1\thost",
        "fd00:17::1\thost",
        "172.17.0.2\tstore db",
        "fd00:17::2\tstore db",
        "172.17.0.3\tweb",
        "fd00:17::3\tweb",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in {text}");
    }
    world.netpath_ok(&["rm", "-f", "db"]);
    world.start("other", &[], &SLEEP);
    world.start("db", &[], &SLEEP);
    let text = hosts(&world, "web");
    assert!(text.contains("172.17.0.4\tstore db\n") && text.contains("fd00:17::4\tstore db\n"), "{text}");
    assert!(!text.contains("fd00:17::2\t"), "{text}");
}

fn a_link_is_added_and_removed_live(plane: Plane) {
    let world = World::new(plane);
    world.start("db", &[], &SLEEP);
    world.start("web", &["--link", "db:one"], &SLEEP);
    world.netpath_ok(&["link", "add", "web", "db:two"]);
    assert!(
        hosts(&world, "web").contains("172.17.0.2\tone db\n") && hosts(&world, "web").contains("172.17.0.2\ttwo db\n")
    );
    assert!(!world.netpath(&["link", "add", "web", "db:two"]).status.success());
    world.netpath_ok(&["link", "rm", "web", "one"]);
    assert!(!hosts(&world, "web").contains("one") && hosts(&world, "web").contains("172.17.0.2\ttwo db\n"));
    let links = world.json(&["link", "ls"]);
    assert_eq!(links, serde_json::json!({"web": [{"name": "db", "alias": "two"}]}));
    assert_eq!(world.netpath(&["link", "rm", "web", "one"]).status.code(), Some(1));
}

fn the_users_own_lines_stay(plane: Plane) {
    let world = World::new(plane);
    world.start("db", &[], &SLEEP);
    world.start("cache", &[], &SLEEP);
    let script = "sed 's/^[0-9.]*\\tcache/10.0.0.9\\tcache/' /etc/hosts > /tmp/$$; cat /tmp/$$ > /etc/hosts; rm /tmp/$$; \
                  echo '10.0.0.1 mine' >> /etc/hosts; echo nameserver 10.0.0.2 > /etc/resolv.conf; sleep 100";
    world.start("web", &["--link", "db", "--link", "cache"], &["sh", "-c", script]);
    let deadline = Instant::now() + PATIENCE;
    while !hosts(&world, "web").contains("mine") {
        assert!(Instant::now() < deadline, "the container does not write: {}", hosts(&world, "web"));
        thread::sleep(Duration::from_millis(20));
    }
    world.netpath_ok(&["rm", "-f", "db", "cache"]);
    world.start("other", &[], &SLEEP);
    world.start("cache", &[], &SLEEP);
    world.start("db", &[], &SLEEP);
    let text = hosts(&world, "web");
    assert!(text.contains("10.0.0.9\tcache\n") && text.contains("10.0.0.1 mine\n"), "{text}");
    assert!(text.contains("172.17.0.5\tdb\n"), "{text}");
    let resolv_conf = fs::read_to_string(hosts_path(&world, "web").with_file_name("resolv.conf")).unwrap();
    assert_eq!(resolv_conf, "nameserver 10.0.0.2\n");
}

fn links_that_cannot_be_are_refused_in_dockers_words(plane: Plane) {
    let world = World::new(plane);
    world.start("db", &[], &SLEEP);
    for (link, wanted) in [
        ("", "empty string specified for links"),
        ("a:b:c", "bad format for links: a:b:c"),
        ("nobody:x", "Cannot link to a non running container: /nobody AS /web/x"),
        ("web", "Cannot link to a non running container: /web AS /web/web"),
    ] {
        let output = world.netpath(&["run", "--name", "web", "--link", link, "--", "true"]);
        let error = program::text(&output.stderr);
        assert!(!output.status.success() && error.contains(wanted), "{link}: {error}");
    }
    assert!(world.endpoint("web").is_none());
    assert_eq!(world.netpath(&["link", "add", "db", "db"]).status.code(), Some(1));
}

/// What `web`, the second container, has in its hosts file without links.
fn own_lines(world: &World) -> String {
    let all = hosts(world, "web");
    let own = all.lines().filter(|line| !line.ends_with("\tdb"));
    own.flat_map(|line| [line, "\n"]).collect()
}

fn hosts(world: &World, name: &str) -> String {
    let path = hosts_path(world, name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

fn hosts_path(world: &World, name: &str) -> std::path::PathBuf {
    world.instance().state_dir.join("containers").join(name).join("hosts")
}
