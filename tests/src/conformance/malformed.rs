//! Malformed packets reach nobody, in either direction, and what only looks odd passes.

use netpath_tests::packets::{
    DESTINATION_OPTIONS, HOP_BY_HOP, ICMPV6, Packet, ROUTING, Segment, TCP, UDP, fix_header_checksum,
};
use netpath_tests::sockets::at;

use super::record::Met;
use super::rfc4787::arrived_whole;
use super::testbed::{DNS, DNS_INSIDE, Station, Testbed, WEB, require};
use Station::{App, Other, Server};

rows! {
    11, "Malformed packets";

    ipv4_headers_that_lie_reach_nobody(V4): "RFC 791", Must, netfilter Met, netpath Met;
        "Another version, a header length below 5 or beyond the packet, a total length below the header or beyond the frame";
    wrong_header_checksums_reach_nobody(V4): "RFC 1812, 5.2.2", Must, netfilter Met, netpath Met;
        "A packet whose header checksum is wrong is not forwarded";
    ipv6_headers_that_lie_reach_nobody(V6): "RFC 8200", Must, netfilter Met, netpath Met;
        "A payload length beyond the frame, another version";
    cut_transport_headers_reach_no_container(Both): "transport", Must, netfilter Met, netpath Met;
        "TCP and UDP headers cut at every byte do not reach a published port";
    lying_transport_headers_reach_no_container(Both): "transport", Must, netfilter Met, netpath Met;
        "UDP lengths and TCP data offsets that contradict the packet do not reach a published port";
    lone_later_fragments_reach_no_container(Both): "fragments", Must, netfilter Met, netpath Met;
        "Later fragments without a first one do not reach a published port";
    overlapping_fragments_do_not_make_a_datagram(Both): "RFC 5722", Must, netfilter Met, netpath Met;
        "Fragments that overlap do not arrive as anything but what was sent";
    tiny_fragments_pass(Both): "RFC 791", Must, netfilter Met, netpath Met;
        "Fragments of eight bytes pass";
    many_fragments_pass(Both): "RFC 791", Must, netfilter Met, netpath Met;
        "A datagram of 60 kB passes in 50 fragments";
    fragments_beyond_the_largest_packet_reach_nobody(V4): "RFC 791", Nice, netfilter Met, netpath Met;
        "A fragment that ends beyond 65,535 bytes reaches nobody (ping of death)";
    frames_with_a_vlan_tag_are_not_translated(Both): "802.1Q", Must, netfilter Met, netpath Met;
        "Frames of a VLAN, or of two, are not the container's own and do not leave";
    frames_with_a_priority_tag_are_translated(Both): "802.1p", Must, netfilter Met, netpath Met;
        "Frames with a priority tag (VLAN 0) pass as those without";
    port_zero_is_translated(Both): "RFC 768", Nice, netfilter Met, netpath Met;
        "Datagrams from or to port 0 pass";
    endless_extension_headers_reach_nobody(V6): "RFC 8504", Must, netfilter Unmet, netpath Met;
        "A chain of 60 extension headers, or one without a transport header, does not leave under the container's address";
    source_routes_are_not_followed(V6): "RFC 5095", Must, netfilter Met, netpath Met;
        "A routing header of type 0 with segments left is not followed";
    neighbour_discovery_from_afar_reaches_nobody(V6): "RFC 4861", Must, netfilter Met, netpath Met;
        "Neighbour discovery for a container's address does not pass from outside, whatever its hop limit";
}

/// Neither from a container to the server nor from there to a published port.
fn reach_nobody(bed: &mut Testbed, spoil: impl Fn(Vec<u8>) -> Vec<u8>) -> Met {
    let server = at(bed.server(), 7000);
    let out = spoil(Packet::udp(bed.end(App, 5000), server, b"a payload of some length").bytes());
    let heard = bed.send_bytes(App, &[out]);
    heard.nothing(Server)?;
    heard.nothing(Other)?;
    let back = spoil(Packet::udp(server, bed.host_end(DNS), b"a payload of some length").bytes());
    let heard = bed.send_bytes(Server, &[back]);
    heard.nothing(App)?;
    heard.nothing(Other)
}

/// What [`reach_nobody`] sends passes as it is.
fn unspoiled_reaches(bed: &mut Testbed) -> Met {
    match reach_nobody(bed, |bytes| bytes) {
        Ok(()) => Err("nothing passes at all".to_owned()),
        Err(_) => Ok(()),
    }
}

