//! RFC 5508: how a translator treats ICMP, queries and errors.

use std::net::IpAddr;

use netpath_tests::packets::{ACK, Packet, SYN, Segment};
use netpath_tests::sockets::at;

use super::clock;
use super::errors::{Kind, error, kinds, port_unreachable, quotes, shortest};
use super::record::Met;
use super::rfc6888::{FEW_PORTS, few_ports, limit_ports};
use super::testbed::{DNS, DNS_INSIDE, OTHER_DNS, Station, Testbed, WEB, require};
use Station::{App, Other, Server};

rows! {
    3, "RFC 5508: ICMP";

    req_1_queries_pass_and_are_answered(Both): "REQ-1", Must, netfilter Met, netpath Met;
        "Echo requests pass out of containers, also with equal identifiers, and each answer finds its asker";
    req_1a_identifiers_do_not_depend_on_the_destination(Both): "REQ-1a", Must, netfilter Unmet, netpath Met;
        "An inside address and identifier has one outside identifier for all destinations";
    req_1_only_the_asked_host_answers(Both): "REQ-1", Must, netfilter Met, netpath Met;
        "An echo reply that nobody asked for reaches nobody";
    req_2_a_query_lives_for_a_minute(Both): "REQ-2", Must, netfilter Unmet, netpath Met;
        "The answer to a query may take 60 s";
    req_3_a_wrong_icmp_checksum_is_dropped(Both): "REQ-3", Must, netfilter Met, netpath Met;
        "An error whose ICMP checksum is wrong reaches nobody";
    req_3a_a_wrong_quoted_header_checksum_is_dropped(V4): "REQ-3a", Nice, netfilter Unmet, netpath Unmet;
        "An error that quotes a header with a wrong checksum reaches nobody";
    req_3b_quoted_options_are_skipped(V4): "REQ-3b", Must, netfilter Met, netpath Met;
        "The quoted header's options do not hide the ports behind them, whatever their length";
    req_3c_a_quoted_transport_checksum_is_not_judged(Both): "REQ-3c", Must, netfilter Met, netpath Met;
        "An error passes whatever the quoted transport checksum says";
    req_3d_extensions_are_kept(Both): "REQ-3d", Must, netfilter Met, netpath Met;
        "Extensions behind the quotation pass as they are (RFC 4884)";
    req_4_errors_from_outside_are_translated(Both): "REQ-4", Must, netfilter Met, netpath Met;
        "Errors of every kind about UDP, TCP and queries out of containers, quoting any length, reach the container with what it sent";
    req_4_errors_about_published_ports_are_translated(Both): "REQ-4", Must, netfilter Met, netpath Met;
        "The same about what a container answered from published ports of UDP and TCP";
    req_4_errors_about_no_mapping_reach_nobody(Both): "REQ-4", Must, netfilter Met, netpath Met;
        "An error about a flow that is not there, or about another destination, reaches nobody";
    req_5_errors_from_inside_are_translated(Both): "REQ-5", Must, netfilter Met, netpath Met;
        "A container's errors about what came to published ports of UDP and TCP leave under the outside address, with what the client sent";
    req_5_errors_of_other_containers_are_translated(Both): "REQ-5b", Nice, netfilter Met, netpath Unmet;
        "An error from inside about a neighbour's flow, as a router between them would send it, leaves under the outside address";
    req_5_errors_about_answers_are_translated(Both): "REQ-5", Must, netfilter Met, netpath Met;
        "A container's errors about answers to its own flows leave under the outside address";
    req_6_errors_do_not_refresh_a_query(Both): "REQ-6", Must, netfilter Met, netpath Met;
        "An error about a query neither ends nor prolongs its mapping";
    req_7_hairpinned_errors_are_translated(Both): "REQ-7", Must, netfilter Met, netpath Met;
        "A neighbour's error about a hairpinned packet reaches the container from the outside address, with what it sent";
    req_8_refused_flows_are_reported(Both): "REQ-8", Must, netfilter Unmet, netpath Met,
        with super::few_ports; "Who gets no outside port is told so: administratively prohibited, about the packet it sent";
    req_8_reports_are_few(Both): "REQ-8", Must, netfilter Met, netpath Met,
        with super::few_ports; "Of many refused packets at once only some are reported (RFC 1812, 4.3.2.8)";
    req_10_a_hop_count_that_ends_is_reported_inside(Both): "REQ-10", Must, netfilter Met, netpath Met;
        "A hop count that ends on the translator is reported to the container";
    req_10_a_hop_count_that_ends_is_reported_outside(Both): "REQ-10", Must, netfilter Met, netpath Met;
        "The same to a client of a published port, about the name it used";
    req_11_other_queries_pass(V4): "REQ-11", Nice, netfilter Met, netpath Unmet;
        "Timestamp requests pass out of a container and are answered";
}

