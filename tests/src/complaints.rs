//! What people have complained about for years, one test each where no other file has one already. The whole list, with
//! the tests, is in `docs/complaints.md`.

use std::net::{IpAddr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use netpath_tests::icmp;
use netpath_tests::reach::Server;
use netpath_tests::sockets::{PATIENCE, accept, ask, assert_silent, at, converse, send};
use netpath_tests::watcher::Watcher;
use netpath_tests::{CLIENT, Family, HOST, Namespace, Options, Plane, World, netfilter, program};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

on_every_plane! {
    issue_1729_answers_leave_from_the_address_that_was_asked,
    issue_18630_a_reset_of_no_connection_does_not_leak,
}

on_netpath! {
    issue_8795_a_udp_client_reaches_the_container_that_replaced_its_server,
    issue_8795_a_reused_address_gets_nothing_of_its_predecessor,
    issue_20486_a_port_is_free_again_after_a_crash,
    issue_27817_the_input_chain_has_no_say_over_published_ports,
    issue_22054_a_port_is_open_to_the_sources_on_its_list_alone,
    issue_4737_ports_stay_on_loopback_unless_told_otherwise,
}

on_netpath_once! {
    issue_11185_ten_thousand_ports_need_no_process,
    issue_39439_what_the_host_has_set_stays_as_it_is,
    issue_12565_containers_get_the_mtu_of_the_way_out,
    issue_418_networks_get_their_subnets_from_pools_of_ones_own,
}

/// https://github.com/moby/libnetwork/issues/1729
fn issue_1729_answers_leave_from_the_address_that_was_asked(plane: Plane) {
    let world = World::new(plane);
    world.host.ip("addr add 198.18.0.11/24 dev up0");
    let dns = world.container("dns", &["5353:53/udp"]);
    let (server, client) = (dns.inside.udp(53), world.client.udp(0));
    for _ in 0..2 {
        // One client, one port, two addresses.
        assert_eq!(ask(&client, &server, at(HOST, 5353)).ip(), CLIENT);
        assert_eq!(ask(&client, &server, "198.18.0.11:5353".parse().unwrap()).ip(), CLIENT);
    }
}

/// https://github.com/moby/moby/issues/18630: to conntrack the packet is invalid, and NAT is not asked.
fn issue_18630_a_reset_of_no_connection_does_not_leak(plane: Plane) {
    const RESET: [u8; 20] = [
        0x0f, 0xa0, 0x1b, 0x58, // from port 4000 to port 7000
        0, 0, 0, 1, 0, 0, 0, 0, // sequence and acknowledgement
        0x50, 0x04, 0, 0, // five words, RST
        0, 0, 0, 0, // checksum and urgent pointer
    ];
    let world = World::new(plane);
    let app = world.container("app", &[]);
    // So that the neighbour is known.
    assert_eq!(icmp::echo(&app.inside, &world.client, CLIENT, 7, b"ping"), HOST);
    let mut watcher = Watcher::new(&world.client, app.address, 32);
    let raw = app.inside.within(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap());
    let mut segment = RESET;
    let sum = checksum_towards(&app.address.to_string(), &CLIENT.to_string(), &segment).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    raw.send_to(&segment, &at(CLIENT, 0).into()).unwrap();
    assert_eq!(icmp::echo(&app.inside, &world.client, CLIENT, 7, b"ping"), HOST);
    // leak: the reset leaves under the container's own address.
    let leaked = usize::from(!plane.is_netpath());
    assert_eq!(watcher.take().len(), leaked);
}

/// https://github.com/moby/moby/issues/8795, and 53384 where the ports differ.
fn issue_8795_a_udp_client_reaches_the_container_that_replaced_its_server(plane: Plane) {
    let world = World::new(plane);
    let client = world.client.udp(0);
    for name in ["first", "second", "third"] {
        let dns = world.container(name, &["5353:53/udp"]);
        let server = dns.inside.udp(53);
        (0..2).for_each(|_| assert_eq!(ask(&client, &server, at(HOST, 5353)).ip(), CLIENT));
        world.netpath_ok(&["detach", name]);
    }
}

fn issue_8795_a_reused_address_gets_nothing_of_its_predecessor(plane: Plane) {
    let world = World::new(plane);
    let outside = world.client.udp(7000);
    let first = attach_at(&world, "first");
    let seen = ask(&first.udp(5000), &outside, at(CLIENT, 7000));
    world.netpath_ok(&["detach", "first"]);
    let second = attach_at(&world, "second");
    let heir: UdpSocket = second.udp(5000);
    send(&outside, b"late answer", seen);
    assert_silent(&heir);
    assert_eq!(ask(&heir, &outside, at(CLIENT, 7000)).ip(), HOST);
}

/// https://github.com/moby/moby/issues/20486
fn issue_20486_a_port_is_free_again_after_a_crash(plane: Plane) {
    let world = World::new(plane);
    let first = world.container("first", &["8080:80"]);
    world.kill_agent();
    first.inside.remove();
    world.start_agent();
    let second = world.container("second", &["8080:80"]);
    let listener = second.inside.listen(80);
    converse(&mut world.client.connect(at(HOST, 8080)), &mut accept(&listener).0);
}

/// https://github.com/moby/moby/issues/27817: the same for containers is in `cells_nat.rs`.
fn issue_27817_the_input_chain_has_no_say_over_published_ports(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80", "8080:80/udp"]);
    let server = Server::new(&web.inside, Family::V4, 80);
    program::stdout_of(world.host.command("iptables").args(["-P", "INPUT", "DROP"]));
    assert_eq!(server.sees(&world.client, at(HOST, 8080)), CLIENT);
    program::stdout_of(world.host.command("iptables").args(["-P", "INPUT", "ACCEPT"]));
    netfilter::flush(&world.host);
}

/// https://github.com/moby/moby/issues/22054
fn issue_22054_a_port_is_open_to_the_sources_on_its_list_alone(plane: Plane) {
    let world = World::with(plane, Options::dual());
    let web = world.container("web", &[]);
    let mut publish = vec!["publish", "web", "8080:80", "8080:80/udp", "8081:81"];
    publish.extend(["--from", "8080=198.18.0.0/24", "--from", "8080/udp=198.18.0.0/24"]);
    publish.extend(["--from", "8080=2001:db8::/64", "--from", "8080/udp=2001:db8::/64"]);
    world.netpath_ok(&publish);
    for family in Family::BOTH {
        let (listed, open) = (Server::new(&web.inside, family, 80), Server::new(&web.inside, family, 81));
        assert_eq!(listed.sees(&world.client, at(family.host(), 8080)), family.client());
        listed.is_not_reached(world.stranger(), at(family.second_host(), 8080));
        assert_eq!(open.sees_tcp(world.stranger(), at(family.second_host(), 8081)), family.stranger());
    }
    assert!(world.drops("source-not-allowed") >= 4, "a connection and a datagram of each family");
    // What is exposed to whom can be seen.
    let ports = world.netpath_ok(&["port", "web"]);
    assert!(ports.contains("198.18.0.0/24") && ports.contains("2001:db8::/64"), "{ports}");
}

/// https://github.com/moby/moby/issues/4737
fn issue_4737_ports_stay_on_loopback_unless_told_otherwise(plane: Plane) {
    let world = World::with(plane, Options::agent("--ip 127.0.0.1"));
    let web = world.container("web", &["8080:80", "0.0.0.0:8081:80"]);
    let server = Server::new(&web.inside, Family::V4, 80);
    server.sees_tcp(&world.host, at(Family::V4.loopback(), 8080));
    server.is_not_reached(&world.client, at(HOST, 8080));
    assert_eq!(server.sees_tcp(&world.client, at(HOST, 8081)), CLIENT);
}

/// https://github.com/moby/moby/issues/12565, 22028
fn issue_12565_containers_get_the_mtu_of_the_way_out(plane: Plane) {
    let world = World::new(plane);
    let before = world.container("before", &[]);
    world.host.ip("link set up0 mtu 1400");
    let deadline = Instant::now() + PATIENCE;
    while mtu(&world.host, "netpath0") != 1400 {
        assert!(Instant::now() < deadline, "the bridge does not follow the external interface");
        std::thread::sleep(Duration::from_millis(20));
    }
    let after = world.container("after", &[]);
    assert_eq!((mtu(&before.inside, "eth0"), mtu(&after.inside, "eth0")), (1500, 1400));
}

/// https://github.com/docker/for-linux/issues/418, 599
fn issue_418_networks_get_their_subnets_from_pools_of_ones_own(plane: Plane) {
    let world = World::with(plane, Options::agent("--default-address-pool base=10.213.0.0/16,size=24"));
    world.host.ip("route add 10.213.1.0/24 dev up0");
    let created = world.netpath(&["network", "create", "back"]);
    let reason = "skipped 10.213.1.0/24: overlaps route 10.213.1.0/24 dev up0";
    let (said, noted) = (program::text(&created.stdout), program::text(&created.stderr));
    assert_eq!((said, noted), ("back\n".to_owned(), format!("note: {reason}\n")));
    let inspected: Value = serde_json::from_str(&world.netpath_ok(&["network", "inspect", "back"])).unwrap();
    let network = &inspected[0];
    assert_eq!(network["v4"]["subnet"], "10.213.2.0/24", "{network}");
    let log = world.instance().log_text();
    assert!(log.contains(reason), "{log}");
    let app = world.namespace("app");
    world.netpath_ok(&["attach", "app", "--net", "back", "--netns", &app.path().display().to_string()]);
    let mut listed = app.addresses();
    listed.retain(|address| address.is_ipv4() && !address.is_loopback());
    assert_eq!(listed, ["10.213.2.2".parse::<IpAddr>().unwrap()]);
    world.netpath_ok(&["down"]);
    drop(world.take_agent());
    world.host.ip("route add 10.213.0.0/24 dev up0");
    world.start_agent();
    let log = world.instance().log_text();
    assert!(log.contains("skipped 10.213.0.0/24: overlaps route 10.213.0.0/24 dev up0"), "{log}");
    assert!(log.contains("networks 10.213.2.0/24"), "{log}");
}

/// https://github.com/moby/moby/issues/11185: a process for each port, and minutes to start them.
fn issue_11185_ten_thousand_ports_need_no_process(plane: Plane) {
    let world = World::new(plane);
    let name = world.host.path().file_name().unwrap().to_owned();
    let processes = || program::ip([&"netns".into(), &"pids".into(), &name]).lines().count();
    let before = processes();
    let start = Instant::now();
    let web = world.container("web", &["20000-29999:30000-39999"]);
    // Far below minutes, far above what it takes on a machine that has other things to do.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(processes(), before);
    for (host_port, port) in [(20000, 30000), (20255, 30255), (20256, 30256), (25001, 35001), (29999, 39999)] {
        let listener = web.inside.listen(port);
        converse(&mut world.client.connect(at(HOST, host_port)), &mut accept(&listener).0);
    }
    for port in [19999, 30000] {
        world.client.assert_closed(at(HOST, port));
    }
}

/// https://github.com/moby/moby/issues/39439: a policy and br_netfilter, which other bridges suffer from.
fn issue_39439_what_the_host_has_set_stays_as_it_is(plane: Plane) {
    const SETTINGS: [&str; 5] = [
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
        "net/ipv4/conf/all/route_localnet",
        "net/ipv4/conf/all/rp_filter",
        "net/ipv6/conf/all/disable_ipv6",
    ];
    let world = World::new(plane);
    let _containers = [world.container("one", &["8080:80"]), world.container("two", &["127.0.0.1:8081:80"])];
    let fresh = world.namespace("fresh");
    for name in SETTINGS {
        assert_eq!(world.host.sysctl(name), fresh.sysctl(name), "{name}");
    }
    for ifname in world.host.interfaces() {
        let name = format!("net/ipv4/conf/{ifname}/route_localnet");
        assert_eq!(world.host.sysctl(&name), "0", "{name}");
    }
    assert_eq!(netfilter::traces(&world.host), Vec::<String>::new());
}

/// A container at 172.17.0.9, whoever was there before.
fn attach_at(world: &World, name: &str) -> Rc<Namespace> {
    let inside = world.namespace(name);
    let path = inside.path().display().to_string();
    world.netpath_ok(&["attach", name, "--netns", &path, "--ip", "172.17.0.9"]);
    inside
}

/// Of a TCP segment between two IPv4 addresses.
fn mtu(namespace: &Namespace, ifname: &str) -> u32 {
    let link = namespace.ip(&format!("-o link show dev {ifname}"));
    let mut words = link.split(' ').skip_while(|word| *word != "mtu").skip(1);
    words.next().and_then(|mtu| mtu.parse().ok()).unwrap_or_else(|| panic!("an mtu in {link}"))
}

fn checksum_towards(src: &str, dst: &str, segment: &[u8]) -> u16 {
    let address = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut bytes = [address(src), address(dst)].concat();
    bytes.extend([0, libc::IPPROTO_TCP as u8, 0, segment.len() as u8]);
    bytes.extend(segment);
    icmp::checksum(&bytes)
}
