//! `netpath docker`: the way of a running Docker to netpath, and back.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpath_agent::ip_tables;
use netpath_agent::legacy_table::LegacyTable;
use netpath_agent::netlink::nftables::Removal;
use netpath_tests::engine::{Engine, FOR_NETPATH, Release};
use netpath_tests::sockets::{accept, at, converse, eventually};
use netpath_tests::{CLIENT, HOST, Namespace, Options, Plane, World, program};
use serde_json::{Value, json};

use crate::docker_mode::PLANE;

on_docker! {
    a_running_docker_is_taken_over_and_given_back,
    published_ports_answer_while_docker_is_taken_over,
    what_is_in_the_way_is_said_and_nothing_changes,
    a_restart_that_fails_leaves_everything_as_it_was,
    a_docker_that_runs_as_it_should_has_nothing_to_change,
    rules_of_the_legacy_iptables_are_removed,
}

on_netpath_once! {
    a_legacy_table_that_has_changed_is_left_as_it_is,
}

on_newest_docker! {
    tables_of_a_docker_without_iptables_are_removed,
}

const SOCKET: &str = "--docker={dir}/docker/sock";
/// The longest that taking over may take.
const LONGEST: Duration = Duration::from_secs(120);
/// Rules of the host's owner, beside Docker's.
const OWNERS: [&[&str]; 3] = [
    &["-I", "DOCKER-USER", "-s", "198.51.100.0/24", "-j", "DROP"],
    &["-A", "FORWARD", "-i", "docker0", "-d", "203.0.113.0/24", "-j", "DROP"],
    &["-t", "nat", "-A", "POSTROUTING", "-s", "10.99.0.0/16", "!", "-o", "docker0", "-j", "MASQUERADE"],
];

fn a_running_docker_is_taken_over_and_given_back(release: Release) {
    let world = World::with(PLANE, Options::agent(SOCKET));
    world.lets_netfilter_work();
    let engine = Engine::start(&world, release, &[]);
    engine.docker(&["network", "create", "back"]);
    engine.start_container("web", &["-p", "8080:80", "-p", "127.0.0.1:9000-9003:9000-9003"]);
    engine.start_container("app", &["--network", "back", "-p", "8081:80"]);
    for rule in OWNERS {
        program::stdout_of(world.host.command("iptables").args(rule));
    }
    let before = (fs::read(engine.config_path()).unwrap(), pid(&engine, "web"), docker_lines(&world, "iptables-save"));
    // As Docker 28 keeps others from containers' own addresses.
    let own = engine.ip("web", "bridge").to_string();
    let direct = ["-t", "raw", "-A", "PREROUTING", "-d", &own, "!", "-i", "docker0", "-j", "DROP"];
    program::stdout_of(world.host.command("iptables").args(direct));
    let inside = engine.inside("web");
    let listener = inside.listen(80);
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    converse(&mut published.0, &mut published.1);

    let shown = docker(&world, &engine.socket(), &["plan"]);
    assert!(shown.status.success(), "{}", errors(&shown));
    let shown = program::text(&shown.stdout);
    for part in
        ["iptables", "userland-proxy", "0.0.0.0:8080", "127.0.0.1:9000-9003", "this host", "DOCKER-USER", "1. let"]
    {
        assert!(shown.contains(part), "no {part}:\n{shown}");
    }
    let plan = json_plan(&world, &engine);
    let steps = ["keep-running", "configure", "restart", "remove-rules"];
    assert_eq!(plan["steps"], json!(steps), "{plan:#}");
    assert_eq!(fs::read(engine.config_path()).unwrap(), before.0, "a plan changes nothing");

    migrate(&world, &engine, &[]);
    eventually("the containers are served", || world.endpoint("web").is_some() && world.endpoint("app").is_some());
    assert_eq!(pid(&engine, "web"), before.1, "it was not restarted");
    converse(&mut published.0, &mut published.1);
    talk(&world, &inside, &listener);
    let mut kept = docker_lines(&world, "iptables-save");
    // Newer Engines put none there.
    kept.retain(|line| !line.ends_with("-j RETURN"));
    let owners = ["-A DOCKER-USER -s 198.51.100.0/24 -j DROP", "-A FORWARD -j DOCKER-USER", ":DOCKER-USER - [0:0]"];
    assert_eq!(kept, owners);
    let rules = program::stdout_of(&mut world.host.command("iptables-save"));
    for rule in OWNERS {
        let sources: Vec<_> = rule.iter().filter(|word| word.contains('/')).collect();
        assert!(rules.contains(*sources[0]), "{rule:?} has gone:\n{rules}");
    }
    assert!(!rules.contains("172."), "{rules}");
    let info = world.json(&["inspect"]);
    assert_eq!(info["docker"]["waits_for"], json!([]));
    let live = engine.docker(&["info", "--format", "{{.LiveRestoreEnabled}}"]);
    assert_eq!(live, "false", "for the restart only");
    let plan = json_plan(&world, &engine);
    assert_eq!(plan["steps"], json!([]), "{plan:#}");
    assert!(program::text(&docker(&world, &engine.socket(), &["plan"]).stdout).contains("Nothing to change"));

    // Somebody writes the file; dockerd goes on as it was started, and so does the agent.
    fs::write(engine.config_path(), fs::read(engine.config_path()).unwrap()).unwrap();
    engine.docker(&["network", "create", "more"]);
    let networks = || world.json(&["network", "ls"]);
    eventually("the agent has read it all again", || networks().to_string().contains("docker/more"));
    assert!(world.endpoint("web").is_some());
    engine.docker(&["network", "rm", "more"]);

    let failed = docker(&world, &engine.socket(), &["migrate", "--back", "--", "false"]);
    assert_eq!(failed.status.code(), Some(2), "{}", errors(&failed));
    migrate_by_command(&world, &engine, &["--back"]);
    eventually("the agent leaves them to Docker", || world.endpoint("web").is_none());
    assert_eq!(fs::read(engine.config_path()).unwrap(), before.0);
    let live = engine.docker(&["info", "--format", "{{.LiveRestoreEnabled}}"]);
    assert_eq!(live, "false", "also where the restart went wrong first");
    assert_eq!(beside(&engine), Vec::<String>::new());
    assert_eq!(pid(&engine, "web"), before.1, "it was not restarted");
    assert_eq!(docker_lines(&world, "iptables-save"), before.2);
    talk(&world, &inside, &listener);
    let again = docker(&world, &engine.socket(), &["migrate", "--back"]);
    assert!(!again.status.success());
    assert!(errors(&again).contains("there is no way back"), "{}", errors(&again));
}

