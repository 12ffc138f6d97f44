//! `--xdp`: which interfaces get the program, when it goes, and what takes its road.

use netpath_tests::foreign_xdp::{ForeignXdp, open_link};
use netpath_tests::frames::FrameSocket;
use netpath_tests::sockets::{accept, ask, assert_silent, at, converse, eventually, send};
use netpath_tests::{CLIENT, Family, HOST, Namespace, Options, Plane, World, program};
use serde_json::Value;

on_netpath_once! {
    a_program_that_is_asked_for_is_attached_and_seen,
    without_the_option_nothing_is_attached_and_containers_stay_as_they_are,
    containers_that_come_later_take_redirected_frames_too,
    containers_that_would_lose_redirected_frames_are_served_by_tc,
    a_restart_keeps_the_program_in_its_place,
    a_restart_with_another_mode_changes_it,
    a_restart_without_the_option_takes_it_off,
    down_takes_it_off_with_an_agent_and_without_one,
    a_veth_is_refused_unless_forced,
    somebody_elses_program_stays_and_is_named,
    an_interface_without_native_xdp_is_served_by_tc,
    an_interface_that_comes_later_gets_it_and_one_that_is_not_external_any_more_loses_it,
    names_that_are_no_external_interface_are_told,
    published_udp_reaches_the_container_and_the_answer_comes_back,
    published_tcp_goes_on_to_tc,
    direct_access_is_dropped_and_counted,
}

/// As `ip link` numbers them.
const NATIVE: u64 = 1;
const GENERIC: u64 = 2;

fn a_program_that_is_asked_for_is_attached_and_seen(plane: Plane) {
    for (option, number, mode, program) in [
        ("force-native", NATIVE, "native", "xdp_from_external"),
        ("generic", GENERIC, "generic", "xdp_from_external_generic"),
    ] {
        let world = World::with(plane, Options::agent(&format!("--xdp {option}")));
        assert_eq!(attached(&world.host, "up0"), Some((number, "xdp_from_extern".to_owned())));
        let shown = xdp_of(&world, "up0");
        assert_eq!((shown["asked"].as_str(), shown["mode"].as_str()), (Some(option), Some(mode)));
        let programs = world.json(&["stats"])["programs"].clone();
        let is_it = |listed: &&Value| listed["name"].as_str().is_some_and(|name| name.starts_with("xdp_"));
        let listed: Vec<_> = programs.as_array().unwrap().iter().filter(is_it).map(|listed| &listed["name"]).collect();
        // Before Linux 5.18 drivers take no program for frames in several pieces.
        let takes_pieces = kernel_release() >= (5, 18);
        assert_eq!(listed, [if takes_pieces { program } else { "xdp_from_external_generic" }]);
    }
}

fn without_the_option_nothing_is_attached_and_containers_stay_as_they_are(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    assert_eq!(attached(&world.host, "up0"), None);
    assert!(!has_gro(&web.inside));
    assert_eq!(xdp_of(&world, "up0")["mode"], "off");
    let stats = world.json(&["stats"]);
    assert!(!stats.to_string().contains("xdp_from_external"), "{stats}");
}

fn containers_that_come_later_take_redirected_frames_too(plane: Plane) {
    let world = World::new(plane);
    let early = world.container("early", &["5353:53/udp"]);
    world.kill_agent();
    world.start_agent_with(&["--xdp=force-native".to_owned()]);
    assert!(has_gro(&early.inside));
    let late = world.container("late", &["5354:53/udp"]);
    assert!(has_gro(&late.inside));
}

/// A veth with GRO at the host's end is as kernels before 5.13 make them.
fn containers_that_would_lose_redirected_frames_are_served_by_tc(plane: Plane) {
    let world = World::new(plane);
    let dns = world.container("dns", &["5353:53/udp"]);
    program::stdout_of(world.host.command("ethtool").args(["-K", &veth(&world), "gro", "on"]));
    program::stdout_of(world.client.command("ethtool").args(["-K", "eth0", "tx", "off"]));
    world.kill_agent();
    world.start_agent_with(&["--xdp=force-native".to_owned()]);
    let log = world.instance().log_text();
    assert!(log.contains("container `dns` gets no frames by XDP, but by tc"), "{log}");
    let (server, client) = (dns.inside.udp_at(at(dns.address, 53)), world.client.udp_at(at(CLIENT, 0)));
    let mut packets = FrameSocket::new(&world.host, "up0");
    assert_eq!(ask(&client, &server, at(HOST, 5353)), client.local_addr().unwrap());
    assert!(packets.sees(|frame| is_udp_to(frame, Family::V4, 5353)), "by tc");
}

