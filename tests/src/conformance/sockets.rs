//! Rows with sockets and their kernels on both ends: what hardware and kernels split and merge arrives as it was sent, and
//! many at once are kept apart.

use std::net::{TcpStream, UdpSocket};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use netpath_tests::sockets::{accept, at, receive, send};
use netpath_tests::transfer::Transfer;
use netpath_tests::{Namespace, program};
use socket2::{Domain, SockAddr, Socket, Type};

use super::record::{Met, Road};
use super::testbed::{Setup, Testbed, WEB, WEB_INSIDE, require};

rows! {
    14, "Sockets: offloads and races";

    streams_arrive_intact_with_every_offload(Both): "offloads", Must, netfilter Met, netpath Met,
        with super::Setup::with_sockets; "Large segments: 8 MB each way, out of a container and at a published port";
    streams_arrive_intact_without_offloads(Both): "offloads", Must, netfilter Met, netpath Met,
        with super::Setup::with_sockets; "The same with checksum, segmentation and receive offloads off";
    streams_arrive_intact_with_either_offload(Both): "offloads", Must, netfilter Met, netpath Met,
        with super::Setup::with_sockets; "The same with one of them off at a time";
    datagrams_arrive_intact(Both): "offloads", Must, netfilter Met, netpath Met,
        with super::Setup::with_sockets; "Datagrams of 1 to 60,000 bytes, with offloads and without";
    flows_that_begin_at_once_are_kept_apart(Both): "races", Must, netfilter Met, netpath Met,
        with super::Setup::with_sockets; "128 threads of two containers begin flows from one port at once: no answer reaches another asker";
    flows_that_begin_at_once_all_pass(Both): "races", Must, netfilter Met, netpath Met,
        with super::Setup::with_sockets; "The same: each asker, who asks at most three times, is answered";
}

const STREAM: u64 = 8 << 20;
const OFFLOADS: [&str; 5] = ["tx", "rx", "tso", "gso", "gro"];

fn streams_arrive_intact_with_every_offload(bed: &mut Testbed) -> Met {
    streams(bed, STREAM)
}

fn streams_arrive_intact_without_offloads(bed: &mut Testbed) -> Met {
    switch(bed, &OFFLOADS, "off");
    let met = streams(bed, STREAM / 4);
    switch(bed, &OFFLOADS, "on");
    met
}

fn streams_arrive_intact_with_either_offload(bed: &mut Testbed) -> Met {
    for offload in OFFLOADS {
        switch(bed, &[offload], "off");
        let met = streams(bed, STREAM / 8);
        switch(bed, &OFFLOADS, "on");
        met.map_err(|seen| format!("{seen}, without {offload}"))?;
    }
    Ok(())
}

/// Of every interface of the world.
fn switch(bed: &Testbed, offloads: &[&str], to: &str) {
    for namespace in [&bed.world.host, &bed.world.client, &*bed.app.inside] {
        // What XDP redirects into a container is taken in by NAPI, which a veth has as long as it has GRO.
        let needs_gro = bed.road == Road::Xdp && namespace.path() == bed.app.inside.path();
        let offloads = offloads.iter().filter(|offload| !(needs_gro && **offload == "gro"));
        let words: Vec<&str> = offloads.flat_map(|offload| [*offload, to]).collect();
        for ifname in namespace.interfaces().iter().filter(|_| !words.is_empty()) {
            // A bridge refuses some of them and says so.
            let output = program::output_of(namespace.command("ethtool").args(["-K", ifname]).args(&words));
            let refused = program::text(&output.stderr);
            assert!(output.status.success() || refused.contains("Cannot change"), "ethtool -K {ifname}: {refused}");
        }
    }
}

/// Connections out of a container and to its published port, each full in both directions at once.
fn streams(bed: &Testbed, bytes: u64) -> Met {
    let inside = bed.app.inside.listen_at(at(bed.family.any(), WEB_INSIDE));
    let outside = bed.world.client.listen_at(at(bed.family.any(), 7000));
    let client = bed.world.client.connect(bed.host_end(WEB));
    fill(&client, &accept(&inside).0, bytes)?;
    let client = bed.app.inside.connect(at(bed.server(), 7000));
    fill(&client, &accept(&outside).0, bytes)
}

fn fill(one: &TcpStream, other: &TcpStream, bytes: u64) -> Met {
    let transfers = [Transfer::start(one, other), Transfer::start(other, one)];
    transfers.iter().for_each(|transfer| transfer.advance(bytes));
    transfers.into_iter().try_for_each(|transfer| require(transfer.finish() >= bytes, "fewer bytes than were sent"))
}

