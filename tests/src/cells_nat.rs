//! Who handles each flow, and whom the container sees: the table of Docker's `-p 8080:80` in gateway mode nat, of
//! both families, on Docker's rules with and without its user-land proxy and on netpath.
//!
//! Where netpath differs on purpose the expectation names the difference of `docs/differences.md`.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use netpath_tests::icmp;
use netpath_tests::reach::{Server, answers, pings};
use netpath_tests::sockets::{PATIENCE, accept, ask, at, local};
use netpath_tests::{Container, Family, Namespace, NetworkOptions, Options, Plane, World};

cells_of_both_families! {
    a_remote_client_is_seen_with_its_own_address,
    the_host_reaches_its_own_address,
    the_host_reaches_its_loopback_address,
    a_neighbour_reaches_the_hosts_address,
    a_container_reaches_itself_through_the_hosts_address,
    a_container_of_another_network_reaches_the_hosts_address,
    a_container_reaches_its_bridges_address,
    a_remote_client_does_not_reach_the_containers_address,
    a_container_of_another_network_does_not_reach_the_containers_address,
    a_port_on_loopback_is_the_hosts_alone,
    the_host_reaches_the_containers_address,
    containers_leave_under_the_address_of_the_interface_they_leave_by,
    without_icc_a_published_port_is_reachable_from_the_same_network,
}

cells! { ipv6_to_ipv4 V6:
    the_host_reaches_an_ipv4_container_at_its_ipv6_loopback_address,
    a_remote_ipv6_client_reaches_an_ipv4_container_through_a_proxy_only,
}

cells! { link_local V6:
    the_hosts_link_local_address_is_reached_through_a_proxy_only,
}

const PORTS: [&str; 2] = ["8080:80", "8080:80/udp"];

/// A world, the published container with its server, and the family's addresses.
struct Cell {
    world: World,
    web: Container,
    server: Server,
    family: Family,
}

impl Cell {
    fn new(plane: Plane, family: Family) -> Self {
        Self::with(plane, family, Options { ipv6: family == Family::V6, ..Options::default() })
    }

    fn with(plane: Plane, family: Family, options: Options) -> Self {
        let world = World::with(plane, options);
        let web = world.container("web", &PORTS);
        let server = Server::new(&web.inside, family, 80);
        Self { world, web, server, family }
    }

    /// Whom the server sees when `from` asks at port 8080 of `address`.
    fn sees(&self, from: &Namespace, address: IpAddr) -> IpAddr {
        self.server.sees(from, at(address, 8080))
    }

    /// The same from inside. The proxy of Debian 12 answers datagrams from whatever address the route gives (complaint
    /// 18), so with it TCP alone.
    fn sees_inside(&self, from: &Namespace, address: IpAddr) -> IpAddr {
        match self.world.plane {
            Plane::Iptables { proxy: true } => self.server.sees_tcp(from, at(address, 8080)),
            _ => self.sees(from, address),
        }
    }

    fn is_not_reached(&self, from: &Namespace, address: IpAddr, port: u16) {
        self.server.is_not_reached(from, at(address, port));
    }

    fn gateway(&self) -> IpAddr {
        self.world.gateway(self.family)
    }

    /// A container of a network of its own.
    fn elsewhere(&self) -> Container {
        let ipv6 = self.family == Family::V6;
        self.world.create_network("other", NetworkOptions { ipv6, ..NetworkOptions::default() });
        self.world.container_on("other", "elsewhere", &[])
    }
}

fn a_remote_client_is_seen_with_its_own_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    assert_eq!(cell.sees(&cell.world.client, family.host()), family.client());
}

fn the_host_reaches_its_own_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    let seen = match plane {
        Plane::Iptables { proxy: false } => cell.gateway(),
        // host-source: only what asks at a loopback address is seen as the bridge.
        Plane::Iptables { proxy: true } | Plane::Netpath { .. } => family.host(),
    };
    assert_eq!(cell.sees(&cell.world.host, family.host()), seen);
}

fn the_host_reaches_its_loopback_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    match (plane, family) {
        // loopback-v6: what comes back for [::1] is not taken from another interface, so translation alone cannot do it.
        (Plane::Iptables { proxy: false }, Family::V6) => {
            assert!(!answers(&cell.world.host, at(family.loopback(), 8080)));
        }
        _ => assert_eq!(cell.sees(&cell.world.host, family.loopback()), cell.gateway()),
    }
}

