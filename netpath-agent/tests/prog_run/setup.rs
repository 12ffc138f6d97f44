//! A data plane in a network namespace of the test's own: two containers behind the loopback interface,
//! which is where test runs take place, and an external interface that the default route leads out of.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use netpath_agent::datapath::{self, Datapath, Sizes, TestRun};
use netpath_agent::reconcile::{Change, FamilyChange};
use netpath_common::{
    Addr4, Config, Endpoint, External, LAYOUT, Network, PortKey, PortRange, PortSource, PortTarget, Reason, Timeouts,
    config_flag, network_flag,
};
use nix::sched::{CloneFlags, unshare};

pub(crate) const PASS: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
pub(crate) const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
pub(crate) const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
pub(crate) const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];
/// Of the interface that test runs see: frames to another address are for somebody else.
pub(crate) const LOOPBACK_MAC: [u8; 6] = [0; 6];
pub(crate) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];
pub(crate) const C1_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const C2_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The interface that test runs see.
const LOOPBACK: u32 = 1;

/// A loaded data plane; its pins go when it is dropped.
pub(crate) struct Plane {
    pub(crate) datapath: Datapath,
    pin_dir: PathBuf,
}

impl Plane {
    pub(crate) fn new() -> Self {
        enter_namespace();
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpath-prog-run-{}", std::process::id()));
        let sizes = Sizes { max_flows: 64, max_ports: 64, max_endpoints: 8, max_counters: 32 };
        let config = Config {
            layout: LAYOUT,
            hash_key: 42,
            netns_cookie: 0,
            flags: config_flag::SHORTCUTS,
            max_flows: sizes.max_flows,
            timeouts: Timeouts::default(),
            ports: PortRange { first: 1024, last: 32767 },
            privileged_ports: PortRange { first: 600, last: 1023 },
            primary_ifindex: 0,
            primary: External::default(),
        };
        let (datapath, _) = Datapath::load(&pin_dir, &sizes, config).unwrap();
        let mut plane = Self { datapath, pin_dir };
        plane.fill();
        plane
    }

    fn fill(&mut self) {
        let uplink = nix::net::if_::if_nametoindex("up0").unwrap();
        let mut network = Network::EMPTY;
        network.flags = network_flag::EXISTS | network_flag::ICC | network_flag::MASQUERADE4;
        network.ifindex = uplink;
        network.mtu = 1500;
        network.counter = 1;
        network.prefix4 = Ipv4Addr::new(172, 17, 0, 0).into();
        network.mask4 = Ipv4Addr::new(255, 255, 0, 0).into();
        network.mac = BRIDGE_MAC;
        let external = External { addr4: HOST.into(), addr6: Default::default() };
        let mut changes = vec![
            Change::PutNetwork(1, network),
            Change::V4(FamilyChange::PutPrefix((network.prefix4, 16), 1)),
            Change::PutExternal(LOOPBACK, external),
            Change::PutExternal(uplink, external),
        ];
        for (index, addr, mac) in [(1, C1, C1_MAC), (2, C2, C2_MAC)] {
            let mut endpoint = Endpoint::EMPTY;
            endpoint.generation = index;
            endpoint.ifindex = LOOPBACK;
            endpoint.network = 1;
            endpoint.counter = 1 + 2 * index;
            endpoint.addr4 = addr.into();
            endpoint.mac = mac;
            changes.extend([
                Change::PutEndpoint(index, endpoint),
                Change::V4(FamilyChange::PutAddress(addr.into(), index)),
            ]);
        }
        self.datapath.apply(&changes).unwrap();
    }

    /// Publishes port `port` of the first container at `host_port`.
    pub(crate) fn publish(&mut self, proto: u8, host_port: u16, port: u16) {
        let host: Addr4 = HOST.into();
        self.datapath
            .apply(&[
                Change::V4(FamilyChange::PutPublished(
                    PortKey::new(host, host_port, proto),
                    PortTarget::new(1, 1, port, 0, 10),
                )),
                Change::V4(FamilyChange::PutSource(
                    PortKey::new(C1.into(), port, proto),
                    PortSource::new(host, host_port, 0, 10),
                )),
            ])
            .unwrap();
    }

    /// Publishes the 256 ports from `port` of the first container at `host_port` and up.
    pub(crate) fn publish_block(&mut self, proto: u8, host_port: u16, port: u16) {
        let target = PortTarget::new(1, 1, port, 0, 10);
        let source = PortSource::new(HOST.into(), host_port, 0, 10);
        self.datapath
            .apply(&[
                Change::V4(FamilyChange::PutPublished(PortKey::block(HOST.into(), host_port, proto), target)),
                Change::V4(FamilyChange::PutSource(PortKey::block(C1.into(), port, proto), source)),
            ])
            .unwrap();
    }

    pub(crate) fn unpublish_block(&mut self, proto: u8, host_port: u16, port: u16) {
        self.datapath
            .apply(&[
                Change::V4(FamilyChange::DeletePublished(PortKey::block(HOST.into(), host_port, proto))),
                Change::V4(FamilyChange::DeleteSource(PortKey::block(C1.into(), port, proto))),
            ])
            .unwrap();
    }

    pub(crate) fn set_flags(&mut self, flags: u32) {
        let config = self.datapath.config();
        self.datapath.set_config(Config { flags, ..config }).unwrap();
    }

    pub(crate) fn run(&self, program: &str, frame: &[u8]) -> TestRun {
        self.datapath.test_run(program, frame, 1).unwrap()
    }

    /// As [`Self::run`], on a frame that the kernel is going to cut into segments.
    pub(crate) fn run_segments(&self, program: &str, frame: &[u8], gso_size: u16) -> TestRun {
        self.datapath.test_run_segments(program, frame, gso_size, 1).unwrap()
    }

    /// Packets dropped for `reason`.
    pub(crate) fn dropped(&self, reason: Reason) -> u64 {
        let drops = self.datapath.drops().unwrap();
        drops.iter().filter(|(key, _)| key.reason == reason as u32).map(|(_, counter)| counter.packets).sum()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let errors = datapath::teardown(&self.pin_dir);
        if !std::thread::panicking() {
            assert!(errors.is_empty(), "{errors:?}");
        }
    }
}

fn enter_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own (run as root)");
    for command in [
        "link set lo up",
        "link add up0 type veth peer name peer0",
        "addr add 198.18.0.1/24 dev up0",
        "link set up0 up",
        "link set peer0 up",
    ] {
        let status = Command::new("ip").args(command.split(' ')).status().expect("run ip");
        assert!(status.success(), "ip {command}");
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("switch forwarding on");
}