/// Fits a socket's buffer.
const AT_ONCE: usize = 64;

/// Sends an echo request; its identifier outside.
fn ask(bed: &mut Testbed, station: Station, to: IpAddr, id: u16) -> Result<u16, String> {
    Ok(bed.out(station, &Packet::echo_request(bed.address(station), to, id, b"anybody there?"))?.ports().0)
}

/// Answers it; `station` must hear the answer with its own identifier.
fn answer(bed: &mut Testbed, station: Station, from: IpAddr, outside: u16, id: u16) -> Met {
    let heard = bed.send(Server, &Packet::echo_reply(from, bed.host(), outside, b"anybody there?")).one(station)?;
    let is_it = (heard.src, heard.dst, heard.ports().0) == (from, bed.address(station), id);
    require(is_it && heard.payload() == b"anybody there?", "the answer arrives changed")
}

fn req_1_queries_pass_and_are_answered(bed: &mut Testbed) -> Met {
    let to = bed.server();
    let (one, other) = (ask(bed, App, to, 77)?, ask(bed, Other, to, 77)?);
    require(one != other, "two containers have one identifier")?;
    answer(bed, App, to, one, 77)?;
    answer(bed, Other, to, other, 77)
}

fn req_1a_identifiers_do_not_depend_on_the_destination(bed: &mut Testbed) -> Met {
    let (one, other) = (bed.server(), bed.second_server());
    ask(bed, App, one, 77)?;
    let (first, second) = (ask(bed, Other, other, 77)?, ask(bed, Other, one, 77)?);
    require(first == second, "another identifier towards a destination where the first one was taken")
}

fn req_1_only_the_asked_host_answers(bed: &mut Testbed) -> Met {
    let to = bed.server();
    let outside = ask(bed, App, to, 77)?;
    for (from, id) in [(bed.second_server(), outside), (to, outside.wrapping_add(1))] {
        let heard = bed.send(Server, &Packet::echo_reply(from, bed.host(), id, b"here I am"));
        heard.nothing(App)?;
        heard.nothing(Other)?;
    }
    answer(bed, App, to, outside, 77)
}

fn req_2_a_query_lives_for_a_minute(bed: &mut Testbed) -> Met {
    let to = bed.server();
    let outside = ask(bed, App, to, 77)?;
    clock::advance(&bed.world, 58);
    answer(bed, App, to, outside, 77).map_err(|_| "no answer passes after 58 s".to_owned())
}

/// A datagram of `app` to the server, and as that one sees it.
fn question(bed: &mut Testbed) -> Result<(Packet, Packet), String> {
    let sent = Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), b"a question of some length");
    let seen = bed.out(App, &sent)?;
    Ok((sent, seen))
}

fn req_3_a_wrong_icmp_checksum_is_dropped(bed: &mut Testbed) -> Met {
    let (_, seen) = question(bed)?;
    let mut report = error(bed.router(), bed.host(), port_unreachable(bed.family), &seen.bytes());
    report.l4[3] ^= 1;
    bed.send(Server, &report).nothing(App)
}

fn req_3a_a_wrong_quoted_header_checksum_is_dropped(bed: &mut Testbed) -> Met {
    let (_, seen) = question(bed)?;
    let mut quoted = seen.bytes();
    quoted[10] ^= 1;
    let report = error(bed.router(), bed.host(), port_unreachable(bed.family), &quoted);
    bed.send(Server, &report).nothing(App)
}