/// On a host where Docker's rules are the only ones that need conntrack, so that the kernel stops to track with the last.
fn published_ports_answer_while_docker_is_taken_over(release: Release) {
    let world = World::with(PLANE, Options::agent(SOCKET));
    world.lets_netfilter_work();
    let engine = Engine::start(&world, release, &[]);
    engine.start_container("web", &["-p", "8080:80"]);
    let listener = engine.inside("web").listen(80);
    let client = &world.client;
    let mut old = (client.connect(at(HOST, 8080)), accept(&listener).0);
    let is_done = AtomicBool::new(false);
    let count = thread::scope(|scope| {
        let talking = scope.spawn(|| {
            let (mut count, since) = (0, Instant::now());
            while !is_done.load(Ordering::Relaxed) && since.elapsed() < LONGEST {
                converse(&mut old.0, &mut old.1);
                let mut new = client.connect(at(HOST, 8080));
                converse(&mut new, &mut accept(&listener).0);
                count += 1;
            }
            count
        });
        migrate(&world, &engine, &[]);
        assert!(world.endpoint("web").is_some(), "the agent serves it when `migrate` ends");
        is_done.store(true, Ordering::Relaxed);
        talking.join().expect("connections go on")
    });
    assert!(count > 1, "talked {count} times");
}

