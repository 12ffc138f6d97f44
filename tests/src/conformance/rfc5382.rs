//! RFC 5382: how a translator treats TCP.

use std::net::SocketAddr;

use netpath_tests::packets::{ACK, FIN, PSH, Packet, SYN, Segment};
use netpath_tests::sockets::at;

use super::clock;
use super::connection::Connection;
use super::errors::{error, kinds, quotes};
use super::record::Met;
use super::testbed::{OTHER_WEB, Station, Testbed, WEB, WEB_INSIDE, require};
use Station::{App, Other, Server};

rows! {
    2, "RFC 5382: TCP";

    req_1_endpoint_independent_mapping(Both): "REQ-1", Must, netfilter Unmet, netpath Met;
        "An inside address and port has one outside port for all destinations";
    req_2_connections_open_talk_and_close(Both): "REQ-2", Must, netfilter Met, netpath Met;
        "Handshake, data both ways and an orderly close pass, whoever closes first";
    req_2_published_ports_take_connections(Both): "REQ-2", Must, netfilter Met, netpath Met;
        "The same from outside to a published port";
    req_2a_simultaneous_open(Both): "REQ-2a", Must, netfilter Met, netpath Met;
        "A simultaneous open succeeds";
    req_2_a_syn_may_carry_data(Both): "REQ-2", Must, netfilter Met, netpath Met;
        "A SYN with data and a Fast Open cookie passes as it is (RFC 7413)";
    req_2_a_lost_syn_is_sent_again(Both): "REQ-2", Must, netfilter Met, netpath Met;
        "Segments that are sent again keep the connection's outside port";
    req_3_address_and_port_dependent_filtering(Both): "REQ-3", Must, netfilter Met, netpath Met;
        "Nobody but the addressed peer opens a connection to a mapping";
    req_4_an_unsolicited_syn_is_not_refused_at_once(Both): "REQ-4", Nice, netfilter Unmet, netpath Unmet;
        "A SYN that nobody asked for is not answered with a RST within 6 seconds";
    req_5_an_idle_connection_lives_for_two_hours(Both): "REQ-5", Must, netfilter Met, netpath Met;
        "An established connection that is silent for 2 hours and 4 minutes lives on";
    req_5_syn_sent_lives_four_minutes(Both): "REQ-5", Must, netfilter Unmet, netpath Met;
        "After a SYN the answer may take 4 minutes";
    req_5_syn_received_lives_four_minutes(Both): "REQ-5", Must, netfilter Unmet, netpath Met;
        "After SYN and SYN-ACK the next segment may take 4 minutes";
    req_5_fin_wait_lives_four_minutes(Both): "REQ-5", Must, netfilter Unmet, netpath Met;
        "After a FIN from inside, data from outside may take 4 minutes";
    req_5_close_wait_lives_four_minutes(Both): "REQ-5", Must, netfilter Unmet, netpath Met;
        "After a FIN from outside, data from inside may take 4 minutes";
    req_5_last_ack_lives_four_minutes(Both): "REQ-5", Must, netfilter Unmet, netpath Met;
        "After FINs from both, the last acknowledgement may take 4 minutes";
    req_5_time_wait_lives_four_minutes(Both): "REQ-5", Must, netfilter Unmet, netpath Met;
        "After an orderly close, a FIN that is sent again passes for 4 minutes";
    req_5_a_silent_connection_ends(Both): "REQ-5", Nice, netfilter Unmet, netpath Met;
        "A connection that is silent for longer ends, so that its port is free again";
    req_6_payloads_are_left_alone(V4): "REQ-6", Must, netfilter Met, netpath Met;
        "No application-level gateway changes an FTP PORT command";
    req_7_no_port_overloading(Both): "REQ-7", Nice, netfilter Unmet, netpath Met;
        "No two containers share an outside port while others are free";
    req_8_a_neighbours_published_port_is_reached(Both): "REQ-8", Must, netfilter Met, netpath Met;
        "Hairpin: a connection to a neighbour, and to oneself, by the outside address opens";
    req_8_hairpinned_segments_have_an_outside_source(Both): "REQ-8", Must, netfilter Unmet, netpath Met;
        "Hairpin: the server sees an outside source address";
    req_9_icmp_errors_reach_the_container(Both): "REQ-9", Must, netfilter Met, netpath Met;
        "ICMP errors about a connection are translated";
    req_10_icmp_errors_do_not_end_a_connection(Both): "REQ-10", Must, netfilter Met, netpath Met;
        "No ICMP error ends a connection";
}

