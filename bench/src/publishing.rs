//! What publishing ports costs, and what the agent costs when there is nothing to do.

use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::{Options, Plane, World};

use crate::attempt::{attempt, in_short};
use crate::machine::{cpu_ms, status_kib};
use crate::plan::Effort;
use crate::progress::Progress;
use crate::record::{Condition, Item, Outcome, Sample, grouped};
use crate::stage::{EXTRA_PORTS, FIRST_EXTRA_PORT, extra_specs};

const COUNTS: [u16; 3] = [1, 1_000, EXTRA_PORTS];
const WAYS: [(&str, bool); 2] = [("netpath", false), ("netpath-range", true)];

/// Publishes and unpublishes ports of a container that runs, by the command line, one by one in one command and as a
/// range.
pub fn publish(effort: &Effort, progress: &Progress) -> Vec<Item> {
    progress.says("publish: building netpath");
    let options =
        || Options { watch: false, agent: ["--max-ports", "262144"].map(str::to_owned).to_vec(), ..Options::default() };
    let world = attempt(|| {
        let world = World::with(Plane::Netpath { shortcuts: true }, options());
        world.container("web", &[]);
        world
    });
    let items = COUNTS.map(|count| Item {
        name: "publish".to_owned(),
        about: "publish ports of a running container, by the command line".to_owned(),
        command: "netpath publish NAME SPEC...".to_owned(),
        unit: "ms".to_owned(),
        lower_is_better: true,
        condition: Some(Condition { of: "ports".to_owned(), count: count.into() }),
        results: WAYS.map(|(name, as_range)| outcome(&world, name, count, as_range, effort, progress)).to_vec(),
    });
    if let Err(error) = attempt(|| drop(world)) {
        progress.line(&format!("publish: at the end: {}", in_short(&error)));
    }
    items.to_vec()
}

fn outcome(
    world: &Result<World, String>,
    name: &str,
    count: u16,
    as_range: bool,
    effort: &Effort,
    progress: &Progress,
) -> Outcome {
    progress.says(&format!("publish: {} ports, {name}", grouped(count.into())));
    let rounds = || -> Vec<Sample> {
        let world = world.as_ref().unwrap_or_else(|error| panic!("{error}"));
        (0..effort.rounds).map(|_| once(world, count, as_range)).collect()
    };
    let (samples, failed) = match attempt(rounds) {
        Ok(samples) => (samples, None),
        Err(error) => {
            progress.line(&format!("publish, {} ports, {name}: {}", grouped(count.into()), in_short(&error)));
            (Vec::new(), Some(in_short(&error)))
        }
    };
    Outcome { contestant: name.to_owned(), samples, failed }
}

fn once(world: &World, count: u16, as_range: bool) -> Sample {
    let (first, last) = (FIRST_EXTRA_PORT, FIRST_EXTRA_PORT + (count - 1));
    let specs = extra_specs(first, last, as_range);
    let ports: Vec<&str> = specs.iter().map(|spec| spec.split(':').next().unwrap_or(spec)).collect();
    let timed = |args: Vec<&str>| {
        let start = Instant::now();
        world.netpath_ok(&args);
        start.elapsed().as_secs_f64() * 1e3
    };
    // What a command line takes that asks nobody.
    let start_ms = timed(vec!["--version"]);
    let publish_ms = timed(["publish", "web"].into_iter().chain(specs.iter().map(String::as_str)).collect());
    let rss_mib = status_kib(world.agent_pid(), "VmRSS") as f64 / 1024.0;
    let map_bytes = map_bytes(world);
    let unpublish_ms = timed(["unpublish", "web"].into_iter().chain(ports).collect());
    let sample = Sample::of(publish_ms).with("unpublish_ms", unpublish_ms).with("start_ms", start_ms);
    sample.with("agent_rss_mib", rss_mib).with("map_bytes", map_bytes)
}

/// The agent's CPU time and memory while nothing happens: with one published port, and after 60,000 more.
pub fn rest(effort: &Effort, progress: &Progress) -> Vec<Item> {
    let seconds = effort.seconds.max(if effort.quick { 2 } else { 10 });
    let item = |condition, results| Item {
        name: "rest".to_owned(),
        about: "the agent's CPU time for each second without traffic".to_owned(),
        command: format!("/proc/PID/task/*/schedstat, {seconds} s"),
        unit: "ms/s".to_owned(),
        lower_is_better: true,
        condition,
        results,
    };
    let outcome = |(name, as_range): (&str, bool), count: u16| {
        progress.says(&format!("rest: {name}"));
        let (samples, failed) = match attempt(|| vec![at_rest(count, as_range, seconds)]) {
            Ok(samples) => (samples, None),
            Err(error) => {
                progress.line(&format!("rest, {name}: {}", in_short(&error)));
                (Vec::new(), Some(in_short(&error)))
            }
        };
        Outcome { contestant: name.to_owned(), samples, failed }
    };
    let many = Condition { of: "ports".to_owned(), count: EXTRA_PORTS.into() };
    vec![item(None, vec![outcome(WAYS[0], 0)]), item(Some(many), WAYS.map(|way| outcome(way, EXTRA_PORTS)).to_vec())]
}

fn at_rest(count: u16, as_range: bool, seconds: u32) -> Sample {
    let agent = if count > 0 { ["--max-ports", "262144"].map(str::to_owned).to_vec() } else { Vec::new() };
    let world = World::with(Plane::Netpath { shortcuts: true }, Options { watch: false, agent, ..Options::default() });
    let web = world.container("web", &["2080:80"]);
    if count > 0 {
        let specs = extra_specs(FIRST_EXTRA_PORT, FIRST_EXTRA_PORT + (count - 1), as_range);
        world.publish_all(&web, &specs.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let pid = world.agent_pid();
    // What start and ports left to do is not rest.
    thread::sleep(Duration::from_secs(1));
    let before = cpu_ms(pid);
    thread::sleep(Duration::from_secs(seconds.into()));
    let used = (cpu_ms(pid) - before) / f64::from(seconds);
    let sample = Sample::of(used).with("agent_rss_mib", status_kib(pid, "VmRSS") as f64 / 1024.0);
    let sample = sample.with("map_bytes", map_bytes(&world));
    let flows = ["FLOWS_V4", "MAPPINGS_V4", "REPLIES_V4", "FLOW_RING_V4"];
    let sample = with_bytes(sample, &world, "bytes_per_flow", &flows);
    with_bytes(sample, &world, "bytes_per_port", &["PUBLISHED_PORTS_V4", "PUBLISHED_SOURCES_V4"])
}

fn map_bytes(world: &World) -> f64 {
    maps(world).iter().filter_map(|map| map["bytes"].as_f64()).sum()
}

/// `sample` with what the maps `names` take for each entry that the first of them has room for, together as `key` and one by
/// one as `key:NAME`.
fn with_bytes(sample: Sample, world: &World, key: &str, names: &[&str]) -> Sample {
    let maps = maps(world);
    let field = |name: &str, field: &str| {
        let map = maps.iter().find(|map| map["name"] == name);
        let value = map.and_then(|map| map[field].as_f64());
        value.unwrap_or_else(|| panic!("`netpath stats` says no {field} of {name}"))
    };
    let bytes = |name: &str| field(name, "bytes") / field(names[0], "max_entries");
    let whole = sample.with(key, names.iter().copied().map(bytes).sum());
    names.iter().fold(whole, |sample, name| sample.with(&format!("{key}:{name}"), bytes(name)))
}

fn maps(world: &World) -> Vec<serde_json::Value> {
    world.json(&["stats"])["maps"].as_array().expect("a list of maps").clone()
}
