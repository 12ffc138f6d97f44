//! ICMP errors of both families: made about a packet, and compared with what arrives of them.

use std::net::IpAddr;

use netpath_tests::Family;
use netpath_tests::packets::{Packet, TCP, UDP};

use super::record::Met;

/// Type, code, and the word behind the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(pub(crate) u8, pub(crate) u8, pub(crate) [u8; 4]);

/// Of IPv4: destination unreachable, source quench, time exceeded, parameter problem.
const V4: [Kind; 10] = [
    Kind(3, 0, [0; 4]),
    Kind(3, 1, [0; 4]),
    Kind(3, 2, [0; 4]),
    Kind(3, 3, [0; 4]),
    Kind(3, 4, [0, 0, 5, 0]),
    Kind(3, 13, [0; 4]),
    Kind(4, 0, [0; 4]),
    Kind(11, 0, [0; 4]),
    Kind(11, 1, [0; 4]),
    Kind(12, 0, [20, 0, 0, 0]),
];

/// Of IPv6: destination unreachable, packet too big, time exceeded, parameter problem.
const V6: [Kind; 9] = [
    Kind(1, 0, [0; 4]),
    Kind(1, 1, [0; 4]),
    Kind(1, 3, [0; 4]),
    Kind(1, 4, [0; 4]),
    Kind(2, 0, [0, 0, 5, 0]),
    Kind(3, 0, [0; 4]),
    Kind(3, 1, [0; 4]),
    Kind(4, 0, [0, 0, 0, 6]),
    Kind(4, 1, [0, 0, 0, 40]),
];

/// Every kind of error that a host of `family` may be sent.
pub(crate) fn kinds(family: Family) -> &'static [Kind] {
    family.pick(&V4, &V6)
}

/// Nobody listens at the port.
pub(crate) fn port_unreachable(family: Family) -> Kind {
    family.pick(V4[3], V6[3])
}

/// The shortest quotation that all of them may have: the network header and eight bytes.
pub(crate) fn shortest(family: Family) -> usize {
    family.pick(28, 48)
}

/// An error about `quoted`, from `src` to `dst`.
pub(crate) fn error(src: IpAddr, dst: IpAddr, kind: Kind, quoted: &[u8]) -> Packet {
    Packet::icmp(src, dst, kind.0, kind.1, kind.2, quoted)
}

/// Whether `seen` is an error of `kind` from `src` to `dst` that quotes as much of `about`, as its sender knows it.
pub(crate) fn quotes(seen: &Packet, kind: Kind, src: IpAddr, dst: IpAddr, about: &Packet, length: usize) -> Met {
    if (seen.src, seen.dst) != (src, dst) {
        return Err("the error has other addresses".to_owned());
    }
    if seen.l4.get(..2) != Some(&[kind.0, kind.1]) || seen.l4.get(4..8) != Some(&kind.2) {
        return Err("type, code or the word behind them has changed".to_owned());
    }
    let quoted = seen.payload();
    if quoted.len() < length {
        return Err("the quotation is shorter".to_owned());
    }
    let whole = about.bytes();
    let is_whole = length >= whole.len();
    let (left, right) = (comparable(&quoted[..length.min(whole.len())], is_whole), comparable(&whole, is_whole));
    if right.starts_with(&left) { Ok(()) } else { Err("the quotation is not the packet that was sent".to_owned()) }
}

/// Without what changes on the way: hop count, header checksum, and in a part of a packet its transport checksum, which
/// nobody can check there.
fn comparable(packet: &[u8], is_whole: bool) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let is_v4 = bytes.first().is_some_and(|byte| byte >> 4 == 4);
    let (proto, header) = if is_v4 { (bytes[9], usize::from(bytes[0] & 0xf) * 4) } else { (bytes[6], 40) };
    let mut hidden = if is_v4 { vec![8, 10, 11] } else { vec![7] };
    if !is_whole {
        let at = match proto {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        hidden.extend([header + at, header + at + 1]);
    }
    for at in hidden {
        if let Some(byte) = bytes.get_mut(at) {
            *byte = 0;
        }
    }
    bytes
}
