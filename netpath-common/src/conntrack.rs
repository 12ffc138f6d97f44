//! Flows that need state: masquerade, published ports with more than one name, containers under their own
//! names.

use crate::{Address, family_type, map_type};

/// Where a flow stands. Decides its time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CtState {
    /// UDP or ICMP without a reply so far.
    Unreplied = 1,
    /// UDP or ICMP, replied to.
    Assured = 2,
    /// TCP with a SYN from one side only.
    SynSent = 3,
    /// TCP after SYNs from both sides.
    Established = 4,
    /// TCP after FINs from both sides or a valid RST.
    Closing = 5,
}

impl CtState {
    /// The name the CLI shows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreplied => "UNREPLIED",
            Self::Assured => "ASSURED",
            Self::SynSent => "SYN_SENT",
            Self::Established => "ESTABLISHED",
            Self::Closing => "CLOSING",
        }
    }
}

/// TCP flags of a packet, as in byte 13 of the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;

    #[inline(always)]
    pub const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// A SYN without ACK and RST: the only packet that begins a connection.
    #[inline(always)]
    pub const fn is_opening(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// Bits of [`Flow::seen_orig`] and [`Flow::seen_reply`].
pub mod seen {
    /// A packet that is not TCP.
    pub const PACKET: u8 = 1;
    pub const SYN: u8 = 2;
    pub const FIN: u8 = 4;
}

/// Bits of [`Flow::flags`]. They never change.
pub mod flow_flag {
    /// Others use the host port too, so the flow has an entry in `REPLIES_*`.
    pub const SHARED: u8 = 1;
    /// The container's name in the flow is one of its published ports or its own address: no mapping belongs
    /// to the flow.
    pub const NAMED: u8 = 2;
}

/// One flow, both directions. Value of `FLOWS_*` under the tuple of its first packet as the container
/// knows it; written by eBPF, listed, swept and deleted by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow<A> {
    /// When the last packet passed, in [`crate::seconds`].
    pub last_seen_s: u32,
    /// The endpoint's generation; the flow is dead when it differs.
    pub generation: u32,
    /// The host's address in this flow.
    pub nat_addr: A,
    /// TCP: the last acknowledgement number from the container. A RST from the remote side is believed
    /// at this sequence number or at `end_reply` only (RFC 5961, 3.2).
    pub ack_orig: u32,
    /// TCP: the sequence number after the last data from the remote side.
    pub end_reply: u32,
    /// Position in `FLOW_RING_*`, where collection finds the flow.
    pub ring: u32,
    /// Index into `ENDPOINTS`.
    pub endpoint: u16,
    /// The host's port in this flow, host byte order.
    pub nat_port: u16,
    /// Bits of [`seen`]: what came from the container. A byte for each writer: the directions may run on
    /// two CPUs at once, and neither must undo what the other has noted.
    pub seen_orig: u8,
    /// The same from the remote side.
    pub seen_reply: u8,
    /// Not 0: the last TCP packet of either side was a RST that its receiver believes.
    pub reset: u8,
    /// Bits of [`flow_flag`].
    pub flags: u8,
}

impl<A> Flow<A> {
    /// Where a flow of this protocol stands.
    #[inline(always)]
    pub const fn state(&self, protocol: u8) -> CtState {
        if protocol != crate::proto::TCP {
            return if self.seen_reply == 0 { CtState::Unreplied } else { CtState::Assured };
        }
        let both = self.seen_orig & self.seen_reply;
        if self.reset != 0 || both & seen::FIN != 0 {
            CtState::Closing
        } else if both & seen::SYN != 0 {
            CtState::Established
        } else {
            CtState::SynSent
        }
    }
}

/// A host address and port that masquerade uses. Key of `MAPPINGS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct MappingKey<A> {
    pub addr: A,
    /// Host byte order.
    pub port: u16,
    pub proto: u8,
    _pad: u8,
}

/// Who a masquerade port belongs to: the inside address and port that every flow through it has
/// (endpoint-independent mapping, RFC 4787 REQ-1). Value of `MAPPINGS_*`; written by eBPF, swept by
/// the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mapping<A> {
    /// After this moment, in [`crate::seconds`], no flow of the mapping can be alive.
    pub deadline_s: u32,
    pub addr: A,
    /// The endpoint's generation; the mapping is dead when it differs.
    pub generation: u32,
    /// Index into `ENDPOINTS`.
    pub endpoint: u32,
    /// A hash of the first destination, to tell the only flow's next connection from another flow.
    pub destination: u32,
    /// Inside port, host byte order.
    pub port: u16,
    /// Not 0: another inside address uses the port too, towards other destinations; replies are looked
    /// up in `REPLIES_*` first.
    pub shared: u8,
    /// Not 0: it had flows to more than one destination.
    pub many: u8,
    /// Not 0: its only flow is closing. When ports run out, the port may be taken before the deadline.
    pub closed: u8,
    pub _pad: [u8; 3],
}

/// How far down their candidates inside addresses and ports with the same hash have come. Element of the array `REACHES`;
/// written and read by eBPF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Reach {
    /// Byte `i`, if not 0: one of them may have a mapping among its candidates from number 2^i to 2^(i+1) - 1. Never
    /// cleared, so that CPUs do not undo each other's stores; the first candidate, number 0, is always looked at.
    pub groups: [u8; 8],
}

map_type!(Reach = 8);

/// The inside end of a flow whose host port is shared. Value of `REPLIES_*` under the tuple of the
/// flow's replies as they arrive from outside; written by eBPF, swept by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Inside<A> {
    pub addr: A,
    /// Host byte order.
    pub port: u16,
    pub _pad: u16,
}

family_type!(Flow = 32, 44; MappingKey = 8, 20; Mapping = 28, 40; Inside = 8, 20);

impl<A: Address> MappingKey<A> {
    #[inline(always)]
    pub const fn new(addr: A, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, _pad: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_syn_opens_a_connection() {
        let opening: Vec<u8> = (0..64).filter(|f| TcpFlags(*f).is_opening()).collect();
        assert!(opening.iter().all(|f| f & 0x17 == TcpFlags::SYN));
        assert!(TcpFlags(TcpFlags::SYN).is_opening());
    }
}
