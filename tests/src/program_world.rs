//! What programs are run in by BPF_PROG_TEST_RUN: a network namespace with a route out, and a loaded data plane whose
//! containers are all behind the loopback interface, which is where such runs take place.
//!
//! The thread that makes it moves into the namespace and stays there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use netpath_agent::datapath::{self, Datapath, Sizes};
use netpath_agent::reconcile::{Change, FamilyChange};
use netpath_common::{
    Addr4, Addr6, Address, Config, Endpoint, External, LAYOUT, Network, PortKey, PortRange, PortSource, PortTarget,
    Timeouts, config_flag, network_flag,
};
use netpath_ebpf::ipv6::link_local;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::program;

/// The host's addresses, on the wire to the client.
pub const HOST4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
pub const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

pub const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];

/// What a program says: the kernel's way, gone, to another interface.
pub const PASS: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

/// The interface that test runs see.
const LOOPBACK: u32 = 1;

/// A container, in 172.17.0.0/16 and fd00:17::/64. Its number is its place in the list, from 1 on.
#[derive(Clone, Copy, Debug)]
pub struct Inhabitant {
    pub addr4: IpAddr,
    pub addr6: IpAddr,
    pub mac: [u8; 6],
    /// Of `endpoint_flag`.
    pub flags: u16,
}

/// How much is published at once.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    Port,
    /// The 256 ports that the port begins.
    Block,
}

/// A loaded data plane; its pins go with it, or with the process.
pub struct ProgramWorld {
    pub datapath: Datapath,
    inhabitants: Vec<Inhabitant>,
    pin_dir: PathBuf,
}

impl ProgramWorld {
    /// Moves this thread into a namespace of its own. `name` is that of the pins' directory.
    pub fn new(name: &str, sizes: Sizes, inhabitants: &[Inhabitant]) -> Self {
        enter_namespace();
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpath-{name}-{}", std::process::id()));
        let config = Config {
            layout: LAYOUT,
            hash_key: 42,
            netns_cookie: 0,
            flags: config_flag::SHORTCUTS | config_flag::IPV6,
            max_flows: sizes.max_flows,
            timeouts: Timeouts::default(),
            ports: PortRange { first: 1024, last: 32767 },
            privileged_ports: PortRange { first: 600, last: 1023 },
            primary_ifindex: 0,
            primary: External::default(),
        };
        let (mut datapath, _) = Datapath::load(&pin_dir, &sizes, config).unwrap_or_else(|e| panic!("{e:#}"));
        datapath.load_ipv6().unwrap_or_else(|e| panic!("{e:#}"));
        let mut world = Self { datapath, inhabitants: inhabitants.to_vec(), pin_dir };
        world.apply(&network());
        for (number, inhabitant) in (1..).zip(inhabitants) {
            world.apply(&endpoint(number, inhabitant));
        }
        world
    }

    pub fn pin_dir(&self) -> PathBuf {
        self.pin_dir.clone()
    }

    /// Removes the pins; what they were made with.
    pub fn take_down(&mut self) -> (PathBuf, Sizes, Config) {
        let made_with = (self.pin_dir(), self.datapath.sizes(), self.datapath.config());
        let errors = datapath::teardown(&self.pin_dir).errors;
        assert!(errors.is_empty(), "remove the pins: {errors:?}");
        made_with
    }

    pub fn apply(&mut self, changes: &[Change]) {
        self.datapath.apply(changes).unwrap_or_else(|e| panic!("write the maps: {e:#}"));
    }

