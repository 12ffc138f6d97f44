//! The loaded programs and the worlds on the host that say the same: one configuration, written into both.

use std::thread::sleep;
use std::time::{Duration, Instant};

use netpath_agent::datapath::Sizes;
use netpath_agent::reconcile::{Change, FamilyChange};
use netpath_agent::xdp::Mode;
use netpath_common::{
    Addr4, Addr6, Config, Endpoint, External, Network, Timeouts, config_flag, endpoint_flag, network_flag, proto,
    seconds,
};
use netpath_ebpf::env::Route;
use netpath_ebpf::family::{Family as _, V4, V6};
use netpath_tests::program;
use netpath_tests::program_world::ProgramWorld;
use nix::time::{ClockId, clock_gettime};

use crate::fragments::Store;
use crate::hooks::Hooks;
use crate::place::Ground;
use crate::random::Random;
use crate::world::{Place as _, World};
use crate::{place4, place6};

/// The interface that test runs see.
pub(crate) const LOOPBACK: u32 = 1;
/// Entries of the table of flows: so many that it is never full, for which one the kernel refuses then is its own affair.
const MAX_FLOWS: u32 = 65_536;
/// No flow of a run is ever silent for so long. Less than half of what the clock of the flow tables counts to.
const NEVER_S: u32 = 1 << 24;

/// Programs, and what they must do.
pub(crate) struct Pair {
    pub(crate) programs: ProgramWorld,
    pub(crate) v4: Hooks<V4>,
    pub(crate) v6: Hooks<V6>,
}

impl Pair {
    /// Moves this thread into a network namespace of its own. `name` is that of the pins' directory.
    pub(crate) fn new(name: &str) -> Self {
        let sizes = Sizes { max_flows: MAX_FLOWS, max_ports: 1024, max_endpoints: 8, max_counters: 128 };
        let mut programs = ProgramWorld::new(name, sizes, &[]);
        programs.datapath.load_xdp(Mode::Native).unwrap_or_else(|e| panic!("{e:#}"));
        let [bridge, second_bridge] = links();
        let uplink = program_index("up0");
        let mut v4 = World::<V4>::with_flows(MAX_FLOWS);
        let mut v6 = World::<V6>::with_flows(MAX_FLOWS);
        v4.route = Route::To { ifindex: uplink, next_hop: place4::CLIENT };
        v6.route = Route::To { ifindex: uplink, next_hop: place6::CLIENT };
        v4.is_local = is_local4;
        v6.is_local = is_local6;
        (v4.uplinks, v6.uplinks) = (vec![LOOPBACK, uplink], vec![LOOPBACK, uplink]);
        let external = External { addr4: place4::HOST, addr6: place6::HOST, ..External::default() };
        (v4.external, v6.external) = (external, external);
        (v4.network, v4.second) =
            (merged(v4.network, &v6.network, bridge), merged(v4.second, &v6.second, second_bridge));
        (v6.network, v6.second) = (v4.network, v4.second);
        for n in 1..=5 {
            v4.endpoints[n] = endpoint(v4.endpoints[n], &v6.endpoints[n], n);
            v4.endpoints[n].gateway_ifindex = if n < 4 { bridge } else { second_bridge };
        }
        v6.endpoints.clone_from(&v4.endpoints);
        let store = Store::new();
        let v4 = Hooks::new(v4, LOOPBACK, store.clone());
        let mut pair = Self { programs, v4, v6: Hooks::new(v6, LOOPBACK, store) };
        pair.write_what_stays(uplink, external);
        pair.configure(config_flag::SHORTCUTS);
        pair.write();
        pair
    }

