//! The world around the decisions: maps, clock, routes, sockets.

use netpath_common::{
    Config, Endpoint, External, Flow, Inside, Link, LinkKey, Mapping, MappingKey, Network, PortKey, PortSource,
    PortTarget, Reach, Reason, Share, TrustedKey, Tuple,
};

use crate::{family::Family, mapping::Request, packet::Packet};

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<A> {
    /// Out of an interface, to a next hop; the packet fits.
    To { ifindex: u32, next_hop: A },
    /// Out of an interface whose MTU it exceeds: the kernel cuts it or says so.
    TooBig { ifindex: u32 },
    /// Anything that only the kernel can do: local delivery, no route, forwarding off.
    Kernel,
}

/// An entry that was to be new exists, one that was to be replaced does not, or the map is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Maps, clock, routes and sockets as the decisions see them.
///
/// Pointers point into map values: valid until the program ends, shared with other CPUs that store
/// into the same plain fields. Decisions bear every mixture of old and new field values.
pub trait Env<F: Family> {
    fn config(&self) -> Option<&Config>;
    fn network(&self, index: u32) -> Option<&Network>;
    fn endpoint(&self, index: u32) -> Option<&Endpoint>;
    /// Index of the endpoint with this address.
    fn endpoint_index(&self, addr: &F::Addr) -> Option<u32>;
    /// Whether the address lies in the subnet of any network.
    fn in_any_network(&self, addr: &F::Addr) -> bool;
    fn external(&self, ifindex: u32) -> Option<&External>;
    fn published_port(&self, key: &PortKey<F::Addr>) -> Option<&PortTarget>;
    /// Whether the port is published at any host address; no more than a quick no before `published_port`.
    fn is_port_published(&self, proto: u8, port: u16) -> bool;
    /// Whether the port of any container is published; no more than a quick no before `published_source`.
    fn is_source_published(&self, proto: u8, port: u16) -> bool;
    /// Whether the binding with this counter is open to the source.
    fn is_source_allowed(&self, binding: u32, addr: &F::Addr) -> bool;
    fn link(&self, key: &LinkKey) -> Option<&Link>;
    fn is_trusted(&self, key: &TrustedKey) -> bool;
    fn published_source(&self, key: &PortKey<F::Addr>) -> Option<&PortSource<F::Addr>>;

    fn flow(&self, tuple: &Tuple<F::Addr>) -> Option<*mut Flow<F::Addr>>;
    fn insert_flow(&self, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), Refused>;
    fn replace_flow(&self, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), Refused>;
    /// False: it was not there.
    fn remove_flow(&self, tuple: &Tuple<F::Addr>) -> bool;
    /// Adds to a word that other CPUs add to, too.
    fn add(&self, word: &mut u64, change: u64);
    /// What the endpoint has of the table of flows; 0: all together.
    fn share(&self, endpoint: u32) -> Option<*mut Share>;
    fn mapping(&self, key: &MappingKey<F::Addr>) -> Option<*mut Mapping<F::Addr>>;
    fn insert_mapping(&self, key: &MappingKey<F::Addr>, mapping: &Mapping<F::Addr>) -> Result<(), Refused>;
    /// How far down their candidates those in a bucket have come.
    fn reach(&self, bucket: u32) -> Option<*mut Reach>;
    fn reply(&self, tuple: &Tuple<F::Addr>) -> Option<&Inside<F::Addr>>;
    fn insert_reply(&self, tuple: &Tuple<F::Addr>, inside: &Inside<F::Addr>) -> Result<(), Refused>;
    fn remove_reply(&self, tuple: &Tuple<F::Addr>);
    /// Entry of the collection ring.
    fn ring(&self, position: u32) -> Option<*mut Tuple<F::Addr>>;
    /// The next position of this CPU's hand on the ring.
    fn advance_ring(&self, len: u32) -> u32;

    /// Makes the flow of `request` and says the port that its container is called by.
    ///
    /// # Errors
    ///
    /// Those of [`create`](crate::conntrack::create). Any, where the flow is made only when the decision has
    /// come to its end: it is taken anew then.
    fn begin(&self, config: &Config, request: &Request<'_, F>) -> Result<u16, Reason>;

    /// Takes the lock of that name; false when somebody holds it. Never waits.
    fn try_lock(&self, name: u64) -> bool;
    fn unlock(&self, name: u64);

    /// Moment in [`netpath_common::seconds`].
    fn now_s(&self) -> u32;
    /// Route of a packet that comes from `sender`, by its original addresses.
    fn route(&self, packet: &Packet<F>, sender: &Endpoint) -> Route<F::Addr>;
    /// Whether a socket of the host would take a packet with this tuple.
    fn host_socket(&self, tuple: &Tuple<F::Addr>) -> bool;
    /// Whether a TCP or UDP socket of the host is connected to exactly this tuple's other end.
    fn host_connection(&self, tuple: &Tuple<F::Addr>) -> bool;
    /// Tells whoever watches that a flow began.
    fn announce(&self, tuple: &Tuple<F::Addr>, nat_port: u16);
}
