//! IPv6 as a [`Family`].

use netpath_common::{Addr6, Address, Endpoint, External, Network, Reason, network_flag, proto};

use crate::{
    family::Family,
    packet::{Bytes, L3},
};

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv6Header {
    version: u8,
    _class_and_flow: [u8; 3],
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    src_addr: Addr6,
    dst_addr: Addr6,
}

impl Family for V6 {
    type Addr = Addr6;

    const HEADER_LEN: usize = 40;
    const ETHER_TYPE: u16 = 0x86dd;
    const ICMP: u8 = proto::ICMPV6;
    const ICMP_ECHO_REQUEST: u8 = 128;
    const ICMP_ECHO_REPLY: u8 = 129;
    const ICMP_HAS_PSEUDO_HEADER: bool = true;
    const MASQUERADE: u32 = network_flag::MASQUERADE6;
    const ROUTED: u32 = network_flag::ROUTED6;
    const UNPROTECTED: u32 = network_flag::UNPROTECTED6;

    #[inline(always)]
    fn l3<B: Bytes>(bytes: &B, l3_off: usize) -> Result<L3<Addr6>, Reason> {
        let header: Ipv6Header = bytes.get(l3_off).ok_or(Reason::Malformed)?;
        if header.version >> 4 != 6 {
            return Err(Reason::Malformed);
        }
        Ok(L3 {
            src_addr: header.src_addr,
            dst_addr: header.dst_addr,
            proto: header.next_header,
            ttl: header.hop_limit,
            check: 0,
            l4_off: l3_off + Self::HEADER_LEN,
            len: Self::HEADER_LEN as u32 + u32::from(u16::from_be(header.payload_length)),
            fragment_id: 0,
            fragment: 0,
        })
    }

    #[inline(always)]
    fn is_icmp_error(icmp_type: u8) -> bool {
        // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443, 2.1).
        matches!(icmp_type, 1..=4)
    }

    #[inline(always)]
    fn endpoint_addr(endpoint: &Endpoint) -> Addr6 {
        endpoint.addr6
    }

    #[inline(always)]
    fn external_addr(external: &External) -> Addr6 {
        external.addr6
    }

    #[inline(always)]
    fn in_network(network: &Network, addr: &Addr6) -> bool {
        let (addr, mask, prefix) = (addr.words(), network.mask6.words(), network.prefix6.words());
        let differs = |i: usize| (addr[i] & mask[i]) ^ prefix[i];
        (differs(0) | differs(1) | differs(2) | differs(3)) == 0
    }

    #[inline(always)]
    fn is_loopback(addr: &Addr6) -> bool {
        *addr == Addr6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    }

    #[inline(always)]
    fn is_group(addr: &Addr6) -> bool {
        addr.0[0] == 0xff
    }

    #[inline(always)]
    fn is_link_local(addr: &Addr6) -> bool {
        addr.0[0] == 0xfe && addr.0[1] & 0xc0 == 0x80
    }
}
