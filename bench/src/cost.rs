//! What each eBPF program costs per packet, as the kernel counts it under real traffic.

use aya::sys::{Stats, enable_stats};
use netpath_tests::World;
use serde_json::Value;

/// What a program cost while something ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    pub program: String,
    pub packets: u64,
    pub ns_per_packet: f64,
}

/// Runs `load` while the kernel times every program, and returns what those of `world` cost. The kernel stops timing
/// when the file descriptor closes, also when this process is killed.
pub fn during(world: &World, load: impl FnOnce()) -> Vec<Cost> {
    let timing = enable_stats(Stats::RunTime).unwrap_or_else(|e| panic!("turn on the timing of bpf programs: {e}"));
    let before = counts(&world.json(&["stats"]));
    load();
    let after = counts(&world.json(&["stats"]));
    drop(timing);
    let costs = after.into_iter().map(|(program, runs, ns)| {
        let (runs_before, ns_before) = before.iter().find(|(p, ..)| *p == program).map_or((0, 0), |(_, r, n)| (*r, *n));
        let packets = runs - runs_before;
        Cost { program, packets, ns_per_packet: (ns - ns_before) as f64 / packets.max(1) as f64 }
    });
    costs.collect()
}

/// Name, runs and nanoseconds of each program in the output of `netpath stats --json`. Programs of one name are added
/// up.
fn counts(stats: &Value) -> Vec<(String, u64, u64)> {
    let mut counts: Vec<(String, u64, u64)> = Vec::new();
    for program in stats["programs"].as_array().into_iter().flatten() {
        let name = program["name"].as_str().unwrap_or_default();
        let number = |field: &str| program[field].as_u64().unwrap_or(0);
        match counts.iter_mut().find(|(known, ..)| known == name) {
            Some((_, runs, ns)) => {
                *runs += number("run_count");
                *ns += number("run_time_ns");
            }
            None => counts.push((name.to_owned(), number("run_count"), number("run_time_ns"))),
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn programs_of_one_name_are_added_up() {
        let program = |name: &str, runs: u64| json!({"name": name, "run_count": runs, "run_time_ns": runs * 50});
        let stats =
            json!({"programs": [program("from_external", 1), program("to_external", 2), program("from_external", 3)]});
        let want = [("from_external".to_owned(), 4, 200), ("to_external".to_owned(), 2, 100)];
        assert_eq!(counts(&stats), want);
    }
}
