//! Published ports where the agent has no programs on the host's sockets, since it finds no cgroups of version 2: sockets
//! of its own keep the ports, while it runs.

use std::ffi::CString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use netpath_tests::reach::Server;
use netpath_tests::sockets::{accept, ask, at, converse, eventually};
use netpath_tests::{CLIENT, Container, Family, HOST, Options, Plane, World, program};
use socket2::{Domain, Socket, Type};

use crate::host_access::{assert_in_use, bind};

on_netpath! {
    a_held_port_is_the_containers_and_nobody_elses,
}

on_netpath_once! {
    a_port_held_at_one_address_is_free_at_others,
    sockets_follow_what_is_published,
    a_restarted_agent_holds_the_ports_again,
    a_port_that_cannot_be_held_is_refused_and_changes_nothing,
    automatic_ports_keep_clear_of_the_hosts_connections,
    a_new_host_address_has_its_ports_held,
    masquerade_and_the_hosts_connections_go_on_beside_held_ports,
    more_ports_are_held_than_the_agent_may_have_files_open,
    an_agent_that_may_not_raise_its_limit_names_it,
    hooks_of_an_earlier_agent_are_enough,
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PORTS: [&str; 2] = ["8080:80", "8080:80/udp"];

fn a_held_port_is_the_containers_and_nobody_elses(plane: Plane) {
    let world = world(plane, true);
    let web = world.container("web", &PORTS);
    for family in Family::BOTH {
        let server = Server::new(&web.inside, family, 80);
        assert_eq!(server.sees(&world.client, at(family.host(), 8080)), family.client());
        assert_held(&world, family, 8080);
        let neighbour = world.container(&format!("neighbour{family:?}"), &[]);
        assert_eq!(server.sees(&neighbour.inside, at(family.host(), 8080)), family.host());
        // That takes the programs that are missing.
        for address in [family.loopback(), family.host()] {
            server.is_not_reached(&world.host, at(address, 8080));
        }
    }
    world.unpublish(&web, PORTS[0]);
    assert_free(&world, Type::STREAM, 8080);
    assert_in_use(bind(&world.host, Type::DGRAM, at(ANY, 8080), false, false));
    world.unpublish(&web, PORTS[1]);
    assert_free(&world, Type::DGRAM, 8080);
    world.publish(&web, PORTS[0]);
    assert_in_use(bind(&world.host, Type::STREAM, at(ANY, 8080), true, false));
}

fn a_port_held_at_one_address_is_free_at_others(plane: Plane) {
    let world = world(plane, false);
    world.container("web", &["127.0.0.1:8080:80", &format!("{HOST}:9090:80/udp")]);
    for (kind, port, taken, free) in [(Type::STREAM, 8080, LOOPBACK, HOST), (Type::DGRAM, 9090, HOST, LOOPBACK)] {
        assert_in_use(bind(&world.host, kind, at(taken, port), false, false));
        assert_in_use(bind(&world.host, kind, at(ANY, port), false, false));
        bind(&world.host, kind, at(free, port), false, false).unwrap();
    }
}

fn sockets_follow_what_is_published(plane: Plane) {
    let world = world(plane, false);
    let web = world.container("web", &["8000-8009:80-89", "7000:70/udp"]);
    assert_eq!(held(&world), 11);
    world.netpath_ok(&["unpublish", "web", "8003-8005"]);
    assert_eq!(held(&world), 8);
    world.publish(&web, "8004:84");
    assert_eq!(held(&world), 9);
    let refused = world.netpath(&["attach", "late", "--netns", &netns(&world, "late"), "-p", "8000:80"]);
    let message = program::text(&refused.stderr);
    assert!(message.contains("Bind for 0.0.0.0:8000 failed: port is already allocated (container `web`)"), "{message}");
    assert_eq!(held(&world), 9);
    world.netpath_ok(&["detach", "web"]);
    assert_eq!(held(&world), 0);
    let gone = world.container("gone", &["8000:80"]);
    assert_eq!(held(&world), 1);
    gone.inside.remove();
    eventually("the port of a container that vanished is let go", || held(&world) == 0);
}

fn a_restarted_agent_holds_the_ports_again(plane: Plane) {
    let world = world(plane, true);
    let web = world.container("web", &PORTS);
    world.kill_agent();
    for kind in [Type::STREAM, Type::DGRAM] {
        bind(&world.host, kind, at(ANY, 8080), false, false).unwrap();
    }
    assert_served(&world, &web);
    world.start_agent();
    Family::BOTH.iter().for_each(|family| assert_held(&world, *family, 8080));
    assert_served(&world, &web);
    world.kill_agent();
    let thief = bind(&world.host, Type::STREAM, at(ANY, 8080), false, false).unwrap();
    world.start_agent();
    let log = world.instance().log_text();
    assert!(log.contains("container `web` from other programs: failed to bind host port 0.0.0.0:8080/tcp"), "{log}");
    assert_in_use(bind(&world.host, Type::DGRAM, at(ANY, 8080), false, false));
    assert_eq!(held(&world), 1);
    // What cannot be held is no reason to refuse what is changed beside it.
    world.publish(&web, "9090:90");
    assert_eq!(held(&world), 2);
    world.unpublish(&web, PORTS[1]);
    assert_eq!(held(&world), 1);
    world.publish(&web, PORTS[1]);
    drop(thief);
    // The agent looks at the host when that changes, and from time to time.
    world.host.ip("addr add 198.18.0.11/24 dev up0");
    eventually("the port is held again", || held(&world) == 3);
    assert_held(&world, Family::V4, 8080);
    world.netpath_ok(&["down"]);
    assert_free(&world, Type::STREAM, 8080);
}

fn a_port_that_cannot_be_held_is_refused_and_changes_nothing(plane: Plane) {
    let world = world(plane, false);
    let web = world.container("web", &["9090:90"]);
    let _server = bind(&world.host, Type::STREAM, at(LOOPBACK, 8085), true, false).unwrap();
    let _bound = bind_only(&world, at(LOOPBACK, 8185));
    for (ports, port) in [("8080-8089:80-89", 8085), ("8180-8189:80-89", 8185)] {
        let refused = world.netpath(&["publish", "web", ports]);
        let message = program::text(&refused.stderr);
        let wanted = format!("failed to bind host port 0.0.0.0:{port}/tcp: address already in use");
        assert!(refused.status.code() == Some(1) && message.contains(&wanted), "{}: {message}", refused.status);
        assert_eq!(held(&world), 1);
    }
    world.publish(&web, "8090:80");
    assert_eq!(held(&world), 2);
}

/// With its programs netpath asks for listening sockets only; here what is merely bound is in the way too.
fn automatic_ports_keep_clear_of_the_hosts_connections(plane: Plane) {
    let options = Options { cgroups: false, ..Options::agent("--automatic-ports 40000-40001") };
    let world = World::with(plane, options);
    let _bound = bind_only(&world, at(ANY, 40000));
    world.container("web", &["80"]);
    assert_eq!(world.netpath_ok(&["port", "web", "80"]).trim(), "0.0.0.0:40001");
}

fn a_new_host_address_has_its_ports_held(plane: Plane) {
    let world = world(plane, false);
    let address: SocketAddr = "198.18.0.11:8080".parse().unwrap();
    let web = world.container("web", &["8080:80"]);
    world.host.ip("addr add 198.18.0.11/24 dev up0");
    assert_in_use(bind(&world.host, Type::STREAM, address, false, false));
    world.unpublish(&web, "8080:80");
    world.publish(&web, "198.18.0.11:8080:80");
    world.host.ip("addr del 198.18.0.11/24 dev up0");
    world.kill_agent();
    world.start_agent();
    world.host.ip("addr add 198.18.0.11/24 dev up0");
    assert_in_use(bind(&world.host, Type::STREAM, address, false, false));
}

/// A bound socket is no server and no connection to the data plane.
fn masquerade_and_the_hosts_connections_go_on_beside_held_ports(plane: Plane) {
    let world = world(plane, false);
    let web = world.container("web", &["40000:80", "40000:80/udp", "5000:81/udp"]);
    // In the ephemeral range the host's own connections come first, if there are any.
    let server = Server::new(&web.inside, Family::V4, 80);
    assert_eq!(server.sees(&world.client, at(HOST, 40000)), CLIENT);
    let app = world.container("app", &[]);
    let outside = world.client.udp(7000);
    let asker = app.inside.udp(5000);
    let seen = ask(&asker, &outside, at(CLIENT, 7000));
    assert!(seen.ip() == HOST && seen.port() != 5000, "a published port is no masquerade port: {seen}");
    let listener = world.client.listen(7000);
    let mut own = world.host.connect(at(CLIENT, 7000));
    converse(&mut own, &mut accept(&listener).0);
}

fn more_ports_are_held_than_the_agent_may_have_files_open(plane: Plane) {
    let world = world(plane, false);
    let web = world.container("web", &["500:50"]);
    let agent = world.agent_pid().to_string();
    // The soft limit, which it may raise to the hard one.
    program::stdout_of(Command::new("prlimit").args(["--pid", &agent, "--nofile=1000:"]));
    world.publish(&web, "20000-21999:20000-21999");
    assert_eq!(held(&world), 2001);
    assert_served_at(&world, &web, 20100, 20100);
    world.netpath_ok(&["unpublish", "web", "20000-21999"]);
    assert_eq!(held(&world), 1);
}

fn an_agent_that_may_not_raise_its_limit_names_it(plane: Plane) {
    let mut world = world(plane, false);
    let web = world.container("web", &["500:50"]);
    world.kill_agent();
    world.limit_files(1000);
    world.start_agent();
    let refused = world.netpath(&["publish", "web", "1024-61023:1024-61023"]);
    let message = program::text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("1000 files open") && message.contains("LimitNOFILE"), "{message}");
    assert_eq!(held(&world), 1);
    world.publish(&web, "20000-20499:20000-20499");
    assert_eq!(held(&world), 501);
    assert_served_at(&world, &web, 20100, 20100);
}

