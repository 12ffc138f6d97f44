//! IP packets of both families as bytes: built from parts, taken apart, fragmented, with checksums that are right unless
//! a test spoils them. Knows no interface and no socket.
//!
//! Every field of a [`Packet`] may be changed before [`Packet::bytes`]; checksums of the transport header are filled in
//! by the constructors and by [`Packet::sealed`] only, so whoever changes a packet decides whether they fit.
//! Long because building and parsing are each other's test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Family;
use crate::icmp::{self, checksum};

pub const HOP_BY_HOP: u8 = 0;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const ICMPV6: u8 = 58;
pub const NO_NEXT_HEADER: u8 = 59;
pub const DESTINATION_OPTIONS: u8 = 60;
pub const SCTP: u8 = 132;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;

/// An IP packet. Numbers are in host byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// The transport protocol, or what the last extension header names as next.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Of IPv6; 20 bits.
    pub flow_label: u32,
    /// Identification: 16 bits in IPv4's header, 32 in IPv6's fragment header.
    pub id: u32,
    /// The first of IPv4's flags, which is reserved.
    pub reserved: bool,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    /// Of this fragment's data, in bytes; a multiple of eight.
    pub offset: usize,
    /// IPv6 has a fragment header though the packet is whole.
    pub atomic: bool,
    /// IPv4's options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6's extension headers before a fragment header: kind, and what follows its first two bytes.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Transport header and payload.
    pub l4: Vec<u8>,
}

/// What a TCP header says besides its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    pub urgent: u16,
    /// The four bits between data offset and flags.
    pub reserved: u8,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
}

impl Default for Segment {
    fn default() -> Self {
        Self { flags: SYN, seq: 1000, ack: 0, window: 0xffff, urgent: 0, reserved: 0, options: Vec::new() }
    }
}

impl Segment {
    pub fn new(flags: u8, seq: u32, ack: u32) -> Self {
        Self { flags, seq, ack, ..Self::default() }
    }
}

impl Packet {
    /// A packet with any transport protocol; `l4` is taken as it is.
    pub fn new(src: IpAddr, dst: IpAddr, proto: u8, l4: Vec<u8>) -> Self {
        Self {
            src,
            dst,
            proto,
            ttl: 64,
            tos: 0,
            flow_label: 0,
            id: 0x1234,
            reserved: false,
            dont_fragment: false,
            more_fragments: false,
            offset: 0,
            atomic: false,
            options: Vec::new(),
            extensions: Vec::new(),
            l4,
        }
    }

    pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Self {
        let mut l4 = ports(src, dst);
        l4.extend(((8 + payload.len()) as u16).to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(payload);
        Self::new(src.ip(), dst.ip(), UDP, l4).sealed()
    }

    pub fn tcp(src: SocketAddr, dst: SocketAddr, segment: &Segment, payload: &[u8]) -> Self {
        let mut l4 = ports(src, dst);
        l4.extend(segment.seq.to_be_bytes());
        l4.extend(segment.ack.to_be_bytes());
        let words = 5 + segment.options.len() / 4;
        l4.extend([(words as u8) << 4 | segment.reserved & 0xf, segment.flags]);
        l4.extend(segment.window.to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(segment.urgent.to_be_bytes());
        l4.extend(&segment.options);
        l4.extend(payload);
        Self::new(src.ip(), dst.ip(), TCP, l4).sealed()
    }

    /// An SCTP packet with `chunks` behind the common header (RFC 9260, 3).
    pub fn sctp(src: SocketAddr, dst: SocketAddr, tag: u32, chunks: &[u8]) -> Self {
        let mut l4 = ports(src, dst);
        l4.extend(tag.to_be_bytes());
        l4.extend([0; 4]);
        l4.extend(chunks);
        Self::new(src.ip(), dst.ip(), SCTP, l4).sealed()
    }

    /// An ICMP message of the addresses' family; `word` is what follows the checksum.
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, word: [u8; 4], body: &[u8]) -> Self {
        let l4 = [&[kind, code, 0, 0], &word[..], body].concat();
        Self::new(src, dst, icmp_of(src), l4).sealed()
    }

    pub fn echo_request(src: IpAddr, dst: IpAddr, id: u16, body: &[u8]) -> Self {
        let kind = Family::of(src).pick(icmp::ECHO_REQUEST, icmp::ECHO_REQUEST_V6);
        let [high, low] = id.to_be_bytes();
        Self::icmp(src, dst, kind, 0, [high, low, 0, 1], body)
    }

    pub fn echo_reply(src: IpAddr, dst: IpAddr, id: u16, body: &[u8]) -> Self {
        let kind = Family::of(src).pick(icmp::ECHO_REPLY, icmp::ECHO_REPLY_V6);
        let [high, low] = id.to_be_bytes();
        Self::icmp(src, dst, kind, 0, [high, low, 0, 1], body)
    }

    /// With the checksum of the transport header right for everything else that the packet says.
    pub fn sealed(mut self) -> Self {
        if self.proto == SCTP {
            self.l4[8..12].fill(0);
            let sum = crc32c(&self.l4).to_le_bytes();
            self.l4[8..12].copy_from_slice(&sum);
        } else if let Some(at) = checksum_offset(self.proto) {
            self.l4[at..at + 2].fill(0);
            let sum = checksum(&self.covered());
            // RFC 768: all ones, since zero means that there is none.
            let sum = if sum == 0 && self.proto == UDP { 0xffff } else { sum };
            self.l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self
    }

    /// The packet's bytes, from the network header on.
    pub fn bytes(&self) -> Vec<u8> {
        let header = if self.src.is_ipv4() { self.header4() } else { self.header6() };
        [header, self.l4.clone()].concat()
    }

    /// The packet that `bytes` begin with; what lies behind its length is padding and left out. None where the network
    /// header says less or more than there is.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => parse4(bytes),
            6 => parse6(bytes),
            _ => None,
        }
    }