fn ipv4_headers_that_lie_reach_nobody(bed: &mut Testbed) -> Met {
    unspoiled_reaches(bed)?;
    for first in [0x05, 0x35, 0x55, 0x75, 0xf5, 0x40, 0x41, 0x44, 0x4f] {
        reach_nobody(bed, |mut bytes| {
            bytes[0] = first;
            fix_header_checksum(&mut bytes);
            bytes
        })?;
    }
    for length in [0_u16, 1, 19, 53, 1500, 65_535] {
        reach_nobody(bed, |mut bytes| {
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            fix_header_checksum(&mut bytes);
            bytes
        })?;
    }
    (0..20).try_for_each(|length| reach_nobody(bed, |bytes| bytes[..length].to_vec()))
}

fn wrong_header_checksums_reach_nobody(bed: &mut Testbed) -> Met {
    unspoiled_reaches(bed)?;
    (0..8).try_for_each(|bit| {
        reach_nobody(bed, |mut bytes| {
            bytes[10] ^= 1 << bit;
            bytes
        })
    })
}

fn ipv6_headers_that_lie_reach_nobody(bed: &mut Testbed) -> Met {
    unspoiled_reaches(bed)?;
    for length in [33_u16, 1500, 65_535] {
        reach_nobody(bed, |mut bytes| {
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
            bytes
        })?;
    }
    (0..40).try_for_each(|length| reach_nobody(bed, |bytes| bytes[..length].to_vec()))
}

/// A datagram and a segment for the published ports of `app`.
fn published(bed: &Testbed) -> [Packet; 2] {
    let server = at(bed.server(), 7000);
    [
        Packet::udp(server, bed.host_end(DNS), b"data"),
        Packet::tcp(server, bed.host_end(WEB), &Segment::default(), b"data"),
    ]
}

fn cut_transport_headers_reach_no_container(bed: &mut Testbed) -> Met {
    for packet in published(bed) {
        bed.send(Server, &packet).one(App)?;
    }
    for (packet, header) in published(bed).into_iter().zip([8, 20]) {
        for length in 0..header {
            let cut = Packet { l4: packet.l4[..length].to_vec(), ..packet.clone() };
            bed.send(Server, &cut).nothing(App)?;
        }
    }
    Ok(())
}

fn lying_transport_headers_reach_no_container(bed: &mut Testbed) -> Met {
    let [datagram, segment] = published(bed);
    for length in [0_u16, 7, 13, 65_535] {
        let mut packet = datagram.clone();
        packet.l4[4..6].copy_from_slice(&length.to_be_bytes());
        bed.send(Server, &packet.sealed()).nothing(App)?;
    }
    for words in [0_u8, 4, 7, 15] {
        let mut packet = segment.clone();
        packet.l4[12] = words << 4;
        bed.send(Server, &packet.sealed()).nothing(App)?;
    }
    Ok(())
}

fn lone_later_fragments_reach_no_container(bed: &mut Testbed) -> Met {
    let sent = Packet { id: 0x7001, ..Packet::udp(at(bed.server(), 7000), bed.host_end(DNS), &[b'x'; 100]) };
    for piece in &sent.fragments(32)[1..] {
        bed.send(Server, piece).nothing(App)?;
    }
    Ok(())
}

fn overlapping_fragments_do_not_make_a_datagram(bed: &mut Testbed) -> Met {
    let sent = Packet { id: 77, ..Packet::udp(at(bed.server(), 7000), bed.host_end(DNS), &[b'x'; 100]) };
    let mut pieces = sent.fragments(40);
    let forged = Packet { offset: 32, l4: vec![b'!'; 40], ..pieces[1].clone() };
    pieces.insert(1, forged);
    let heard = bed.send_all(Server, &pieces).at(App);
    // As the container's kernel does (RFC 5722, 4): what overlaps is no datagram.
    let whole = Packet::reassembled(&heard);
    require(whole.is_none_or(|packet| packet.payload() == sent.payload()), "a forged datagram arrives")
}

/// Out of a container and in at a published port, in fragments of `size`.
fn fragments_pass(bed: &mut Testbed, length: usize, size: usize) -> Met {
    let (server, payload) = (at(bed.server(), 7000), vec![b'x'; length]);
    let sent = Packet::udp(bed.end(App, 5000), server, &payload);
    let seen = arrived_whole(&bed.send_all(App, &sent.fragments(size)).at(Server), &sent)?;
    require(seen.src == bed.host(), "it leaves under the container's own address")?;
    let sent = Packet::udp(server, bed.host_end(DNS), &payload);
    let seen = arrived_whole(&bed.send_all(Server, &sent.fragments(size)).at(App), &sent)?;
    require(seen.to() == bed.end(App, DNS_INSIDE), "it has another destination")
}

fn tiny_fragments_pass(bed: &mut Testbed) -> Met {
    fragments_pass(bed, 100, 8)
}

fn many_fragments_pass(bed: &mut Testbed) -> Met {
    fragments_pass(bed, 60_000, 1200)
}