fn hooks_of_an_earlier_agent_are_enough(plane: Plane) {
    let mut world = World::new(plane);
    world.container("web", &["8080:80"]);
    world.kill_agent();
    world.hide_cgroups();
    world.start_agent();
    assert!(world.instance().log_text().contains("an earlier agent go on keeping published ports"));
    assert_eq!(held(&world), 0);
    assert_in_use(bind(&world.host, Type::STREAM, at(ANY, 8080), false, false));
    let other = world.container("other", &["9090:80"]);
    assert_in_use(bind(&world.host, Type::STREAM, at(ANY, 9090), false, false));
    assert_served_at(&world, &other, 9090, 80);
}

fn world(plane: Plane, ipv6: bool) -> World {
    let world = World::with(plane, Options { cgroups: false, ipv6, ..Options::default() });
    assert!(world.instance().log_text().contains("a socket each"), "{}", world.instance().log_text());
    world
}

/// Nobody of the host gets the port, of TCP or UDP, whatever he asks the kernel for.
fn assert_held(world: &World, family: Family, port: u16) {
    for address in [family.any(), family.loopback(), family.host()] {
        for kind in [Type::STREAM, Type::DGRAM] {
            for reuse in [false, true] {
                assert_in_use(bind(&world.host, kind, at(address, port), reuse, true));
            }
        }
    }
}

