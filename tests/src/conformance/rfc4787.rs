//! RFC 4787: how a translator treats UDP.

use std::net::SocketAddr;

use netpath_tests::packets::Packet;
use netpath_tests::sockets::at;

use super::clock;
use super::errors::{error, port_unreachable, quotes};
use super::record::Met;
use super::testbed::{DNS, DNS_INSIDE, OTHER_DNS, Setup, Station, Testbed, require};
use Station::{App, Other, Server};

rows! {
    1, "RFC 4787: UDP";

    req_1_endpoint_independent_mapping(Both): "REQ-1", Must, netfilter Unmet, netpath Met;
        "An inside address and port has one outside port for all destinations";
    req_2_paired_address_pooling(Both): "REQ-2", Must, netfilter Met, netpath Met,
        with super::Setup::muted;
        "All flows of a container leave under one outside address";
    req_3_no_port_overloading(Both): "REQ-3", Nice, netfilter Unmet, netpath Met;
        "No two containers share an outside port while others are free";
    req_3a_port_class_is_kept(Both): "REQ-3a", Must, netfilter Met, netpath Met;
        "A port below 1024 is mapped below 1024, one above it above it";
    req_5_a_mapping_lives_two_minutes(Both): "REQ-5", Must, netfilter Unmet, netpath Met;
        "A mapping without an answer lives for at least 2 minutes";
    req_5b_an_answered_mapping_lives_five_minutes(Both): "REQ-5b", Nice, netfilter Unmet, netpath Met;
        "5 minutes are recommended: an answered mapping lives that long";
    req_5_a_silent_mapping_ends(Both): "REQ-5", Must, netfilter Met, netpath Met;
        "A mapping ends when it has been silent for longer than its timer";
    req_6_outbound_packets_refresh_the_mapping(Both): "REQ-6", Must, netfilter Met, netpath Met;
        "Packets from inside keep a mapping alive";
    req_6_inbound_packets_refresh_the_mapping(Both): "REQ-6a", Nice, netfilter Met, netpath Met;
        "Packets from outside may keep it alive";
    req_8_address_and_port_dependent_filtering(Both): "REQ-8", Must, netfilter Met, netpath Met;
        "Only the address and port that was asked may answer";
    req_9_a_neighbours_published_port_is_reached(Both): "REQ-9", Must, netfilter Met, netpath Met;
        "Hairpin: a container reaches a neighbour by the outside address, and is answered from it";
    req_9_a_containers_own_published_port_is_reached(Both): "REQ-9", Must, netfilter Met, netpath Met;
        "Hairpin: a container reaches itself by the outside address";
    req_9_dynamic_mappings_are_reached(Both): "REQ-9", Nice, netfilter Unmet, netpath Unmet;
        "Hairpin: containers that address each other's dynamic mappings meet";
    req_9a_hairpinned_packets_have_an_outside_source(Both): "REQ-9a", Must, netfilter Unmet, netpath Met;
        "A hairpinned packet has an outside source address and port";
    req_10_payloads_are_left_alone(Both): "REQ-10", Must, netfilter Met, netpath Met;
        "No application-level gateway changes what a payload says about addresses";
    req_11_mapping_is_deterministic(Both): "REQ-11", Nice, netfilter Unmet, netpath Met;
        "The same conflict gives the same outside port again";
    req_12_icmp_errors_do_not_end_a_mapping(Both): "REQ-12", Must, netfilter Met, netpath Met;
        "ICMP errors pass from whoever reports them, and do not end the mapping";
    req_13_too_large_with_df_is_reported(V4): "REQ-13", Must, netfilter Met, netpath Met,
        with super::Setup::muted;
        "A packet with DF that is too large is reported with the next hop's MTU";
    req_13a_too_large_without_df_is_fragmented(V4): "REQ-13a", Must, netfilter Met, netpath Met,
        with super::Setup::muted;
        "A packet without DF that is too large arrives in fragments";
    req_14_fragments_in_order_are_translated(Both): "REQ-14", Must, netfilter Met, netpath Met;
        "Fragments that arrive in order pass, out of a container and in at a mapping";
    req_14_published_ports_take_fragments(Both): "REQ-14", Must, netfilter Met, netpath Met;
        "Fragments that arrive in order pass to a published port and back";
    req_14a_fragments_out_of_order_are_translated(Both): "REQ-14a", Must, netfilter Met, netpath Met;
        "Fragments that arrive in any order pass, out of a container, in at a mapping and to a published port";
    req_14a_fragments_that_come_twice_are_translated(Both): "REQ-14a", Must, netfilter Met, netpath Met;
        "A datagram arrives whole though some of its fragments come twice";
    req_14a_fragments_of_two_senders_are_told_apart(Both): "REQ-14a", Must, netfilter Met, netpath Met;
        "Fragments of two clients with one identification, mixed, make two datagrams";
    req_14a_lone_fragments_cost_nobody_else(Both): "REQ-14a", Must, netfilter Unmet, netpath Met;
        "After 5,000 fragments of datagrams that never become whole, others still pass, fragmented and not";
}