/// RFC 5382: 2 hours and 4 minutes, and 4 minutes, less the time that this takes, in seconds.
const ESTABLISHED: u32 = 7440 - 2;
const TRANSITORY: u32 = 240 - 2;

fn server(bed: &Testbed) -> SocketAddr {
    at(bed.server(), 7000)
}

fn req_1_endpoint_independent_mapping(bed: &mut Testbed) -> Met {
    let [first, second, third] = [at(bed.server(), 7000), at(bed.second_server(), 7000), at(bed.server(), 7001)];
    Connection::open(bed, App, 6000, first)?;
    let seen = Connection::open(bed, Other, 6000, second)?.outside;
    for to in [first, third] {
        let again = Connection::open(bed, Other, 6000, to)?.outside;
        require(again == seen, "another outside port towards a destination where the first one was taken")?;
    }
    Ok(())
}

fn req_2_connections_open_talk_and_close(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut one = Connection::open(bed, App, 5000, server)?;
    one.talk(bed)?;
    one.close(bed)?;
    let mut other = Connection::open(bed, App, 5001, server)?;
    other.talk(bed)?;
    other.hear(bed, FIN | ACK, b"")?;
    other.say(bed, ACK | PSH, b"more")?;
    other.say(bed, FIN | ACK, b"")?;
    other.hear(bed, ACK, b"")
}

fn req_2_published_ports_take_connections(bed: &mut Testbed) -> Met {
    let (client, published, inside) = (at(bed.server(), 7000), bed.host_end(WEB), bed.end(App, WEB_INSIDE));
    let steps = [
        (Server, SYN, &b""[..]),
        (App, SYN | ACK, b""),
        (Server, ACK, b""),
        (Server, ACK | PSH, b"question"),
        (App, ACK | PSH, b"answer"),
        (Server, FIN | ACK, b""),
        (App, FIN | ACK, b""),
        (Server, ACK, b""),
    ];
    for (sender, flags, data) in steps {
        let segment = Segment::new(flags, 1, 1);
        if sender == Server {
            let seen = bed.send(Server, &Packet::tcp(client, published, &segment, data)).one(App)?;
            require((seen.from(), seen.to(), seen.payload()) == (client, inside, data), "a segment arrives changed")?;
        } else {
            let seen = bed.send(App, &Packet::tcp(inside, client, &segment, data)).one(Server)?;
            require(
                (seen.from(), seen.to(), seen.payload()) == (published, client, data),
                "an answer arrives changed",
            )?;
        }
    }
    Ok(())
}

fn req_2a_simultaneous_open(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let connection = Connection::begin(bed, App, 5000, server)?;
    connection.back(bed, &Segment::new(SYN, 90_000, 0), b"")?;
    connection.out(bed, &Segment::new(SYN | ACK, 10_000, 90_001), b"")?;
    connection.back(bed, &Segment::new(SYN | ACK, 90_000, 10_001), b"")?;
    connection.out(bed, &Segment::new(ACK | PSH, 10_001, 90_001), b"question")?;
    connection.back(bed, &Segment::new(ACK | PSH, 90_001, 10_009), b"answer").map(drop)
}

fn req_2_a_syn_may_carry_data(bed: &mut Testbed) -> Met {
    const FAST_OPEN: [u8; 12] = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    let syn = Segment { options: FAST_OPEN.to_vec(), ..Segment::new(SYN, 10_000, 0) };
    let sent = Packet::tcp(bed.end(App, 5000), server(bed), &syn, b"GET /");
    let seen = bed.out(App, &sent)?;
    require(seen.segment() == Some(syn) && seen.payload() == b"GET /", "option or data have changed")
}

