//! Frames that are nearly right: addressed by who is there, to ports that are published or that were given, and then
//! some bytes of them changed, cut off or added.

use std::net::IpAddr;

use arbitrary::Unstructured;
use netpath_common::{Address as _, Tuple, proto};
use netpath_ebpf::family::Family;
use netpath_ebpf::packet::Bytes as _;

use crate::frame::Frame;
use crate::hooks::L3_OFF;
use crate::place::Ground;
use crate::wire::{self, Ip};
use crate::world::{BRIDGE_MAC, SECOND_BRIDGE_MAC, mac};

/// Ports that the worlds publish, those that the tests' containers use, and some that nobody does.
const PORTS: [u16; 12] = [80, 8080, 53, 5353, 8084, 40000, 5000, 1024, 8443, 9000, 22, 600];
const FLAGS: [u8; 8] = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x29];
const FRAGMENTS: [u16; 6] = [0x2000, 0x0001, 0x2002, 0x1fff, 0x6000, 0x00b9];
/// Of the interface that test runs see: frames to another address are for somebody else.
const EXTERNAL_MAC: [u8; 6] = [0; 6];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];
/// Tuples that are remembered.
const MAX_SEEN: usize = 64;

/// Where a frame is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Number of the container.
    FromContainer(u8),
    FromExternal,
    ToExternal,
}

/// What packets looked like when they were sent on: what is answered, and what errors quote.
#[derive(Debug)]
pub(crate) struct Seen<F: Ground> {
    tuples: Vec<Tuple<F::Addr>>,
    next: usize,
}

impl<F: Ground> Seen<F> {
    pub(crate) const fn new() -> Self {
        Self { tuples: Vec::new(), next: 0 }
    }

    pub(crate) fn push(&mut self, tuple: Tuple<F::Addr>) {
        if self.tuples.len() < MAX_SEEN {
            self.tuples.push(tuple);
        } else {
            self.tuples[self.next] = tuple;
            self.next = (self.next + 1) % MAX_SEEN;
        }
    }
}

pub(crate) fn pick<T: Copy>(u: &mut Unstructured<'_>, from: &[T]) -> T {
    u.choose(from).copied().unwrap_or(from[0])
}

fn one_in(u: &mut Unstructured<'_>, n: u8) -> bool {
    u.int_in_range(1..=n).unwrap_or(1) == n
}

pub(crate) fn hook(u: &mut Unstructured<'_>) -> Hook {
    match u.int_in_range(0..=8).unwrap_or(0) {
        n @ 0..=4 => Hook::FromContainer(n + 1),
        5..=7 => Hook::FromExternal,
        _ => Hook::ToExternal,
    }
}

/// A frame for that hook.
pub(crate) fn frame<F: Ground>(u: &mut Unstructured<'_>, hook: Hook, seen: &Seen<F>) -> Vec<u8> {
    let about = if one_in(u, 6) { error_about(u, hook, seen) } else { None };
    let tuple = match about {
        Some((tuple, _)) => tuple,
        None => tuple(u, hook, seen),
    };
    let (src, dst) = (tuple.src_addr.to_ip(), tuple.dst_addr.to_ip());
    let (protocol, l4) = match about {
        Some((_, about)) => (F::ICMP, error::<F>(u, &tuple, &about)),
        None => transport::<F>(u, &tuple),
    };
    let options = if one_in(u, 8) { vec![1; 4 * usize::from(u.int_in_range(1..=10u8).unwrap_or(1))] } else { vec![] };
    let ip = Ip {
        ttl: pick(u, &[64, 64, 64, 255, 1, 2, 0]),
        id: pick(u, &[0x1234, 1, 2]),
        fragment: if one_in(u, 8) { pick(u, &FRAGMENTS) } else { 0x4000 },
        options: &options,
    };
    let mut frame = wire::frame(macs(u, hook), ip, protocol, src, dst, &l4);
    if one_in(u, 16) {
        extend::<F>(u, &mut frame);
    }
    if one_in(u, 3) {
        mutate(u, &mut frame);
        if !one_in(u, 4) {
            seal::<F>(&mut frame);
        }
    }
    frame
}

