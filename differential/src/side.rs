//! One of the two worlds: a data plane, and a packet socket at each of its ends, where nobody else speaks.

use std::collections::HashMap;
use std::net::SocketAddr;

use netpath_model::{Flow, Name, Place, Port, Proto};
use netpath_tests::frames::FrameSocket;
use netpath_tests::{Container, Family, Options, Plane, World};

use crate::conntrack::Conntrack;
use crate::layout::{self, CONTAINERS, Layout, MASQUERADE_PORTS, at};
use crate::quiet::{know, mute, quieten, stop_offloads, tap};
use crate::seen::Seen;
use crate::step::{Sender, Stimulus, Via};
use crate::tables::Tables;
use crate::wire;

/// A world, and who is who in it.
pub struct Side {
    pub world: World,
    outside: FrameSocket,
    containers: Vec<Inhabitant>,
    host_mac: [u8; 6],
    bridge_mac: [u8; 6],
    memory: Memory,
    /// What each name stands for here.
    names: HashMap<Name, SocketAddr>,
    /// Names that stood for a port that another has now.
    lost: Vec<Name>,
    buffer: Vec<u8>,
    /// Containers that have been here before.
    gone: usize,
}

struct Inhabitant {
    container: Container,
    tap: FrameSocket,
}

/// What the data plane remembers of traffic.
enum Memory {
    Netpath(Box<Tables>),
    Netfilter(Conntrack),
}

impl Side {
    pub fn netpath(icc: bool) -> Self {
        let (first, last) = MASQUERADE_PORTS;
        let options = Options::agent(&format!("--max-flows 4096 --masquerade-ports {first}-{last}"));
        Self::new(Plane::Netpath { shortcuts: true }, Options { icc, ipv6: true, watch: false, ..options })
    }

    pub fn netfilter(icc: bool) -> Self {
        Self::new(Plane::Iptables { proxy: false }, Options { icc, ipv6: true, watch: false, ..Options::default() })
    }

    fn new(plane: Plane, options: Options) -> Self {
        let world = World::with(plane, options);
        let bridge = if plane.is_netpath() { "netpath0" } else { "docker0" };
        quieten(&world.host, plane.is_netpath());
        mute(&world.client);
        let outside = tap(&world.client);
        for family in Family::BOTH {
            for address in [family.client(), family.second_client()] {
                know(&world.host, address, outside.mac(), "up0");
            }
            world.host.ip(&format!("route add default via {}", family.client()));
        }
        let containers = (0..CONTAINERS).map(|number| {
            let specs: Vec<String> = own_ports(number).map(|port| layout::spec(&port)).collect();
            let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
            inhabit(world.container(&format!("c{number}"), &specs))
        });
        let containers: Vec<_> = containers.collect();
        // Not before they are all there: a bridge that gets another hardware address forgets whom it knew.
        containers.iter().for_each(|inhabitant| inhabitant.introduce(&world, bridge));
        let memory = if plane.is_netpath() {
            Memory::Netpath(Box::new(Tables::open(&world.instance().pin_dir.join("maps"))))
        } else {
            Memory::Netfilter(Conntrack::new(&world.host))
        };
        let (host_mac, bridge_mac) = (world.host.mac("up0"), world.host.mac(bridge));
        stop_offloads(&world.host);
        Self {
            outside,
            containers,
            host_mac,
            bridge_mac,
            memory,
            names: HashMap::new(),
            lost: Vec::new(),
            buffer: vec![0; 4096],
            gone: 0,
            world,
        }
    }

    pub fn is_netpath(&self) -> bool {
        matches!(self.memory, Memory::Netpath(_))
    }

    /// What `name` stands for. netpath has one for all whom the inside talks to; netfilter chooses for each.
    pub fn name(&self, name: &Name) -> Option<SocketAddr> {
        self.names.get(&self.key(name)).copied()
    }

