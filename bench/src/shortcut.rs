//! What each program costs per packet on its shortcut, with its caches warm: BPF_PROG_TEST_RUN on 250
//! packets in a row.
//!
//! The programs change the packet, so one run's output must be a good input for the next. Therefore the
//! maps lead round in a circle here: what is published at A leads to B, and what is published at B to A.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netpath_agent::datapath::{self, Datapath, Sizes};
use netpath_agent::reconcile::{Change, FamilyChange};
use netpath_common::{
    Config, Endpoint, External, LAYOUT, Network, PortKey, PortRange, PortSource, PortTarget, Timeouts, config_flag,
    network_flag, proto,
};
use nix::sched::{CloneFlags, unshare};

/// Packets in a row; each loses a hop, so fewer than 255.
const REPEAT: u32 = 250;
const ROUNDS: u32 = 4000;

const A: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The interface of test runs.
const LOOPBACK: u32 = 1;

/// What one kind of packet costs in one program.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub program: &'static str,
    pub packet: &'static str,
    pub ns: f64,
}

/// Measures every program on the packets it sees most.
///
/// # Errors
///
/// If the programs cannot be loaded or run.
pub fn measure() -> Result<Vec<Cost>> {
    // A thread of its own, because it moves into a network namespace of its own.
    std::thread::spawn(measure_here).join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
}

fn measure_here() -> Result<Vec<Cost>> {
    enter_namespace()?;
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpath-shortcut-{}", std::process::id()));
    let costs = load(&pin_dir).and_then(|datapath| packets().iter().map(|packet| packet.measure(&datapath)).collect());
    let errors = datapath::teardown(&pin_dir);
    ensure!(errors.is_empty(), "remove the pins: {errors:?}");
    costs
}

struct Packet {
    program: &'static str,
    name: &'static str,
    verdict: i32,
    frame: Vec<u8>,
}

impl Packet {
    fn measure(&self, datapath: &Datapath) -> Result<Cost> {
        let mut total = Duration::ZERO;
        for _ in 0..ROUNDS {
            let run = datapath.test_run(self.program, &self.frame, REPEAT)?;
            ensure!(run.verdict == self.verdict, "{}: verdict {}, want {}", self.name, run.verdict, self.verdict);
            total += run.duration;
        }
        let ns = total.as_secs_f64() * 1e9 / f64::from(ROUNDS);
        Ok(Cost { program: self.program, packet: self.name, ns })
    }
}

fn packets() -> Vec<Packet> {
    const PASS: i32 = -1;
    const REDIRECT: i32 = 7;
    let packet = |program, name, verdict, macs, src, dst| Packet { program, name, verdict, frame: tcp(macs, src, dst) };
    let (arriving, leaving) = (([0; 6], MAC), (BRIDGE_MAC, MAC));
    vec![
        packet("from_external", "to a published port", REDIRECT, arriving, (CLIENT, 40000), (A, 8080)),
        packet("from_external", "to the host itself", PASS, arriving, (CLIENT, 40000), (A, 40001)),
        packet("to_external", "from the host itself", PASS, leaving, (A, 22), (CLIENT, 40000)),
        packet("from_container", "from a published port", REDIRECT, leaving, (B, 80), (CLIENT, 40000)),
        packet("from_container", "to a neighbour", REDIRECT, (NEIGHBOUR_MAC, MAC), (B, 80), (NEIGHBOUR, 40000)),
    ]
}

/// A TCP segment without data and with 255 hops; the programs do not look at its checksum.
fn tcp(macs: ([u8; 6], [u8; 6]), src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut frame = [macs.0, macs.1].concat();
    frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 255, proto::TCP, 0, 0]);
    frame.extend(src.0.octets());
    frame.extend(dst.0.octets());
    frame.extend(src.1.to_be_bytes());
    frame.extend(dst.1.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

fn load(pin_dir: &std::path::Path) -> Result<Datapath> {
    let sizes = Sizes { max_flows: 1024, max_ports: 1024, max_endpoints: 8, max_counters: 32 };
    let config = Config {
        layout: LAYOUT,
        hash_key: 1,
        netns_cookie: 0,
        flags: config_flag::SHORTCUTS,
        max_flows: sizes.max_flows,
        timeouts: Timeouts::default(),
        ports: PortRange { first: 1024, last: 32767 },
        privileged_ports: PortRange { first: 600, last: 1023 },
        primary_ifindex: 0,
        primary: External::default(),
    };
    let (mut datapath, _) = Datapath::load(pin_dir, &sizes, config)?;
    datapath.apply(&changes()?)?;
    Ok(datapath)
}

fn changes() -> Result<Vec<Change>> {
    let uplink = nix::net::if_::if_nametoindex("up0").context("find up0")?;
    let mut network = Network::EMPTY;
    network.flags = network_flag::EXISTS | network_flag::ICC | network_flag::MASQUERADE4;
    network.ifindex = uplink;
    network.mtu = 1500;
    network.counter = 1;
    network.prefix4 = Ipv4Addr::new(172, 17, 0, 0).into();
    network.mask4 = Ipv4Addr::new(255, 255, 0, 0).into();
    network.mac = BRIDGE_MAC;
    let external = External { addr4: A.into(), addr6: Default::default() };
    let mut changes = vec![
        Change::PutNetwork(1, network),
        Change::V4(FamilyChange::PutPrefix((network.prefix4, 16), 1)),
        Change::PutExternal(uplink, external),
    ];
    for (index, addr, mac) in [(1, A, MAC), (2, B, MAC), (3, NEIGHBOUR, NEIGHBOUR_MAC)] {
        let mut endpoint = Endpoint::EMPTY;
        endpoint.generation = index;
        endpoint.ifindex = LOOPBACK;
        endpoint.network = 1;
        endpoint.counter = 1 + 2 * index;
        endpoint.addr4 = addr.into();
        endpoint.mac = mac;
        changes
            .extend([Change::PutEndpoint(index, endpoint), Change::V4(FamilyChange::PutAddress(addr.into(), index))]);
    }
    for (from, to, index) in [((A, 8080), (B, 80), 2), ((B, 80), (A, 8080), 1)] {
        let key = PortKey::new(from.0.into(), from.1, proto::TCP);
        changes.push(Change::V4(FamilyChange::PutPublished(key, PortTarget::new(index, index, to.1, 0, 10))));
        changes.push(Change::V4(FamilyChange::PutSource(key, PortSource::new(to.0.into(), to.1, 0, 10))));
    }
    Ok(changes)
}

/// A network namespace with a route to the client, for the route look-up.
fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace (needs root)")?;
    for command in [
        "link set lo up",
        "link add up0 type veth peer name peer0",
        "addr add 198.18.0.1/24 dev up0",
        "link set up0 up",
        "link set peer0 up",
    ] {
        let status = Command::new("ip").args(command.split(' ')).status().context("run ip")?;
        ensure!(status.success(), "ip {command}: {status}");
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("switch forwarding on")
}
