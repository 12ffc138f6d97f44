//! Addresses as they lie in map keys: the bytes of the wire, aligned so that eBPF loads words.

use core::hash::{Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::map_type;

/// An IP address of one family. The data path is generic over it; there is one implementation each.
pub trait Address: Copy + Eq + 'static {
    /// Length in bytes on the wire.
    const LEN: usize;
    /// The unspecified address (all zero).
    const UNSPECIFIED: Self;

    /// The address as four-byte words as they lie in memory; words past the family's length are zero.
    fn words(&self) -> [u32; 4];

    /// Sum of the address's 16-bit words as they lie in memory, for incremental checksums.
    fn word_sum(&self) -> u32 {
        let words = self.words();
        let mut sum = 0;
        let mut i = 0;
        while i < Self::LEN / 4 {
            sum += (words[i] & 0xffff) + (words[i] >> 16);
            i += 1;
        }
        sum
    }

    /// Whether this is [`UNSPECIFIED`](Self::UNSPECIFIED).
    #[inline(always)]
    fn is_unspecified(&self) -> bool {
        let words = self.words();
        words[0] | words[1] | words[2] | words[3] == 0
    }

    /// The same address, copied by words: LLVM makes a copy of bytes between two places in memory a call to a
    /// byte loop.
    fn by_words(&self) -> Self;

    fn to_ip(&self) -> IpAddr;
}

/// Elements of `NETWORK_BITS_*`: a bit for each value of an address's first two bytes.
pub const NETWORK_BITS_WORDS: u32 = (1 << 16) / 64;

/// Which element of `NETWORK_BITS_*`, and which bit of it, says whether the addresses of any network begin as `addr`
/// does.
#[inline(always)]
pub fn network_bit<A: Address>(addr: &A) -> (u32, u64) {
    let [first, second, ..] = addr.words()[0].to_ne_bytes();
    let number = u32::from(u16::from_be_bytes([first, second]));
    (number / 64, 1 << (number % 64))
}

/// An IPv4 address, network byte order.
#[derive(Clone, Copy, Debug, Default, PartialOrd, Ord)]
#[repr(C, align(4))]
pub struct Addr4(pub [u8; 4]);

/// An IPv6 address, network byte order.
#[derive(Clone, Copy, Debug, Default, PartialOrd, Ord)]
#[repr(C, align(4))]
pub struct Addr6(pub [u8; 16]);

map_type!(Addr4 = 4, Addr6 = 16);

impl Addr4 {
    pub const fn new(addr: Ipv4Addr) -> Self {
        Self(addr.octets())
    }

    #[inline(always)]
    const fn word(self) -> u32 {
        u32::from_ne_bytes(self.0)
    }
}

// By word, not by byte: LLVM splits a comparison of byte arrays into single loads for BPF.
impl PartialEq for Addr4 {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.word() == other.word()
    }
}

impl Eq for Addr4 {}

impl Hash for Addr4 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Address for Addr4 {
    const LEN: usize = 4;
    const UNSPECIFIED: Self = Self([0; 4]);

    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        [self.word(), 0, 0, 0]
    }

    #[inline(always)]
    fn by_words(&self) -> Self {
        *self
    }

    fn to_ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.0))
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(addr: Ipv4Addr) -> Self {
        Self::new(addr)
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(addr: Ipv6Addr) -> Self {
        Self::new(addr)
    }
}

impl From<Addr6> for Ipv6Addr {
    fn from(addr: Addr6) -> Self {
        Self::from(addr.0)
    }
}

impl From<Addr4> for Ipv4Addr {
    fn from(addr: Addr4) -> Self {
        Self::from(addr.0)
    }
}

/// The other family's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherFamily;

impl TryFrom<IpAddr> for Addr4 {
    type Error = OtherFamily;

    fn try_from(addr: IpAddr) -> Result<Self, OtherFamily> {
        match addr {
            IpAddr::V4(addr) => Ok(Self::new(addr)),
            IpAddr::V6(_) => Err(OtherFamily),
        }
    }
}

impl TryFrom<IpAddr> for Addr6 {
    type Error = OtherFamily;

    fn try_from(addr: IpAddr) -> Result<Self, OtherFamily> {
        match addr {
            IpAddr::V6(addr) => Ok(Self::new(addr)),
            IpAddr::V4(_) => Err(OtherFamily),
        }
    }
}

impl Addr6 {
    pub const fn new(addr: Ipv6Addr) -> Self {
        Self(addr.octets())
    }

    /// From words as they lie in memory: the reverse of [`Address::words`].
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] =
            [words[0].to_ne_bytes(), words[1].to_ne_bytes(), words[2].to_ne_bytes(), words[3].to_ne_bytes()];
        Self([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]])
    }
}

impl PartialEq for Addr6 {
    /// Not inlined: words that LLVM has loaded for this, it keeps for later on the stack, of which eBPF has little.
    #[inline(never)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])) == 0
    }
}

impl Eq for Addr6 {}

impl Hash for Addr6 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Address for Addr6 {
    const LEN: usize = 16;
    const UNSPECIFIED: Self = Self([0; 16]);

    #[inline(always)]
    fn words(&self) -> [u32; 4] {
        let b = &self.0;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }

    #[inline(always)]
    fn by_words(&self) -> Self {
        Self::from_words(self.words())
    }

    fn to_ip(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_the_bytes_of_the_wire() {
        assert_eq!(Addr4::new(Ipv4Addr::new(172, 17, 0, 2)).0, [172, 17, 0, 2]);
        assert_eq!(Ipv4Addr::from(Addr4([172, 17, 0, 2])), Ipv4Addr::new(172, 17, 0, 2));
    }

    #[test]
    fn an_address_is_of_one_family() {
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([0xfd; 16]));
        assert_eq!((Addr4::try_from(v4).map(|a| a.to_ip()), Addr6::try_from(v4)), (Ok(v4), Err(OtherFamily)));
        assert_eq!((Addr6::try_from(v6).map(|a| a.to_ip()), Addr4::try_from(v6)), (Ok(v6), Err(OtherFamily)));
    }

    #[test]
    fn addresses_that_differ_in_one_byte_are_not_equal() {
        for i in 0..16 {
            let mut bytes = [7; 16];
            bytes[i] ^= 1;
            assert_ne!(Addr6(bytes), Addr6([7; 16]));
        }
        assert_eq!(Addr6([7; 16]), Addr6([7; 16]));
    }

    #[test]
    fn word_sum_is_the_sum_of_all_sixteen_bit_words() {
        let expected: u32 = Addr6([0xab; 16]).0.chunks(2).map(|w| u32::from(u16::from_ne_bytes([w[0], w[1]]))).sum();
        assert_eq!(Addr6([0xab; 16]).word_sum(), expected);
    }
}
