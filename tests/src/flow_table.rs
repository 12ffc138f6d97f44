//! The flow table: what is in it, what happens when it is full.

use netpath_tests::sockets::{REFUSAL, accept, ask, at, converse};
use netpath_tests::{CLIENT, HOST, Options, Plane, World};
use serde_json::Value;

on_netpath! {
    published_connections_need_no_flow,
    masqueraded_flows_are_listed_with_both_sides,
    a_full_table_refuses_new_flows_and_keeps_the_old,
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
    let (listener, inside) = (world.client.listen(7000), app.inside.listen(80));
    let mut open = Vec::new();
    while let Ok(client) = app.inside.try_connect(0, at(CLIENT, 7000), REFUSAL) {
        open.push((client, accept(&listener).0));
        assert!(open.len() <= MAX, "more connections than flows");
    }
    assert!(open.len() > MAX / 2, "{} connections of {MAX} flows", open.len());
    assert!(world.drops("flow-table-full") > 0);
    open.iter_mut().for_each(|(client, server)| converse(client, server));
    let mut published = world.client.connect(at(HOST, 8080));
    converse(&mut published, &mut accept(&inside).0);
    assert_eq!(flows(&world).len(), open.len());
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
