//! The flow table: what is in it, what happens when it is full.

use std::io;
use std::time::Instant;

use netpath_tests::sockets::{REFUSAL, accept, ask, at, converse};
use netpath_tests::{CLIENT, Container, Family, HOST, Options, Plane, World};
use serde_json::Value;

on_netpath! {
    published_connections_need_no_flow,
    masqueraded_flows_are_listed_with_both_sides,
    a_full_table_refuses_new_flows_and_keeps_the_old,
    a_container_that_floods_leaves_flows_for_the_others,
    a_refused_flow_is_answered,
    a_deleted_flow_gets_a_new_one,
    flows_end_with_their_container,
}

fn published_connections_need_no_flow(plane: Plane) {
    let world = World::new(plane);
    let web = world.container("web", &["8080:80", "5353:53/udp"]);
    let listener = web.inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
    ask(&world.client.udp(0), &web.inside.udp(53), at(HOST, 5353));
    assert_eq!(flows(&world), Vec::<Value>::new());
}

fn masqueraded_flows_are_listed_with_both_sides(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let listener = world.client.listen(7000);
    let mut client = app.inside.connect_from(5000, at(CLIENT, 7000));
    let (mut server, from) = accept(&listener);
    converse(&mut client, &mut server);
    let [flow] = &flows(&world)[..] else { panic!("one flow expected, got {:?}", flows(&world)) };
    let field = |name: &str| flow[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(["proto", "state", "name"].map(field), ["tcp", "ESTABLISHED", "app"]);
    assert_eq!(["src", "dst", "nat_addr"].map(field), [app.address, CLIENT, HOST].map(|a| a.to_string()));
    assert_eq!(["sport", "dport", "nat_port"].map(|name| &flow[name]), [5000, 7000, from.port()]);
}

fn a_full_table_refuses_new_flows_and_keeps_the_old(plane: Plane) {
    const MAX: usize = 64;
    let world = World::with(plane, Options::agent(&format!("--max-flows {MAX}")));
    let app = world.container("app", &["8080:80"]);
    let others = [app.clone(), world.container("second", &[]), world.container("third", &[])];
    let (listener, inside) = (world.client.listen(7000), app.inside.listen(80));
    let mut open = Vec::new();
    for container in &others {
        while let Ok(client) = container.inside.try_connect(0, at(CLIENT, 7000), REFUSAL) {
            open.push((client, accept(&listener).0));
            assert!(open.len() <= MAX, "more connections than flows");
        }
    }
    assert!(open.len() > MAX * 7 / 8, "{} connections of {MAX} flows", open.len());
    assert!(world.drops("flow-quota") + world.drops("flow-table-full") > 0);
    open.iter_mut().for_each(|(client, server)| converse(client, server));
    let mut published = world.client.connect(at(HOST, 8080));
    converse(&mut published, &mut accept(&inside).0);
    assert_eq!(flows(&world).len(), open.len());
}

/// RFC 6888, REQ-4: what one container does costs the others nothing.
fn a_container_that_floods_leaves_flows_for_the_others(plane: Plane) {
    const MAX: usize = 256;
    let world = World::with(plane, Options::agent(&format!("--max-flows {MAX}")));
    let (flooder, app) = (world.container("flooder", &[]), world.container("app", &[]));
    let listener = world.client.listen(7000);
    let mut before = app.inside.connect(at(CLIENT, 7000));
    let mut before_server = accept(&listener).0;
    flood(&flooder, 1000);
    assert!(world.drops("flow-quota") > 700, "{} refused", world.drops("flow-quota"));
    assert_eq!(world.drops("flow-table-full"), 0);
    let mut after: Vec<_> = (0..20)
        .map(|_| {
            let client = app.inside.connect(at(CLIENT, 7000));
            (client, accept(&listener).0)
        })
        .collect();
    after.iter_mut().for_each(|(client, server)| converse(client, server));
    converse(&mut before, &mut before_server);
}

/// RFC 5508, REQ-8: the sender learns at once that it was refused, and not more often than it can use.
fn a_refused_flow_is_answered(plane: Plane) {
    let world = World::with(plane, Options { ipv6: true, ..Options::agent("--max-flows 64") });
    let app = world.container("app", &[]);
    for family in [Family::V4, Family::V6] {
        let to = at(family.client(), 7000);
        let listener = world.client.listen_at(at(family.any(), 7000));
        let mut open = Vec::new();
        let refused = loop {
            // An answer that comes while the call is still sending does not end it; that to the next SYN, a second
            // later, does.
            match app.inside.try_connect(0, to, 5 * REFUSAL) {
                Ok(client) => open.push((client, accept(&listener).0)),
                Err(error) => break error,
            }
            assert!(open.len() <= 64, "more connections than flows");
        };
        // Linux's names of these errors: net/ipv4/icmp.c, icmp_err_convert, and net/ipv6/icmp.c, tab_unreach.
        let expected = family.pick(io::ErrorKind::HostUnreachable, io::ErrorKind::PermissionDenied);
        assert_eq!(refused.kind(), expected, "{refused}");
    }
    // More of them than two seconds' answers.
    let unreachable = || app.inside.snmp("Icmp:", "InDestUnreachs");
    let before = unreachable();
    let begun = Instant::now();
    flood(&app, 2000);
    let (answers, seconds) = (unreachable() - before, begun.elapsed().as_secs() + 2);
    assert!((50..=100 * seconds).contains(&answers), "{answers} answers in {seconds} s");
}

/// Datagrams from `count` ports.
fn flood(from: &Container, count: u16) {
    for port in 0..count {
        let socket = from.inside.udp(20000 + port);
        // An answer to an earlier one may be waiting as an error.
        let _ = socket.send_to(b"flood", at(CLIENT, 7001));
    }
}

fn a_deleted_flow_gets_a_new_one(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    let (client, server) = (app.inside.udp(0), world.client.udp(7000));
    ask(&client, &server, at(CLIENT, 7000));
    assert_eq!(flows(&world).len(), 1);
    world.netpath_ok(&["conntrack", "--flush"]);
    assert_eq!(flows(&world).len(), 0);
    ask(&client, &server, at(CLIENT, 7000));
    assert_eq!(flows(&world).len(), 1);
}

fn flows_end_with_their_container(plane: Plane) {
    let world = World::new(plane);
    let app = world.container("app", &[]);
    ask(&app.inside.udp(0), &world.client.udp(7000), at(CLIENT, 7000));
    assert_eq!(flows(&world).len(), 1);
    world.netpath_ok(&["detach", "app"]);
    assert_eq!(flows(&world).len(), 0);
}

fn flows(world: &World) -> Vec<Value> {
    world.json(&["conntrack"]).as_array().expect("a list of flows").clone()
}
