//! What published ports cost whoever starts containers with Docker Engine: from `docker run -d -p` to the first answer,
//! and from `docker rm -f` to the ports being free. The Engine alone, and the Engine with its forwarding left to netpath.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::engine::{self, Engine, FOR_NETPATH, IMAGE, Release};
use netpath_tests::{Bare, HOST, Namespace, Options, Plane, World};

use crate::attempt::{attempt, in_short};
use crate::plan::Effort;
use crate::progress::Progress;
use crate::record::{Condition, Item, Outcome, Sample, grouped};

/// Contestants: the Engine as it starts by default, and with the options of docs/docker.md beside `netpath agent --docker`.
pub(crate) const ALONE: &str = "docker";
pub(crate) const WITH_NETPATH: &str = "docker+netpath";

pub(crate) const COUNTS: [u16; 3] = [1, 100, 1_000];

const RUN: (&str, &str) = ("docker-run", "Docker: from `docker run -d -p` to the first answer");
const RM: (&str, &str) =
    ("docker-rm", "Docker: from `docker rm -f` until it is done and the port is another program's");

/// Which Engine: that of the machine's Debian.
const RELEASE: Release = Release::Own;
const FIRST_PORT: u16 = 5_000;
/// How long a connection attempt or an answer may take before it is tried again.
const STEP: Duration = Duration::from_millis(100);
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a program of the host says that has taken the port.
const FREE: u8 = b'!';

/// Where an Engine runs.
enum Ground {
    Bare(Bare),
    World(Box<World>),
}

/// Its name, and where its Engine runs, or why there is none any more.
type Contestant<'a> = (&'static str, Result<(&'a Ground, Engine<'a>), String>);

/// What one container came to.
struct Turn {
    run: Sample,
    rm: Sample,
}

impl Ground {
    fn new(name: &str) -> Self {
        if name == ALONE {
            return Self::Bare(Bare::new());
        }
        let options = Options { watch: false, ..Options::agent("--docker={dir}/docker/sock") };
        Self::World(Box::new(World::with(Plane::Netpath { shortcuts: true }, options)))
    }

    fn engine(&self) -> Engine<'_> {
        match self {
            Self::Bare(bare) => Engine::alone(bare, RELEASE, &[]),
            Self::World(world) => Engine::start(world, RELEASE, &FOR_NETPATH),
        }
    }

    fn host_and_client(&self) -> (&Namespace, &Namespace) {
        match self {
            Self::Bare(bare) => (&bare.host, &bare.client),
            Self::World(world) => (&world.host, &world.client),
        }
    }
}

/// Starts and removes a container with more and more published ports.
pub fn measure(effort: &Effort, progress: &Progress) -> Vec<Item> {
    if let Some(why) = engine::missing(RELEASE) {
        progress.line(&format!("docker: left out: {why}"));
        return Vec::new();
    }
    progress.says("docker: building");
    let grounds = [ALONE, WITH_NETPATH].map(|name| (name, attempt(|| Ground::new(name))));
    let mut contestants: Vec<Contestant<'_>> = Vec::new();
    for (name, ground) in &grounds {
        let started = ground.as_ref().map_err(Clone::clone);
        contestants.push((name, started.and_then(|ground| attempt(|| (ground, ground.engine())))));
    }
    let mut items = Vec::new();
    for count in COUNTS {
        items.extend(with_ports(count, effort, &mut contestants, progress));
    }
    items
}

