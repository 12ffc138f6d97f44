//! Nothing leaves the host under a container's address, however odd it is: conntrack calls such packets invalid and does
//! not translate them, and Docker's rules let them go.

use std::net::IpAddr;

use netpath_tests::Family;
use netpath_tests::packets::{ACK, FIN, NO_NEXT_HEADER, PSH, Packet, RST, SYN, Segment, TCP, UDP, URG, icmp_of};
use netpath_tests::sockets::at;
use netpath_tests::watcher::Watcher;

use super::connection::Connection;
use super::errors::{error, port_unreachable};
use super::record::Met;
use super::testbed::{Heard, Station, Testbed, require};
use Station::{App, Other, Server};

rows! {
    12, "Leaks: a container's packets that must not leave untranslated";

    truncated_transport_headers_do_not_leak(Both): "cut headers", Must, netfilter Unmet, netpath Met;
        "TCP, UDP and ICMP headers cut at every byte";
    wrong_checksums_do_not_leak(Both): "checksums", Must, netfilter Unmet, netpath Met;
        "Wrong checksums of TCP, UDP and ICMP";
    wrong_lengths_do_not_leak(Both): "lengths", Must, netfilter Unmet, netpath Met;
        "UDP lengths of 0, below 8 and beyond the payload; TCP data offsets below 5 and beyond the segment";
    odd_flags_do_not_leak(Both): "TCP flags", Must, netfilter Unmet, netpath Met;
        "TCP flags: none, SYN with FIN, SYN with RST, all, FIN alone, FIN with URG and PSH";
    segments_of_no_connection_do_not_leak(Both): "TCP state", Must, netfilter Unmet, netpath Met;
        "RST, SYN-ACK and FIN that belong to no connection";
    segments_out_of_the_window_do_not_leak(Both): "TCP window", Must, netfilter Unmet, netpath Met;
        "Data and RST out of the window of an open connection";
    unsolicited_echo_replies_do_not_leak(Both): "ICMP state", Must, netfilter Unmet, netpath Met;
        "Echo replies that nobody asked for";
    unknown_icmp_types_do_not_leak(Both): "ICMP types", Must, netfilter Unmet, netpath Met;
        "ICMP types that no flow is made of";
    errors_about_nothing_do_not_leak(Both): "ICMP errors", Must, netfilter Unmet, netpath Met;
        "ICMP errors about flows that are not there";
    other_protocols_do_not_leak(Both): "protocols", Must, netfilter Unmet, netpath Met;
        "UDP-Lite, GRE, ESP, experimental protocols and, of IPv6, none at all";
    foreign_sources_do_not_leak(Both): "spoofing", Must, netfilter Unmet, netpath Met;
        "Sources that are not the container's: another network's, a neighbour's, mapped IPv4";
    fragments_of_nothing_do_not_leak(Both): "fragments", Must, netfilter Met, netpath Met;
        "Later fragments without a first one, and overlapping ones";
}

/// Sends packets from `app`, one by one. The watcher that every other test ends with must see what the server hears.
fn do_not_leak(bed: &mut Testbed, packets: impl IntoIterator<Item = Packet>) -> Met {
    let network = bed.world.network("bridge");
    let length = u32::from(network.prefix_len(bed.family));
    let mut watcher = Watcher::new(&bed.world.client, network.address(bed.family, 0), length);
    for packet in packets {
        let heard = bed.send(App, &packet);
        let own = [bed.address(App), bed.address(Other)];
        let seen =
            heard.frames(Server).iter().filter_map(|frame| source(frame)).filter(|src| own.contains(src)).count();
        assert_eq!(watcher.take().len(), seen, "what the watcher caught of {packet:?}");
        nothing_untranslated(bed, &heard)?;
    }
    Ok(())
}

fn nothing_untranslated(bed: &Testbed, heard: &Heard) -> Met {
    let mut sources = heard.frames(Server).iter().filter_map(|frame| source(frame));
    require(sources.all(|source| source == bed.host()), "it leaves under another address than the host's")
}

/// The source is read where it lies, since the rest need not make sense.
fn source(frame: &[u8]) -> Option<IpAddr> {
    match (frame.get(12..14)?, frame.get(26..30), frame.get(22..38)) {
        ([0x08, 0x00], Some(v4), _) => Some(<[u8; 4]>::try_from(v4).ok()?.into()),
        ([0x86, 0xdd], _, Some(v6)) => Some(<[u8; 16]>::try_from(v6).ok()?.into()),
        _ => None,
    }
}

/// A datagram, a SYN and an echo request to the server.
fn well_formed(bed: &Testbed) -> [Packet; 3] {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    [
        Packet::udp(inside, server, b"data"),
        Packet::tcp(inside, server, &Segment::default(), b"data"),
        Packet::echo_request(inside.ip(), server.ip(), 77, b"data"),
    ]
}

fn segment(bed: &Testbed, flags: u8) -> Packet {
    Packet::tcp(bed.end(App, 5000), at(bed.server(), 7000), &Segment::new(flags, 1, 1), b"")
}

fn truncated_transport_headers_do_not_leak(bed: &mut Testbed) -> Met {
    for packet in well_formed(bed) {
        bed.out(App, &packet)?;
    }
    for (packet, header) in well_formed(bed).into_iter().zip([8, 20, 8]) {
        do_not_leak(bed, (0..header).map(|length| Packet { l4: packet.l4[..length].to_vec(), ..packet.clone() }))?;
    }
    Ok(())
}

