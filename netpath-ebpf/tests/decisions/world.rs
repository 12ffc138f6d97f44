//! An `Env` in plain collections: a network with three containers, another one with two, an external interface.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;

use netpath_common::{
    Address, BLOCK_LEN, Config, Endpoint, External, Flow, Inside, LAYOUT, Link, LinkKey, Mapping, MappingKey, Network,
    PortKey, PortRange, PortSource, PortTarget, Reach, Reason, Share, Timeouts, TrustedKey, Tuple, config_flag,
    network_flag,
};
use netpath_ebpf::conntrack;
use netpath_ebpf::decision::Decision;
use netpath_ebpf::env::{Env, Refused, Route};
use netpath_ebpf::external;
use netpath_ebpf::family::Family;
use netpath_ebpf::flow_table::flow_lock;
use netpath_ebpf::icmp::{Inner, Translation};
use netpath_ebpf::inside;
use netpath_ebpf::mapping::Request;
use netpath_ebpf::packet::Packet;
use netpath_ebpf::policy::{self, Arrival, Step};
use netpath_ebpf::port_alloc::BUCKETS_OF_INSIDE;

use crate::frame::Frame;

pub(crate) const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];
pub(crate) const SECOND_BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
pub(crate) const NETWORK_COUNTER: u32 = 100;
pub(crate) const UPLINK: u32 = 2;
const BRIDGE: u32 = 3;
const SECOND_BRIDGE: u32 = 4;

type Cells<K, V> = RefCell<HashMap<K, Box<UnsafeCell<V>>>>;

/// A family, and where everybody is in it.
pub(crate) trait Place: Family<Addr: Hash + Debug> {
    /// The host's address at the external interface, and who else is there.
    const HOST: Self::Addr;
    const CLIENT: Self::Addr;

    /// Every address of the host that packets come to.
    const LOCAL: [Self::Addr; 5];

    /// Address of container number `n`, from 1; those from 4 are in the second network.
    fn container(n: u8) -> Self::Addr;
    /// Whether the address lies in a container network, be it one that the world does not have.
    fn is_inside(addr: &Self::Addr) -> bool;
    /// The address that the endpoint has on its link besides.
    fn link_addr(endpoint: &Endpoint) -> Option<Self::Addr>;
    /// Gives the network the subnet of container `n`.
    fn set_subnet(network: &mut Network, n: u8);
    fn set_addr(endpoint: &mut Endpoint, addr: Self::Addr);
    fn set_external(external: &mut External, addr: Self::Addr);
}

/// The world around the decisions.
pub(crate) struct World<F: Place> {
    pub(crate) config: Config,
    pub(crate) network: Network,
    /// That of the containers from 4.
    pub(crate) second: Network,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) external: External,
    pub(crate) published: HashMap<PortKey<F::Addr>, PortTarget>,
    pub(crate) sources: HashMap<PortKey<F::Addr>, PortSource<F::Addr>>,
    pub(crate) flows: Cells<Tuple<F::Addr>, Flow<F::Addr>>,
    pub(crate) mappings: Cells<MappingKey<F::Addr>, Mapping<F::Addr>>,
    pub(crate) replies: Cells<Tuple<F::Addr>, Inside<F::Addr>>,
    reaches: Vec<UnsafeCell<Reach>>,
    /// How often a mapping was looked up.
    pub(crate) mapping_look_ups: Cell<u32>,
    pub(crate) shares: Vec<UnsafeCell<Share>>,
    ring: Vec<UnsafeCell<Tuple<F::Addr>>>,
    hand: Cell<u32>,
    locks: RefCell<HashSet<u64>>,
    pub(crate) now_s: Cell<u32>,
    pub(crate) route: Route<F::Addr>,
    /// Whether only the kernel knows the way to an address: it is the host's own.
    pub(crate) is_local: fn(&F::Addr) -> bool,
    /// Interfaces that `external` describes.
    pub(crate) uplinks: Vec<u32>,
    /// Protocol and port of the host's own sockets.
    pub(crate) sockets: HashSet<(u8, u16)>,
    meanwhile: Cell<Option<Meanwhile<F>>>,
    before_mapping: Cell<Option<Meanwhile<F>>>,
    /// Set by a decision that has a flow made: the programs decide once more then.
    pub(crate) begun: Cell<bool>,
    /// Connections of the host, by the tuple of what arrives for them.
    pub(crate) connections: HashSet<Tuple<F::Addr>>,
    /// Bindings and the sources that they are open to.
    pub(crate) allowed: HashSet<(u32, F::Addr)>,
    pub(crate) links: HashMap<LinkKey, Link>,
    pub(crate) trusted: BTreeSet<TrustedKey>,
}

