//! The two address families behind one trait: what is different about them, and nothing else.

use netpath_common::{Addr4, Address, Endpoint, External, Network, Reason, network_flag, proto};

pub use crate::ipv6::V6;
use crate::packet::{Bytes, L3};

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
        })
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
