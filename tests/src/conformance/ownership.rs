//! Ports and addresses that belong to somebody: an outside port that is published, an address that changes hands.

use std::rc::Rc;

use netpath_tests::frames::FrameSocket;
use netpath_tests::packets::{ACK, PSH, Packet, Segment};
use netpath_tests::sockets::at;

use super::connection::Connection;
use super::record::Met;
use super::testbed::{DNS, DNS_INSIDE, OTHER_DNS, Setup, Station, Testbed, require};
use Station::{App, Other, Server};

rows! {
    13, "Ownership of ports and addresses";

    published_ports_are_not_shadowed(Both): "port shadow", Must, netfilter Unmet, netpath Met;
        "A container that sends from a neighbour's published port does not take its clients (CVE-2021-3773)";
    ports_of_the_hosts_sockets_are_not_chosen(Both): "port shadow", Must, netfilter Unmet, netpath Met;
        "A flow does not leave from a port that a socket of the host is bound to";
    an_heir_gets_no_datagrams_of_its_predecessor(V4): "address reuse", Must, netfilter Unmet, netpath Met,
        with super::Setup::muted;
        "Who gets an address at once after another container receives none of its datagrams";
    an_heir_gets_no_segments_of_its_predecessor(V4): "address reuse", Must, netfilter Unmet, netpath Met,
        with super::Setup::muted;
        "The same of its connections";
}

fn published_ports_are_not_shadowed(bed: &mut Testbed) -> Met {
    let client = at(bed.server(), 2000);
    let seen = bed.udp_out(Other, DNS, client)?;
    require(seen.from() != bed.host_end(DNS), "it leaves from the published port")?;
    let asked = bed.send(Server, &Packet::udp(client, bed.host_end(DNS), b"question"));
    require(asked.one(App)?.to() == bed.end(App, DNS_INSIDE), "the client's question goes astray")?;
    // A container's own published port is its name towards everybody.
    bed.send(Server, &Packet::udp(client, bed.host_end(OTHER_DNS), b"question")).one(Other).map(drop)
}

fn ports_of_the_hosts_sockets_are_not_chosen(bed: &mut Testbed) -> Met {
    const PORT: u16 = 6_000;
    let _socket = bed.world.host.udp_at(at(bed.family.any(), PORT));
    let seen = bed.udp_out(App, PORT, at(bed.server(), 7000))?;
    require(seen.from().port() != PORT, "it leaves from the port of a socket")
}

/// `app` goes and another container gets its address; what that one hears of `late`.
fn inherit(bed: &mut Testbed, late: &Packet) -> Met {
    let address = bed.app.address;
    let heir = if bed.is_netpath() {
        bed.world.netpath_ok(&["detach", "app"]);
        let inside = bed.world.namespace("heir");
        let path = inside.path().display().to_string();
        bed.world.netpath_ok(&["attach", "heir", "--netns", &path, "--ip", &address.to_string()]);
        inside
    } else {
        // A bridge has the lowest address of its ports unless it is given one, and the stations know it by that.
        let mac = text(bed.world.host.mac("docker0"));
        bed.world.host.ip(&format!("link set docker0 address {mac}"));
        bed.world.disconnect("bridge", &bed.app);
        let heir = bed.world.container("heir", &[]);
        heir.inside.ip("addr flush dev eth0 scope global");
        heir.inside.ip(&format!("addr add {address}/16 dev eth0"));
        Rc::clone(&heir.inside)
    };
    let mut socket = FrameSocket::new(&heir, "eth0");
    let bridge = if bed.is_netpath() { "netpath0" } else { "docker0" };
    let mac = text(socket.mac());
    bed.world.host.ip(&format!("neigh replace {address} lladdr {mac} dev {bridge} nud permanent"));
    bed.forget(App);
    bed.send(Server, late);
    let heard = socket.sees(|frame| Packet::of_frame(frame).is_some_and(|packet| packet.payload() == late.payload()));
    require(!heard, "the heir hears what was meant for another")
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn an_heir_gets_no_datagrams_of_its_predecessor(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let outside = bed.udp_out(App, 5000, server)?.from();
    bed.udp_in(server, outside, App)?;
    inherit(bed, &Packet::udp(server, outside, b"for another"))
}

fn an_heir_gets_no_segments_of_its_predecessor(bed: &mut Testbed) -> Met {
    let server = at(bed.server(), 7000);
    let connection = Connection::open(bed, App, 5000, server)?;
    let data = Segment::new(ACK | PSH, connection.ack, connection.seq);
    inherit(bed, &Packet::tcp(server, connection.outside, &data, b"for another"))
}