/// The contestants take turns, and another one begins each round.
fn with_ports(count: u16, effort: &Effort, contestants: &mut [Contestant<'_>], progress: &Progress) -> [Item; 2] {
    let mut turns: Vec<Vec<Turn>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..effort.rounds as usize {
        for turn in 0..turns.len() {
            let index = (turn + round) % turns.len();
            let (name, contestant) = &mut contestants[index];
            progress.says(&format!("docker run, {} ports: {name}", grouped(count.into())));
            let Ok((ground, engine)) = contestant else { continue };
            match attempt(|| once(ground, engine, count)) {
                Ok(turn) => turns[index].push(turn),
                Err(error) => {
                    progress.line(&format!("{name}: left out from here on: {}", in_short(&error)));
                    *contestant = Err(error);
                }
            }
        }
    }
    let outcomes = |of: fn(&Turn) -> &Sample| {
        let outcome = |((name, contestant), turns): (&Contestant<'_>, &Vec<Turn>)| Outcome {
            contestant: (*name).to_owned(),
            samples: turns.iter().map(|turn| of(turn).clone()).collect(),
            failed: contestant.as_ref().err().map(|error| in_short(error)),
        };
        contestants.iter().zip(&turns).map(outcome).collect()
    };
    [item(RUN, count, outcomes(|turn| &turn.run)), item(RM, count, outcomes(|turn| &turn.rm))]
}

fn item((name, about): (&str, &str), count: u16, results: Vec<Outcome>) -> Item {
    Item {
        name: name.to_owned(),
        about: about.to_owned(),
        command: "docker run -d -p FIRST-LAST:FIRST-LAST busybox httpd -p LAST; docker rm -f".to_owned(),
        unit: "ms".to_owned(),
        lower_is_better: true,
        condition: Some(Condition { of: "ports".to_owned(), count: count.into() }),
        results,
    }
}

/// Starts a container whose server is at the last of its ports, and removes it.
fn once(ground: &Ground, engine: &Engine<'_>, count: u16) -> Turn {
    let (host, client) = ground.host_and_client();
    let last = FIRST_PORT + (count - 1);
    let address = SocketAddr::new(HOST, last);
    let spec = if count == 1 { format!("{last}:{last}") } else { format!("{FIRST_PORT}-{last}:{FIRST_PORT}-{last}") };
    let port = last.to_string();
    let server = ["/bin/busybox", "httpd", "-f", "-p", &port];
    let args = [&["run", "-d", "--name", "web", "-p", &spec, IMAGE], &server[..]].concat();
    let is_answered = || asks(address, b"GET / HTTP/1.0\r\n\r\n") == Some(b'H');
    let run = timed(|| engine.begin(&args), |start| client.within(|| until(start, is_answered)));
    let is_over = AtomicBool::new(false);
    let rm = thread::scope(|scope| {
        scope.spawn(|| host.within(|| take(last, &is_over)));
        let _over = Over(&is_over);
        let is_free = || asks(address, b"") == Some(FREE);
        let free = timed(|| engine.begin(&["rm", "-f", "web"]), |start| client.within(|| until(start, is_free)));
        // With many ports either may be long before the other.
        let ended = free.more["command_ms"];
        Sample::of(free.value.max(ended)).with("command_ms", ended).with("port_free_ms", free.value)
    });
    Turn { run, rm }
}

/// Says that something is over when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Starts a command and, beside it, waits for what it leads to: milliseconds of that, and of the command.
fn timed(begin: impl FnOnce() -> Child, wait: impl FnOnce(Instant) -> Duration + Send) -> Sample {
    thread::scope(|scope| {
        let start = Instant::now();
        let mut command = begin();
        let waiting = scope.spawn(move || wait(start));
        let status = command.wait().expect("wait for a command of docker's");
        let ended = start.elapsed();
        assert!(status.success(), "a command of docker's ended with {status}");
        let reached =
            waiting.join().unwrap_or_else(|_| panic!("nothing came of a command of docker's for {PATIENCE:?}"));
        Sample::of(reached.as_secs_f64() * 1e3).with("command_ms", ended.as_secs_f64() * 1e3)
    })
}

fn until(start: Instant, mut holds: impl FnMut() -> bool) -> Duration {
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "no answer for {PATIENCE:?}");
        thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

/// The first byte of the answer to `question`.
fn asks(address: SocketAddr, question: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect_timeout(&address, STEP).ok()?;
    stream.set_read_timeout(Some(STEP)).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = [0];
    (stream.read(&mut answer).ok()? == 1).then_some(answer[0])
}

/// Takes the port as soon as it is to be had, and tells whoever comes.
fn take(port: u16, is_over: &AtomicBool) {
    let mut listener = None;
    while !is_over.load(Ordering::Relaxed) {
        if listener.is_none() {
            listener = TcpListener::bind(("0.0.0.0", port)).ok();
            listener
                .iter()
                .for_each(|listener| listener.set_nonblocking(true).expect("make a listener that does not wait"));
        }
        while let Some(Ok((mut stream, _))) = listener.as_ref().map(TcpListener::accept) {
            let _ = stream.write_all(&[FREE]);
        }
        thread::sleep(Duration::from_millis(1));
    }
}
