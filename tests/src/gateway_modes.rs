//! Docker's gateway modes: what of a container is reachable for a neighbour of the host that has a route to its network,
//! and under which address the container leaves. One test for each row of the table, and what follows from mixing them.

use netpath_tests::icmp;
use netpath_tests::reach::{Doors, Server};
use netpath_tests::sockets::{accept, assert_silent, at, receive, send};
use netpath_tests::{Container, Family, GatewayMode, NetworkOptions, Options, Plane, World};
use serde_json::json;

cells_of_both_families! {
    nat_opens_host_ports_only,
    nat_unprotected_opens_everything_and_host_ports,
    routed_opens_published_ports_and_pings_and_translates_nothing,
    without_masquerade_containers_leave_under_their_own_address_and_are_answered,
    isolated_networks_have_no_gateway,
    nat_reaches_routed_and_not_the_other_way_round,
    a_trusted_interface_reaches_containers_directly,
}

on_netpath! {
    routed_takes_no_host_port,
}

cells! { mixed V4:
    families_of_one_network_have_modes_of_their_own,
}

/// A container in a network of `mode` with servers on ports 80, published as 8080, and 81.
struct Cell {
    world: World,
    web: Container,
    published: Server,
    _unpublished: Server,
    family: Family,
}

impl Cell {
    fn new(plane: Plane, family: Family, mode: GatewayMode) -> Self {
        Self::with(plane, family, NetworkOptions::in_mode(mode))
    }

    fn with(plane: Plane, family: Family, options: NetworkOptions) -> Self {
        let world = World::with(plane, Options::dual());
        world.create_network("cell", options);
        let web = world.container_on("cell", "web", &["8080:80", "8080:80/udp"]);
        let published = Server::new(&web.inside, family, 80);
        let unpublished = Server::new(&web.inside, family, 81);
        let cell = Self { world, web, published, _unpublished: unpublished, family };
        cell.route_to_network(family);
        cell
    }

    /// Client and stranger know the way to the network.
    fn route_to_network(&self, family: Family) {
        let subnet = self.world.network("cell").subnet(family);
        self.world.client.ip(&format!("route add {subnet} via {}", family.host()));
        self.world.stranger().ip(&format!("route add {subnet} via {}", family.second_host()));
    }

    fn doors(&self) -> Doors {
        Doors::of(&self.web, self.family, &self.world.client)
    }

    fn host_port_works(&self) -> bool {
        let to = at(self.family.host(), 8080);
        if self.world.client.try_connect(0, to, netpath_tests::sockets::REFUSAL).is_err() {
            return false;
        }
        // The first connection has been accepted by nobody yet; that goes with the listener.
        let (_, from) = self.published.accept();
        assert_eq!(from.ip(), self.family.client());
        assert_eq!(self.published.sees(&self.world.client, to), self.family.client());
        true
    }

    /// Whom the client sees when the container connects to it.
    fn leaves_as(&self) -> std::net::IpAddr {
        let listener = self.world.client.listen_at(at(self.family.any(), 7000));
        let _client = self.web.inside.connect(at(self.family.client(), 7000));
        accept(&listener).1.ip()
    }
}

fn nat_opens_host_ports_only(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family, GatewayMode::Nat);
    assert_eq!(cell.doors(), Doors::NONE);
    assert!(cell.host_port_works());
    assert_eq!(cell.leaves_as(), family.host());
}

fn nat_unprotected_opens_everything_and_host_ports(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family, GatewayMode::NatUnprotected);
    assert_eq!(cell.doors(), Doors::ALL);
    cell.published.drain();
    assert_eq!(cell.published.sees(&cell.world.client, at(cell.web.ip(family), 80)), family.client());
    assert!(cell.host_port_works());
    assert_eq!(cell.leaves_as(), family.host());
}

fn routed_opens_published_ports_and_pings_and_translates_nothing(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family, GatewayMode::Routed);
    assert_eq!(cell.doors(), Doors { unpublished: false, ..Doors::ALL });
    cell.published.drain();
    assert_eq!(cell.published.sees(&cell.world.client, at(cell.web.ip(family), 80)), family.client());
    assert!(!cell.host_port_works());
    assert_eq!(cell.leaves_as(), cell.web.ip(family));
}

