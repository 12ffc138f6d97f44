//! Transfers survive the agent's death, its upgrade and a flushed firewall.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::agent::START;
use netpath_tests::reach::talk_both_ways;
use netpath_tests::sockets::{accept, ask, at, converse, receive, send};
use netpath_tests::transfer::Transfer;
use netpath_tests::{CLIENT, Container, HOST, Plane, World, netfilter, program};

on_netpath! {
    a_killed_agent_costs_no_connection,
    new_connections_work_without_an_agent,
    a_restarted_agent_adopts_everything,
    a_stopped_agent_leaves_the_data_plane,
    a_flushed_firewall_costs_no_connection,
    udp_mappings_survive_a_restart,
    a_restart_costs_no_packet_between_containers,
}

on_netpath_once! {
    an_agent_killed_while_it_loads_its_programs_starts_again,
    what_was_left_half_made_goes_at_the_next_start,
    a_clock_that_was_set_costs_no_container,
    tables_keep_their_sizes_until_they_are_taken_down,
    a_service_manager_hears_when_the_agent_is_ready,
}

const SOME: u64 = 8 << 20;

fn a_killed_agent_costs_no_connection(plane: Plane) {
    let world = World::new(plane);
    let busy = Busy::start(&world);
    world.kill_agent();
    busy.advance();
    world.start_agent();
    busy.advance();
    busy.finish();
}

fn new_connections_work_without_an_agent(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    world.kill_agent();
    talk_both_ways(&world, &web.inside, 8080);
}

fn a_restarted_agent_adopts_everything(plane: Plane) {
    let world = World::new(plane);
    let (web, other) = (world.container("web", &["8080:80", "5353:53/udp"]), world.container("other", &[]));
    let (inside, outside) = (web.inside.listen(80), world.client.listen(7000));
    let mut published = (world.client.connect(at(HOST, 8080)), accept(&inside).0);
    let mut outbound = (web.inside.connect(at(CLIENT, 7000)), accept(&outside).0);
    let before = (world.json(&["ps"]), world.json(&["inspect"]), world.json(&["network", "ls"]));
    let flows = world.json(&["conntrack"]).as_array().unwrap().len();
    world.kill_agent();
    world.start_agent();
    assert_eq!((world.json(&["ps"]), world.json(&["inspect"]), world.json(&["network", "ls"])), before);
    assert_eq!(world.json(&["conntrack"]).as_array().unwrap().len(), flows);
    converse(&mut published.0, &mut published.1);
    converse(&mut outbound.0, &mut outbound.1);
    drop((inside, outside));
    talk_both_ways(&world, &web.inside, 8080);
    let third = world.container("third", &["8083:80"]);
    assert!(third.address != web.address && third.address != other.address, "an address is not given twice");
    world.publish(&other, "8081:80");
    let listener = other.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8081));
    converse(&mut client, &mut accept(&listener).0);
}

fn a_stopped_agent_leaves_the_data_plane(plane: Plane) {
    let world = World::new(plane);
    let busy = Busy::start(&world);
    world.take_agent().stop();
    busy.advance();
    busy.finish();
}

fn a_flushed_firewall_costs_no_connection(plane: Plane) {
    let world = World::new(plane);
    let busy = Busy::start(&world);
    netfilter::flush(&world.host);
    busy.advance();
    talk_both_ways(&world, &busy.web.inside, 8080);
    busy.finish();
}

fn udp_mappings_survive_a_restart(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let (client, server) = (app.inside.udp(0), world.client.udp(7000));
    let before = ask(&client, &server, at(CLIENT, 7000));
    world.kill_agent();
    assert_eq!(ask(&client, &server, at(CLIENT, 7000)), before);
    world.start_agent();
    assert_eq!(ask(&client, &server, at(CLIENT, 7000)), before);
}

/// Through an address of the host: programs of two generations are attached for a while, and jump to one another.
fn a_restart_costs_no_packet_between_containers(plane: Plane) {
    const PACE: Duration = Duration::from_millis(2);
    const LAST: &[u8] = b"the last one";
    let world = World::new(plane);
    let (web, app) = (world.container("web", &["5353:53/udp"]), world.container("app", &[]));
    // So that the last packet in hand is another container's.
    let (other, outside) = (world.container("other", &[]), world.client.udp(7000));
    let (server, client, noise) = (web.inside.udp(53), app.inside.udp(0), other.inside.udp(0));
    assert_eq!(ask(&client, &server, at(HOST, 5353)).ip(), HOST);
    ask(&noise, &outside, at(CLIENT, 7000));
    let is_over = AtomicBool::new(false);
    let (sent, received) = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0u32;
            while !is_over.load(Ordering::Relaxed) {
                send(&noise, b"noise", at(CLIENT, 7000));
                send(&client, &sent.to_be_bytes(), at(HOST, 5353));
                sent += 1;
                thread::sleep(PACE);
            }
            send(&client, LAST, at(HOST, 5353));
            sent
        });
        let receiver = scope.spawn(|| {
            let messages = std::iter::repeat_with(|| receive(&server).0).take_while(|message| message != LAST);
            messages.map(|message| u32::from_be_bytes(message.try_into().unwrap())).collect::<Vec<_>>()
        });
        world.kill_agent();
        world.start_agent();
        is_over.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), receiver.join().unwrap())
    });
    let lost: Vec<u32> = (0..sent).filter(|number| !received.contains(number)).collect();
    assert!(lost.is_empty(), "{} of {sent} packets are lost: {lost:?}", lost.len());
}

