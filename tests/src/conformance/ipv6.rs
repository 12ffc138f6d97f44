//! RFC 8200 and RFC 4443: what is IPv6's own. All that both families have stands in the other parts.

use netpath_tests::packets::{DESTINATION_OPTIONS, HOP_BY_HOP, Packet, ROUTING};
use netpath_tests::sockets::at;

use super::record::Met;
use super::rfc4787::arrived_whole;
use super::testbed::{DNS, DNS_INSIDE, Setup, Station, Testbed, require};
use Station::{App, Server};

rows! {
    10, "RFC 8200, RFC 4443: IPv6";

    routers_do_not_fragment(V6): "RFC 8200, 5", Must, netfilter Met, netpath Met,
        with super::Setup::muted;
        "What is too large is reported with the next hop's MTU, never cut";
    extension_headers_pass(V6): "RFC 8200, 4", Must, netfilter Met, netpath Met;
        "Hop-by-hop options, destination options and a used-up routing header pass, and the ports behind them are translated";
    options_that_forbid_it_are_not_forwarded(V6): "RFC 8200, 4.2", Must, netfilter Met, netpath Met;
        "A packet does not pass with a hop-by-hop option that nobody knows and that has unknowing routers discard it";
    many_extension_headers_pass(V6): "RFC 8200, 4", Nice, netfilter Met, netpath Unmet;
        "Twelve destination options headers in a row pass";
    atomic_fragments_pass(V6): "RFC 6946", Must, netfilter Met, netpath Met;
        "A whole datagram with a fragment header passes, out and in";
    link_local_sources_stay_on_their_link(V6): "RFC 4291, 2.5.6", Must, netfilter Met, netpath Met;
        "A packet from a link-local source is not forwarded";
    a_datagram_without_checksum_is_not_mended(V6): "RFC 8200, 8.1", Must, netfilter Met, netpath Met;
        "A datagram without a checksum, which IPv6 does not allow, is dropped or stays without";
    groups_are_not_left_for(V6): "RFC 4291, 2.7", Must, netfilter Met, netpath Met;
        "A container's packet to a group does not leave";
}

fn routers_do_not_fragment(bed: &mut Testbed) -> Met {
    bed.world.host.ip("link set up0 mtu 1280");
    let sent = Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), &[b'x'; 1400]);
    let heard = bed.send(App, &sent);
    heard.nothing(Server)?;
    let report = heard.one(App)?;
    require(report.kind() == Some((2, 0)) && report.l4[4..8] == 1280_u32.to_be_bytes(), "another report")
}

/// Six bytes of padding fill a header of eight.
fn padding(kind: u8) -> (u8, Vec<u8>) {
    (kind, vec![1, 4, 0, 0, 0, 0])
}

/// Out and back, in and back, with these headers in front of the datagram.
fn pass(bed: &mut Testbed, extensions: &[(u8, Vec<u8>)]) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let with = |packet: Packet| Packet { extensions: extensions.to_vec(), ..packet };
    let seen = bed.out(App, &with(Packet::udp(inside, server, b"question")))?;
    require(seen.extensions == extensions, "an extension header has changed")?;
    let heard = bed.send(Server, &with(Packet::udp(server, seen.from(), b"answer"))).one(App)?;
    require(heard.extensions == extensions && heard.to() == inside, "an answer arrives changed")?;
    let asked = bed.send(Server, &with(Packet::udp(server, bed.host_end(DNS), b"question"))).one(App)?;
    require(asked.extensions == extensions && asked.to() == bed.end(App, DNS_INSIDE), "a question arrives changed")
}

fn extension_headers_pass(bed: &mut Testbed) -> Met {
    // A routing header of an experimental kind with no segment left (RFC 4727).
    let routing = (ROUTING, vec![253, 0, 0, 0, 0, 0]);
    let headers = [padding(HOP_BY_HOP), padding(DESTINATION_OPTIONS), routing];
    for header in &headers {
        pass(bed, std::slice::from_ref(header))?;
    }
    pass(bed, &headers)
}

fn options_that_forbid_it_are_not_forwarded(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    // Of experimental kinds (RFC 4727): discard; discard and report; discard and report unless it is for a group.
    for kind in [0x5e, 0x9e, 0xde] {
        let with = |packet: Packet| Packet { extensions: vec![(HOP_BY_HOP, vec![kind, 4, 0, 0, 0, 0])], ..packet };
        bed.send(App, &with(Packet::udp(inside, server, b"question"))).nothing(Server)?;
        bed.send(Server, &with(Packet::udp(server, bed.host_end(DNS), b"question"))).nothing(App)?;
    }
    Ok(())
}

fn many_extension_headers_pass(bed: &mut Testbed) -> Met {
    pass(bed, &vec![padding(DESTINATION_OPTIONS); 12])
}

fn atomic_fragments_pass(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let sent = Packet { atomic: true, ..Packet::udp(inside, server, b"question") };
    let outside = arrived_whole(&bed.send(App, &sent).at(Server), &sent)?.from();
    require(outside.ip() == bed.host(), "it leaves under the container's own address")?;
    let back = Packet { atomic: true, ..Packet::udp(server, outside, b"answer") };
    let heard = arrived_whole(&bed.send(Server, &back).at(App), &back)?;
    require(heard.to() == inside, "the answer has another destination")
}

fn link_local_sources_stay_on_their_link(bed: &mut Testbed) -> Met {
    let source = at(bed.app.inside.link_local("eth0"), 5000);
    let heard = bed.send(App, &Packet::udp(source, at(bed.server(), 7000), b"question"));
    heard.nothing(Server)
}

fn a_datagram_without_checksum_is_not_mended(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let packets = [
        (App, Server, Packet::udp(bed.end(App, 5000), server, b"data")),
        (Server, App, Packet::udp(server, bed.host_end(DNS), b"data")),
    ];
    for (from, to, mut packet) in packets {
        packet.l4[6..8].fill(0);
        let heard = bed.send(from, &packet).at(to);
        require(heard.iter().all(|packet| packet.l4[6..8] == [0, 0]), "it gets a checksum")?;
    }
    Ok(())
}

fn groups_are_not_left_for(bed: &mut Testbed) -> Met {
    for group in ["ff02::99", "ff05::99", "ff0e::99"] {
        let to = at(group.parse::<std::net::IpAddr>().expect("an address"), 7000);
        bed.send(App, &Packet::udp(bed.end(App, 5000), to, b"anybody?")).nothing(Server)?;
    }
    Ok(())
}