fn req_3b_quoted_options_are_skipped(bed: &mut Testbed) -> Met {
    let (sent, seen) = question(bed)?;
    for words in 1..=10 {
        let options = vec![1; 4 * words];
        let quoted = Packet { options: options.clone(), ..seen.clone() }.bytes();
        let heard =
            bed.send(Server, &error(bed.router(), bed.host(), port_unreachable(bed.family), &quoted)).one(App)?;
        let about = Packet { options, ..sent.clone() };
        quotes(&heard, port_unreachable(bed.family), bed.router(), bed.address(App), &about, quoted.len())?;
    }
    Ok(())
}

fn req_3c_a_quoted_transport_checksum_is_not_judged(bed: &mut Testbed) -> Met {
    let (_, seen) = question(bed)?;
    for wrong in [0x1234_u16, 0xffff, 1] {
        let mut quoted = seen.clone();
        quoted.l4[6..8].copy_from_slice(&wrong.to_be_bytes());
        let report = error(bed.router(), bed.host(), port_unreachable(bed.family), &quoted.bytes());
        bed.send(Server, &report).one(App)?;
    }
    Ok(())
}

fn req_3d_extensions_are_kept(bed: &mut Testbed) -> Met {
    /// Version 2, the checksum that fits, and an MPLS label stack object (RFC 4950).
    const EXTENSION: [u8; 12] = [0x20, 0, 0x8a, 0x9b, 0, 8, 1, 1, 0x54, 0x62, 0, 1];
    let (sent, seen) = question(bed)?;
    let length = sent.bytes().len();
    // Padded to 128 bytes, which the length field says in words of four bytes, of IPv6 in words of eight.
    let quoted = [seen.bytes(), vec![0; 128 - length], EXTENSION.to_vec()].concat();
    let kind = bed.family.pick(Kind(11, 0, [0, 32, 0, 0]), Kind(3, 0, [16, 0, 0, 0]));
    let heard = bed.send(Server, &error(bed.router(), bed.host(), kind, &quoted)).one(App)?;
    quotes(&heard, kind, bed.router(), bed.address(App), &sent, length)?;
    require(heard.payload()[length..] == quoted[length..], "the extension has changed")
}

/// `station` sends errors of every kind from `src` to `dst` that quote `seen` at every length, and `hearer` must hear each
/// one, from `heard_from`, with as much of what it `sent`.
struct Errors<'a> {
    station: Station,
    src: IpAddr,
    dst: IpAddr,
    seen: &'a Packet,
    hearer: Station,
    heard_from: IpAddr,
    sent: &'a Packet,
}

impl Errors<'_> {
    fn pass(&self, bed: &mut Testbed) -> Met {
        let bytes = self.seen.bytes();
        let lengths: Vec<usize> = (shortest(bed.family)..=bytes.len()).collect();
        for kind in kinds(bed.family) {
            for some in lengths.chunks(AT_ONCE) {
                let reports: Vec<_> =
                    some.iter().map(|length| error(self.src, self.dst, *kind, &bytes[..*length])).collect();
                let heard = bed.send_all(self.station, &reports).at(self.hearer);
                let what = format!("type {} code {}", kind.0, kind.1);
                require(heard.len() == some.len(), &format!("not every error of {what} arrives"))?;
                for (message, length) in heard.iter().zip(some) {
                    require(message.wrong_checksum().is_none(), "a wrong checksum")?;
                    let hearer = bed.address(self.hearer);
                    quotes(message, *kind, self.heard_from, hearer, self.sent, *length)
                        .map_err(|seen| format!("{what}: {seen}"))?;
                }
            }
        }
        Ok(())
    }
}

fn req_4_errors_from_outside_are_translated(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let packets = [
        Packet::udp(inside, server, b"a question of some length"),
        Packet::tcp(inside, server, &Segment { options: vec![2, 4, 5, 180], ..Segment::default() }, b""),
        Packet::echo_request(inside.ip(), server.ip(), 77, b"a question of some length"),
    ];
    for sent in &packets {
        let seen = &bed.out(App, sent)?;
        let (src, dst) = (bed.router(), bed.host());
        Errors { station: Server, src, dst, seen, hearer: App, heard_from: src, sent }.pass(bed)?;
    }
    Ok(())
}

/// Makes the answer to what a container has heard.
type Answer = fn(&Packet) -> Packet;

