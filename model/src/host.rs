//! What the host's own stack answers: nothing of its own listens anywhere.

use std::net::IpAddr;

use crate::nat::{Nat, Outcome, Place, Sent, Verdict};
use crate::packet::{Body, Checksum, End, ErrorKind, Extension, Packet, Proto, Quote, Tcp};

/// Protocol unreachable (RFC 792).
const PROTOCOL: u8 = 2;
/// Unrecognized next header (RFC 4443, 3.4).
const NEXT_HEADER: u8 = 1;
/// Behind it comes nothing (RFC 8200, 4.7).
const NO_NEXT_HEADER: u8 = 59;

impl Nat {
    /// A packet for the host itself. It answers whom the packet says it is from, wherever it came in: that a source is
    /// no martian is the host's own business (`rp_filter`).
    pub(crate) fn host_answers(&self, from: Place, packet: &Packet) -> Outcome {
        let src = packet.src.addr();
        let to = match self.container_at(src) {
            Some(number) => Place::Container(number),
            None => from,
        };
        // Linux resets even what comes from `::`, though no packet may go there (RFC 4291, 2.5.2).
        let is_unspecified = src.is_unspecified() && !(packet.is_v6() && packet.proto() == Some(Proto::Tcp));
        // Somebody of a link is asked for there, and nobody answers.
        let is_of_a_link = matches!(src, IpAddr::V6(src) if src.is_unicast_link_local());
        let is_nobody = self.is_host(src)
            || is_unspecified
            || is_of_a_link
            || src.is_multicast()
            || packet.dst.addr().is_multicast();
        let is_unread = packet.flaw.is_some() || packet.is_piece() || !is_believed(packet);
        let answer = match obstacle(packet) {
            _ if is_nobody || packet.flaw.is_some() => None,
            _ if packet.demand().is_some() => demanded(packet.dst, packet),
            Some(error) => Some(error),
            None if is_unread => None,
            None => answer(packet),
        };
        let sent = answer.map(|packet| Sent { to, packet, made_by_host: true });
        Outcome { verdict: Verdict::Host, sent: sent.into_iter().collect(), named: None, may_vanish: false }
    }

    /// A packet that the host would forward has hop-by-hop options that ask it not to; its sender is told if they ask for
    /// that, too. None: they do not.
    pub(crate) fn demanded(&self, from: Place, packet: &Packet) -> Option<Outcome> {
        packet.demand()?;
        let error = demanded(End::At((self.teller(from), 0).into()), packet);
        let sent = error.map(|packet| Sent { to: from, packet, made_by_host: true });
        let sent = sent.into_iter().collect();
        Some(Outcome { verdict: Verdict::Demanded, sent, named: None, may_vanish: false })
    }

    /// Which of the host's addresses speaks to somebody there.
    fn teller(&self, to: Place) -> IpAddr {
        if to == Place::Outside { self.config.host } else { self.config.gateway }
    }

    /// The hops of `packet`, as the stack has it, are at their end: its sender is told, who sees `quoted`.
    pub(crate) fn time_exceeded(&self, from: Place, packet: &Packet, quoted: &Packet) -> Outcome {
        // RFC 1122, 3.2.2, which RFC 4443, 2.4, does not repeat.
        let is_silent = packet.is_later_fragment() && !packet.is_v6();
        let error = error(End::At((self.teller(from), 0).into()), quoted, ErrorKind::TimeExceeded, 0, 0);
        let sent = (!is_silent).then_some(Sent { to: from, packet: error, made_by_host: true });
        Outcome { verdict: Verdict::TimeExceeded, sent: sent.into_iter().collect(), named: None, may_vanish: false }
    }
}

/// Whether the transport checksum is as the host wants it.
fn is_believed(packet: &Packet) -> bool {
    match packet.checksum {
        Checksum::Right => true,
        // RFC 8200, 8.1.
        Checksum::None => !packet.is_v6(),
        Checksum::Wrong(_) => false,
    }
}

/// What comes of an extension header that the host does not go past (RFC 8200, 4.1 and 4.4; RFC 4443, 3.4).
fn obstacle(packet: &Packet) -> Option<Packet> {
    const FIELD: u8 = 0;
    let (extension, off) = packet.obstacle()?;
    let (code, pointer) = match extension {
        Extension::Routing { .. } => (FIELD, off + 2),
        Extension::HopByHop(_) | Extension::Demanding { .. } | Extension::Destination(_) => {
            (NEXT_HEADER, packet.names(off))
        }
    };
    Some(error(packet.dst, packet, ErrorKind::ParameterProblem, code, pointer as u16))
}

/// Unrecognized option, which is the first one (RFC 4443, 3.4).
fn demanded(src: End, packet: &Packet) -> Option<Packet> {
    const OPTION: u8 = 2;
    packet.demand()?.then(|| error(src, packet, ErrorKind::ParameterProblem, OPTION, 42))
}

fn answer(packet: &Packet) -> Option<Packet> {
    // Port unreachable (RFC 792; RFC 4443, 3.1).
    let port = if packet.is_v6() { 4 } else { 3 };
    match &packet.body {
        Body::Tcp(tcp) if tcp.has(Tcp::RST) => None,
        Body::Tcp(tcp) => Some(Packet::new(packet.dst, packet.src, Body::Tcp(reset(tcp)))),
        Body::Udp { .. } => Some(error(packet.dst, packet, ErrorKind::Unreachable, port, 0)),
        Body::Other { proto: NO_NEXT_HEADER, .. } if packet.is_v6() => None,
        Body::Other { .. } if packet.is_v6() => {
            let pointer = packet.names(packet.transport_off());
            Some(error(packet.dst, packet, ErrorKind::ParameterProblem, NEXT_HEADER, pointer as u16))
        }
        Body::Other { .. } => Some(error(packet.dst, packet, ErrorKind::Unreachable, PROTOCOL, 0)),
        Body::Echo { is_reply: false, sequence, payload } => {
            let body = Body::Echo { is_reply: true, sequence: *sequence, payload: payload.clone() };
            Some(Packet::new(packet.dst, packet.src, body))
        }
        Body::Echo { .. } | Body::Error(_) | Body::OtherIcmp { .. } => None,
    }
}

/// RFC 9293, 3.10.7.1.
fn reset(tcp: &Tcp) -> Tcp {
    if tcp.has(Tcp::ACK) {
        return Tcp { flags: Tcp::RST, seq: tcp.ack, ..Tcp::default() };
    }
    Tcp { flags: Tcp::RST | Tcp::ACK, ack: tcp.end(), ..Tcp::default() }
}

fn error(src: End, quoted: &Packet, kind: ErrorKind, code: u8, word: u16) -> Packet {
    let quote = Quote { kind, code, word, packet: Box::new(quoted.clone()), len: usize::MAX };
    Packet::new(without_port(&src), without_port(&quoted.src), Body::Error(quote))
}

/// An error has addresses only. A name keeps its own: the address is all that is used of it.
fn without_port(end: &End) -> End {
    match end {
        End::At(at) => End::At((at.ip(), 0).into()),
        End::Name(name) => End::At((name.host, 0).into()),
    }
}
