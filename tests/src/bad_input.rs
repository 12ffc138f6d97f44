//! Wrong input gets a clear error and changes nothing.

use std::fs;
use std::process::{Command, Output};

use aya::maps::{Array, Map, MapData};
use netpath_common::Config;
use netpath_tests::agent::START;
use netpath_tests::sockets::{accept, at, converse};
use netpath_tests::{HOST, NetworkOptions, Options, Plane, World, program};

on_netpath_once! {
    refused_requests_say_why_and_change_nothing,
    networks_that_cannot_be_are_refused_and_change_nothing,
    without_an_agent_every_command_says_so,
    an_agent_refuses_options_that_cannot_work,
    options_that_cannot_work_change_nothing_of_a_running_data_plane,
    an_agent_without_a_free_subnet_says_which_pools_it_tried,
    a_second_agent_on_the_same_state_names_the_first,
    a_corrupt_state_file_is_set_aside_and_rebuilt,
    pins_of_another_layout_are_refused_until_they_are_taken_down,
    without_root_the_agent_says_what_it_needs,
    texts_for_a_containers_files_are_one_line_each,
    a_namespace_under_a_name_used_again_is_left_alone,
    a_fifo_as_namespace_does_not_hold_up_the_agent,
}

fn refused_requests_say_why_and_change_nothing(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let free = world.namespace("free");
    let _holder = world.host.listen(9999);
    let netns = free.path().display().to_string();
    let (taken, process) = (web.address.to_string(), format!("pid {}", std::process::id()));
    let (webs_mac, bridges_mac) = (mac_text(web.inside.mac("eth0")), mac_text(world.host.mac("netpath0")));
    let before = picture(&world);
    for (status, args, wanted) in [
        (1, "inspect nobody", &["nobody"][..]),
        (1, "detach nobody", &["nobody"]),
        (1, "publish nobody 81:81", &["nobody"]),
        (1, "unpublish web 81", &["81"]),
        (1, "attach web --netns NETNS", &["web", "already"]),
        (1, "attach app --netns NETNS -p 8080:80", &["0.0.0.0:8080", "already allocated", "web"]),
        (1, "attach app --netns NETNS -p 9999:80", &["0.0.0.0:9999", "already in use", &process]),
        (1, "publish web 9999:80", &["0.0.0.0:9999", "already in use", &process]),
        (1, "attach app --netns NETNS -p 81:80 -p 81:82", &["81/tcp", "twice"]),
        (1, "attach app --netns NETNS -p 80:http", &["http"]),
        (1, "attach app --netns NETNS -p 1-3:1-2", &["1-2 and 1-3"]),
        (1, "attach app --netns NETNS -p 80/tcpp", &["tcpp"]),
        (1, "attach app --netns NETNS -p 90:80/sctp", &["80/sctp", "its own number"]),
        (1, "attach app --netns NETNS -p [::1]:80:80", &["::1", "no IPv6"]),
        (1, "publish web 9000-10000:9000-10000", &["0.0.0.0:9999", "already in use", &process]),
        (1, "publish web 8000-8100:8000-8100", &["0.0.0.0:8080", "already allocated", "web"]),
        (1, "publish web 81:81 --from 82=10.0.0.0/8", &["82=10.0.0.0/8", "nothing is published"]),
        (1, "unpublish web 8081-8090", &["8081-8090"]),
        (1, "attach app --netns NETNS --ip TAKEN", &["TAKEN"]),
        (1, "attach app --netns NETNS --ip 10.0.0.1", &["10.0.0.1", "172.17.0.0/16"]),
        (1, "attach app --netns NETNS --mac-address 00:11:22", &["00:11:22"]),
        (1, "attach app --netns NETNS --mac-address WEBS_MAC", &["WEBS_MAC", "already in use", "container `web`"]),
        (1, "attach app --netns NETNS --mac-address BRIDGES_MAC", &["BRIDGES_MAC", "already in use", "the bridge"]),
        (1, "attach app --netns /proc/self/ns/uts", &["/proc/self/ns/uts", "want a network namespace"]),
        (1, "attach app --netns /run/netns/nowhere-at-all", &["/run/netns/nowhere-at-all"]),
        (1, "attach app --pid 4194305", &["4194305"]),
        (2, "attach app --netns NETNS --ip tomato", &["tomato"]),
        (2, "attach app", &["--netns"]),
        (2, "conntrack -L -p xyz", &["xyz", "tcp, udp, icmp"]),
        (2, "frobnicate", &["frobnicate"]),
    ] {
        let fill = |text: &str| {
            let text = text.replace("NETNS", &netns).replace("TAKEN", &taken);
            text.replace("WEBS_MAC", &webs_mac).replace("BRIDGES_MAC", &bridges_mac)
        };
        let output = world.netpath(&fill(args).split(' ').collect::<Vec<_>>());
        assert_refused(
            &format!("netpath {args}"),
            &output,
            status,
            &wanted.iter().map(|w| fill(w)).collect::<Vec<_>>(),
        );
        assert_eq!(picture(&world), before, "after netpath {args}");
        assert_eq!(free.interfaces(), Vec::<String>::new(), "after netpath {args}");
    }
    let listener = web.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
}

