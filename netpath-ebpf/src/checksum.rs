//! Incremental Internet checksums (RFC 1624).
//!
//! Words are taken as they lie in memory. The one's complement sum commutes with a byte swap (RFC 1071,
//! 2 (B)), so nothing has to be converted as long as checksum and words share their byte order.

/// The difference between two sets of bytes, to be added to a checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u32);

impl Delta {
    pub const ZERO: Self = Self(0);

    /// The difference of replacing 16-bit words that sum up to `old` by words that sum up to `new`;
    /// `words` is how many there are, at most 16.
    #[inline(always)]
    pub const fn of_sums(old: u32, new: u32, words: u32) -> Self {
        // The complement of each word, summed: 0xffff - w.
        Self(new + words * 0xffff - old)
    }

    #[inline(always)]
    pub const fn of_word(old: u16, new: u16) -> Self {
        Self::of_sums(old as u32, new as u32, 1)
    }

    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(fold(self.0) as u32 + fold(other.0) as u32)
    }

    /// The difference as `bpf_l4_csum_replace` takes it.
    #[inline(always)]
    pub const fn value(self) -> u32 {
        fold(self.0) as u32
    }

    /// The checksum field that follows `check` (RFC 1624, equation 3).
    #[inline(always)]
    pub const fn apply(self, check: u16) -> u16 {
        !fold((!check) as u32 + fold(self.0) as u32)
    }
}

/// Whether `check` is no checksum yet: the sum of the pseudo header alone, which the sender's kernel leaves to hardware
/// that a veth does not have (CHECKSUM_PARTIAL). One in 65,536 true checksums looks the same.
///
/// `addrs` is the sum of both addresses' 16-bit words; `len` that of the transport header and its data, in bytes.
#[inline(always)]
pub const fn is_partial(check: u16, addrs: u32, proto: u8, len: u16) -> bool {
    check == fold(addrs + (proto as u16).to_be() as u32 + len.to_be() as u32)
}

/// The checksum field over 16-bit words that sum up to `sum`.
#[inline(always)]
pub const fn check_of(sum: u32) -> u16 {
    !fold(sum)
}

#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The checksum of `data`, from scratch (RFC 1071).
    fn slow(data: &[u8]) -> u16 {
        let mut sum: u64 = data.chunks(2).map(|w| u64::from(u16::from_ne_bytes([w[0], *w.get(1).unwrap_or(&0)]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn incremental_equals_from_scratch(
            mut data in proptest::collection::vec(any::<u8>(), 40),
            word in 0usize..20,
            new: [u8; 2],
        ) {
            // All-zero data has two representations of its sum, which the Internet never sees.
            data[0] |= 1;
            prop_assume!(word != 0);
            let before = slow(&data);
            let old = [data[2 * word], data[2 * word + 1]];
            data[2 * word..2 * word + 2].copy_from_slice(&new);
            let delta = Delta::of_word(u16::from_ne_bytes(old), u16::from_ne_bytes(new));
            prop_assert_eq!(delta.apply(before), slow(&data));
        }

        #[test]
        fn a_sum_over_the_pseudo_header_alone_is_partial(src: [u8; 4], dst: [u8; 4], proto: u8, len: u16) {
            let [high, low] = len.to_be_bytes();
            let pseudo = [src.as_slice(), &dst, &[0, proto, high, low]].concat();
            let word = |i: usize| u32::from(u16::from_ne_bytes([pseudo[2 * i], pseudo[2 * i + 1]]));
            let addrs = word(0) + word(1) + word(2) + word(3);
            let partial = !slow(&pseudo);
            prop_assert!(is_partial(partial, addrs, proto, len));
            prop_assert!(!is_partial(partial ^ 1, addrs, proto, len));
        }

        #[test]
        fn deltas_add_up(check: u16, a: u16, b: u16, c: u16, d: u16) {
            let both = Delta::of_word(a, b).plus(Delta::of_word(c, d));
            let one_by_one = Delta::of_word(c, d).apply(Delta::of_word(a, b).apply(check));
            // 0 and 0xffff are the same number.
            prop_assert_eq!(both.apply(check) % 0xffff, one_by_one % 0xffff);
        }

        #[test]
        fn going_there_and_back_restores_the_checksum(check in 0u16..0xffff, a: u16, b: u16) {
            let there = Delta::of_word(a, b).apply(check);
            prop_assert_eq!(Delta::of_word(b, a).apply(there) % 0xffff, check % 0xffff);
        }
    }
}