fn without_masquerade_containers_leave_under_their_own_address_and_are_answered(plane: Plane, family: Family) {
    let cell = Cell::with(plane, family, NetworkOptions { masquerade: false, ..NetworkOptions::dual() });
    assert_eq!(cell.doors(), Doors::NONE);
    assert!(cell.host_port_works());
    let (own, inside, client) = (cell.web.ip(family), &cell.web.inside, &cell.world.client);
    let server = client.udp_at(at(family.any(), 7000));
    let asker = inside.udp_at(at(family.any(), 5000));
    send(&asker, b"question", at(family.client(), 7000));
    assert_eq!(receive(&server), (b"question".to_vec(), at(own, 5000)));
    send(&server, b"answer", at(own, 5000));
    if plane.is_netpath() {
        assert_eq!(receive(&asker).0, b"answer");
        assert_eq!(cell.leaves_as(), own);
        assert_eq!(icmp::echo(inside, client, family.client(), 77, b"of even length"), own);
    }
    // unmasqueraded: since Docker 28 not even answers reach a container's own address.
    send(&client.udp_at(at(family.any(), 7001)), b"unasked", at(own, 5000));
    assert_silent(&asker);
}

fn isolated_networks_have_no_gateway(plane: Plane, family: Family) {
    let options = NetworkOptions { internal: true, ..NetworkOptions::in_mode(GatewayMode::Isolated) };
    let cell = Cell::with(plane, family, options);
    let neighbour = cell.world.container_on("cell", "neighbour", &[]);
    assert_eq!(cell.published.sees(&neighbour.inside, at(cell.web.ip(family), 80)), neighbour.ip(family));
    assert_eq!(cell.doors(), Doors::NONE);
    assert!(!cell.host_port_works());
    let subnet = cell.world.network("cell");
    let of_bridge: Vec<_> = cell.world.host.addresses();
    assert!(!of_bridge.contains(&subnet.gateway(family)), "the bridge has no address: {of_bridge:?}");
    assert_eq!(cell.web.inside.ip(family.pick("-4 route show default", "-6 route show default")), "");
}

fn nat_reaches_routed_and_not_the_other_way_round(plane: Plane, family: Family) {
    let cell = Cell::new(plane, family, GatewayMode::Routed);
    let inside = cell.world.container("inside", &["8081:80"]);
    let _servers = [80, 81].map(|port| Server::new(&inside.inside, family, port));
    assert_eq!(Doors::of(&cell.web, family, &inside.inside), Doors { unpublished: false, ..Doors::ALL });
    assert_eq!(Doors::of(&inside, family, &cell.web.inside), Doors::NONE);
    // nat-to-routed: Docker masquerades with the address of the bridge that the packet leaves by.
    cell.published.drain();
    let seen = cell.published.sees_tcp(&inside.inside, at(cell.web.ip(family), 80));
    assert_eq!(seen == inside.ip(family), plane.is_netpath(), "{seen}");
}

fn a_trusted_interface_reaches_containers_directly(plane: Plane, family: Family) {
    let trusted = vec!["up1".to_owned()];
    let cell = Cell::with(plane, family, NetworkOptions { trusted, ..NetworkOptions::dual() });
    assert_eq!(cell.doors(), Doors::NONE);
    // Past the first gate, what is published still decides.
    let doors = Doors::of(&cell.web, family, cell.world.stranger());
    assert_eq!(doors, Doors { published: true, ..Doors::NONE });
    cell.published.drain();
    assert_eq!(cell.published.sees(cell.world.stranger(), at(cell.web.ip(family), 80)), family.stranger());
}

fn routed_takes_no_host_port(plane: Plane) {
    let cell = Cell::new(plane, Family::V4, GatewayMode::Routed);
    cell.route_to_network(Family::V6);
    let others =
        [("same", "8080:80"), ("none", "80")].map(|(name, port)| cell.world.container_on("cell", name, &[port]));
    for other in &others {
        for family in Family::BOTH {
            let _servers = [80, 81].map(|port| Server::new(&other.inside, family, port));
            let doors = Doors { unpublished: false, ..Doors::ALL };
            assert_eq!(Doors::of(other, family, &cell.world.client), doors, "{} {family:?}", other.name);
        }
        let said = cell.world.endpoint(&other.name).expect("it is there");
        let ports = said["ports"].as_array().unwrap().iter();
        let places: Vec<_> = ports.map(|port| (port["host_addr"].clone(), port["host_port"].clone())).collect();
        let own = Family::BOTH.map(|family| (json!(other.ip(family).to_string()), json!(80)));
        assert_eq!(places, own, "no host port");
    }
}

fn families_of_one_network_have_modes_of_their_own(plane: Plane, family: Family) {
    let options = NetworkOptions { mode6: GatewayMode::Routed, ..NetworkOptions::dual() };
    let cell = Cell::with(plane, family, options);
    let _servers = [80, 81].map(|port| Server::new(&cell.web.inside, Family::V6, port));
    cell.route_to_network(Family::V6);
    assert_eq!(cell.doors(), Doors::NONE);
    assert!(cell.host_port_works());
    let doors6 = Doors::of(&cell.web, Family::V6, &cell.world.client);
    assert_eq!(doors6, Doors { unpublished: false, ..Doors::ALL });
}
