//! Two who talk: what each calls itself and the other, and what comes next.

use std::net::SocketAddr;

use netpath_model::packet::{ErrorKind, Quote};
use netpath_model::{Body, End, Name, Packet, Place, Proto, Tcp};

use crate::rng::Rng;
use crate::step::{Stimulus, Via};

/// Who of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Who has begun.
    First,
    Second,
}

impl Party {
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];

    pub fn other(self) -> Self {
        if self == Self::First { Self::Second } else { Self::First }
    }
}

#[derive(Clone, Debug)]
pub struct Conversation {
    pub proto: Proto,
    /// Where the first one is, and what it calls itself.
    pub first: (Place, SocketAddr),
    /// The same of the second one.
    pub second: (Place, SocketAddr),
    /// What the first one calls the second.
    pub asked: SocketAddr,
    /// What the second one calls the first.
    pub asker: End,
    /// Neighbours: frames are for each other's hardware address.
    is_direct: bool,
    /// TCP: each one's next sequence number, and what has been said so far.
    seq: [u32; 2],
    syn: [bool; 2],
    fin: [bool; 2],
}

impl Conversation {
    /// Both under their own names.
    pub fn direct(proto: Proto, first: (Place, SocketAddr), second: (Place, SocketAddr), rng: &mut Rng) -> Self {
        let is_direct = matches!((first.0, second.0), (Place::Container(_), Place::Container(_)));
        let seq = [rng.word() as u32, rng.word() as u32];
        Self {
            proto,
            first,
            second,
            asked: second.1,
            asker: End::At(first.1),
            is_direct,
            seq,
            syn: [false; 2],
            fin: [false; 2],
        }
    }

    /// The first one asks for `asked`, which leads to the second.
    pub fn asking(self, asked: SocketAddr) -> Self {
        Self { asked, is_direct: false, ..self }
    }

    /// The first one has a name of the data plane's choice.
    pub fn named(self, name: Name) -> Self {
        Self { asker: End::Name(name), is_direct: false, ..self }
    }

    pub fn place(&self, party: Party) -> Place {
        if party == Party::First { self.first.0 } else { self.second.0 }
    }

    /// The ends of what `party` sends, as it sends it.
    pub fn sent_by(&self, party: Party) -> (End, End) {
        match party {
            Party::First => (End::At(self.first.1), End::At(self.asked)),
            Party::Second => (End::At(self.second.1), self.asker),
        }
    }

    /// The ends of what `party` gets.
    pub fn got_by(&self, party: Party) -> (End, End) {
        match party {
            Party::First => (End::At(self.asked), End::At(self.first.1)),
            Party::Second => (self.asker, End::At(self.second.1)),
        }
    }

    pub fn stimulus(&self, party: Party, packet: Packet) -> Stimulus {
        let via = match self.place(party.other()) {
            Place::Container(number) if self.is_direct => Via::Neighbour(number),
            _ => Via::Host,
        };
        Stimulus { via, ..Stimulus::new(self.place(party), packet) }
    }

    /// A packet from `party` with this body.
    pub fn packet(&self, party: Party, body: Body) -> Packet {
        let (src, dst) = self.sent_by(party);
        Packet::new(src, dst, body)
    }

    /// A datagram, echo or segment from `party` that fits what was said, but is not noted.
    pub fn anything(&self, party: Party, payload: Vec<u8>, rng: &mut Rng) -> Packet {
        let body = match self.proto {
            Proto::Udp => Body::Udp { payload },
            Proto::Icmp => Body::Echo { is_reply: party == Party::Second, sequence: rng.below(4) as u16, payload },
            Proto::Tcp => Body::Tcp(Tcp { payload, ..self.segment(party, Tcp::ACK) }),
        };
        self.packet(party, body)
    }

    /// A bare segment at the place where the connection is.
    pub fn segment(&self, party: Party, flags: u8) -> Tcp {
        let (own, other) = if party == Party::First { (0, 1) } else { (1, 0) };
        let ack = if flags & Tcp::ACK != 0 { self.seq[other] } else { 0 };
        Tcp { flags, seq: self.seq[own], ack, window: 0xffff, ..Tcp::default() }
    }

    /// What comes next, noted.
    pub fn next(&mut self, rng: &mut Rng) -> (Party, Packet) {
        let payload = vec![rng.word() as u8; rng.below(9)];
        if self.proto != Proto::Tcp {
            let party = if rng.chance(50) { Party::First } else { Party::Second };
            return (party, self.anything(party, payload, rng));
        }
        let (party, flags, payload) = self.next_flags(payload, rng);
        let tcp = Tcp { payload, ..self.segment(party, flags) };
        let own = usize::from(party == Party::Second);
        self.syn[own] |= tcp.has(Tcp::SYN);
        self.fin[own] |= tcp.has(Tcp::FIN);
        self.seq[own] = tcp.end();
        (party, self.packet(party, Body::Tcp(tcp)))
    }

    fn next_flags(&mut self, payload: Vec<u8>, rng: &mut Rng) -> (Party, u8, Vec<u8>) {
        const PUSH: u8 = 0x08;
        let none = Vec::new();
        match self.syn {
            [false, _] => return (Party::First, Tcp::SYN, none),
            [true, false] => return (Party::Second, Tcp::SYN | Tcp::ACK, none),
            [true, true] => {}
        }
        let party = if rng.chance(50) { Party::First } else { Party::Second };
        let own = usize::from(party == Party::Second);
        if self.fin == [true, true] {
            if rng.chance(40) {
                // The same ends begin anew.
                (self.syn, self.fin) = ([false; 2], [false; 2]);
                self.seq = [self.seq[0].wrapping_add(100_000), rng.word() as u32];
                return (Party::First, Tcp::SYN, none);
            }
            return (party, Tcp::ACK, none);
        }
        if self.fin[own] {
            return (party, Tcp::ACK, none);
        }
        match rng.below(10) {
            0 => (party, Tcp::FIN | Tcp::ACK, none),
            1..=3 => (party, Tcp::ACK, none),
            _ => (party, Tcp::ACK | PUSH, payload),
        }
    }

    /// An error that `party`, or somebody between, sends about what it got.
    pub fn error(&self, party: Party, quoted: Packet, rng: &mut Rng) -> Packet {
        let (src, dst) = self.got_by(party);
        let quoted = Packet { src, dst, ttl: 1 + rng.below(60) as u8, ..quoted };
        // Port, and host or whoever forbids it (RFC 792; RFC 4443, 3.1).
        let unreachable = if quoted.is_v6() { [4, 1] } else { [3, 1] };
        let too_big = if quoted.is_v6() { 0 } else { 4 };
        // What no link may be as small as is the receiver's to disbelieve (RFC 8201, 4).
        let mtu = rng.pick(&[1280, 1280, 1499, 600, 0]);
        let (kind, code, word) = rng.pick(&[
            (ErrorKind::Unreachable, unreachable[0], 0),
            (ErrorKind::Unreachable, unreachable[1], 0),
            (ErrorKind::TooBig, too_big, mtu),
            (ErrorKind::TimeExceeded, 0, 0),
            (ErrorKind::ParameterProblem, 0, 0),
        ]);
        let len = rng.pick(&[8, 8, 20, 28, usize::MAX, 4]);
        let (own, to) = (dst.addr(), src);
        let quote = Quote { kind, code, word, packet: Box::new(quoted), len };
        Packet::new(End::At((own, 0).into()), without_port(to), Body::Error(quote))
    }
}

fn without_port(end: End) -> End {
    match end {
        End::At(at) => End::At((at.ip(), 0).into()),
        name @ End::Name(_) => name,
    }
}
