//! A world whose endpoints are packet sockets: two containers behind the translator and a server outside, none of whose
//! kernels says a word of its own.
//!
//! Nothing waits for what does not come. After each stimulus every station sends a marker on roads that are known to work;
//! all of it is handled on one CPU, in order, so what has not arrived before the markers never will.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use netpath_tests::frames::FrameSocket;
use netpath_tests::packets::Packet;
use netpath_tests::sockets::{PATIENCE, at};
use netpath_tests::{Container, Family, Namespace, Options, World, program};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::record::{Met, Road};

/// Who sends and hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Station {
    /// The container `app`.
    App,
    /// Its neighbour on the same bridge.
    Other,
    /// The machine outside, with two addresses.
    Server,
}

/// What a testbed is made with.
pub(crate) struct Setup {
    pub(crate) options: Options,
    /// The kernels of the stations neither hear nor say anything: all packets are the test's.
    pub(crate) is_muted: bool,
}

/// The ports that every testbed publishes: `app` and its neighbour, TCP and UDP.
pub(crate) const WEB: u16 = 8080;
pub(crate) const WEB_INSIDE: u16 = 80;
pub(crate) const DNS: u16 = 5353;
pub(crate) const DNS_INSIDE: u16 = 53;
pub(crate) const OTHER_WEB: u16 = 8081;
pub(crate) const OTHER_DNS: u16 = 5354;

/// Markers come from and go to these ports, published for the purpose.
const APP_MARK: u16 = 9;
const OTHER_MARK: u16 = 10;

pub(crate) struct Testbed {
    pub(crate) road: Road,
    pub(crate) world: World,
    pub(crate) app: Container,
    pub(crate) other: Container,
    /// Of the row that is being checked.
    pub(crate) family: Family,
    sockets: BTreeMap<Station, (FrameSocket, [u8; 6])>,
    marks: u32,
}

/// Which way a marker goes.
#[derive(Clone, Copy)]
enum Direction {
    Out,
    In,
}

/// What arrived where.
#[derive(Debug, Default)]
pub(crate) struct Heard(BTreeMap<Station, Vec<Vec<u8>>>);

impl Setup {
    pub(crate) fn muted() -> Self {
        Self { options: Options { ipv6: true, ..Options::default() }, is_muted: true }
    }

    /// Stations with their kernels, for what sockets do.
    pub(crate) fn with_sockets() -> Self {
        Self { is_muted: false, ..Self::muted() }
    }

    /// Nobody looks for containers' addresses outside: the test itself puts them there.
    pub(crate) fn unwatched() -> Self {
        let mut setup = Self::muted();
        setup.options.watch = false;
        setup
    }

    /// With more options for `netpath agent`.
    pub(crate) fn agent(options: &str) -> Self {
        Self { options: Options { ipv6: true, ..Options::agent(options) }, is_muted: true }
    }
}

impl Testbed {
    pub(crate) fn new(road: Road, mut setup: Setup) -> Self {
        let plane = road.plane();
        if road == Road::Xdp {
            setup.options.agent.extend(["--xdp", "force-native"].map(str::to_owned));
        }
        let world = World::with(plane, setup.options);
        let publish = |ports: [(u16, u16, &str); 3]| ports.map(|(host, port, proto)| format!("{host}:{port}/{proto}"));
        let of_app = publish([(WEB, WEB_INSIDE, "tcp"), (DNS, DNS_INSIDE, "udp"), (APP_MARK, APP_MARK, "udp")]);
        let of_other =
            publish([(OTHER_WEB, WEB_INSIDE, "tcp"), (OTHER_DNS, DNS_INSIDE, "udp"), (OTHER_MARK, OTHER_MARK, "udp")]);
        let app = world.container("app", &of_app.each_ref().map(String::as_str));
        let other = world.container("other", &of_other.each_ref().map(String::as_str));
        let bridge = if plane.is_netpath() { "netpath0" } else { "docker0" };
        let mut sockets = BTreeMap::new();
        let stations =
            [(Station::App, &*app.inside), (Station::Other, &other.inside), (Station::Server, &world.client)];
        for (station, inside) in stations {
            let towards = if station == Station::Server { "up0" } else { bridge };
            if setup.is_muted {
                mute(inside);
            }
            let socket = FrameSocket::new(inside, "eth0");
            socket.ignore_outgoing();
            sockets.insert(station, (socket, world.host.mac(towards)));
        }
        let mut bed = Self { road, world, app, other, family: Family::V4, sockets, marks: 0 };
        if setup.is_muted {
            bed.name_neighbours(bridge);
            stay_on_one_cpu();
            bed.exchange(Station::App, Vec::new());
        }
        bed
    }

    /// Runs `check` for `family`.
    pub(crate) fn check(&mut self, family: Family, check: fn(&mut Self) -> Met) -> Met {
        self.family = family;
        check(self)
    }