    /// The packet in the Ethernet frame `frame`, if there is one.
    pub fn of_frame(frame: &[u8]) -> Option<Self> {
        match frame.get(12..14)? {
            [0x08, 0x00] | [0x86, 0xdd] => Self::parse(&frame[14..]),
            _ => None,
        }
    }

    /// The same datagram in pieces of at most `size` bytes of data, a multiple of eight.
    pub fn fragments(&self, size: usize) -> Vec<Self> {
        assert!(size > 0 && size.is_multiple_of(8), "fragments of {size} bytes");
        let pieces = self.l4.chunks(size).enumerate();
        let piece = |(index, data): (usize, &[u8])| Self {
            offset: index * size,
            more_fragments: (index + 1) * size < self.l4.len(),
            l4: data.to_vec(),
            ..self.clone()
        };
        pieces.map(piece).collect()
    }

    /// The datagram that `parts` are the fragments of, in any order; None where they leave a gap, overlap or belong to
    /// several datagrams. A whole packet is its own only part.
    pub fn reassembled(parts: &[Self]) -> Option<Self> {
        let mut parts = parts.to_vec();
        parts.sort_by_key(|part| part.offset);
        let mut whole = parts.first()?.clone();
        whole.l4.clear();
        for part in &parts {
            let is_next = part.offset == whole.l4.len() && whole.more_fragments | (part.offset == 0);
            let is_same = (part.src, part.dst, part.proto, part.id) == (whole.src, whole.dst, whole.proto, whole.id);
            if !is_next || !is_same {
                return None;
            }
            whole.l4.extend(&part.l4);
            whole.more_fragments = part.more_fragments;
        }
        (whole.offset, whole.atomic) = (0, false);
        (!whole.more_fragments).then_some(whole)
    }

    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.offset != 0
    }

    /// What is wrong with the checksums of a whole packet, by calculation from scratch; a datagram without one is fine.
    pub fn wrong_checksum(&self) -> Option<&'static str> {
        if self.proto == SCTP {
            return (self.clone().sealed().l4 != self.l4).then_some("checksum of SCTP");
        }
        let at = checksum_offset(self.proto)?;
        let has_none = self.proto == UDP && self.l4.get(at..at + 2) == Some(&[0, 0]);
        (!has_none && checksum(&self.covered()) != 0).then_some("checksum of the transport header")
    }

    /// Source and destination port; of an echo its identifier, twice.
    pub fn ports(&self) -> (u16, u16) {
        match self.proto {
            ICMP | ICMPV6 => (self.half(4), self.half(4)),
            _ => (self.half(0), self.half(2)),
        }
    }

    /// Source address and port.
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.src, self.ports().0)
    }

    /// Destination address and port.
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.dst, self.ports().1)
    }

    /// What follows the transport header.
    pub fn payload(&self) -> &[u8] {
        let header = match self.proto {
            TCP => usize::from(self.l4.get(12).copied().unwrap_or(0x50) >> 4) * 4,
            SCTP => 12,
            UDP | ICMP | ICMPV6 => 8,
            _ => 0,
        };
        self.l4.get(header..).unwrap_or_default()
    }

    /// Type and code of an ICMP message.
    pub fn kind(&self) -> Option<(u8, u8)> {
        let is_icmp = [ICMP, ICMPV6].contains(&self.proto) && self.l4.len() >= 8;
        is_icmp.then(|| (self.l4[0], self.l4[1]))
    }

    /// Of a TCP segment, what its header says.
    pub fn segment(&self) -> Option<Segment> {
        if self.proto != TCP || self.l4.len() < 20 {
            return None;
        }
        let end = (usize::from(self.l4[12] >> 4) * 4).clamp(20, self.l4.len());
        Some(Segment {
            flags: self.l4[13],
            seq: u32::from(self.half(4)) << 16 | u32::from(self.half(6)),
            ack: u32::from(self.half(8)) << 16 | u32::from(self.half(10)),
            window: self.half(14),
            urgent: self.half(18),
            reserved: self.l4[12] & 0xf,
            options: self.l4[20..end].to_vec(),
        })
    }

    fn half(&self, at: usize) -> u16 {
        self.l4.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What the transport checksum is the sum of.
    fn covered(&self) -> Vec<u8> {
        if self.proto == ICMP {
            return self.l4.clone();
        }
        let length = (self.l4.len() as u32).to_be_bytes();
        [octets(self.src), octets(self.dst), length.to_vec(), vec![0, 0, 0, self.proto], self.l4.clone()].concat()
    }

    fn header4(&self) -> Vec<u8> {
        let length = 20 + self.options.len();
        let flags = [(self.reserved, 0x8000), (self.dont_fragment, 0x4000), (self.more_fragments, 0x2000)];
        let flags: u16 = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum();
        let mut header = vec![0x40 | (length / 4) as u8, self.tos];
        header.extend(((length + self.l4.len()) as u16).to_be_bytes());
        header.extend((self.id as u16).to_be_bytes());
        header.extend((flags | (self.offset / 8) as u16).to_be_bytes());
        header.extend([self.ttl, self.proto, 0, 0]);
        header.extend([octets(self.src), octets(self.dst), self.options.clone()].concat());
        fix_header_checksum(&mut header);
        header
    }

    fn header6(&self) -> Vec<u8> {
        let has_fragment_header = self.atomic || self.is_fragment();
        let mut kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.extend(has_fragment_header.then_some(FRAGMENT));
        kinds.push(self.proto);
        let mut extensions = Vec::new();
        for ((_, body), next) in self.extensions.iter().zip(&kinds[1..]) {
            assert_eq!((body.len() + 2) % 8, 0, "an extension header of {} bytes", body.len() + 2);
            extensions.extend([*next, ((body.len() + 2) / 8 - 1) as u8]);
            extensions.extend(body);
        }
        if has_fragment_header {
            extensions.extend([self.proto, 0]);
            extensions.extend((self.offset as u16 | u16::from(self.more_fragments)).to_be_bytes());
            extensions.extend(self.id.to_be_bytes());
        }
        let first = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label;
        let mut header = first.to_be_bytes().to_vec();
        header.extend(((extensions.len() + self.l4.len()) as u16).to_be_bytes());
        header.extend([kinds[0], self.ttl]);
        header.extend([octets(self.src), octets(self.dst), extensions].concat());
        header
    }
}

