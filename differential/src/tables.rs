//! netpath's tables from outside: time passes at once, and everything is forgotten.
//!
//! A flow has the moment of its last packet, a mapping that of its end. All that is ever asked is how far away they are, so
//! moving them back is the same as moving the clock forward, and the product needs no clock for tests.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData};
use netpath_common::{Addr4, Addr6, Address, Datagram, Flow, FragmentKey, Inside, Mapping, MappingKey, Share, Tuple};

/// Write only what is there: `BPF_EXIST`.
const EXIST: u64 = 2;

/// Shares that are in use: those of the few endpoints there are.
const SHARES: u32 = 32;

/// What traffic makes.
pub struct Tables {
    v4: FamilyTables<Addr4>,
    v6: FamilyTables<Addr6>,
}

/// The same of one family.
struct FamilyTables<A: Address + Pod> {
    flows: HashMap<MapData, Tuple<A>, Flow<A>>,
    mappings: HashMap<MapData, MappingKey<A>, Mapping<A>>,
    replies: HashMap<MapData, Tuple<A>, Inside<A>>,
    fragments: HashMap<MapData, FragmentKey<A>, Datagram>,
    shares: Array<MapData, Share>,
}

impl Tables {
    /// The tables in `maps`.
    pub fn open(maps: &Path) -> Self {
        Self { v4: FamilyTables::open(maps, "V4"), v6: FamilyTables::open(maps, "V6") }
    }

    /// `seconds` pass in which no packet is sent. What has expired stays, for the programs to find out.
    pub fn advance(&mut self, seconds: u32) {
        self.v4.advance(seconds);
        self.v6.advance(seconds);
    }

    /// Nothing has ever been sent.
    pub fn forget(&mut self) {
        self.v4.forget();
        self.v6.forget();
    }
}

impl<A: Address + Pod> FamilyTables<A> {
    /// The tables in `maps`, whose names end with `family`: `V4` or `V6`.
    fn open(maps: &Path, family: &str) -> Self {
        let shares = MapData::from_pin(maps.join(format!("SHARES_{family}"))).map(Map::Array);
        Self {
            flows: open(&maps.join(format!("FLOWS_{family}")), Map::HashMap),
            mappings: open(&maps.join(format!("MAPPINGS_{family}")), Map::HashMap),
            replies: open(&maps.join(format!("REPLIES_{family}")), Map::HashMap),
            fragments: open(&maps.join(format!("FRAGMENTS_{family}")), Map::LruHashMap),
            shares: Array::try_from(shares.expect("open the shares")).expect("an array of shares"),
        }
    }

    fn advance(&mut self, seconds: u32) {
        // What the agent's sweep has just removed stays away.
        for (tuple, flow) in entries(&self.flows) {
            let flow = Flow { last_seen_s: flow.last_seen_s.wrapping_sub(seconds), ..flow };
            let _ = self.flows.insert(tuple, flow, EXIST);
        }
        for (key, mapping) in entries(&self.mappings) {
            let mapping = Mapping { deadline_s: mapping.deadline_s.wrapping_sub(seconds), ..mapping };
            let _ = self.mappings.insert(key, mapping, EXIST);
        }
    }

    fn forget(&mut self) {
        clear(&mut self.flows);
        clear(&mut self.mappings);
        clear(&mut self.replies);
        clear(&mut self.fragments);
        for index in 0..SHARES {
            self.shares.set(index, Share::default(), 0).expect("write a share");
        }
    }
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
