//! Each legitimate difference between netfilter and the model, shown by the shortest sequence that shows it: a list that
//! nobody has seen would be a list of excuses.

#![expect(clippy::unwrap_used, reason = "a test panics when something is not as it should be")]

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use netpath_differential::difference::Difference;
use netpath_differential::layout::Layout;
use netpath_differential::step::{Step, Stimulus};
use netpath_differential::twin::Twin;
use netpath_model::packet::{ErrorKind, Extension, Fragment, Quote};
use netpath_model::{Body, Checksum, End, Name, Packet, Place, Proto, Tcp};
use netpath_tests::Family;

const INSIDE: &str = "172.17.0.4:5000";
const OUTSIDE: &str = "198.18.0.2:7000";
const WEB: &str = "198.18.0.1:8080";
/// The server behind it.
const SERVER: &str = "172.17.0.2:80";
const CLIENT: &str = "198.18.0.2:40000";

#[test]
fn every_difference_can_be_shown() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let mut twin = Twin::new(true, true);
    let of = |family: Family, cases: Vec<Case>| cases.into_iter().map(move |case| (family, case));
    for (family, (difference, stimuli)) in of(Family::V4, cases()).chain(of(Family::V6, cases_of_v6())) {
        let mut seen = Vec::new();
        // Where nothing is to come out, nothing is waited for, and a busy machine may let out late what does.
        for _ in 0..3 {
            twin.forget(family);
            seen = stimuli.iter().cloned().map(|stimulus| difference_of(&mut twin, stimulus)).collect();
            if seen.last() == Some(&Some(difference)) {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(seen.last(), Some(&Some(difference)), "{seen:?}");
    }
    drop(twin);
    let mut twin = Twin::new(false, true);
    let asked = from(2, segment(INSIDE, WEB, Tcp::SYN));
    assert_eq!(difference_of(&mut twin, asked), Some(Difference::NoHairpinWithoutIcc));
}

fn difference_of(twin: &mut Twin, stimulus: Stimulus) -> Option<Difference> {
    let told = stimulus.to_string();
    twin.take(&Step::Send(Box::new(stimulus))).unwrap_or_else(|what| panic!("{told}: {what}"));
    twin.last_difference()
}

/// A difference and what shows it last.
type Case = (Difference, Vec<Stimulus>);

/// Those that IPv6 has and IPv4 has not, and some that look otherwise in IPv6.
fn cases_of_v6() -> Vec<Case> {
    let (inside, outside, web) = ("[fd00:17::4]:5000", "[2001:db8::2]:7000", "[2001:db8::1]:8080");
    let bare = |packet: Packet| vec![from(2, packet)];
    let after = |extensions: Vec<Extension>| Packet { extensions, ..datagram(inside, outside) };
    let many = after(vec![Extension::Destination(0); 9]);
    let on_its_way = after(vec![Extension::Routing { segments_left: 1 }]);
    let query = Packet::new(at(inside), at(outside), Body::OtherIcmp { kind: 139, payload: vec![1; 20] });
    let discovery = Packet::new(at(inside), at(outside), Body::OtherIcmp { kind: 136, payload: vec![1; 20] });
    let len = 8 + 16;
    let atomic = Packet { fragment: Some(Fragment { offset: 0, len, more: false }), ..datagram(inside, outside) };
    let nothing = Packet::new(at(inside), at(outside), Body::Other { proto: 59, payload: Vec::new() });
    vec![
        (Difference::LooksBehindHeaders, bare(many)),
        (Difference::LooksBehindHeaders, bare(on_its_way)),
        (Difference::TranslatesAddressesOnly, bare(query)),
        (Difference::TranslatesAddressesOnly, bare(nothing)),
        (Difference::LeaksInvalid, bare(discovery)),
        (Difference::MergesFragments, bare(atomic)),
        (Difference::HairpinUnderOwnAddress, bare(segment(inside, web, Tcp::SYN))),
    ]
}

/// Each difference, in IPv4 where it is there.
fn cases() -> Vec<Case> {
    let bare = |packet: Packet| vec![from(2, packet)];
    let spoofed = datagram("10.9.9.9:5000", OUTSIDE);
    let martian = segment("172.17.0.4:1", WEB, Tcp::SYN);
    let wrong = Packet { checksum: Checksum::Wrong(9), ..datagram(INSIDE, OUTSIDE) };
    let nothing = Packet::new(at(INSIDE), at(OUTSIDE), Body::Other { proto: 253, payload: vec![1; 8] });
    let piece = Packet { fragment: Some(Fragment { offset: 0, len: 8, more: true }), ..datagram(INSIDE, OUTSIDE) };
    let unasked = datagram("172.17.0.2:53", OUTSIDE);
    let gateway = datagram(OUTSIDE, "172.17.0.1:9");
    vec![
        (Difference::LeaksInvalid, bare(segment(INSIDE, OUTSIDE, Tcp::SYN | Tcp::ACK))),
        (Difference::ForwardsSpoofed, bare(spoofed)),
        (Difference::BelievesMartian, vec![outside(martian)]),
        (Difference::ChecksTransportChecksum, bare(wrong)),
        (Difference::TracksWindow, vec![outside(segment(CLIENT, WEB, Tcp::RST))]),
        (Difference::PicksUpMidStream, bare(segment(INSIDE, OUTSIDE, Tcp::ACK))),
        (Difference::TranslatesAddressesOnly, bare(nothing)),
        (Difference::NamesByPeer, overloaded()),
        (Difference::PublishedSpeaksFirst, vec![from(0, unasked)]),
        (Difference::HairpinUnderOwnAddress, bare(segment(INSIDE, WEB, Tcp::SYN))),
        (Difference::MergesFragments, bare(piece)),
        (Difference::ErrorNeedsConnection, vec![outside(error(OUTSIDE, segment(WEB, OUTSIDE, Tcp::ACK)))]),
        (Difference::LeaksError, bare(error(INSIDE, datagram(OUTSIDE, INSIDE)))),
        (Difference::GatewayFromOutside, vec![outside(gateway)]),
        (Difference::LoopbackFromOutside, vec![outside(segment(OUTSIDE, "127.0.0.1:8080", Tcp::SYN))]),
        (Difference::Consequence, after_a_picked_up_connection()),
        (Difference::Consequence, after_a_name_was_given_to_a_liar()),
    ]
}

/// Two containers have the same port, and talk to different peers: to netfilter one host port will do for both.
fn overloaded() -> Vec<Stimulus> {
    let other = "172.17.0.3:5000";
    let name = Name {
        proto: Proto::Udp,
        inside: socket(other),
        asked: SocketAddr::new(Layout::of(Family::V4).stranger, 7000),
        host: "198.18.0.1".parse().unwrap(),
    };
    let to_other = Packet::new(at(other), End::At(name.asked), Body::Udp { payload: vec![1; 9] });
    let answer = Packet::new(at(OUTSIDE), End::Name(name), Body::Udp { payload: vec![2; 9] });
    vec![from(2, datagram(INSIDE, OUTSIDE)), from(1, to_other), outside(answer)]
}

/// What netfilter took up in its middle it goes on translating, also where the model knows a published port.
fn after_a_picked_up_connection() -> Vec<Stimulus> {
    let (server, client) = (segment(SERVER, CLIENT, Tcp::ACK), segment(CLIENT, WEB, Tcp::SYN));
    vec![from(0, server), outside(client)]
}

/// A connection is reset, and its name goes to whom netfilter believes to be somebody else, with a segment in the middle of
/// nothing. What the peer still says to the old name reaches a third one.
fn after_a_name_was_given_to_a_liar() -> Vec<Stimulus> {
    let name =
        Name { proto: Proto::Tcp, inside: socket(INSIDE), asked: socket(OUTSIDE), host: "198.18.0.1".parse().unwrap() };
    let answer = |flags, seq| {
        let tcp = Tcp { flags, seq, ack: 1001, window: 0xffff, ..Tcp::default() };
        outside(Packet::new(at(OUTSIDE), End::Name(name), Body::Tcp(tcp)))
    };
    let begin = from(2, segment(INSIDE, OUTSIDE, Tcp::SYN));
    let lie = from(2, segment("172.17.0.2:5000", OUTSIDE, Tcp::ACK));
    vec![begin, answer(Tcp::RST | Tcp::ACK, 500), lie, answer(Tcp::SYN | Tcp::ACK, 501)]
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> End {
    End::At(socket(text))
}

fn from(container: usize, packet: Packet) -> Stimulus {
    Stimulus::new(Place::Container(container), packet)
}

fn outside(packet: Packet) -> Stimulus {
    Stimulus::new(Place::Outside, packet)
}

fn datagram(src: &str, dst: &str) -> Packet {
    Packet::new(at(src), at(dst), Body::Udp { payload: vec![7; 16] })
}

fn segment(src: &str, dst: &str, flags: u8) -> Packet {
    Packet::new(at(src), at(dst), Body::Tcp(Tcp { flags, seq: 1000, ack: 1, window: 0xffff, ..Tcp::default() }))
}

fn error(src: &str, quoted: Packet) -> Packet {
    let (src, dst) = (SocketAddr::new(socket(src).ip(), 0), SocketAddr::new(quoted.src.addr(), 0));
    let quote = Quote { kind: ErrorKind::Unreachable, code: 1, word: 0, packet: Box::new(quoted), len: 8 };
    Packet::new(End::At(src), End::At(dst), Body::Error(quote))
}
