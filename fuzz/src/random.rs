//! Random bytes from a seed: the same ones on every machine, so that a failure is repeated by its seed.

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is not 0.
    pub const fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// Up to `max_len` bytes: random ones, or one of `seeds` with some of its bytes replaced, cut out or said twice.
    pub fn input(&mut self, seeds: &[Vec<u8>], max_len: usize) -> Vec<u8> {
        if seeds.is_empty() || self.below(4) == 0 {
            let mut bytes = vec![0; self.below(max_len + 1)];
            self.fill(&mut bytes);
            return bytes;
        }
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..self.below(6) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            let len = 1 + self.below((bytes.len() - at).min(16));
            match self.below(4) {
                0 => drop(bytes.drain(at..at + len)),
                1 => {
                    let twice = bytes[at..at + len].to_vec();
                    bytes.splice(at..at, twice);
                }
                2 => self.fill(&mut bytes[at..at + len]),
                _ => bytes[at] = self.next() as u8,
            }
        }
        bytes.truncate(max_len);
        bytes
    }
}