/// What another CPU does.
type Meanwhile<F> = Box<dyn FnOnce(&World<F>)>;

pub(crate) fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// Host end of container `n`'s veth.
pub(crate) fn veth(n: u8) -> u32 {
    10 + u32::from(n)
}

impl<F: Place> World<F> {
    pub(crate) fn new() -> Self {
        Self::with_flows(64)
    }

    pub(crate) fn with_flows(max_flows: u32) -> Self {
        let mut network = Network::EMPTY;
        network.flags = network_flag::EXISTS | network_flag::ICC | F::MASQUERADE;
        network.ifindex = BRIDGE;
        network.mtu = 1500;
        network.counter = NETWORK_COUNTER;
        F::set_subnet(&mut network, 1);
        let mut second = network;
        second.ifindex = SECOND_BRIDGE;
        F::set_subnet(&mut second, 4);
        let endpoints = (0..=5).map(|n| if n == 0 { Endpoint::EMPTY } else { endpoint::<F>(n) }).collect();
        let mut external = External::default();
        F::set_external(&mut external, F::HOST);
        Self {
            config: Config {
                layout: LAYOUT,
                hash_key: 0x0123_4567_89ab_cdef,
                netns_cookie: 0,
                flags: config_flag::SHORTCUTS,
                max_flows,
                timeouts: Timeouts::default(),
                ports: PortRange { first: 1024, last: 32767 },
                privileged_ports: PortRange { first: 600, last: 1023 },
                primary_ifindex: 0,
                primary: External::default(),
            },
            network,
            second,
            endpoints,
            external,
            published: HashMap::new(),
            sources: HashMap::new(),
            flows: RefCell::default(),
            mappings: RefCell::default(),
            replies: RefCell::default(),
            reaches: (0..BUCKETS_OF_INSIDE).map(|_| UnsafeCell::default()).collect(),
            mapping_look_ups: Cell::new(0),
            shares: (0..=5).map(|_| UnsafeCell::default()).collect(),
            ring: (0..max_flows).map(|_| UnsafeCell::new(nobody::<F>())).collect(),
            hand: Cell::new(0),
            locks: RefCell::default(),
            now_s: Cell::new(1000),
            route: Route::To { ifindex: UPLINK, next_hop: F::CLIENT },
            is_local: |addr| F::LOCAL.contains(addr),
            uplinks: vec![UPLINK],
            sockets: HashSet::new(),
            meanwhile: Cell::new(None),
            before_mapping: Cell::new(None),
            begun: Cell::new(false),
            connections: HashSet::new(),
            allowed: HashSet::new(),
            links: HashMap::new(),
            trusted: BTreeSet::new(),
        }
    }

    /// Publishes `port` of container `n` at the host's `host_port`.
    pub(crate) fn publish(&mut self, protocol: u8, host_port: u16, n: u8, port: u16) {
        let target = PortTarget::new(u32::from(n), self.endpoints[usize::from(n)].generation, port, 0, 0);
        self.published.insert(PortKey::new(F::HOST, host_port, protocol), target);
        self.sources.insert(PortKey::new(F::container(n), port, protocol), PortSource::new(F::HOST, host_port, 0, 0));
    }

    /// Another container takes the place and the address of container `n`.
    pub(crate) fn replace(&mut self, n: u8) {
        self.endpoints[usize::from(n)].generation += 100;
        // As the agent does: the share of one that has just come is empty.
        self.shares[usize::from(n)] = UnsafeCell::default();
    }

    pub(crate) fn wait(&self, seconds: u32) {
        self.now_s.set(self.now_s.get() + seconds);
    }