    /// The same; an end where nothing is, if the name has never been used.
    pub fn resolve(&self, name: &Name) -> SocketAddr {
        let of_mapping = || self.names.iter().find(|(other, _)| other.is_same_mapping(name)).map(|(_, to)| *to);
        self.name(name).or_else(of_mapping).unwrap_or_else(|| at(name.host, layout::CLOSED_PORTS[0]))
    }

    pub fn bind(&mut self, name: &Name, to: SocketAddr) {
        self.names.insert(self.key(name), to);
    }

    /// Another name that stands for `to`.
    pub fn other_name(&self, name: &Name, to: SocketAddr) -> Option<Name> {
        let own = self.key(name);
        let is_other =
            |(other, bound): &(&Name, &SocketAddr)| **bound == to && **other != own && other.proto == own.proto;
        self.names.iter().find(is_other).map(|(other, _)| *other)
    }

    pub fn unbind(&mut self, name: &Name) {
        self.names.remove(name);
        self.lost.push(*name);
    }

    /// Whether `name` stood for a port that has become somebody else's.
    pub fn has_lost(&self, name: &Name) -> bool {
        self.lost.contains(&self.key(name))
    }

    fn key(&self, name: &Name) -> Name {
        if self.is_netpath() { Name { asked: at(name.host, 0), ..*name } } else { *name }
    }

    /// Whether a name stands for this port of the host.
    pub fn is_in_use(&self, port: &Port) -> bool {
        self.names.iter().any(|(name, to)| name.proto == port.proto && to.port() == port.host_port)
    }

    /// Sends `stimulus`.
    pub fn send(&self, stimulus: &Stimulus) {
        const NOBODYS: [u8; 6] = [2, 0xf0, 0, 0, 0, 0xf0];
        let tap = self.tap(stimulus.from);
        let dst_mac = match (stimulus.via, stimulus.from) {
            (Via::Neighbour(number), _) => self.containers[number].tap.mac(),
            (Via::Host, Place::Outside) => self.host_mac,
            (Via::Host, Place::Container(_)) => self.bridge_mac,
        };
        let src_mac = match stimulus.sender {
            Sender::Itself => tap.mac(),
            Sender::Neighbour(number) => self.containers[number].tap.mac(),
            Sender::Nobody => NOBODYS,
        };
        let packet = wire::bytes(&stimulus.packet, &|name| self.resolve(name));
        let ether_type = Family::of(stimulus.packet.src.addr()).pick([0x08, 0x00], [0x86, 0xdd]);
        let padding = vec![0xee; stimulus.padding];
        tap.send_frame(&[&dst_mac, &src_mac, &ether_type[..], &packet, &padding].concat());
    }

    /// The packets that have come out by now.
    pub fn seen(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let places = (0..CONTAINERS).map(Place::Container).chain([Place::Outside]);
        for place in places {
            let tap = match place {
                Place::Outside => &self.outside,
                Place::Container(number) => &self.containers[number].tap,
            };
            while let Some(length) = tap.next_seen(&mut self.buffer) {
                // What the bridge does not know it sends to all; the others look at the address and drop it.
                let is_for_it = [tap.mac(), self.host_mac].iter().any(|mac| self.buffer[..length].starts_with(mac));
                seen.extend(Seen::parse(place, &self.buffer[..length]).filter(|_| is_for_it));
            }
        }
        seen
    }

    /// Whether `seen` has the hardware addresses of a packet that is meant for whom it reached. What a shortcut takes
    /// straight into a container from outside keeps those that it came with.
    pub fn is_addressed(&self, seen: &Seen) -> bool {
        let wire = (self.host_mac, self.outside.mac());
        match seen.at {
            Place::Outside => (seen.src_mac, seen.dst_mac) == wire,
            Place::Container(number) => {
                let is_routed = seen.src_mac == self.bridge_mac && seen.dst_mac == self.containers[number].tap.mac();
                let is_short = self.is_netpath() && (seen.dst_mac, seen.src_mac) == wire;
                let is_neighbours = seen.dst_mac == self.containers[number].tap.mac()
                    && self.containers.iter().any(|other| other.tap.mac() == seen.src_mac);
                is_routed || is_short || is_neighbours
            }
        }
    }

