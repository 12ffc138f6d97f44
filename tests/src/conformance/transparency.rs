//! What a translator does not translate stays as it is, bit by bit, and its checksums stay honest.
//!
//! A packet is compared as a whole with the one expected: the sent one with the other name, one hop less and checksums
//! made from scratch.

use std::net::SocketAddr;

use netpath_tests::packets::{ACK, PSH, Packet, SYN, Segment, URG};
use netpath_tests::sockets::at;

use super::record::Met;
use super::testbed::{DNS, DNS_INSIDE, OTHER_DNS, Station, Testbed, require};
use Station::{App, Other, Server};

rows! {
    9, "Transparency, RFC 768, RFC 9260";

    dscp_and_ecn_stay(Both): "RFC 2474, 3168", Must, netfilter Met, netpath Met;
        "All 256 values of DSCP and ECN pass, out and in";
    the_network_header_stays(Both): "transparency", Must, netfilter Met, netpath Met;
        "Identification, DF, the reserved flag and the flow label pass as they are";
    the_tcp_header_stays(Both): "transparency", Must, netfilter Met, netpath Met;
        "Flags, reserved bits, window, urgent pointer and unknown options pass as they are, out and in";
    payloads_of_every_length_stay(Both): "transparency", Must, netfilter Met, netpath Met;
        "Payloads of odd and even length, empty ones among them, pass on every road: out, back, published, hairpin";
    a_checksum_of_zero_stays_zero(V4): "RFC 768", Must, netfilter Met, netpath Met;
        "A datagram without a checksum gets none, out and in";
    a_sum_of_zero_is_sent_as_ones(Both): "RFC 768", Must, netfilter Met, netpath Met;
        "A datagram whose new checksum comes to zero carries all ones";
    a_wrong_checksum_stays_wrong(Both): "transparency", Must, netfilter Met, netpath Met;
        "A wrong checksum is never made right: the datagram is dropped or stays wrong";
    frames_padding_is_not_data(Both): "RFC 894", Must, netfilter Met, netpath Met;
        "What lies behind a packet's length is padding: the checksum does not count it";
    sctp_passes_with_its_checksum(Both): "RFC 9260", Nice, netfilter Met, netpath Met;
        "SCTP passes out and back with a good checksum";
}

/// `sent` as it arrives one hop on, with these names.
fn expected(sent: &Packet, from: SocketAddr, to: SocketAddr) -> Packet {
    let mut packet = Packet { src: from.ip(), dst: to.ip(), ttl: sent.ttl - 1, ..sent.clone() };
    packet.l4[..2].copy_from_slice(&from.port().to_be_bytes());
    packet.l4[2..4].copy_from_slice(&to.port().to_be_bytes());
    packet.sealed()
}

fn same(seen: &Packet, expected: &Packet) -> Met {
    require(seen == expected, "a bit that is not translated has changed")
}

/// Sends `make`'s packets out of `app` and back in, and compares both.
fn both_ways(bed: &mut Testbed, make: impl Fn(SocketAddr, SocketAddr) -> Packet) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let sent = make(inside, server);
    let seen = bed.out(App, &sent)?;
    same(&seen, &expected(&sent, seen.from(), server))?;
    let back = make(server, seen.from());
    let heard = bed.send(Server, &back).one(App)?;
    same(&heard, &expected(&back, server, inside))
}

fn dscp_and_ecn_stay(bed: &mut Testbed) -> Met {
    (0..=255).try_for_each(|tos| both_ways(bed, |src, dst| Packet { tos, ..Packet::udp(src, dst, b"data") }))
}

fn the_network_header_stays(bed: &mut Testbed) -> Met {
    if bed.family == netpath_tests::Family::V6 {
        return [0, 1, 0xa_bcde, 0xf_ffff].into_iter().try_for_each(|flow_label| {
            both_ways(bed, |src, dst| Packet { flow_label, id: 0x1234, ..Packet::udp(src, dst, b"data") })
        });
    }
    for id in [0, 1, 0xffff] {
        for (dont_fragment, reserved) in [(false, false), (true, false), (false, true), (true, true)] {
            both_ways(bed, |src, dst| Packet { id, dont_fragment, reserved, ..Packet::udp(src, dst, b"data") })?;
        }
    }
    Ok(())
}

fn the_tcp_header_stays(bed: &mut Testbed) -> Met {
    let unknown = vec![254, 6, 0xde, 0xad, 0xbe, 0xef, 253, 2];
    let open = |flags| Segment { flags, options: unknown.clone(), reserved: 0b101, window: 7, ..Segment::default() };
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let sent = Packet::tcp(inside, server, &open(SYN | 0xc0), b"");
    let seen = bed.out(App, &sent)?;
    same(&seen, &expected(&sent, seen.from(), server))?;
    let back = Packet::tcp(server, seen.from(), &Segment { ack: 1001, ..open(SYN | ACK | 0x40) }, b"");
    let heard = bed.send(Server, &back).one(App)?;
    same(&heard, &expected(&back, server, inside))?;
    let data = Segment { seq: 1001, ack: 1001, urgent: 3, ..open(ACK | PSH | URG | 0x80) };
    let sent = Packet::tcp(inside, server, &data, b"urgent");
    let again = bed.out(App, &sent)?;
    same(&again, &expected(&sent, seen.from(), server))
}