fn wrong_checksums_do_not_leak(bed: &mut Testbed) -> Met {
    let spoiled = well_formed(bed).map(|mut packet| {
        *packet.l4.last_mut().expect("a byte") ^= 1;
        packet
    });
    do_not_leak(bed, spoiled)
}

fn wrong_lengths_do_not_leak(bed: &mut Testbed) -> Met {
    let [datagram, segment, _] = well_formed(bed);
    let lengths = [0_u16, 1, 7, 13, 1400, 65_535].map(|length| {
        let mut packet = datagram.clone();
        packet.l4[4..6].copy_from_slice(&length.to_be_bytes());
        packet.sealed()
    });
    do_not_leak(bed, lengths)?;
    let offsets = [0_u8, 1, 4, 7, 15].map(|words| {
        let mut packet = segment.clone();
        packet.l4[12] = words << 4;
        packet.sealed()
    });
    do_not_leak(bed, offsets)
}

fn odd_flags_do_not_leak(bed: &mut Testbed) -> Met {
    let flags = [0, SYN | FIN, SYN | RST, 0x3f, 0xff, FIN, FIN | URG | PSH, SYN | FIN | RST | ACK];
    do_not_leak(bed, flags.map(|flags| segment(bed, flags)))
}

fn segments_of_no_connection_do_not_leak(bed: &mut Testbed) -> Met {
    do_not_leak(bed, [RST, RST | ACK, SYN | ACK, FIN | ACK].map(|flags| segment(bed, flags)))
}

fn segments_out_of_the_window_do_not_leak(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let connection = Connection::open(bed, App, 5000, server)?;
    let far = connection.seq.wrapping_add(1 << 30);
    let segments = [(ACK | PSH, far, connection.ack), (RST, far, 0), (ACK, connection.seq, connection.ack + (1 << 30))];
    let packets = segments.map(|(flags, seq, ack)| {
        Packet::tcp(connection.inside, connection.remote, &Segment::new(flags, seq, ack), b"far off")
    });
    do_not_leak(bed, packets)
}

fn unsolicited_echo_replies_do_not_leak(bed: &mut Testbed) -> Met {
    let reply = Packet::echo_reply(bed.address(App), bed.server(), 77, b"here I am");
    do_not_leak(bed, [reply])
}

fn unknown_icmp_types_do_not_leak(bed: &mut Testbed) -> Met {
    let types: &[u8] =
        bed.family.pick(&[1, 2, 6, 9, 10, 14, 16, 18, 30, 40, 42, 253], &[0, 100, 127, 138, 139, 140, 200, 255]);
    let (src, dst) = (bed.address(App), bed.server());
    do_not_leak(bed, types.iter().map(|kind| Packet::icmp(src, dst, *kind, 0, [0, 77, 0, 1], b"data")))
}

fn errors_about_nothing_do_not_leak(bed: &mut Testbed) -> Met {
    let (inside, server, kind) = (bed.end(App, 5000), at(bed.server(), 7000), port_unreachable(bed.family));
    let abouts = [
        Packet::udp(server, inside, b"never sent").bytes(),
        Packet::udp(inside, server, b"its own").bytes(),
        Packet::udp(server, at(bed.second_server(), 9), b"of others").bytes(),
        b"no packet at all, but long enough to be taken for one".to_vec(),
        Vec::new(),
    ];
    do_not_leak(bed, abouts.map(|about| error(inside.ip(), server.ip(), kind, &about)))
}

fn other_protocols_do_not_leak(bed: &mut Testbed) -> Met {
    const UDP_LITE: u8 = 136;
    let mut protocols = vec![UDP_LITE, 2, 4, 41, 47, 50, 51, 89, 103, 112, 253, 254, 255];
    protocols.extend((bed.family == Family::V6).then_some(NO_NEXT_HEADER));
    let (src, dst) = (bed.address(App), bed.server());
    do_not_leak(bed, protocols.into_iter().map(|proto| Packet::new(src, dst, proto, vec![0; 40])))
}

fn foreign_sources_do_not_leak(bed: &mut Testbed) -> Met {
    let texts = bed.family.pick(
        ["10.9.9.9", "172.18.0.2", "203.0.113.7", "172.17.255.255"],
        ["fd00:9::9", "2001:db8:9::9", "::ffff:1.2.3.4", "64:ff9b::1.2.3.4"],
    );
    let mut sources: Vec<IpAddr> = texts.iter().map(|text| text.parse().expect("an address")).collect();
    sources.extend([bed.address(Other), bed.server()]);
    let server = at(bed.server(), 7000);
    do_not_leak(bed, sources.into_iter().map(|source| Packet::udp(at(source, 5000), server, b"who am I?")))
}

fn fragments_of_nothing_do_not_leak(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let pieces = Packet::udp(inside, server, &[b'x'; 120]).fragments(32);
    // Never the first one; then two that claim the same bytes.
    let overlapping = Packet { offset: 40, ..pieces[1].clone() };
    let others = [TCP, UDP, icmp_of(inside.ip())].map(|proto| Packet {
        offset: 1480,
        more_fragments: true,
        id: 0x4321,
        ..Packet::new(inside.ip(), server.ip(), proto, vec![b'y'; 64])
    });
    do_not_leak(bed, [pieces[1].clone(), overlapping, pieces[3].clone()].into_iter().chain(others))
}