/// Makes the header checksum of the IPv4 packet `bytes` right for the header length that it claims.
pub fn fix_header_checksum(bytes: &mut [u8]) {
    let end = (usize::from(bytes[0] & 0xf) * 4).clamp(20, bytes.len());
    bytes[10..12].fill(0);
    let sum = checksum(&bytes[..end]).to_be_bytes();
    bytes[10..12].copy_from_slice(&sum);
}

/// The protocol number of ICMP in the family of `address`.
pub fn icmp_of(address: IpAddr) -> u8 {
    Family::of(address).pick(ICMP, ICMPV6)
}

fn ports(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat()
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

fn checksum_offset(proto: u8) -> Option<usize> {
    match proto {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

/// CRC-32C as SCTP has it (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn parse4(bytes: &[u8]) -> Option<Packet> {
    let half = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (header, length) = (usize::from(bytes[0] & 0xf) * 4, usize::from(half(2)?));
    let addr = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
    if header < 20 || length < header {
        return None;
    }
    let flags = half(6)?;
    let mut packet =
        Packet::new(addr(12)?.into(), addr(16)?.into(), *bytes.get(9)?, bytes.get(header..length)?.to_vec());
    (packet.tos, packet.ttl, packet.id) = (bytes[1], bytes[8], u32::from(half(4)?));
    (packet.reserved, packet.dont_fragment) = (flags & 0x8000 != 0, flags & 0x4000 != 0);
    (packet.more_fragments, packet.offset) = (flags & 0x2000 != 0, usize::from(flags & 0x1fff) * 8);
    packet.options = bytes[20..header].to_vec();
    (checksum(&bytes[..header]) == 0).then_some(packet)
}

fn parse6(bytes: &[u8]) -> Option<Packet> {
    let first = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let end = 40 + usize::from(u16::from_be_bytes(bytes.get(4..6)?.try_into().ok()?));
    let addr = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
    let mut packet = Packet::new(addr(8)?.into(), addr(24)?.into(), bytes[6], Vec::new());
    (packet.tos, packet.flow_label, packet.ttl) = ((first >> 20) as u8, first & 0xf_ffff, bytes[7]);
    let mut rest = bytes.get(40..end)?;
    while [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS].contains(&packet.proto) && packet.offset == 0 {
        let length = 8 * (usize::from(*rest.get(1)?) + 1);
        packet.extensions.push((packet.proto, rest.get(2..length)?.to_vec()));
        (packet.proto, rest) = (rest[0], &rest[length..]);
    }
    if packet.proto == FRAGMENT {
        let header = rest.get(..8)?;
        let word = u16::from_be_bytes([header[2], header[3]]);
        (packet.offset, packet.more_fragments) = (usize::from(word & !7), word & 1 != 0);
        packet.id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        packet.atomic = !packet.is_fragment();
        (packet.proto, rest) = (header[0], &rest[8..]);
    }
    packet.l4 = rest.to_vec();
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEERS: [(&str, &str); 2] = [("172.17.0.2:5000", "198.18.0.2:53"), ("[fd00::2]:5000", "[2001:db8::2]:53")];

    fn everything() -> Vec<Packet> {
        let mut packets = Vec::new();
        for (src, dst) in PEERS {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().expect("a"), dst.parse().expect("b"));
            let segment = Segment { options: vec![2, 4, 5, 180], reserved: 5, ..Segment::new(SYN, 7, 9) };
            packets.push(Packet::udp(src, dst, b"odd"));
            packets.push(Packet::tcp(src, dst, &segment, b"data"));
            packets.push(Packet::sctp(src, dst, 7, &[1, 0, 0, 4]));
            packets.push(Packet::echo_request(src.ip(), dst.ip(), 77, b"ping"));
        }
        packets
    }

    #[test]
    fn what_was_built_is_what_is_parsed() {
        for mut packet in everything() {
            (packet.ttl, packet.tos) = (9, 0xb9);
            if packet.src.is_ipv4() {
                (packet.options, packet.reserved, packet.dont_fragment) = (vec![1; 8], true, true);
            } else {
                packet.extensions = vec![(HOP_BY_HOP, vec![0; 6]), (DESTINATION_OPTIONS, vec![0; 14])];
                (packet.atomic, packet.flow_label) = (true, 0x12345);
            }
            let padded = [packet.bytes(), vec![0; 7]].concat();
            assert_eq!(Packet::parse(&padded), Some(packet.clone()));
            assert_eq!(packet.wrong_checksum(), None, "{packet:?}");
        }
    }

    #[test]
    fn fragments_put_together_are_the_datagram() {
        for packet in everything() {
            let parts: Vec<Packet> =
                packet.fragments(8).iter().map(|f| Packet::parse(&f.bytes()).expect("f")).collect();
            assert!(parts.len() > 1 && parts.iter().all(Packet::is_fragment));
            assert_eq!(parts.iter().flat_map(|part| part.l4.clone()).collect::<Vec<u8>>(), packet.l4);
            assert!(!parts.last().expect("one").more_fragments);
            let reversed: Vec<Packet> = parts.iter().rev().cloned().collect();
            assert_eq!(Packet::reassembled(&reversed), Some(packet.clone()));
            assert_eq!(Packet::reassembled(&parts[1..]), None);
            assert_eq!(Packet::reassembled(&parts[..parts.len() - 1]), None);
        }
    }

    #[test]
    fn a_spoiled_packet_is_seen() {
        for mut packet in everything() {
            *packet.l4.last_mut().expect("a byte") ^= 1;
            assert!(packet.wrong_checksum().is_some(), "{packet:?}");
        }
    }

    #[test]
    fn crc32c_gives_the_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
