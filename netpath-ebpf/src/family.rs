//! The two address families behind one trait: what is different about them, and nothing else.

use core::hint::cold_path;

use netpath_common::{Addr4, Address, Endpoint, External, Network, Reason, network_flag, proto};

use crate::checksum::check_of;
pub use crate::ipv6::V6;
use crate::packet::{Bytes, L3, bounded};

/// An address family: [`V4`] or [`V6`]. Everything that decides is generic over it.
pub trait Family: Copy + 'static {
    type Addr: Address;

    /// Length of a network header without options, in bytes.
    const HEADER_LEN: usize;
    /// Where the network header has its protocol, its source and its destination address.
    const PROTO_OFF: usize;
    const SRC_OFF: usize;
    const DST_OFF: usize;
    /// EtherType, host byte order.
    const ETHER_TYPE: u16;
    /// Number of the family's ICMP among the IP protocols.
    const ICMP: u8;
    const ICMP_ECHO_REQUEST: u8;
    const ICMP_ECHO_REPLY: u8;
    /// Whether the ICMP checksum covers the addresses.
    const ICMP_HAS_PSEUDO_HEADER: bool;
    /// The family's bit among [`network_flag`](netpath_common::network_flag)'s `MASQUERADE*`.
    const MASQUERADE: u32;
    /// The same for `ROUTED*`.
    const ROUTED: u32;
    /// The same for `UNPROTECTED*`.
    const UNPROTECTED: u32;

    /// Whether the transport header follows the network header at `l3_off` at once, no options or extension
    /// headers between them.
    fn is_plain<B: Bytes>(bytes: &B, l3_off: usize) -> bool;
    /// Reads the network header at `l3_off`.
    ///
    /// # Errors
    ///
    /// [`Reason::Malformed`] when it is cut short or contradicts itself.
    fn l3<B: Bytes>(bytes: &B, l3_off: usize) -> Result<L3<Self::Addr>, Reason>;

    /// Whether the checksum of the network header at `l3_off`, which `l3` describes, is right.
    fn is_intact<B: Bytes>(bytes: &B, l3_off: usize, l3: &L3<Self::Addr>) -> bool;

    fn is_icmp_error(icmp_type: u8) -> bool;
    fn endpoint_addr(endpoint: &Endpoint) -> Self::Addr;
    fn external_addr(external: &External) -> Self::Addr;
    fn in_network(network: &Network, addr: &Self::Addr) -> bool;
    fn is_loopback(addr: &Self::Addr) -> bool;
    /// Multicast or limited broadcast: for more than one receiver.
    fn is_group(addr: &Self::Addr) -> bool;
    /// Valid on one link only, and never forwarded.
    fn is_link_local(addr: &Self::Addr) -> bool;
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;

/// An IPv4 header without options, as words, so that eBPF reads it in whole loads.
#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv4Header {
    version_ihl: u8,
    _tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    check: u16,
    src_addr: Addr4,
    dst_addr: Addr4,
}

/// Sum of the 16-bit words of IPv4's options, from `start` up to `end`. Not inlined: the verifier forgets how far it has
/// looked into the packet when a function returns, and goes on with one state.
#[inline(never)]
fn options_sum<B: Bytes>(bytes: &B, start: usize, end: usize) -> u32 {
    const MAX_LEN: usize = 40;
    let mut sum = 0;
    let mut off = 0;
    while off < MAX_LEN && start + off < end {
        let [high, low] = bytes.get::<[u16; 2]>(bounded(start + off)).unwrap_or_default();
        sum += u32::from(high) + u32::from(low);
        off += 4;
    }
    sum
}

impl Family for V4 {
    type Addr = Addr4;

    const HEADER_LEN: usize = 20;
    const PROTO_OFF: usize = 9;
    const SRC_OFF: usize = 12;
    const DST_OFF: usize = 16;
    const ETHER_TYPE: u16 = 0x0800;
    const ICMP: u8 = proto::ICMP;
    const ICMP_ECHO_REQUEST: u8 = 8;
    const ICMP_ECHO_REPLY: u8 = 0;
    const ICMP_HAS_PSEUDO_HEADER: bool = false;
    const MASQUERADE: u32 = network_flag::MASQUERADE4;
    const ROUTED: u32 = network_flag::ROUTED4;
    const UNPROTECTED: u32 = network_flag::UNPROTECTED4;

    #[inline(always)]
    fn is_plain<B: Bytes>(bytes: &B, l3_off: usize) -> bool {
        bytes.get::<u8>(l3_off) == Some(0x45)
    }

