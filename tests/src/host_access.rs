//! The host's own sockets: they reach published ports by every name the host has, and cannot take them away.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use netpath_tests::kernel::has_netns_cookies;
use netpath_tests::sockets::{PATIENCE, accept, ask, at, converse, peer, receive};
use netpath_tests::topology::GATEWAY;
use netpath_tests::{CLIENT, Container, HOST, Namespace, Plane, World};
use socket2::{Domain, SockAddr, Socket, Type};

on_every_plane! {
    every_loopback_address_is_the_host,
    the_hosts_own_addresses_are_published,
    a_socket_with_a_port_of_its_own_gets_through,
    connected_udp_hears_from_whom_it_asked,
    unconnected_udp_hears_from_whom_it_asked,
    a_loopback_binding_is_for_the_host_only,
    nobody_else_has_the_hosts_loopback,
    an_unpublished_port_is_closed,
}

on_netpath! {
    the_container_sees_the_address_that_the_host_was_called_by,
    the_unspecified_address_is_loopback,
    ipv6_sockets_reach_ipv4_containers,
    a_server_on_ipv6_loopback_keeps_its_clients,
    a_socket_on_loopback_is_refused,
    the_host_reaches_the_container_without_an_agent,
}

on_netpath_once! {
    a_published_port_cannot_be_bound,
    a_port_published_at_one_address_can_be_bound_at_others,
    a_reserved_port_is_free_after_unpublish,
    a_reservation_outlives_the_agent,
    a_restarted_agent_takes_the_hooks_over,
    hosts_side_by_side_have_their_own_ports,
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OTHER_LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// A world whose host reaches published ports, if the kernel lets netpath tell the host's sockets from those of containers.
fn hosts_world(plane: Plane) -> Option<World> {
    if plane.is_netpath() && !has_netns_cookies() {
        eprintln!("skipped: without namespace cookies (Linux 5.14) the host itself reaches no published port");
        return None;
    }
    Some(World::new(plane))
}

fn every_loopback_address_is_the_host(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80"]);
    for addr in [LOOPBACK, OTHER_LOOPBACK] {
        assert_eq!(talk(&world, &web, (addr, 8080).into()), GATEWAY);
    }
}

fn the_hosts_own_addresses_are_published(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80"]);
    let seen = [HOST, GATEWAY].map(|addr| talk(&world, &web, (addr, 8080).into()));
    // Docker masquerades all that comes from the host.
    assert_eq!(seen, [if plane.is_netpath() { HOST } else { GATEWAY }, GATEWAY]);
}

fn a_socket_with_a_port_of_its_own_gets_through(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80"]);
    let listener = web.inside.listen(80);
    for (port, addr) in [(4001, LOOPBACK), (4002, HOST)] {
        let mut client = world.host.connect_from(port, at(addr, 8080));
        let (mut server, from) = accept(&listener);
        assert_eq!((from, peer(&client)), (at(GATEWAY, port), at(addr, 8080)));
        converse(&mut client, &mut server);
    }
}

fn connected_udp_hears_from_whom_it_asked(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let dns = world.container("dns", &["5353:53/udp"]);
    let server = dns.inside.udp(53);
    for addr in [LOOPBACK, OTHER_LOOPBACK, HOST] {
        let client = world.host.udp(0);
        world.host.within(|| client.connect((addr, 5353))).unwrap();
        assert_eq!(client.peer_addr().unwrap(), (addr, 5353).into());
        client.send(b"question").unwrap();
        let (_, from) = receive(&server);
        server.send_to(b"answer", from).unwrap();
        assert_eq!(client.recv_from(&mut [0; 64]).unwrap(), (b"answer".len(), (addr, 5353).into()));
    }
}

fn unconnected_udp_hears_from_whom_it_asked(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let dns = world.container("dns", &["5353:53/udp"]);
    let (client, server) = (world.host.udp(0), dns.inside.udp(53));
    let seen = [LOOPBACK, OTHER_LOOPBACK, HOST, LOOPBACK].map(|addr| ask(&client, &server, at(addr, 5353)).ip());
    assert_eq!(seen, [GATEWAY, GATEWAY, if plane.is_netpath() { HOST } else { GATEWAY }, GATEWAY]);
}

fn a_loopback_binding_is_for_the_host_only(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["127.0.0.1:8080:80"]);
    talk(&world, &web, (LOOPBACK, 8080).into());
    let _listener = web.inside.listen(80);
    world.client.assert_closed(at(HOST, 8080));
    for addr in [OTHER_LOOPBACK, HOST, GATEWAY] {
        world.host.assert_closed(at(addr, 8080));
    }
}

