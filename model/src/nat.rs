//! The state of the NAT, what is configured, and what can come of a packet.

use std::net::{IpAddr, SocketAddr};

use crate::flow::{Flow, Timeouts};
use crate::fragment::Fragments;
use crate::packet::{End, Name, Packet, Proto};

/// What never changes.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host's address outside.
    pub host: IpAddr,
    /// The host's address among the containers.
    pub gateway: IpAddr,
    /// Length in bits of the prefix that the gateway and the containers share.
    pub prefix_len: u8,
    /// Containers may talk to each other.
    pub icc: bool,
    pub timeouts: Timeouts,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    pub proto: Proto,
    pub host_port: u16,
    pub container: usize,
    pub port: u16,
}

/// The NAT. Containers are known by their number.
#[derive(Clone, Debug)]
pub struct Nat {
    pub config: Config,
    pub(crate) containers: Vec<Option<IpAddr>>,
    pub(crate) ports: Vec<Port>,
    pub(crate) flows: Vec<Flow>,
    /// Flows of containers that are gone.
    pub(crate) orphans: Vec<Flow>,
    pub(crate) fragments: Fragments,
    pub(crate) now_s: u64,
}

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Outside,
    Container(usize),
}

/// A packet that comes out.
#[derive(Clone, Debug)]
pub struct Sent {
    pub to: Place,
    pub packet: Packet,
    /// By the host's own stack: identification, TTL and service type are its choice.
    pub made_by_host: bool,
}

/// What the packet turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// From a container to the outside, under a name of masquerade's choice.
    Masqueraded,
    /// The answer to that.
    Replied,
    /// From the outside to a published port.
    ToPublished,
    /// From a published port to the outside.
    FromPublished,
    /// From a container to a published port, by an address of the host.
    Hairpin,
    /// The answer to that.
    HairpinAnswer,
    ToNeighbour,
    ErrorIn,
    ErrorOut,
    ErrorAcross,
    /// The hops were at their end; whoever sent it is told.
    TimeExceeded,
    /// Its hop-by-hop options ask not to be forwarded by who does not know them.
    Demanded,
    /// For the host itself, which answers or not.
    Host,
    Dropped(Cause),
}

/// Why nothing comes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    Malformed,
    /// A container's packet whose extension headers hide what it is: it may be a router advertisement (RFC 7113, 3).
    Hidden,
    /// A container sent it as somebody else.
    Spoofed,
    Icc,
    /// A container's own address, from outside.
    DirectAccess,
    /// A source that cannot be outside.
    Martian,
    Loopback,
    /// To a group, for which nobody routes.
    Group,
    /// It would belong to a flow that is not there.
    NoFlow,
    /// There is nothing to translate it by.
    Untranslatable,
    /// A fragment of whom nobody knows.
    Fragment,
    /// An error at the end of its hops: nobody is told (RFC 1122, 3.2.2).
    HopsOfError,
}

/// What comes of a packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub sent: Vec<Sent>,
    /// The packet began this mapping: any port will do.
    pub named: Option<Name>,
    /// Nothing at all will do, too: the packet belongs to a flow whose container is gone, and is dropped until that is
    /// swept up.
    pub may_vanish: bool,
}

impl Outcome {
    pub(crate) fn dropped(cause: Cause) -> Self {
        Self { verdict: Verdict::Dropped(cause), sent: Vec::new(), named: None, may_vanish: false }
    }

    pub(crate) fn one(verdict: Verdict, to: Place, packet: Packet) -> Self {
        Self { verdict, sent: vec![Sent { to, packet, made_by_host: false }], named: None, may_vanish: false }
    }
}