fn what_is_in_the_way_is_said_and_nothing_changes(release: Release) {
    let world = World::with(PLANE, Options::default());
    let nobody = docker(&world, &world.dir().join("no.sock"), &["plan"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(errors(&nobody).contains("connect to Docker Engine at"));
    let stranger = program::output_of(
        Command::new("setpriv").arg("--reuid=65534").arg(program::netpath_binary()).args(["docker", "plan"]),
    );
    assert_eq!(stranger.status.code(), Some(2));
    assert!(errors(&stranger).contains("`netpath docker` needs root"), "{}", errors(&stranger));

    world.lets_netfilter_work();
    let engine = Engine::start(&world, release, &["--iptables=true"]);
    engine.start_container("odd", &["-p", "7000:80", "--label", "netpath.from=nobody"]);
    let before = fs::read(engine.config_path()).unwrap();
    let shown = docker(&world, &engine.socket(), &["plan"]);
    assert_eq!(shown.status.code(), Some(1));
    let shown = program::text(&shown.stdout);
    for part in ["command line has --iptables", "`odd` would be without"] {
        assert!(shown.contains(part), "no {part}:\n{shown}");
    }
    let refused = docker(&world, &engine.socket(), &["migrate", "--", "false"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = errors(&refused);
    for part in ["nothing was changed", "command line has --iptables", "the agent does not follow Docker"] {
        assert!(said.contains(part), "no {part}:\n{said}");
    }
    assert_eq!(fs::read(engine.config_path()).unwrap(), before);
    let file = world.dir().join("odd.json");
    fs::write(&file, "{ iptables: no }").unwrap();
    let odd = docker(&world, &engine.socket(), &["plan", "--config", &file.display().to_string()]);
    assert_eq!(odd.status.code(), Some(2));
    assert!(errors(&odd).contains("odd.json"));
}

fn a_restart_that_fails_leaves_everything_as_it_was(release: Release) {
    let world = World::with(PLANE, Options::agent(SOCKET));
    world.lets_netfilter_work();
    let engine = Engine::start(&world, release, &[]);
    engine.start_container("web", &["-p", "8080:80"]);
    let state = || {
        let live = engine.docker(&["info", "--format", "{{.LiveRestoreEnabled}}"]);
        (fs::read(engine.config_path()).unwrap(), docker_lines(&world, "iptables-save"), pid(&engine, "web"), live)
    };
    let before = state();
    let inside = engine.inside("web");
    let listener = inside.listen(80);
    let cases: [(&[&str], &str); 3] = [
        (&["--", "false"], "`false` failed"),
        (&["--", "/no/such/program"], "run /no/such/program"),
        (&["--wait", "1", "--", "true"], "no new dockerd answers"),
    ];
    for (args, why) in cases {
        let failed = docker(&world, &engine.socket(), &[&["migrate"], args].concat());
        let said = errors(&failed);
        assert_eq!(failed.status.code(), Some(2), "{said}");
        assert!(said.contains(why) && said.contains("everything is as it was before"), "{said}");
        assert_eq!(state(), before);
        assert!(!copy(&engine).exists());
    }
    talk(&world, &inside, &listener);
}

fn rules_of_the_legacy_iptables_are_removed(release: Release) {
    let world = World::with(PLANE, Options::agent(SOCKET));
    if !has_legacy_iptables(&world) {
        return;
    }
    let legacy = |args: &[&str]| program::output_of(world.host.command("iptables-legacy").args(args));
    world.lets_netfilter_work();
    Engine::prefer_legacy_iptables(&world);
    let engine = Engine::start(&world, release, &[]);
    engine.docker(&["network", "create", "back"]);
    engine.start_container("web", &["-p", "8080:80", "-p", "127.0.0.1:9000-9003:9000-9003"]);
    engine.start_container("app", &["--network", "back", "-p", "8081:80"]);
    let counted = ["-A", "INPUT", "-c", "7", "700", "-s", "198.51.100.9", "-j", "DROP"];
    for rule in OWNERS.iter().copied().chain([&counted[..]]) {
        let output = legacy(rule);
        assert!(output.status.success(), "{rule:?}: {}", errors(&output));
    }
    let before = (docker_lines(&world, "iptables-legacy-save"), fs::read(engine.config_path()).unwrap());
    assert!(before.0.iter().any(|line| line.contains("--dport 8080 -j DNAT")), "{:#?}", before.0);
    let inside = engine.inside("web");
    let listener = inside.listen(80);
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&listener).0);
    converse(&mut published.0, &mut published.1);

    let plan = json_plan(&world, &engine);
    assert_eq!(plan["obstacles"], json!([]), "{plan:#}");
    let shown = program::text(&docker(&world, &engine.socket(), &["plan"]).stdout);
    assert!(shown.contains("nat (legacy)"), "{shown}");
    migrate(&world, &engine, &[]);
    eventually("the containers are served", || world.endpoint("web").is_some() && world.endpoint("app").is_some());
    converse(&mut published.0, &mut published.1);
    talk(&world, &inside, &listener);
    let mut kept = docker_lines(&world, "iptables-legacy-save");
    kept.retain(|line| !line.ends_with("-j RETURN"));
    let owners = [
        "-A DOCKER-USER -s 198.51.100.0/24 -j DROP",
        "-A FORWARD -d 203.0.113.0/24 -i docker0 -j DROP",
        "-A FORWARD -j DOCKER-USER",
        "-A POSTROUTING -s 10.99.0.0/16 ! -o docker0 -j MASQUERADE",
        ":DOCKER-USER - [0:0]",
    ];
    assert_eq!(kept, [owners[0], owners[2], owners[4]]);
    let saved = program::stdout_of(world.host.command("iptables-legacy-save").arg("-c"));
    for line in [owners[1], owners[3], "[7:700] -A INPUT -s 198.51.100.9/32 -j DROP"] {
        assert!(saved.contains(line), "{line} has gone:\n{saved}");
    }
    assert!(!saved.contains("172."), "{saved}");
    assert_eq!(docker_lines(&world, "ip6tables-legacy-save"), Vec::<String>::new());
    assert_eq!(world.json(&["inspect"])["docker"]["waits_for"], json!([]));
    assert_eq!(json_plan(&world, &engine)["steps"], json!([]));

    migrate(&world, &engine, &["--back"]);
    assert_eq!((docker_lines(&world, "iptables-legacy-save"), fs::read(engine.config_path()).unwrap()), before);
    talk(&world, &inside, &listener);
}

fn a_legacy_table_that_has_changed_is_left_as_it_is(plane: Plane) {
    let world = World::with(plane, Options::default());
    if !has_legacy_iptables(&world) {
        return;
    }
    let legacy = |args: &str| {
        program::stdout_of(world.host.command("iptables-legacy").args(args.split_whitespace()));
    };
    legacy("-N DOCKER");
    legacy("-A DOCKER -c 5 500 -j RETURN");
    legacy("-A FORWARD -j DOCKER");
    legacy("-A INPUT -c 7 700 -s 198.51.100.9 -j DROP");
    let filter = || {
        let tables = world.host.within(ip_tables::tables).expect("read the tables");
        tables.into_iter().find(|table| (table.family(), &*table.name) == ("ip", "filter")).expect("a table")
    };
    let saved = || program::stdout_of(world.host.command("iptables-legacy-save").args(["-c", "-t", "filter"]));
    let removal = |table: &LegacyTable| Removal {
        chains: table.chains().into_iter().filter(|chain| chain.name == "DOCKER").collect(),
        rules: table.rules().into_iter().filter(|rule| rule.chain == "FORWARD").collect(),
        ..Removal::default()
    };
    let before = filter();
    legacy("-A INPUT -c 9 900 -s 198.51.100.8 -j DROP");
    let error = world.host.within(|| ip_tables::remove(&before, &removal(&before))).unwrap_err();
    assert!(error.to_string().contains("ip filter has been changed meanwhile: try again"), "{error:#}");
    assert!(saved().contains("[5:500] -A DOCKER -j RETURN"), "{}", saved());
    let now = filter();
    world.host.within(|| ip_tables::remove(&now, &removal(&now))).expect("remove what is there");
    let saved = saved();
    for line in ["[7:700] -A INPUT -s 198.51.100.9/32 -j DROP", "[9:900] -A INPUT -s 198.51.100.8/32 -j DROP"] {
        assert!(saved.contains(line), "{line} has gone:\n{saved}");
    }
    assert!(!saved.contains("DOCKER"), "{saved}");
}

/// Whether the kernel has legacy tables; says so if not.
fn has_legacy_iptables(world: &World) -> bool {
    let tried = program::output_of(world.host.command("iptables-legacy").args(["-t", "nat", "-S"]));
    if !tried.status.success() {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        eprintln!("skipped: Linux {} has no legacy iptables: {}", kernel.trim(), errors(&tried));
    }
    tried.status.success()
}

/// What Docker 29 writes with `--firewall-backend=nftables`; no such Engine is here, so it stands beside another one's rules.
fn tables_of_a_docker_without_iptables_are_removed(release: Release) {
    let world = World::with(PLANE, Options::agent(SOCKET));
    world.lets_netfilter_work();
    let engine = Engine::start(&world, release, &[]);
    engine.start_container("web", &["-p", "8080:80"]);
    let (inside, before) = (engine.inside("web"), fs::read(engine.config_path()).unwrap());
    let file = world.dir().join("docker-29.nft");
    fs::write(&file, nftables_of_docker_29(&engine.ip("web", "bridge").to_string())).unwrap();
    program::stdout_of(world.host.command("nft").arg("-f").arg(&file));
    let tables = || {
        let text = program::stdout_of(world.host.command("nft").args(["list", "tables"]));
        let mut tables: Vec<String> =
            text.lines().filter(|line| line.contains("docker-bridges")).map(str::to_owned).collect();
        tables.sort();
        tables
    };
    let owners = ["table inet docker-bridges", "table ip docker-bridges-too"];
    assert_eq!(tables(), [owners[0], "table ip docker-bridges", owners[1], "table ip6 docker-bridges"]);

    let plan = json_plan(&world, &engine);
    assert_eq!(plan["obstacles"], json!([]), "{plan:#}");
    let rules = plan["rules"].as_array().expect("a list").iter();
    let found: Vec<Value> = rules.filter(|found| found["table"] == "docker-bridges").cloned().collect();
    let whole = |family: &str, rules: usize| json!({"family": family, "table": "docker-bridges", "chain": "*", "rules": rules, "is_legacy": false, "is_kept": false});
    assert_eq!(found, [whole("ip", 15), whole("ip6", 3)]);
    let listener = inside.listen(80);
    migrate(&world, &engine, &[]);
    assert_eq!(tables(), owners);
    let kept = program::stdout_of(world.host.command("nft").args(["list", "table", "ip", "docker-bridges-too"]));
    assert!(kept.contains("198.51.100.0/24"), "{kept}");
    eventually("the container is served", || world.endpoint("web").is_some());
    assert_eq!(world.json(&["inspect"])["docker"]["waits_for"], json!([]));
    talk(&world, &inside, &listener);
    assert_eq!(json_plan(&world, &engine)["steps"], json!([]));

    migrate(&world, &engine, &["--back"]);
    assert_eq!(fs::read(engine.config_path()).unwrap(), before);
    assert_eq!(tables(), owners);
    talk(&world, &inside, &listener);
}

/// The tables of a Docker with a container at `addr` whose port 80 is published as 8080, and two tables of the owner's.
fn nftables_of_docker_29(addr: &str) -> String {
    let jumps = |map: &str| {
        format!("map {map}-jumps {{ type ifname : verdict; elements = {{ \"docker0\" : jump {map}__docker0 }}; }}\n")
    };
    let maps = ["filter-forward-in", "filter-forward-out", "nat-postrouting-in", "nat-postrouting-out"];
    format!(
        "table ip docker-bridges {{
        chain filter-forward-in__docker0 {{
            ct state established,related counter accept
            iifname docker0 counter accept comment \"ICC\"
            ip daddr {addr} tcp dport 80 counter accept
            counter drop comment \"UNPUBLISHED PORT DROP\"
        }}
        chain filter-forward-out__docker0 {{
            ct state established,related counter accept
            counter accept comment \"OUTGOING\"
        }}
        chain nat-postrouting-in__docker0 {{ }}
        chain nat-postrouting-out__docker0 {{ oifname != docker0 ip saddr {addr}/16 counter masquerade; }}
        chain nat-prerouting-and-output {{ iifname != docker0 tcp dport 8080 counter dnat to {addr}:80; }}
        {maps}
        chain filter-FORWARD {{
            type filter hook forward priority filter; policy accept;
            oifname vmap @filter-forward-in-jumps
            iifname vmap @filter-forward-out-jumps
        }}
        chain nat-POSTROUTING {{
            type nat hook postrouting priority srcnat; policy accept;
            iifname vmap @nat-postrouting-out-jumps
            oifname vmap @nat-postrouting-in-jumps
        }}
        chain nat-PREROUTING {{
            type nat hook prerouting priority dstnat; policy accept;
            fib daddr type local counter jump nat-prerouting-and-output
        }}
        chain nat-OUTPUT {{
            type nat hook output priority -100; policy accept;
            ip daddr != 127.0.0.0/8 fib daddr type local counter jump nat-prerouting-and-output
        }}
        chain raw-PREROUTING {{
            type filter hook prerouting priority raw; policy accept;
            ip daddr {addr} iifname != docker0 counter drop
        }}
    }}
    table ip6 docker-bridges {{
        chain nat-prerouting-and-output {{ }}
        map filter-forward-in-jumps {{ type ifname : verdict; }}
        chain filter-FORWARD {{
            type filter hook forward priority filter; policy accept;
            oifname vmap @filter-forward-in-jumps
        }}
        chain nat-PREROUTING {{
            type nat hook prerouting priority dstnat; policy accept;
            fib daddr type local counter jump nat-prerouting-and-output
        }}
        chain nat-OUTPUT {{
            type nat hook output priority -100; policy accept;
            ip6 daddr != ::1 fib daddr type local counter jump nat-prerouting-and-output
        }}
    }}
    table inet docker-bridges {{
        chain mine {{ tcp dport 22 accept; }}
    }}
    table ip docker-bridges-too {{
        chain mine {{ type filter hook input priority filter; ip saddr 198.51.100.0/24 drop; }}
    }}
    ",
        maps = maps.map(jumps).concat()
    )
}