fn payloads_of_every_length_stay(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    for length in [0, 1, 2, 3, 17, 100, 511, 512, 1399] {
        let payload: Vec<u8> = (0..length).map(|index| (index * 7) as u8).collect();
        both_ways(bed, |src, dst| Packet::udp(src, dst, &payload))?;
        let asked = Packet::udp(server, bed.host_end(DNS), &payload);
        let seen = bed.send(Server, &asked).one(App)?;
        same(&seen, &expected(&asked, server, bed.end(App, DNS_INSIDE)))?;
        let answer = Packet::udp(seen.to(), server, &payload);
        let heard = bed.send(App, &answer).one(Server)?;
        same(&heard, &expected(&answer, bed.host_end(DNS), server))?;
        let hairpin = Packet::udp(bed.end(App, 5001), bed.host_end(OTHER_DNS), &payload);
        let seen = bed.send(App, &hairpin).one(Other)?;
        same(&seen, &Packet { ttl: seen.ttl, ..expected(&hairpin, seen.from(), bed.end(Other, DNS_INSIDE)) })?;
    }
    Ok(())
}

/// Without the checksum.
fn bare(mut packet: Packet) -> Packet {
    packet.l4[6..8].fill(0);
    packet
}

fn a_checksum_of_zero_stays_zero(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let sent = bare(Packet::udp(inside, server, b"data"));
    let seen = bed.out(App, &sent)?;
    same(&seen, &bare(expected(&sent, seen.from(), server)))?;
    let back = bare(Packet::udp(server, seen.from(), b"data"));
    let heard = bed.send(Server, &back).one(App)?;
    same(&heard, &bare(expected(&back, server, inside)))?;
    let asked = bare(Packet::udp(server, bed.host_end(DNS), b"data"));
    let heard = bed.send(Server, &asked).one(App)?;
    same(&heard, &bare(expected(&asked, server, bed.end(App, DNS_INSIDE))))
}

/// A payload with which a datagram from `from` to `to` has the checksum zero, which is sent as ones.
fn summing_to_zero(from: SocketAddr, to: SocketAddr) -> [u8; 2] {
    let payloads = (0..=u16::MAX).map(u16::to_be_bytes);
    let mut of_ones = payloads.filter(|payload| Packet::udp(from, to, payload).l4[6..8] == [0xff, 0xff]);
    of_ones.next().expect("one word completes any sum")
}

fn a_sum_of_zero_is_sent_as_ones(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    // Taken by the neighbour, so that the port changes too.
    bed.udp_out(Other, 5000, server)?;
    let outside = bed.udp_out(App, 5000, server)?.from();
    let seen = bed.out(App, &Packet::udp(inside, server, &summing_to_zero(outside, server)))?;
    require(seen.l4[6..8] == [0xff, 0xff], "another checksum than ones, going out")?;
    let back = Packet::udp(server, outside, &summing_to_zero(server, inside));
    let heard = bed.send(Server, &back).one(App)?;
    require(heard.l4[6..8] == [0xff, 0xff], "another checksum than ones, coming in")?;
    let asked = Packet::udp(server, bed.host_end(DNS), &summing_to_zero(server, bed.end(App, DNS_INSIDE)));
    let heard = bed.send(Server, &asked).one(App)?;
    require(heard.l4[6..8] == [0xff, 0xff], "another checksum than ones, at a published port")
}

fn a_wrong_checksum_stays_wrong(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let outside = bed.udp_out(App, 5000, server)?.from();
    let spoiled = |mut packet: Packet| {
        *packet.l4.last_mut().expect("a byte") ^= 0x10;
        packet
    };
    let sent = [
        (App, Server, Packet::udp(inside, server, b"data")),
        (Server, App, Packet::udp(server, outside, b"data")),
        (Server, App, Packet::udp(server, bed.host_end(DNS), b"data")),
        (App, Server, Packet::udp(bed.end(App, DNS_INSIDE), server, b"data")),
    ];
    for (from, to, packet) in sent {
        let heard = bed.send(from, &spoiled(packet)).at(to);
        require(heard.iter().all(|packet| packet.wrong_checksum().is_some()), "a wrong checksum has been made right")?;
    }
    Ok(())
}

fn frames_padding_is_not_data(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let padded = |packet: &Packet| [packet.bytes(), vec![0xee; 11]].concat();
    let sent = Packet::udp(inside, server, b"x");
    let seen = bed.send_bytes(App, &[padded(&sent)]).one(Server)?;
    same(&seen, &expected(&sent, seen.from(), server))?;
    let back = Packet::udp(server, seen.from(), b"x");
    let heard = bed.send_bytes(Server, &[padded(&back)]).one(App)?;
    same(&heard, &expected(&back, server, inside))
}

fn sctp_passes_with_its_checksum(bed: &mut Testbed) -> Met {
    const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
    const INIT_ACK: [u8; 20] = [2, 0, 0, 20, 0, 0, 0, 2, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 3868));
    let sent = Packet::sctp(inside, server, 0, &INIT);
    let seen = bed.out(App, &sent)?;
    same(&seen, &expected(&sent, seen.from(), server))?;
    let back = Packet::sctp(server, seen.from(), 1, &INIT_ACK);
    let heard = bed.send(Server, &back).one(App)?;
    same(&heard, &expected(&back, server, inside))
}
