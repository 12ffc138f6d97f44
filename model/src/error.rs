//! ICMP errors: the packet that one quotes was translated, so it is translated back, and the error with it. An error
//! begins, refreshes and ends nothing (RFC 5508, REQ-6).

use std::net::SocketAddr;

use crate::nat::{Cause, Nat, Outcome, Place, Verdict};
use crate::packet::{Body, Checksum, End, Packet, Quote};

/// How much of the transport header must be quoted (RFC 792), in bytes.
const LEAST: usize = 8;

impl Quote {
    fn is_readable(&self) -> bool {
        self.len >= LEAST && !self.packet.is_later_fragment() && !self.packet.is_malformed()
    }

    /// The same about a packet that had other ends.
    fn about(&self, src: End, dst: End) -> Self {
        Self { packet: Box::new(Packet { src, dst, ..(*self.packet).clone() }), ..self.clone() }
    }
}

/// RFC 5508, REQ-3: an error with a wrong checksum is not translated.
fn is_intact(packet: &Packet) -> bool {
    packet.checksum == Checksum::Right
}

fn address(end: &End) -> End {
    End::At(SocketAddr::new(end.addr(), 0))
}

impl Nat {
    /// An error from outside about what a container sent; none: it is about something else.
    pub(crate) fn error_from_outside(&mut self, packet: &Packet, quote: &Quote) -> Option<Outcome> {
        let quoted = &quote.packet;
        let is_odd = packet.dst.addr() != quoted.src.addr()
            || self.in_network(quoted.dst.addr())
            || self.in_network(packet.src.addr());
        if !quote.is_readable() || !is_intact(packet) || is_odd {
            return None;
        }
        let proto = quoted.proto()?;
        let (container, inside) = match self.published_at(proto, &quoted.src) {
            Some(port) => (port.container, self.inside_of(&port)?),
            None => {
                let flow = &self.flows[self.flow_called(proto, &quoted.src, &quoted.dst)?];
                (flow.container, flow.inside)
            }
        };
        if packet.ttl <= 1 {
            return Some(Outcome::dropped(Cause::HopsOfError));
        }
        let about = quote.about(End::At(inside), quoted.dst);
        let sent = Packet { dst: address(&End::At(inside)), body: Body::Error(about), ..packet.hopped() };
        Some(Outcome::one(Verdict::ErrorIn, Place::Container(container), sent))
    }

    /// An error from a container.
    pub(crate) fn error_from_container(&mut self, sender: usize, packet: &Packet, quote: &Quote) -> Outcome {
        let dst = packet.dst.addr();
        if let Some(neighbour) = self.container_at(dst) {
            return self.meet_neighbour(neighbour, packet);
        }
        if self.is_host(dst) {
            let across = self.error_across(packet, quote);
            return across.unwrap_or_else(|| self.host_answers(Place::Container(sender), packet));
        }
        if packet.ttl <= 1 {
            return Outcome::dropped(Cause::HopsOfError);
        }
        match self.error_out(packet, quote) {
            Some(sent) => Outcome::one(Verdict::ErrorOut, Place::Outside, sent),
            None => Outcome::dropped(Cause::NoFlow),
        }
    }

    /// It speaks about a packet that the container got, to who sent that.
    fn is_answer(packet: &Packet, quote: &Quote) -> bool {
        quote.is_readable()
            && is_intact(packet)
            && packet.src.addr() == quote.packet.dst.addr()
            && packet.dst.addr() == quote.packet.src.addr()
    }

    fn error_out(&self, packet: &Packet, quote: &Quote) -> Option<Packet> {
        let quoted = &quote.packet;
        let (proto, End::At(inside)) = (quoted.proto()?, quoted.dst) else { return None };
        if !Self::is_answer(packet, quote) {
            return None;
        }
        let called = match self.flow_of(proto, inside, &quoted.src) {
            Some(found) => self.flows[found].called,
            None => self.published_name(proto, inside)?,
        };
        let about = quote.about(quoted.src, called);
        Some(Packet { src: address(&called), body: Body::Error(about), ..packet.hopped() })
    }

    /// An error between two containers of which one asked the other by way of the host.
    fn error_across(&self, packet: &Packet, quote: &Quote) -> Option<Outcome> {
        let quoted = &quote.packet;
        let (proto, End::At(receiver)) = (quoted.proto()?, quoted.dst) else { return None };
        if !Self::is_answer(packet, quote) {
            return None;
        }
        let called = self.flows[self.flow_of(proto, receiver, &quoted.src)?].called;
        let (container, to) = match called {
            // The quoted packet is an answer, and was sent by a published port.
            End::Name(_) => {
                let port = self.published_at(proto, &quoted.src)?;
                (port.container, self.inside_of(&port)?)
            }
            End::At(_) => {
                let asker = &self.flows[self.flow_called(proto, &quoted.src, &called)?];
                (asker.container, asker.inside)
            }
        };
        let about = quote.about(End::At(to), called);
        let sent = Packet {
            src: address(&packet.dst),
            dst: address(&End::At(to)),
            ttl: packet.ttl.saturating_sub(1).max(1),
            body: Body::Error(about),
            ..packet.clone()
        };
        Some(Outcome::one(Verdict::ErrorAcross, Place::Container(container), sent))
    }
}
