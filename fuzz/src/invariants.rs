//! What holds after every step, whatever packets came: nothing leaves with a container's address unless its network is
//! meant to, nothing goes into a container that is not published or asked for, and the tables agree with each other.

use std::collections::{HashMap, HashSet};

use netpath_common::{Endpoint, Flow, Network, PortKey, PortTarget, Tuple, network_flag, target_flag};
use netpath_ebpf::conntrack;
use netpath_ebpf::decision::{Decision, Out};
use netpath_ebpf::icmp::Translation;
use netpath_ebpf::packet::Packet;

use crate::frame::Frame;
use crate::frames::Hook;
use crate::hooks::{Done, L3_OFF};
use crate::place::Ground;
use crate::world::World;

type Flows<F> =
    HashMap<Tuple<<F as netpath_ebpf::family::Family>::Addr>, Flow<<F as netpath_ebpf::family::Family>::Addr>>;

/// What has happened in a world that it does not tell itself.
pub(crate) struct Watch<F: Ground> {
    /// Who addressed which container by its own address. A fragment that does so leaves a flow though it is held back.
    visits: HashSet<(F::Addr, F::Addr)>,
    /// Containers that are successors of others: a flow in the place of one that is dead is not counted until the agent
    /// puts the share right.
    replaced: HashSet<u8>,
}

impl<F: Ground> Watch<F> {
    pub(crate) fn new() -> Self {
        Self { visits: HashSet::new(), replaced: HashSet::new() }
    }

    pub(crate) fn replace(&mut self, n: u8) {
        self.replaced.insert(n);
    }

    /// Takes note of a frame before it is decided on.
    pub(crate) fn note(&mut self, frame: &Frame) {
        if let Ok(packet) = Packet::<F>::parse(frame, L3_OFF)
            && F::is_inside(&packet.tuple.dst_addr)
        {
            self.visits.insert((packet.tuple.src_addr, packet.tuple.dst_addr));
        }
    }

    /// The flows that are alive.
    pub(crate) fn flows(&self, world: &World<F>) -> Flows<F> {
        let tuples: Vec<_> = world.flows.borrow().keys().copied().collect();
        let flow = |tuple: Tuple<F::Addr>| Some((tuple, world.flow_of(&tuple)?));
        let is_alive = |(tuple, flow): &(Tuple<F::Addr>, Flow<F::Addr>)| {
            let owner = world.endpoints.get(usize::from(flow.endpoint));
            owner.is_some_and(|owner| owner.generation == flow.generation)
                && !conntrack::is_expired(&world.config, flow, tuple.proto, world.now_s.get())
        };
        tuples.into_iter().filter_map(flow).filter(is_alive).collect()
    }

    pub(crate) fn check_tables(&self, world: &World<F>) {
        world.assert_unlocked();
        let count = world.flow_count();
        assert!(count <= world.config.max_flows as usize, "{count} flows in a table for {}", world.config.max_flows);
        let mut flows_of = [0u32; 6];
        for tuple in world.flows.borrow().keys() {
            let flow = world.flow_of(tuple).expect("a flow that was listed");
            flows_of[usize::from(flow.endpoint)] += 1;
        }
        // SAFETY: one thread, and the value is copied at once.
        let share = |n: usize| unsafe { *world.shares[n].get() };
        assert_eq!(share(0).flows, count as u64, "the share of all together");
        for n in (1..=5u8).filter(|n| !self.replaced.contains(n)) {
            let n = usize::from(n);
            assert_eq!(share(n).flows, u64::from(flows_of[n]), "the share of container {n}");
        }
    }

    /// Checks what was done with a frame. `before` are the flows that were alive before it came.
    pub(crate) fn check(&self, hook: Hook, world: &World<F>, before: &Flows<F>, frame: &Frame, done: &Done<F>) {
        match (hook, done) {
            (Hook::FromContainer(n), Done::Carried(packet, decision)) => {
                self.check_sent(n, world, before, packet, decision);
            }
            (Hook::FromContainer(_), Done::Passed) => {}
            (Hook::FromContainer(_) | Hook::FromExternal, Done::Error(_, inner, translation)) => {
                check_error_in(world, before, &inner.tuple, translation);
            }
            (Hook::FromExternal, Done::Carried(packet, decision)) => {
                self.check_arrived(world, before, packet, decision)
            }
            (Hook::FromExternal, Done::Passed) => {
                assert!(!is_inside::<F>(frame, F::DST_OFF), "passed into a container")
            }
            (Hook::ToExternal, Done::Carried(packet, decision)) => {
                assert_eq!(decision.out, Out::Kernel);
                self.check_left(world, &packet.tuple, &decision.tuple);
            }
            (Hook::ToExternal, Done::Passed) => {
                assert!(!is_inside::<F>(frame, F::SRC_OFF), "passed out of a container")
            }
            (Hook::ToExternal, Done::Error(packet, _, translation)) => {
                let left = Tuple::new(translation.src_addr, 0, translation.dst_addr, 0, packet.tuple.proto);
                self.check_left(world, &packet.tuple, &left);
            }
        }
    }