fn req_1_endpoint_independent_mapping(bed: &mut Testbed) -> Met {
    // Somebody else has the port towards the one destination before the mapping is needed there.
    let [first, second, third] = [at(bed.server(), 7000), at(bed.second_server(), 7000), at(bed.server(), 7001)];
    bed.udp_out(App, 6000, first)?;
    let seen = bed.udp_out(Other, 6000, second)?.from();
    for to in [first, third] {
        let again = bed.udp_out(Other, 6000, to)?.from();
        require(again == seen, "another outside port towards a destination where the first one was taken")?;
    }
    Ok(())
}

fn req_2_paired_address_pooling(bed: &mut Testbed) -> Met {
    let more = bed.family.wire(0, 9);
    bed.world.host.ip(&format!(
        "addr add {more}/{} dev up0{}",
        bed.family.wire_prefix(),
        bed.family.pick("", " nodad")
    ));
    let destinations = [at(bed.server(), 7000), at(bed.second_server(), 7000), at(bed.server(), 7001)];
    let mut sources = Vec::new();
    for (port, to) in [5000, 5001, 5002].into_iter().zip(destinations) {
        let packet = Packet::udp(bed.end(App, port), to, b"question");
        sources.push(bed.send(App, &packet).one(Server)?.src);
    }
    require(sources.iter().all(|source| *source == sources[0]), "several outside addresses")
}

fn req_3_no_port_overloading(bed: &mut Testbed) -> Met {
    let (one, other) = (at(bed.server(), 7000), at(bed.second_server(), 7000));
    let ports = (bed.udp_out(App, 6000, one)?.from(), bed.udp_out(Other, 6000, other)?.from());
    require(ports.0 != ports.1, "two containers have one outside port, towards different destinations")
}

fn req_3a_port_class_is_kept(bed: &mut Testbed) -> Met {
    let to = at(bed.server(), 7000);
    for port in [300, 700, 1023, 1024, 5000, 60000] {
        for station in [App, Other] {
            let seen = bed.udp_out(station, port, to)?.from().port();
            require((seen < 1024) == (port < 1024), "a port of the other class")?;
        }
    }
    Ok(())
}

/// A flow out of `app`, whose first packet has been seen outside under the name that is returned.
fn begin(bed: &mut Testbed, port: u16) -> Result<(SocketAddr, SocketAddr), String> {
    let to = at(bed.server(), 7000);
    Ok((bed.udp_out(App, port, to)?.from(), to))
}

fn req_5_a_mapping_lives_two_minutes(bed: &mut Testbed) -> Met {
    let (outside, server) = begin(bed, 5000)?;
    clock::advance(&bed.world, 118);
    bed.udp_in(server, outside, App).map(drop).map_err(|_| "no answer passes after 118 s".to_owned())
}

fn req_5b_an_answered_mapping_lives_five_minutes(bed: &mut Testbed) -> Met {
    let (outside, server) = begin(bed, 5000)?;
    bed.udp_in(server, outside, App)?;
    clock::advance(&bed.world, 298);
    bed.udp_in(server, outside, App).map(drop).map_err(|_| "no packet passes after 298 s".to_owned())
}

