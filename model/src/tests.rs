//! The model's own rules, one claim each.

use std::net::SocketAddr;

use crate::packet::{ErrorKind, Extension, Fragment, Quote};
use crate::{
    Body, Cause, Checksum, Config, End, Name, Nat, Outcome, Packet, Place, Port, Proto, Tcp, Timeouts, Verdict,
};

const WEB: Port = Port { proto: Proto::Tcp, host_port: 8080, container: 0, port: 80 };

fn nat() -> Nat {
    let addr = |text: &str| text.parse().unwrap();
    let config = Config {
        host: addr("198.18.0.1"),
        gateway: addr("172.17.0.1"),
        prefix_len: 16,
        icc: true,
        timeouts: Timeouts::default(),
    };
    let mut nat = Nat::new(config);
    nat.add_container(0, addr("172.17.0.2"));
    nat.add_container(1, addr("172.17.0.3"));
    nat.publish(WEB);
    nat
}

fn at(text: &str) -> End {
    End::At(text.parse().unwrap())
}

fn udp(src: End, dst: End) -> Packet {
    Packet::new(src, dst, Body::Udp { payload: vec![1, 2, 3] })
}

fn tcp(src: End, dst: End, flags: u8, seq: u32, ack: u32) -> Packet {
    Packet::new(src, dst, Body::Tcp(Tcp { flags, seq, ack, ..Tcp::default() }))
}

/// The one packet that came out.
fn only(outcome: &Outcome) -> (Place, &Packet) {
    let [sent] = &outcome.sent[..] else { panic!("one packet expected: {outcome:?}") };
    (sent.to, &sent.packet)
}

/// Container 1 sends a datagram from port 5000 to `to`; its name there.
fn begin(nat: &mut Nat, to: &str) -> End {
    let outcome = nat.from_container(1, true, &udp(at("172.17.0.3:5000"), at(to)));
    assert_eq!(outcome.verdict, Verdict::Masqueraded);
    only(&outcome).1.src
}

#[test]
fn what_leaves_has_a_name_and_one_hop_less() {
    let mut nat = nat();
    let outcome = nat.from_container(1, true, &udp(at("172.17.0.3:5000"), at("198.18.0.2:7000")));
    let (place, packet) = only(&outcome);
    assert_eq!((place, packet.ttl, packet.src.addr()), (Place::Outside, 63, nat.config.host));
    assert!(outcome.named.is_some());
}

#[test]
fn one_name_does_for_all_whom_the_inside_talks_to() {
    let mut nat = nat();
    let one = begin(&mut nat, "198.18.0.2:7000");
    let outcome = nat.from_container(1, true, &udp(at("172.17.0.3:5000"), at("198.18.0.3:7001")));
    assert!(outcome.named.is_none() && only(&outcome).1.src.is_same(&one));
}

#[test]
fn only_who_was_talked_to_may_answer() {
    let mut nat = nat();
    let name = begin(&mut nat, "198.18.0.2:7000");
    let answer = nat.from_outside(&udp(at("198.18.0.2:7000"), name));
    assert_eq!(only(&answer).1.dst, at("172.17.0.3:5000"));
    for other in ["198.18.0.2:7001", "198.18.0.3:7000"] {
        assert_eq!(nat.from_outside(&udp(at(other), name)).verdict, Verdict::Host, "{other}");
    }
}

#[test]
fn flows_end_when_they_have_been_silent_for_too_long() {
    for (is_answered, lives_s) in [(false, 120), (true, 300)] {
        let mut nat = nat();
        let name = begin(&mut nat, "198.18.0.2:7000");
        if is_answered {
            nat.from_outside(&udp(at("198.18.0.2:7000"), name));
        }
        assert_eq!(nat.advance(lives_s).len(), 0);
        assert_eq!(nat.advance(1).len(), 1);
        assert_eq!(nat.from_outside(&udp(at("198.18.0.2:7000"), name)).verdict, Verdict::Host);
    }
}

/// Container 1 and port 443 outside have shaken hands: its name. The next numbers are 101 and 501.
fn established(nat: &mut Nat) -> End {
    let (inside, outside) = (at("172.17.0.3:5000"), at("198.18.0.2:443"));
    let begun = nat.from_container(1, true, &tcp(inside, outside, Tcp::SYN, 100, 0));
    let name = only(&begun).1.src;
    nat.from_outside(&tcp(outside, name, Tcp::SYN | Tcp::ACK, 500, 101));
    nat.from_container(1, true, &tcp(inside, outside, Tcp::ACK, 101, 501));
    assert!(nat.flows()[0].is_established());
    name
}