    /// A frame from container `n`, addressed to the bridge.
    pub(crate) fn send(&self, n: u8, frame: &Frame) -> Result<Decision<F>, Reason> {
        self.send_to(n, if n < 4 { BRIDGE_MAC } else { SECOND_BRIDGE_MAC }, frame)
    }

    pub(crate) fn send_to(&self, n: u8, dst_mac: [u8; 6], frame: &Frame) -> Result<Decision<F>, Reason> {
        let arrival = Arrival { ifindex: veth(n), src_mac: mac(n), dst_mac };
        let packet = Packet::parse(frame, 14)?;
        let sender = policy::sender::<F, _>(self, &packet.tuple.src_addr, &arrival)?;
        match policy::from_container(self, &self.config, &packet, &arrival, &sender)? {
            Step::Done(decision) => Ok(decision),
            Step::Inside => inside::from_container(self, &self.config, &packet, &arrival, &sender),
        }
    }

    /// An ICMP error from container `n`, addressed to the bridge.
    pub(crate) fn complain(&self, n: u8, frame: &Frame) -> Result<Option<Translation<F>>, Reason> {
        let dst_mac = if n < 4 { BRIDGE_MAC } else { SECOND_BRIDGE_MAC };
        let arrival = Arrival { ifindex: veth(n), src_mac: mac(n), dst_mac };
        let packet = Packet::parse(frame, 14)?;
        let inner = Inner::parse(frame, 14, &packet).ok();
        let sender = policy::sender::<F, _>(self, &packet.tuple.src_addr, &arrival)?;
        inside::error_from_container(self, &self.config, &packet, inner.as_ref(), &arrival, &sender)
    }

    /// A frame that arrives from outside.
    pub(crate) fn arrive(&self, frame: &Frame) -> Result<Decision<F>, Reason> {
        external::from_external(self, &self.config, &Packet::parse(frame, 14)?, UPLINK)
    }

    /// The same before the kernel has a packet. None: left for later.
    pub(crate) fn arrive_early(&self, frame: &Frame) -> Result<Option<Decision<F>>, Reason> {
        external::from_external_early(self, &self.config, &Packet::parse(frame, 14)?, UPLINK)
    }

    /// A frame that the kernel sends out.
    pub(crate) fn leave(&self, frame: &Frame) -> Result<Decision<F>, Reason> {
        external::to_external(self, &self.config, &Packet::parse(frame, 14)?, UPLINK)
    }

    /// The external interface gets another address.
    pub(crate) fn set_external(&mut self, addr: F::Addr) {
        F::set_external(&mut self.external, addr);
    }

    /// The flow under `tuple`.
    pub(crate) fn flow_of(&self, tuple: &Tuple<F::Addr>) -> Option<Flow<F::Addr>> {
        // SAFETY: one thread, and the pointer is used at once.
        Env::<F>::flow(self, tuple).map(|flow| unsafe { *flow })
    }

    pub(crate) fn mapping_of(&self, addr: F::Addr, port: u16, protocol: u8) -> Option<Mapping<F::Addr>> {
        // SAFETY: as in `flow_of`.
        Env::<F>::mapping(self, &MappingKey::new(addr, port, protocol)).map(|mapping| unsafe { *mapping })
    }

    /// Has another CPU do something after the next flow's port is chosen and before the flow is there.
    pub(crate) fn before_next_flow(&self, meanwhile: impl FnOnce(&Self) + 'static) {
        self.meanwhile.set(Some(Box::new(meanwhile)));
    }

    /// Has another CPU do something after the next flow's port is chosen and before it is claimed.
    pub(crate) fn before_next_mapping(&self, meanwhile: impl FnOnce(&Self) + 'static) {
        self.before_mapping.set(Some(Box::new(meanwhile)));
    }

    /// Bytes of a packet that an ICMP error must quote: the network header and eight more.
    pub(crate) fn quotation(&self) -> usize {
        F::HEADER_LEN + 8
    }

    /// Has another CPU, or the agent, hold the lock of the flow under `tuple`.
    pub(crate) fn lock_flow(&self, tuple: &Tuple<F::Addr>) {
        assert!(Env::<F>::try_lock(self, flow_lock::<F>(tuple)), "somebody holds the lock");
    }