/// Questions to `app`'s published ports, of UDP and of TCP, and what answers each.
fn exchanges(bed: &Testbed) -> [(Packet, Answer); 2] {
    let client = at(bed.server(), 7000);
    [
        (Packet::udp(client, bed.host_end(DNS), b"a question of some length"), |seen| {
            Packet::udp(seen.to(), seen.from(), b"an answer of some length")
        }),
        (Packet::tcp(client, bed.host_end(WEB), &Segment::new(SYN, 10, 0), b""), |seen| {
            Packet::tcp(seen.to(), seen.from(), &Segment::new(SYN | ACK, 50, 11), b"")
        }),
    ]
}

fn req_4_errors_about_published_ports_are_translated(bed: &mut Testbed) -> Met {
    for (asked, answer) in exchanges(bed) {
        let sent = &answer(&bed.send(Server, &asked).one(App)?);
        let seen = &bed.send(App, sent).one(Server)?;
        let (src, dst) = (bed.router(), bed.host());
        Errors { station: Server, src, dst, seen, hearer: App, heard_from: src, sent }.pass(bed)?;
    }
    Ok(())
}

fn req_4_errors_about_no_mapping_reach_nobody(bed: &mut Testbed) -> Met {
    let (_, seen) = question(bed)?;
    let (outside, remote) = (seen.from(), seen.to());
    let foreign = [
        Packet::udp(at(outside.ip(), outside.port() + 1), remote, b"x"),
        Packet::udp(outside, at(remote.ip(), remote.port() + 1), b"x"),
        Packet::udp(outside, at(bed.second_server(), remote.port()), b"x"),
        Packet::tcp(outside, remote, &Segment::default(), b""),
    ];
    for quoted in foreign {
        let report = error(bed.router(), bed.host(), port_unreachable(bed.family), &quoted.bytes());
        let heard = bed.send(Server, &report);
        heard.nothing(App)?;
        heard.nothing(Other)?;
    }
    Ok(())
}

fn req_5_errors_from_inside_are_translated(bed: &mut Testbed) -> Met {
    for (sent, _) in &exchanges(bed) {
        let seen = &bed.send(Server, sent).one(App)?;
        let (src, dst, heard_from) = (bed.address(App), bed.server(), bed.host());
        Errors { station: App, src, dst, seen, hearer: Server, heard_from, sent }.pass(bed)?;
    }
    Ok(())
}

fn req_5_errors_about_answers_are_translated(bed: &mut Testbed) -> Met {
    let (_, asked) = question(bed)?;
    let sent = &Packet::udp(asked.to(), asked.from(), b"an answer of some length");
    let seen = &bed.send(Server, sent).one(App)?;
    let (src, dst, heard_from) = (bed.address(App), bed.server(), bed.host());
    Errors { station: App, src, dst, seen, hearer: Server, heard_from, sent }.pass(bed)
}

fn req_5_errors_of_other_containers_are_translated(bed: &mut Testbed) -> Met {
    let [(sent, _), _] = &exchanges(bed);
    let seen = bed.send(Server, sent).one(App)?;
    let kind = port_unreachable(bed.family);
    let report = error(bed.address(Other), bed.server(), kind, &seen.bytes());
    let heard = bed.send(Other, &report).one(Server)?;
    quotes(&heard, kind, bed.host(), bed.server(), sent, sent.bytes().len())
}

fn req_6_errors_do_not_refresh_a_query(bed: &mut Testbed) -> Met {
    let to = bed.server();
    let seen = bed.out(App, &Packet::echo_request(bed.address(App), to, 77, b"anybody there?"))?;
    let outside = seen.ports().0;
    // Two thirds of the time that a query lives on each plane: 60 and 30 s.
    let time = if bed.is_netpath() { 40 } else { 20 };
    let report = error(bed.router(), bed.host(), port_unreachable(bed.family), &seen.bytes());
    clock::advance(&bed.world, time);
    bed.send(Server, &report).one(App)?;
    answer(bed, App, to, outside, 77).map_err(|_| "an error ends the mapping".to_owned())?;
    for _ in 0..2 {
        clock::advance(&bed.world, time);
        bed.send(Server, &report);
    }
    let late = Packet::echo_reply(to, bed.host(), outside, b"anybody there?");
    bed.send(Server, &late).nothing(App).map_err(|_| "an error prolongs the mapping".to_owned())
}