fn req_5_a_silent_mapping_ends(bed: &mut Testbed) -> Met {
    let (outside, server) = begin(bed, 5000)?;
    bed.udp_in(server, outside, App)?;
    clock::advance(&bed.world, 302);
    bed.send(Server, &Packet::udp(server, outside, b"late")).nothing(App)
}

/// Most of the time that a mapping without an answer lives on this plane, in seconds.
fn most_of_a_life(bed: &Testbed) -> u32 {
    if bed.is_netpath() { 80 } else { 20 }
}

fn req_6_outbound_packets_refresh_the_mapping(bed: &mut Testbed) -> Met {
    let (outside, server) = begin(bed, 5000)?;
    let time = most_of_a_life(bed);
    for _ in 0..3 {
        clock::advance(&bed.world, time);
        bed.udp_out(App, 5000, server)?;
    }
    clock::advance(&bed.world, time);
    bed.udp_in(server, outside, App).map(drop)
}

fn req_6_inbound_packets_refresh_the_mapping(bed: &mut Testbed) -> Met {
    let (outside, server) = begin(bed, 5000)?;
    let time = most_of_a_life(bed);
    for _ in 0..6 {
        clock::advance(&bed.world, time);
        bed.udp_in(server, outside, App)?;
    }
    Ok(())
}

fn req_8_address_and_port_dependent_filtering(bed: &mut Testbed) -> Met {
    let (outside, server) = begin(bed, 5000)?;
    for stranger in [at(bed.server(), 7001), at(bed.second_server(), 7000), at(bed.router(), 7000)] {
        let heard = bed.send(Server, &Packet::udp(stranger, outside, b"let me in"));
        heard.nothing(App)?;
        heard.nothing(Other)?;
    }
    bed.udp_in(server, outside, App).map(drop)
}

fn req_9_a_neighbours_published_port_is_reached(bed: &mut Testbed) -> Met {
    hairpin(bed, OTHER_DNS, Other).map(drop)
}

fn req_9_a_containers_own_published_port_is_reached(bed: &mut Testbed) -> Met {
    hairpin(bed, DNS, App).map(drop)
}

/// `app` asks at the outside address and `answerer` answers; the question as it arrived.
fn hairpin(bed: &mut Testbed, port: u16, answerer: Station) -> Result<Packet, String> {
    let (asker, asked) = (bed.end(App, 5000), bed.host_end(port));
    let question = bed.send(App, &Packet::udp(asker, asked, b"question")).one(answerer)?;
    require(question.to() == bed.end(answerer, DNS_INSIDE), "the question has another destination")?;
    let answer = bed.send(answerer, &Packet::udp(question.to(), question.from(), b"answer")).one(App)?;
    require((answer.from(), answer.to()) == (asked, asker), "the answer does not come from where was asked")?;
    Ok(question)
}

fn req_9_dynamic_mappings_are_reached(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let (one, other) = (bed.udp_out(App, 5000, server)?.from(), bed.udp_out(Other, 5001, server)?.from());
    let towards = Packet::udp(bed.end(App, 5000), other, b"knock");
    bed.send(App, &towards);
    bed.send(Other, &Packet::udp(bed.end(Other, 5001), one, b"knock")).one(App)?;
    bed.send(App, &towards).one(Other).map(drop)
}

fn req_9a_hairpinned_packets_have_an_outside_source(bed: &mut Testbed) -> Met {
    for (port, answerer) in [(OTHER_DNS, Other), (DNS, App)] {
        let question = hairpin(bed, port, answerer)?;
        require(question.src == bed.host(), "the source is an inside address")?;
    }
    Ok(())
}

fn req_10_payloads_are_left_alone(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5060), at(bed.server(), 5060));
    let invite = format!("REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/UDP {inside}\r\nContact: <sip:a@{inside}>\r\n\r\n");
    let seen = bed.out(App, &Packet::udp(inside, server, invite.as_bytes()))?;
    require(seen.payload() == invite.as_bytes(), "the payload has changed")
}

