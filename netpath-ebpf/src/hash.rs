//! A keyed hash that nobody outside can predict the ports from.

use netpath_common::Address;

/// Mixes words into a hash under a secret key (the finaliser of MurmurHash3, keyed).
#[derive(Clone, Copy)]
pub struct Hash(u64);

impl Hash {
    #[inline(always)]
    pub const fn new(key: u64) -> Self {
        Self(key)
    }

    #[inline(always)]
    pub const fn word(self, word: u32) -> Self {
        let mut x = self.0 ^ word as u64;
        x ^= x >> 33;
        x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
        x ^= x >> 33;
        x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^= x >> 33;
        Self(x)
    }

    #[inline(always)]
    pub fn addr<A: Address>(self, addr: &A) -> Self {
        let words = addr.words();
        let mut hash = self.word(words[0]);
        if A::LEN > 4 {
            hash = hash.word(words[1]).word(words[2]).word(words[3]);
        }
        hash
    }

    #[inline(always)]
    pub const fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_key_gives_another_hash() {
        assert_ne!(Hash::new(1).word(7).finish(), Hash::new(2).word(7).finish());
    }

    #[test]
    fn low_and_high_bits_are_spread_evenly() {
        let mut low = [0u32; 16];
        let mut high = [0u32; 16];
        for word in 0..16_000 {
            let hash = Hash::new(42).word(word).finish();
            low[(hash & 15) as usize] += 1;
            high[(hash >> 60) as usize] += 1;
        }
        assert!(low.iter().chain(&high).all(|n| (850..1150).contains(n)), "{low:?} {high:?}");
    }
}