impl Nat {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            containers: Vec::new(),
            ports: Vec::new(),
            flows: Vec::new(),
            orphans: Vec::new(),
            fragments: Fragments::default(),
            now_s: 0,
        }
    }

    /// A container with this address is there from now on, as `number`. Flows of who had the number before have ended.
    pub fn add_container(&mut self, number: usize, addr: IpAddr) {
        self.remove_container(number);
        self.containers.resize(self.containers.len().max(number + 1), None);
        self.containers[number] = Some(addr);
    }

    /// The container is gone, with its flows and published ports.
    pub fn remove_container(&mut self, number: usize) {
        let (gone, alive) = self.flows.drain(..).partition(|flow| flow.container == number);
        self.flows = alive;
        self.orphans.extend::<Vec<_>>(gone);
        self.ports.retain(|port| port.container != number);
        if let Some(container) = self.containers.get_mut(number) {
            *container = None;
        }
    }

    pub fn publish(&mut self, port: Port) {
        self.ports.push(port);
    }

    pub fn unpublish(&mut self, port: &Port) {
        self.ports.retain(|published| published != port);
    }

    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Every flow that has not expired.
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// The name stands for another port from now on: fragments on the way to the one it had will miss it.
    pub fn rename(&mut self, name: Name) {
        self.fragments.note_name(name);
    }

    /// All flows end.
    pub fn forget(&mut self) {
        self.flows.clear();
        self.orphans.clear();
        self.fragments.forget();
    }

    /// Time passes; flows that have been silent for too long end. They are returned.
    pub fn advance(&mut self, seconds: u64) -> Vec<Flow> {
        self.now_s += seconds;
        let (now_s, timeouts) = (self.now_s, self.config.timeouts);
        let is_over = |flow: &Flow| now_s - flow.last_seen_s > flow.timeout_s(&timeouts);
        let (over, alive) = self.flows.drain(..).partition(is_over);
        self.flows = alive;
        over
    }

    /// Whether after so many seconds a flow would be so near its end that a clock of whole seconds could say either.
    pub fn is_close_call(&self, seconds: u64) -> bool {
        const MARGIN_S: u64 = 4;
        self.flows.iter().any(|flow| {
            let age = self.now_s + seconds - flow.last_seen_s;
            age.abs_diff(flow.timeout_s(&self.config.timeouts)) < MARGIN_S
        })
    }

    pub(crate) fn in_network(&self, addr: IpAddr) -> bool {
        let bits = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => u128::from(u32::from(addr)) << 96,
            IpAddr::V6(addr) => u128::from(addr),
        };
        let gateway = self.config.gateway;
        gateway.is_ipv4() == addr.is_ipv4() && (bits(addr) ^ bits(gateway)) >> (128 - self.config.prefix_len) == 0
    }

    pub(crate) fn is_host(&self, addr: IpAddr) -> bool {
        addr == self.config.host || addr == self.config.gateway
    }

    pub(crate) fn container_at(&self, addr: IpAddr) -> Option<usize> {
        self.containers.iter().position(|container| *container == Some(addr))
    }

    /// Which published port this end is, at an address of the host. A name of masquerade's is never one.
    pub(crate) fn published_at(&self, proto: Proto, end: &End) -> Option<Port> {
        let End::At(at) = end else { return None };
        let is_it = |port: &&Port| port.proto == proto && port.host_port == at.port();
        self.ports.iter().filter(|_| self.is_host(at.ip())).find(is_it).copied()
    }

    /// What the container's end is called because it is published.
    pub(crate) fn published_name(&self, proto: Proto, inside: SocketAddr) -> Option<End> {
        let container = self.container_at(inside.ip())?;
        let is_it = |port: &&Port| (port.proto, port.container, port.port) == (proto, container, inside.port());
        let port = self.ports.iter().find(is_it)?;
        Some(End::At(SocketAddr::new(self.config.host, port.host_port)))
    }

    pub(crate) fn inside_of(&self, port: &Port) -> Option<SocketAddr> {
        let addr = self.containers.get(port.container).copied().flatten()?;
        Some(SocketAddr::new(addr, port.port))
    }

    /// The place in the list of the flow with these ends, the container's first.
    pub(crate) fn flow_of(&self, proto: Proto, inside: SocketAddr, outside: &End) -> Option<usize> {
        let is_it = |flow: &Flow| (flow.proto, flow.inside) == (proto, inside) && flow.outside.is_same(outside);
        self.flows.iter().position(is_it)
    }

    /// The place in the list of the flow that a packet from `outside` to `called` belongs to: both ends must fit
    /// (address- and port-dependent filtering, RFC 4787 REQ-8).
    pub(crate) fn flow_called(&self, proto: Proto, called: &End, outside: &End) -> Option<usize> {
        let is_it = |flow: &Flow| {
            flow.proto == proto
                && matches!(flow.called, End::Name(_))
                && flow.called.is_same(called)
                && flow.outside.is_same(outside)
        };
        self.flows.iter().position(is_it)
    }

    /// The same among the flows of containers that are gone.
    pub(crate) fn is_orphan(&self, proto: Proto, called: &End, outside: &End) -> bool {
        let is_it = |flow: &Flow| flow.called.is_same(called) && flow.outside.is_same(outside);
        self.orphans.iter().any(|flow| flow.proto == proto && is_it(flow))
    }
}