    /// Sets `flags` and no others, but for IPv6.
    pub fn set_flags(&mut self, flags: u32) {
        let flags = flags | config_flag::IPV6;
        let config = self.datapath.config();
        self.datapath.set_config(Config { flags, ..config }).unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// Publishes a port of a container at `host`; what the container sends from it comes from there.
    pub fn publish(&mut self, proto: u8, host: (IpAddr, u16), container: (IpAddr, u16), extent: Extent) {
        let is_it = |inhabitant: &Inhabitant| [inhabitant.addr4, inhabitant.addr6].contains(&container.0);
        let place = self.inhabitants.iter().position(is_it);
        let number = place.unwrap_or_else(|| panic!("no container has the address {}", container.0)) as u32 + 1;
        let key = (proto, number, extent);
        let changes = if host.0.is_ipv4() {
            published(key, (addr4(host.0), host.1), (addr4(container.0), container.1)).map(Change::V4)
        } else {
            published(key, (addr6(host.0), host.1), (addr6(container.0), container.1)).map(Change::V6)
        };
        self.apply(&changes);
    }
}

impl Drop for ProgramWorld {
    fn drop(&mut self) {
        let errors = datapath::teardown(&self.pin_dir).errors;
        if !std::thread::panicking() {
            assert!(errors.is_empty(), "remove the pins: {errors:?}");
        }
    }
}

fn published<A: Address>(
    (proto, number, extent): (u8, u32, Extent),
    host: (A, u16),
    container: (A, u16),
) -> [FamilyChange<A>; 2] {
    let key = match extent {
        Extent::Port => PortKey::new,
        Extent::Block => PortKey::block,
    };
    [
        FamilyChange::PutPublished(key(host.0, host.1, proto), PortTarget::new(number, number, container.1, 0, 10)),
        FamilyChange::PutSource(key(container.0, container.1, proto), PortSource::new(host.0, host.1, 0, 10)),
    ]
}

/// The network of all containers, behind the interface `up0`, which is external as well.
fn network() -> Vec<Change> {
    let uplink = uplink();
    let mut network = Network::EMPTY;
    network.flags = network_flag::EXISTS | network_flag::ICC | network_flag::MASQUERADE4 | network_flag::MASQUERADE6;
    network.ifindex = uplink;
    network.mtu = 1500;
    network.counter = 1;
    (network.prefix4, network.mask4) = (Addr4([172, 17, 0, 0]), Addr4([255, 255, 0, 0]));
    network.prefix6 = Addr6([0xfd, 0, 0, 0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    network.mask6 = Addr6([255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
    let external = External { addr4: addr4(HOST4), addr6: addr6(HOST6), ..External::default() };
    vec![
        Change::PutNetwork(1, network),
        Change::V4(FamilyChange::PutPrefix((network.prefix4, 16), 1)),
        Change::V6(FamilyChange::PutPrefix((network.prefix6, 64), 1)),
        Change::PutExternal(LOOPBACK, external),
        Change::PutExternal(uplink, external),
    ]
}

fn uplink() -> u32 {
    nix::net::if_::if_nametoindex("up0").expect("find up0")
}

fn endpoint(number: u32, inhabitant: &Inhabitant) -> [Change; 4] {
    let mut endpoint = Endpoint::EMPTY;
    endpoint.generation = number;
    endpoint.ifindex = LOOPBACK;
    endpoint.network = 1;
    endpoint.gateway_ifindex = uplink();
    endpoint.gateway_mac = BRIDGE_MAC;
    endpoint.counter = 1 + 2 * number;
    (endpoint.addr4, endpoint.addr6) = (addr4(inhabitant.addr4), addr6(inhabitant.addr6));
    (endpoint.mac, endpoint.flags) = (inhabitant.mac, inhabitant.flags);
    [
        Change::PutEndpoint(number, endpoint),
        Change::V4(FamilyChange::PutAddress(endpoint.addr4, number)),
        Change::V6(FamilyChange::PutAddress(endpoint.addr6, number)),
        Change::V6(FamilyChange::PutAddress(link_local(&endpoint.mac), number)),
    ]
}

pub fn addr4(addr: IpAddr) -> Addr4 {
    let IpAddr::V4(addr) = addr else { panic!("{addr} is no IPv4 address") };
    addr.into()
}

pub fn addr6(addr: IpAddr) -> Addr6 {
    let IpAddr::V6(addr) = addr else { panic!("{addr} is no IPv6 address") };
    addr.into()
}

/// Enters a namespace for networks, which forwards and has a route to the client, since programs look routes up, and one
/// for mounts. With a BPF file system in the latter, what is pinned goes when this
/// process does, however it ends.
fn enter_namespace() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces of its own (run as root)");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("keep mounts to itself");
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).expect("mount a BPF file system");
    for command in [
        "link set lo up",
        "link add up0 type veth peer name peer0",
        &format!("addr add {HOST4}/24 dev up0"),
        &format!("addr add {HOST6}/64 dev up0 nodad"),
        "link set up0 up",
        "link set peer0 up",
    ] {
        program::ip(command.split(' '));
    }
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let path = format!("/proc/sys/net/{switch}");
        std::fs::write(&path, "1").unwrap_or_else(|e| panic!("write 1 to {path}: {e}"));
    }
}