fn macs(u: &mut Unstructured<'_>, hook: Hook) -> ([u8; 6], [u8; 6]) {
    let Hook::FromContainer(n) = hook else {
        let dst = if one_in(u, 16) { mac(1) } else { EXTERNAL_MAC };
        return (ROUTER_MAC, dst);
    };
    let bridge = if n < 4 { BRIDGE_MAC } else { SECOND_BRIDGE_MAC };
    let src = if one_in(u, 24) { mac(n % 5 + 1) } else { mac(n) };
    let dst = if one_in(u, 4) { pick(u, &[mac(1), mac(2), mac(3), mac(4), mac(5), [0xff; 6]]) } else { bridge };
    (src, dst)
}

fn tuple<F: Ground>(u: &mut Unstructured<'_>, hook: Hook, seen: &Seen<F>) -> Tuple<F::Addr> {
    if !seen.tuples.is_empty() && !one_in(u, 3) {
        let tuple = pick(u, &seen.tuples);
        let is_here = |tuple: &Tuple<F::Addr>| match hook {
            Hook::FromContainer(n) => tuple.src_addr == F::container(n),
            Hook::FromExternal => !F::is_inside(&tuple.src_addr),
            Hook::ToExternal => true,
        };
        let candidates = if one_in(u, 4) { [tuple, tuple.reversed()] } else { [tuple.reversed(), tuple] };
        if let Some(tuple) = candidates.into_iter().find(is_here) {
            return tuple;
        }
    }
    let (src_addr, dst_addr) = match hook {
        Hook::FromContainer(n) if !one_in(u, 24) => (F::container(n), addr::<F>(u)),
        Hook::FromContainer(_) => (addr::<F>(u), addr::<F>(u)),
        Hook::FromExternal => (if one_in(u, 8) { addr::<F>(u) } else { outside::<F>(u) }, to_host::<F>(u)),
        Hook::ToExternal => (if one_in(u, 4) { addr::<F>(u) } else { container::<F>(u) }, outside::<F>(u)),
    };
    let protocol = pick(u, &[proto::TCP, proto::UDP, F::ICMP, proto::SCTP, proto::UDP, proto::TCP]);
    let (src_port, dst_port) = (port(u), port(u));
    Tuple::new(src_addr, src_port, dst_addr, dst_port, protocol)
}

fn port(u: &mut Unstructured<'_>) -> u16 {
    if one_in(u, 16) { u.arbitrary().unwrap_or(0) } else { pick(u, &PORTS) }
}

fn outside<F: Ground>(u: &mut Unstructured<'_>) -> F::Addr {
    pick(u, &[F::CLIENT, F::OTHERS[3]])
}

fn to_host<F: Ground>(u: &mut Unstructured<'_>) -> F::Addr {
    if one_in(u, 3) { addr::<F>(u) } else { F::HOST }
}

fn container<F: Ground>(u: &mut Unstructured<'_>) -> F::Addr {
    F::container(u.int_in_range(1..=5).unwrap_or(1))
}

fn addr<F: Ground>(u: &mut Unstructured<'_>) -> F::Addr {
    match u.int_in_range(0..=20).unwrap_or(0) {
        0..=11 => pick(u, F::OTHERS),
        20 => F::any_addr(u),
        _ => container::<F>(u),
    }
}

/// Who tells whom by an ICMP error, and which packet it quotes.
type About<F> = (TupleOf<F>, TupleOf<F>);
type TupleOf<F> = Tuple<<F as Family>::Addr>;

