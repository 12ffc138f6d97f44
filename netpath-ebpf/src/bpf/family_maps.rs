//! The two families as maps and helpers have them.

use core::{hint::black_box, mem};

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_sock_tuple},
    maps::{Array, HashMap, LpmTrie, LruHashMap, lpm_trie},
};
use netpath_common::{
    Addr4, Addr6, Address, AllowedSource, Datagram, Flow, FragmentKey, Inside, Mapping, MappingKey, PortKey,
    PortSource, PortTarget, Share, Tuple, network_bit,
};
use netpath_ebpf::family::{Family, V4, V6};

use super::{
    hand::{Hand, Parked},
    maps,
};

/// The maps of one family, and what its addresses look like to helpers.
pub(super) trait FamilyMaps: Family {
    /// What the family adds to a place in `JUMPS`: see [`maps::jump`].
    const JUMP: u32;

    fn addresses() -> &'static HashMap<Self::Addr, u32>;
    /// Whether the address lies in the subnet of any network.
    fn in_prefixes(addr: &Self::Addr) -> bool;
    fn published_ports() -> &'static HashMap<PortKey<Self::Addr>, PortTarget>;
    fn published_sources() -> &'static HashMap<PortKey<Self::Addr>, PortSource<Self::Addr>>;
    fn flows() -> &'static HashMap<Tuple<Self::Addr>, Flow<Self::Addr>>;
    fn mappings() -> &'static HashMap<MappingKey<Self::Addr>, Mapping<Self::Addr>>;
    fn replies() -> &'static HashMap<Tuple<Self::Addr>, Inside<Self::Addr>>;
    fn shares() -> &'static Array<Share>;
    fn flow_ring() -> &'static Array<Tuple<Self::Addr>>;
    fn fragments() -> &'static LruHashMap<FragmentKey<Self::Addr>, Datagram>;
    fn allowed() -> &'static LpmTrie<AllowedSource<Self::Addr>, u32>;

    /// What this CPU has in hand.
    fn hand() -> Option<*mut Hand<Self>>;
    fn parked() -> Option<*mut Parked<Self>>;

    /// Fills in family and addresses of a route look-up.
    fn set_route(params: &mut bpf_fib_lookup, src_addr: &Self::Addr, dst_addr: &Self::Addr);
    fn next_hop(params: &bpf_fib_lookup) -> Self::Addr;
    /// A socket look-up's tuple and the length that tells the family.
    fn socket_tuple(tuple: &Tuple<Self::Addr>) -> (bpf_sock_tuple, u32);
}

/// A socket look-up's tuple of zeros. Of zeros that LLVM does not know, or it makes a call to a byte loop of
/// this.
#[inline(always)]
fn no_tuple() -> bpf_sock_tuple {
    const WORDS: usize = size_of::<bpf_sock_tuple>() / 4;
    // SAFETY: of the same size, and plain integers.
    unsafe { mem::transmute([black_box(0u32); WORDS]) }
}

/// The maps of a family, by the names they have with its suffix.
macro_rules! family_maps {
    ($addresses:ident, $published_ports:ident, $published_sources:ident, $allowed:ident, $flows:ident,
     $mappings:ident, $replies:ident, $shares:ident, $flow_ring:ident, $fragments:ident, $hand:ident, $parked:ident) => {
        #[inline(always)]
        fn addresses() -> &'static HashMap<Self::Addr, u32> {
            &maps::$addresses
        }
        #[inline(always)]
        fn published_ports() -> &'static HashMap<PortKey<Self::Addr>, PortTarget> {
            &maps::$published_ports
        }
        #[inline(always)]
        fn published_sources() -> &'static HashMap<PortKey<Self::Addr>, PortSource<Self::Addr>> {
            &maps::$published_sources
        }
        #[inline(always)]
        fn allowed() -> &'static LpmTrie<AllowedSource<Self::Addr>, u32> {
            &maps::$allowed
        }
        #[inline(always)]
        fn flows() -> &'static HashMap<Tuple<Self::Addr>, Flow<Self::Addr>> {
            &maps::$flows
        }
        #[inline(always)]
        fn mappings() -> &'static HashMap<MappingKey<Self::Addr>, Mapping<Self::Addr>> {
            &maps::$mappings
        }
        #[inline(always)]
        fn replies() -> &'static HashMap<Tuple<Self::Addr>, Inside<Self::Addr>> {
            &maps::$replies
        }
        #[inline(always)]
        fn shares() -> &'static Array<Share> {
            &maps::$shares
        }
        #[inline(always)]
        fn flow_ring() -> &'static Array<Tuple<Self::Addr>> {
            &maps::$flow_ring
        }
        #[inline(always)]
        fn fragments() -> &'static LruHashMap<FragmentKey<Self::Addr>, Datagram> {
            &maps::$fragments
        }
        #[inline(always)]
        fn hand() -> Option<*mut Hand<Self>> {
            maps::$hand.get_ptr_mut(0)
        }
        #[inline(always)]
        fn parked() -> Option<*mut Parked<Self>> {
            maps::$parked.get_ptr_mut(0)
        }
    };
}

