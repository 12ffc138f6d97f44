//! RFC 7857: updates to what is asked of translators of UDP, TCP and ICMP.

use std::collections::BTreeSet;

use netpath_tests::packets::{ACK, Packet, RST, SYN, Segment};
use netpath_tests::sockets::at;

use super::clock;
use super::connection::Connection;
use super::errors::{error, port_unreachable};
use super::record::Met;
use super::rfc4787::arrived_whole;
use super::testbed::{Station, Testbed, require};
use Station::{App, Other, Server};

rows! {
    4, "RFC 7857: updates";

    section_2_a_rst_is_translated_and_the_mapping_lives_on(Both): "section 2", Must, netfilter Unmet, netpath Met;
        "A RST passes, and the mapping lives for 4 minutes after it";
    section_2_a_new_connection_may_follow_at_once(Both): "section 2", Must, netfilter Met, netpath Met;
        "After a close the same ports may open the next connection at once";
    section_5_protocols_have_mappings_of_their_own(Both): "section 5, 6", Must, netfilter Met, netpath Met;
        "A mapping of UDP opens nothing for TCP, and the other way round";
    section_7_errors_from_inside_do_not_refresh(Both): "section 7", Nice, netfilter Met, netpath Met;
        "ICMP errors of a container about what it is sent do not keep the mapping alive";
    section_9_outside_ports_are_hard_to_guess(Both): "section 9", Nice, netfilter Met, netpath Met;
        "Outside ports chosen in a conflict show no pattern (RFC 6056)";
    section_10_fragments_of_two_containers_are_told_apart(V4): "section 10", Nice, netfilter Unmet, netpath Unmet;
        "Two containers' fragments with one identification do not leave with one (RFC 6864)";
}

fn section_2_a_rst_is_translated_and_the_mapping_lives_on(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let connection = Connection::open(bed, App, 5000, server)?;
    connection.back(bed, &Segment::new(RST, connection.ack, 0), b"")?;
    clock::advance(&bed.world, 238);
    let late = Segment::new(ACK, connection.ack, connection.seq);
    connection.back(bed, &late, b"late").map(drop).map_err(|_| "nothing passes 238 s after it".to_owned())
}

fn section_2_a_new_connection_may_follow_at_once(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    Connection::open(bed, App, 5000, server)?.close(bed)?;
    let mut again = Connection::open(bed, App, 5000, server)?;
    again.talk(bed)?;
    again.out(bed, &Segment::new(RST, again.seq, 0), b"")?;
    Connection::open(bed, App, 5000, server)?.talk(bed)
}

fn section_5_protocols_have_mappings_of_their_own(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let udp = bed.udp_out(App, 5000, server)?.from();
    bed.send(Server, &Packet::tcp(server, udp, &Segment::new(SYN, 1, 0), b"")).nothing(App)?;
    let tcp = Connection::open(bed, Other, 5001, server)?.outside;
    bed.send(Server, &Packet::udp(server, tcp, b"let me in")).nothing(Other)
}

fn section_7_errors_from_inside_do_not_refresh(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let outside = bed.udp_out(App, 5000, server)?.from();
    let answer = bed.udp_in(server, outside, App)?;
    let report = error(bed.address(App), server.ip(), port_unreachable(bed.family), &answer.bytes());
    // Two thirds of the time that an answered mapping lives on each plane: 300 s, and 30 before it has lasted.
    let time = if bed.is_netpath() { 200 } else { 20 };
    for _ in 0..2 {
        clock::advance(&bed.world, time);
        bed.send(App, &report);
    }
    bed.send(Server, &Packet::udp(server, outside, b"late")).nothing(App)
}

fn section_9_outside_ports_are_hard_to_guess(bed: &mut Testbed) -> Met {
    const CONFLICTS: u16 = 32;
    let server = at(bed.server(), 7000);
    let mut steps = BTreeSet::new();
    let mut before = 0;
    for port in 20_000..20_000 + CONFLICTS {
        bed.udp_out(App, port, server)?;
        let seen = bed.udp_out(Other, port, server)?.from().port();
        steps.insert(seen.wrapping_sub(before));
        before = seen;
    }
    require(steps.len() > usize::from(CONFLICTS) - 4, "the steps from one to the next repeat")
}

fn section_10_fragments_of_two_containers_are_told_apart(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let mut ids = Vec::new();
    for (station, port) in [(App, 5000), (Other, 5001)] {
        let sent = Packet::udp(bed.end(station, port), server, &[b'x'; 2000]);
        let parts = bed.send_all(station, &sent.fragments(1200)).at(Server);
        ids.push(arrived_whole(&parts, &sent)?.id);
    }
    require(ids[0] != ids[1], "two datagrams from one address have one identification")
}