/// An error about a packet that was seen.
fn error_about<F: Ground>(u: &mut Unstructured<'_>, hook: Hook, seen: &Seen<F>) -> Option<About<F>> {
    if seen.tuples.is_empty() {
        return None;
    }
    let first = u.int_in_range(0..=seen.tuples.len() - 1).unwrap_or(0);
    let is_here = |about: &&Tuple<F::Addr>| match hook {
        Hook::FromContainer(n) => about.dst_addr == F::container(n),
        Hook::FromExternal => !F::is_inside(&about.src_addr) && !F::is_inside(&about.dst_addr),
        Hook::ToExternal => F::is_inside(&about.dst_addr),
    };
    let about = *seen.tuples[first..].iter().chain(&seen.tuples[..first]).find(is_here)?;
    let teller = if one_in(u, 4) { addr::<F>(u) } else { about.dst_addr };
    Some((Tuple::new(teller, 0, about.src_addr, 0, F::ICMP), about))
}

/// An ICMP error that quotes a packet with the tuple `about`, or a part of it.
fn error<F: Ground>(u: &mut Unstructured<'_>, tuple: &Tuple<F::Addr>, about: &Tuple<F::Addr>) -> Vec<u8> {
    let about = if one_in(u, 12) { about.reversed() } else { *about };
    let (src, dst) = (about.src_addr.to_ip(), about.dst_addr.to_ip());
    let options = if one_in(u, 8) { vec![1; 8] } else { vec![] };
    let (protocol, inner) = if one_in(u, 16) { (F::ICMP, vec![8; 16]) } else { datagram::<F>(u, &about) };
    let fragment = if one_in(u, 12) { pick(u, &FRAGMENTS) } else { 0x4000 };
    let quoted = wire::packet(Ip { options: &options, fragment, ..Ip::default() }, protocol, src, dst, &inner);
    let len = if one_in(u, 2) { quoted.len() } else { u.int_in_range(0..=quoted.len()).unwrap_or(0) };
    let mut l4 = vec![pick(u, F::ICMP_ERRORS), pick(u, &[0, 3, 4, 1]), 0, 0, 0, 0, 0x05, 0];
    l4.extend(&quoted[..len]);
    wire::sealed(F::ICMP, tuple.src_addr.to_ip(), tuple.dst_addr.to_ip(), l4)
}

/// A transport header with some data, and the protocol that it is of.
fn transport<F: Ground>(u: &mut Unstructured<'_>, tuple: &Tuple<F::Addr>) -> (u8, Vec<u8>) {
    if !one_in(u, 12) {
        return datagram::<F>(u, tuple);
    }
    // Any ICMP message, with a neighbour's address and hardware address.
    let mut l4 = vec![pick(u, F::ICMP_TYPES), pick(u, &[0, 3, 4, 1]), 0, 0, 0, 0, 0x05, 0];
    match pick(u, &[tuple.src_addr, tuple.dst_addr, F::container(1)]).to_ip() {
        IpAddr::V4(addr) => l4.extend(addr.octets()),
        IpAddr::V6(addr) => l4.extend(addr.octets()),
    }
    l4.extend([pick(u, &[1, 2, 14]), pick(u, &[1, 0, 2])]);
    l4.extend(mac(u.int_in_range(1..=5).unwrap_or(1)));
    (F::ICMP, wire::sealed(F::ICMP, tuple.src_addr.to_ip(), tuple.dst_addr.to_ip(), l4))
}

/// The same, but nothing of ICMP besides pings.
fn datagram<F: Ground>(u: &mut Unstructured<'_>, tuple: &Tuple<F::Addr>) -> (u8, Vec<u8>) {
    let (src, dst) = ((tuple.src_addr.to_ip(), tuple.src_port), (tuple.dst_addr.to_ip(), tuple.dst_port));
    let data = &b"datagram data"[..u.int_in_range(0..=13).unwrap_or(0)];
    let l4 = match tuple.proto {
        proto::TCP => wire::tcp(src, dst, pick(u, &FLAGS), data),
        proto::UDP => {
            let mut l4 = wire::udp(src, dst, data);
            if one_in(u, 8) {
                l4[6..8].fill(0);
            }
            l4
        }
        proto::SCTP => [&src.1.to_be_bytes()[..], &dst.1.to_be_bytes(), &[7; 8], data].concat(),
        protocol if protocol == F::ICMP => {
            // The identifier is the source port of a request and the destination port of a reply.
            let is_request = tuple.src_port != 0;
            let id = if is_request { tuple.src_port } else { tuple.dst_port };
            wire::echo(src.0, dst.0, is_request, id, data)
        }
        _ => [&[7; 8], data].concat(),
    };
    (tuple.proto, l4)
}

