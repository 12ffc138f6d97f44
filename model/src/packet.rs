//! A packet as the model sees it: its fields. How they become bytes is the business of who sends it.

use std::net::{IpAddr, SocketAddr};

/// What has ports, or an identifier in their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proto {
    Tcp,
    Udp,
    Icmp,
}

/// An address and port that the data plane chose: what `inside` is called by `asked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub proto: Proto,
    pub inside: SocketAddr,
    /// Whom the inside talks to, as it knows it.
    pub asked: SocketAddr,
    /// The host's address that masquerade uses.
    pub host: IpAddr,
}

impl Name {
    /// Whether both are one mapping: it does not depend on whom the inside talks to (RFC 4787, REQ-1).
    pub fn is_same_mapping(&self, other: &Self) -> bool {
        (self.proto, self.inside, self.host) == (other.proto, other.inside, other.host)
    }
}

/// One end of a packet. The port of an echo is its identifier, at the end of who asks; where there is no port it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    At(SocketAddr),
    Name(Name),
}

impl End {
    /// The address, which is known of a name, too.
    pub fn addr(&self) -> IpAddr {
        match self {
            Self::At(at) => at.ip(),
            Self::Name(name) => name.host,
        }
    }

    /// Whether both are the same address and port.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::At(one), Self::At(other)) => one == other,
            (Self::Name(one), Self::Name(other)) => one.is_same_mapping(other),
            _ => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src: End,
    pub dst: End,
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    pub dont_fragment: bool,
    /// IPv4 options, in bytes; a multiple of four.
    pub options: Vec<u8>,
    /// IPv6 only; 20 bits.
    pub flow_label: u32,
    /// IPv6 only.
    pub extensions: Vec<Extension>,
    pub body: Body,
    pub checksum: Checksum,
    pub fragment: Option<Fragment>,
    pub flaw: Option<Flaw>,
}

/// A header between IPv6's and the transport header's (RFC 8200, 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// One option that nobody needs to know, in units of eight bytes beyond the first.
    HopByHop(u8),
    /// Hop-by-hop options with one that nobody knows and that asks not to be forwarded then, and to be told so or not.
    Demanding { reports: bool },
    /// As [`Self::HopByHop`].
    Destination(u8),
    /// Of an experimental type (RFC 4727), without addresses.
    Routing { segments_left: u8 },
}

/// Which part of the datagram this packet carries, in bytes of transport header and payload.
/// All of it in one piece is what RFC 6946 calls an atomic fragment; IPv4 has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub offset: usize,
    pub len: usize,
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Tcp(Tcp),
    Udp {
        payload: Vec<u8>,
    },
    Echo {
        is_reply: bool,
        sequence: u16,
        payload: Vec<u8>,
    },
    /// An ICMP error.
    Error(Quote),
    /// An ICMP message that is neither echo nor error.
    OtherIcmp {
        kind: u8,
        payload: Vec<u8>,
    },
    /// A protocol without ports.
    Other {
        proto: u8,
        payload: Vec<u8>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// In bytes; a multiple of four.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// An ICMP error and what it quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    pub kind: ErrorKind,
    pub code: u8,
    /// The last half of the header's second word: the MTU of what is too big, the pointer of ICMPv6's parameter problem.
    pub word: u16,
    pub packet: Box<Packet>,
    /// How much of it is quoted behind its network header, in bytes.
    pub len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    Unreachable,
    /// IPv6's own; to IPv4 one of the codes of Unreachable.
    TooBig,
    TimeExceeded,
    ParameterProblem,
}

/// The transport header's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Right,
    /// UDP: there is none, which IPv6 does not allow (RFC 8200, 8.1).
    None,
    /// Wrong by this much.
    Wrong(u16),
}

/// What is wrong with the packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// IP version 5.
    Version,
    /// IPv4: a network header of four words.
    HeaderLength,
    /// IPv4: the network header's checksum.
    HeaderChecksum,
    /// IPv4: a total length of less than the network header's.
    TotalShort,
    /// A total length of more than the packet's.
    TotalLong,
    /// The transport header ends after this many bytes, and the total length says so.
    Cut(usize),
    /// IPv6: the first extension header ends beyond the packet.
    ExtensionLength,
    /// UDP's length field says this, or of TCP the data offset in words.
    Length(u16),
}