    fn check_sent(&self, n: u8, world: &World<F>, before: &Flows<F>, packet: &Packet<F>, decision: &Decision<F>) {
        let sender = &world.endpoints[usize::from(n)];
        let is_own = [Some(F::endpoint_addr(sender)), F::link_addr(sender)].contains(&Some(packet.tuple.src_addr));
        assert!(is_own, "container {n} sent as somebody else: {packet:?}");
        match decision.out {
            Out::External { .. } => self.check_left(world, &packet.tuple, &decision.tuple),
            Out::Kernel => assert_eq!(decision.tuple, packet.tuple, "rewritten for the kernel"),
            Out::Sibling(ifindex) => {
                assert_eq!(decision.tuple, packet.tuple);
                let is_it = |other: &&Endpoint| other.ifindex == ifindex && other.network == sender.network;
                let sibling = world.endpoints[1..].iter().find(is_it).expect("a sibling in the same network");
                let addrs = [Some(F::endpoint_addr(sibling)), F::link_addr(sibling)];
                assert!(addrs.contains(&Some(packet.tuple.dst_addr)), "a sibling gets another one's packet");
            }
            Out::Across(index) => {
                assert!(!network(world, sender).has(network_flag::INTERNAL), "out of an internal network");
                let receiver = &world.endpoints[index as usize];
                if receiver.network == sender.network && decision.tuple == packet.tuple {
                    let is_its = packet.tuple.dst_addr == F::endpoint_addr(receiver);
                    assert!(is_its, "a neighbour gets another one's packet: {packet:?}");
                    return;
                }
                check_delivered(world, before, packet, decision, index);
            }
            Out::Container(_) => panic!("a container's packet as one from outside"),
        }
    }

    /// A packet goes out.
    fn check_left(&self, world: &World<F>, was: &Tuple<F::Addr>, is: &Tuple<F::Addr>) {
        assert_eq!(was.dst_addr, is.dst_addr);
        if !F::is_inside(&is.src_addr) {
            return;
        }
        assert_eq!(was.src_addr, is.src_addr, "leaves with another container's address");
        let owner = owner(world, &is.src_addr).expect("an address of a container network leaves that is nobody's");
        let network = network(world, owner);
        assert!(!network.has(network_flag::INTERNAL), "leaves an internal network: {is:?}");
        if network.flags & (F::MASQUERADE | F::ROUTED) == F::MASQUERADE {
            assert!(is_open::<F>(network), "a container's address leaves: {is:?}");
            assert!(self.visits.contains(&(is.dst_addr, is.src_addr)), "leaves though nobody asked: {is:?}");
        }
    }

    /// A packet from outside.
    fn check_arrived(&self, world: &World<F>, before: &Flows<F>, packet: &Packet<F>, decision: &Decision<F>) {
        if decision.endpoint == 0 {
            assert_eq!((decision.tuple, decision.out), (packet.tuple, Out::Kernel));
            assert!(!F::is_inside(&packet.tuple.dst_addr), "to a container of no index: {packet:?}");
            return;
        }
        let endpoint = &world.endpoints[decision.endpoint as usize];
        assert!([Out::Container(endpoint.ifindex), Out::Kernel].contains(&decision.out));
        let (was, is) = (&packet.tuple, &decision.tuple);
        assert_eq!((was.src_addr, was.src_port, was.proto), (is.src_addr, is.src_port, is.proto));
        check_delivered(world, before, packet, decision, decision.endpoint);
    }
}

