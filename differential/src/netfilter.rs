//! Whether netfilter agrees with the model, and if not, which of the known differences it is.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use netpath_model::packet::Fragment;
use netpath_model::{Body, Cause, Checksum, End, Name, Nat, Outcome, Packet, Place, Proto, Sent, Verdict};
use netpath_tests::{Family, packets};

use crate::compare::{called, fits_answer, is_same};
use crate::difference::Difference;
use crate::layout::Layout;
use crate::seen::Seen;
use crate::side::Side;
use crate::step::Stimulus;
use crate::wire;

/// Of ICMPv6 (RFC 4620); netfilter takes it for a kind of echo request.
const NODE_INFORMATION_QUERY: u8 = 139;

/// Who talks to whom, whatever they call each other.
type Pair = (Proto, SocketAddr, SocketAddr);

/// Knows between whom there have been differences.
#[derive(Default)]
pub struct Judge {
    touched: HashSet<Pair>,
    /// Between whom a datagram is under way of which netfilter still waits for a fragment.
    waiting: HashSet<Pair>,
    /// Names that netfilter gave to what the model drops or sends under another one.
    given: HashSet<(Proto, SocketAddr)>,
    /// Netfilter has lost all connections.
    is_cut: bool,
    /// Bytes of each datagram that came in pieces so far, by its identification.
    pieces: HashMap<u16, usize>,
}

impl Judge {
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Netfilter has lost all its connections, as it does not when somebody else's container goes.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    /// None: netfilter did what the model says.
    pub fn judge(
        &mut self,
        side: &mut Side,
        model: &Nat,
        stimulus: &Stimulus,
        outcome: &Outcome,
        seen: &[Seen],
    ) -> Result<Option<Difference>, String> {
        let (pairs, icc) = (pairs(model, &stimulus.packet), model.config.icc);
        let is_early = pairs.iter().any(|pair| self.waiting.contains(pair)) || has_vague_name(side, &stimulus.packet);
        if is_early && stimulus.packet.fragment.is_some_and(|fragment| fragment.offset == 0) {
            // Where it goes is known only when it is whole, and may be known by then.
            self.touched.extend(&pairs);
        }
        let result = match stimulus.packet.fragment {
            Some(fragment) if !self.is_whole(stimulus.packet.id, fragment) && seen.is_empty() => {
                self.waiting.extend(&pairs);
                Ok(Some(Difference::MergesFragments))
            }
            Some(_) => {
                pairs.iter().for_each(|pair| _ = self.waiting.remove(pair));
                merged(side, icc, stimulus, outcome, seen)
            }
            None => decide(side, icc, stimulus, outcome, seen),
        };
        let is_under_way = pairs.iter().any(|pair| self.waiting.contains(pair));
        if outcome.verdict == Verdict::Masqueraded && is_under_way {
            // It may have another name from now on than the one that the datagram's first fragment was sent to.
            self.touched.extend(&pairs);
        }
        if matches!(outcome.verdict, Verdict::Hairpin) {
            // Two who talk by way of the host are to netfilter the same as if they talked directly.
            self.touched.extend(&pairs);
        }
        match result {
            Ok(difference) => {
                if difference.is_some_and(leaves_traces) {
                    self.touched.extend(pairs);
                    self.given.extend(given(model, &stimulus.packet, seen));
                }
                Ok(difference)
            }
            Err(_)
                if self.is_cut
                    || names(&stimulus.packet).any(|name| self.given.contains(&(name.proto, side.resolve(name))))
                    || pairs.iter().any(|pair| self.touched.contains(pair) || self.waiting.contains(pair)) =>
            {
                Ok(Some(Difference::Consequence))
            }
            Err(what) => Err(what),
        }
    }
}

impl Judge {
    /// Whether `fragment` is the last of a datagram of which all others have come. The judge is asked again about the
    /// same one while it waits, so a piece counts by where it ends.
    fn is_whole(&mut self, id: u16, fragment: Fragment) -> bool {
        let so_far = self.pieces.entry(id).or_default();
        if *so_far == fragment.offset {
            *so_far += fragment.len;
        }
        !fragment.more && *so_far == fragment.offset + fragment.len
    }
}