fn a_docker_that_runs_as_it_should_has_nothing_to_change(release: Release) {
    let world = World::with(PLANE, Options::agent(SOCKET));
    let engine = Engine::start(&world, release, &FOR_NETPATH);
    engine.start_container("web", &["-p", "8080:80"]);
    let plan = json_plan(&world, &engine);
    for part in ["steps", "obstacles", "rules"] {
        assert_eq!(plan[part], json!([]), "{plan:#}");
    }
    let done = docker(&world, &engine.socket(), &["migrate"]);
    let said = errors(&done);
    assert!(done.status.success() && said.contains("1 containers are served by netpath"), "{said}");
    assert!(!copy(&engine).exists());
}

/// Runs `netpath docker migrate ARGS`, and restarts dockerd when it says so.
fn migrate(world: &World, engine: &Engine<'_>, args: &[&str]) {
    let mut command = command(world, engine, args);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"));
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut said = String::new();
    while lines.read_line(&mut said).expect("read what it says") > 0 {
        if said.lines().last().is_some_and(|line| line.starts_with("now restart dockerd")) {
            restart(engine);
            break;
        }
    }
    lines.read_to_string(&mut said).expect("read what it says");
    let status = child.wait().expect("wait for it");
    assert!(status.success(), "{status}:\n{said}");
}