fn datagrams_arrive_intact(bed: &mut Testbed) -> Met {
    let server = bed.world.client.udp_at(at(bed.family.any(), 7000));
    let client = bed.app.inside.udp_at(at(bed.family.any(), 0));
    for offload in ["on", "off"] {
        switch(bed, &OFFLOADS, offload);
        for length in [1, 2, 511, 1400, 1472, 1473, 4003, 60_000] {
            let payload: Vec<u8> = (0..length).map(|index| ((index * 31) >> 3) as u8).collect();
            send(&client, &payload, at(bed.server(), 7000));
            let (seen, from) = receive(&server);
            require(seen == payload && from.ip() == bed.host(), "a question arrives changed")?;
            send(&server, &payload, from);
            require(receive(&client).0 == payload, "an answer arrives changed")?;
        }
    }
    switch(bed, &OFFLOADS, "on");
    Ok(())
}

fn flows_that_begin_at_once_are_kept_apart(bed: &mut Testbed) -> Met {
    require(!race_of_two_containers(bed).contains(&Heard::Another), "an answer reaches another asker")
}

fn flows_that_begin_at_once_all_pass(bed: &mut Testbed) -> Met {
    require(race_of_two_containers(bed).iter().all(|heard| *heard == Heard::Own), "an asker is never answered")
}

/// What an asker heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Own,
    Another,
    Nothing,
}

fn race_of_two_containers(bed: &Testbed) -> Vec<Heard> {
    const ROUNDS: u16 = 8;
    const THREADS: u16 = 64;
    let servers: Vec<UdpSocket> =
        (0..THREADS).map(|index| bed.world.client.udp_at(at(bed.family.any(), 7000 + index))).collect();
    let mut heard = Vec::new();
    for round in 0..ROUNDS {
        let containers = [&bed.app.inside, &bed.other.inside];
        let askers: Vec<UdpSocket> = containers
            .into_iter()
            .flat_map(|inside| (0..THREADS).map(move |index| (index, inside)))
            .map(|(index, inside)| asker(bed, inside, 5000 + round, 7000 + index))
            .collect();
        heard.extend(race(&askers, &servers));
    }
    heard
}

/// A socket that shares its port with the others of its namespace, connected to the server's port `to`.
fn asker(bed: &Testbed, inside: &Namespace, port: u16, to: u16) -> UdpSocket {
    let (to, from) = (at(bed.server(), to), at(bed.family.any(), port));
    inside.within(|| {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).expect("open a socket");
        socket.set_reuse_port(true).expect("share a port");
        socket.bind(&SockAddr::from(from)).expect("bind a shared port");
        socket.connect(&SockAddr::from(to)).expect("connect a datagram socket");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("set a time limit");
        socket.into()
    })
}

/// All ask at once; the servers answer with what they were asked, and each asker must hear its own question.
fn race(askers: &[UdpSocket], servers: &[UdpSocket]) -> Vec<Heard> {
    let start = Barrier::new(askers.len());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        servers.iter().for_each(|server| _ = scope.spawn(|| answer(server, &is_over)));
        let asking = askers.iter().enumerate().map(|(number, socket)| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                ask(socket, format!("asker {number}").as_bytes())
            })
        });
        let asking: Vec<_> = asking.collect();
        let heard = asking.into_iter().map(|asker| asker.join().expect("an asker")).collect();
        is_over.store(true, Ordering::Relaxed);
        heard
    })
}

/// Answers each question with itself, until all have been answered.
fn answer(server: &UdpSocket, is_over: &AtomicBool) {
    server.set_read_timeout(Some(Duration::from_millis(20))).expect("set a time limit");
    let mut question = [0; 64];
    while !is_over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = server.recv_from(&mut question) {
            server.send_to(&question[..length], from).expect("send an answer");
        }
    }
}

/// Asks again when no answer comes, as whoever uses datagrams does.
fn ask(socket: &UdpSocket, question: &[u8]) -> Heard {
    let mut heard = [0; 64];
    for _ in 0..3 {
        socket.send(question).expect("send a question");
        match socket.recv(&mut heard) {
            Ok(length) if heard[..length] == *question => return Heard::Own,
            Ok(_) => return Heard::Another,
            Err(_) => {}
        }
    }
    Heard::Nothing
}