fn a_neighbour_reaches_the_hosts_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    let neighbour = cell.world.container("neighbour", &[]);
    let seen = match plane {
        Plane::Iptables { proxy: true } => cell.gateway(),
        Plane::Iptables { proxy: false } => neighbour.ip(family),
        Plane::Netpath { .. } => hairpin_source(family),
    };
    assert_eq!(cell.sees_inside(&neighbour.inside, family.host()), seen);
}

fn a_container_reaches_itself_through_the_hosts_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    let seen = if plane.is_netpath() { hairpin_source(family) } else { cell.gateway() };
    assert_eq!(cell.sees_inside(&cell.web.inside, family.host()), seen);
}

fn a_container_of_another_network_reaches_the_hosts_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    let elsewhere = cell.elsewhere();
    let seen = if plane.is_netpath() { hairpin_source(family) } else { cell.gateway() };
    assert_eq!(cell.sees(&elsewhere.inside, family.host()), seen);
}

fn a_container_reaches_its_bridges_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    let neighbour = cell.world.container("neighbour", &[]);
    let seen = match plane {
        Plane::Iptables { proxy: true } => cell.gateway(),
        Plane::Iptables { proxy: false } => neighbour.ip(family),
        // hairpin-source: the addressed host address, and that is the bridge's.
        Plane::Netpath { .. } => cell.gateway(),
    };
    assert_eq!(cell.sees_inside(&neighbour.inside, cell.gateway()), seen);
}

/// hairpin-source: RFC 4787, REQ-9a, asks for the external address and port of the asker, so that its answers and its
/// questions are one endpoint to everybody.
fn hairpin_source(family: Family) -> IpAddr {
    family.host()
}

fn a_remote_client_does_not_reach_the_containers_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    let route = format!("route add {} via {}", cell.world.network("bridge").subnet(family), family.host());
    cell.world.client.ip(&route);
    cell.is_not_reached(&cell.world.client, cell.web.ip(family), 80);
    assert!(!pings(&cell.world.client, cell.web.ip(family)));
}

fn a_container_of_another_network_does_not_reach_the_containers_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    let elsewhere = cell.elsewhere();
    cell.is_not_reached(&elsewhere.inside, cell.web.ip(family), 80);
    assert!(!pings(&elsewhere.inside, cell.web.ip(family)));
}

fn a_port_on_loopback_is_the_hosts_alone(plane: Plane, family: Family) {
    let world = World::with(plane, Options { ipv6: family == Family::V6, ..Options::default() });
    let specs = family.pick(["127.0.0.1:8080:80", "127.0.0.1:8080:80/udp"], ["[::1]:8080:80", "[::1]:8080:80/udp"]);
    let (web, neighbour) = (world.container("web", &specs), world.container("neighbour", &[]));
    let server = Server::new(&web.inside, family, 80);
    if plane != (Plane::Iptables { proxy: false }) || family == Family::V4 {
        assert_eq!(server.sees(&world.host, at(family.loopback(), 8080)), world.gateway(family));
    }
    for from in [&world.client, &neighbour.inside, &world.host] {
        server.is_not_reached(from, at(family.host(), 8080));
    }
    if family == Family::V4 {
        world.client.ip("addr del 127.0.0.1/8 dev lo");
        world.client.set_sysctl("net/ipv4/conf/all/route_localnet", "1");
        world.client.ip(&format!("route add 127.0.0.1/32 via {} src {}", family.host(), family.client()));
        server.is_not_reached(&world.client, at(family.loopback(), 8080));
    }
}

fn the_host_reaches_the_containers_address(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    // Unpublished ports too: the bridge is an interface of the host.
    let unpublished = Server::new(&cell.web.inside, family, 81);
    assert_eq!(unpublished.sees(&cell.world.host, at(cell.web.ip(family), 81)), cell.gateway());
    assert_eq!(cell.server.sees(&cell.world.host, at(cell.web.ip(family), 80)), cell.gateway());
    assert!(pings(&cell.world.host, cell.web.ip(family)));
}