#[test]
fn only_an_exact_reset_from_outside_is_believed() {
    for (seq, is_believed) in [(501, true), (502, false), (0, false)] {
        let mut nat = nat();
        let name = established(&mut nat);
        let reset = tcp(at("198.18.0.2:443"), name, Tcp::RST, seq, 0);
        assert_eq!(nat.from_outside(&reset).verdict, Verdict::Replied, "it is the receiver's to judge");
        assert_eq!(nat.flows()[0].is_established(), !is_believed, "{seq}");
    }
}

#[test]
fn a_connection_begins_with_a_bare_syn() {
    let mut nat = nat();
    for flags in [0, Tcp::ACK, Tcp::RST, Tcp::FIN, Tcp::SYN | Tcp::ACK, Tcp::SYN | Tcp::FIN, Tcp::SYN | Tcp::RST] {
        let outcome = nat.from_container(1, true, &tcp(at("172.17.0.3:5000"), at("198.18.0.2:443"), flags, 1, 1));
        assert_eq!(outcome.verdict, Verdict::Dropped(Cause::NoFlow), "{flags:#x}");
    }
}

#[test]
fn a_published_port_is_reached_and_answers_under_its_name() {
    let mut nat = nat();
    let (client, published) = (at("198.18.0.2:40000"), at("198.18.0.1:8080"));
    let question = nat.from_outside(&tcp(client, published, Tcp::SYN, 1, 0));
    assert_eq!(only(&question).1.dst, at("172.17.0.2:80"));
    let answer = nat.from_container(0, true, &tcp(at("172.17.0.2:80"), client, Tcp::SYN | Tcp::ACK, 1, 2));
    assert_eq!(only(&answer).1.src, published);
    nat.unpublish(&WEB);
    assert_eq!(nat.from_outside(&tcp(client, published, Tcp::ACK, 2, 2)).verdict, Verdict::Host);
}

#[test]
fn a_hairpin_is_seen_under_the_address_that_was_asked() {
    for host in ["198.18.0.1:8080", "172.17.0.1:8080"] {
        let mut nat = nat();
        let question = nat.from_container(1, true, &tcp(at("172.17.0.3:5000"), at(host), Tcp::SYN, 1, 0));
        let (place, packet) = only(&question);
        assert_eq!((place, packet.src.addr(), packet.dst), (Place::Container(0), at(host).addr(), at("172.17.0.2:80")));
        let answer = tcp(at("172.17.0.2:80"), packet.src, Tcp::SYN | Tcp::ACK, 1, 2);
        let answer = nat.from_container(0, true, &answer);
        let (place, packet) = only(&answer);
        assert_eq!((place, packet.src, packet.dst), (Place::Container(1), at(host), at("172.17.0.3:5000")));
    }
}

#[test]
fn the_next_connection_of_a_closed_hairpin_is_opened_by_both() {
    let mut nat = nat();
    let (inside, web, server) = (at("172.17.0.3:5000"), at("198.18.0.1:8080"), at("172.17.0.2:80"));
    let mut say = |flags| {
        let question = nat.from_container(1, true, &tcp(inside, web, flags, 1, 0));
        let asker = only(&question).1.src;
        let answer = nat.from_container(0, true, &tcp(server, asker, flags | Tcp::ACK, 1, 2));
        assert_eq!(answer.verdict, Verdict::HairpinAnswer);
        asker
    };
    say(Tcp::SYN);
    say(Tcp::FIN | Tcp::ACK);
    let asker = say(Tcp::SYN);
    assert!(nat.advance(7000).is_empty());
    let answer = nat.from_container(0, true, &tcp(server, asker, Tcp::ACK, 2, 2));
    assert_eq!(answer.verdict, Verdict::HairpinAnswer);
}

#[test]
fn an_error_about_a_hairpin_is_for_a_flow_that_lives() {
    let mut nat = nat();
    nat.publish(Port { proto: Proto::Udp, host_port: 8053, container: 0, port: 53 });
    let (inside, asked, server) = (at("172.17.0.3:5000"), at("198.18.0.1:8053"), at("172.17.0.2:53"));
    let name = only(&nat.from_container(1, true, &udp(inside, asked))).1.src;
    let complaint = error(server, udp(name, server));
    assert_eq!(nat.from_container(0, true, &complaint).verdict, Verdict::ErrorAcross);
    // The mapping goes on with another flow.
    nat.advance(100);
    assert!(begin(&mut nat, "198.18.0.2:7000").is_same(&name));
    assert_eq!(nat.advance(100).len(), 1);
    assert_eq!(nat.from_container(0, true, &complaint).verdict, Verdict::Host);
}

