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
        about: "publish ports of a running container; unpublishing is in the raw data".to_owned(),
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
    let publish_ms = timed(["publish", "web"].into_iter().chain(specs.iter().map(String::as_str)).collect());
    let rss_mib = status_kib(world.agent_pid(), "VmRSS") as f64 / 1024.0;
    let map_bytes = map_bytes(world);
    let unpublish_ms = timed(["unpublish", "web"].into_iter().chain(ports).collect());
    let sample = Sample::of(publish_ms).with("unpublish_ms", unpublish_ms);
    sample.with("agent_rss_mib", rss_mib).with("map_bytes", map_bytes)
}

/// The agent's CPU time and memory while nothing happens.
pub fn rest(effort: &Effort, progress: &Progress) -> Item {
    progress.says("rest: netpath");
    let seconds = effort.seconds.max(if effort.quick { 2 } else { 10 });
    let world = attempt(|| {
        let world = World::with(Plane::Netpath { shortcuts: true }, Options { watch: false, ..Options::default() });
        world.container("web", &["2080:80"]);
        world
    });
    let look = || {
        let world = world.as_ref().unwrap_or_else(|error| panic!("{error}"));
        let pid = world.agent_pid();
        // What the start left to do is not rest.
        thread::sleep(Duration::from_secs(1));
        let before = cpu_ms(pid);
        thread::sleep(Duration::from_secs(seconds.into()));
        let used = (cpu_ms(pid) - before) / f64::from(seconds);
        let sample = Sample::of(used).with("agent_rss_mib", status_kib(pid, "VmRSS") as f64 / 1024.0);
        vec![sample.with("map_bytes", map_bytes(world))]
    };
    let (samples, failed) = match attempt(look) {
        Ok(samples) => (samples, None),
        Err(error) => {
            progress.line(&format!("rest: {}", in_short(&error)));
            (Vec::new(), Some(in_short(&error)))
        }
    };
    Item {
        name: "rest".to_owned(),
        about: "the agent's CPU time for each second without traffic".to_owned(),
        command: format!("/proc/PID/task/*/schedstat, {seconds} s"),
        unit: "ms/s".to_owned(),
        lower_is_better: true,
        condition: None,
        results: vec![Outcome { contestant: "netpath".to_owned(), samples, failed }],
    }
}

fn map_bytes(world: &World) -> f64 {
    let stats = world.json(&["stats"]);
    stats["maps"].as_array().expect("a list of maps").iter().filter_map(|map| map["bytes"].as_f64()).sum()
}
