//! netpath's tables from outside: time passes at once, and everything is forgotten.
//!
//! A flow has the moment of its last packet, a mapping that of its end. All that is ever asked is how far away they are, so
//! moving them back is the same as moving the clock forward, and the product needs no clock for tests.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use netpath_common::{
    Address, CtState, Datagram, Flow, FragmentKey, Inside, Mapping, MappingKey, Share, Timeouts, Tuple, flow_flag,
    proto, seconds,
};
use nix::time::{ClockId, clock_gettime};

/// Write only what is there: `BPF_EXIST`.
const EXIST: u64 = 2;

/// Shares that are in use: those of the few endpoints there are.
const SHARES: u32 = 32;

/// What traffic makes, of one family.
pub struct Tables<A: Address + Pod> {
    flows: HashMap<MapData, Tuple<A>, Flow<A>>,
    mappings: HashMap<MapData, MappingKey<A>, Mapping<A>>,
    replies: HashMap<MapData, Tuple<A>, Inside<A>>,
    fragments: HashMap<MapData, FragmentKey<A>, Datagram>,
    shares: Array<MapData, Share>,
}

impl<A: Address + Pod> Tables<A> {
    /// The tables in `maps`, whose names end with `family`: `V4` or `V6`.
    pub fn open(maps: &Path, family: &str) -> Self {
        let shares = MapData::from_pin(maps.join(format!("SHARES_{family}"))).map(Map::Array);
        Self {
            flows: open(&maps.join(format!("FLOWS_{family}")), Map::HashMap),
            mappings: open(&maps.join(format!("MAPPINGS_{family}")), Map::HashMap),
            replies: open(&maps.join(format!("REPLIES_{family}")), Map::HashMap),
            fragments: open(&maps.join(format!("FRAGMENTS_{family}")), Map::LruHashMap),
            shares: Array::try_from(shares.expect("open the shares")).expect("an array of shares"),
        }
    }

    /// `seconds` pass in which no packet is sent.
    ///
    /// Named flows and mappings that have expired are removed at once, as the agent's sweep does after a while: until
    /// then a question may bring the former back, and errors are translated by the latter. Masqueraded flows stay, for
    /// the programs to find out that they have expired.
    pub fn advance(&mut self, seconds: u32) {
        let now_s = now_s();
        for (tuple, mut flow) in entries(&self.flows) {
            flow.last_seen_s = flow.last_seen_s.wrapping_sub(seconds);
            let age_s = now_s.saturating_sub(flow.last_seen_s);
            if flow.flags & flow_flag::NAMED != 0 && age_s > timeout_s(flow.state(tuple.proto), tuple.proto) {
                let _ = self.flows.remove(&tuple);
            } else {
                // What the agent's sweep has just removed stays away.
                let _ = self.flows.insert(tuple, flow, EXIST);
            }
        }
        for (key, mut mapping) in entries(&self.mappings) {
            mapping.deadline_s = mapping.deadline_s.wrapping_sub(seconds);
            if mapping.deadline_s < now_s {
                self.end(key, mapping);
            } else {
                let _ = self.mappings.insert(key, mapping, EXIST);
            }
        }
    }

    /// A mapping is nobody's any more. A search for another one may have to walk past it: then the place stays.
    fn end(&mut self, key: MappingKey<A>, mapping: Mapping<A>) {
        if mapping.passed == 0 {
            let _ = self.mappings.remove(&key);
        } else {
            let _ = self.mappings.insert(key, Mapping { addr: A::UNSPECIFIED, ..mapping }, EXIST);
        }
    }

    /// Nothing has ever been sent.
    pub fn forget(&mut self) {
        clear(&mut self.flows);
        clear(&mut self.mappings);
        clear(&mut self.replies);
        clear(&mut self.fragments);
        for index in 0..SHARES {
            self.shares.set(index, Share::default(), 0).expect("write a share");
        }
    }
}

fn timeout_s(state: CtState, protocol: u8) -> u32 {
    let timeouts = Timeouts::default();
    match state {
        CtState::Established => timeouts.tcp,
        CtState::SynSent | CtState::Closing => timeouts.tcp_transitory,
        CtState::Unreplied | CtState::Assured if protocol != proto::UDP => timeouts.icmp,
        CtState::Unreplied => timeouts.udp_unreplied,
        CtState::Assured => timeouts.udp,
    }
}

/// The programs' clock.
fn now_s() -> u32 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("read the clock");
    seconds(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

fn open<K: Pod, V: Pod>(path: &Path, kind: fn(MapData) -> Map) -> HashMap<MapData, K, V> {
    let data = MapData::from_pin(path).unwrap_or_else(|e| panic!("open the map {}: {e}", path.display()));
    HashMap::try_from(kind(data)).unwrap_or_else(|e| panic!("the map {}: {e}", path.display()))
}

fn entries<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Vec<(K, V)> {
    map.iter().filter_map(Result::ok).collect()
}

fn clear<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>) {
    for (key, _) in entries(map) {
        let _ = map.remove(&key);
    }
}