/// Whether netfilter or the model remembers something that the other does not.
fn leaves_traces(difference: Difference) -> bool {
    !matches!(difference, Difference::MergesFragments | Difference::LeaksError | Difference::GatewayFromOutside)
}

/// The name under which netfilter let a packet out.
fn given(model: &Nat, packet: &Packet, seen: &[Seen]) -> Option<(Proto, SocketAddr)> {
    let proto = packet.body.proto()?;
    let out = seen.iter().filter(|seen| seen.at == Place::Outside);
    let called = out.filter_map(|seen| called(seen, proto)).find(|called| called.ip() == model.config.host)?;
    Some((proto, called))
}

/// The names that a packet uses, or quotes.
fn names(packet: &Packet) -> impl Iterator<Item = &Name> {
    let quoted = if let Body::Error(quote) = &packet.body { Some(&quote.packet) } else { None };
    let ends = quoted.into_iter().flat_map(|packet| [&packet.src, &packet.dst]).chain([&packet.dst]);
    ends.filter_map(|end| if let End::Name(name) = end { Some(name) } else { None })
}

/// The two who talk, by what they call themselves; of an error those of the quoted packet.
fn pairs(model: &Nat, packet: &Packet) -> Vec<Pair> {
    let packet = match &packet.body {
        Body::Error(quote) => &*quote.packet,
        _ => packet,
    };
    let Some(proto) = packet.body.proto() else { return Vec::new() };
    let party = |end: &End| match end {
        End::Name(name) => name.inside,
        End::At(at) => published(model, proto, *at).unwrap_or(*at),
    };
    let (one, other) = (party(&packet.src), party(&packet.dst));
    vec![(proto, one.min(other), one.max(other))]
}

fn published(model: &Nat, proto: Proto, at: SocketAddr) -> Option<SocketAddr> {
    let is_host = [model.config.host, model.config.gateway].contains(&at.ip());
    let port = model.ports().iter().find(|port| is_host && (port.proto, port.host_port) == (proto, at.port()))?;
    let layout = Layout::of(Family::of(model.config.host));
    Some(SocketAddr::new(layout.container(port.container), port.port))
}

fn decide(
    side: &mut Side,
    icc: bool,
    stimulus: &Stimulus,
    outcome: &Outcome,
    seen: &[Seen],
) -> Result<Option<Difference>, String> {
    if agrees(side, outcome, seen) || (outcome.may_vanish && seen.is_empty()) {
        return Ok(None);
    }
    let (packet, verdict) = (&stimulus.packet, outcome.verdict);
    let is_across = matches!(verdict, Verdict::Hairpin | Verdict::HairpinAnswer | Verdict::ErrorAcross);
    if is_across && agrees(side, &with_ttl(outcome, packet.ttl), seen) {
        return Ok(Some(Difference::HairpinUnderOwnAddress));
    }
    let is_leak = leaked(side, stimulus, seen);
    let is_untranslated = seen.is_empty() || is_leak || is_refusal(seen);
    let forwards = !matches!(verdict, Verdict::Dropped(_) | Verdict::Host);
    if matches!(packet.checksum, Checksum::Wrong(_)) && is_untranslated {
        return Ok(Some(Difference::ChecksTransportChecksum));
    }
    let is_tcp = matches!(packet.body, Body::Tcp(_));
    let is_inside = stimulus.from != Place::Outside;
    // Its answers go to a neighbour there.
    let is_neighbours = matches!(packet.dst, End::Name(name) if side.resolve(&name).ip() != name.host);
    match verdict {
        Verdict::Hairpin | Verdict::HairpinAnswer | Verdict::ErrorAcross | Verdict::Host
            if !icc && is_inside && is_untranslated =>
        {
            Ok(Some(Difference::NoHairpinWithoutIcc))
        }
        _ if is_neighbours => Ok(Some(Difference::HairpinUnderOwnAddress)),
        _ if packet.hides_transport() => Ok(Some(Difference::LooksBehindHeaders)),
        _ if matches!(packet.body, Body::Other { .. } | Body::OtherIcmp { kind: NODE_INFORMATION_QUERY, .. }) => {
            Ok(Some(Difference::TranslatesAddressesOnly))
        }
        Verdict::Dropped(Cause::Spoofed) => Ok(Some(Difference::ForwardsSpoofed)),
        Verdict::Dropped(Cause::Martian) => Ok(Some(Difference::BelievesMartian)),
        Verdict::Dropped(Cause::Loopback) => Ok(Some(Difference::LoopbackFromOutside)),
        Verdict::Dropped(_) if is_leak && matches!(packet.body, Body::Error(_)) => Ok(Some(Difference::LeaksError)),
        Verdict::Dropped(_) if is_leak => Ok(Some(Difference::LeaksInvalid)),
        Verdict::Dropped(Cause::NoFlow | Cause::Fragment) | Verdict::Host
            if is_tcp && is_forwarded(side, packet, seen) =>
        {
            Ok(Some(Difference::PicksUpMidStream))
        }
        // The flow ended while netfilter waited for this one; the datagram begins it anew.
        Verdict::Dropped(Cause::Fragment) if is_forwarded(side, packet, seen) => Ok(Some(Difference::Consequence)),
        Verdict::Dropped(Cause::DirectAccess) if is_refusal(seen) => Ok(Some(Difference::GatewayFromOutside)),
        Verdict::FromPublished if is_forwarded(side, packet, seen) => Ok(Some(Difference::PublishedSpeaksFirst)),
        Verdict::ErrorIn | Verdict::ErrorOut | Verdict::ErrorAcross if is_untranslated => {
            Ok(Some(Difference::ErrorNeedsConnection))
        }
        Verdict::Replied if is_of_other_peer(packet) && is_untranslated => Ok(Some(Difference::NamesByPeer)),
        // Nobody's here, and by now somebody else's there.
        Verdict::Host if matches!(packet.dst, End::Name(_)) && is_forwarded(side, packet, seen) => {
            Ok(Some(Difference::NamesByPeer))
        }
        _ if has_vague_name(side, packet) => Ok(Some(Difference::NamesByPeer)),
        _ if is_tcp && forwards && is_untranslated => Ok(Some(Difference::TracksWindow)),
        _ => Err("none of the known differences".to_owned()),
    }
}