/// Runs `netpath docker migrate ARGS -- COMMAND` with a command that has dockerd restarted and waits for that.
fn migrate_by_command(world: &World, engine: &Engine<'_>, args: &[&str]) {
    let wish = world.dir().join("restart");
    let script = format!("touch {0}; while [ -e {0} ]; do sleep 0.02; done", wish.display());
    let mut command = command(world, engine, &[args, &["--", "sh", "-c", &script]].concat());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"));
    eventually("the command runs", || wish.exists());
    restart(engine);
    fs::remove_file(&wish).expect("tell the command");
    let status = child.wait().expect("wait for it");
    assert!(status.success(), "{status}");
}

fn command(world: &World, engine: &Engine<'_>, args: &[&str]) -> Command {
    let socket = engine.socket().display().to_string();
    let args = [&["docker", "migrate", "--docker", &socket], args].concat();
    world.instance().command(&world.host, args.iter().copied())
}

fn restart(engine: &Engine<'_>) {
    engine.stop_daemon();
    engine.start_daemon(&[]);
}

/// `netpath docker ARGS`; the options of netpath's own stand before what is behind `--`.
fn docker(world: &World, socket: &Path, args: &[&str]) -> Output {
    let socket = socket.display().to_string();
    world.netpath(&[&["docker", args[0], "--docker", &socket], &args[1..]].concat())
}