fn req_2_a_lost_syn_is_sent_again(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::begin(bed, App, 5000, server)?;
    for wait_s in [1, 2, 4, 8] {
        clock::advance(&bed.world, wait_s);
        connection.out(bed, &Segment::new(SYN, 10_000, 0), b"")?;
    }
    connection.accept(bed)?;
    connection.back(bed, &Segment::new(SYN | ACK, 90_000, 10_001), b"")?;
    connection.talk(bed)?;
    connection.out(bed, &Segment::new(ACK, 10_001, 90_001), b"question").map(drop)
}

fn req_3_address_and_port_dependent_filtering(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::begin(bed, App, 5000, server)?;
    for stranger in [at(bed.server(), 7001), at(bed.second_server(), 7000)] {
        for flags in [SYN, SYN | ACK, ACK] {
            let segment = Segment::new(flags, 1, 10_001);
            bed.send(Server, &Packet::tcp(stranger, connection.outside, &segment, b"")).nothing(App)?;
        }
    }
    connection.accept(bed)
}

fn req_4_an_unsolicited_syn_is_not_refused_at_once(bed: &mut Testbed) -> Met {
    let stranger = server(bed);
    let heard = bed.send(Server, &Packet::tcp(stranger, bed.host_end(20_000), &Segment::default(), b""));
    require(heard.at(Server).is_empty(), "the host answers at once, since the address is its own")
}

fn req_5_an_idle_connection_lives_for_two_hours(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::open(bed, App, 5000, server)?;
    clock::advance(&bed.world, ESTABLISHED);
    connection.hear(bed, ACK | PSH, b"late")?;
    clock::advance(&bed.world, ESTABLISHED);
    connection.say(bed, ACK | PSH, b"later")
}

/// Advances the clock, and says what the plane does with what `pass` sends then.
fn after_four_minutes(bed: &mut Testbed, pass: impl FnOnce(&mut Testbed) -> Met) -> Met {
    clock::advance(&bed.world, TRANSITORY);
    pass(bed).map_err(|_| "it does not pass after 238 s".to_owned())
}

fn req_5_syn_sent_lives_four_minutes(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::begin(bed, App, 5000, server)?;
    after_four_minutes(bed, |bed| connection.accept(bed))
}

fn req_5_syn_received_lives_four_minutes(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::begin(bed, App, 5000, server)?;
    connection.accept(bed)?;
    after_four_minutes(bed, |bed| connection.back(bed, &Segment::new(SYN | ACK, 90_000, 10_001), b"").map(drop))?;
    connection.say(bed, ACK, b"")
}

fn req_5_fin_wait_lives_four_minutes(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::open(bed, App, 5000, server)?;
    connection.say(bed, FIN | ACK, b"")?;
    connection.hear(bed, ACK, b"")?;
    after_four_minutes(bed, |bed| connection.hear(bed, ACK | PSH, b"still here"))
}

fn req_5_close_wait_lives_four_minutes(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::open(bed, App, 5000, server)?;
    connection.hear(bed, FIN | ACK, b"")?;
    connection.say(bed, ACK, b"")?;
    after_four_minutes(bed, |bed| {
        connection.back(bed, &Segment::new(FIN | ACK, connection.ack - 1, connection.seq), b"")?;
        connection.say(bed, ACK | PSH, b"still here")
    })
}

fn req_5_last_ack_lives_four_minutes(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::open(bed, App, 5000, server)?;
    connection.hear(bed, FIN | ACK, b"")?;
    connection.say(bed, FIN | ACK, b"")?;
    after_four_minutes(bed, |bed| connection.hear(bed, ACK, b""))
}

fn req_5_time_wait_lives_four_minutes(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::open(bed, App, 5000, server)?;
    connection.close(bed)?;
    after_four_minutes(bed, |bed| {
        connection.back(bed, &Segment::new(FIN | ACK, connection.ack - 1, connection.seq), b"")?;
        connection.say(bed, ACK, b"")
    })
}

