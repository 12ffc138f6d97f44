//! Fragments: only the first one of a datagram says whose it is, those behind it go where it went.

use std::net::IpAddr;

use crate::packet::{Body, End, Name, Packet};

/// What all fragments of a datagram have in common (RFC 791, 3.2).
type Key = (IpAddr, IpAddr, u16, u8);

/// Datagrams whose first fragment has passed, and the names that were given: the port that a first fragment went to
/// is not that of a name which was given later.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fragments {
    known: Vec<(Key, usize)>,
    named: Vec<Name>,
}

impl Fragments {
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Notes that a name was given.
    pub(crate) fn note_name(&mut self, name: Name) {
        self.named.push(name);
    }

    /// Notes a first fragment that passes.
    pub(crate) fn note(&mut self, packet: &Packet) {
        if packet.fragment.is_some_and(|fragment| fragment.offset == 0) {
            self.known.push((key(packet), self.times_named(packet)));
        }
    }

    /// Whether nobody knows whose this fragment is.
    pub(crate) fn is_stray(&self, packet: &Packet) -> bool {
        packet.is_later_fragment() && !self.known.contains(&(key(packet), self.times_named(packet)))
    }

    fn times_named(&self, packet: &Packet) -> usize {
        let End::Name(name) = packet.dst else { return 0 };
        self.named.iter().filter(|named| named.is_same_mapping(&name)).count()
    }
}

fn key(packet: &Packet) -> Key {
    let proto = match &packet.body {
        Body::Tcp(_) => 6,
        Body::Udp { .. } => 17,
        Body::Echo { .. } | Body::Error(_) | Body::OtherIcmp { .. } => 1,
        Body::Other { proto, .. } => *proto,
    };
    (packet.src.addr(), packet.dst.addr(), packet.id, proto)
}