#[test]
fn nobody_outside_gets_at_a_container_but_by_a_published_port() {
    let mut nat = nat();
    let direct = nat.from_outside(&udp(at("198.18.0.2:1"), at("172.17.0.2:53")));
    assert_eq!(direct.verdict, Verdict::Dropped(Cause::DirectAccess));
    let martian = nat.from_outside(&tcp(at("172.17.0.3:1"), at("198.18.0.1:8080"), Tcp::SYN, 1, 0));
    assert_eq!(martian.verdict, Verdict::Dropped(Cause::Martian));
}

#[test]
fn who_says_to_be_somebody_else_is_dropped() {
    let mut nat = nat();
    let packet = udp(at("172.17.0.3:5000"), at("198.18.0.2:7000"));
    for (sender, has_own_mac) in [(0, true), (1, false)] {
        assert_eq!(nat.from_container(sender, has_own_mac, &packet).verdict, Verdict::Dropped(Cause::Spoofed));
    }
}

#[test]
fn neighbours_talk_where_they_may() {
    let mut nat = nat();
    let packet = udp(at("172.17.0.3:5000"), at("172.17.0.2:53"));
    assert_eq!(only(&nat.from_container(1, true, &packet)), (Place::Container(0), &packet));
    nat.config.icc = false;
    assert_eq!(nat.from_container(1, true, &packet).verdict, Verdict::Dropped(Cause::Icc));
}

fn error(src: End, quoted: Packet) -> Packet {
    let to = End::At(SocketAddr::new(quoted.src.addr(), 0));
    let quote = Quote { kind: ErrorKind::Unreachable, code: 3, word: 0, packet: Box::new(quoted), len: 8 };
    Packet::new(src, to, Body::Error(quote))
}

#[test]
fn an_error_and_what_it_quotes_are_translated_and_keep_nothing_alive() {
    let mut nat = nat();
    let name = begin(&mut nat, "198.18.0.2:7000");
    nat.advance(100);
    let router = at("203.0.113.1:0");
    let outcome = nat.from_outside(&error(router, udp(name, at("198.18.0.2:7000"))));
    let (place, packet) = only(&outcome);
    assert_eq!((outcome.verdict, place, packet.src), (Verdict::ErrorIn, Place::Container(1), router));
    let Body::Error(quote) = &packet.body else { panic!("an error: {packet:?}") };
    assert_eq!((quote.packet.src, packet.dst.addr()), (at("172.17.0.3:5000"), at("172.17.0.3:0").addr()));
    assert_eq!(nat.advance(21).len(), 1);
}

#[test]
fn a_later_fragment_goes_where_the_first_one_went() {
    let mut nat = nat();
    let datagram = udp(at("172.17.0.3:5000"), at("198.18.0.2:7000"));
    let piece = |offset, more| Packet { fragment: Some(Fragment { offset, len: 8, more }), ..datagram.clone() };
    assert_eq!(nat.from_container(1, true, &piece(8, false)).verdict, Verdict::Dropped(Cause::Fragment));
    assert_eq!(nat.from_container(1, true, &piece(0, true)).verdict, Verdict::Masqueraded);
    assert_eq!(nat.from_container(1, true, &piece(8, false)).verdict, Verdict::Masqueraded);
}

#[test]
fn at_the_end_of_its_hops_a_packet_is_answered_and_begins_nothing() {
    let mut nat = nat();
    let packet = Packet { ttl: 1, ..udp(at("172.17.0.3:5000"), at("198.18.0.2:7000")) };
    let outcome = nat.from_container(1, true, &packet);
    assert_eq!((outcome.verdict, only(&outcome).0), (Verdict::TimeExceeded, Place::Container(1)));
    assert!(nat.flows().is_empty());
}

/// Two containers of a network with IPv6, where port 80 of the first one is published.
fn nat6() -> Nat {
    let addr = |text: &str| text.parse().unwrap();
    let config = Config { host: addr("2001:db8::1"), gateway: addr("fd00::1"), prefix_len: 64, ..nat().config };
    let mut nat = Nat::new(config);
    nat.add_container(0, addr("fd00::2"));
    nat.add_container(1, addr("fd00::3"));
    nat.publish(WEB);
    nat
}