fn req_11_mapping_is_deterministic(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let mut seen = Vec::new();
    for _ in 0..2 {
        bed.udp_out(App, 5000, server)?;
        seen.push(bed.udp_out(Other, 5000, server)?.from());
        clock::advance(&bed.world, 10_000);
    }
    require(seen[0] == seen[1], "a conflict is solved by chance")
}

fn req_12_icmp_errors_do_not_end_a_mapping(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let sent = Packet::udp(bed.end(App, 5000), server, b"question");
    let seen = bed.out(App, &sent)?;
    let kind = port_unreachable(bed.family);
    for reporter in [bed.router(), bed.server(), bed.second_server()] {
        let report = error(reporter, bed.host(), kind, &seen.bytes());
        let heard = bed.send(Server, &report).one(App)?;
        quotes(&heard, kind, reporter, bed.address(App), &sent, sent.bytes().len())?;
    }
    bed.udp_in(server, seen.from(), App)?;
    require(bed.udp_out(App, 5000, server)?.from() == seen.from(), "another outside port")
}

/// Makes the wire to the server narrower than what containers know of.
fn narrow_the_wire(bed: &Testbed) {
    bed.world.host.ip("link set up0 mtu 1280");
    bed.world.client.ip("link set eth0 mtu 1280");
}

fn req_13_too_large_with_df_is_reported(bed: &mut Testbed) -> Met {
    narrow_the_wire(bed);
    let mut large = Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), &[b'x'; 1400]);
    large.dont_fragment = true;
    let heard = bed.send(App, &large);
    heard.nothing(Server)?;
    let report = heard.one(App)?;
    require(report.kind() == Some((3, 4)), "another answer than fragmentation needed")?;
    require(report.l4[6..8] == 1280_u16.to_be_bytes(), "another MTU than that of the next hop")?;
    require(Packet::parse(&large.bytes()).is_some_and(|p| report.payload()[20..28] == p.l4[..8]), "another quotation")
}

fn req_13a_too_large_without_df_is_fragmented(bed: &mut Testbed) -> Met {
    narrow_the_wire(bed);
    let large = Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), &[b'x'; 1400]);
    let parts = bed.send(App, &large).at(Server);
    require(parts.len() == 2, "not two fragments")?;
    arrived_whole(&parts, &large).map(drop)
}

fn req_14_fragments_in_order_are_translated(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let question = Packet::udp(inside, server, &[b'q'; 3000]);
    let outside = arrived_whole(&bed.send_all(App, &question.fragments(1000)).at(Server), &question)?.from();
    require(outside.ip() == bed.host(), "it leaves under the container's own address")?;
    let answer = Packet::udp(server, outside, &[b'a'; 3000]);
    let seen = arrived_whole(&bed.send_all(Server, &answer.fragments(1000)).at(App), &answer)?;
    require(seen.to() == inside, "the answer has another destination")
}

fn req_14_published_ports_take_fragments(bed: &mut Testbed) -> Met {
    let (client, published) = (at(bed.server(), 7000), bed.host_end(DNS));
    let question = Packet::udp(client, published, &[b'q'; 3000]);
    let seen = arrived_whole(&bed.send_all(Server, &question.fragments(1000)).at(App), &question)?;
    require((seen.from(), seen.to()) == (client, bed.end(App, DNS_INSIDE)), "the question has other names")?;
    let answer = Packet::udp(seen.to(), client, &[b'a'; 3000]);
    let seen = arrived_whole(&bed.send_all(App, &answer.fragments(1000)).at(Server), &answer)?;
    require(seen.from() == published, "the answer has another source")
}

/// Each order of three.
const ORDERS: [[usize; 3]; 5] = [[2, 1, 0], [1, 0, 2], [0, 2, 1], [2, 0, 1], [1, 2, 0]];

