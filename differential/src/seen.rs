//! Frames that came out, taken apart as far as comparing needs it.

use std::net::IpAddr;

use netpath_model::Place;
use netpath_tests::packets::{self, Packet};

/// A frame that came out.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Place,
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    /// From the network header on.
    pub packet: Vec<u8>,
}

impl Seen {
    /// None: no IP, or multicast's own signalling, or the stack gives up a datagram of which it has waited for a piece
    /// since an earlier case.
    pub fn parse(at: Place, frame: &[u8]) -> Option<Self> {
        const IGMP: u8 = 2;
        let (macs, packet) = (frame.get(..12)?, frame.get(14..)?);
        let is_of_interest = match frame[12..14] {
            [0x08, 0x00] => *packet.get(9)? != IGMP && !gives_up(packet[9], packet.get(20..22)),
            [0x86, 0xdd] => !gives_up(*packet.get(6)?, packet.get(40..42)),
            _ => false,
        };
        let mac = |at: usize| <[u8; 6]>::try_from(&macs[at..at + 6]).ok();
        let (dst_mac, src_mac) = (mac(0)?, mac(6)?);
        is_of_interest.then(|| Self { at, dst_mac, src_mac, packet: packet.to_vec() })
    }

    pub fn is_v6(&self) -> bool {
        self.packet.first().is_some_and(|byte| byte >> 4 == 6)
    }

    /// The packet without what lies behind its length.
    pub fn trimmed(&self) -> &[u8] {
        let (at, header) = if self.is_v6() { (4, 40) } else { (2, 0) };
        let half = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let length = self.packet.get(at..at + 2).map_or(0, half);
        self.packet.get(..header + length).unwrap_or(&self.packet)
    }

    /// What it says, if its headers fit.
    pub fn parsed(&self) -> Option<Packet> {
        Packet::parse(&self.packet)
    }

    pub fn source(&self) -> Option<IpAddr> {
        if self.is_v6() {
            return Some(<[u8; 16]>::try_from(self.packet.get(8..24)?).ok()?.into());
        }
        Some(<[u8; 4]>::try_from(self.packet.get(12..16)?).ok()?.into())
    }
}

/// Fragment reassembly time exceeded (RFC 792; RFC 4443, 3.3).
fn gives_up(proto: u8, kind: Option<&[u8]>) -> bool {
    matches!((proto, kind), (packets::ICMP, Some([11, 1])) | (packets::ICMPV6, Some([3, 1])))
}