/// A datagram to the host, where nothing listens, with these extension headers.
fn to_host(extensions: &[Extension]) -> Packet {
    Packet { extensions: extensions.to_vec(), ..udp(at("[2001:db8::2]:1"), at("[2001:db8::1]:9")) }
}

#[test]
fn the_host_points_at_the_extension_header_that_it_does_not_go_past() {
    use Extension::{Destination, HopByHop, Routing};
    let route = Routing { segments_left: 1 };
    for (extensions, code, pointer) in [
        (vec![route], 0, 42),
        (vec![Destination(1), route], 0, 58),
        (vec![HopByHop(0), HopByHop(0)], 1, 40),
        (vec![HopByHop(0), Destination(1), HopByHop(0)], 1, 48),
    ] {
        let outcome = nat6().from_outside(&to_host(&extensions));
        let Body::Error(quote) = &only(&outcome).1.body else { panic!("an error: {outcome:?}") };
        assert_eq!((quote.kind, quote.code, quote.word), (ErrorKind::ParameterProblem, code, pointer));
    }
}

#[test]
fn a_container_hides_nothing_behind_extension_headers() {
    let (inside, web) = (at("[fd00::3]:5000"), at("[2001:db8::2]:443"));
    for (extensions, is_hidden) in [
        (vec![Extension::Destination(0); 8], false),
        (vec![Extension::Destination(0); 9], true),
        (vec![Extension::Routing { segments_left: 0 }], false),
        (vec![Extension::Routing { segments_left: 1 }], true),
        (vec![Extension::Destination(0), Extension::HopByHop(0)], true),
    ] {
        let packet = Packet { extensions, ..udp(inside, web) };
        let verdict = nat6().from_container(1, true, &packet).verdict;
        assert_eq!(verdict == Verdict::Dropped(Cause::Hidden), is_hidden, "{packet:?}");
        assert_eq!(verdict == Verdict::Masqueraded, !is_hidden, "{packet:?}");
    }
}

#[test]
fn what_asks_routers_not_to_forward_it_is_not_forwarded() {
    for reports in [false, true] {
        let with = |packet| Packet { extensions: vec![Extension::Demanding { reports }], ..packet };
        let mut nat = nat6();
        let outcomes = [
            nat.from_container(1, true, &with(udp(at("[fd00::3]:5000"), at("[2001:db8::2]:443")))),
            nat.from_outside(&with(tcp(at("[2001:db8::2]:1"), at("[2001:db8::1]:8080"), Tcp::SYN, 1, 0))),
        ];
        for (outcome, asker) in outcomes.iter().zip([Place::Container(1), Place::Outside]) {
            let told: Vec<_> = outcome.sent.iter().map(|sent| sent.to).collect();
            assert_eq!((outcome.verdict, told), (Verdict::Demanded, vec![asker; usize::from(reports)]));
        }
        assert!(nat.flows().is_empty());
    }
}

#[test]
fn a_datagram_without_a_checksum_is_none_to_a_host_with_ipv6() {
    let answers = |checksum| nat6().from_outside(&Packet { checksum, ..to_host(&[]) }).sent.len();
    assert_eq!([Checksum::Right, Checksum::None].map(answers), [1, 0]);
}

#[test]
fn ipv4_in_disguise_is_nobodys() {
    let outcome = nat6().from_outside(&udp(at("[::ffff:198.18.0.2]:1"), at("[2001:db8::1]:9")));
    assert_eq!(outcome.verdict, Verdict::Dropped(Cause::Loopback));
}

#[test]
fn flows_end_with_their_container() {
    let mut nat = nat();
    let name = begin(&mut nat, "198.18.0.2:7000");
    nat.add_container(1, at("172.17.0.3:0").addr());
    let outcome = nat.from_outside(&udp(at("198.18.0.2:7000"), name));
    assert!(outcome.verdict == Verdict::Host && outcome.may_vanish);
}

#[test]
fn names_are_one_mapping_whoever_is_asked() {
    let name = |asked: &str| Name {
        proto: Proto::Udp,
        inside: "172.17.0.3:5000".parse().unwrap(),
        asked: asked.parse().unwrap(),
        host: "198.18.0.1".parse().unwrap(),
    };
    assert!(name("198.18.0.2:1").is_same_mapping(&name("198.18.0.3:2")));
}