    fn tap(&self, place: Place) -> &FrameSocket {
        match place {
            Place::Outside => &self.outside,
            Place::Container(number) => &self.containers[number].tap,
        }
    }

    /// Nothing has ever been sent.
    pub fn forget(&mut self) {
        self.names.clear();
        self.lost.clear();
        match &mut self.memory {
            Memory::Netpath(tables) => tables.forget(),
            Memory::Netfilter(conntrack) => conntrack.forget(),
        }
    }

    /// Time passes, after which `over` have expired. Netfilter's own clock is not what is compared: it is told.
    pub fn advance(&mut self, seconds: u32, over: &[Flow]) {
        match &mut self.memory {
            Memory::Netpath(tables) => tables.advance(seconds),
            Memory::Netfilter(_) => over.iter().for_each(|flow| {
                if let netpath_model::End::At(outside) = flow.outside {
                    self.cut(flow.proto, flow.inside, outside);
                }
            }),
        }
    }

    /// Deletes a connection of netfilter's; netpath's goes on.
    pub fn cut(&mut self, proto: Proto, from: SocketAddr, to: SocketAddr) {
        if let Memory::Netfilter(conntrack) = &mut self.memory {
            conntrack.delete(proto, from, to);
        }
    }

    /// All connections of netfilter's end; netpath's go on.
    pub fn cut_all(&mut self) {
        if let Memory::Netfilter(conntrack) = &mut self.memory {
            conntrack.forget();
        }
    }

    pub fn publish(&self, port: &Port) {
        self.world.publish(&self.containers[port.container].container, &layout::spec(port));
    }

    pub fn unpublish(&self, port: &Port) {
        self.world.unpublish(&self.containers[port.container].container, &layout::spec(port));
    }

    /// The container goes, and another one gets its address. To netfilter, which knows addresses only, that is one whose
    /// connections are deleted, as Docker does.
    pub fn replace(&mut self, number: usize) {
        if !self.is_netpath() {
            return self.cut_all();
        }
        self.gone += 1;
        let (old, name) = (self.containers[number].container.clone(), format!("c{number}-{}", self.gone));
        self.world.netpath_ok(&["detach", &old.name]);
        let inside = self.world.namespace(&name);
        let path = inside.path().display().to_string();
        let [address, address6] = Family::BOTH.map(|family| Layout::of(family).container(number));
        let (ip, ip6) = (address.to_string(), address6.to_string());
        let specs: Vec<String> = own_ports(number).map(|port| layout::spec(&port)).collect();
        let mut args = vec!["attach", &name, "--netns", &path, "--ip", &ip, "--ip6", &ip6];
        args.extend(specs.iter().flat_map(|spec| ["-p", spec]));
        self.world.netpath_ok(&args);
        let container = Container { name, address, address6: Some(address6), inside };
        self.containers[number] = inhabit(container);
        self.containers[number].introduce(&self.world, "netpath0");
        stop_offloads(&self.world.host);
    }

    /// netpath's agent ends and starts again.
    pub fn restart_agent(&self) {
        if self.is_netpath() {
            self.world.take_agent().stop();
            self.world.start_agent();
        }
    }
}

/// The ports that container `number` always publishes.
pub fn own_ports(number: usize) -> impl Iterator<Item = Port> {
    layout::PORTS.into_iter().filter(move |port| port.container == number)
}

/// Puts a socket at the container's end.
fn inhabit(container: Container) -> Inhabitant {
    mute(&container.inside);
    let tap = tap(&container.inside);
    Inhabitant { container, tap }
}

impl Inhabitant {
    /// Lets the host know it for ever.
    fn introduce(&self, world: &World, bridge: &str) {
        Family::BOTH.iter().for_each(|family| know(&world.host, self.container.ip(*family), self.tap.mac(), bridge));
    }
}