fn a_restart_keeps_the_program_in_its_place(plane: Plane) {
    let world = World::with(plane, Options::agent("--xdp force-native"));
    let web = world.container("web", &["5353:53/udp"]);
    let before = program_id(&world.host, "up0");
    world.kill_agent();
    assert_eq!(program_id(&world.host, "up0"), before, "without an agent");
    world.start_agent();
    let after = program_id(&world.host, "up0");
    assert!(after.is_some() && after != before, "{before:?} {after:?}");
    assert_eq!(attached(&world.host, "up0").unwrap().0, NATIVE);
    assert!(has_gro(&web.inside));
}

fn a_restart_with_another_mode_changes_it(plane: Plane) {
    let world = World::with(plane, Options::agent("--xdp force-native"));
    for (option, number) in [("generic", GENERIC), ("force-native", NATIVE)] {
        world.kill_agent();
        world.start_agent_with(&[format!("--xdp=up0={option}")]);
        assert_eq!(attached(&world.host, "up0").map(|(mode, _)| mode), Some(number), "{option}");
    }
}

fn a_restart_without_the_option_takes_it_off(plane: Plane) {
    let world = World::new(plane);
    for off in [vec![], vec!["--xdp=force-native".to_owned(), "--xdp=up0=off".to_owned()]] {
        world.kill_agent();
        world.start_agent_with(&["--xdp=force-native".to_owned()]);
        assert!(attached(&world.host, "up0").is_some());
        world.kill_agent();
        world.start_agent_with(&off);
        assert_eq!(attached(&world.host, "up0"), None, "{off:?}");
    }
}

fn down_takes_it_off_with_an_agent_and_without_one(plane: Plane) {
    for with_agent in [true, false] {
        let world = World::with(plane, Options::agent("--xdp force-native"));
        if with_agent {
            world.netpath_ok(&["down"]);
        } else {
            world.kill_agent();
            let instance = world.instance();
            let dirs = [&instance.state_dir, &instance.pin_dir].map(|dir| dir.display().to_string());
            world.netpath_ok(&["down", "--state-dir", &dirs[0], "--pin-dir", &dirs[1]]);
        }
        // The kernel does it when it has the time.
        eventually("the program is taken off", || attached(&world.host, "up0").is_none());
    }
}

fn a_veth_is_refused_unless_forced(plane: Plane) {
    for (mode, wanted) in [("native", "--xdp up0=force-native"), ("auto", "no XDP on up0")] {
        let world = World::with(plane, Options::agent(&format!("--xdp {mode}")));
        let web = world.container("web", &["8080:80"]);
        assert_eq!(attached(&world.host, "up0"), None);
        assert!(!has_gro(&web.inside));
        let shown = xdp_of(&world, "up0");
        assert_eq!((shown["asked"].as_str(), shown["mode"].as_str()), (Some(mode), Some("off")));
        assert!(shown["reason"].as_str().unwrap().contains("a veth with native XDP"), "{shown}");
        let log = world.instance().log_text();
        assert!(log.contains(wanted) && log.contains("bulk TCP gets far slower"), "{log}");
    }
}

fn somebody_elses_program_stays_and_is_named(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80"]);
    let _foreign = ForeignXdp::attach(&world.host, "up0");
    for mode in ["generic", "force-native"] {
        world.kill_agent();
        world.start_agent_with(&[format!("--xdp={mode}")]);
        assert_eq!(attached(&world.host, "up0"), Some((GENERIC, "foreign".to_owned())));
        let reason = xdp_of(&world, "up0")["reason"].to_string();
        assert!(reason.contains("another XDP program `foreign` (id "), "{reason}");
        assert!(world.instance().log_text().contains("no XDP on up0, tc serves it"));
    }
    let listener = web.inside.listen(80);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&listener).0);
    world.kill_agent();
    world.start_agent();
    assert!(attached(&world.host, "up0").is_some(), "it is not ours to take off");
}

