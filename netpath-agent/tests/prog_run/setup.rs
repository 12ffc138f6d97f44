//! A data plane in a network namespace of the test's own: two containers behind the loopback interface,
//! which is where test runs take place, and an external interface that the default route leads out of.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use netpath_agent::datapath::{self, Datapath, Sizes, TestRun};
use netpath_agent::reconcile::{Change, FamilyChange};
use netpath_common::{
    Addr4, Addr6, Address, Config, Endpoint, External, LAYOUT, Network, PortKey, PortRange, PortSource, PortTarget,
    Reason, Timeouts, config_flag, endpoint_flag, network_flag,
};
use netpath_ebpf::ipv6::link_local;
use nix::sched::{CloneFlags, unshare};

use crate::{ipv4, ipv6};

pub(crate) const PASS: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

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

    pub(crate) fn pin_dir(&self) -> PathBuf {
        self.pin_dir.clone()
    }

    /// Removes the pins; what they were made with.
    pub(crate) fn take_down(&mut self) -> (PathBuf, Sizes, Config) {
        let made_with = (self.pin_dir(), self.datapath.sizes(), self.datapath.config());
        let errors = datapath::teardown(&self.pin_dir);
        assert!(errors.is_empty(), "{errors:?}");
        made_with
    }

    fn fill(&mut self) {
        let uplink = nix::net::if_::if_nametoindex("up0").unwrap();
        let mut network = Network::EMPTY;
        network.flags =
            network_flag::EXISTS | network_flag::ICC | network_flag::MASQUERADE4 | network_flag::MASQUERADE6;
        network.ifindex = uplink;
        network.mtu = 1500;
        network.counter = 1;
        (network.prefix4, network.mask4) = (Addr4([172, 17, 0, 0]), Addr4([255, 255, 0, 0]));
        network.prefix6 = Addr6([0xfd, 0, 0, 0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        network.mask6 = Addr6([255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
        network.mac = BRIDGE_MAC;
        let external = External { addr4: addr4(ipv4::HOST), addr6: addr6(ipv6::HOST), ..External::default() };
        let mut changes = vec![
            Change::PutNetwork(1, network),
            Change::V4(FamilyChange::PutPrefix((network.prefix4, 16), 1)),
            Change::V6(FamilyChange::PutPrefix((network.prefix6, 64), 1)),
            Change::PutExternal(LOOPBACK, external),
            Change::PutExternal(uplink, external),
        ];
        for (index, addr, addr_v6, mac) in [(1, ipv4::C1, ipv6::C1, C1_MAC), (2, ipv4::C2, ipv6::C2, C2_MAC)] {
            let mut endpoint = Endpoint::EMPTY;
            endpoint.generation = index;
            endpoint.ifindex = LOOPBACK;
            endpoint.network = 1;
            endpoint.counter = 1 + 2 * index;
            endpoint.addr4 = addr4(addr);
            endpoint.addr6 = addr6(addr_v6);
            endpoint.mac = mac;
            // The first one takes frames from XDP, the second does not.
            endpoint.flags = if index == 1 { endpoint_flag::XDP } else { 0 };
            changes.extend([
                Change::PutEndpoint(index, endpoint),
                Change::V4(FamilyChange::PutAddress(endpoint.addr4, index)),
                Change::V6(FamilyChange::PutAddress(endpoint.addr6, index)),
                Change::V6(FamilyChange::PutAddress(link_local(&mac), index)),
            ]);
        }
        self.datapath.apply(&changes).unwrap();
    }

    /// Publishes port `port` of the first container at `host_port`, in both families.
    pub(crate) fn publish(&mut self, proto: u8, host_port: u16, port: u16) {
        self.publish_to(1, proto, host_port, port);
    }

    /// The same with container number `index`.
    pub(crate) fn publish_to(&mut self, index: u32, proto: u8, host_port: u16, port: u16) {
        let (c4, c6) = if index == 1 { (ipv4::C1, ipv6::C1) } else { (ipv4::C2, ipv6::C2) };
        let v4 = published(addr4(ipv4::HOST), (index, addr4(c4)), PortKey::new, (proto, host_port, port));
        let v6 = published(addr6(ipv6::HOST), (index, addr6(c6)), PortKey::new, (proto, host_port, port));
        self.datapath.apply(&v4.map(Change::V4)).unwrap();
        self.datapath.apply(&v6.map(Change::V6)).unwrap();
    }

    /// Publishes the 256 ports from `port` of the first container at `host_port` and up.
    pub(crate) fn publish_block(&mut self, proto: u8, host_port: u16, port: u16) {
        let v4 = published(addr4(ipv4::HOST), (1, addr4(ipv4::C1)), PortKey::block, (proto, host_port, port));
        let v6 = published(addr6(ipv6::HOST), (1, addr6(ipv6::C1)), PortKey::block, (proto, host_port, port));
        self.datapath.apply(&v4.map(Change::V4)).unwrap();
        self.datapath.apply(&v6.map(Change::V6)).unwrap();
    }

    pub(crate) fn unpublish_block(&mut self, proto: u8, host_port: u16, port: u16) {
        self.datapath
            .apply(&[
                Change::V4(FamilyChange::DeletePublished(PortKey::block(addr4(ipv4::HOST), host_port, proto))),
                Change::V4(FamilyChange::DeleteSource(PortKey::block(addr4(ipv4::C1), port, proto))),
                Change::V6(FamilyChange::DeletePublished(PortKey::block(addr6(ipv6::HOST), host_port, proto))),
                Change::V6(FamilyChange::DeleteSource(PortKey::block(addr6(ipv6::C1), port, proto))),
            ])
            .unwrap();
    }

    pub(crate) fn set_flags(&mut self, flags: u32) {
        let config = self.datapath.config();
        self.datapath.set_config(Config { flags, ..config }).unwrap();
    }

    /// Runs a program, given by the name that IPv4's has, on a frame: the one of the frame's family.
    pub(crate) fn run(&self, program: &str, frame: &[u8]) -> TestRun {
        self.run_exactly(&of_family(program, frame), frame)
    }

    /// Runs the program of that name on a frame.
    pub(crate) fn run_exactly(&self, program: &str, frame: &[u8]) -> TestRun {
        self.datapath.test_run(program, frame, 1).unwrap()
    }

    /// As [`Self::run`], on a frame that the kernel is going to cut into segments.
    pub(crate) fn run_segments(&self, program: &str, frame: &[u8], gso_size: u16) -> TestRun {
        self.datapath.test_run_segments(&of_family(program, frame), frame, gso_size, 1).unwrap()
    }

    /// Packets dropped for `reason`.
    pub(crate) fn dropped(&self, reason: Reason) -> u64 {
        let drops = self.datapath.drops().unwrap();
        drops.iter().filter(|(key, _)| key.reason == reason as u32).map(|(_, counter)| counter.packets).sum()
    }
}

fn of_family(program: &str, frame: &[u8]) -> String {
    let family = if frame[12..14] == [0x86, 0xdd] { "6" } else { "" };
    format!("{program}{family}")
}

/// The entries of a published port, or of a block of them: `key` says which.
fn published<A: Address>(
    host: A,
    (index, container): (u32, A),
    key: fn(A, u16, u8) -> PortKey<A>,
    (proto, host_port, port): (u8, u16, u16),
) -> [FamilyChange<A>; 2] {
    [
        FamilyChange::PutPublished(key(host, host_port, proto), PortTarget::new(index, index, port, 0, 10)),
        FamilyChange::PutSource(key(container, port, proto), PortSource::new(host, host_port, 0, 10)),
    ]
}

pub(crate) fn addr4(addr: IpAddr) -> Addr4 {
    let IpAddr::V4(addr) = addr else { panic!("{addr} is no IPv4 address") };
    addr.into()
}

pub(crate) fn addr6(addr: IpAddr) -> Addr6 {
    let IpAddr::V6(addr) = addr else { panic!("{addr} is no IPv6 address") };
    addr.into()
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
        "addr add 2001:db8::1/64 dev up0 nodad",
        "link set up0 up",
        "link set peer0 up",
    ] {
        let status = Command::new("ip").args(command.split(' ')).status().expect("run ip");
        assert!(status.success(), "ip {command}");
    }
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{switch}"), "1").expect("switch forwarding on");
    }
}
