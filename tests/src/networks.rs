//! Several networks: isolated from each other, internal ones, containers that are on two of them, links.

use netpath_tests::reach::{Doors, KNOCK, Server, answers, pings};
use netpath_tests::sockets::{accept, at};
use netpath_tests::{Family, NetworkOptions, Options, Plane, Request, World};

cells_of_both_families! {
    containers_of_one_network_reach_each_other,
    containers_of_two_networks_do_not_reach_each_other,
    every_network_reaches_the_outside,
    an_internal_network_reaches_itself_and_its_bridge_alone,
    an_internal_network_publishes_nothing,
    an_internal_network_without_icc_keeps_containers_apart,
    a_container_on_two_networks_reaches_both_until_it_leaves,
    a_link_opens_the_exposed_port_where_icc_is_off,
    a_link_lets_no_connection_come_back,
    networks_do_not_share_icc,
}

fn world(plane: Plane, family: Family) -> World {
    World::with(plane, Options { ipv6: family == Family::V6, ..Options::default() })
}

fn options(family: Family) -> NetworkOptions {
    NetworkOptions { ipv6: family == Family::V6, ..NetworkOptions::default() }
}

fn containers_of_one_network_reach_each_other(plane: Plane, family: Family) {
    let world = world(plane, family);
    world.create_network("back", options(family));
    let (one, two) = (world.container_on("back", "one", &[]), world.container_on("back", "two", &[]));
    let server = Server::new(&two.inside, family, 80);
    assert_eq!(server.sees(&one.inside, at(two.ip(family), 80)), one.ip(family));
    assert!(pings(&one.inside, two.ip(family)));
}

fn containers_of_two_networks_do_not_reach_each_other(plane: Plane, family: Family) {
    let world = world(plane, family);
    world.create_network("front", options(family));
    world.create_network("back", options(family));
    let ends = [world.container_on("front", "one", &["8081:80"]), world.container_on("back", "two", &["8082:80"])];
    let _servers = ends.each_ref().map(|end| [80, 81].map(|port| Server::new(&end.inside, family, port)));
    assert_eq!(Doors::of(&ends[1], family, &ends[0].inside), Doors::NONE);
    assert_eq!(Doors::of(&ends[0], family, &ends[1].inside), Doors::NONE);
}

fn every_network_reaches_the_outside(plane: Plane, family: Family) {
    let world = world(plane, family);
    world.create_network("back", options(family));
    let containers = [world.container("one", &[]), world.container_on("back", "two", &[])];
    let server = Server::new(&world.client, family, 7000);
    for container in &containers {
        assert_eq!(server.sees(&container.inside, at(family.client(), 7000)), family.host());
    }
}

fn an_internal_network_reaches_itself_and_its_bridge_alone(plane: Plane, family: Family) {
    let world = world(plane, family);
    let network = world.create_network("closed", NetworkOptions { internal: true, ..options(family) });
    let (one, two) = (world.container_on("closed", "one", &[]), world.container_on("closed", "two", &[]));
    let other = world.container("other", &[]);
    let server = Server::new(&two.inside, family, 80);
    assert_eq!(server.sees(&one.inside, at(two.ip(family), 80)), one.ip(family));
    let gateway = network.gateway(family);
    assert!(pings(&one.inside, gateway));
    let on_host = Server::new(&world.host, family, 7000);
    assert_eq!(on_host.sees(&one.inside, at(gateway, 7000)), one.ip(family));
    // There is no default route, and one that is added by hand leads nowhere.
    assert_eq!(one.inside.ip(family.pick("-4 route show default", "-6 route show default")), "");
    one.inside.ip(&format!("route add default via {gateway}"));
    // internal-host: Docker filters what is forwarded, not what the host itself takes.
    assert_eq!(answers(&one.inside, at(family.host(), 7000)), !plane.is_netpath());
    let outside = Server::new(&world.client, family, 7000);
    outside.is_not_reached(&one.inside, at(family.client(), 7000));
    let elsewhere = Server::new(&other.inside, family, 80);
    elsewhere.is_not_reached(&one.inside, at(other.ip(family), 80));
    server.is_not_reached(&other.inside, at(two.ip(family), 80));
    world.client.ip(&format!("route add {} via {}", network.subnet(family), family.host()));
    server.is_not_reached(&world.client, at(two.ip(family), 80));
}

fn an_internal_network_publishes_nothing(plane: Plane, family: Family) {
    let world = world(plane, family);
    world.create_network("closed", NetworkOptions { internal: true, ..options(family) });
    let web = world.container_on("closed", "web", &["8080:80"]);
    let server = Server::new(&web.inside, family, 80);
    server.is_not_reached(&world.client, at(family.host(), 8080));
    server.is_not_reached(&world.host, at(family.host(), 8080));
}