/// A packet goes into the container at `index`: it was published, asked for, or is open to visits.
fn check_delivered<F: Ground>(
    world: &World<F>,
    before: &Flows<F>,
    packet: &Packet<F>,
    decision: &Decision<F>,
    index: u32,
) {
    let endpoint = &world.endpoints[index as usize];
    let (was, is) = (&packet.tuple, &decision.tuple);
    assert_eq!(is.dst_addr, F::endpoint_addr(endpoint), "to an address that the container does not have");
    if let Some((target, port)) = published(world, was)
        && (target.endpoint, target.generation, port) == (index, endpoint.generation, is.dst_port)
    {
        let is_listed = target.flags & target_flag::ALLOW_LIST == 0 || was.src_addr == F::CLIENT;
        assert!(is_listed, "from a source that is not allowed: {was:?}");
        assert!(target.flags & target_flag::INSIDE_ONLY == 0 || F::is_inside(&was.src_addr));
        return;
    }
    if was.dst_addr == is.dst_addr {
        let network = network(world, endpoint);
        // In the flow of either end, that end has its own name: a reply to who visited the sender, or to the receiver's visit.
        let is_reply = before.get(&was.reversed()).is_some_and(|flow| flow.nat_addr == was.dst_addr)
            || before.get(was).is_some_and(|flow| flow.nat_addr == was.src_addr);
        assert!(is_open::<F>(network) || is_reply, "a container reached by its own address: {was:?}");
        return;
    }
    let is_it = |(orig, flow): (&Tuple<F::Addr>, &Flow<F::Addr>)| {
        u32::from(flow.endpoint) == index
            && (flow.nat_addr, flow.nat_port) == (was.dst_addr, was.dst_port)
            && (orig.src_addr, orig.src_port, orig.proto) == (is.dst_addr, is.dst_port, is.proto)
            && (orig.dst_addr, orig.dst_port) == (is.src_addr, is.src_port)
    };
    assert!(before.iter().any(is_it), "no flow asked for {was:?}, which became {is:?}");
}

/// An ICMP error goes into a container, or to the kernel on its way there.
fn check_error_in<F: Ground>(
    world: &World<F>,
    before: &Flows<F>,
    quoted: &Tuple<F::Addr>,
    translation: &Translation<F>,
) {
    let addr = translation.dst_addr;
    let receiver = owner(world, &addr).expect("an error to an address that no container has");
    assert_eq!(translation.inner.src_addr, addr, "an error about somebody else's packet");
    let names_it = |target: &PortTarget| F::endpoint_addr(&world.endpoints[target.endpoint as usize]) == addr;
    let about_published = published(world, &quoted.reversed()).is_some_and(|(target, _)| names_it(target));
    let about_flow = before.values().any(|flow| {
        (flow.nat_addr, flow.nat_port) == (quoted.src_addr, quoted.src_port) && flow.generation == receiver.generation
    });
    assert!(about_published || about_flow, "an error about {quoted:?}, which nobody sent");
}

/// What is published at the tuple's destination, and the container port it leads to.
fn published<'a, F: Ground>(world: &'a World<F>, tuple: &Tuple<F::Addr>) -> Option<(&'a PortTarget, u16)> {
    let mut key = PortKey::new(tuple.dst_addr, tuple.dst_port, tuple.proto);
    if let Some(target) = world.published.get(&key) {
        return Some((target, target.port));
    }
    key.widen();
    let target = world.published.get(&key)?;
    Some((target, target.port.wrapping_add(tuple.dst_port - key.port)))
}

fn owner<'a, F: Ground>(world: &'a World<F>, addr: &F::Addr) -> Option<&'a Endpoint> {
    world.endpoints[1..].iter().find(|endpoint| F::endpoint_addr(endpoint) == *addr)
}

fn network<'a, F: Ground>(world: &'a World<F>, endpoint: &Endpoint) -> &'a Network {
    if endpoint.network == 0 { &world.network } else { &world.second }
}

/// Whether the network's containers may be reached by their own addresses.
fn is_open<F: Ground>(network: &Network) -> bool {
    network.flags & (F::ROUTED | F::UNPROTECTED | network_flag::TRUSTED) != 0
}

/// Whether the address at `off` of the network header is one of a container network.
fn is_inside<F: Ground>(frame: &Frame, off: usize) -> bool {
    use netpath_ebpf::packet::Bytes as _;
    frame.get::<F::Addr>(L3_OFF + off).is_some_and(|addr| F::is_inside(&addr))
}
