//! Flows and how long they live (RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2, RFC 5961 3.2).

use std::net::SocketAddr;

use crate::packet::{Body, End, Packet, Proto, Tcp};

/// How long a flow may be silent, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub udp_unreplied: u64,
    pub udp: u64,
    pub tcp: u64,
    /// Opening or closing.
    pub tcp_transitory: u64,
    pub icmp: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { udp_unreplied: 120, udp: 300, tcp: 7440, tcp_transitory: 240, icmp: 60 }
    }
}

/// Who sent a packet of a flow: the container that has it, or the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Inside,
    Outside,
}

/// A container's end, the other end, and what the container is called there.
#[derive(Clone, Debug)]
pub struct Flow {
    pub proto: Proto,
    pub inside: SocketAddr,
    pub outside: End,
    pub called: End,
    /// The container that `inside` is.
    pub container: usize,
    pub(crate) last_seen_s: u64,
    replied: bool,
    tcp: Connection,
}

#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    syn_inside: bool,
    syn_outside: bool,
    fin_inside: bool,
    fin_outside: bool,
    reset: bool,
    /// What the container has acknowledged.
    acknowledged: u32,
    /// Where what the other end sent ends.
    end_outside: u32,
}

impl Flow {
    pub(crate) fn new(proto: Proto, inside: SocketAddr, outside: End, called: End, container: usize) -> Self {
        Self { proto, inside, outside, called, container, last_seen_s: 0, replied: false, tcp: Connection::default() }
    }

    pub(crate) fn timeout_s(&self, timeouts: &Timeouts) -> u64 {
        match self.proto {
            Proto::Icmp => timeouts.icmp,
            Proto::Udp if self.replied => timeouts.udp,
            Proto::Udp => timeouts.udp_unreplied,
            Proto::Tcp if self.is_established() => timeouts.tcp,
            Proto::Tcp => timeouts.tcp_transitory,
        }
    }

    /// Both sides have said SYN, and it is not over.
    pub fn is_established(&self) -> bool {
        self.proto == Proto::Tcp && self.tcp.syn_inside && self.tcp.syn_outside && !self.is_closing()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.tcp.reset || (self.tcp.fin_inside && self.tcp.fin_outside)
    }

    /// Notes the packet of a flow that nobody has begun so far.
    pub(crate) fn begin(&mut self, packet: &Packet, side: Side, now_s: u64) {
        if let Body::Tcp(tcp) = &packet.body {
            self.tcp.acknowledged = tcp.ack;
        }
        self.see(packet, side, now_s);
    }

    /// Notes a packet: it keeps the flow alive, unless it is a reset that its receiver will not believe.
    pub(crate) fn see(&mut self, packet: &Packet, side: Side, now_s: u64) {
        let is_later = packet.is_later_fragment();
        if let (Body::Tcp(tcp), false) = (&packet.body, is_later) {
            if tcp.has(Tcp::RST) && !self.believes(tcp, side) {
                return;
            }
            self.see_segment(tcp, side);
        }
        self.replied |= side == Side::Outside;
        self.last_seen_s = now_s;
    }

    fn believes(&self, tcp: &Tcp, side: Side) -> bool {
        let state = &self.tcp;
        side == Side::Inside || !state.syn_outside || tcp.seq == state.acknowledged || tcp.seq == state.end_outside
    }

    fn see_segment(&mut self, tcp: &Tcp, side: Side) {
        /// The largest window there is: 2^30 (RFC 7323), of which 2^24 is what anybody uses.
        const WINDOW: u32 = 1 << 24;
        let state = &mut self.tcp;
        if tcp.has(Tcp::RST) {
            state.reset = true;
            return;
        }
        let distance = tcp.end().wrapping_sub(state.acknowledged);
        let is_near = distance <= WINDOW || distance.wrapping_neg() <= WINDOW;
        if side == Side::Outside && state.syn_outside && !is_near {
            return;
        }
        state.reset = false;
        let (syn, fin) = (tcp.has(Tcp::SYN), tcp.has(Tcp::FIN));
        match side {
            Side::Inside => {
                state.syn_inside |= syn;
                state.fin_inside |= fin;
                if tcp.has(Tcp::ACK) {
                    state.acknowledged = tcp.ack;
                }
            }
            Side::Outside => {
                state.syn_outside |= syn;
                state.fin_outside |= fin;
                state.end_outside = tcp.end();
            }
        }
    }
}