/// Whether the packet is for a name that was given for talking to somebody else.
fn is_of_other_peer(packet: &Packet) -> bool {
    matches!((packet.src, packet.dst), (End::At(src), End::Name(name)) if src != name.asked)
}

/// Whether netfilter has never given a name that the packet uses, or the same one to somebody else, too.
fn has_vague_name(side: &Side, packet: &Packet) -> bool {
    let is_vague = |end: &End| match end {
        End::Name(name) => side.name(name).is_none_or(|called| side.other_name(name, called).is_some()),
        End::At(_) => false,
    };
    let quotes_vague =
        matches!(&packet.body, Body::Error(quote) if is_vague(&quote.packet.src) || is_vague(&quote.packet.dst));
    is_vague(&packet.dst) || quotes_vague
}

/// The last fragment: the whole datagram comes out, or what comes of it.
fn merged(
    side: &mut Side,
    icc: bool,
    stimulus: &Stimulus,
    outcome: &Outcome,
    seen: &[Seen],
) -> Result<Option<Difference>, String> {
    let whole = |packet: &Packet| Packet { fragment: None, ..packet.clone() };
    let sent = outcome.sent.iter().map(|sent| Sent { packet: whole(&sent.packet), ..sent.clone() }).collect();
    let outcome = Outcome { sent, ..outcome.clone() };
    let stimulus = Stimulus { packet: whole(&stimulus.packet), ..stimulus.clone() };
    if matches!(outcome.verdict, Verdict::Host) && is_refusal(seen) {
        return Ok(Some(Difference::MergesFragments));
    }
    let difference = decide(side, icc, &stimulus, &outcome, &together(seen))?;
    Ok(Some(difference.unwrap_or(Difference::MergesFragments)))
}

/// One packet of all that was seen, where that is one datagram in pieces: a bridge cuts it again as it was.
fn together(seen: &[Seen]) -> Vec<Seen> {
    let pieces: Vec<packets::Packet> = seen.iter().filter_map(Seen::parsed).collect();
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return seen.to_vec() };
    let is_datagram = pieces.len() == seen.len()
        && pieces.iter().all(|piece| piece.id == first.id && piece.is_fragment())
        && pieces.windows(2).all(|pair| pair[0].offset + pair[0].l4.len() == pair[1].offset)
        && !last.more_fragments;
    if !is_datagram {
        return seen.to_vec();
    }
    let l4 = pieces.iter().flat_map(|piece| piece.l4.clone()).collect();
    let whole = packets::Packet { more_fragments: false, l4, ..first.clone() };
    vec![Seen { packet: whole.bytes(), ..seen[0].clone() }]
}