fn req_7_hairpinned_errors_are_translated(bed: &mut Testbed) -> Met {
    let sent = &Packet::udp(bed.end(App, 5000), bed.host_end(OTHER_DNS), b"a question of some length");
    let seen = &bed.send(App, sent).one(Other)?;
    require(seen.to() == bed.end(Other, DNS_INSIDE), "the question has another destination")?;
    let (src, dst, heard_from) = (bed.address(Other), seen.src, bed.host());
    Errors { station: Other, src, dst, seen, hearer: App, heard_from, sent }.pass(bed)
}

/// All outside ports towards the server are taken.
fn exhaust_ports(bed: &mut Testbed) -> Met {
    limit_ports(bed, FEW_PORTS);
    let server = at(bed.server(), 7000);
    let taken = (5000..5010).filter(|port| {
        let packet = Packet::udp(bed.end(Other, *port), server, b"one more");
        bed.send(Other, &packet).one(Server).is_ok()
    });
    require((1..=4).contains(&taken.count()), "more flows than ports")
}

fn req_8_refused_flows_are_reported(bed: &mut Testbed) -> Met {
    exhaust_ports(bed)?;
    let kind = bed.family.pick(Kind(3, 13, [0; 4]), Kind(1, 1, [0; 4]));
    let sent = Packet::udp(bed.end(App, 6000), at(bed.server(), 7000), b"a question of some length");
    let heard = bed.send(App, &sent);
    heard.nothing(Server)?;
    let gateway = bed.world.gateway(bed.family);
    quotes(&heard.one(App)?, kind, gateway, bed.address(App), &sent, shortest(bed.family))
}

fn req_8_reports_are_few(bed: &mut Testbed) -> Met {
    /// Far more than any host answers in the time that this takes (Linux: 1000 a second, 50 at once).
    const REFUSED: u16 = 4000;
    exhaust_ports(bed)?;
    let mut reports = 0;
    for port in (10_000..10_000 + REFUSED).step_by(AT_ONCE) {
        let some: Vec<_> = (0..AT_ONCE as u16)
            .map(|index| Packet::udp(bed.end(App, port + index), at(bed.server(), 7000), b"one more"))
            .collect();
        reports += bed.send_all(App, &some).at(App).len();
    }
    require(reports < usize::from(REFUSED) / 2, "every packet is reported")
}

fn req_10_a_hop_count_that_ends_is_reported_inside(bed: &mut Testbed) -> Met {
    let kind = bed.family.pick(Kind(11, 0, [0; 4]), Kind(3, 0, [0; 4]));
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    let packets = [
        Packet::udp(inside, server, b"short-lived"),
        Packet::tcp(inside, server, &Segment::default(), b""),
        Packet::echo_request(inside.ip(), server.ip(), 77, b"short-lived"),
    ];
    for sent in packets {
        let sent = Packet { ttl: 1, ..sent };
        let heard = bed.send(App, &sent);
        heard.nothing(Server)?;
        let gateway = bed.world.gateway(bed.family);
        quotes(&heard.one(App)?, kind, gateway, bed.address(App), &sent, shortest(bed.family))?;
    }
    Ok(())
}

fn req_10_a_hop_count_that_ends_is_reported_outside(bed: &mut Testbed) -> Met {
    let kind = bed.family.pick(Kind(11, 0, [0; 4]), Kind(3, 0, [0; 4]));
    let (client, published) = (at(bed.server(), 7000), bed.host_end(DNS));
    let sent = Packet { ttl: 1, ..Packet::udp(client, published, b"short-lived") };
    let heard = bed.send(Server, &sent);
    heard.nothing(App)?;
    quotes(&heard.one(Server)?, kind, bed.host(), client.ip(), &sent, shortest(bed.family))
}

fn req_11_other_queries_pass(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.address(App), bed.server());
    let seen = bed.out(App, &Packet::icmp(inside, server, 13, 0, [0, 77, 0, 1], &[0; 12]))?;
    let answer = Packet::icmp(server, bed.host(), 14, 0, seen.l4[4..8].try_into().expect("a word"), &[0; 12]);
    let heard = bed.send(Server, &answer).one(App)?;
    require(heard.ports().0 == 77, "another identifier")
}
