//! All maps. Sizes here are defaults; the agent sets them when it loads the programs.
//!
//! Each map that has addresses in it is there once per family. Those of IPv6 that traffic fills take memory
//! when they are used only: many hosts have no IPv6.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf},
};
use netpath_common::{
    Addr4, Addr6, AllowedSource, Config, Counter, Datagram, DropKey, Endpoint, External, Flow, FragmentKey, Held,
    HeldBucket, HostPeer, HostPeerKey, Inside, Link, LinkKey, Mapping, MappingKey, NETWORK_BITS_WORDS, Network,
    PORT_BITS_WORDS, PortKey, PortSource, PortTarget, Reach, Share, TrustedKey, Tuple,
};
use netpath_ebpf::{
    family::{V4, V6},
    fragment::{BUCKETS, HELD_PER_BUCKET},
    port_alloc::BUCKETS_OF_INSIDE,
};

use super::{
    answer::Draft,
    hand::{Hand, Parked},
    icmp::Chunk,
};

/// Programs that are jumped to, by [`jump`]. Written by the agent before anything is attached.
#[map]
pub(super) static JUMPS: ProgramArray = ProgramArray::with_max_entries(12, 0);

/// Places in `JUMPS`: that of IPv4's program, and behind it that of IPv6's.
pub(super) mod jump {
    pub(in super::super) const INSIDE: u32 = 0;
    pub(in super::super) const FROM_CONTAINER: u32 = 2;
    pub(in super::super) const TO_EXTERNAL: u32 = 4;
    pub(in super::super) const BEGIN_FLOW: u32 = 6;
    pub(in super::super) const ANSWER_REFUSAL: u32 = 8;
    pub(in super::super) const RELEASE: u32 = 10;
}

/// Settings: one element. Written by the agent.
#[map]
pub(super) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// Networks by index. Written by the agent.
#[map]
pub(super) static NETWORKS: Array<Network> = Array::with_max_entries(256, 0);

/// What is between a network and the host, by ifindex: its bridge, or the host ends of its containers; the index of the network.
/// Written by the agent.
#[map]
pub(super) static GATEWAYS: HashMap<u32, u32> = HashMap::with_max_entries(256, BPF_F_NO_PREALLOC);

/// Endpoints by index. Written by the agent.
#[map]
pub(super) static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(4096, 0);

/// External interfaces by ifindex. Written by the agent.
#[map]
pub(super) static EXTERNALS: HashMap<u32, External> = HashMap::with_max_entries(256, 0);

/// Locks that are held at this moment. Written here and by the agent.
#[map]
pub(super) static LOCKS: HashMap<u64, u32> = HashMap::with_max_entries(1024, 0);

/// Traffic of endpoints and port bindings. Written here.
#[map]
pub(super) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(16384, 0);

/// Drops by interface and reason. Written here.
#[map]
pub(super) static DROPS: PerCpuHashMap<DropKey, Counter> = PerCpuHashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Drops and new flows for who watches. Written here, read by the agent.
#[map]
pub(super) static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Which ports of the host are published at all: see `port_bit`. Written by the agent.
#[map]
pub(super) static PORT_BITS: Array<u64> = Array::with_max_entries(PORT_BITS_WORDS, 0);

/// The same for the ports of containers. Written by the agent.
#[map]
pub(super) static SOURCE_BITS: Array<u64> = Array::with_max_entries(PORT_BITS_WORDS, 0);

/// Exposed ports that linked containers may use though inter-container communication is off. Written by
/// the agent.
#[map]
pub(super) static LINKS: HashMap<LinkKey, Link> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Interfaces from which a network's containers may be reached directly. Written by the agent.
#[map]
pub(super) static TRUSTED: HashMap<TrustedKey, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Container address to endpoint index. Written by the agent.
#[map]
pub(super) static ADDRESSES_V4: HashMap<Addr4, u32> = HashMap::with_max_entries(4096, 0);

/// Whether any network's addresses begin so: see `network_bit`. Written by the agent.
#[map]
pub(super) static NETWORK_BITS_V4: Array<u64> = Array::with_max_entries(NETWORK_BITS_WORDS, 0);

