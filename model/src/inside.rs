//! Packets that a container sends.

use std::net::{IpAddr, SocketAddr};

use crate::flow::{Flow, Side};
use crate::nat::{Cause, Nat, Outcome, Place, Verdict};
use crate::packet::{Body, End, Name, Packet, Proto};

impl Nat {
    /// What comes of a packet from the container `sender`, with its hardware address or, if `has_own_mac` is false,
    /// another one. The frame is for the neighbour that has the packet's destination, or for the gateway.
    pub fn from_container(&mut self, sender: usize, has_own_mac: bool, packet: &Packet) -> Outcome {
        if packet.is_malformed() {
            return Outcome::dropped(Cause::Malformed);
        }
        if self.containers.get(sender) != Some(&Some(packet.src.addr())) || !has_own_mac {
            return Outcome::dropped(Cause::Spoofed);
        }
        if packet.hides_transport() {
            return Outcome::dropped(Cause::Hidden);
        }
        if let Body::Error(quote) = &packet.body {
            return self.error_from_container(sender, packet, quote);
        }
        let dst = packet.dst.addr();
        if let Some(neighbour) = self.container_at(dst) {
            return self.meet_neighbour(neighbour, packet);
        }
        if dst.is_multicast() {
            return Outcome::dropped(Cause::Group);
        }
        if self.is_host(dst) || dst.is_loopback() {
            return self.visit_host(sender, packet);
        }
        if let Some(outcome) = self.demanded(Place::Container(sender), packet) {
            return outcome;
        }
        if packet.ttl <= 1 {
            return self.time_exceeded(Place::Container(sender), packet, packet);
        }
        if self.fragments.is_stray(packet) {
            return Outcome::dropped(Cause::Fragment);
        }
        let (Some(proto), End::At(inside)) = (packet.proto(), packet.src) else {
            return Outcome::dropped(Cause::Untranslatable);
        };
        if let Some(called) = self.published_name(proto, inside) {
            self.fragments.note(packet);
            let sent = Packet { src: called, ..packet.hopped() };
            return Outcome::one(Verdict::FromPublished, Place::Outside, sent);
        }
        match self.masquerade(sender, proto, inside, self.config.host, packet) {
            Ok((called, named)) => {
                self.fragments.note(packet);
                let sent = Packet { src: called, ..packet.hopped() };
                Outcome { named, ..Outcome::one(Verdict::Masqueraded, Place::Outside, sent) }
            }
            Err(cause) => Outcome::dropped(cause),
        }
    }

    /// Neighbours talk directly, whatever they say.
    pub(crate) fn meet_neighbour(&mut self, neighbour: usize, packet: &Packet) -> Outcome {
        if !self.config.icc {
            return Outcome::dropped(Cause::Icc);
        }
        self.fragments.note(packet);
        Outcome::one(Verdict::ToNeighbour, Place::Container(neighbour), packet.clone())
    }

    /// The name of a packet's flow, and the mapping if the packet began one.
    fn masquerade(
        &mut self,
        sender: usize,
        proto: Proto,
        inside: SocketAddr,
        host: IpAddr,
        packet: &Packet,
    ) -> Result<(End, Option<Name>), Cause> {
        let opens = matches!(&packet.body, Body::Tcp(tcp) if tcp.is_opening());
        let found = self.flow_of(proto, inside, &packet.dst).filter(|found| {
            // A SYN begins the next connection.
            !(opens && self.flows[*found].is_closing())
        });
        if let Some(found) = found {
            let now_s = self.now_s;
            self.flows[found].see(packet, Side::Inside, now_s);
            return Ok((self.flows[found].called, None));
        }
        let may_begin = match packet.body {
            Body::Tcp(_) => opens,
            Body::Echo { is_reply, .. } => !is_reply,
            _ => true,
        };
        if packet.is_later_fragment() {
            return Err(Cause::Fragment);
        }
        let (true, End::At(asked)) = (may_begin, packet.dst) else { return Err(Cause::NoFlow) };
        let name = Name { proto, inside, asked, host };
        let is_same = |flow: &Flow| matches!(&flow.called, End::Name(other) if other.is_same_mapping(&name));
        let is_new = !self.flows.iter().any(is_same);
        if let Some(closed) = self.flow_of(proto, inside, &packet.dst) {
            self.flows.remove(closed);
        }
        let mut flow = Flow::new(proto, inside, packet.dst, End::Name(name), sender);
        flow.begin(packet, Side::Inside, self.now_s);
        self.flows.push(flow);
        Ok((End::Name(name), is_new.then_some(name)))
    }