fn containers_leave_under_the_address_of_the_interface_they_leave_by(plane: Plane, family: Family) {
    let world = World::with(plane, Options { ipv6: family == Family::V6, second_wire: true, ..Options::default() });
    let app = world.container("app", &[]);
    let ends =
        [(&world.client, family.client(), family.host()), (world.stranger(), family.stranger(), family.second_host())];
    for (outside, address, seen) in ends {
        let listener = outside.listen_at(at(family.any(), 7000));
        let client = app.inside.connect_from(5000, at(address, 7000));
        assert_eq!(accept(&listener).1, at(seen, 5000), "a free source port is kept");
        assert_eq!(local(&client), at(app.ip(family), 5000));
        let asker = app.inside.udp_at(at(family.any(), 5001));
        assert_eq!(ask(&asker, &outside.udp_at(at(family.any(), 7000)), at(address, 7000)), at(seen, 5001));
        assert_eq!(icmp::echo(&app.inside, outside, address, 77, b"who is it?"), seen);
    }
}

fn without_icc_a_published_port_is_reachable_from_the_same_network(plane: Plane, family: Family) {
    let options = Options { icc: false, ipv6: family == Family::V6, ..Options::default() };
    let cell = Cell::with(plane, family, options);
    let neighbour = cell.world.container("neighbour", &[]);
    cell.is_not_reached(&neighbour.inside, cell.web.ip(family), 80);
    match plane {
        // icc-published: without its proxy Docker drops this, with it it works; published means reachable.
        Plane::Iptables { proxy: false } => cell.is_not_reached(&neighbour.inside, family.host(), 8080),
        Plane::Iptables { proxy: true } => {
            assert_eq!(cell.sees_inside(&neighbour.inside, family.host()), cell.gateway());
        }
        Plane::Netpath { .. } => {
            assert_eq!(cell.sees_inside(&neighbour.inside, family.host()), hairpin_source(family));
        }
    }
}

fn the_host_reaches_an_ipv4_container_at_its_ipv6_loopback_address(plane: Plane, family: Family) {
    let world = World::new(plane);
    let web = world.container("web", &PORTS);
    let server = Server::new(&web.inside, Family::V4, 80);
    let to = at(family.loopback(), 8080);
    match plane {
        Plane::Iptables { proxy: false } => server.is_not_reached(&world.host, to),
        Plane::Iptables { proxy: true } => assert_eq!(server.sees(&world.host, to), world.gateway(Family::V4)),
        // loopback-4in6: Linux sends no datagram of an unconnected IPv6 socket to a rewritten IPv4 address.
        Plane::Netpath { .. } => assert_eq!(server.sees_tcp(&world.host, to), world.gateway(Family::V4)),
    }
}

/// no-nat64: netpath translates within a family; an IPv6 client needs an IPv6 container.
fn a_remote_ipv6_client_reaches_an_ipv4_container_through_a_proxy_only(plane: Plane, family: Family) {
    let world = World::new(plane);
    let web = world.container("web", &PORTS);
    let server = Server::new(&web.inside, Family::V4, 80);
    let to = at(family.host(), 8080);
    match plane {
        Plane::Iptables { proxy: true } => assert_eq!(server.sees(&world.client, to), world.gateway(Family::V4)),
        _ => assert!(!answers(&world.client, to)),
    }
}

/// fe80-proxy: with netpath, as without the proxy, it is the host's own closed port, from the link and from the host.
fn the_hosts_link_local_address_is_reached_through_a_proxy_only(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family);
    let World { client, host, .. } = &cell.world;
    for (from, by) in [(client, "eth0"), (host, "up0")] {
        let address = SocketAddrV6::new(host.link_local("up0"), 8080, 0, from.ifindex(by));
        let to = SocketAddr::from(address);
        if plane == (Plane::Iptables { proxy: true }) {
            assert_eq!(cell.server.sees_tcp(from, to), cell.gateway());
            continue;
        }
        let refused = from.try_connect(0, to, PATIENCE);
        assert_eq!(refused.map_err(|error| error.kind()).unwrap_err(), ErrorKind::ConnectionRefused, "{to}");
        cell.server.is_not_reached(from, to);
    }
    if plane.is_netpath() {
        let dropped =
            ["direct-access", "martian-source", "loopback-address", "leak"].map(|reason| cell.world.drops(reason));
        assert_eq!(dropped, [0; 4], "nothing was dropped: the host's kernel has answered");
    }
}
