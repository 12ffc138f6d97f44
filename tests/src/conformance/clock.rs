//! Time passes at once: what a translator remembers is aged.
//!
//! Both planes keep one moment per flow and compare it with the clock: netpath when the flow was last used and when its
//! mapping ends, conntrack when the connection ends. All that is ever asked is the difference, so moving those moments back
//! is the same as moving the clock forward, for all flows alike and without a clock that only tests have.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use netpath_common::{Addr4, Addr6, Address, Flow, Mapping, MappingKey, Tuple};
use netpath_tests::{Family, Plane, World, program};

/// `seconds` pass in which no packet is sent.
pub(crate) fn advance(world: &World, seconds: u32) {
    match world.plane {
        Plane::Netpath { .. } => {
            let maps = world.instance().pin_dir.join("maps");
            age_netpath::<Addr4>(&maps, "V4", seconds);
            age_netpath::<Addr6>(&maps, "V6", seconds);
        }
        Plane::Iptables { .. } => Family::BOTH.iter().for_each(|family| age_conntrack(world, *family, seconds)),
    }
}

fn age_netpath<A: Address + Pod>(maps: &Path, family: &str, seconds: u32) {
    let mut flows: HashMap<_, Tuple<A>, Flow<A>> = open(&maps.join(format!("FLOWS_{family}")));
    let found: Vec<_> = flows.iter().map(|entry| entry.expect("read a flow")).collect();
    for (tuple, mut flow) in found {
        flow.last_seen_s = flow.last_seen_s.wrapping_sub(seconds);
        replace(&mut flows, &tuple, &flow);
    }
    let mut mappings: HashMap<_, MappingKey<A>, Mapping<A>> = open(&maps.join(format!("MAPPINGS_{family}")));
    let found: Vec<_> = mappings.iter().map(|entry| entry.expect("read a mapping")).collect();
    for (key, mut mapping) in found {
        mapping.deadline_s = mapping.deadline_s.wrapping_sub(seconds);
        replace(&mut mappings, &key, &mapping);
    }
}

fn open<K: Pod, V: Pod>(path: &Path) -> HashMap<MapData, K, V> {
    let data = MapData::from_pin(path).unwrap_or_else(|e| panic!("open the map {}: {e}", path.display()));
    HashMap::try_from(Map::HashMap(data)).unwrap_or_else(|e| panic!("the map {}: {e}", path.display()))
}

/// Writes an entry that is there; one that the agent's sweep has just removed stays away.
fn replace<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: &K, value: &V) {
    const ONLY_IF_IT_EXISTS: u64 = 2;
    if let Err(error) = map.insert(key, value, ONLY_IF_IT_EXISTS) {
        assert!(map.get(key, 0).is_err(), "age an entry: {error}");
    }
}

fn age_conntrack(world: &World, family: Family, seconds: u32) {
    let family = family.pick("ipv4", "ipv6");
    let list = || program::stdout_of(world.host.command("conntrack").args(["-L", "-f", family]));
    // Of other protocols there is the host's own talk to groups, which no row is about.
    let of_interest =
        |line: &&str| ["tcp", "udp", "icmp", "icmpv6", "sctp"].iter().any(|p| line.split(' ').next() == Some(p));
    for line in list().lines().filter(of_interest) {
        let (selector, remaining) = selector(line).unwrap_or_else(|| panic!("what does conntrack mean by `{line}`?"));
        let left = remaining.saturating_sub(seconds);
        let mut command = world.host.command("conntrack");
        command.args([if left == 0 { "-D" } else { "-U" }, "-f", family]).args(&selector);
        if left > 0 {
            command.arg("-t").arg(left.to_string());
        }
        // The tool walks the table, and on a busy machine a walk may miss an entry.
        let shown = line.split(" src=").nth(1).unwrap_or(line);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let output = program::output_of(&mut command);
            if output.status.success() || !list().contains(shown) {
                break;
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < deadline, "age `{line}` by {seconds} s: {command:?}: {said}");
            sleep(Duration::from_millis(10));
        }
    }
}

/// How to name the connection in `line`, and how many seconds it has left.
fn selector(line: &str) -> Option<(Vec<String>, u32)> {
    let mut words = line.split_whitespace();
    let (proto, _number, remaining) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    let mut selector = vec!["-p".to_owned(), proto.to_owned()];
    let mut seen = Vec::new();
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let option = match (name, proto) {
            ("src" | "dst" | "sport" | "dport", _) => format!("--{name}"),
            ("type" | "code" | "id", _) => format!("--{proto}-{name}"),
            _ => continue,
        };
        // The first direction is the original one; the second says the same names again.
        if !seen.contains(&name) {
            seen.push(name);
            selector.extend([option, value.to_owned()]);
        }
    }
    Some((selector, remaining))
}