    pub(crate) fn assert_unlocked(&self) {
        assert!(self.locks.borrow().is_empty(), "a lock was kept");
    }

    pub(crate) fn flow_count(&self) -> usize {
        self.flows.borrow().len()
    }
}

fn nobody<F: Place>() -> Tuple<F::Addr> {
    Tuple::new(F::Addr::UNSPECIFIED, 0, F::Addr::UNSPECIFIED, 0, 0)
}

fn endpoint<F: Place>(n: u8) -> Endpoint {
    let mut endpoint = Endpoint::EMPTY;
    endpoint.generation = u32::from(n);
    endpoint.ifindex = veth(n);
    F::set_addr(&mut endpoint, F::container(n));
    endpoint.mac = mac(n);
    endpoint.counter = 10 * u32::from(n);
    endpoint.network = u32::from(n >= 4);
    (endpoint.gateway_ifindex, endpoint.gateway_mac) =
        if n < 4 { (BRIDGE, BRIDGE_MAC) } else { (SECOND_BRIDGE, SECOND_BRIDGE_MAC) };
    endpoint
}

fn get<K: Hash + Eq, V>(cells: &Cells<K, V>, key: &K) -> Option<*mut V> {
    cells.borrow().get(key).map(|cell| cell.get())
}

fn insert<K: Hash + Eq + Copy, V: Copy>(cells: &Cells<K, V>, key: &K, value: &V, max: usize) -> Result<(), Refused> {
    let mut cells = cells.borrow_mut();
    if cells.contains_key(key) || cells.len() >= max {
        return Err(Refused);
    }
    cells.insert(*key, Box::new(UnsafeCell::new(*value)));
    Ok(())
}

/// Whether an entry under `key` sets the bit of a port.
fn has_port<A: Address>(key: &PortKey<A>, proto: u8, port: u16) -> bool {
    let len = if key.is_block() { BLOCK_LEN } else { 1 };
    key.proto == proto && port >= key.port && port - key.port < len
}