fn json_plan(world: &World, engine: &Engine<'_>) -> Value {
    world.json(&["docker", "plan", "--docker", &engine.socket().display().to_string()])
}

/// What is said of Docker's chains and networks, sorted; what was counted changes.
fn docker_lines(world: &World, program: &str) -> Vec<String> {
    let text = program::stdout_of(&mut world.host.command(program));
    let lines = text.lines().filter(|line| line.contains("DOCKER") || line.contains("172."));
    let mut lines: Vec<String> = lines
        .map(|line| match line.split_once(" [") {
            Some((chain, _)) => format!("{chain} [0:0]"),
            None => line.to_owned(),
        })
        .collect();
    lines.sort();
    lines
}

/// New connections, in and out.
fn talk(world: &World, inside: &Namespace, listener: &TcpListener) {
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(listener).0);
    let outside = world.client.listen(7001);
    let mut client = inside.connect(at(CLIENT, 7001));
    let (mut server, from) = accept(&outside);
    assert_eq!(from.ip(), HOST);
    converse(&mut client, &mut server);
}

fn errors(output: &Output) -> String {
    program::text(&output.stderr)
}

fn pid(engine: &Engine<'_>, container: &str) -> String {
    engine.docker(&["inspect", "--format", "{{.State.Pid}}", container])
}

/// What lies beside dockerd's configuration under its name.
fn beside(engine: &Engine<'_>) -> Vec<String> {
    let dir = engine.config_path().parent().expect("a folder").read_dir().expect("list a folder");
    let names = dir.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    names.filter(|name| name.starts_with("daemon.json.")).collect()
}

fn copy(engine: &Engine<'_>) -> PathBuf {
    engine.config_path().with_file_name("daemon.json.before-netpath")
}
