//! RFC 1812 and its like for IPv6: what a router does with any packet, translated or not.

use std::net::IpAddr;

use netpath_tests::packets::{Packet, Segment};
use netpath_tests::sockets::at;

use super::errors::{error, port_unreachable};
use super::record::Met;
use super::testbed::{DNS, Setup, Station, Testbed, require};
use Station::{App, Other, Server};

rows! {
    8, "RFC 1812: routers";

    the_hop_count_goes_down_by_one(Both): "5.3.1", Must, netfilter Met, netpath Met;
        "TTL and hop limit go down by one on every road: out, back, to a published port and from it";
    no_error_about_an_error(Both): "4.3.2.7", Must, netfilter Met, netpath Met;
        "An ICMP error whose hop count ends is not reported";
    no_error_about_a_later_fragment(V4): "4.3.2.7", Must, netfilter Met, netpath Met;
        "A later fragment whose hop count ends is not reported";
    no_error_to_a_group(V4): "4.3.2.7", Must, netfilter Met, netpath Met;
        "What is for a group or a broadcast address is not answered with an error";
    martian_sources_from_outside_reach_nobody(Both): "5.3.7", Must, netfilter Unmet, netpath Met, with super::Setup::unwatched;
        "A source from outside that cannot be outside reaches no published port: loopback, groups, the host's own, a container's";
    martian_destinations_reach_nobody(Both): "5.3.7", Must, netfilter Met, netpath Met;
        "A container's packet for loopback or unspecified addresses reaches nobody";
    options_pass(V4): "5.3.13", Must, netfilter Met, netpath Met;
        "IP options of every length pass";
    source_routes_do_not_pass(V4): "5.3.13.4", Nice, netfilter Met, netpath Met;
        "A packet with a source route is not forwarded (RFC 7126)";
}

fn the_hop_count_goes_down_by_one(bed: &mut Testbed) -> Met {
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    for ttl in [2, 64, 255] {
        let with = |packet: Packet| Packet { ttl, ..packet };
        let outside = bed.out(App, &with(Packet::udp(inside, server, b"question")))?;
        let back = bed.send(Server, &with(Packet::udp(server, outside.from(), b"answer"))).one(App)?;
        let asked = bed.send(Server, &with(Packet::udp(server, bed.host_end(DNS), b"question"))).one(App)?;
        let answer = bed.send(App, &with(Packet::udp(asked.to(), asked.from(), b"answer"))).one(Server)?;
        let syn = bed.send(App, &with(Packet::tcp(inside, server, &Segment::default(), b""))).one(Server)?;
        for seen in [outside, back, asked, answer, syn] {
            require(seen.ttl == ttl - 1, "another hop count")?;
        }
    }
    Ok(())
}

fn no_error_about_an_error(bed: &mut Testbed) -> Met {
    let seen = bed.udp_out(App, 5000, at(bed.server(), 7000))?;
    let report = error(bed.server(), bed.host(), port_unreachable(bed.family), &seen.bytes());
    let heard = bed.send(Server, &Packet { ttl: 1, ..report });
    heard.nothing(Server)?;
    heard.nothing(App)
}

fn no_error_about_a_later_fragment(bed: &mut Testbed) -> Met {
    let sent = Packet { ttl: 1, ..Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), &[b'x'; 64]) };
    let heard = bed.send(App, &sent.fragments(32)[1]);
    heard.nothing(App)?;
    heard.nothing(Server)
}

fn no_error_to_a_group(bed: &mut Testbed) -> Met {
    for group in ["224.0.0.99", "239.1.2.3", "255.255.255.255", "172.17.255.255"] {
        let group: IpAddr = group.parse().expect("an address");
        for ttl in [1, 64] {
            let sent = Packet { ttl, ..Packet::udp(bed.end(App, 5000), at(group, 7000), b"anybody?") };
            let heard = bed.send(App, &sent);
            heard.nothing(App)?;
            heard.nothing(Server)?;
        }
    }
    Ok(())
}

fn martian_sources_from_outside_reach_nobody(bed: &mut Testbed) -> Met {
    let texts =
        bed.family.pick(["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"], ["::1", "::", "ff02::1", "ff0e::1"]);
    let mut sources: Vec<IpAddr> = texts.iter().map(|text| text.parse().expect("an address")).collect();
    sources.extend([bed.host(), bed.address(Other), bed.world.gateway(bed.family)]);
    for source in sources {
        let heard = bed.send(Server, &Packet::udp(at(source, 7000), bed.host_end(DNS), b"question"));
        heard.nothing(App).map_err(|_| "a source that cannot be outside reaches a published port".to_owned())?;
    }
    Ok(())
}

fn martian_destinations_reach_nobody(bed: &mut Testbed) -> Met {
    for text in bed.family.pick(&["127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3"][..], &["::1", "::"]) {
        let to: IpAddr = text.parse().expect("an address");
        let heard = bed.send(App, &Packet::udp(bed.end(App, 5000), at(to, 7000), b"anybody?"));
        heard.nothing(Server)?;
        heard.nothing(Other)?;
    }
    Ok(())
}

fn options_pass(bed: &mut Testbed) -> Met {
    const NO_OPERATION: u8 = 1;
    let (inside, server) = (bed.end(App, 5000), at(bed.server(), 7000));
    for words in 1..=10 {
        let options = vec![NO_OPERATION; 4 * words];
        let sent = Packet { options: options.clone(), ..Packet::udp(inside, server, b"question") };
        let seen = bed.out(App, &sent)?;
        require(seen.options == options && seen.payload() == b"question", "options or payload have changed")?;
        let back = Packet { options: options.clone(), ..Packet::udp(server, seen.from(), b"answer") };
        let heard = bed.send(Server, &back).one(App)?;
        require(heard.options == options && heard.payload() == b"answer", "options or payload have changed")?;
    }
    Ok(())
}

fn source_routes_do_not_pass(bed: &mut Testbed) -> Met {
    /// Loose and strict, with one address that is still to come.
    const ROUTES: [u8; 2] = [131, 137];
    for kind in ROUTES {
        let options = vec![kind, 7, 4, 198, 18, 0, 3, 0];
        let sent = Packet { options, ..Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), b"question") };
        bed.send(App, &sent).nothing(Server)?;
    }
    Ok(())
}
