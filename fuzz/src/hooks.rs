//! What the programs decide at each hook, on the host: the same functions in the order in which
//! `netpath-ebpf/src/bpf/entry.rs` calls them, over a world in plain collections.

use std::rc::Rc;

use netpath_common::{Address as _, Reason, proto, under_way};
use netpath_ebpf::decision::Decision;
use netpath_ebpf::env::Env;
use netpath_ebpf::external;
use netpath_ebpf::icmp::{self, Inner, Translation};
use netpath_ebpf::inside;
use netpath_ebpf::packet::{Bytes as _, Kind, Packet};
use netpath_ebpf::policy::{self, Arrival, Step};

use crate::fragments::{Fragments, Store};
use crate::frame::Frame;
use crate::place::Ground;
use crate::wire;
use crate::world::World;

/// Where frames have their network header.
pub(crate) const L3_OFF: usize = 14;

/// What is done with a frame that is not dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Done<F: Ground> {
    /// Nothing: it goes on as it is.
    Passed,
    Carried(Packet<F>, Decision<F>),
    /// An ICMP error, and what it quotes.
    Error(Packet<F>, Inner<F>, Translation<F>),
}

/// A world, and what the programs keep besides.
pub(crate) struct Hooks<F: Ground> {
    pub(crate) world: World<F>,
    /// The external interface.
    pub(crate) uplink: u32,
    pub(crate) fragments: Fragments<F>,
}

impl<F: Ground> Hooks<F> {
    pub(crate) fn new(world: World<F>, uplink: u32, store: Rc<Store>) -> Self {
        Self { world, uplink, fragments: Fragments::new(store) }
    }

    /// tc ingress of the external interface.
    pub(crate) fn at_ingress(&self, frame: &Frame) -> Result<Done<F>, Reason> {
        let Some(packet) = self.load_or_pass(frame, F::DST_OFF, false)? else { return Ok(Done::Passed) };
        if packet.kind == Kind::IcmpError
            && let Some(inner) = quoted(frame, &packet)
            && let Some(translation) = icmp::from_external(&self.world, &self.world.config, &packet, &inner)
        {
            return Ok(Done::Error(packet, inner, translation));
        }
        let decision = external::from_external(&self.world, &self.world.config, &packet, self.uplink);
        self.admit(packet, decision, frame)
    }

    /// tc egress of the external interface.
    pub(crate) fn at_egress(&self, frame: &Frame) -> Result<Done<F>, Reason> {
        if self.is_hosts_own(frame) {
            return Ok(Done::Passed);
        }
        let Some(packet) = self.load_or_pass(frame, F::SRC_OFF, true)? else { return Ok(Done::Passed) };
        if packet.kind == Kind::IcmpError
            && let Some(inner) = quoted(frame, &packet)
            && let Some(translation) = icmp::to_external::<F, _>(&self.world, &self.world.config, &packet, &inner)
        {
            let is_own = translation.src_addr == packet.tuple.src_addr;
            if !is_own && F::is_inside(&translation.src_addr) {
                return Err(Reason::Leak);
            }
            return Ok(Done::Error(packet, inner, translation));
        }
        let note = |under_way| {
            if packet.l3.is_first_fragment() {
                self.fragments.remember(&packet, under_way, self.world.now_s.get());
            }
        };
        note(under_way::DROPPED);
        let once = || external::to_external(&self.world, &self.world.config, &packet, self.uplink);
        let decision = self.decide(once)?;
        note(under_way::NO);
        Ok(Done::Carried(packet, decision))
    }

