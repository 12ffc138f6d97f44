//! Which host ports a masqueraded flow may get, in which order.

use netpath_common::{Address, Config, PortRange, proto};

use crate::fault::{self, Fault};
use crate::hash::Hash;

/// How many candidates are looked at before a port is shared (RFC 7857, 3: towards other destinations).
pub const CANDIDATES: u32 = 32;

/// The last candidates, from here on, lie in the part of the range that is kept for modest containers.
pub const FIRST_KEPT: u32 = 24;
/// A container with fewer flows than this is modest: it may have ports that are kept from others.
pub const MODEST_FLOWS: u32 = 64;
/// The part that is kept: one in this many.
const KEPT_PART: u32 = 8;

/// 2^32 / golden ratio.
const GOLDEN_SECTION: u32 = 0x9e37_79b9;

/// Buckets of inside addresses and ports, by their hash: a power of two.
pub const BUCKETS_OF_INSIDE: u32 = 1 << 16;

/// The ports that one inside address and port may be mapped to: always the same ones in the same order,
/// so that a search finds the mapping that exists (endpoint-independent mapping, RFC 4787 REQ-1).
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    range: PortRange,
    /// The end of `range`, which modest containers have for themselves.
    kept: PortRange,
    inside_port: u16,
    start: u32,
    stride: u32,
}

impl Candidates {
    #[inline(always)]
    pub fn new<A: Address>(config: &Config, inside: &A, inside_port: u16, protocol: u8, is_query: bool) -> Self {
        // The class of privileged ports is kept (RFC 4787 REQ-3a). Identifiers of queries have none.
        let range = if is_query {
            PortRange { first: 1, last: u16::MAX }
        } else if protocol == proto::SCTP {
            // Its checksum covers the whole packet, so the port stays what it is.
            PortRange { first: inside_port, last: inside_port }
        } else if inside_port < 1024 && !fault::is_active::<A>(Fault::PortClassIgnored) {
            config.privileged_ports
        } else {
            config.ports
        };
        let kept_len = if is_query || protocol == proto::SCTP { 0 } else { (range.len() / KEPT_PART) as u16 };
        let (range, kept) = if kept_len == 0 {
            (range, range)
        } else {
            let last = range.last - kept_len;
            (PortRange { first: range.first, last }, PortRange { first: last + 1, last: range.last })
        };
        let hash =
            Hash::new(config.hash_key).addr(inside).word((u32::from(inside_port) << 8) | u32::from(protocol)).finish();
        // About the golden section of the range (Knuth, The Art of Computer Programming 3, 6.4): each candidate falls into
        // one of the largest gaps that those before it have left. Any other stride may be near a fraction of the range, and
        // stay in a part that is full.
        Self { range, kept, inside_port, start: hash as u32, stride: GOLDEN_SECTION + (hash >> 40) as u32 }
    }

    /// Whether a part of the range is kept.
    #[inline(always)]
    pub const fn has_kept(&self) -> bool {
        self.kept.first != self.range.first
    }

    /// The bucket that the inside address and port are in.
    #[inline(always)]
    pub const fn bucket(&self) -> u32 {
        self.start / (1 << (32 - BUCKETS_OF_INSIDE.trailing_zeros()))
    }

    /// Candidate number `i`: first the inside port itself where the range has it, then hashed ones.
    #[inline(always)]
    pub fn get(&self, i: u32) -> u16 {
        if i == 0 && self.range.contains(self.inside_port) {
            return self.inside_port;
        }
        let range = if i < FIRST_KEPT { &self.range } else { &self.kept };
        let position = self.start.wrapping_add(i.wrapping_mul(self.stride));
        // Multiply and shift instead of a remainder: no division on the path.
        let offset = (u64::from(position) * u64::from(range.len())) >> 32;
        range.first.wrapping_add(offset as u16)
    }
}

#[cfg(test)]
mod tests {
    use netpath_common::{Addr4, External, Timeouts};
    use proptest::prelude::*;

    use super::*;

    fn config(first: u16, last: u16) -> Config {
        Config {
            layout: 0,
            hash_key: 0x1234_5678_9abc_def0,
            netns_cookie: 0,
            flags: 0,
            max_flows: 0,
            timeouts: Timeouts::default(),
            ports: PortRange { first, last },
            privileged_ports: PortRange { first: 600, last: 1023 },
            primary_ifindex: 0,
            primary: External::default(),
        }
    }

    fn candidates(config: &Config, port: u16) -> Vec<u16> {
        let candidates = Candidates::new(config, &Addr4([172, 17, 0, 2]), port, 6, false);
        (0..CANDIDATES).map(|i| candidates.get(i)).collect()
    }

    proptest! {
        #[test]
        fn candidates_lie_in_their_range_and_keep_the_class(first in 1024u16..60000, len in 0u16..5000, port in 1u16..) {
            let config = config(first, first + len);
            for candidate in candidates(&config, port) {
                if port < 1024 {
                    prop_assert!((600..=1023).contains(&candidate));
                } else {
                    prop_assert!((first..=first + len).contains(&candidate));
                }
            }
        }
    }

    #[test]
    fn source_port_inside_the_range_is_kept() {
        assert_eq!(candidates(&config(1024, 32767), 5353)[0], 5353);
        assert_ne!(candidates(&config(1024, 32767), 40000)[0], 40000);
    }

    #[test]
    fn candidates_are_the_same_every_time_and_differ_between_inside_ports() {
        let config = config(1024, 32767);
        assert_eq!(candidates(&config, 40000), candidates(&config, 40000));
        assert_ne!(candidates(&config, 40000), candidates(&config, 40001));
    }

    #[test]
    fn many_different_ports_are_tried() {
        let config = config(1024, 32767);
        for port in 1..=u16::MAX {
            let mut tried = candidates(&config, port);
            tried.sort_unstable();
            tried.dedup();
            assert!(tried.len() >= 24, "port {port}: only {} different candidates", tried.len());
        }
    }

    #[test]
    fn a_quarter_of_the_range_that_is_in_use_leaves_others_to_everybody() {
        let config = config(1024, 32767);
        for port in 32768..=u16::MAX {
            for quarter in 0..4 {
                let in_use = |candidate: &u16| (*candidate - 1024) / 7936 == quarter;
                let free = candidates(&config, port)[..24].iter().filter(|candidate| !in_use(candidate)).count();
                assert!(free >= 12, "port {port}: {free} candidates outside quarter {quarter}");
            }
        }
    }

    #[test]
    fn ports_are_spread_over_the_whole_range_but_for_the_kept_part() {
        let config = config(10000, 17999);
        let mut eighths = [[0u32; 8]; 2];
        for port in 32768..60000 {
            let candidates = candidates(&config, port);
            for (eighths, candidate) in eighths.iter_mut().zip([candidates[0], candidates[FIRST_KEPT as usize]]) {
                eighths[usize::from((candidate - 10000) / 1000)] += 1;
            }
        }
        let [usual, kept] = eighths;
        assert!(usual[..7].iter().all(|n| (3500..4300).contains(n)) && usual[7] == 0, "{usual:?}");
        assert!(kept[..7].iter().all(|n| *n == 0), "{kept:?}");
    }
}