fn req_14a_fragments_out_of_order_are_translated(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    for (id, order) in (1000..).zip(ORDERS) {
        let shuffled = |packet: &Packet| {
            let parts = Packet { id, ..packet.clone() }.fragments(1000);
            order.map(|index| parts[index].clone())
        };
        let question = Packet::udp(inside, server, &[b'q'; 2500]);
        let outside = arrived_whole(&bed.send_all(App, &shuffled(&question)).at(Server), &question)?.from();
        require(outside.ip() == bed.host(), "it leaves under the container's own address")?;
        let answer = Packet::udp(server, outside, &[b'a'; 2500]);
        let seen = arrived_whole(&bed.send_all(Server, &shuffled(&answer)).at(App), &answer)?;
        require(seen.to() == inside, "the answer has another destination")?;
        let asked = Packet::udp(server, bed.host_end(DNS), &[b'q'; 2500]);
        let seen = arrived_whole(&bed.send_all(Server, &shuffled(&asked)).at(App), &asked)?;
        require(seen.to() == bed.end(App, DNS_INSIDE), "the question has another destination")?;
    }
    Ok(())
}

/// Without the fragments that have the same place as an earlier one.
fn once(parts: Vec<Packet>) -> Vec<Packet> {
    let mut seen = std::collections::BTreeSet::new();
    parts.into_iter().filter(|part| seen.insert(part.offset)).collect()
}

fn req_14a_fragments_that_come_twice_are_translated(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    for (id, order) in (2000..).zip([[0, 0, 1, 2], [0, 1, 1, 2], [2, 0, 1, 0], [1, 0, 1, 2]]) {
        let sent = Packet { id, ..Packet::udp(server, bed.host_end(DNS), &[b'q'; 2500]) };
        let parts = sent.fragments(1000);
        let parts = order.map(|index| parts[index].clone());
        arrived_whole(&once(bed.send_all(Server, &parts).at(App)), &sent)?;
    }
    Ok(())
}

fn req_14a_fragments_of_two_senders_are_told_apart(bed: &mut Testbed) -> Met {
    let clients = [at(bed.server(), 7000), at(bed.second_server(), 7000)];
    let sent = clients.map(|client| {
        let payload = client.ip().to_string().repeat(200);
        Packet { id: 3000, ..Packet::udp(client, bed.host_end(DNS), payload.as_bytes()) }
    });
    let [one, other] = sent.each_ref().map(|packet| packet.fragments(1000));
    let mixed = [&one[0], &other[0], &other[1], &one[1], &one[2], &other[2]].map(Packet::clone);
    let heard = bed.send_all(Server, &mixed).at(App);
    for packet in sent {
        let parts: Vec<Packet> = heard.iter().filter(|part| part.src == packet.src).cloned().collect();
        arrived_whole(&parts, &packet)?;
    }
    Ok(())
}

fn req_14a_lone_fragments_cost_nobody_else(bed: &mut Testbed) -> Met {
    const LONE: u32 = 5000;
    let server = at(bed.server(), 7000);
    let later = Packet::udp(server, bed.host_end(DNS), &[b'x'; 2500]).fragments(1000).remove(1);
    let lone: Vec<Packet> = (10_000..10_000 + LONE).map(|id| Packet { id, ..later.clone() }).collect();
    for some in lone.chunks(100) {
        bed.send_all(Server, some).nothing(App)?;
    }
    bed.udp_in(server, bed.host_end(DNS), App)?;
    let sent = Packet { id: 4000, ..Packet::udp(server, bed.host_end(DNS), &[b'q'; 2500]) };
    arrived_whole(&bed.send_all(Server, &sent.fragments(1000)).at(App), &sent).map(drop)
}

/// The datagram that `parts` make, which has the payload of `sent` and a good checksum.
pub(crate) fn arrived_whole(parts: &[Packet], sent: &Packet) -> Result<Packet, String> {
    let whole = Packet::reassembled(parts).ok_or("the datagram does not arrive whole")?;
    require(whole.payload() == sent.payload(), "the payload has changed")?;
    match whole.wrong_checksum() {
        None => Ok(whole),
        Some(what) => Err(format!("wrong {what}")),
    }
}