fn fragments_beyond_the_largest_packet_reach_nobody(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let datagrams = [
        (App, Server, Packet::udp(bed.end(App, 5000), server, &[b'x'; 64])),
        (Server, App, Packet::udp(server, bed.host_end(DNS), &[b'x'; 64])),
    ];
    for (from, to, datagram) in datagrams {
        let first = datagram.fragments(32).remove(0);
        let last = Packet { offset: 65_528, more_fragments: false, l4: vec![b'x'; 600], ..first.clone() };
        let heard = bed.send_all(from, &[first, last]).at(to);
        require(!heard.iter().any(|packet| packet.offset == 65_528), "a fragment beyond the largest packet passes")?;
    }
    Ok(())
}

/// `packet` in a frame of `station` with these bytes between the addresses and its EtherType.
fn tagged(bed: &Testbed, station: Station, tag: &[u8], packet: &Packet) -> Vec<u8> {
    let ether_type = bed.family.pick([0x08, 0x00], [0x86, 0xdd]);
    [&bed.macs(station)[..], tag, &ether_type, &packet.bytes()].concat()
}

fn frames_with_a_vlan_tag_are_not_translated(bed: &mut Testbed) -> Met {
    let sent = Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), b"question");
    for tag in [&[0x81, 0, 0, 100][..], &[0x88, 0xa8, 0, 100, 0x81, 0, 0, 7], &[0x81, 0, 0, 100, 0x81, 0, 0, 0]] {
        let frame = tagged(bed, App, tag, &sent);
        bed.send_frame(App, &frame).nothing(Server)?;
    }
    Ok(())
}

fn frames_with_a_priority_tag_are_translated(bed: &mut Testbed) -> Met {
    const PRIORITY: [u8; 4] = [0x81, 0, 0xa0, 0];
    let server = at(bed.server(), 7000);
    let sent = Packet::udp(bed.end(App, 5000), server, b"question");
    let frame = tagged(bed, App, &PRIORITY, &sent);
    let seen = bed.send_frame(App, &frame).one(Server)?;
    require(seen.src == bed.host(), "it leaves under the container's own address")?;
    let back = Packet::udp(server, bed.host_end(DNS), b"question");
    let frame = tagged(bed, Server, &PRIORITY, &back);
    bed.send_frame(Server, &frame).one(App).map(drop)
}

fn port_zero_is_translated(bed: &mut Testbed) -> Met {
    let server = bed.server();
    bed.udp_out(App, 0, at(server, 7000))?;
    let seen = bed.udp_out(App, 5000, at(server, 0))?;
    bed.udp_in(at(server, 0), seen.from(), App).map(drop)
}

fn endless_extension_headers_reach_nobody(bed: &mut Testbed) -> Met {
    let padding = (DESTINATION_OPTIONS, vec![1, 4, 0, 0, 0, 0]);
    let datagram = Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), b"question");
    let mut packets = vec![Packet { extensions: vec![padding.clone(); 60], ..datagram.clone() }];
    for proto in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, TCP, UDP, ICMPV6] {
        packets.push(Packet { extensions: vec![padding.clone()], proto, l4: Vec::new(), ..datagram.clone() });
    }
    for packet in packets {
        let heard = bed.send(App, &packet).at(Server);
        require(heard.iter().all(|packet| packet.src == bed.host()), "it leaves under the container's own address")?;
    }
    Ok(())
}

fn source_routes_are_not_followed(bed: &mut Testbed) -> Met {
    let std::net::IpAddr::V6(next) = bed.second_server() else { unreachable!("a row of IPv6") };
    let route = [&[0, 1, 0, 0, 0, 0], &next.octets()[..]].concat();
    let sent = Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), b"question");
    let sent = Packet { extensions: vec![(ROUTING, route)], ..sent };
    // A router that the packet is not addressed to passes it on (RFC 8200, 4.4); what must not be is that it is followed.
    let heard = bed.send(App, &sent).at(Server);
    require(heard.iter().all(|packet| packet.dst == bed.server()), "the source route is followed")?;
    let to_host = Packet { dst: bed.host(), ..sent };
    bed.send(App, &to_host).nothing(Server)
}

fn neighbour_discovery_from_afar_reaches_nobody(bed: &mut Testbed) -> Met {
    let std::net::IpAddr::V6(target) = bed.address(App) else { unreachable!("a row of IPv6") };
    for kind in [133, 134, 135, 136, 137] {
        for ttl in [64, 255] {
            let message = Packet::icmp(bed.server(), bed.address(App), kind, 0, [0; 4], &target.octets());
            bed.send(Server, &Packet { ttl, ..message }).nothing(App)?;
        }
    }
    Ok(())
}
