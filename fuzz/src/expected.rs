//! What a frame must look like after a program has carried out a decision, written without the code that rewrites.
//!
//! Bytes are compared one by one, checksums by what they are for: the sum over what they cover does not change, so one
//! that was right stays right and one that was wrong stays wrong.

use netpath_common::{Address as _, Endpoint, Tuple, proto};
use netpath_ebpf::decision::Out;
use netpath_ebpf::packet::{Kind, Packet};

use crate::hooks::{Done, L3_OFF};
use crate::place::Ground;

/// What a program says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    Drop,
    Redirect,
}

/// What must come out of a program.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) verdict: Verdict,
    /// The frame, if it is not dropped; checksums as they were.
    pub(crate) frame: Vec<u8>,
    sums: Vec<Sum>,
}

/// A checksum: where it lies, and what its sum is over.
#[derive(Clone, Debug)]
struct Sum {
    at: usize,
    covered: std::ops::Range<usize>,
    /// Where the addresses of the pseudo header lie, if there is one.
    pseudo: Option<std::ops::Range<usize>>,
    /// 0 stands for none, so that a sum of 0 is sent as 0xffff (RFC 768).
    zero_is_none: bool,
}

impl Expected {
    pub(crate) fn dropped() -> Self {
        Self { verdict: Verdict::Drop, frame: Vec::new(), sums: Vec::new() }
    }

    pub(crate) fn passed(sent: &[u8]) -> Self {
        Self { verdict: Verdict::Pass, frame: sent.to_vec(), sums: Vec::new() }
    }

