//! IPv6 as a [`Family`].

use core::hint::cold_path;

use netpath_common::{Addr6, Address, Endpoint, External, Network, Reason, network_flag, proto};

use crate::{
    family::Family,
    packet::{Bytes, L3, bounded},
};

/// Extension headers that are walked through, in bytes and in number. What stands behind more of them is
/// not looked for: the packet then has the protocol of the first header that is too many.
const MAX_EXTENSION_LEN: usize = 256;
const MAX_EXTENSIONS: u32 = 8;

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

/// The first eight bytes of an extension header (RFC 8200, 4).
#[derive(Clone, Copy)]
#[repr(C)]
struct Extension {
    next_header: u8,
    /// In units of eight bytes, the first eight not counted; not for a fragment header.
    len: u8,
    /// Of a fragment header: offset and flags. Of a routing header: type and segments left.
    word: [u8; 2],
    /// Of a fragment header.
    id: u32,
}

/// Whether a transport header may follow this one, which says its own length.
#[inline(always)]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, proto::HOP_BY_HOP | proto::ROUTING | proto::FRAGMENT | proto::DESTINATION_OPTIONS)
}

/// The link-local address that an interface with this hardware address has by itself (RFC 4291, appendix A).
#[inline(always)]
pub const fn link_local(mac: &[u8; 6]) -> Addr6 {
    Addr6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]])
}

/// Goes through the extension headers of `l3` to the transport header. Stops before a header that hides
/// what follows it: of a kind that is not known, one too many, or a route that is not at its end.
///
/// Not inlined, for a stack of its own.
///
/// # Errors
///
/// [`Reason::Malformed`] when a header does not lie wholly inside the packet.
#[inline(never)]
fn walk<B: Bytes>(bytes: &B, l3_off: usize, l3: &mut L3<Addr6>) -> Result<(), Reason> {
    let first = l3.l4_off;
    let end = l3_off + l3.len as usize;
    for i in 0..MAX_EXTENSIONS {
        // RFC 8200, 4.1: hop-by-hop options "restricted to appear immediately after an IPv6 header".
        if !is_extension(l3.proto) || (l3.proto == proto::HOP_BY_HOP && i != 0) {
            break;
        }
        let header: Extension = bytes.get(bounded(l3.l4_off)).ok_or(Reason::Malformed)?;
        let len = if l3.proto == proto::FRAGMENT { 8 } else { 8 + 8 * usize::from(header.len) };
        if l3.l4_off + len > end {
            return Err(Reason::Malformed);
        }
        let is_on_its_way = l3.proto == proto::ROUTING && header.word[1] != 0;
        if is_on_its_way || l3.l4_off + len - first > MAX_EXTENSION_LEN {
            break;
        }
        let is_fragment_header = l3.proto == proto::FRAGMENT;
        l3.proto = header.next_header;
        l3.l4_off += len;
        if is_fragment_header {
            let word = u16::from_be_bytes(header.word);
            l3.fragment = (word >> 3) | ((word & 1) << 13);
            l3.fragment_id = header.id;
            if l3.is_later_fragment() {
                break;
            }
        }
    }
    Ok(())
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
    fn is_plain<B: Bytes>(bytes: &B, l3_off: usize) -> bool {
        const NEXT_HEADER: usize = 6;
        matches!(bytes.get::<u8>(l3_off + NEXT_HEADER), Some(proto::TCP | proto::UDP | proto::ICMPV6))
    }

    /// A jumbogram (RFC 2675) says that it has no payload at all, so it has no transport header either.
    #[inline(always)]
    fn l3<B: Bytes>(bytes: &B, l3_off: usize) -> Result<L3<Addr6>, Reason> {
        let header: Ipv6Header = bytes.get(l3_off).ok_or(Reason::Malformed)?;
        if header.version >> 4 != 6 {
            return Err(Reason::Malformed);
        }
        let mut l3 = L3 {
            src_addr: header.src_addr,
            dst_addr: header.dst_addr,
            proto: header.next_header,
            ttl: header.hop_limit,
            check: 0,
            l4_off: l3_off + Self::HEADER_LEN,
            len: Self::HEADER_LEN as u32 + u32::from(u16::from_be(header.payload_length)),
            fragment_id: 0,
            fragment: 0,
        };
        if is_extension(l3.proto) {
            cold_path();
            walk(bytes, l3_off, &mut l3)?;
        }
        Ok(l3)
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
        // An IPv4-mapped address stands for IPv4 at one host's sockets. From the network it could be
        // ::ffff:127.0.0.1 to them.
        const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        let words = addr.words();
        let is_one = words[2] == 0 && words[3] == 1u32.to_be();
        words[0] | words[1] == 0 && (is_one || words[2] == MAPPED)
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
