//! A model's packet as bytes, once it is known what the names in it stand for.

use std::net::SocketAddr;

use netpath_model::packet::{ErrorKind, Extension, Quote};
use netpath_model::{Body, Checksum, End, Flaw, Name, Packet};
use netpath_tests::Family;
use netpath_tests::packets::{self, Segment, fix_header_checksum};

/// What each name stands for.
pub type Resolve<'a> = &'a dyn Fn(&Name) -> SocketAddr;

/// How much larger a wrong network header checksum is than the right one, in ones' complement.
const WRONG_HEADER: u16 = 0x1234;

pub fn resolved(end: &End, resolve: Resolve) -> SocketAddr {
    match end {
        End::At(at) => *at,
        End::Name(name) => resolve(name),
    }
}

/// The packet from the network header on.
pub fn bytes(packet: &Packet, resolve: Resolve) -> Vec<u8> {
    let cut = cut(packet, resolve);
    match packet.flaw {
        None => cut.bytes(),
        Some(flaw) => flawed(cut, flaw),
    }
}

/// The packet before it is spoilt.
fn cut(packet: &Packet, resolve: Resolve) -> packets::Packet {
    let mut whole = whole(packet, resolve);
    if let Some(fragment) = packet.fragment {
        let end = (fragment.offset + fragment.len).min(whole.l4.len());
        whole.l4 = whole.l4[fragment.offset.min(end)..end].to_vec();
        (whole.offset, whole.more_fragments, whole.atomic) = (fragment.offset, fragment.more, !packet.is_piece());
    }
    whole
}

/// Number of bytes of transport header and payload that the packet has before it is cut.
pub fn transport_len(packet: &Packet) -> usize {
    let nobody = |name: &Name| SocketAddr::new(name.host, 0);
    whole(packet, &nobody).l4.len()
}

/// The datagram before it is cut and spoilt.
fn whole(packet: &Packet, resolve: Resolve) -> packets::Packet {
    let (src, dst) = (resolved(&packet.src, resolve), resolved(&packet.dst, resolve));
    let mut whole = body(packet, src, dst, resolve);
    // All 32 bits of a fragment header's identification are to be kept.
    let id = u32::from(packet.id);
    (whole.ttl, whole.tos, whole.id) = (packet.ttl, packet.tos, if packet.is_v6() { id * 0x1_0001 } else { id });
    whole.dont_fragment = packet.dont_fragment;
    whole.options.clone_from(&packet.options);
    whole.flow_label = packet.flow_label;
    whole.extensions = packet.extensions.iter().map(extension).collect();
    let check_off = match &packet.body {
        Body::Tcp(_) => 16,
        Body::Udp { .. } => 6,
        _ => 2,
    };
    match packet.checksum {
        Checksum::Right => {}
        Checksum::None => whole.l4[check_off..check_off + 2].fill(0),
        Checksum::Wrong(by) => {
            let right = u16::from_be_bytes([whole.l4[check_off], whole.l4[check_off + 1]]);
            whole.l4[check_off..check_off + 2].copy_from_slice(&plus(right, by).to_be_bytes());
        }
    }
    whole
}

fn body(packet: &Packet, src: SocketAddr, dst: SocketAddr, resolve: Resolve) -> packets::Packet {
    match &packet.body {
        Body::Tcp(tcp) => {
            let segment = Segment {
                flags: tcp.flags,
                seq: tcp.seq,
                ack: tcp.ack,
                window: tcp.window,
                options: tcp.options.clone(),
                ..Segment::default()
            };
            packets::Packet::tcp(src, dst, &segment, &tcp.payload)
        }
        Body::Udp { payload } => packets::Packet::udp(src, dst, payload),
        Body::Echo { is_reply, sequence, payload } => {
            let family = Family::of(src.ip());
            let kind = if *is_reply { family.pick(0, 129) } else { family.pick(8, 128) };
            let id = if *is_reply { dst.port() } else { src.port() };
            let word = [id.to_be_bytes(), sequence.to_be_bytes()].concat();
            let word = [word[0], word[1], word[2], word[3]];
            packets::Packet::icmp(src.ip(), dst.ip(), kind, 0, word, payload)
        }
        Body::Error(quote) => error(quote, src, dst, resolve),
        Body::OtherIcmp { kind, payload } => packets::Packet::icmp(src.ip(), dst.ip(), *kind, 0, [0; 4], payload),
        Body::Other { proto, payload } => packets::Packet::new(src.ip(), dst.ip(), *proto, payload.clone()),
    }
}

fn error(quote: &Quote, src: SocketAddr, dst: SocketAddr, resolve: Resolve) -> packets::Packet {
    let family = Family::of(src.ip());
    let kind = match quote.kind {
        ErrorKind::Unreachable => family.pick(3, 1),
        ErrorKind::TooBig => family.pick(3, 2),
        ErrorKind::TimeExceeded => family.pick(11, 3),
        ErrorKind::ParameterProblem => family.pick(12, 4),
    };
    let mut quoted = bytes(&quote.packet, resolve);
    let header = quoted.len() - cut(&quote.packet, resolve).l4.len();
    quoted.truncate(header.saturating_add(quote.len));
    let [high, low] = quote.word.to_be_bytes();
    packets::Packet::icmp(src.ip(), dst.ip(), kind, quote.code, [0, 0, high, low], &quoted)
}