    /// After tc has done with `sent` what was decided. `endpoint` gives an endpoint.
    pub(crate) fn of<'a, F: Ground>(sent: &[u8], done: &Done<F>, endpoint: impl Fn(u32) -> &'a Endpoint) -> Self {
        let (packet, tuple, out) = match done {
            Done::Passed => return Self::passed(sent),
            Done::Carried(packet, decision) => (packet, decision.tuple, decision.out),
            Done::Error(packet, _, translation) => {
                let (src_addr, dst_addr) = (translation.src_addr, translation.dst_addr);
                (packet, Tuple::new(src_addr, 0, dst_addr, 0, packet.tuple.proto), translation.out)
            }
        };
        let mut expected = Self::passed(sent);
        if out != Out::Kernel {
            expected.verdict = Verdict::Redirect;
        }
        match done {
            Done::Error(_, inner, translation) => {
                expected.set_addrs::<F>(L3_OFF, &tuple);
                expected.quote(packet, inner, &translation.inner);
            }
            _ if tuple.proto == proto::SCTP && !has_same_ports(&tuple, &packet.tuple) && packet.kind == Kind::Sctp => {
                // Its checksum covers the ports, and nobody computes it anew.
                return Self::dropped();
            }
            _ => expected.translate(packet, &tuple),
        }
        let ttl_at = L3_OFF + if F::HEADER_LEN == 20 { 8 } else { 7 };
        let ttl = packet.l3.ttl;
        expected.frame[ttl_at] = match out {
            Out::Kernel | Out::Sibling(_) => ttl,
            Out::Container(_) | Out::External { .. } => ttl - 1,
            Out::Across(_) => ttl.saturating_sub(1).max(1),
        };
        if let Out::Across(index) = out {
            expected.set_macs(endpoint(index));
        }
        expected
    }

    pub(crate) fn set_macs(&mut self, endpoint: &Endpoint) {
        self.frame[..6].copy_from_slice(&endpoint.mac);
        self.frame[6..12].copy_from_slice(&endpoint.gateway_mac);
    }

    fn set_addrs<F: Ground>(&mut self, l3_off: usize, tuple: &Tuple<F::Addr>) {
        for (off, addr) in [(F::SRC_OFF, tuple.src_addr), (F::DST_OFF, tuple.dst_addr)] {
            let at = l3_off + off;
            match addr.to_ip() {
                std::net::IpAddr::V4(addr) => self.frame[at..at + 4].copy_from_slice(&addr.octets()),
                std::net::IpAddr::V6(addr) => self.frame[at..at + 16].copy_from_slice(&addr.octets()),
            }
        }
        if F::HEADER_LEN == 20 {
            let len = usize::from(self.frame[l3_off] & 15) * 4;
            self.add_sum(l3_off + 10, l3_off..l3_off + len, None, false);
        }
    }

    fn translate<F: Ground>(&mut self, packet: &Packet<F>, tuple: &Tuple<F::Addr>) {
        self.set_addrs::<F>(L3_OFF, tuple);
        let (l4_off, end) = (packet.l3.l4_off, L3_OFF + packet.l3.len as usize);
        if matches!(packet.kind, Kind::Other | Kind::LaterFragment | Kind::Sctp | Kind::IcmpError) {
            assert!(has_same_ports(tuple, &packet.tuple) || packet.kind == Kind::LaterFragment);
            return;
        }
        self.set_ports::<F>(l4_off, packet.l3.proto, &packet.tuple, tuple);
        self.add_transport_sum::<F>(L3_OFF, l4_off, packet.l3.proto, end);
    }

    fn set_ports<F: Ground>(&mut self, l4_off: usize, protocol: u8, was: &Tuple<F::Addr>, is: &Tuple<F::Addr>) {
        let (src_off, dst_off) = if protocol == F::ICMP { (4, 4) } else { (0, 2) };
        for (off, was, is) in [(src_off, was.src_port, is.src_port), (dst_off, was.dst_port, is.dst_port)] {
            if was != is {
                self.frame[l4_off + off..l4_off + off + 2].copy_from_slice(&is.to_be_bytes());
            }
        }
    }

    fn add_transport_sum<F: Ground>(&mut self, l3_off: usize, l4_off: usize, protocol: u8, end: usize) {
        let at = l4_off
            + match protocol {
                proto::TCP => 16,
                proto::UDP => 6,
                proto::SCTP => return,
                _ => 2,
            };
        if at + 2 > end {
            return;
        }
        let len = F::Addr::LEN;
        let has_pseudo_header = protocol != F::ICMP || F::HEADER_LEN == 40;
        let pseudo = has_pseudo_header.then_some(l3_off + F::SRC_OFF..l3_off + F::SRC_OFF + 2 * len);
        self.add_sum(at, l4_off..end, pseudo, protocol == proto::UDP);
    }

    /// The packet that an ICMP error quotes, and the error's own checksum over it.
    fn quote<F: Ground>(&mut self, packet: &Packet<F>, inner: &netpath_ebpf::icmp::Inner<F>, tuple: &Tuple<F::Addr>) {
        let (quoted_off, end) = (packet.l3.l4_off + 8, L3_OFF + packet.l3.len as usize);
        self.set_addrs::<F>(quoted_off, tuple);
        self.set_ports::<F>(inner.l3.l4_off, inner.l3.proto, &inner.tuple, tuple);
        self.add_transport_sum::<F>(quoted_off, inner.l3.l4_off, inner.l3.proto, end);
        self.add_transport_sum::<F>(L3_OFF, packet.l3.l4_off, F::ICMP, end);
    }

    fn add_sum(
        &mut self,
        at: usize,
        covered: std::ops::Range<usize>,
        pseudo: Option<std::ops::Range<usize>>,
        zero_is_none: bool,
    ) {
        let covered = covered.start..covered.end.min(self.frame.len());
        self.sums.push(Sum { at, covered, pseudo, zero_is_none });
    }

    /// Says what is wrong with what came out.
    pub(crate) fn differs(&self, sent: &[u8], verdict: Verdict, frame: &[u8]) -> Option<String> {
        if self.verdict != verdict {
            return Some(format!("verdict {verdict:?}, expected {:?}", self.verdict));
        }
        // What is dropped may have been made something else of: held fragments, or an answer.
        if verdict == Verdict::Drop {
            return None;
        }
        if frame.len() != sent.len() {
            return Some(format!("{} bytes became {}", sent.len(), frame.len()));
        }
        let is_sum = |at: usize| self.sums.iter().any(|sum| (sum.at..sum.at + 2).contains(&at));
        let wrong = (0..frame.len()).find(|at| !is_sum(*at) && frame[*at] != self.frame[*at]);
        if let Some(at) = wrong {
            return Some(format!("byte {at} is {:#04x}, expected {:#04x}", frame[at], self.frame[at]));
        }
        self.sums.iter().find_map(|sum| sum.differs(sent, frame))
    }
}

impl Sum {
    fn differs(&self, before: &[u8], after: &[u8]) -> Option<String> {
        let field = |frame: &[u8]| u16::from_be_bytes([frame[self.at], frame[self.at + 1]]);
        if self.zero_is_none && (field(before) == 0 || field(after) == 0) {
            let is_kept = field(before) == field(after);
            return (!is_kept).then(|| format!("UDP checksum {:#06x} became {:#06x}", field(before), field(after)));
        }
        let (was, is) = (self.residue(before), self.residue(after));
        (was != is).then(|| format!("the sum that the checksum at {} is of became {is:#06x}, was {was:#06x}", self.at))
    }

    /// The one's complement sum over what is covered and the addresses, as a number below 0xffff.
    fn residue(&self, frame: &[u8]) -> u64 {
        let sum = |bytes: &[u8]| -> u64 {
            let word = |word: &[u8]| u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
            bytes.chunks(2).map(word).sum()
        };
        let pseudo = self.pseudo.clone().map_or(0, |range| sum(&frame[range]));
        (sum(&frame[self.covered.clone()]) + pseudo) % 0xffff
    }
}

fn has_same_ports<A>(a: &Tuple<A>, b: &Tuple<A>) -> bool {
    (a.src_port, a.dst_port) == (b.src_port, b.dst_port)
}