fn an_internal_network_without_icc_keeps_containers_apart(plane: Plane, family: Family) {
    let world = world(plane, family);
    world.create_network("closed", NetworkOptions { internal: true, icc: false, ..options(family) });
    let (one, two) = (world.container_on("closed", "one", &[]), world.container_on("closed", "two", &[]));
    let server = Server::new(&two.inside, family, 80);
    server.is_not_reached(&one.inside, at(two.ip(family), 80));
}

fn a_container_on_two_networks_reaches_both_until_it_leaves(plane: Plane, family: Family) {
    let world = world(plane, family);
    world.create_network("back", options(family));
    let app = world.container("app", &["8080:80", "8080:80/udp"]);
    let (front, back) = (world.container("front", &[]), world.container_on("back", "db", &[]));
    let servers = [Server::new(&front.inside, family, 80), Server::new(&back.inside, family, 80)];
    servers[1].is_not_reached(&app.inside, at(back.ip(family), 80));
    let second = world.connect("back", &app);
    assert_eq!(servers[0].sees(&app.inside, at(front.ip(family), 80)), app.ip(family));
    assert_eq!(servers[1].sees(&app.inside, at(back.ip(family), 80)), second.ip(family));
    let published = Server::new(&app.inside, family, 80);
    assert_eq!(published.sees(&world.client, at(family.host(), 8080)), family.client());
    assert_eq!(published.sees(&back.inside, at(second.ip(family), 80)), back.ip(family));
    world.disconnect("back", &app);
    servers[1].is_not_reached(&app.inside, at(back.ip(family), 80));
    assert_eq!(servers[0].sees(&app.inside, at(front.ip(family), 80)), app.ip(family));
    assert_eq!(published.sees(&world.client, at(family.host(), 8080)), family.client());
}

/// link-v6: Docker writes the rules of a link for IPv4 only.
fn a_link_opens_the_exposed_port_where_icc_is_off(plane: Plane, family: Family) {
    let world = World::with(plane, Options { icc: false, ipv6: family == Family::V6, ..Options::default() });
    let db = world.container_with("db", Request { expose: &["5432/tcp"], ..Request::default() });
    let app = world.container_with("app", Request { links: &["db"], ..Request::default() });
    let other = world.container("other", &[]);
    let open = db.inside.listen_at(at(family.any(), 5432));
    let _closed = (db.inside.listen_at(at(family.any(), 22)), app.inside.listen_at(at(family.any(), 22)));
    if plane.is_netpath() || family == Family::V4 {
        let _client = app.inside.connect(at(db.ip(family), 5432));
        assert_eq!(accept(&open).1.ip(), app.ip(family));
    } else {
        assert!(!answers(&app.inside, at(db.ip(family), 5432)));
    }
    assert!(!answers(&app.inside, at(db.ip(family), 22)), "what is not exposed");
    assert!(!answers(&db.inside, at(app.ip(family), 22)), "the other way round");
    assert!(!answers(&other.inside, at(db.ip(family), 5432)), "without a link");
}

/// link-state: Docker lets the exposed port send anything to any port of the one who linked.
fn a_link_lets_no_connection_come_back(plane: Plane, family: Family) {
    let world = World::with(plane, Options { icc: false, ipv6: family == Family::V6, ..Options::default() });
    let db = world.container_with("db", Request { expose: &["5432/tcp"], ..Request::default() });
    let app = world.container_with("app", Request { links: &["db"], ..Request::default() });
    let _server = app.inside.listen_at(at(family.any(), 22));
    let passes = db.inside.try_connect(5432, at(app.ip(family), 22), KNOCK).is_ok();
    assert_eq!(passes, !plane.is_netpath() && family == Family::V4);
}

fn networks_do_not_share_icc(plane: Plane, family: Family) {
    let world = world(plane, family);
    world.create_network("apart", NetworkOptions { icc: false, ..options(family) });
    let apart = [world.container_on("apart", "one", &[]), world.container_on("apart", "two", &[])];
    let together = [world.container("three", &[]), world.container("four", &[])];
    let servers = [&apart[1], &together[1]].map(|container| Server::new(&container.inside, family, 80));
    servers[0].is_not_reached(&apart[0].inside, at(apart[1].ip(family), 80));
    assert_eq!(servers[1].sees(&together[0].inside, at(together[1].ip(family), 80)), together[0].ip(family));
    let outside = Server::new(&world.client, family, 7000);
    assert_eq!(outside.sees(&apart[0].inside, at(family.client(), 7000)), family.host());
}
