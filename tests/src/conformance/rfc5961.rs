//! RFC 5961: who sends into a connection without seeing it must not end it, and the answers of ends that defend
//! themselves must pass.

use netpath_tests::packets::{ACK, PSH, Packet, RST, SYN, Segment};
use netpath_tests::sockets::at;

use super::clock;
use super::connection::Connection;
use super::record::Met;
use super::testbed::{Station, Testbed, require};
use Station::{App, Server};

rows! {
    6, "RFC 5961: blind attacks on TCP";

    section_3_an_exact_rst_passes(Both): "section 3", Must, netfilter Met, netpath Met;
        "A RST at the expected sequence number reaches the container, and the server";
    section_3_a_rst_in_the_window_is_challenged(Both): "section 3", Must, netfilter Unmet, netpath Met;
        "A RST elsewhere in the window reaches the container, its challenge passes, and the connection lives on for an hour of silence";
    section_3_a_guessed_rst_changes_nothing(Both): "section 3", Must, netfilter Unmet, netpath Met;
        "A RST out of the window does not shorten the connection's life";
    section_4_a_guessed_syn_changes_nothing(Both): "section 4", Must, netfilter Met, netpath Met;
        "A SYN from outside into an open connection does not end it";
    section_4_a_client_that_lost_its_state_reconnects(Both): "section 4", Must, netfilter Met, netpath Met;
        "A client that restarts with the same port gets the challenge, resets, and connects anew";
    section_5_data_with_a_guessed_acknowledgement_is_rejected(Both): "section 5", Nice, netfilter Met, netpath Unmet;
        "Data that acknowledges what was never sent does not reach the container";
    out_of_window_data_is_not_answered_by_the_translator(Both): "section 5", Must, netfilter Unmet, netpath Met;
        "Data out of the window is not answered with a RST by the translator itself";
}

const HOUR: u32 = 3600;

fn open(bed: &mut Testbed) -> Result<Connection, String> {
    let server = at(bed.server(), 7000);
    let mut connection = Connection::open(bed, App, 5000, server)?;
    connection.talk(bed)?;
    Ok(connection)
}

fn section_3_an_exact_rst_passes(bed: &mut Testbed) -> Met {
    let connection = open(bed)?;
    connection.back(bed, &Segment::new(RST, connection.ack, 0), b"")?;
    let server = at(bed.server(), 7001);
    let connection = Connection::open(bed, App, 5001, server)?;
    connection.out(bed, &Segment::new(RST | ACK, connection.seq, connection.ack), b"").map(drop)
}

fn section_3_a_rst_in_the_window_is_challenged(bed: &mut Testbed) -> Met {
    let mut connection = open(bed)?;
    connection.back(bed, &Segment::new(RST, connection.ack + 100, 0), b"")?;
    connection.out(bed, &Segment::new(ACK, connection.seq, connection.ack), b"")?;
    clock::advance(&bed.world, HOUR);
    connection.hear(bed, ACK | PSH, b"still here").map_err(|_| "the connection is gone an hour later".to_owned())?;
    connection.talk(bed)
}

fn section_3_a_guessed_rst_changes_nothing(bed: &mut Testbed) -> Met {
    let mut connection = open(bed)?;
    for distance in [1 << 20, 1 << 30, 1 << 31] {
        let guess = Segment::new(RST, connection.ack.wrapping_add(distance), 0);
        bed.send(Server, &Packet::tcp(connection.remote, connection.outside, &guess, b""));
    }
    clock::advance(&bed.world, HOUR);
    connection.hear(bed, ACK | PSH, b"still here")?;
    connection.talk(bed)
}

fn section_4_a_guessed_syn_changes_nothing(bed: &mut Testbed) -> Met {
    let mut connection = open(bed)?;
    for seq in [connection.ack + 1000, 7, 1 << 31] {
        let guess = Packet::tcp(connection.remote, connection.outside, &Segment::new(SYN, seq, 0), b"");
        if bed.send(Server, &guess).one(App).is_ok() {
            // The container's challenge.
            connection.out(bed, &Segment::new(ACK, connection.seq, connection.ack), b"")?;
        }
    }
    clock::advance(&bed.world, HOUR);
    connection.talk(bed)
}

fn section_4_a_client_that_lost_its_state_reconnects(bed: &mut Testbed) -> Met {
    let connection = open(bed)?;
    let (fresh, old) = (777_777, &connection);
    old.out(bed, &Segment::new(SYN, fresh, 0), b"")?;
    old.back(bed, &Segment::new(ACK, old.ack, old.seq), b"")?;
    old.out(bed, &Segment::new(RST, old.seq, 0), b"")?;
    old.out(bed, &Segment::new(SYN, fresh, 0), b"")?;
    let mut again = Connection { seq: fresh + 1, ack: 555_555, ..connection };
    again.accept(bed)?;
    again.talk(bed)
}

fn section_5_data_with_a_guessed_acknowledgement_is_rejected(bed: &mut Testbed) -> Met {
    let connection = open(bed)?;
    let guess = Segment::new(ACK | PSH, connection.ack, connection.seq.wrapping_add(1 << 31));
    bed.send(Server, &Packet::tcp(connection.remote, connection.outside, &guess, b"injected")).nothing(App)
}

fn out_of_window_data_is_not_answered_by_the_translator(bed: &mut Testbed) -> Met {
    let connection = open(bed)?;
    let far = Segment::new(ACK | PSH, connection.ack.wrapping_add(1 << 30), connection.seq);
    let heard = bed.send(Server, &Packet::tcp(connection.remote, connection.outside, &far, b"far off"));
    let is_reset = heard.at(Server).iter().filter_map(Packet::segment).any(|segment| segment.flags & RST != 0);
    require(!is_reset, "the host resets the server's connection")
}