    /// To an address of the host: a published port, the answer of one to another container, or the host itself.
    fn visit_host(&mut self, sender: usize, packet: &Packet) -> Outcome {
        if packet.dst.addr().is_loopback() {
            // Nothing is published there, and the stack drops what a container sends there.
            return Outcome::dropped(Cause::Loopback);
        }
        let from = Place::Container(sender);
        self.fragments.note(packet);
        let proto = packet.proto().filter(|_| !self.fragments.is_stray(packet));
        let (Some(proto), End::At(inside)) = (proto, packet.src) else { return self.host_answers(from, packet) };
        if let Some(port) = self.published_at(proto, &packet.dst)
            && let Some(target) = self.inside_of(&port)
        {
            return match self.masquerade(sender, proto, inside, packet.dst.addr(), packet) {
                Ok((called, named)) => {
                    self.note_question(proto, port.container, target, called, packet);
                    Outcome { named, ..self.across(Verdict::Hairpin, port.container, called, End::At(target), packet) }
                }
                // A connection that nobody knows is the host's to refuse.
                Err(Cause::NoFlow) => self.host_answers(from, packet),
                Err(cause) => Outcome::dropped(cause),
            };
        }
        let may_vanish = self.orphans.iter().any(|flow| flow.proto == proto && flow.called.is_same(&packet.dst));
        let across = self.answer_across(sender, proto, inside, packet);
        across.unwrap_or_else(|| Outcome { may_vanish, ..self.host_answers(from, packet) })
    }

    /// Remembers by which name the target of a hairpin was asked.
    fn note_question(&mut self, proto: Proto, container: usize, target: SocketAddr, asker: End, packet: &Packet) {
        let now_s = self.now_s;
        let opens = !matches!(&packet.body, Body::Tcp(tcp) if !tcp.is_opening());
        if let Some(found) = self.flow_of(proto, target, &asker) {
            let flow = &mut self.flows[found];
            // A SYN begins the next connection.
            let begins = opens && flow.is_closing();
            if flow.called.is_same(&packet.dst) && !begins {
                flow.see(packet, Side::Outside, now_s);
                return;
            }
            // One who only guesses must not give a connection another name.
            if !opens || flow.is_established() {
                return;
            }
            self.flows.remove(found);
        } else if !opens {
            return;
        }
        let mut flow = Flow::new(proto, target, asker, packet.dst, container);
        flow.begin(packet, Side::Outside, now_s);
        self.flows.push(flow);
    }

    /// The answer of a published port to a container that asked by way of the host.
    fn answer_across(&mut self, sender: usize, proto: Proto, inside: SocketAddr, packet: &Packet) -> Option<Outcome> {
        let now_s = self.now_s;
        let own = self.flow_of(proto, inside, &packet.dst).filter(|found| self.flows[*found].container == sender)?;
        let called = self.flows[own].called;
        if matches!(called, End::Name(_)) {
            return None;
        }
        self.flows[own].see(packet, Side::Inside, now_s);
        let asker = self.flow_called(proto, &packet.dst, &called)?;
        self.flows[asker].see(packet, Side::Outside, now_s);
        let (container, to) = (self.flows[asker].container, End::At(self.flows[asker].inside));
        Some(self.across(Verdict::HairpinAnswer, container, called, to, packet))
    }

    /// From one container into another, under a name. Who asks the host itself need not allow for a hop.
    fn across(&mut self, verdict: Verdict, container: usize, src: End, dst: End, packet: &Packet) -> Outcome {
        self.fragments.note(packet);
        let ttl = packet.ttl.saturating_sub(1).max(1);
        Outcome::one(verdict, Place::Container(container), Packet { src, dst, ttl, ..packet.clone() })
    }
}
