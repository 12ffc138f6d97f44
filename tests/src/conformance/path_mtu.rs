//! Path MTU discovery across the translator (RFC 1191, RFC 8201): reports pass, the translator makes its own, and transfers
//! find their size.

use std::net::TcpStream;

use netpath_tests::Family;
use netpath_tests::packets::Packet;
use netpath_tests::sockets::{accept, at};
use netpath_tests::transfer::Transfer;

use super::errors::{Kind, error, quotes};
use super::record::Met;
use super::testbed::{DNS, Setup, Station, Testbed, WEB, WEB_INSIDE, require};
use Station::{App, Server};

rows! {
    7, "RFC 1191, RFC 8201: path MTU";

    reports_keep_the_next_hops_mtu(Both): "section 3", Must, netfilter Met, netpath Met;
        "A router's report reaches the container with the MTU it says, 0 of old routers among them";
    too_large_from_a_container_is_reported(Both): "section 4", Must, netfilter Met, netpath Met,
        with super::Setup::muted;
        "What is too large for the wire outside is reported to the container with that MTU, about the packet it sent";
    too_large_for_a_container_is_reported(Both): "section 4", Must, netfilter Met, netpath Met, with super::narrow_inside;
        "What is too large for a published port's container is reported to the client, about the packet it sent";
    transfers_out_find_the_path_mtu(Both): "section 6", Must, netfilter Met, netpath Met, with super::Setup::with_sockets;
        "2 MB out of a container arrive across a wire of 1280 bytes";
    transfers_in_find_the_path_mtu(Both): "section 6", Must, netfilter Met, netpath Met,
        with super::narrow_inside_with_sockets; "2 MB to a published port arrive across a wire of 1280 bytes";
}

const NARROW: u16 = 1280;
const TRANSFER: u64 = 2 << 20;

fn narrow_inside() -> Setup {
    Setup::agent(&format!("--mtu {NARROW}"))
}

fn narrow_inside_with_sockets() -> Setup {
    Setup { is_muted: false, ..narrow_inside() }
}

/// The wire outside takes less than containers and client think; the client is told nothing.
fn narrow_the_wire_outside(bed: &Testbed) {
    bed.world.host.ip(&format!("link set up0 mtu {NARROW}"));
}

/// The wires inside take less than client and containers think.
fn narrow_the_wires_inside(bed: &Testbed) {
    if !bed.is_netpath() {
        for ifname in ["docker0", "veth1", "veth2"] {
            bed.world.host.ip(&format!("link set {ifname} mtu {NARROW}"));
        }
    }
    bed.app.inside.ip("link set eth0 mtu 1500");
}

fn reports_keep_the_next_hops_mtu(bed: &mut Testbed) -> Met {
    let sent = Packet::udp(bed.end(App, 5000), at(bed.server(), 7000), b"a question of some length");
    let seen = bed.out(App, &sent)?;
    for mtu in bed.family.pick([0_u16, 68, 1280, 65_535], [1280, 1281, 1499, 65_535]) {
        let [high, low] = mtu.to_be_bytes();
        let (kind, code) = bed.family.pick((3, 4), (2, 0));
        let report = Kind(kind, code, [0, 0, high, low]);
        let heard = bed.send(Server, &error(bed.router(), bed.host(), report, &seen.bytes())).one(App)?;
        quotes(&heard, report, bed.router(), bed.address(App), &sent, sent.bytes().len())?;
    }
    Ok(())
}

/// The report that a packet is larger than the narrow wire.
fn too_big(family: Family) -> Kind {
    let [high, low] = NARROW.to_be_bytes();
    family.pick(Kind(3, 4, [0, 0, high, low]), Kind(2, 0, [0, 0, high, low]))
}

fn large(src: std::net::SocketAddr, dst: std::net::SocketAddr) -> Packet {
    Packet { dont_fragment: true, ..Packet::udp(src, dst, &[b'x'; 1400]) }
}

fn too_large_from_a_container_is_reported(bed: &mut Testbed) -> Met {
    narrow_the_wire_outside(bed);
    let sent = large(bed.end(App, 5000), at(bed.server(), 7000));
    let heard = bed.send(App, &sent);
    heard.nothing(Server)?;
    let gateway = bed.world.gateway(bed.family);
    quotes(&heard.one(App)?, too_big(bed.family), gateway, bed.address(App), &sent, 100)
}

fn too_large_for_a_container_is_reported(bed: &mut Testbed) -> Met {
    narrow_the_wires_inside(bed);
    let sent = large(at(bed.server(), 7000), bed.host_end(DNS));
    let heard = bed.send(Server, &sent);
    heard.nothing(App)?;
    quotes(&heard.one(Server)?, too_big(bed.family), bed.host(), bed.server(), &sent, 100)
}

/// One direction, each byte compared.
fn transfer(from: &TcpStream, to: &TcpStream) -> Met {
    let transfer = Transfer::start(from, to);
    transfer.advance(TRANSFER);
    require(transfer.finish() >= TRANSFER, "fewer bytes than were sent")
}

fn transfers_out_find_the_path_mtu(bed: &mut Testbed) -> Met {
    narrow_the_wire_outside(bed);
    let listener = bed.world.client.listen_at(at(bed.family.any(), 7000));
    let client = bed.app.inside.connect(at(bed.server(), 7000));
    transfer(&client, &accept(&listener).0)
}

fn transfers_in_find_the_path_mtu(bed: &mut Testbed) -> Met {
    narrow_the_wires_inside(bed);
    let listener = bed.app.inside.listen_at(at(bed.family.any(), WEB_INSIDE));
    let client = bed.world.client.connect(bed.host_end(WEB));
    transfer(&client, &accept(&listener).0)
}