    fn write_what_stays(&mut self, uplink: u32, external: External) {
        let (prefix4, prefix6) = (Addr4([172, 16, 0, 0]), Addr6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        self.programs.apply(&[
            Change::V4(FamilyChange::PutPrefix((prefix4, 12), 0)),
            Change::V6(FamilyChange::PutPrefix((prefix6, 24), 0)),
            Change::PutExternal(LOOPBACK, external),
            Change::PutExternal(uplink, external),
            Change::PutGateway(self.v4.world.network.ifindex, 0),
            Change::PutGateway(self.v4.world.second.ifindex, 1),
            // Test runs of what is on the second network's bridge are here, too.
            Change::PutGateway(LOOPBACK, 1),
        ]);
        for (n, endpoint) in (1..).zip(&self.v4.world.endpoints[1..]) {
            self.programs.apply(&[
                Change::V4(FamilyChange::PutAddress(endpoint.addr4, n)),
                Change::V6(FamilyChange::PutAddress(endpoint.addr6, n)),
            ]);
            let link_addr = V6::link_addr(endpoint).expect("a link-local address");
            self.programs.apply(&[Change::V6(FamilyChange::PutAddress(link_addr, n))]);
        }
    }

    /// Sets `config_flag`s.
    pub(crate) fn configure(&mut self, flags: u32) {
        let never = NEVER_S;
        let timeouts =
            Timeouts { udp_unreplied: never, udp: never, tcp: never, tcp_transitory: never, icmp: never, _pad: 0 };
        let config = Config { flags, timeouts, ..self.programs.datapath.config() };
        self.programs.datapath.set_config(config).unwrap_or_else(|e| panic!("{e:#}"));
        (self.v4.world.config, self.v6.world.config) = (config, config);
    }

    /// Writes networks, endpoints and published ports as the worlds have them.
    fn write(&mut self) {
        let world = &self.v4.world;
        let mut changes = vec![Change::PutNetwork(0, world.network), Change::PutNetwork(1, world.second)];
        changes.extend((1..).zip(&world.endpoints[1..]).map(|(n, endpoint)| Change::PutEndpoint(n, *endpoint)));
        for (protocol, host_port, n, port) in [
            (proto::TCP, 8080, 1, 80),
            (proto::UDP, 5353, 1, 53),
            (proto::UDP, 8080, 2, 5353),
            (proto::TCP, 8084, 4, 80),
            (proto::SCTP, 9000, 2, 9000),
        ] {
            self.v4.world.publish(protocol, host_port, n, port);
            self.v6.world.publish(protocol, host_port, n, port);
        }
        changes.extend(ports(&self.v4.world).map(Change::V4));
        changes.extend(ports(&self.v6.world).map(Change::V6));
        self.programs.apply(&changes);
    }

    /// Changes what may change while packets come: settings, what networks are for, and who is there.
    pub(crate) fn change(&mut self, random: &mut Random) {
        self.configure(if random.below(3) == 0 { 0 } else { config_flag::SHORTCUTS });
        let base = network_flag::EXISTS | V4::MASQUERADE | V6::MASQUERADE;
        let modes = [
            0,
            0,
            V4::ROUTED | V6::ROUTED,
            V4::UNPROTECTED | V6::UNPROTECTED,
            network_flag::INTERNAL,
            V4::ROUTED | V6::UNPROTECTED,
        ];
        let icc = |random: &mut Random| if random.below(4) == 0 { 0 } else { network_flag::ICC };
        let road = |random: &mut Random| if random.below(4) == 0 { network_flag::NO_SHORTCUTS } else { 0 };
        let first = base | icc(random) | road(random);
        let second = base | icc(random) | road(random) | modes[random.below(modes.len())];
        let replaced = random.below(12) as u8;
        for world in [&mut self.v4.world.network, &mut self.v6.world.network] {
            world.flags = first;
        }
        for world in [&mut self.v4.world.second, &mut self.v6.world.second] {
            world.flags = second;
        }
        if (1..=5).contains(&replaced) {
            self.v4.world.replace(replaced);
            self.v6.world.replace(replaced);
        }
        self.write();
    }

    /// Sets the worlds' clocks to the kernel's. The programs' one ticks a hundred times a second or more often: where it
    /// might show another second, that is waited for.
    pub(crate) fn tell_time(&self) {
        const TICK: Duration = Duration::from_millis(20);
        let second = |at: Duration| seconds(at.as_nanos() as u64);
        loop {
            let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("read the clock").into();
            let now_s = second(now);
            if second(now - TICK) == now_s && second(now + TICK / 2) == now_s {
                self.v4.world.now_s.set(now_s);
                self.v6.world.now_s.set(now_s);
                return;
            }
            sleep(TICK / 10);
        }
    }
}

fn ports<F: Ground>(world: &World<F>) -> impl Iterator<Item = FamilyChange<F::Addr>> {
    let published = world.published.iter().map(|(key, target)| FamilyChange::PutPublished(*key, *target));
    let sources = world.sources.iter().map(|(key, source)| FamilyChange::PutSource(*key, *source));
    published.chain(sources)
}

/// Both families' part of a network, behind the interface with this index.
fn merged(v4: Network, v6: &Network, ifindex: u32) -> Network {
    let mut network = v4;
    network.flags |= v6.flags;
    (network.prefix6, network.mask6, network.ifindex) = (v6.prefix6, v6.mask6, ifindex);
    network
}

fn endpoint(v4: Endpoint, v6: &Endpoint, n: usize) -> Endpoint {
    let flags = if n == 2 { 0 } else { endpoint_flag::XDP };
    Endpoint { addr6: v6.addr6, ifindex: LOOPBACK, flags, ..v4 }
}

fn program_index(name: &str) -> u32 {
    let line = program::ip(["-o", "link", "show", "dev", name]);
    let index = line.split(':').next().and_then(|number| number.trim().parse().ok());
    index.unwrap_or_else(|| panic!("find the index of {name} in `{line}`"))
}

/// Makes the bridges' places, with the addresses that the worlds give them, and a way to everywhere else; the
/// interfaces' indexes.
fn links() -> [u32; 2] {
    for command in [
        "link add br0 type veth peer name brp0".to_owned(),
        "link add br1 type veth peer name brp1".to_owned(),
        "addr add 172.17.0.1/16 dev br0".to_owned(),
        "addr add 172.19.0.1/16 dev br1".to_owned(),
        "addr add fd00:17::1/64 dev br0 nodad".to_owned(),
        "addr add fd00:19::1/64 dev br1 nodad".to_owned(),
        "addr add 198.18.0.9/32 dev up0".to_owned(),
        "addr add 2001:db8:9::9/128 dev up0 nodad".to_owned(),
        "link set br0 up".to_owned(),
        "link set br1 up".to_owned(),
        "link set brp0 up".to_owned(),
        "link set brp1 up".to_owned(),
        "route add default via 198.18.0.2 dev up0".to_owned(),
        "-6 route add default via 2001:db8::2 dev up0".to_owned(),
    ] {
        program::ip(command.split(' '));
    }
    wait_for_local_addresses();
    ["br0", "br1"].map(program_index)
}

/// The kernel takes IPv6 addresses for its own only a moment after they were given to an interface.
fn wait_for_local_addresses() {
    const ADDRS: [&str; 4] = ["fd00:17::1", "fd00:19::1", "2001:db8::1", "2001:db8:9::9"];
    const GROUPS: [&str; 3] = ["fd00:17::", "fd00:19::", "2001:db8::"];
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let routes = program::ip(["-6", "route", "show", "table", "local"]);
        let has = |kind: &str, addr: &str| routes.lines().any(|line| line.starts_with(&format!("{kind} {addr} ")));
        if ADDRS.iter().all(|addr| has("local", addr)) && GROUPS.iter().all(|addr| has("anycast", addr)) {
            return;
        }
        assert!(Instant::now() < deadline, "no local routes after 10 s: {routes}");
        sleep(Duration::from_millis(10));
    }
}

/// Addresses that the kernel keeps to itself besides those that are in the list of the tests: of broadcasts.
fn is_local4(addr: &Addr4) -> bool {
    const BROADCASTS: [Addr4; 3] = [Addr4([198, 18, 0, 255]), Addr4([172, 17, 255, 255]), Addr4([172, 19, 255, 255])];
    V4::LOCAL.contains(addr) || V4::is_loopback(addr) || BROADCASTS.contains(addr)
}

/// And of the routers' anycast groups (RFC 4291, 2.6.1).
fn is_local6(addr: &Addr6) -> bool {
    let prefixes = [place6::HOST, place6::GATEWAY, place6::SECOND_GATEWAY];
    V6::LOCAL.contains(addr) || prefixes.iter().any(|one| one.0[..8] == addr.0[..8] && addr.0[8..] == [0; 8])
}
