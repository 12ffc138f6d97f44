//! How long ADD and DEL take, beside Debian's bridge and portmap in the same run. A measurement to be read, not a test:
//! `NETPATH_BIN=target/release/netpath cargo nextest run -p netpath-tests cni_speed --run-ignored only --no-capture`.

use std::time::{Duration, Instant};

use netpath_tests::cni_runtime::{Attachment, Runtime, debian_plugins};
use netpath_tests::{Plane, World};
use serde_json::json;

const ROUNDS: u16 = 50;

/// What one list took, ADD and DEL.
#[derive(Default)]
struct Times {
    add: Vec<Duration>,
    del: Vec<Duration>,
}

#[test]
#[ignore = "a measurement, whose times are those of the machine"]
fn add_and_del_beside_debians_plugins() {
    debian_plugins().unwrap();
    let (own, debians) = (World::new(Plane::Netpath { shortcuts: true }), World::new(Plane::Iptables { proxy: false }));
    let ipam = |world: &World, number: u8| {
        let (directory, ranges) = (world.dir().join("leases"), json!([[{"subnet": format!("10.{number}.0.0/16")}]]));
        json!({"type": "host-local", "dataDir": directory, "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]})
    };
    let bridge =
        json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipam": ipam(&debians, 97)});
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let behind = json!({"type": "bridge", "bridge": "cni1", "isGateway": true, "ipam": ipam(&own, 98)});
    let chained = json!({"type": "netpath-cni", "ipMasq": true, "capabilities": {"portMappings": true}});
    let lists = [
        ("netpath, own addresses", &own, Runtime::of_netpath(&own, "1.0.0", "own", json!({"subnet": "10.96.0.0/16"}))),
        ("netpath, host-local", &own, Runtime::of_netpath(&own, "1.0.0", "local", json!({"ipam": ipam(&own, 99)}))),
        ("Debian's bridge, then netpath", &own, Runtime::new(&own, "1.0.0", "chained", vec![behind, chained])),
        ("Debian's bridge, portmap", &debians, Runtime::new(&debians, "1.0.0", "debian", vec![bridge, portmap])),
    ];
    let pods: Vec<_> = lists.iter().zip(0..).map(|((_, world, _), number)| pod(world, number)).collect();
    let mut times: Vec<Times> = lists.iter().map(|_| Times::default()).collect();
    for round in 0..=ROUNDS {
        for (index, (_, _, runtime)) in lists.iter().enumerate() {
            let pod = pods[index].publishing(&[(8000 + round + 1000 * index as u16, 80)]);
            let add = timed(|| drop(runtime.add(&pod).unwrap()));
            let del = timed(|| drop(runtime.del(&pod).unwrap()));
            // The first one makes network and bridge.
            if round > 0 {
                times[index].add.push(add);
                times[index].del.push(del);
            }
        }
    }
    for ((name, ..), times) in lists.iter().zip(times) {
        println!("{name}: ADD {}, DEL {} (of {ROUNDS})", shown(times.add), shown(times.del));
    }
}

fn pod(world: &World, number: u32) -> Attachment {
    let name = format!("pod{number}");
    Attachment::new(&name, world.namespace(&name).path())
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    format!("median {:.1} ms, 10th {:.1}, 90th {:.1}", at(50), at(10), at(90))
}