impl<F: Place> Env<F> for World<F> {
    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }
    fn network(&self, index: u32) -> Option<&Network> {
        [&self.network, &self.second].get(index as usize).copied()
    }
    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        self.endpoints.get(index as usize)
    }
    fn endpoint_index(&self, addr: &F::Addr) -> Option<u32> {
        (1..)
            .zip(&self.endpoints[1..])
            .find(|(_, endpoint)| F::endpoint_addr(endpoint) == *addr || F::link_addr(endpoint) == Some(*addr))
            .map(|(index, _)| index)
    }
    fn in_any_network(&self, addr: &F::Addr) -> bool {
        F::is_inside(addr)
    }
    fn external(&self, ifindex: u32) -> Option<&External> {
        self.uplinks.contains(&ifindex).then_some(&self.external)
    }
    fn published_port(&self, key: &PortKey<F::Addr>) -> Option<&PortTarget> {
        self.published.get(key)
    }
    fn published_source(&self, key: &PortKey<F::Addr>) -> Option<&PortSource<F::Addr>> {
        self.sources.get(key)
    }
    fn is_port_published(&self, proto: u8, port: u16) -> bool {
        self.published.keys().any(|key| has_port(key, proto, port))
    }
    fn is_source_published(&self, proto: u8, port: u16) -> bool {
        self.sources.keys().any(|key| has_port(key, proto, port))
    }
    fn is_source_allowed(&self, binding: u32, addr: &F::Addr) -> bool {
        self.allowed.contains(&(binding, *addr))
    }
    fn link(&self, key: &LinkKey) -> Option<&Link> {
        self.links.get(key)
    }
    fn is_trusted(&self, key: &TrustedKey) -> bool {
        self.trusted.contains(key)
    }
    fn flow(&self, tuple: &Tuple<F::Addr>) -> Option<*mut Flow<F::Addr>> {
        get(&self.flows, tuple)
    }
    fn insert_flow(&self, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), Refused> {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile(self);
        }
        insert(&self.flows, tuple, flow, self.config.max_flows as usize)
    }
    fn replace_flow(&self, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), Refused> {
        let pointer = get(&self.flows, tuple).ok_or(Refused)?;
        // SAFETY: one thread, and no decision holds a reference to a flow that it replaces.
        unsafe { *pointer = *flow };
        Ok(())
    }
    fn remove_flow(&self, tuple: &Tuple<F::Addr>) -> bool {
        self.flows.borrow_mut().remove(tuple).is_some()
    }
    fn add(&self, word: &mut u64, change: u64) {
        *word = word.wrapping_add(change);
    }
    fn share(&self, endpoint: u32) -> Option<*mut Share> {
        self.shares.get(endpoint as usize).map(UnsafeCell::get)
    }
    fn mapping(&self, key: &MappingKey<F::Addr>) -> Option<*mut Mapping<F::Addr>> {
        self.mapping_look_ups.set(self.mapping_look_ups.get() + 1);
        get(&self.mappings, key)
    }
    fn insert_mapping(&self, key: &MappingKey<F::Addr>, mapping: &Mapping<F::Addr>) -> Result<(), Refused> {
        if let Some(meanwhile) = self.before_mapping.take() {
            meanwhile(self);
        }
        insert(&self.mappings, key, mapping, usize::MAX)
    }
    fn reach(&self, bucket: u32) -> Option<*mut Reach> {
        self.reaches.get(bucket as usize).map(UnsafeCell::get)
    }
    fn reply(&self, tuple: &Tuple<F::Addr>) -> Option<&Inside<F::Addr>> {
        // SAFETY: entries are not changed while a decision holds one.
        get(&self.replies, tuple).map(|inside| unsafe { &*inside })
    }
    fn insert_reply(&self, tuple: &Tuple<F::Addr>, inside: &Inside<F::Addr>) -> Result<(), Refused> {
        insert(&self.replies, tuple, inside, usize::MAX)
    }
    fn remove_reply(&self, tuple: &Tuple<F::Addr>) {
        self.replies.borrow_mut().remove(tuple);
    }
    fn ring(&self, position: u32) -> Option<*mut Tuple<F::Addr>> {
        self.ring.get(position as usize).map(UnsafeCell::get)
    }
    fn advance_ring(&self, len: u32) -> u32 {
        self.hand.replace((self.hand.get() + 1) % len)
    }
    fn begin(&self, config: &Config, request: &Request<'_, F>) -> Result<u16, Reason> {
        self.begun.set(true);
        loop {
            match conntrack::create(self, config, request) {
                Err(Reason::PortTaken) => {}
                created => return created,
            }
        }
    }
    fn try_lock(&self, name: u64) -> bool {
        self.locks.borrow_mut().insert(name)
    }
    fn unlock(&self, name: u64) {
        assert!(self.locks.borrow_mut().remove(&name), "released a lock that nobody held");
    }
    fn now_s(&self) -> u32 {
        self.now_s.get()
    }
    fn route(&self, packet: &Packet<F>, sender: &Endpoint) -> Route<F::Addr> {
        let gateways = self.endpoints.iter().map(|endpoint| endpoint.gateway_ifindex);
        assert!(gateways.into_iter().any(|ifindex| ifindex == sender.gateway_ifindex && ifindex != 0));
        let dst_addr = packet.tuple.dst_addr;
        if (self.is_local)(&dst_addr) {
            return Route::Kernel;
        }
        match [&self.network, &self.second].into_iter().find(|network| F::in_network(network, &dst_addr)) {
            Some(network) => Route::To { ifindex: network.ifindex, next_hop: dst_addr },
            None => self.route,
        }
    }
    fn host_socket(&self, tuple: &Tuple<F::Addr>) -> bool {
        assert_ne!(tuple.proto, F::ICMP, "there are no ICMP sockets to look up");
        self.sockets.contains(&(tuple.proto, tuple.dst_port))
    }
    fn host_connection(&self, tuple: &Tuple<F::Addr>) -> bool {
        self.connections.contains(tuple)
    }
    fn announce(&self, _tuple: &Tuple<F::Addr>, _nat_port: u16) {}
}