fn networks_that_cannot_be_are_refused_and_change_nothing(plane: Plane) {
    let world = World::new(plane);
    let free = world.namespace("free").path().display().to_string();
    let _web = world.container("web", &[]);
    world.netpath_ok(&["network", "create", "--subnet", "10.50.0.0/24", "back"]);
    world.host.ip("link add lan0 type bridge");
    world.host.ip("addr add 10.60.0.1/24 dev lan0");
    world.host.ip("link set lan0 up");
    world.host.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    let picture = || {
        let mut interfaces = world.host.interfaces();
        interfaces.sort();
        (world.json(&["network", "ls"]), world.json(&["ps"]), interfaces)
    };
    let before = picture();
    for (status, args, wanted) in [
        (1, "network create back", &["back", "already exists"][..]),
        (1, "network create none", &["none"]),
        (1, "network create container:web", &["container:web"]),
        (1, "network create --subnet 10.50.0.128/25 x", &["10.50.0.128/25", "network `back`"]),
        (1, "network create --subnet 10.60.0.0/16 x", &["10.60.0.0/16", "10.60.0.1/24", "lan0"]),
        (1, "network create --subnet 172.17.3.0/24 x", &["172.17.3.0/24", "network `bridge`"]),
        (
            1,
            "network create --subnet 10.70.0.0/24 --gateway 10.71.0.1 x",
            &["no matching subnet for gateway 10.71.0.1"],
        ),
        (1, "network create --subnet 10.70.0.0/24 --gateway 10.70.0.255 x", &["10.70.0.255"]),
        (1, "network create --gateway 10.70.0.1 x", &["no matching subnet for gateway 10.70.0.1"]),
        (1, "network create --subnet 10.70.0.0/24 --ip-range 10.71.0.0/25 x", &["10.71.0.0/25", "10.70.0.0/24"]),
        (1, "network create --subnet 10.70.0.0/24 --subnet 10.71.0.0/24 x", &["more than one IPv4 subnet"]),
        (1, "network create --ipv6 x", &["IPv6 is switched off in the kernel"]),
        (1, "network create --subnet fd00:70::/64 x", &["IPv6 is switched off in the kernel"]),
        (1, "network create --mtu 65536 x", &["65536"]),
        (1, "network create --gateway-mode-ipv4 isolated x", &["isolated", "internal"]),
        (1, "network create --bridge up0 x", &["up0"]),
        (2, "network create -o com.docker.network.bridge.enable_icc=maybe x", &["enable_icc", "maybe"]),
        (2, "network create -o com.docker.network.bridge.frobnicate=1 x", &["frobnicate"]),
        (1, "network rm bridge", &["bridge"]),
        (1, "network rm nowhere", &["nowhere", "not found"]),
        (1, "network inspect nowhere", &["nowhere", "not found"]),
        (1, "network connect nowhere web", &["nowhere", "not found"]),
        (1, "network connect back nobody", &["nobody"]),
        (1, "network connect bridge web", &["web", "already"]),
        (1, "network connect --ip 10.51.0.9 back web", &["10.51.0.9", "10.50.0.0/24"]),
        (1, "network disconnect back web", &["web", "back"]),
        (1, "attach app --netns NETNS --net nowhere", &["nowhere", "not found"]),
        (1, "attach app --netns NETNS --ip6 fd00:17::9", &["fd00:17::9"]),
    ] {
        let args = args.replace("NETNS", &free);
        let output = world.netpath(&args.split(' ').collect::<Vec<_>>());
        let wanted: Vec<_> = wanted.iter().map(|w| (*w).to_owned()).collect();
        assert_refused(&format!("netpath {args}"), &output, status, &wanted);
        assert_eq!(picture(), before, "after netpath {args}");
    }
    world.netpath_ok(&["network", "connect", "back", "web"]);
    let output = world.netpath(&["network", "rm", "back"]);
    assert_refused("netpath network rm back", &output, 1, &["back", "web"].map(str::to_owned));
}