fn an_interface_without_native_xdp_is_served_by_tc(plane: Plane) {
    for mode in ["force-native", "native"] {
        let world = World::new(plane);
        world.host.ip("link add odd0 type bridge");
        world.host.ip("addr add 198.18.9.1/24 dev odd0");
        world.host.ip("link set odd0 up");
        world.kill_agent();
        world.start_agent_with(&["--xdp=up0=force-native".to_owned(), format!("--xdp=odd0={mode}")]);
        assert_eq!(xdp_of(&world, "odd0")["mode"], "off");
        assert!(xdp_of(&world, "odd0")["reason"].as_str().unwrap().contains("no native XDP"));
        assert!(world.instance().log_text().contains("no XDP on odd0, tc serves it"));
        assert!(attached(&world.host, "up0").is_some(), "the rest goes on");
    }
}

fn an_interface_that_comes_later_gets_it_and_one_that_is_not_external_any_more_loses_it(plane: Plane) {
    let world = World::with(plane, Options::agent("--xdp late0=force-native"));
    assert!(world.instance().log_text().contains("--xdp late0: there is no such interface"));
    let web = world.container("web", &["8080:80"]);
    assert!(!has_gro(&web.inside));
    world.host.ip("link add late0 type veth peer name late1");
    world.host.ip("link set late1 up");
    world.host.ip("link set late0 up");
    assert_eq!(attached(&world.host, "late0"), None, "it has no address");
    world.host.ip("addr add 198.18.9.1/24 dev late0");
    eventually("the interface gets the program", || attached(&world.host, "late0").is_some());
    eventually("the container takes redirected frames", || has_gro(&web.inside));
    assert_eq!(attached(&world.host, "up0"), None);
    // The kernel takes a program off some time after its link is closed everywhere. Whoever holds the link makes that
    // time longer than any test.
    let pin = format!("links/xdp_from_external-{}", world.host.ifindex("late0"));
    let pin = world.instance().pin_dir.join(pin);
    let _link = open_link(&pin);
    world.host.ip("addr del 198.18.9.1/24 dev late0");
    // The agent looks at the host before it answers.
    assert_eq!(external(&world, "late0"), None);
    assert_eq!(attached(&world.host, "late0"), None, "it is no external interface any more");
    world.host.ip("addr add 198.18.9.1/24 dev late0");
    let xdp = xdp_of(&world, "late0");
    assert_eq!(xdp["mode"], "native", "{xdp}");
    world.host.ip("link del late0");
    assert_eq!(external(&world, "late0"), None);
    assert!(!pin.exists());
    // There is nothing to take it off any more, which is no error.
    let log = world.instance().log_text();
    assert!(!log.contains("follow the host's interfaces"), "{log}");
}

fn names_that_are_no_external_interface_are_told(plane: Plane) {
    let world = World::with(plane, Options::agent("--xdp nowhere0=auto --xdp lo=generic"));
    let log = world.instance().log_text();
    for wanted in ["--xdp nowhere0: there is no such interface", "--xdp lo: lo is no external interface"] {
        assert!(log.contains(wanted), "{log}");
    }
}

fn published_udp_reaches_the_container_and_the_answer_comes_back(plane: Plane) {
    for (mode, family) in ["force-native", "generic"].into_iter().flat_map(|m| Family::BOTH.map(|f| (m, f))) {
        let world = World::with(plane, Options { ipv6: true, ..Options::agent(&format!("--xdp {mode}")) });
        let dns = world.container("dns", &["5353:53/udp"]);
        let host = family.host();
        let (server, client) = (dns.inside.udp_at(at(dns.ip(family), 53)), world.client.udp_at(at(family.client(), 0)));
        // Packet sockets see what the kernel has made a packet of.
        let mut packets = FrameSocket::new(&world.host, "up0");
        // As the sender left it to the card, the checksum is not there yet: that goes by tc.
        let seen = ask(&client, &server, at(host, 5353));
        assert_eq!(seen, client.local_addr().unwrap(), "{mode}");
        assert!(packets.sees(|frame| is_udp_to(frame, family, 5353)), "{mode}: by tc");
        program::stdout_of(world.client.command("ethtool").args(["-K", "eth0", "tx", "off"]));
        for _ in 0..10 {
            assert_eq!(ask(&client, &server, at(host, 5353)), seen, "{mode}");
        }
        let arrived = packets.sees(|frame| is_udp_to(frame, family, 5353));
        let goes_by_tc = gro_is_on(&world.host, &veth(&world));
        assert_eq!(arrived, goes_by_tc, "{mode}: they were redirected before, unless veths lose such frames");
    }
}

