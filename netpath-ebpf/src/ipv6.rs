//! IPv6 as a [`Family`].

use core::hint::{black_box, cold_path};

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
/// what follows it: of a kind that is not known, where it must not be, one too many, or a route that is not at
/// its end.
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
        let is_misplaced = l3.proto == proto::HOP_BY_HOP && i != 0;
        let is_fragment_of_fragment = l3.proto == proto::FRAGMENT && l3.fragment != 0;
        if !is_extension(l3.proto) || is_misplaced || is_fragment_of_fragment {
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
            l3.fragment_proto = header.next_header;
            if l3.is_later_fragment() {
                break;
            }
        }
    }
    Ok(())
}

/// 1 for [`proto::HOP_BY_HOP`], else 0, without a branch.
#[inline(always)]
fn is_hop_by_hop(protocol: u8) -> u8 {
    const { assert!(proto::HOP_BY_HOP == 0) };
    (black_box(u32::from(protocol).wrapping_sub(1)) >> 31) as u8
}

impl Family for V6 {
    type Addr = Addr6;

    const HEADER_LEN: usize = 40;
    const PROTO_OFF: usize = 6;
    const SRC_OFF: usize = 8;
    const DST_OFF: usize = 24;
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
            fragment_proto: header.next_header,
            fragment: 0,
            options: is_hop_by_hop(header.next_header),
        };
        if is_extension(l3.proto) {
            cold_path();
            walk(bytes, l3_off, &mut l3)?;
        }
        Ok(l3)
    }

    /// There is none.
    #[inline(always)]
    fn is_intact<B: Bytes>(_bytes: &B, _l3_off: usize, _l3: &L3<Addr6>) -> bool {
        true
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

    /// Not inlined, as the comparison of addresses is not.
    #[inline(never)]
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::Packet;

    /// Where the packets of these tests have their network header.
    const L3_OFF: usize = 14;
    const AUTHENTICATION: u8 = 51;

    struct Frame(Vec<u8>);

    impl Bytes for Frame {
        fn get<T: Copy>(&self, off: usize) -> Option<T> {
            let bytes = self.0.get(off..off + size_of::<T>())?;
            // SAFETY: inside the vector by the line above, and plain data by the trait's contract.
            Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
        }
    }

    /// An extension header: its number, its own bytes from the second on.
    type Header = (u8, Vec<u8>);

    fn options(number: u8, units: u8) -> Header {
        (number, [vec![units], vec![0; 6 + 8 * usize::from(units)]].concat())
    }

    fn fragment(offset: u16, more: bool) -> Header {
        let word = (offset << 3 | u16::from(more)).to_be_bytes();
        (proto::FRAGMENT, vec![0, word[0], word[1], 1, 2, 3, 4])
    }

    /// A packet with these headers, and eight bytes of `last` behind them.
    fn frame(headers: &[Header], last: u8) -> Frame {
        let numbers = headers.iter().map(|(number, _)| *number).chain([last]);
        let mut body = Vec::new();
        for ((_, bytes), next) in headers.iter().zip(numbers.clone().skip(1)) {
            body.push(next);
            body.extend(bytes);
        }
        body.extend([7; 8]);
        let mut bytes = vec![0; L3_OFF];
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend([numbers.clone().next().unwrap_or(last), 64]);
        bytes.extend([1; 32]);
        bytes.extend(body);
        Frame(bytes)
    }

    fn read(headers: &[Header], last: u8) -> Result<L3<Addr6>, Reason> {
        V6::l3(&frame(headers, last), L3_OFF)
    }

    fn len_of(headers: &[Header]) -> usize {
        headers.iter().map(|(_, bytes)| bytes.len() + 1).sum()
    }

    /// Chains that are walked through: up to the bounds, in any order.
    fn chain() -> impl Strategy<Value = Vec<Header>> {
        let number = prop_oneof![Just(proto::DESTINATION_OPTIONS), Just(proto::ROUTING), Just(proto::FRAGMENT)];
        let header = (number, 0u8..4).prop_map(|(number, units)| match number {
            proto::FRAGMENT => fragment(0, false),
            // No segments left: the third byte is the type, the fourth their number.
            _ => options(number, units),
        });
        (any::<bool>(), proptest::collection::vec(header, 0..8)).prop_map(|(hop_by_hop, mut headers)| {
            if hop_by_hop {
                headers.insert(0, options(proto::HOP_BY_HOP, 0));
            }
            headers
        })
    }

    proptest! {
        #[test]
        fn transport_header_is_found_behind_any_chain(headers in chain(), last in prop_oneof![Just(6u8), Just(17), Just(58)]) {
            prop_assume!(headers.len() <= 8 && len_of(&headers) <= MAX_EXTENSION_LEN);
            let l3 = read(&headers, last).unwrap();
            prop_assert_eq!((l3.proto, l3.fragment), (last, 0));
            prop_assert_eq!(l3.l4_off, L3_OFF + V6::HEADER_LEN + len_of(&headers));
        }

        #[test]
        fn a_chain_that_is_cut_is_malformed(headers in chain(), cut: prop::sample::Index, honest: bool) {
            prop_assume!(!headers.is_empty() && headers.len() <= 8 && len_of(&headers) <= MAX_EXTENSION_LEN);
            let mut frame = frame(&headers, proto::UDP);
            let len = cut.index(len_of(&headers));
            if honest {
                // The packet says how short it is, and other bytes follow.
                frame.0[L3_OFF + 4..L3_OFF + 6].copy_from_slice(&(len as u16).to_be_bytes());
            } else {
                frame.0.truncate(L3_OFF + V6::HEADER_LEN + len / 8 * 8);
            }
            prop_assert_eq!(Packet::<V6>::parse(&frame, L3_OFF).unwrap_err(), Reason::Malformed);
        }

        #[test]
        fn no_bytes_lead_outside_the_bounds(mut bytes in proptest::collection::vec(prop_oneof![3 => prop_oneof![Just(0u8), Just(43), Just(44), Just(60)], 1 => any::<u8>()], 54..600)) {
            bytes[L3_OFF] = 0x60;
            if let Ok(l3) = V6::l3(&Frame(bytes), L3_OFF) {
                let extensions = l3.l4_off - L3_OFF - V6::HEADER_LEN;
                prop_assert!(extensions <= MAX_EXTENSION_LEN && extensions.is_multiple_of(8));
                prop_assert!(l3.l4_off - L3_OFF <= l3.len as usize);
            }
        }
    }

    #[test]
    fn fragments_say_so_as_those_of_ipv4_do() {
        let first = read(&[fragment(0, true)], proto::UDP).unwrap();
        assert!(first.is_first_fragment());
        assert_eq!((first.proto, first.fragment_id.to_ne_bytes()), (proto::UDP, [1, 2, 3, 4]));
        for (offset, more) in [(1, false), (5, true), (0x1fff, false)] {
            let later = read(&[fragment(offset, more)], proto::UDP).unwrap();
            assert!(later.is_later_fragment());
            assert_eq!(later.fragment, offset | if more { 0x2000 } else { 0 });
        }
    }

    /// RFC 8200, 4.5: every fragment's header names the one that the first fragment goes on with.
    #[test]
    fn fragments_belong_together_whatever_headers_the_first_one_has() {
        let first = [fragment(0, true), options(proto::DESTINATION_OPTIONS, 0)];
        let first = Packet::<V6>::parse(&frame(&first, proto::UDP), L3_OFF).unwrap();
        let later = Packet::<V6>::parse(&frame(&[fragment(2, false)], proto::DESTINATION_OPTIONS), L3_OFF).unwrap();
        assert!(first.fragment_key() == later.fragment_key());
    }

    #[test]
    fn a_first_fragment_without_all_headers_is_malformed() {
        let frame = frame(&[fragment(0, true), options(proto::DESTINATION_OPTIONS, 3)], proto::UDP);
        for len in (8..40).step_by(8) {
            let mut cut = frame.0.clone();
            cut[L3_OFF + 4..L3_OFF + 6].copy_from_slice(&(len as u16).to_be_bytes());
            assert_eq!(V6::l3(&Frame(cut), L3_OFF).unwrap_err(), Reason::Malformed, "{len} bytes");
        }
        assert!(V6::l3(&frame, L3_OFF).is_ok());
    }

    #[test]
    fn what_hides_the_transport_header_stays_the_packets_protocol() {
        let destination = || options(proto::DESTINATION_OPTIONS, 0);
        let mut on_its_way = options(proto::ROUTING, 2);
        on_its_way.1[2] = 1;
        let too_long = vec![options(proto::DESTINATION_OPTIONS, 30), destination(), destination()];
        for (headers, hidden_by) in [
            (vec![destination(), options(proto::HOP_BY_HOP, 0)], proto::HOP_BY_HOP),
            (vec![destination(), on_its_way], proto::ROUTING),
            (vec![fragment(0, true), fragment(0, false)], proto::FRAGMENT),
            (vec![destination(); 9], proto::DESTINATION_OPTIONS),
            (too_long, proto::DESTINATION_OPTIONS),
            (vec![destination(), options(AUTHENTICATION, 0)], AUTHENTICATION),
        ] {
            assert_eq!(read(&headers, proto::UDP).unwrap().proto, hidden_by, "{headers:?}");
        }
    }

    #[test]
    fn hop_by_hop_options_are_for_routers_and_other_headers_are_not() {
        let is_routers = |headers: &[Header]| read(headers, proto::UDP).unwrap().needs_router();
        let others = [options(proto::DESTINATION_OPTIONS, 0), options(proto::ROUTING, 0), fragment(0, true)];
        assert!(!is_routers(&[]) && !is_routers(&others));
        assert!(is_routers(&[options(proto::HOP_BY_HOP, 0)]));
        assert!(is_routers(&[&[options(proto::HOP_BY_HOP, 1)], &others[..]].concat()));
    }

    #[test]
    fn a_jumbogram_is_malformed() {
        let mut frame = frame(&[options(proto::HOP_BY_HOP, 0)], proto::TCP);
        frame.0[L3_OFF + 4..L3_OFF + 6].fill(0);
        assert_eq!(V6::l3(&frame, L3_OFF).unwrap_err(), Reason::Malformed);
    }

    #[test]
    fn link_local_address_is_made_of_the_hardware_address() {
        let addr = link_local(&[0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
        assert_eq!(addr.to_ip().to_string(), "fe80::42:acff:fe11:2");
        assert!(V6::is_link_local(&addr));
    }

    #[test]
    fn loopback_is_what_one_host_keeps_to_itself() {
        for (text, is_loopback) in
            [("::1", true), ("::ffff:127.0.0.1", true), ("::", false), ("::2", false), ("fd00::1", false)]
        {
            let addr: std::net::Ipv6Addr = text.parse().unwrap();
            assert_eq!(V6::is_loopback(&addr.into()), is_loopback, "{text}");
        }
    }
}