fn without_an_agent_every_command_says_so(plane: Plane) {
    let world = World::new(plane);
    world.kill_agent();
    let socket = world.instance().socket.display().to_string();
    for args in ["ps", "inspect web", "attach web --pid 1", "rules", "stats", "conntrack"] {
        let output = world.netpath(&args.split(' ').collect::<Vec<_>>());
        assert_refused(args, &output, 2, &[socket.clone(), "netpath agent".to_owned()]);
    }
}

fn an_agent_refuses_options_that_cannot_work(plane: Plane) {
    let world = World::new(plane);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    world.host.ip("link add taken type bridge");
    world.host.ip("addr add 10.7.0.1/16 dev taken");
    world.host.ip("link set taken up");
    for (options, wanted) in [
        ("--bip 10.7.1.1/24", &["--bip", "10.7.1.0/24", "10.7.0.1/16", "taken"][..]),
        ("--bip 10.8.0.0/24", &["10.8.0.0"]),
        ("--bip 10.8.0.1/24 --fixed-cidr 10.9.0.0/25", &["10.9.0.0/25", "10.8.0.0/24"]),
        ("--bip 10.8.0.1/24 --default-gateway 10.9.0.1", &["10.9.0.1"]),
        ("--bridge averyveryverylongname", &["averyveryverylongname"]),
        ("--bridge up0", &["up0", "no bridge"]),
        ("--bridge br%d", &["br%d", "no interface name"]),
        ("--ipv6 --bip6 fd00:8::1/64 --fixed-cidr-v6 fd00:9::/80", &["fd00:9::/80", "fd00:8::/64"]),
        ("--ipv6 --bip6 fd00:8::1/64 --default-gateway-v6 fd00:9::1", &["fd00:9::1"]),
        ("--max-endpoints 65536", &["--max-endpoints 65536", "65535"]),
        ("--max-flows 0", &["max-flows"]),
        ("--masquerade-ports 2000-1000", &["2000-1000"]),
        ("--timeout tcp=soon", &["soon"]),
        ("--timeout lunch=60", &["lunch"]),
        ("--config /nowhere/netpath.toml", &["/nowhere/netpath.toml"]),
        ("--group no-such-group", &["no-such-group"]),
    ] {
        let output = start_in_vain(&world, options);
        assert_refused(options, &output, 2, &wanted.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_clean(&world, options);
    }
}

fn options_that_cannot_work_change_nothing_of_a_running_data_plane(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    world.kill_agent();
    let settings = || {
        let map = Map::Array(MapData::from_pin(world.instance().pin_dir.join("maps/CONFIG")).unwrap());
        Array::<_, Config>::try_from(map).unwrap().get(&0, 0).unwrap()
    };
    let before = settings();
    let gateway = "172.17.0.1/16";
    for (options, wanted) in [
        ("--timeout udp=9 --bip GATEWAY --fixed-cidr 10.9.0.0/25", "10.9.0.0/25"),
        ("--timeout udp=9 --bip 172.17.0.9/16", "172.17.0.9/16"),
        ("--timeout udp=9 --bridge up0", "no bridge"),
    ] {
        let output = start_in_vain(&world, &options.replace("GATEWAY", gateway));
        assert_refused(options, &output, 2, &[wanted.to_owned()]);
        assert_eq!(settings(), before, "after {options}");
    }
    world.start_agent_with(&["--trusted=wg7".to_owned()]);
    assert!(world.instance().log_text().contains("--trusted wg7: there is no such interface"));
    let listener = web.inside.listen(80);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&listener).0);
}