/// Subnets of the networks; of one without a bridge its containers' addresses alone. Written by the agent.
#[map]
pub(super) static PREFIXES_V4: LpmTrie<Addr4, u32> = LpmTrie::with_max_entries(256, BPF_F_NO_PREALLOC);

/// Published ports by host address and port. Written by the agent.
#[map]
pub(super) static PUBLISHED_PORTS_V4: HashMap<PortKey<Addr4>, PortTarget> = HashMap::with_max_entries(65536, 0);

/// What published ports are called outside, by container address and port. Written by the agent.
#[map]
pub(super) static PUBLISHED_SOURCES_V4: HashMap<PortKey<Addr4>, PortSource<Addr4>> =
    HashMap::with_max_entries(65536, 0);

/// Flows by the tuple the container knows. Written here, swept by the agent. Full: new flows are refused.
#[map]
pub(super) static FLOWS_V4: HashMap<Tuple<Addr4>, Flow<Addr4>> = HashMap::with_max_entries(131_072, 0);

/// Masquerade ports in use. Written here, swept by the agent.
#[map]
pub(super) static MAPPINGS_V4: HashMap<MappingKey<Addr4>, Mapping<Addr4>> = HashMap::with_max_entries(65536, 0);

/// How far masquerade ports are looked for, in buckets of inside addresses and ports of both families. Written here.
#[map]
pub(super) static REACHES: Array<Reach> = Array::with_max_entries(BUCKETS_OF_INSIDE, 0);

/// Flows through shared masquerade ports, by the tuple of their replies. Written here.
#[map]
pub(super) static REPLIES_V4: HashMap<Tuple<Addr4>, Inside<Addr4>> = HashMap::with_max_entries(32768, 0);

/// What each endpoint has of the table of flows, by its index; 0: all together. Written here, put right by the agent.
#[map]
pub(super) static SHARES_V4: Array<Share> = Array::with_max_entries(4096, 0);

/// Every flow's tuple again, in a ring that collection walks. Written here. A lost place is harmless.
#[map]
pub(super) static FLOW_RING_V4: Array<Tuple<Addr4>> = Array::with_max_entries(131_072, 0);

/// Each CPU's hand on the rings of flows, plus one; 0: not set yet. Written here.
#[map]
pub(super) static RING_HAND: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Datagrams whose first fragment was seen. Written here; the oldest goes when it is full.
#[map]
pub(super) static FRAGMENTS_V4: LruHashMap<FragmentKey<Addr4>, Datagram> = LruHashMap::with_max_entries(4096, 0);

/// What is in hand. Written here.
#[map]
pub(super) static HAND_V4: PerCpuArray<Hand<V4>> = PerCpuArray::with_max_entries(1, 0);

/// The flow that is to be made. Written here.
#[map]
pub(super) static PARKED_V4: PerCpuArray<Parked<V4>> = PerCpuArray::with_max_entries(1, 0);

/// Frames that are held back until their datagram's first fragment comes, by buckets. Written here.
#[map]
pub(super) static HELD: Array<Held> = Array::with_max_entries(BUCKETS * HELD_PER_BUCKET, 0);

/// Where the next frame is held in each bucket. Written here.
#[map]
pub(super) static HELD_BUCKETS: Array<HeldBucket> = Array::with_max_entries(BUCKETS, 0);

/// Part of a message that is summed up. Written here.
#[map]
pub(super) static CHUNK: PerCpuArray<Chunk> = PerCpuArray::with_max_entries(1, 0);

/// The frame that a program makes. Written here.
#[map]
pub(super) static DRAFT: PerCpuArray<Draft> = PerCpuArray::with_max_entries(1, 0);

/// Sources that may use a published port that has such a list. Written by the agent.
#[map]
pub(super) static ALLOWED_V4: LpmTrie<AllowedSource<Addr4>, u32> = LpmTrie::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Host ports that nobody may bind at the unspecified address: bits as in PORT_BITS. Written by the agent.
#[map]
pub(super) static RESERVED_V4: Array<u64> = Array::with_max_entries(PORT_BITS_WORDS, 0);

