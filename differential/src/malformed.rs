//! Headers that contradict themselves or the packet.

use netpath_model::{Flaw, Proto};

use crate::rng::Rng;

/// A flaw that a packet of `proto` with twelve bytes of payload can have.
pub fn flaw(proto: Proto, rng: &mut Rng) -> Flaw {
    let header = [
        Flaw::Version,
        Flaw::HeaderLength,
        Flaw::HeaderChecksum,
        Flaw::HeaderChecksum,
        Flaw::TotalShort,
        Flaw::TotalLong,
    ];
    let transport = match proto {
        Proto::Tcp => [Flaw::Cut(rng.below(20)), Flaw::Length(rng.pick(&[0, 4, 9, 15]))],
        Proto::Udp => [Flaw::Cut(rng.below(8)), Flaw::Length(rng.pick(&[0, 7, 21, 0xffff]))],
        Proto::Icmp => [Flaw::Cut(rng.below(8)), Flaw::Cut(rng.below(8))],
    };
    if rng.chance(50) { rng.pick(&header) } else { rng.pick(&transport) }
}
