//! Packets that belong to no conversation.

use netpath_model::{Body, End, Packet, Place, Tcp};

use crate::layout::{CLOSED_PORTS, CONTAINERS, Layout, at};
use crate::rng::Rng;
use crate::step::{Stimulus, Via};

/// A packet that nobody waits for, from anywhere to anywhere.
pub fn stimulus(layout: &Layout, rng: &mut Rng) -> Stimulus {
    let number = rng.below(CONTAINERS);
    let (inside, outside) = (at(layout.container(number), 5005), at(rng.pick(&layout.outside()), 7005));
    let closed = at(rng.pick(&[layout.host, layout.gateway]), rng.pick(&CLOSED_PORTS));
    let other = (number + 1) % CONTAINERS;
    let (from_inside, from_outside) = (Place::Container(number), Place::Outside);
    let (from, src, dst) = match rng.below(7) {
        0 => (from_inside, inside, outside),
        1 => (from_inside, inside, closed),
        2 => (from_outside, outside, inside),
        3 => (from_outside, outside, closed),
        4 => (from_outside, outside, at(layout.family.loopback(), 8080)),
        5 if rng.chance(50) => (from_inside, inside, at(layout.group, 8080)),
        5 => (from_outside, outside, at(layout.group, 8080)),
        _ => (from_inside, inside, at(layout.container(other), 80)),
    };
    let is_neighbours = dst.ip() == layout.container(other) && from == from_inside;
    let packet = Packet::new(End::At(src), End::At(dst), body(layout, is_neighbours, rng));
    let via = if is_neighbours { Via::Neighbour(other) } else { Via::Host };
    Stimulus { via, ..Stimulus::new(from, packet) }
}

fn body(layout: &Layout, is_neighbours: bool, rng: &mut Rng) -> Body {
    match rng.below(6) {
        0 | 1 => Body::Tcp(Tcp { flags: rng.pick(&[2, 0x12, 4, 0x10]), seq: 77, ack: 99, ..Tcp::default() }),
        2 | 3 => Body::Udp { payload: vec![5; 9] },
        4 => Body::Other { proto: 253, payload: vec![6; 20] },
        _ => {
            // Neighbour discovery that has come from afar, by its hop limit, is for nobody (RFC 4861, 7.1); what neighbours
            // do with it is their own business.
            let kinds: &[u8] = layout.family.pick(&[10, 40, 9], &[139, 144, 200, 133, 134, 135, 136, 137]);
            let end = if is_neighbours { 3 } else { kinds.len() };
            Body::OtherIcmp { kind: rng.pick(&kinds[..end]), payload: vec![6; 20] }
        }
    }
}