/// Kind, and what follows the first two bytes.
fn extension(extension: &Extension) -> (u8, Vec<u8>) {
    // Of an experimental kind that whoever does not know it goes past (RFC 4727, 3.4). Linux takes padding of more than
    // seven bytes for an attack.
    let option = || {
        let length = extension.wire_len() as u8 - 4;
        [&[0x1e, length], &vec![0; usize::from(length)][..]].concat()
    };
    match extension {
        Extension::HopByHop(_) => (packets::HOP_BY_HOP, option()),
        Extension::Destination(_) => (packets::DESTINATION_OPTIONS, option()),
        // Of experimental kinds, too: those whose highest bits say discard, and discard and report.
        Extension::Demanding { reports } => {
            (packets::HOP_BY_HOP, vec![if *reports { 0x9e } else { 0x5e }, 4, 0, 0, 0, 0])
        }
        Extension::Routing { segments_left } => (packets::ROUTING, vec![253, *segments_left, 0, 0, 0, 0]),
    }
}

fn flawed(mut packet: packets::Packet, flaw: Flaw) -> Vec<u8> {
    let length_off = if packet.proto == packets::TCP { 12 } else { 4 };
    match flaw {
        Flaw::Cut(len) => packet.l4.truncate(len),
        Flaw::Length(words) if packet.proto == packets::TCP => packet.l4[length_off] = (words as u8) << 4,
        Flaw::Length(len) => packet.l4[length_off..length_off + 2].copy_from_slice(&len.to_be_bytes()),
        _ => {}
    }
    let mut bytes = packet.bytes();
    // Where the length stands that counts the payload, and the header in IPv4.
    let total_off = Family::of(packet.src).pick(2, 4);
    let total = u16::from_be_bytes([bytes[total_off], bytes[total_off + 1]]);
    match flaw {
        Flaw::Version => bytes[0] = bytes[0] & 0xf | 0x50,
        Flaw::HeaderLength => bytes[0] = bytes[0] & 0xf0 | 4,
        Flaw::TotalShort => bytes[2..4].copy_from_slice(&10_u16.to_be_bytes()),
        Flaw::TotalLong => bytes[total_off..total_off + 2].copy_from_slice(&(total + 100).to_be_bytes()),
        Flaw::ExtensionLength => bytes[41] = 0xff,
        Flaw::HeaderChecksum | Flaw::Cut(_) | Flaw::Length(_) => {}
    }
    if packet.src.is_ipv4() {
        fix_header_checksum(&mut bytes);
    }
    if flaw == Flaw::HeaderChecksum {
        let right = u16::from_be_bytes([bytes[10], bytes[11]]);
        bytes[10..12].copy_from_slice(&plus(right, WRONG_HEADER).to_be_bytes());
    }
    bytes
}

/// Ones' complement.
fn plus(one: u16, other: u16) -> u16 {
    let (sum, carry) = one.overflowing_add(other);
    sum + u16::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram() -> Packet {
        let end = |text: &str| End::At(text.parse().unwrap());
        Packet::new(end("172.17.0.2:5000"), end("198.18.0.2:7000"), Body::Udp { payload: vec![7; 40] })
    }

    fn nobody(_: &Name) -> SocketAddr {
        unreachable!("no name in the packet")
    }

    #[test]
    fn a_wrong_checksum_is_wrong_and_a_right_one_right() {
        for (checksum, is_wrong) in [(Checksum::Right, false), (Checksum::None, false), (Checksum::Wrong(9), true)] {
            let bytes = bytes(&Packet { checksum, ..datagram() }, &nobody);
            let parsed = packets::Packet::parse(&bytes).unwrap();
            assert_eq!(parsed.wrong_checksum().is_some(), is_wrong, "{checksum:?}");
        }
    }

    #[test]
    fn fragments_carry_what_they_say() {
        let fragment = netpath_model::packet::Fragment { offset: 16, len: 8, more: true };
        let parsed =
            packets::Packet::parse(&bytes(&Packet { fragment: Some(fragment), ..datagram() }, &nobody)).unwrap();
        assert_eq!((parsed.offset, parsed.more_fragments, parsed.l4), (16, true, vec![7; 8]));
    }

    #[test]
    fn a_spoilt_network_header_is_not_parsed() {
        for flaw in [Flaw::Version, Flaw::HeaderLength, Flaw::TotalShort, Flaw::TotalLong, Flaw::HeaderChecksum] {
            let bytes = bytes(&Packet { flaw: Some(flaw), ..datagram() }, &nobody);
            assert_eq!(packets::Packet::parse(&bytes), None, "{flaw:?}");
        }
    }
}