    /// tc ingress of the veth with this interface index.
    pub(crate) fn at_veth(&self, ifindex: u32, frame: &Frame) -> Result<Done<F>, Reason> {
        let packet = self.load(frame, false)?;
        let [dst_mac, src_mac]: [[u8; 6]; 2] = frame.get(0).ok_or(Reason::Malformed)?;
        let arrival = Arrival { ifindex, src_mac, dst_mac };
        if F::passes_at_once(&self.world, frame, &packet, &arrival)? {
            return Ok(Done::Passed);
        }
        let (world, config) = (&self.world, &self.world.config);
        let sender = match policy::sender::<F, _>(world, &packet.tuple.src_addr, &arrival) {
            Ok(sender) => sender,
            Err(reason) => return self.admit(packet, Err(reason), frame),
        };
        let decision = match self.decide(|| policy::from_container(world, config, &packet, &arrival, &sender)) {
            Ok(Step::Done(decision)) => Ok(decision),
            Ok(Step::Inside) if packet.kind == Kind::IcmpError => {
                let inner = quoted(frame, &packet);
                let translation =
                    inside::error_from_container(world, config, &packet, inner.as_ref(), &arrival, &sender)?;
                return Ok(match (inner, translation) {
                    (Some(inner), Some(translation)) => Done::Error(packet, inner, translation),
                    _ => Done::Passed,
                });
            }
            Ok(Step::Inside) => self.decide(|| inside::from_container(world, config, &packet, &arrival, &sender)),
            Err(reason) => Err(reason),
        };
        self.admit(packet, decision, frame)
    }

    /// Decides, and once more after a flow was made.
    fn decide<T>(&self, once: impl Fn() -> Result<T, Reason>) -> Result<T, Reason> {
        self.world.begun.set(false);
        let decision = once()?;
        if self.world.begun.get() { once() } else { Ok(decision) }
    }

    /// Looks after a packet if it is a fragment on its way in.
    fn admit(
        &self,
        packet: Packet<F>,
        decision: Result<Decision<F>, Reason>,
        frame: &Frame,
    ) -> Result<Done<F>, Reason> {
        let (len, hash_key, now_s) = (frame.0.len(), self.world.config.hash_key, self.world.now_s.get());
        match decision {
            Ok(decision) => {
                self.fragments.admit(&packet, &decision, len, hash_key, now_s)?;
                Ok(Done::Carried(packet, decision))
            }
            Err(reason) => {
                self.fragments.hold_back(&packet, reason, len, hash_key, now_s);
                Err(reason)
            }
        }
    }

    fn load(&self, frame: &Frame, leaves: bool) -> Result<Packet<F>, Reason> {
        let mut packet = Packet::<F>::parse(frame, L3_OFF)?;
        if packet.l3.len as usize > frame.0.len() - L3_OFF {
            return Err(Reason::Malformed);
        }
        if packet.kind == Kind::LaterFragment {
            self.fragments.join(&mut packet, leaves, self.world.now_s.get());
        }
        Ok(packet)
    }

    /// As [`Self::load`], but a broken packet without an address of a container at `off` passes.
    fn load_or_pass(&self, frame: &Frame, off: usize, leaves: bool) -> Result<Option<Packet<F>>, Reason> {
        match self.load(frame, leaves) {
            Ok(packet) => Ok(Some(packet)),
            Err(reason) => {
                let addr = frame.get::<F::Addr>(L3_OFF + off);
                if addr.is_none_or(|addr| F::is_inside(&addr)) { Err(reason) } else { Ok(None) }
            }
        }
    }

    fn is_hosts_own(&self, frame: &Frame) -> bool {
        let protocol = frame.get::<u8>(L3_OFF + F::PROTO_OFF);
        let src_addr = frame.get::<F::Addr>(L3_OFF + F::SRC_OFF);
        matches!(protocol, Some(proto::TCP | proto::UDP))
            && src_addr.is_some_and(|addr| !Env::<F>::in_any_network(&self.world, &addr))
    }
}

/// What an ICMP error quotes, if that is enough, and the error's checksum is right.
fn quoted<F: Ground>(frame: &Frame, packet: &Packet<F>) -> Option<Inner<F>> {
    /// Longer errors are not summed up.
    const MAX_LEN: usize = 1536;
    let inner = Inner::parse(frame, L3_OFF, packet).ok()?;
    let message = frame.0.get(packet.l3.l4_off..L3_OFF + packet.l3.len as usize)?;
    if message.len() > MAX_LEN {
        return Some(inner);
    }
    let (src, dst) = (packet.tuple.src_addr.to_ip(), packet.tuple.dst_addr.to_ip());
    // 0 and 0xffff are the same sum.
    let is_right = wire::checksum(&wire::covered(F::ICMP, src, dst, message)) == 0;
    is_right.then_some(inner)
}
