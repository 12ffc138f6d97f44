//! What the agent's memory comes to when Docker Engine has a thousand containers: their interfaces are real, the Engine is
//! a stand-in that answers as one with so many would.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::sockets::eventually;
use netpath_tests::{Namespace, Options, Plane, World};

use crate::attempt::{attempt, in_short};
use crate::engine_answers::{self, Known};
use crate::machine::status_kib;
use crate::progress::Progress;
use crate::record::{Condition, Item, Outcome, Sample};

pub(crate) const CONTAINERS: u16 = 1_000;
const FIRST_PORT: u16 = 10_000;
/// How long the agent may take to serve all of them.
const PATIENCE: Duration = Duration::from_secs(180);
/// After this the agent has given back what it needed for a while.
const AT_REST: Duration = Duration::from_secs(15);

/// The agent's resident memory with so many containers, each with a published port.
pub fn measure(progress: &Progress) -> Vec<Item> {
    progress.says("docker-memory: 1,000 containers");
    let (samples, failed) = match attempt(|| vec![once()]) {
        Ok(samples) => (samples, None),
        Err(error) => {
            progress.line(&format!("docker-memory: {}", in_short(&error)));
            (Vec::new(), Some(in_short(&error)))
        }
    };
    vec![Item {
        name: "docker-memory".to_owned(),
        about: "the agent's resident memory beside Docker".to_owned(),
        command: "netpath agent --docker; VmRSS in /proc/PID/status".to_owned(),
        unit: "MiB".to_owned(),
        lower_is_better: true,
        condition: Some(Condition { of: "containers".to_owned(), count: CONTAINERS.into() }),
        results: vec![Outcome { contestant: crate::docker_run::WITH_NETPATH.to_owned(), samples, failed }],
    }]
}

fn once() -> Sample {
    let options = Options { watch: false, ..Options::agent("--docker={dir}/docker.sock") };
    let world = World::with(Plane::Netpath { shortcuts: true }, options);
    let rss_mib = || status_kib(world.agent_pid(), "VmRSS") as f64 / 1024.0;
    let before = rss_mib();
    let inside = world.namespace("containers");
    connect_all(&world.host, &inside);
    let process = inside.command("sleep").arg("3600").spawn().expect("start a process in a namespace");
    let process = Ended(process);
    let there = || Namespace::of_process(process.0.id()).interfaces().len();
    eventually("the process has its interfaces", || there() == usize::from(CONTAINERS));
    let start = Instant::now();
    engine_answers::serve(&world.dir().join("docker.sock"), process.0.id(), known());
    while served(&world) < usize::from(CONTAINERS) {
        assert!(start.elapsed() < PATIENCE, "{} of {CONTAINERS} are served after {PATIENCE:?}", served(&world));
        thread::sleep(Duration::from_millis(500));
    }
    let took = start.elapsed();
    // What the agent has learned and read once more since is part of it, and what it gives back is not.
    thread::sleep(AT_REST);
    let peak = status_kib(world.agent_pid(), "VmHWM") as f64 / 1024.0;
    Sample::of(rss_mib()).with("before_mib", before).with("peak_mib", peak).with("served_after_s", took.as_secs_f64())
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn served(world: &World) -> usize {
    world.json(&["ps"]).as_array().map_or(0, Vec::len)
}

fn known() -> Vec<Known> {
    let one = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let address = format!("172.20.{}.{}", 1 + number / 250, 1 + number % 250);
        Known { mac: format!("02:42:00:00:{high:02x}:{low:02x}"), address, host_port: FIRST_PORT + number }
    };
    (0..CONTAINERS).map(one).collect()
}

/// `docker0`, and a port of it for each container, all of which are in one namespace.
fn connect_all(host: &Namespace, inside: &Namespace) {
    host.ip("link add docker0 type bridge");
    host.ip("addr add 172.20.0.1/16 dev docker0");
    host.ip("link set docker0 up");
    host.set_sysctl("net/ipv4/conf/docker0/route_localnet", "1");
    let place = inside.path().display();
    let mut lines = String::new();
    for (number, known) in known().iter().enumerate() {
        let (veth, mac) = (format!("veth{number:07x}"), &known.mac);
        lines += &format!("link add {veth} type veth peer name e{number} address {mac} netns {place}\n");
        lines += &format!("link set {veth} master docker0 up\n");
    }
    batch(host, &lines);
}

fn batch(namespace: &Namespace, lines: &str) {
    let mut command: Command = namespace.command("ip");
    let child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("run {command:?}: {e}"));
    child.stdin.take().expect("stdin is piped").write_all(lines.as_bytes()).expect("write to ip");
    let status = child.wait().expect("wait for ip");
    assert!(status.success(), "ip -batch ended with {status}");
}