fn assert_free(world: &World, kind: Type, port: u16) {
    for family in Family::BOTH {
        for address in [family.any(), family.loopback(), family.host()] {
            bind(&world.host, kind, at(address, port), false, true).unwrap();
        }
    }
}

fn assert_served(world: &World, web: &Container) {
    for family in Family::BOTH {
        let server = Server::new(&web.inside, family, 80);
        assert_eq!(server.sees(&world.client, at(family.host(), 8080)), family.client());
    }
}

fn assert_served_at(world: &World, web: &Container, host_port: u16, port: u16) {
    let listener = web.inside.listen(port);
    converse(&mut world.client.connect(at(HOST, host_port)), &mut accept(&listener).0);
}

/// How many TCP and UDP sockets of IPv4 the agent has.
fn held(world: &World) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", world.agent_pid())).unwrap();
    let names = files.flatten().map(|file| CString::new(file.path().into_os_string().into_encoded_bytes()).unwrap());
    let is_held = |name: &CString| {
        let mut protocol = [0; 4];
        // SAFETY: both names are terminated, and the buffer is live and of the length given.
        let length =
            unsafe { libc::getxattr(name.as_ptr(), c"system.sockprotoname".as_ptr(), protocol.as_mut_ptr().cast(), 4) };
        // With its final zero. Longer names do not fit.
        length == 4 && [b"TCP\0", b"UDP\0"].contains(&&protocol)
    };
    names.filter(is_held).count()
}

/// A socket that has a port and takes no clients.
fn bind_only(world: &World, address: SocketAddr) -> Socket {
    let socket = world.host.within(|| Socket::new(Domain::IPV4, Type::STREAM, None)).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

fn netns(world: &World, name: &str) -> String {
    world.namespace(name).path().display().to_string()
}