fn nobody_else_has_the_hosts_loopback(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let (web, other) = (world.container("web", &["8080:80"]), world.container("other", &[]));
    let _listener = web.inside.listen(80);
    for namespace in [&world.client, &web.inside, &other.inside] {
        namespace.assert_closed(at(LOOPBACK, 8080));
        let own = namespace.listen(8080);
        let mut client = namespace.connect(at(LOOPBACK, 8080));
        converse(&mut client, &mut accept(&own).0);
    }
}

fn an_unpublished_port_is_closed(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80"]);
    let _listeners = (web.inside.listen(80), web.inside.listen(81));
    world.host.assert_closed(at(LOOPBACK, 81));
    world.host.assert_closed(at(HOST, 8081));
    world.unpublish(&web, "8080:80");
    world.host.assert_closed(at(LOOPBACK, 8080));
    world.host.assert_closed(at(HOST, 8080));
}

fn the_container_sees_the_address_that_the_host_was_called_by(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    world.host.ip("addr add 198.18.0.11/24 dev up0");
    let web = world.container("web", &["8080:80", "5353:53/udp"]);
    let second = IpAddr::from([198, 18, 0, 11]);
    assert_eq!(talk(&world, &web, (second, 8080).into()), second);
    let server = web.inside.udp(53);
    let client = udp_without_port(&world.host);
    world.host.within(|| client.connect(&SockAddr::from(at(second, 5353)))).unwrap();
    client.send(b"question").unwrap();
    assert_eq!(receive(&server).1.ip(), second, "connected udp");
    let client = world.host.udp_at(at(HOST, 0));
    assert_eq!(ask(&client, &server, at(second, 5353)).ip(), HOST, "a source that was chosen stays");
}

fn the_unspecified_address_is_loopback(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["127.0.0.1:8080:80"]);
    let listener = web.inside.listen(80);
    let mut client = world.host.try_connect(0, (ANY, 8080).into(), PATIENCE).unwrap();
    assert_eq!(client.peer_addr().unwrap(), (LOOPBACK, 8080).into());
    converse(&mut client, &mut accept(&listener).0);
}

fn ipv6_sockets_reach_ipv4_containers(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80", "5353:53/udp"]);
    let server = web.inside.udp(53);
    for (addr, source) in [(LOOPBACK, GATEWAY), (HOST, HOST)] {
        let to = SocketAddr::from((mapped(addr), 8080));
        assert_eq!(talk(&world, &web, to), source);
        let client = world.host.within(|| UdpSocket::bind((ANY6, 0))).unwrap();
        hears_from(&world.host, &client, &server, SocketAddr::from((mapped(addr), 5353)), true);
        hears_from(&world.host, &client, &server, SocketAddr::from((mapped(addr), 5353)), false);
    }
    assert_eq!(talk(&world, &web, (LOOPBACK6, 8080).into()), GATEWAY);
    let client = world.host.within(|| UdpSocket::bind((ANY6, 0))).unwrap();
    hears_from(&world.host, &client, &server, (LOOPBACK6, 5353).into(), false);
}