/// Puts an extension header of eight bytes, or words of options, behind the network header.
fn extend<F: Ground>(u: &mut Unstructured<'_>, frame: &mut Vec<u8>) {
    if F::HEADER_LEN != 40 || frame.len() < 54 {
        return;
    }
    let number = pick(u, &[proto::HOP_BY_HOP, proto::ROUTING, proto::DESTINATION_OPTIONS, proto::FRAGMENT, 51]);
    let mut header = [frame[20], 0, 0, pick(u, &[0, 0, 1, 8]), 0, 0, 0, 1];
    header[1] = pick(u, &[0, 0, 0, 1, 31, 255]);
    frame.splice(54..54, header);
    frame[20] = number;
    let len = u16::from_be_bytes([frame[18], frame[19]]).wrapping_add(8);
    frame[18..20].copy_from_slice(&len.to_be_bytes());
}

fn mutate(u: &mut Unstructured<'_>, frame: &mut Vec<u8>) {
    for _ in 0..u.int_in_range(1..=3).unwrap_or(1) {
        let at = u.int_in_range(0..=frame.len().max(1) - 1).unwrap_or(0);
        match u.int_in_range(0..=9).unwrap_or(0) {
            0 => frame.truncate(at),
            1 => frame.extend(vec![0xee; usize::from(u.int_in_range(1..=40u8).unwrap_or(1))]),
            // A tag, of a VLAN or of none.
            2 if frame.len() > 12 => drop(frame.splice(12..12, [0x81, 0, 0, pick(u, &[0, 5])])),
            // The network header's length of the packet.
            3 if frame.len() > 20 => frame[pick(u, &[16, 17, 18, 19])] = u.arbitrary().unwrap_or(0),
            4 if frame.len() > 14 => frame[14] = u.arbitrary().unwrap_or(0),
            _ if !frame.is_empty() => frame[at] = u.arbitrary().unwrap_or(0),
            _ => {}
        }
    }
}

/// Makes the checksums right that the programs look at: of the IPv4 header, and of ICMP.
fn seal<F: Ground>(frame: &mut [u8]) {
    if frame.len() < L3_OFF + F::HEADER_LEN || frame[12..14] != F::ETHER_TYPE.to_be_bytes() {
        return;
    }
    let (header_len, len) = if F::HEADER_LEN == 20 {
        (usize::from(frame[L3_OFF] & 15) * 4, usize::from(u16::from_be_bytes([frame[16], frame[17]])))
    } else {
        (40, 40 + usize::from(u16::from_be_bytes([frame[18], frame[19]])))
    };
    let end = (L3_OFF + len).min(frame.len());
    if header_len < F::HEADER_LEN || end < L3_OFF + header_len {
        return;
    }
    if F::HEADER_LEN == 20 {
        frame[24..26].fill(0);
        let sum = wire::checksum(&frame[L3_OFF..L3_OFF + header_len]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let l4_off = L3_OFF + header_len;
    if frame[L3_OFF + F::PROTO_OFF] == F::ICMP && end >= l4_off + 8 {
        let header = Frame(frame[..l4_off].to_vec());
        let addr = |off: usize| header.get::<F::Addr>(L3_OFF + off).map(|addr| addr.to_ip());
        let (Some(src), Some(dst)) = (addr(F::SRC_OFF), addr(F::DST_OFF)) else { return };
        let l4 = wire::sealed(F::ICMP, src, dst, frame[l4_off..end].to_vec());
        frame[l4_off..end].copy_from_slice(&l4);
    }
}