/// What the host's own sockets call the published ports they talk to. Written here; the longest unused goes
/// when it is full.
#[map]
pub(super) static HOST_PEERS_V4: LruHashMap<HostPeerKey<Addr4>, HostPeer<Addr4>> =
    LruHashMap::with_max_entries(16384, 0);

/// Container address to endpoint index. Written by the agent.
#[map]
pub(super) static ADDRESSES_V6: HashMap<Addr6, u32> = HashMap::with_max_entries(4096, 0);

/// Whether any network's addresses begin so: see `network_bit`. Written by the agent.
#[map]
pub(super) static NETWORK_BITS_V6: Array<u64> = Array::with_max_entries(NETWORK_BITS_WORDS, 0);

/// Subnets of the networks; of one without a bridge its containers' addresses alone. Written by the agent.
#[map]
pub(super) static PREFIXES_V6: LpmTrie<Addr6, u32> = LpmTrie::with_max_entries(256, BPF_F_NO_PREALLOC);

/// Published ports by host address and port. Written by the agent.
#[map]
pub(super) static PUBLISHED_PORTS_V6: HashMap<PortKey<Addr6>, PortTarget> = HashMap::with_max_entries(65536, 0);

/// What published ports are called outside, by container address and port. Written by the agent.
#[map]
pub(super) static PUBLISHED_SOURCES_V6: HashMap<PortKey<Addr6>, PortSource<Addr6>> =
    HashMap::with_max_entries(65536, 0);

/// Flows by the tuple the container knows. Written here, swept by the agent. Full: new flows are refused.
#[map]
pub(super) static FLOWS_V6: HashMap<Tuple<Addr6>, Flow<Addr6>> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// Masquerade ports in use. Written here, swept by the agent.
#[map]
pub(super) static MAPPINGS_V6: HashMap<MappingKey<Addr6>, Mapping<Addr6>> =
    HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Flows through shared masquerade ports, by the tuple of their replies. Written here.
#[map]
pub(super) static REPLIES_V6: HashMap<Tuple<Addr6>, Inside<Addr6>> =
    HashMap::with_max_entries(32768, BPF_F_NO_PREALLOC);

/// What each endpoint has of the table of flows, by its index; 0: all together. Written here, put right by the agent.
#[map]
pub(super) static SHARES_V6: Array<Share> = Array::with_max_entries(4096, 0);

/// Every flow's tuple again, in a ring that collection walks. Written here. A lost place is harmless.
#[map]
pub(super) static FLOW_RING_V6: Array<Tuple<Addr6>> = Array::with_max_entries(131_072, 0);

/// Datagrams whose first fragment was seen. Written here; the oldest goes when it is full.
#[map]
pub(super) static FRAGMENTS_V6: LruHashMap<FragmentKey<Addr6>, Datagram> = LruHashMap::with_max_entries(4096, 0);

/// What is in hand. Written here.
#[map]
pub(super) static HAND_V6: PerCpuArray<Hand<V6>> = PerCpuArray::with_max_entries(1, 0);

/// The flow that is to be made. Written here.
#[map]
pub(super) static PARKED_V6: PerCpuArray<Parked<V6>> = PerCpuArray::with_max_entries(1, 0);

/// Sources that may use a published port that has such a list. Written by the agent.
#[map]
pub(super) static ALLOWED_V6: LpmTrie<AllowedSource<Addr6>, u32> = LpmTrie::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Host ports that nobody may bind at the unspecified address: bits as in PORT_BITS. Written by the agent.
#[map]
pub(super) static RESERVED_V6: Array<u64> = Array::with_max_entries(PORT_BITS_WORDS, 0);

/// What the host's own sockets call the published ports they talk to. Written here; the longest unused goes
/// when it is full.
#[map]
pub(super) static HOST_PEERS_V6: LruHashMap<HostPeerKey<Addr6>, HostPeer<Addr6>> =
    LruHashMap::with_max_entries(16384, 0);