fn an_agent_killed_while_it_loads_its_programs_starts_again(plane: Plane) {
    let world = World::new(plane);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    let settings = world.instance().pin_dir.join("maps/CONFIG");
    let mut agent = world.instance().agent_command(&world.host).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + START;
    while !settings.exists() {
        assert!(Instant::now() < deadline, "no map is pinned after {START:?}");
        thread::sleep(Duration::from_millis(1));
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    world.start_agent();
    assert!(world.instance().log_text().contains("broke off half way"), "{}", world.instance().log_text());
    let web = world.container("web", &["8080:80"]);
    talk_both_ways(&world, &web.inside, 8080);
}

fn what_was_left_half_made_goes_at_the_next_start(plane: Plane) {
    // The group that an interface is in between its creation and its alias, of the agent with bridge `netpath0`.
    const HALF_MADE: u32 = 1_262_486_061;
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    world.kill_agent();
    let before = world.host.interfaces();
    world.host.ip("link add br-stray type bridge");
    world
        .host
        .command("ip")
        .args(["link", "set", "br-stray", "alias", "netpath network netpath0/gone"])
        .status()
        .unwrap();
    world.host.ip(&format!("link add br-half group {HALF_MADE} type bridge"));
    world.host.ip(&format!("link add veth-half group {HALF_MADE} type veth peer name veth-other"));
    world.start_agent();
    assert_eq!(world.host.interfaces(), before);
    talk_both_ways(&world, &web.inside, 8080);
    let groups = world.host.ip("-d link show");
    assert!(!groups.contains(&HALF_MADE.to_string()), "{groups}");
    assert!(groups.contains("alias netpath network netpath0/bridge"), "{groups}");
}

fn a_clock_that_was_set_costs_no_container(plane: Plane) {
    let world = World::new(plane);
    let app = world.start("app", &["--net=none"], &["sleep", "100"]);
    world.kill_agent();
    // Which writes the whole state.
    world.start_agent();
    world.kill_agent();
    // As if the clock had been an hour behind when the container was made.
    let path = world.instance().state_dir.join("state.json");
    let mut state: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let created = &mut state["containers"]["app"]["created"];
    *created = (created.as_u64().unwrap() - 3600).into();
    fs::write(&path, state.to_string()).unwrap();
    world.start_agent();
    assert_eq!(world.endpoint("app").unwrap()["netns"], app["netns"]);
    world.netpath_ok(&["rm", "-f", "app"]);
    let stat = fs::read_to_string(format!("/proc/{}/stat", app["netns"]["pid"])).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "the process has ended: {stat}");
}

fn a_service_manager_hears_when_the_agent_is_ready(plane: Plane) {
    let world = World::new(plane);
    world.take_agent().stop();
    let path = world.dir().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(START)).unwrap();
    let mut instance = world.instance().clone();
    instance.notify_socket = Some(path);
    let _agent = instance.start(&world.host, &[]);
    let mut said = [0; 64];
    let length = manager.recv(&mut said).unwrap();
    assert_eq!(String::from_utf8_lossy(&said[..length]), "READY=1\n");
}

fn tables_keep_their_sizes_until_they_are_taken_down(plane: Plane) {
    let world = World::new(plane);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    let start = |options: [&str; 2]| world.instance().start(&world.host, &options.map(str::to_owned));
    let agent = start(["--max-endpoints=2", "--max-ports=64"]);
    let web = world.container("web", &["8080:80"]);
    agent.kill();
    let _agent = start(["--max-endpoints=9", "--max-ports=9999"]);
    let log = world.instance().log_text();
    assert!(log.contains("2 is in force") && log.contains("64 is in force"), "{log}");
    talk_both_ways(&world, &web.inside, 8080);
    let refused = |args: &[&str], wanted: &str| {
        let output = world.netpath(args);
        let error = program::text(&output.stderr);
        assert!(output.status.code() == Some(1) && error.contains(wanted), "{args:?}: {}: {error}", output.status);
    };
    refused(&["publish", "web", "9000-9099:9000-9099"], "--max-ports is 64");
    world.container("second", &[]);
    let free = world.namespace("free").path().display().to_string();
    refused(&["attach", "third", "--netns", &free], "--max-endpoints is 2");
}

/// A connection through a published port and a masqueraded one, both filled.
struct Busy {
    web: Container,
    transfers: Vec<Transfer>,
    _sockets: (Vec<TcpStream>, Vec<TcpListener>),
}

impl Busy {
    fn start(world: &World) -> Self {
        let web = world.container("web", &["8080:80", "8090:90"]);
        let (inside, outside) = (web.inside.listen(90), world.client.listen(7001));
        let client = world.client.connect(at(HOST, 8090));
        let container = web.inside.connect(at(CLIENT, 7001));
        let (server, remote) = (accept(&inside).0, accept(&outside).0);
        let transfers = vec![Transfer::start(&server, &client), Transfer::start(&container, &remote)];
        let busy = Self { web, transfers, _sockets: (vec![client, container, server, remote], vec![inside, outside]) };
        busy.advance();
        busy
    }

    fn advance(&self) {
        self.transfers.iter().for_each(|transfer| transfer.advance(SOME));
    }

    fn finish(self) {
        self.transfers.into_iter().for_each(|transfer| assert!(transfer.finish() > SOME));
    }
}