    pub(crate) fn is_netpath(&self) -> bool {
        self.world.plane.is_netpath()
    }

    /// The translator's address outside.
    pub(crate) fn host(&self) -> IpAddr {
        self.family.host()
    }

    pub(crate) fn server(&self) -> IpAddr {
        self.family.client()
    }

    pub(crate) fn second_server(&self) -> IpAddr {
        self.family.second_client()
    }

    /// A router somewhere outside: whoever reports an error.
    pub(crate) fn router(&self) -> IpAddr {
        self.family.wire(0, 77)
    }

    /// The address of a station.
    pub(crate) fn address(&self, station: Station) -> IpAddr {
        match station {
            Station::App => self.app.ip(self.family),
            Station::Other => self.other.ip(self.family),
            Station::Server => self.server(),
        }
    }

    /// A station's address with a port.
    pub(crate) fn end(&self, station: Station, port: u16) -> SocketAddr {
        at(self.address(station), port)
    }

    /// The translator's address with a port.
    pub(crate) fn host_end(&self, port: u16) -> SocketAddr {
        at(self.host(), port)
    }

    /// Sends a packet and returns all that came of it.
    pub(crate) fn send(&mut self, from: Station, packet: &Packet) -> Heard {
        self.send_bytes(from, &[packet.bytes()])
    }

    /// Sends packets one after the other and returns all that came of them.
    pub(crate) fn send_all(&mut self, from: Station, packets: &[Packet]) -> Heard {
        let packets: Vec<_> = packets.iter().map(Packet::bytes).collect();
        self.send_bytes(from, &packets)
    }

    /// The same with IP packets as bytes.
    pub(crate) fn send_bytes(&mut self, from: Station, packets: &[Vec<u8>]) -> Heard {
        self.exchange(from, packets.to_vec())
    }

    /// The addresses in front of an EtherType: from `station` to its next hop.
    pub(crate) fn macs(&self, station: Station) -> Vec<u8> {
        let (socket, next_hop) = &self.sockets[&station];
        [&next_hop[..], &socket.mac()].concat()
    }

    /// Sends a whole frame.
    pub(crate) fn send_frame(&mut self, from: Station, frame: &[u8]) -> Heard {
        self.sockets[&from].0.send_frame(frame);
        self.exchange(from, Vec::new())
    }

    /// A datagram from `station` to `to`; the packet as the server saw it, under the translator's address.
    pub(crate) fn udp_out(&mut self, station: Station, port: u16, to: SocketAddr) -> Result<Packet, String> {
        self.out(station, &Packet::udp(self.end(station, port), to, b"question"))
    }

    /// Sends a packet out; what the server saw of it, under the translator's address.
    pub(crate) fn out(&mut self, station: Station, packet: &Packet) -> Result<Packet, String> {
        let seen = self.send(station, packet).one(Station::Server)?;
        if seen.src == self.host() { Ok(seen) } else { Err("it leaves under the container's own address".to_owned()) }
    }

    /// A datagram from `from`, somewhere at the server, to `to`; the packet as `station` heard it.
    pub(crate) fn udp_in(&mut self, from: SocketAddr, to: SocketAddr, station: Station) -> Result<Packet, String> {
        self.send(Station::Server, &Packet::udp(from, to, b"answer")).one(station)
    }

    fn exchange(&mut self, from: Station, packets: Vec<Vec<u8>>) -> Heard {
        for packet in &packets {
            let (socket, next_hop) = &self.sockets[&from];
            socket.send_packet(*next_hop, packet);
        }
        let mut heard = Heard::default();
        // What comes back of what the server sent may be behind the first markers on their way to it.
        self.mark(&mut heard, Direction::Out);
        self.mark(&mut heard, Direction::In);
        self.mark(&mut heard, Direction::Out);
        heard
    }

    /// Sends a marker from, or to, each container, and hears what arrives before it.
    fn mark(&mut self, heard: &mut Heard, direction: Direction) {
        self.marks += 1;
        let payload = format!("mark {}", self.marks).into_bytes();
        let [host, server] = [Family::V4.host(), Family::V4.client()];
        let containers = [(Station::App, self.app.address, APP_MARK), (Station::Other, self.other.address, OTHER_MARK)];
        for (station, address, port) in containers {
            if !self.sockets.contains_key(&station) {
                continue;
            }
            let (from, to, packet) = match direction {
                Direction::Out => {
                    (station, Station::Server, Packet::udp(at(address, port), at(server, port), &payload))
                }
                Direction::In => (Station::Server, station, Packet::udp(at(server, port), at(host, port), &payload)),
            };
            self.put(from, &packet);
            let socket = &mut self.sockets.get_mut(&to).expect("a station that is there").0;
            let is_last = |frame: &[u8]| is_mark(frame, port, Some(&payload));
            let frames = socket.until(is_last, PATIENCE).unwrap_or_else(|| panic!("no marker reached {to:?}"));
            heard.0.entry(to).or_default().extend(frames.into_iter().filter(|frame| is_of_interest(frame)));
        }
    }