impl FamilyMaps for V4 {
    const JUMP: u32 = 0;

    family_maps!(
        ADDRESSES_V4,
        PUBLISHED_PORTS_V4,
        PUBLISHED_SOURCES_V4,
        ALLOWED_V4,
        FLOWS_V4,
        MAPPINGS_V4,
        REPLIES_V4,
        SHARES_V4,
        FLOW_RING_V4,
        FRAGMENTS_V4,
        HAND_V4,
        PARKED_V4
    );

    #[inline(always)]
    fn in_prefixes(addr: &Addr4) -> bool {
        may_be_inside(&maps::NETWORK_BITS_V4, addr) && maps::PREFIXES_V4.get(lpm_trie::Key::new(32, *addr)).is_some()
    }

    #[inline(always)]
    fn set_route(params: &mut bpf_fib_lookup, src_addr: &Addr4, dst_addr: &Addr4) {
        const AF_INET: u8 = 2;
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = src_addr.words()[0];
        params.__bindgen_anon_4.ipv4_dst = dst_addr.words()[0];
    }

    #[inline(always)]
    fn next_hop(params: &bpf_fib_lookup) -> Addr4 {
        // SAFETY: the family is AF_INET, so the kernel wrote this member.
        Addr4(unsafe { params.__bindgen_anon_4.ipv4_dst }.to_ne_bytes())
    }

    #[inline(always)]
    fn socket_tuple(tuple: &Tuple<Addr4>) -> (bpf_sock_tuple, u32) {
        let mut params = no_tuple();
        params.__bindgen_anon_1.ipv4.saddr = tuple.src_addr.words()[0];
        params.__bindgen_anon_1.ipv4.daddr = tuple.dst_addr.words()[0];
        params.__bindgen_anon_1.ipv4.sport = tuple.src_port.to_be();
        params.__bindgen_anon_1.ipv4.dport = tuple.dst_port.to_be();
        (params, 12)
    }
}

/// One load that saves nearly every packet the longest-prefix match.
#[inline(always)]
fn may_be_inside<A: Address>(bits: &Array<u64>, addr: &A) -> bool {
    let (word, bit) = network_bit(addr);
    bits.get(word).is_some_and(|bits| bits & bit != 0)
}

/// Not inlined, for a stack of its own.
#[inline(never)]
fn in_prefixes6(addr: &Addr6) -> bool {
    maps::PREFIXES_V6.get(lpm_trie::Key::new(128, *addr)).is_some()
}

impl FamilyMaps for V6 {
    const JUMP: u32 = 1;

    family_maps!(
        ADDRESSES_V6,
        PUBLISHED_PORTS_V6,
        PUBLISHED_SOURCES_V6,
        ALLOWED_V6,
        FLOWS_V6,
        MAPPINGS_V6,
        REPLIES_V6,
        SHARES_V6,
        FLOW_RING_V6,
        FRAGMENTS_V6,
        HAND_V6,
        PARKED_V6
    );

    #[inline(always)]
    fn in_prefixes(addr: &Addr6) -> bool {
        may_be_inside(&maps::NETWORK_BITS_V6, addr) && in_prefixes6(addr)
    }

    #[inline(always)]
    fn set_route(params: &mut bpf_fib_lookup, src_addr: &Addr6, dst_addr: &Addr6) {
        const AF_INET6: u8 = 10;
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = src_addr.words();
        params.__bindgen_anon_4.ipv6_dst = dst_addr.words();
    }

    #[inline(always)]
    fn next_hop(params: &bpf_fib_lookup) -> Addr6 {
        // SAFETY: the family is AF_INET6, so the kernel wrote this member.
        Addr6::from_words(unsafe { params.__bindgen_anon_4.ipv6_dst })
    }

    #[inline(always)]
    fn socket_tuple(tuple: &Tuple<Addr6>) -> (bpf_sock_tuple, u32) {
        let mut params = no_tuple();
        params.__bindgen_anon_1.ipv6.saddr = tuple.src_addr.words();
        params.__bindgen_anon_1.ipv6.daddr = tuple.dst_addr.words();
        params.__bindgen_anon_1.ipv6.sport = tuple.src_port.to_be();
        params.__bindgen_anon_1.ipv6.dport = tuple.dst_port.to_be();
        (params, 36)
    }
}