fn published_tcp_goes_on_to_tc(plane: Plane) {
    for mode in ["force-native", "generic"] {
        let world = World::with(plane, Options::agent(&format!("--xdp {mode}")));
        let web = world.container("web", &["8080:80"]);
        let listener = web.inside.listen(80);
        converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&listener).0);
        let outside = world.client.listen(7000);
        converse(&mut web.inside.connect(at(CLIENT, 7000)), &mut accept(&outside).0);
    }
}

fn direct_access_is_dropped_and_counted(plane: Plane) {
    for mode in ["force-native", "generic"] {
        let world = World::with(plane, Options::agent(&format!("--xdp {mode}")));
        let web = world.container("web", &["5353:53/udp"]);
        world.client.ip(&format!("route add 172.17.0.0/16 via {HOST}"));
        let (server, client) = (web.inside.udp(53), world.client.udp(0));
        let mut packets = FrameSocket::new(&world.host, "up0");
        // Whether the sender left the checksum to its card matters for what is sent on alone.
        for tx in ["on", "off"] {
            program::stdout_of(world.client.command("ethtool").args(["-K", "eth0", "tx", tx]));
            let before = world.drops("direct-access");
            (0..5).for_each(|_| send(&client, b"question", at(web.address, 53)));
            assert_silent(&server);
            assert_eq!(world.drops("direct-access"), before + 5, "{mode}, tx {tx}");
            let arrived = packets.sees(|frame| is_udp_to(frame, Family::V4, 53));
            assert!(!arrived, "{mode}, tx {tx}: the kernel made packets of the frames");
        }
    }
}

/// Mode and name of the XDP program of an interface.
fn attached(namespace: &Namespace, ifname: &str) -> Option<(u64, String)> {
    let xdp = link(namespace, ifname)["xdp"].clone();
    let name = xdp["prog"]["name"].as_str().unwrap_or_default().to_owned();
    xdp["mode"].as_u64().map(|mode| (mode, name))
}

fn program_id(namespace: &Namespace, ifname: &str) -> Option<u64> {
    link(namespace, ifname)["xdp"]["prog"]["id"].as_u64()
}

fn link(namespace: &Namespace, ifname: &str) -> Value {
    let shown: Value = serde_json::from_str(&namespace.ip(&format!("-json -details link show dev {ifname}"))).unwrap();
    shown[0].clone()
}

/// What `inspect` says about XDP on an interface.
fn xdp_of(world: &World, ifname: &str) -> Value {
    external(world, ifname).expect("an external interface")["xdp"].clone()
}

/// An external interface as `inspect` shows it.
fn external(world: &World, ifname: &str) -> Option<Value> {
    let info: Value = serde_json::from_str(&world.netpath_ok(&["inspect"])).unwrap();
    info["externals"].as_array().unwrap().iter().find(|external| external["ifname"] == ifname).cloned()
}

/// Whether the frame is a datagram to `port`, by a look at where a header without options has it.
fn is_udp_to(frame: &[u8], family: Family, port: u16) -> bool {
    let (protocol_off, port_off) = family.pick((23, 36), (20, 56));
    frame.get(protocol_off) == Some(&17) && frame.get(port_off..port_off + 2) == Some(&port.to_be_bytes())
}

fn has_gro(inside: &Namespace) -> bool {
    gro_is_on(inside, "eth0")
}

/// At the host's end of a veth it is on only where the kernel makes them so: before Linux 5.13, and there redirected frames
/// are lost.
fn gro_is_on(namespace: &Namespace, ifname: &str) -> bool {
    let features = program::stdout_of(namespace.command("ethtool").args(["-k", ifname]));
    features.contains("generic-receive-offload: on")
}

/// The host's end of the only container's veth pair.
fn veth(world: &World) -> String {
    world.host.interfaces().into_iter().find(|name| name.starts_with("veth")).expect("a container")
}

fn kernel_release() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().expect("a number"));
    (numbers.next().expect("a version"), numbers.next().expect("a release"))
}
