//! Whether what came out is what the model says. Bytes are compared with bytes calculated from scratch, checksums among
//! them, so every field that is not translated must be as it was.

use std::net::SocketAddr;

use netpath_model::packet::Quote;
use netpath_model::{Body, End, Name, Nat, Outcome, Packet, Proto, Sent};
use netpath_tests::packets;

use crate::layout::MASQUERADE_PORTS;
use crate::seen::Seen;
use crate::side::Side;
use crate::wire;

/// Masquerade ports for those below 1024 (RFC 4787, REQ-3a).
const PRIVILEGED_PORTS: (u16, u16) = (600, 1023);

/// Compares with what `outcome` says, and learns what a new name stands for; returns the name if that is something else
/// than before. The error says what is missing and what
/// should not be there.
pub fn strict(side: &mut Side, model: &Nat, outcome: &Outcome, seen: &[Seen]) -> Result<Option<Name>, String> {
    if outcome.may_vanish && seen.is_empty() {
        return Ok(None);
    }
    let mut renamed = None;
    let mut left: Vec<&Seen> = seen.iter().collect();
    for sent in &outcome.sent {
        let mut why = Vec::new();
        let found = left.iter().position(|seen| match fits(side, model, outcome, sent, seen) {
            Ok(()) => true,
            Err(reason) => {
                why.push(reason);
                false
            }
        });
        let Some(found) = found else { return Err(format!("not as expected: {}", or_nothing(&why))) };
        let seen = left.remove(found);
        if let Some(name) = outcome.named.filter(|_| sent.packet.src == End::Name(outcome.named.expect("a name"))) {
            let called = called(seen, name.proto).expect("it was read before");
            if let Some(dead) = side.other_name(&name, called) {
                side.unbind(&dead);
            }
            renamed = (side.name(&name) != Some(called)).then_some(name);
            side.bind(&name, called);
        }
    }
    if left.is_empty() { Ok(renamed) } else { Err(format!("{} more than expected", left.len())) }
}

fn or_nothing(why: &[String]) -> String {
    if why.is_empty() { "nothing came".to_owned() } else { why.join("; ") }
}

/// Whether `seen` is the expected packet.
fn fits(side: &Side, model: &Nat, outcome: &Outcome, sent: &Sent, seen: &Seen) -> Result<(), String> {
    if seen.at != sent.to {
        return Err(format!("seen at {:?}", seen.at));
    }
    if !side.is_addressed(seen) {
        return Err(format!("hardware addresses {:02x?} > {:02x?}", seen.src_mac, seen.dst_mac));
    }
    if sent.made_by_host {
        return fits_answer(side, &sent.packet, seen);
    }
    let new = match outcome.named {
        Some(name) => {
            let called = called(seen, name.proto).ok_or("no ports")?;
            check_name(side, model, &name, called)?;
            Some((name, called))
        }
        None => None,
    };
    let resolve = |name: &Name| match new {
        Some((new, called)) if new.is_same_mapping(name) => called,
        _ => side.resolve(name),
    };
    is_same(&wire::bytes(&sent.packet, &resolve), seen.trimmed())
}

/// Source address and port of what was seen; of an echo its identifier.
pub fn called(seen: &Seen, proto: Proto) -> Option<SocketAddr> {
    let l4 = seen.parsed()?.l4;
    let off = if proto == Proto::Icmp { 4 } else { 0 };
    let port = l4.get(off..off + 2)?;
    Some(SocketAddr::new(seen.source()?, u16::from_be_bytes([port[0], port[1]])))
}

/// Whether `called` is a good name for who has begun to talk.
fn check_name(side: &Side, model: &Nat, name: &Name, called: SocketAddr) -> Result<(), String> {
    let port = called.port();
    if called.ip() != name.host {
        return Err(format!("called {called}, not at {}", name.host));
    }
    let (first, last) = if name.inside.port() < 1024 { PRIVILEGED_PORTS } else { MASQUERADE_PORTS };
    if name.proto != Proto::Icmp && !(first..=last).contains(&port) {
        return Err(format!("port {port} for {} is none of {first} to {last}", name.inside));
    }
    if model.ports().iter().any(|published| (published.proto, published.host_port) == (name.proto, port)) {
        return Err(format!("port {port} is published"));
    }
    let lives = |other: &Name| model.flows().iter().any(|flow| flow.called.is_same(&End::Name(*other)));
    let others = side.other_name(name, called).filter(|other| {
        // The key of a name of netpath's says nobody who was asked.
        lives(other)
    });
    match others {
        Some(other) => Err(format!("port {port} is that of {}", other.inside)),
        None => Ok(()),
    }
}

/// Where an IPv4 header has its checksum.
const HEADER_CHECK_OFF: usize = 10;

/// Whether the bytes are the same. A checksum of zero and one of all ones say the same, but for UDP's, where zero
/// says that there is none.
pub fn is_same(expected: &[u8], seen: &[u8]) -> Result<(), String> {
    if expected == seen {
        return Ok(());
    }
    if expected.len() != seen.len() {
        return Err(format!("{} bytes, {} expected", seen.len(), expected.len()));
    }
    let differs: Vec<usize> = (0..seen.len()).filter(|at| expected[*at] != seen[*at]).collect();
    let pair = |bytes: &[u8], at: usize| [bytes[at], bytes[at + 1]];
    let is_v4 = seen[0] >> 4 == 4;
    let (header, proto) = if is_v4 { (20, seen[9]) } else { (40, seen[6]) };
    let is_datagram = packets::Packet::parse(seen).map_or(proto, |packet| packet.proto) == packets::UDP;
    if let [first, second] = differs[..]
        && second == first + 1
        && ((is_v4 && first == HEADER_CHECK_OFF) || (first >= header && !is_datagram))
    {
        let both = [pair(expected, first), pair(seen, first)];
        if both.contains(&[0, 0]) && both.contains(&[0xff, 0xff]) {
            return Ok(());
        }
    }
    Err(format!("differs at {differs:?}: {seen:02x?}, expected {expected:02x?}"))
}

/// What the host's stack says has an identification, a TTL and a service type of its own choice.
pub fn fits_answer(side: &Side, expected: &Packet, seen: &Seen) -> Result<(), String> {
    let resolve = |name: &Name| side.resolve(name);
    let wanted = packets::Packet::parse(&wire::bytes(expected, &resolve)).ok_or("the model's packet is malformed")?;
    let got = seen.parsed().ok_or("the host's packet is malformed")?;
    if let Some(wrong) = got.wrong_checksum() {
        return Err(format!("the host's {wrong} is wrong"));
    }
    let heads = [&wanted, &got].map(|p| (p.src, p.dst, p.proto));
    if heads[0] != heads[1] {
        return Err(format!("from the host {:?}, expected {:?}", heads[1], heads[0]));
    }
    let is_same = match &expected.body {
        Body::Tcp(_) => {
            let what = |p: &packets::Packet| p.segment().map(|s| (p.ports(), s.flags, s.seq, s.ack));
            what(&wanted) == what(&got)
        }
        Body::Error(Quote { .. }) => {
            let (wanted_quote, got_quote) = (wanted.payload(), got.payload());
            let common = wanted_quote.len().min(got_quote.len());
            wanted.kind() == got.kind()
                && common >= if expected.is_v6() { 48 } else { 28 }
                && wanted.l4[4..8] == got.l4[4..8]
                && is_same(&wanted_quote[..common], &got_quote[..common]).is_ok()
        }
        _ => wanted.l4 == got.l4,
    };
    if is_same { Ok(()) } else { Err(format!("the host says {got:02x?}, expected {wanted:02x?}")) }
}
