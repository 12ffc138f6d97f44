//! Headers that contradict themselves or the packet, and extension headers good and bad.

use netpath_model::packet::{Extension, Fragment};
use netpath_model::{Body, Flaw, Packet, Proto};
use netpath_tests::Family;

use crate::rng::Rng;
use crate::wire;

/// Spoils a packet of `proto` with twelve bytes of payload.
pub fn spoil(packet: &mut Packet, proto: Proto, rng: &mut Rng) {
    let family = Family::of(packet.src.addr());
    if family == Family::V6 && rng.chance(40) {
        return hide(packet, rng);
    }
    let flaw = flaw(family, proto, rng);
    if flaw == Flaw::ExtensionLength || (family == Family::V6 && rng.chance(20)) {
        packet.extensions = extensions(rng);
    }
    packet.flaw = Some(flaw);
}

/// Gives a good packet options, or extension headers.
pub fn adorn(packet: &mut Packet, rng: &mut Rng) {
    if packet.is_v6() {
        packet.extensions = extensions(rng);
    } else {
        packet.options = rng.pick(&[vec![1; 4], vec![1; 40], vec![1; 12]]);
    }
}

/// Makes a packet that is to be quoted now and then one with more headers, or a piece.
pub fn vary(packet: &mut Packet, rng: &mut Rng) {
    if rng.chance(15) {
        adorn(packet, rng);
    }
    if rng.chance(10) {
        let (len, is_first) = (wire::transport_len(packet), rng.chance(50));
        let offset = if is_first { 0 } else { len.min(8) };
        packet.fragment = Some(Fragment { offset, len: len - offset, more: is_first });
    }
}

/// One to three extension headers that are no obstacle to anybody.
pub fn extensions(rng: &mut Rng) -> Vec<Extension> {
    let options = Extension::Destination(rng.below(3) as u8);
    let routing = Extension::Routing { segments_left: 0 };
    let mut extensions = rng.pick(&[vec![], vec![options], vec![routing], vec![options, routing]]);
    if extensions.is_empty() || rng.chance(30) {
        extensions.insert(0, Extension::HopByHop(rng.below(2) as u8));
    }
    extensions
}

/// Extension headers behind which nobody may look for a transport header, or there is none; and hop-by-hop options that
/// ask not to be forwarded.
fn hide(packet: &mut Packet, rng: &mut Rng) {
    let mut extensions = extensions(rng);
    match rng.below(6) {
        0 | 1 => {
            extensions.retain(|extension| !matches!(extension, Extension::HopByHop(_)));
            extensions.insert(0, Extension::Demanding { reports: rng.chance(50) });
        }
        2 => extensions.push(Extension::HopByHop(0)),
        3 => extensions.push(Extension::Routing { segments_left: 1 + rng.below(3) as u8 }),
        4 => extensions = vec![Extension::Destination(0); 12 + rng.below(4)],
        _ => packet.body = Body::Other { proto: 59, payload: Vec::new() },
    }
    packet.extensions = extensions;
}

fn flaw(family: Family, proto: Proto, rng: &mut Rng) -> Flaw {
    let header: &[Flaw] = family.pick(
        &[
            Flaw::Version,
            Flaw::HeaderLength,
            Flaw::HeaderChecksum,
            Flaw::HeaderChecksum,
            Flaw::TotalShort,
            Flaw::TotalLong,
        ],
        &[Flaw::Version, Flaw::TotalLong, Flaw::ExtensionLength],
    );
    let transport = match proto {
        Proto::Tcp => [Flaw::Cut(rng.below(20)), Flaw::Length(rng.pick(&[0, 4, 9, 15]))],
        Proto::Udp => [Flaw::Cut(rng.below(8)), Flaw::Length(rng.pick(&[0, 7, 21, 0xffff]))],
        Proto::Icmp => [Flaw::Cut(rng.below(8)), Flaw::Cut(rng.below(8))],
    };
    if rng.chance(50) { rng.pick(header) } else { rng.pick(&transport) }
}