fn req_5_a_silent_connection_ends(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let connection = Connection::open(bed, App, 5000, server)?;
    clock::advance(&bed.world, 7440 + 2);
    let late = Packet::tcp(server, connection.outside, &Segment::new(ACK, connection.ack, connection.seq), b"late");
    bed.send(Server, &late).nothing(App).map_err(|_| "it lives for 5 days".to_owned())
}

fn req_6_payloads_are_left_alone(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 21);
    let mut connection = Connection::open(bed, App, 5000, server)?;
    let command = format!("PORT {},200,10\r\n", bed.address(App).to_string().replace('.', ","));
    connection.say(bed, ACK | PSH, command.as_bytes())?;
    let back = Packet::tcp(at(bed.server(), 20), bed.host_end(200 * 256 + 10), &Segment::default(), b"");
    bed.send(Server, &back).nothing(App)
}

fn req_7_no_port_overloading(bed: &mut Testbed) -> Met {
    let (one, other) = (at(bed.server(), 7000), at(bed.second_server(), 7000));
    let (one, other) = (Connection::open(bed, App, 6000, one)?, Connection::open(bed, Other, 6000, other)?);
    require(one.outside != other.outside, "two containers have one outside port, towards different destinations")
}

/// `app` opens a connection to `port` at the outside address, where `answerer` takes it; who that sees.
fn hairpin(bed: &mut Testbed, port: u16, answerer: Station) -> Result<SocketAddr, String> {
    let (asker, asked) = (bed.end(App, 5000), bed.host_end(port));
    let syn = bed.send(App, &Packet::tcp(asker, asked, &Segment::new(SYN, 10, 0), b"")).one(answerer)?;
    require(syn.to() == bed.end(answerer, WEB_INSIDE), "the SYN has another destination")?;
    let (here, there) = (syn.to(), syn.from());
    let answer = bed.send(answerer, &Packet::tcp(here, there, &Segment::new(SYN | ACK, 50, 11), b"")).one(App)?;
    require((answer.from(), answer.to()) == (asked, asker), "the answer does not come from where was asked")?;
    bed.send(App, &Packet::tcp(asker, asked, &Segment::new(ACK | PSH, 11, 51), b"question")).one(answerer)?;
    bed.send(answerer, &Packet::tcp(here, there, &Segment::new(ACK | PSH, 51, 19), b"answer")).one(App)?;
    Ok(there)
}

fn req_8_a_neighbours_published_port_is_reached(bed: &mut Testbed) -> Met {
    hairpin(bed, OTHER_WEB, Other)?;
    hairpin(bed, WEB, App).map(drop)
}

fn req_8_hairpinned_segments_have_an_outside_source(bed: &mut Testbed) -> Met {
    for (port, answerer) in [(OTHER_WEB, Other), (WEB, App)] {
        require(hairpin(bed, port, answerer)?.ip() == bed.host(), "the source is an inside address")?;
    }
    Ok(())
}

fn req_9_icmp_errors_reach_the_container(bed: &mut Testbed) -> Met {
    let sent = Packet::tcp(bed.end(App, 5000), server(bed), &Segment::default(), b"");
    let seen = bed.out(App, &sent)?;
    for kind in kinds(bed.family) {
        let report = error(bed.router(), bed.host(), *kind, &seen.bytes());
        let heard = bed.send(Server, &report).one(App)?;
        quotes(&heard, *kind, bed.router(), bed.address(App), &sent, sent.bytes().len())?;
    }
    Ok(())
}

fn req_10_icmp_errors_do_not_end_a_connection(bed: &mut Testbed) -> Met {
    let server = server(bed);
    let mut connection = Connection::open(bed, App, 5000, server)?;
    for kind in kinds(bed.family) {
        let data = Segment::new(ACK | PSH, connection.seq, connection.ack);
        let seen = connection.out(bed, &data, b"question")?;
        bed.send(Server, &error(bed.router(), bed.host(), *kind, &seen.bytes())).one(App)?;
        connection.out(bed, &data, b"question")?;
    }
    clock::advance(&bed.world, 3600);
    connection.talk(bed)
}
