//! What the host's own stack answers: nothing of its own listens anywhere.

use crate::nat::{Nat, Outcome, Place, Sent, Verdict};
use crate::packet::{Body, Checksum, End, ErrorKind, Packet, Quote, Tcp};

impl Nat {
    /// A packet for the host itself. It answers whom the packet says it is from, wherever it came in: that a source is
    /// no martian is the host's own business (`rp_filter`).
    pub(crate) fn host_answers(&self, from: Place, packet: &Packet) -> Outcome {
        let src = packet.src.addr();
        let to = match self.container_at(src) {
            Some(number) => Place::Container(number),
            None => from,
        };
        let is_nobody = self.is_host(src) || src.is_unspecified() || src.is_multicast();
        let is_unread =
            packet.flaw.is_some() || packet.fragment.is_some() || matches!(packet.checksum, Checksum::Wrong(_));
        let answer = if is_unread || is_nobody { None } else { answer(packet) };
        let sent = answer.map(|packet| Sent { to, packet, made_by_host: true });
        Outcome { verdict: Verdict::Host, sent: sent.into_iter().collect(), named: None, may_vanish: false }
    }

    /// The hops of `packet`, as the stack has it, are at their end: its sender is told, who sees `quoted`.
    pub(crate) fn time_exceeded(&self, from: Place, packet: &Packet, quoted: &Packet) -> Outcome {
        let is_silent = packet.is_later_fragment();
        let teller = if from == Place::Outside { self.config.host } else { self.config.gateway };
        let error = error(End::At((teller, 0).into()), quoted, ErrorKind::TimeExceeded, 0);
        let sent = (!is_silent).then_some(Sent { to: from, packet: error, made_by_host: true });
        Outcome { verdict: Verdict::TimeExceeded, sent: sent.into_iter().collect(), named: None, may_vanish: false }
    }
}

fn answer(packet: &Packet) -> Option<Packet> {
    /// Port unreachable, protocol unreachable (RFC 792).
    const PORT: u8 = 3;
    const PROTOCOL: u8 = 2;
    match &packet.body {
        Body::Tcp(tcp) if tcp.has(Tcp::RST) => None,
        Body::Tcp(tcp) => Some(Packet::new(packet.dst, packet.src, Body::Tcp(reset(tcp)))),
        Body::Udp { .. } => Some(error(without_port(&packet.dst), packet, ErrorKind::Unreachable, PORT)),
        Body::Other { .. } => Some(error(packet.dst, packet, ErrorKind::Unreachable, PROTOCOL)),
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

fn error(src: End, quoted: &Packet, kind: ErrorKind, code: u8) -> Packet {
    let quote = Quote { kind, code, word: 0, packet: Box::new(quoted.clone()), len: usize::MAX };
    Packet::new(src, without_port(&quoted.src), Body::Error(quote))
}

/// An error has addresses only. A name keeps its own: the address is all that is used of it.
fn without_port(end: &End) -> End {
    match end {
        End::At(at) => End::At((at.ip(), 0).into()),
        End::Name(name) => End::At((name.host, 0).into()),
    }
}