fn with_ttl(outcome: &Outcome, ttl: u8) -> Outcome {
    let with_ttl = |sent: &Sent| Sent { packet: Packet { ttl, ..sent.packet.clone() }, ..sent.clone() };
    Outcome { sent: outcome.sent.iter().map(with_ttl).collect(), ..outcome.clone() }
}

/// The host's stack, and not who was meant, says no.
fn is_refusal(seen: &[Seen]) -> bool {
    let says_no = |seen: &Seen| {
        seen.parsed().is_some_and(|packet| {
            // Echo replies, unreachable and, of IPv6, a parameter problem.
            let kinds: &[u8] = if seen.is_v6() { &[129, 1, 4] } else { &[0, 3] };
            packet.segment().is_some_and(|segment| segment.flags & packets::RST != 0)
                || packet.kind().is_some_and(|(kind, _)| kinds.contains(&kind))
        })
    };
    matches!(seen, [only] if says_no(only))
}

/// The packet as it was sent came out, one hop on or bridged.
fn leaked(side: &Side, stimulus: &Stimulus, seen: &[Seen]) -> bool {
    let [only] = seen else { return false };
    let ttls = [stimulus.packet.ttl, stimulus.packet.ttl.saturating_sub(1)];
    let mut candidates = ttls.iter().map(|ttl| Packet { ttl: *ttl, ..stimulus.packet.clone() });
    candidates.any(|packet| {
        let bytes = wire::bytes(&packet, &|name| side.resolve(name));
        is_same(&bytes, only.trimmed()).is_ok()
    })
}

/// The packet came out under some name; an error about some name's packet.
fn is_forwarded(side: &Side, packet: &Packet, seen: &[Seen]) -> bool {
    let [only] = seen else { return false };
    let original = packets::Packet::parse(&wire::bytes(packet, &|name| side.resolve(name)));
    let got = only.parsed();
    let is_error = matches!(packet.body, Body::Error(_));
    original.zip(got).is_some_and(|(original, got)| {
        let is_same_error = (original.kind(), original.src) == (got.kind(), got.src);
        original.proto == got.proto && if is_error { is_same_error } else { original.payload() == got.payload() }
    })
}

/// Compares with what `outcome` says, but for the ports that netfilter chooses and the hardware addresses.
fn agrees(side: &mut Side, outcome: &Outcome, seen: &[Seen]) -> bool {
    let mut left: Vec<&Seen> = seen.iter().collect();
    let mut learnt = Vec::new();
    for sent in &outcome.sent {
        let Some(found) = left.iter().position(|seen| fits(side, sent, seen)) else { return false };
        learnt.extend(new_name(sent, left.remove(found)));
    }
    if left.is_empty() {
        learnt.iter().for_each(|(name, called)| side.bind(name, *called));
    }
    left.is_empty()
}

fn fits(side: &Side, sent: &Sent, seen: &Seen) -> bool {
    if seen.at != sent.to {
        return false;
    }
    if sent.made_by_host {
        return fits_answer(side, &sent.packet, seen).is_ok();
    }
    let new = new_name(sent, seen);
    let resolve = |name: &Name| match new {
        Some((new, called)) if new == *name => called,
        _ => side.resolve(name),
    };
    is_same(&wire::bytes(&sent.packet, &resolve), seen.trimmed()).is_ok()
}

/// What `seen` says that its sender is called.
fn new_name(sent: &Sent, seen: &Seen) -> Option<(Name, SocketAddr)> {
    match sent.packet.src {
        End::Name(name) if !sent.made_by_host && !sent.packet.is_later_fragment() => {
            let called = called(seen, name.proto)?;
            // To another container its own address may be its name.
            let may_be_own = sent.to != Place::Outside;
            (called.ip() == name.host || may_be_own).then_some((name, called))
        }
        _ => None,
    }
}