fn an_agent_without_a_free_subnet_says_which_pools_it_tried(plane: Plane) {
    let world = World::new(plane);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    world.host.ip("link add everything type bridge");
    world.host.ip("link set everything up");
    for route in ["172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"] {
        world.host.ip(&format!("route add {route} dev everything"));
    }
    let output = start_in_vain(&world, "");
    let wanted = ["172.17.0.0/16", "everything", "--bip"].map(str::to_owned);
    assert_refused("netpath agent", &output, 2, &wanted);
}

fn a_second_agent_on_the_same_state_names_the_first(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let agent = world.take_agent();
    let instance = world.instance();
    let (state, pins) = (instance.state_dir.display().to_string(), instance.pin_dir.display().to_string());
    let other_socket = world.dir().join("other.sock").display().to_string();
    let mut second = world.host.command(program::netpath_binary());
    second.args(["--socket", &other_socket, "agent", "--state-dir", &state, "--pin-dir", &pins]);
    assert_refused("a second agent", &bounded(&mut second), 2, &[state.clone(), agent.pid().to_string()]);
    let mut third = world.host.command(program::netpath_binary());
    let (fresh_state, fresh_pins) = (format!("{state}-2"), format!("{pins}-2"));
    third.arg("--socket").arg(&instance.socket);
    third.args(["agent", "--state-dir", &fresh_state, "--pin-dir", &fresh_pins, "--bridge", "np1"]);
    let socket = instance.socket.display().to_string();
    let output = bounded(&mut third);
    let _ = fs::remove_dir_all(fresh_pins);
    assert_refused("an agent on a socket in use", &output, 2, &[socket]);
    let listener = web.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
}

fn a_corrupt_state_file_is_set_aside_and_rebuilt(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    world.kill_agent();
    let state_dir = &world.instance().state_dir;
    fs::write(state_dir.join("state.json"), "{ half a sta").unwrap();
    world.start_agent();
    let names = fs::read_dir(state_dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().any(|name| name.contains("corrupt")));
    assert!(world.instance().log_text().contains("corrupt"), "{}", world.instance().log_text());
    let listener = web.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
    let listed = world.json(&["ps"]);
    assert!(listed.to_string().contains(&web.address.to_string()), "the endpoint is known again: {listed}");
}

fn pins_of_another_layout_are_refused_until_they_are_taken_down(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    world.kill_agent();
    let pin_dir = &world.instance().pin_dir;
    let map = Map::Array(MapData::from_pin(pin_dir.join("maps/CONFIG")).unwrap());
    let mut configs: Array<_, Config> = map.try_into().unwrap();
    let config = configs.get(&0, 0).unwrap();
    configs.set(0, Config { layout: config.layout ^ 1, ..config }, 0).unwrap();
    let output = start_in_vain(&world, "");
    let pins = pin_dir.display().to_string();
    assert_refused("netpath agent", &output, 2, &[pins.clone(), "netpath down".to_owned()]);
    let listener = web.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
    let state = world.instance().state_dir.display().to_string();
    let down = world.netpath(&["down", "--state-dir", &state, "--pin-dir", &pins]);
    assert!(down.status.success(), "down: {}", program::text(&down.stderr));
    assert!(!pin_dir.exists());
    world.start_agent();
}

fn without_root_the_agent_says_what_it_needs(plane: Plane) {
    let world = World::with(plane, Options::default());
    let binary = world.dir().join("netpath");
    fs::copy(program::netpath_binary(), &binary).unwrap();
    let dir = world.dir().display().to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    command.args(["--socket", &format!("{dir}/nobody.sock"), "agent", "--state-dir", &format!("{dir}/nobody-state")]);
    let output = bounded(&mut command);
    assert_refused("netpath agent", &output, 2, &["error: the agent needs root".to_owned()]);
    assert_eq!(program::text(&output.stderr).lines().count(), 1, "{}", program::text(&output.stderr));
}