fn a_server_on_ipv6_loopback_keeps_its_clients(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80"]);
    let _listener = web.inside.listen(80);
    let own = world.host.within(|| TcpListener::bind((LOOPBACK6, 8080))).unwrap();
    let client = world.host.try_connect(0, (LOOPBACK6, 8080).into(), PATIENCE).unwrap();
    assert_eq!(own.accept().unwrap().1, client.local_addr().unwrap());
    assert!(client.local_addr().unwrap().ip().is_loopback());
}

/// There is no way from a loopback address to a container.
fn a_socket_on_loopback_is_refused(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80"]);
    let _listener = web.inside.listen(80);
    let socket = world.host.within(|| Socket::new(Domain::IPV4, Type::STREAM, None)).unwrap();
    socket.bind(&SockAddr::from(at(LOOPBACK, 0))).unwrap();
    let result = socket.connect_timeout(&SockAddr::from(at(LOOPBACK, 8080)), PATIENCE);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

fn the_host_reaches_the_container_without_an_agent(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80"]);
    let listener = web.inside.listen(80);
    let mut client = world.host.try_connect(0, (LOOPBACK, 8080).into(), PATIENCE).unwrap();
    let mut server = accept(&listener).0;
    world.kill_agent();
    converse(&mut client, &mut server);
    assert_eq!(client.peer_addr().unwrap(), (LOOPBACK, 8080).into());
    drop((listener, client, server));
    talk(&world, &web, (LOOPBACK, 8080).into());
    talk(&world, &web, (HOST, 8080).into());
}

fn a_published_port_cannot_be_bound(plane: Plane) {
    let world = World::new(plane);
    world.container("web", &["8080:80", "5353:53/udp"]);
    for addr in [ANY, LOOPBACK, OTHER_LOOPBACK, HOST, GATEWAY] {
        for reuse in [false, true] {
            assert_in_use(bind(&world.host, Type::STREAM, (addr, 8080).into(), reuse, false));
            assert_in_use(bind(&world.host, Type::DGRAM, (addr, 5353).into(), reuse, false));
        }
        bind(&world.host, Type::DGRAM, (addr, 8080).into(), false, false).unwrap();
        bind(&world.host, Type::STREAM, (addr, 5353).into(), false, false).unwrap();
        bind(&world.host, Type::STREAM, (addr, 0).into(), false, false).unwrap();
    }
    for addr in [ANY6, mapped(HOST), mapped(LOOPBACK)] {
        assert_in_use(bind(&world.host, Type::STREAM, (addr, 8080).into(), true, false));
    }
    bind(&world.host, Type::STREAM, (ANY6, 8080).into(), false, true).unwrap();
    bind(&world.host, Type::STREAM, (LOOPBACK6, 8080).into(), false, false).unwrap();
}

fn a_port_published_at_one_address_can_be_bound_at_others(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    world.container("web", &["127.0.0.1:8080:80", &format!("{HOST}:9090:80")]);
    for (port, taken, free) in [(8080, LOOPBACK, [OTHER_LOOPBACK, HOST]), (9090, HOST, [LOOPBACK, GATEWAY])] {
        assert_in_use(bind(&world.host, Type::STREAM, (taken, port).into(), true, false));
        assert_in_use(bind(&world.host, Type::STREAM, (ANY, port).into(), true, false));
        for addr in free {
            bind(&world.host, Type::STREAM, (addr, port).into(), false, false).unwrap();
        }
    }
}

fn a_reserved_port_is_free_after_unpublish(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80", "127.0.0.1:9090:80"]);
    assert_in_use(bind(&world.host, Type::STREAM, (ANY, 8080).into(), false, false));
    assert_in_use(bind(&world.host, Type::STREAM, (ANY, 9090).into(), false, false));
    world.unpublish(&web, "8080:80");
    bind(&world.host, Type::STREAM, (ANY, 8080).into(), false, false).unwrap();
    world.netpath_ok(&["detach", "web"]);
    bind(&world.host, Type::STREAM, (ANY, 9090).into(), false, false).unwrap();
}

fn a_reservation_outlives_the_agent(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    world.container("web", &["8080:80"]);
    world.kill_agent();
    assert_in_use(bind(&world.host, Type::STREAM, (ANY, 8080).into(), false, false));
}

fn a_restarted_agent_takes_the_hooks_over(plane: Plane) {
    let Some(world) = hosts_world(plane) else { return };
    let web = world.container("web", &["8080:80"]);
    let hooks = || {
        let links = std::fs::read_dir(world.instance().pin_dir.join("links")).unwrap();
        let names = links.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut hooks: Vec<_> = names.filter(|name| name.starts_with("host_")).collect();
        hooks.sort();
        hooks
    };
    let before = hooks();
    assert_eq!(before.len(), 10);
    world.kill_agent();
    world.start_agent();
    assert_eq!(hooks(), before);
    talk(&world, &web, (LOOPBACK, 8080).into());
    world.netpath_ok(&["down"]);
    world.host.assert_closed(at(LOOPBACK, 8080));
    bind(&world.host, Type::STREAM, (ANY, 8080).into(), false, false).unwrap();
}

fn hosts_side_by_side_have_their_own_ports(plane: Plane) {
    let (Some(one), Some(other)) = (hosts_world(plane), hosts_world(plane)) else { return };
    let worlds = [one, other];
    let webs = worlds.each_ref().map(|world| world.container("web", &["8080:80"]));
    for (world, web) in worlds.iter().zip(&webs) {
        talk(world, web, (LOOPBACK, 8080).into());
    }
    worlds[0].unpublish(&webs[0], "8080:80");
    worlds[0].host.assert_closed(at(LOOPBACK, 8080));
    talk(&worlds[1], &webs[1], (LOOPBACK, 8080).into());
    bind(&worlds[0].host, Type::STREAM, (ANY, 8080).into(), false, false).unwrap();
}

fn mapped(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

/// Talks to port 80 of `web` by the host's name `to`, and returns whom the container saw.
fn talk(world: &World, web: &Container, to: SocketAddr) -> IpAddr {
    let listener = web.inside.listen(80);
    let mut client = world.host.try_connect(0, to, PATIENCE).unwrap_or_else(|e| panic!("connect to {to}: {e}"));
    let (mut server, from) = accept(&listener);
    assert_eq!(client.peer_addr().unwrap(), to, "what getpeername says on the host");
    assert_ne!(from.ip(), CLIENT);
    converse(&mut client, &mut server);
    from.ip()
}

fn udp_without_port(namespace: &Namespace) -> Socket {
    namespace.within(|| Socket::new(Domain::IPV4, Type::DGRAM, None)).unwrap()
}

/// `client` asks `to`, where `server` answers; the answer comes from whom it asked.
fn hears_from(host: &Namespace, client: &UdpSocket, server: &UdpSocket, to: SocketAddr, unconnected: bool) {
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    if unconnected {
        client.send_to(b"question", to).unwrap();
    } else {
        host.within(|| client.connect(to)).unwrap();
        assert_eq!(client.peer_addr().unwrap(), to);
        client.send(b"question").unwrap();
    }
    let (_, from) = receive(server);
    server.send_to(b"answer", from).unwrap();
    assert_eq!(client.recv_from(&mut [0; 64]).unwrap(), (b"answer".len(), to));
}

/// Binds, and for TCP listens.
pub(crate) fn bind(
    namespace: &Namespace,
    kind: Type,
    to: SocketAddr,
    reuse: bool,
    v6_only: bool,
) -> io::Result<Socket> {
    let socket = namespace.within(|| Socket::new(Domain::for_address(to), kind, None))?;
    socket.set_reuse_address(reuse)?;
    if to.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.bind(&SockAddr::from(to))?;
    if kind == Type::STREAM {
        socket.listen(1)?;
    }
    Ok(socket)
}

pub(crate) fn assert_in_use(result: io::Result<Socket>) {
    assert_eq!(result.map(drop).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
}