    /// A container that is there no more sends and hears nothing.
    pub(crate) fn forget(&mut self, station: Station) {
        self.sockets.remove(&station);
    }

    fn put(&self, from: Station, packet: &Packet) {
        let (socket, next_hop) = &self.sockets[&from];
        socket.send_packet(*next_hop, &packet.bytes());
    }

    /// The host knows where everybody is, since nobody answers when asked.
    fn name_neighbours(&self, bridge: &str) {
        let server = self.world.client.mac("eth0");
        for family in Family::BOTH {
            let outside = [family.client(), family.second_client(), family.wire(0, 77)].map(|a| (a, "up0", server));
            let inside = [&self.app, &self.other].map(|c| (c.ip(family), bridge, c.inside.mac("eth0")));
            for (address, ifname, mac) in outside.into_iter().chain(inside) {
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                self.world.host.ip(&format!("neigh replace {address} lladdr {mac} dev {ifname} nud permanent"));
            }
        }
    }
}

impl Heard {
    /// The frames that `station` heard.
    pub(crate) fn frames(&self, station: Station) -> &[Vec<u8>] {
        self.0.get(&station).map(Vec::as_slice).unwrap_or_default()
    }

    /// The packets that `station` heard.
    pub(crate) fn at(&self, station: Station) -> Vec<Packet> {
        self.frames(station).iter().filter_map(|frame| Packet::of_frame(frame)).collect()
    }

    /// The one packet that `station` heard, with good checksums.
    pub(crate) fn one(&self, station: Station) -> Result<Packet, String> {
        let mut packets = self.at(station);
        match (packets.pop(), packets.len()) {
            (None, _) => Err(format!("nothing reached {}", station.name())),
            (Some(packet), 0) => match packet.wrong_checksum().filter(|_| !packet.is_fragment()) {
                Some(what) => Err(format!("wrong {what} at {}", station.name())),
                None => Ok(packet),
            },
            (Some(_), more) => Err(format!("{} packets reached {}", more + 1, station.name())),
        }
    }

    /// Nothing at all reached `station`.
    pub(crate) fn nothing(&self, station: Station) -> Met {
        if self.frames(station).is_empty() { Ok(()) } else { Err(format!("a packet reached {}", station.name())) }
    }
}

impl Station {
    fn name(self) -> &'static str {
        match self {
            Self::App => "the container",
            Self::Other => "the other container",
            Self::Server => "the server",
        }
    }
}

/// `Err` with what was seen instead, unless it `is` as it should be.
pub(crate) fn require(is: bool, otherwise: &str) -> Met {
    if is { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// Whatever a kernel would say or believe stays unsaid and unheard; packet sockets are not asked.
fn mute(namespace: &Namespace) {
    for command in ["iptables-restore", "ip6tables-restore"] {
        program::feed(&mut namespace.command(command), "*filter\n:INPUT DROP\n:FORWARD DROP\n:OUTPUT DROP\nCOMMIT\n");
    }
}

/// What this thread sends is handled where it is sent, so that packets keep their order.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    let current = nix::sched::sched_getcpu().expect("the number of this CPU");
    cpus.set(current).expect("a CPU that can be chosen");
    sched_setaffinity(Pid::from_raw(0), &cpus).expect("stay on this CPU");
}

/// Whether a frame is a marker, and the one with `payload` if that is given.
fn is_mark(frame: &[u8], port: u16, payload: Option<&[u8]>) -> bool {
    let Some(packet) = Packet::of_frame(frame) else { return false };
    packet.proto == netpath_tests::packets::UDP
        && packet.ports() == (port, port)
        && payload.is_none_or(|payload| packet.payload() == payload)
}

/// Neither a marker nor what kernels tell each other about themselves: ARP, neighbour discovery, group membership.
fn is_of_interest(frame: &[u8]) -> bool {
    const ARP: [u8; 2] = [0x08, 0x06];
    let is_chatter =
        frame.get(12..14) == Some(&ARP) || Packet::of_frame(frame).is_some_and(|packet| is_chatter(&packet));
    !is_chatter && ![APP_MARK, OTHER_MARK].iter().any(|port| is_mark(frame, *port, None))
}

fn is_chatter(packet: &Packet) -> bool {
    const IGMP: u8 = 2;
    let is_about_the_link = matches!(packet.kind(), Some((130..=137 | 143, _))) && packet.src.is_ipv6();
    let IpAddr::V6(src) = packet.src else { return packet.proto == IGMP };
    is_about_the_link && (src.is_unicast_link_local() || src.is_unspecified() || packet.dst.is_multicast())
}