impl Tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The only segment that begins a connection: SYN without ACK, FIN and RST.
    pub fn is_opening(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// The sequence number after the segment: SYN and FIN take one each (RFC 9293, 3.4).
    pub fn end(&self) -> u32 {
        let phantom = u32::from(self.has(Self::SYN)) + u32::from(self.has(Self::FIN));
        self.seq.wrapping_add(self.payload.len() as u32).wrapping_add(phantom)
    }
}

impl Body {
    /// The same, whatever stands before it.
    pub fn proto(&self) -> Option<Proto> {
        match self {
            Self::Tcp(_) => Some(Proto::Tcp),
            Self::Udp { .. } => Some(Proto::Udp),
            Self::Echo { .. } => Some(Proto::Icmp),
            Self::Error(_) | Self::OtherIcmp { .. } | Self::Other { .. } => None,
        }
    }
}

impl Extension {
    /// In bytes.
    pub fn wire_len(&self) -> usize {
        match self {
            Self::HopByHop(more) | Self::Destination(more) => 8 + 8 * usize::from(*more),
            Self::Demanding { .. } | Self::Routing { .. } => 8,
        }
    }
}

impl Packet {
    /// A packet with nothing special about it.
    pub fn new(src: End, dst: End, body: Body) -> Self {
        Self {
            src,
            dst,
            ttl: 64,
            tos: 0,
            id: 1,
            dont_fragment: false,
            options: Vec::new(),
            flow_label: 0,
            extensions: Vec::new(),
            body,
            checksum: Checksum::Right,
            fragment: None,
            flaw: None,
        }
    }

    /// What its ports are ports of; none where there is nothing to translate by.
    pub fn proto(&self) -> Option<Proto> {
        self.body.proto().filter(|_| !self.hides_transport())
    }

    pub fn is_v6(&self) -> bool {
        self.dst.addr().is_ipv6()
    }

    /// Whether a translator may not take what follows the extension headers for the transport header.
    pub fn hides_transport(&self) -> bool {
        /// More are worth nobody's while (RFC 8504, 5.3, has hosts set a limit).
        const MOST: usize = 8;
        self.extensions.len() > MOST || self.obstacle().is_some()
    }

    /// The first extension header that whoever the packet is for does not go past, and where it lies in the packet: hop-by-hop
    /// options that are not the first (RFC 8200, 4.1), or a route that is not at its end, so that the destination is not
    /// that of the transport header's checksum (4.4 and 8.1).
    pub(crate) fn obstacle(&self) -> Option<(Extension, usize)> {
        let mut off = 40;
        for (index, extension) in self.extensions.iter().enumerate() {
            match extension {
                Extension::HopByHop(_) | Extension::Demanding { .. } if index > 0 => return Some((*extension, off)),
                Extension::Routing { segments_left: 1.. } => return Some((*extension, off)),
                _ => off += extension.wire_len(),
            }
        }
        None
    }

    /// Whether a router discards the packet because of its hop-by-hop options, and says so (RFC 8200, 4.2).
    pub(crate) fn demand(&self) -> Option<bool> {
        match self.extensions.first() {
            Some(Extension::Demanding { reports }) => Some(*reports),
            _ => None,
        }
    }

    /// Where the extension headers end.
    pub(crate) fn transport_off(&self) -> usize {
        40 + self.extensions.iter().map(Extension::wire_len).sum::<usize>()
    }

    /// Where the packet says what the header at `off` is: in the header before it.
    pub(crate) fn names(&self, off: usize) -> usize {
        let mut before = 40;
        for extension in &self.extensions {
            if before + extension.wire_len() == off {
                return before;
            }
            before += extension.wire_len();
        }
        6
    }

    /// A part of a datagram that has others.
    pub fn is_piece(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset > 0 || fragment.more)
    }

    /// Whether nobody can say what the packet is, or it is not what was sent (RFC 1812, 5.2.2).
    pub fn is_malformed(&self) -> bool {
        self.flaw.is_some()
    }

    /// A fragment without the transport header.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset > 0)
    }

    /// The same packet one hop on.
    pub fn hopped(&self) -> Self {
        Self { ttl: self.ttl - 1, ..self.clone() }
    }
}
