//! TCP connection states of a masqueraded flow (RFC 6146, 3.5.2; RFC 5382; RFC 5961).
//!
//! Only SYN, FIN and a RST at the exact sequence number change a state. Nothing is ever dropped for its
//! sequence number: window tracking is the end hosts' work.

use netpath_common::{Flow, TcpFlags, seen};

use crate::fault::{self, Fault};
use crate::packet::Tcp;

/// Which way a packet goes, seen from the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the container.
    Orig,
    /// To the container.
    Reply,
}

/// Notes a TCP packet in its flow; false for a RST that its receiver will not believe.
///
/// Stores only what changes: the flow's cache line stays shared between the CPUs of both directions.
#[inline(always)]
pub fn note<A>(flow: &mut Flow<A>, direction: Direction, tcp: &Tcp) -> bool {
    if tcp.flags.has(TcpFlags::RST) {
        let believed = is_believed(flow, direction, tcp);
        if believed {
            flow.reset = 1;
        }
        return believed;
    }
    if direction == Direction::Reply && !is_in_window(flow, tcp) {
        return true;
    }
    // Data after a RST makes the connection what it was: the receiver challenged it (RFC 5961, 3.2).
    if flow.reset != 0 {
        flow.reset = 0;
    }
    let (sequence, noted) = match direction {
        Direction::Orig => (&mut flow.ack_orig, &mut flow.seen_orig),
        Direction::Reply => (&mut flow.end_reply, &mut flow.seen_reply),
    };
    let number = match direction {
        Direction::Orig if !tcp.flags.has(TcpFlags::ACK) => *sequence,
        Direction::Orig => tcp.ack,
        Direction::Reply => tcp.end,
    };
    if *sequence != number {
        *sequence = number;
    }
    let syn = if tcp.flags.has(TcpFlags::SYN) { seen::SYN } else { 0 };
    let fin = if tcp.flags.has(TcpFlags::FIN) { seen::FIN } else { 0 };
    let after = *noted | syn | fin;
    if *noted != after {
        *noted = after;
    }
    true
}

/// Whether a segment from outside can be one that the container would take: its end within the largest
/// usual window of what the container has acknowledged. Others pass, but teach the flow nothing.
#[inline(always)]
fn is_in_window<A>(flow: &Flow<A>, tcp: &Tcp) -> bool {
    const WINDOW: i32 = 1 << 24;
    let ahead = tcp.end.wrapping_sub(flow.ack_orig) as i32;
    flow.seen_reply & seen::SYN == 0 || (-WINDOW..=WINDOW).contains(&ahead)
}

/// RFC 5961, 3.2: a RST counts only at the next expected sequence number. A container may end its own
/// connections as it likes, and before both SYNs there is nothing to protect.
#[inline(always)]
fn is_believed<A>(flow: &Flow<A>, direction: Direction, tcp: &Tcp) -> bool {
    match direction {
        Direction::Orig => true,
        Direction::Reply if fault::is_active::<A>(Fault::ResetBelieved) => true,
        Direction::Reply => flow.seen_reply & seen::SYN == 0 || tcp.seq == flow.ack_orig || tcp.seq == flow.end_reply,
    }
}

#[cfg(test)]
mod tests {
    use Direction::{Orig, Reply};
    use netpath_common::{Addr4, CtState, TcpFlags as F, proto};
    use proptest::prelude::*;

    use super::*;

    fn packet(flags: u8, seq: u32, ack: u32) -> Tcp {
        Tcp {
            flags: TcpFlags(flags),
            seq,
            ack,
            end: seq.wrapping_add(u32::from(flags & (F::SYN | F::FIN) != 0)),
            header_len: 20,
        }
    }

    fn fresh() -> Flow<Addr4> {
        Flow {
            last_seen_s: 0,
            generation: 1,
            nat_addr: Addr4([0; 4]),
            ack_orig: 0,
            end_reply: 0,
            ring: 0,
            endpoint: 1,
            nat_port: 0,
            seen_orig: seen::SYN,
            seen_reply: 0,
            reset: 0,
            flags: 0,
        }
    }

    fn after(mut flow: Flow<Addr4>, direction: Direction, tcp: Tcp) -> Flow<Addr4> {
        note(&mut flow, direction, &tcp);
        flow
    }

    fn state(flow: &Flow<Addr4>) -> CtState {
        flow.state(proto::TCP)
    }

    fn established() -> Flow<Addr4> {
        after(after(fresh(), Reply, packet(F::SYN | F::ACK, 500, 101)), Orig, packet(F::ACK, 101, 501))
    }

    #[test]
    fn handshake_establishes() {
        assert_eq!(state(&fresh()), CtState::SynSent);
        assert_eq!(state(&established()), CtState::Established);
    }

    #[test]
    fn simultaneous_open_establishes() {
        assert_eq!(state(&after(fresh(), Reply, packet(F::SYN, 500, 0))), CtState::Established);
    }

    #[test]
    fn half_closed_stays_established_until_both_fins() {
        let half = after(established(), Orig, packet(F::FIN | F::ACK, 101, 501));
        assert_eq!(state(&half), CtState::Established);
        assert_eq!(state(&after(half, Reply, packet(F::FIN | F::ACK, 501, 102))), CtState::Closing);
    }

    #[test]
    fn a_guessed_rst_changes_nothing() {
        let before = established();
        for seq in [0, 500, 502, 100_000, u32::MAX] {
            assert!(!note(&mut { before }, Reply, &packet(F::RST, seq, 0)));
            assert_eq!(after(before, Reply, packet(F::RST, seq, 0)), before);
        }
    }

    #[test]
    fn rst_at_the_acknowledged_or_at_the_next_sequence_number_closes() {
        let mut data = packet(F::ACK, 501, 101);
        data.end = 1501;
        let unacknowledged = after(established(), Reply, data);
        assert_eq!(state(&after(unacknowledged, Reply, packet(F::RST, 501, 0))), CtState::Closing);
        assert_eq!(state(&after(unacknowledged, Reply, packet(F::RST, 1501, 0))), CtState::Closing);
    }

    #[test]
    fn data_after_a_rst_shows_that_nobody_believed_it() {
        let reset = after(established(), Orig, packet(F::RST, 101, 0));
        assert_eq!(state(&reset), CtState::Closing);
        assert_eq!(state(&after(reset, Reply, packet(F::ACK, 501, 101))), CtState::Established);
    }

    proptest! {
        #[test]
        fn nothing_but_syn_fin_and_rst_changes_the_state(seq: u32, ack: u32, orig: bool, flags in 0u8..=255) {
            let flags = flags & !(F::SYN | F::FIN | F::RST);
            let direction = if orig { Orig } else { Reply };
            prop_assert_eq!(state(&after(established(), direction, packet(flags, seq, ack))), CtState::Established);
        }
    }
}