    #[inline(always)]
    fn l3<B: Bytes>(bytes: &B, l3_off: usize) -> Result<L3<Addr4>, Reason> {
        const DONT_FRAGMENT_AND_RESERVED: u16 = 0xc000;
        let header: Ipv4Header = bytes.get(l3_off).ok_or(Reason::Malformed)?;
        let header_len = usize::from(header.version_ihl & 0xf) * 4;
        let len = u32::from(u16::from_be(header.total_length));
        if header.version_ihl >> 4 != 4 || header_len < 20 || (len as usize) < header_len {
            return Err(Reason::Malformed);
        }
        Ok(L3 {
            src_addr: header.src_addr,
            dst_addr: header.dst_addr,
            proto: header.proto,
            ttl: header.ttl,
            check: header.check,
            l4_off: l3_off + header_len,
            len,
            fragment_id: u32::from(header.id),
            fragment_proto: header.proto,
            fragment: u16::from_be(header.fragment) & !DONT_FRAGMENT_AND_RESERVED,
            options: (header_len - Self::HEADER_LEN) as u8,
        })
    }

    /// RFC 1812, 5.2.2: translating would make a new checksum out of a wrong one.
    #[inline(always)]
    fn is_intact<B: Bytes>(bytes: &B, l3_off: usize, l3: &L3<Addr4>) -> bool {
        let Some(words) = bytes.get::<[u16; 10]>(l3_off) else { return false };
        let mut sum = words.iter().fold(0, |sum, word| sum + u32::from(*word));
        if l3.l4_off > l3_off + Self::HEADER_LEN {
            cold_path();
            sum += options_sum(bytes, l3_off + Self::HEADER_LEN, l3.l4_off);
        }
        check_of(sum) == 0
    }

    #[inline(always)]
    fn is_icmp_error(icmp_type: u8) -> bool {
        // Destination unreachable, source quench, time exceeded, parameter problem (RFC 792).
        matches!(icmp_type, 3 | 4 | 11 | 12)
    }

    #[inline(always)]
    fn endpoint_addr(endpoint: &Endpoint) -> Addr4 {
        endpoint.addr4
    }

    #[inline(always)]
    fn external_addr(external: &External) -> Addr4 {
        external.addr4
    }

    #[inline(always)]
    fn in_network(network: &Network, addr: &Addr4) -> bool {
        addr.words()[0] & network.mask4.words()[0] == network.prefix4.words()[0]
    }

    #[inline(always)]
    fn is_loopback(addr: &Addr4) -> bool {
        addr.0[0] == 127
    }

    #[inline(always)]
    fn is_group(addr: &Addr4) -> bool {
        addr.0[0] >= 224
    }

    /// IPv4's link-local addresses are ordinary ones to the kernel, which forwards them.
    #[inline(always)]
    fn is_link_local(_addr: &Addr4) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::Packet;

    struct Frame(Vec<u8>);

    impl Bytes for Frame {
        fn get<T: Copy>(&self, off: usize) -> Option<T> {
            let bytes = self.0.get(off..off + size_of::<T>())?;
            // SAFETY: as many bytes as a `T` has; the trait's contract says the rest.
            Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
        }
    }

    const L3_OFF: usize = 14;

    /// A datagram under a header with these options and a right checksum, computed word by word.
    fn datagram(options: &[u8]) -> Vec<u8> {
        let ihl = 20 + options.len();
        let mut header = vec![0x40 | (ihl / 4) as u8, 0];
        header.extend((ihl as u16 + 8).to_be_bytes());
        header.extend([0x12, 0x34, 0x40, 0, 64, proto::UDP, 0, 0, 198, 18, 0, 2, 198, 18, 0, 1]);
        header.extend(options);
        let mut sum: u32 = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        [&[0; L3_OFF][..], &header, &[0, 1, 0, 2, 0, 8, 0, 0]].concat()
    }

    proptest! {
        #[test]
        fn a_header_with_a_wrong_checksum_is_malformed_and_one_with_a_right_one_is_not(
            options in proptest::collection::vec(any::<[u8; 4]>(), 0..=10),
            bit in 0usize..60 * 8,
        ) {
            let frame = datagram(&options.concat());
            prop_assert_eq!(Packet::<V4>::parse(&Frame(frame.clone()), L3_OFF).unwrap().tuple.dst_port, 2);
            let mut wrong = frame;
            let bit = bit % ((20 + 4 * options.len()) * 8);
            wrong[L3_OFF + bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Packet::<V4>::parse(&Frame(wrong), L3_OFF).unwrap_err(), Reason::Malformed);
        }
    }
}
