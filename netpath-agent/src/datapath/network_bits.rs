//! `NETWORK_BITS_*`: how the addresses of any network begin, kept in step with `PREFIXES_*`.

use aya::Pod;
use aya::maps::{Array, LpmTrie, MapData, MapError};
use netpath_common::{Address, NETWORK_BITS_WORDS, network_bit};

/// Bits of an address that the array knows.
const KNOWN: u8 = 16;

/// The bits of one family.
pub(super) struct NetworkBits(Array<MapData, u64>);

impl NetworkBits {
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self(map)
    }

    /// Notes a new prefix; call before it is there. A bit too many costs a look-up, one too few a leak.
    pub(super) fn add<A: Address>(&mut self, addr: &A, len: u8) -> Result<(), MapError> {
        for (word, bits) in words([(*addr, len)]) {
            self.0.set(word, self.0.get(&word, 0)? | bits, 0)?;
        }
        Ok(())
    }

    /// Writes the bits of the prefixes that are left.
    pub(super) fn follow<A: Address + Pod>(&mut self, prefixes: &LpmTrie<MapData, A, u32>) -> Result<(), MapError> {
        let left = prefixes.keys().map(|key| key.map(|key| (key.data(), key.prefix_len() as u8)));
        let left = left.collect::<Result<Vec<_>, _>>()?;
        let mut all = vec![0; NETWORK_BITS_WORDS as usize];
        for (word, bits) in words(left) {
            all[word as usize] |= bits;
        }
        (0..).zip(all).try_for_each(|(word, bits)| self.0.set(word, bits, 0))
    }
}

/// The words, and the bits in them, of all that the prefixes cover.
fn words<A: Address>(prefixes: impl IntoIterator<Item = (A, u8)>) -> impl Iterator<Item = (u32, u64)> {
    prefixes.into_iter().flat_map(|(addr, len)| {
        let (word, bit) = network_bit(&addr);
        let first = word * 64 + bit.trailing_zeros();
        let count = 1u32 << KNOWN.saturating_sub(len);
        (first..first + count).map(|number| (number / 64, 1 << (number % 64)))
    })
}

#[cfg(test)]
mod tests {
    use netpath_common::{Addr4, Addr6};

    use super::*;

    #[test]
    fn a_prefix_covers_what_begins_as_it_does() {
        let of = |addr: [u8; 4], len| words([(Addr4(addr), len)]).collect::<Vec<_>>();
        assert_eq!(of([172, 17, 0, 0], 16), of([172, 17, 9, 128], 25));
        assert_eq!(of([0, 3, 0, 0], 16), [(0, 8)]);
        assert_eq!(of([0, 64, 0, 0], 15), [(1, 1), (1, 2)]);
        assert_eq!(of([10, 0, 0, 0], 8).len(), 256);
        let addr: std::net::Ipv6Addr = "fd00:17::".parse().unwrap();
        let last = u64::from(0xfd00_u16 % 64);
        assert_eq!(words([(Addr6::from(addr), 64)]).collect::<Vec<_>>(), [(0xfd00 / 64, 1 << last)]);
    }
}