fn texts_for_a_containers_files_are_one_line_each(plane: Plane) {
    let world = World::new(plane);
    let socket = world.instance().socket.display().to_string();
    let netns = world.namespace("free").path().display().to_string();
    for (more, wanted) in [
        (r#""hostname": "web\n127.0.0.1 bank""#, "host name"),
        (r#""hostname": """#, "host name"),
        (r#""names": {"add_host": [], "dns": {"search": ["a.example\nnameserver 192.0.2.1"]}}"#, "not a valid domain"),
        (r#""names": {"add_host": [], "dns": {"options": ["rotate\nnameserver 192.0.2.1"]}}"#, "not a resolver option"),
        (r#""names": {"add_host": ["a\nb:192.0.2.1"], "dns": {}}"#, "add-host"),
        (r#""links": ["web:a\nb"]"#, "bad format for links"),
    ] {
        let body = format!(r#"{{"name": "app", "netns": {{"path": "{netns}"}}, {more}}}"#);
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--unix-socket", &socket, "--header", "content-type: application/json"]);
        curl.args(["--write-out", "%{http_code}", "--data", &body, "http://localhost/v1/containers"]);
        let answer = program::stdout_of(&mut curl);
        // What the types refuse is 422.
        assert!(answer.contains(wanted) && (answer.ends_with("400") || answer.ends_with("422")), "{body}: {answer}");
    }
    assert_eq!(world.json(&["ps"]), serde_json::json!([]));
}

fn a_namespace_under_a_name_used_again_is_left_alone(plane: Plane) {
    let world = World::new(plane);
    world.create_network("other", NetworkOptions::default());
    let app = world.container("app", &[]);
    // Keeps the namespace while its name goes to another one.
    let mut sleeper = app.inside.within(|| Command::new("sleep").arg("100").spawn().unwrap());
    let name = app.inside.path().file_name().unwrap().to_str().unwrap().to_owned();
    program::ip(["netns", "del", &name]);
    program::ip(["netns", "add", &name]);
    let output = world.netpath(&["network", "connect", "other", "app"]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert_refused("netpath network connect", &output, 1, &[name.clone(), "another namespace".to_owned()]);
    let output = program::stdout_of(Command::new("ip").args(["-n", &name, "-br", "link"]));
    assert!(!output.contains("eth"), "{output}");
}

fn a_fifo_as_namespace_does_not_hold_up_the_agent(plane: Plane) {
    let world = World::new(plane);
    let fifo = world.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let shown = fifo.display().to_string();
    let output = bounded(&mut world.instance().command(&world.host, ["attach", "app", "--netns", &shown]));
    // An agent that does wait for a writer goes on with this one, and the test ends.
    let _writer = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    assert_refused("netpath attach", &output, 1, &[shown, "is no namespace".to_owned()]);
    world.container("app", &[]);
}

/// Runs an agent that should not start; one that does is ended after a while, which shows in its status.
fn start_in_vain(world: &World, options: &str) -> Output {
    let mut command = world.instance().agent_command(&world.host);
    command.args(options.split_whitespace());
    bounded(&mut command)
}

fn bounded(command: &mut Command) -> Output {
    let mut timeout = Command::new("timeout");
    timeout.args(["--kill-after=1", &START.as_secs().to_string()]).arg(command.get_program()).args(command.get_args());
    program::output_of(&mut timeout)
}

#[track_caller]
fn assert_refused(what: &str, output: &Output, status: i32, wanted: &[String]) {
    let message = program::text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{what}: {message}{}", program::text(&output.stdout));
    for part in wanted {
        assert!(message.contains(part), "{what}: `{part}` is not in: {message}");
    }
    assert!(!message.contains("panicked"), "{what}: {message}");
}

/// Everything the agent shows, except what changes by itself.
fn picture(world: &World) -> (serde_json::Value, serde_json::Value, Vec<String>) {
    (world.json(&["ps"]), world.json(&["network", "ls"]), world.host.interfaces())
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn assert_clean(world: &World, what: &str) {
    assert_eq!(world.host.interfaces(), ["up0", "taken"], "after {what}");
    assert!(!world.instance().pin_dir.exists(), "pins are left after {what}");
}
