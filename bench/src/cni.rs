//! How long CNI's ADD and DEL take: netpath's plugin and Debian's, one after the other, on hosts of their own.

use std::path::Path;
use std::time::Instant;

use netpath_tests::cni_runtime::{Attachment, Runtime, debian_plugins};
use netpath_tests::{Backend, Options, Plane, World};
use serde_json::{Value, json};

use crate::attempt::{attempt, in_short};
use crate::plan::Effort;
use crate::progress::Progress;
use crate::record::{Item, Outcome, Sample};
use crate::spread::Spread;

pub(crate) const NETPATH: &str = "netpath-cni";
pub(crate) const DEBIANS: &str = "bridge+portmap";

/// Lists of plugins, in the order in which they begin.
const LISTS: [&str; 4] = [NETPATH, "netpath-cni+host-local", "bridge+netpath-cni", DEBIANS];

const ADD: (&str, &str) = ("cni-add", "CNI: connect a container and publish a port of it (ADD of the whole list)");
const DEL: (&str, &str) = ("cni-del", "CNI: disconnect a container (DEL of the whole list)");

/// ADD and DEL of one round. A sample is their median.
const PASSES: usize = 20;
const QUICK_PASSES: usize = 5;

/// What the calls of one list took in each round.
#[derive(Clone, Default)]
struct Samples {
    add: Vec<Sample>,
    del: Vec<Sample>,
}

/// Connects and disconnects a container again and again.
pub fn measure(effort: &Effort, progress: &Progress) -> Vec<Item> {
    progress.says("cni: ADD and DEL");
    match attempt(|| rounds(effort)) {
        Ok(samples) => {
            let add = samples.iter().map(|samples| samples.add.clone());
            let del = samples.iter().map(|samples| samples.del.clone());
            vec![item(ADD, add), item(DEL, del)]
        }
        Err(error) => {
            progress.line(&format!("cni: left out: {}", in_short(&error)));
            Vec::new()
        }
    }
}

fn item((name, about): (&str, &str), samples: impl Iterator<Item = Vec<Sample>>) -> Item {
    let outcome = |(contestant, samples): (&str, Vec<Sample>)| Outcome {
        contestant: contestant.to_owned(),
        samples,
        failed: None,
    };
    Item {
        name: name.to_owned(),
        about: about.to_owned(),
        command: format!("the plugins of a list as a runtime starts them, {PASSES} times a round"),
        unit: "ms".to_owned(),
        lower_is_better: true,
        condition: None,
        results: LISTS.into_iter().zip(samples).map(outcome).collect(),
    }
}

fn rounds(effort: &Effort) -> Vec<Samples> {
    debian_plugins().unwrap_or_else(|why| panic!("{why}"));
    let options = || Options { watch: false, backend: Backend::Nft, ..Options::default() };
    let own = World::with(Plane::Netpath { shortcuts: true }, options());
    let debians = World::with(Plane::Iptables { proxy: false }, options());
    let lists = lists(&own, &debians);
    let pod = |(world, name): (&World, &str)| {
        let name = name.replace('+', "-");
        Attachment::new(&name, world.namespace(&name).path())
    };
    let pods: Vec<Attachment> = [&own, &own, &own, &debians].into_iter().zip(LISTS).map(pod).collect();
    // The first call makes network and bridge.
    lists.iter().zip(&pods).zip(PORTS).for_each(|((list, pod), port)| _ = once(list, pod, port));
    let mut samples = vec![Samples::default(); lists.len()];
    let passes = if effort.quick { QUICK_PASSES } else { PASSES };
    for _ in 0..effort.rounds {
        let mut took = vec![(Vec::new(), Vec::new()); lists.len()];
        for pass in 0..passes {
            for index in (0..lists.len()).map(|turn| (turn + pass) % lists.len()) {
                let (add, del) = once(&lists[index], &pods[index], PORTS[index]);
                took[index].0.push(add);
                took[index].1.push(del);
            }
        }
        for (samples, (add, del)) in samples.iter_mut().zip(took) {
            samples.add.push(sample(add));
            samples.del.push(sample(del));
        }
    }
    samples
}

/// The host port of each list's container.
const PORTS: [u16; 4] = [8000, 8001, 8002, 8003];

fn lists<'a>(own: &'a World, debians: &'a World) -> [Runtime<'a>; 4] {
    const VERSION: &str = "1.0.0";
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
                        "ipam": ipam(&debians.dir(), 97)});
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let behind = json!({"type": "bridge", "bridge": "cni1", "isGateway": true, "ipam": ipam(&own.dir(), 98)});
    let chained = json!({"type": "netpath-cni", "ipMasq": true, "capabilities": {"portMappings": true}});
    [
        Runtime::of_netpath(own, VERSION, "own", json!({"subnet": "10.96.0.0/16"})),
        Runtime::of_netpath(own, VERSION, "local", json!({"ipam": ipam(&own.dir(), 99)})),
        Runtime::new(own, VERSION, "chained", vec![behind, chained]),
        Runtime::new(debians, VERSION, "debian", vec![bridge, portmap]),
    ]
}

/// Debian's plugin that gives addresses.
fn ipam(dir: &Path, number: u8) -> Value {
    let ranges = json!([[{"subnet": format!("10.{number}.0.0/16")}]]);
    json!({"type": "host-local", "dataDir": dir.join("leases"), "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]})
}

/// ADD and DEL of a container that publishes a port: milliseconds of each.
fn once(list: &Runtime<'_>, pod: &Attachment, port: u16) -> (f64, f64) {
    let pod = pod.publishing(&[(port, 80)]);
    let timed = |call: &dyn Fn() -> Result<Value, Value>| {
        let start = Instant::now();
        call().unwrap_or_else(|error| panic!("CNI: {error}"));
        start.elapsed().as_secs_f64() * 1e3
    };
    (timed(&|| list.add(&pod)), timed(&|| list.del(&pod)))
}

fn sample(ms: Vec<f64>) -> Sample {
    let Spread { median, max, .. } = Spread::of(ms);
    Sample::of(median).with("slowest_ms", max)
}
