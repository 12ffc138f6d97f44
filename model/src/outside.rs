//! Packets that arrive from outside.

use std::net::{IpAddr, SocketAddr};

use crate::flow::Side;
use crate::nat::{Cause, Nat, Outcome, Place, Verdict};
use crate::packet::{Body, End, Packet};

impl Nat {
    /// What comes of a packet from outside.
    pub fn from_outside(&mut self, packet: &Packet) -> Outcome {
        let (src, dst) = (packet.src.addr(), packet.dst.addr());
        if packet.is_malformed() {
            return Outcome::dropped(Cause::Malformed);
        }
        // IPv4 in disguise could be ::ffff:127.0.0.1 to whoever listens to both (RFC 4942, 2.2).
        let is_mapped = matches!(src, IpAddr::V6(src) if src.to_ipv4_mapped().is_some());
        if src.is_loopback() || dst.is_loopback() || is_mapped {
            return Outcome::dropped(Cause::Loopback);
        }
        if let Body::Error(quote) = &packet.body
            && let Some(outcome) = self.error_from_outside(packet, quote)
        {
            return outcome;
        }
        let is_stray = self.fragments.is_stray(packet);
        let proto = packet.proto().filter(|_| !is_stray);
        let published = proto.and_then(|proto| self.published_at(proto, &packet.dst));
        if published.is_none()
            && let Some(found) = proto.and_then(|proto| self.flow_called(proto, &packet.dst, &packet.src))
        {
            let (now_s, flow) = (self.now_s, &mut self.flows[found]);
            flow.see(packet, Side::Outside, now_s);
            let (container, inside) = (flow.container, flow.inside);
            return self.deliver(Verdict::Replied, container, inside, packet);
        }
        if published.is_none() && !self.in_network(dst) {
            self.fragments.note(packet);
            let may_vanish = proto.is_some_and(|proto| self.is_orphan(proto, &packet.dst, &packet.src));
            return Outcome { may_vanish, ..self.host_answers(Place::Outside, packet) };
        }
        if self.is_martian(src, dst) {
            return Outcome::dropped(Cause::Martian);
        }
        // The gateway's address is for containers.
        let published = published.filter(|_| !self.in_network(dst));
        match published.and_then(|port| Some((port.container, self.inside_of(&port)?))) {
            Some((container, inside)) => self.deliver(Verdict::ToPublished, container, inside, packet),
            None => Outcome::dropped(Cause::DirectAccess),
        }
    }

    /// Nobody outside has such an address.
    fn is_martian(&self, src: IpAddr, dst: IpAddr) -> bool {
        let is_group = match src {
            IpAddr::V4(addr) => addr.octets()[0] >= 224,
            IpAddr::V6(addr) => addr.is_multicast() || addr.is_unicast_link_local(),
        };
        self.in_network(src) || is_group || src.is_unspecified() || src == dst
    }

    /// Into a container, one hop on.
    fn deliver(&mut self, verdict: Verdict, container: usize, inside: SocketAddr, packet: &Packet) -> Outcome {
        self.fragments.note(packet);
        if let Some(outcome) = self.demanded(Place::Outside, packet) {
            return outcome;
        }
        if packet.ttl <= 1 {
            return self.time_exceeded(Place::Outside, packet, packet);
        }
        let delivered = Packet { dst: End::At(inside), ..packet.hopped() };
        Outcome::one(verdict, Place::Container(container), delivered)
    }
}
