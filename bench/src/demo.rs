//! The demo: a host and a client in namespaces of their own, a web server behind a published port, a second container,
//! and what netpath promises about them, measured line by line.

use std::cell::RefCell;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netpath_tests::sockets::{REFUSAL, at};
use netpath_tests::web::{self, PAGE};
use netpath_tests::{CLIENT, Container, HOST, Plane, World, cleanup, netfilter, program};

use crate::checks::Checks;
use crate::contest::{self, Contestant, URL};
use crate::cost;
use crate::machine::Machine;
use crate::programs;
use crate::record::{Packet, Program};
use crate::wrk::Load;

const ROUNDS: u32 = 3;
const SECONDS: u32 = 1;

/// What a program should cost at most on the shortcut. An aim, not a check: the figure includes the kernel's timing.
const AIM_NS: f64 = 150.0;

/// What is transferred while the agent dies, and how many seconds that takes at least: it is killed and restarted on the way.
const TRANSFER_BYTES: usize = 192 << 20;
const TRANSFER_SECONDS: u64 = 6;

/// Runs every check and prints a line for each; says whether all passed.
pub fn run() -> bool {
    let mut checks = Checks::new();
    println!("host {HOST}, client {CLIENT}, {}", Machine::this().text());
    if let Some(demo) = checks.value("agent up, web server behind -p 8080:80, second container", Demo::new) {
        demo.show_paths(&mut checks);
        demo.show_survival(&mut checks);
        demo.show_rates(&mut checks);
        demo.show_cost(&mut checks);
        demo.show_rules(&mut checks);
        demo.show_teardown(&mut checks);
    }
    checks.conclude("demo")
}

/// The host with netpath on it, and what runs there.
struct Demo {
    netpath: Contestant,
    app: Container,
    /// What it took to get all of that up.
    start: Duration,
    /// What netfilter held whenever somebody looked, and how often that was.
    looks: RefCell<(u32, Vec<String>)>,
}

impl Demo {
    fn new() -> (String, Self) {
        let start = Instant::now();
        let netpath = Contestant::new(Plane::Netpath { shortcuts: true });
        let app = netpath.world.run("app", &[], &["sleep", "infinity"].map(str::to_owned));
        let measured = format!("{} ms; web {}, app {}", ms(start), netpath.web.address, app.address);
        (measured, Self { netpath, app, start: start.elapsed(), looks: RefCell::default() })
    }

    fn world(&self) -> &World {
        &self.netpath.world
    }

    fn show_paths(&self, checks: &mut Checks) {
        let (world, app, web) = (self.world(), &self.app, self.netpath.web.address);
        checks.run("client fetches the page through the host's address", || {
            let start = Instant::now();
            assert_eq!(web::fetch(&world.client, URL).as_deref(), Ok(PAGE));
            format!("{} bytes from {URL} in {} ms", PAGE.len(), ms(start))
        });
        checks.run("the container sees the client's real address", || {
            let seen = web::fetch(&world.client, &format!("{URL}client")).expect("fetch the client's address");
            assert_eq!(seen, CLIENT.to_string());
            format!("saw {seen}")
        });
        checks.run("a container fetches from the client's server, as the host", || {
            serve_on_client(world);
            let seen = fetch_soon(|| web::fetch(&app.inside, &format!("http://{CLIENT}:7000/client")));
            assert_eq!(seen, HOST.to_string());
            format!("{} was seen as {seen}", app.address)
        });
        checks.run("container to container", || {
            assert_eq!(web::fetch(&app.inside, &format!("http://{web}/")).as_deref(), Ok(PAGE));
            format!("{} -> {web}, {} bytes", app.address, PAGE.len())
        });
        checks.run("container to container, refused with --icc=false", || self.refused_without_icc());
        checks.run("an unpublished port is closed", || {
            for port in [80, 8081] {
                let result = world.client.try_connect(0, at(HOST, port), REFUSAL);
                assert!(result.is_err(), "port {port} is open");
            }
            format!("{HOST}:80, {HOST}:8081")
        });
        self.look_at_netfilter();
    }

    fn refused_without_icc(&self) -> String {
        let world = self.world();
        let restart = |icc: &str| {
            world.take_agent().stop();
            world.start_agent_with(&[icc.to_owned()]);
        };
        restart("--icc=false");
        let before = world.drops("icc");
        self.app.inside.assert_no_answer(at(self.netpath.web.address, 80));
        let drops = world.drops("icc") - before;
        assert!(drops > 0, "the drops are not counted");
        assert_eq!(web::fetch(&world.client, URL).as_deref(), Ok(PAGE), "the published port still works");
        restart("--icc=true");
        format!("no answer in {} s, {drops} packets dropped as icc", REFUSAL.as_secs())
    }

    fn show_survival(&self, checks: &mut Checks) {
        let world = self.world();
        let endpoints = world.json(&["ps"]);
        let transfer = checks.value("a transfer starts; iptables -F, nft flush ruleset", || {
            // On a processor that is played in software the agent takes long to restart.
            let seconds = TRANSFER_SECONDS.max(3 * self.start.as_secs());
            let transfer = Download::start(world, seconds);
            netfilter::flush(&world.host);
            (format!("{} MB in {seconds} s", TRANSFER_BYTES >> 20), transfer)
        });
        checks.run("agent killed with SIGKILL; new connections without it", || {
            world.kill_agent();
            let page = web::fetch(&world.client, URL);
            assert_eq!(page.as_deref(), Ok(PAGE));
            fetch_soon(|| web::fetch(&self.app.inside, &format!("http://{CLIENT}:7000/")));
            "published port and masquerade".to_owned()
        });
        checks.run("agent restarted, adopts what is there", || {
            let start = Instant::now();
            world.start_agent();
            let took = ms(start);
            assert_eq!(world.json(&["ps"]), endpoints, "the same containers");
            format!("{} containers in {took} ms", endpoints.as_array().map_or(0, Vec::len))
        });
        if let Some(transfer) = transfer {
            checks.run("the transfer completes", || transfer.finish());
        }
        self.look_at_netfilter();
    }

    fn show_rates(&self, checks: &mut Checks) {
        let Some(iptables) = checks.value("Docker's iptables rules in other namespaces, to compare with", || {
            let iptables = Contestant::new(Plane::Iptables { proxy: false });
            let rules = program::stdout_of(&mut iptables.world.host.command("iptables-save"));
            (format!("{} rules", rules.lines().filter(|line| line.starts_with("-A")).count()), iptables)
        }) else {
            return;
        };
        for load in Load::ALL {
            checks.run(&format!("{} at least as fast as on iptables", load.name()), || {
                let comparison = contest::compare(&[&iptables, &self.netpath], load, ROUNDS, SECONDS);
                let (ratios, rates) = (comparison.ratios(1), [0, 1].map(|index| comparison.rates(index).median));
                let measured = format!("{ratios:.2} x: {:.0}/s, iptables {:.0}/s", rates[1], rates[0]);
                // Rates that spread around 1, as on a busy or emulated processor, refute nothing.
                assert!(ratios.max >= 1.0, "slower in every round: {measured}");
                measured
            });
        }
        self.look_at_netfilter();
    }

    fn show_cost(&self, checks: &mut Checks) {
        checks.run("ns per packet of each program, in a row", || {
            let programs = programs::measure(10, &programs::Wanted::All).expect("run the programs");
            let of = |program: &Program| {
                let name = program.name.clone();
                program.packets.clone().into_iter().map(move |packet| (name.clone(), packet)).collect::<Vec<_>>()
            };
            let costs: Vec<(String, Packet)> = programs.iter().flat_map(of).collect();
            let over: Vec<_> = costs.iter().filter(|(_, cost)| cost.ns > AIM_NS).map(|(_, cost)| &*cost.name).collect();
            let verdict = if over.is_empty() { "met".to_owned() } else { format!("missed {}", over.join(", ")) };
            let texts: Vec<_> =
                costs.iter().map(|(name, cost)| format!("{name} {}: {:.0}", cost.name, cost.ns)).collect();
            format!("{}; aim of {AIM_NS} {verdict}", texts.join(", "))
        });
        checks.run("ns per packet of each program, among nginx and wrk", || {
            let world = self.world();
            let costs = cost::during(world, || {
                Load::ALL.iter().for_each(|load| _ = self.netpath.rate(*load, SECONDS));
            });
            let used: Vec<_> = costs.iter().filter(|cost| cost.packets > 0).collect();
            assert!(!used.is_empty(), "no program ran: {costs:?}");
            let text = |c: &&cost::Cost| format!("{} {:.0} ({} packets)", c.program, c.ns_per_packet, c.packets);
            used.iter().map(text).collect::<Vec<_>>().join(", ")
        });
    }

    fn show_rules(&self, checks: &mut Checks) {
        checks.run("rules and counters as a table", || {
            let world = self.world();
            let rules = world.json(&["rules"]);
            let rules = rules.as_array().expect("a list of rules");
            let dnat = rules.iter().find(|rule| rule["kind"] == "dnat" && rule["name"] == "web");
            let packets = dnat.and_then(|rule| rule["packets"].as_u64()).expect("a dnat rule for `web`");
            assert!(packets > 1000, "{packets} packets counted through the published port");
            let table = world.netpath_ok(&["rules"]);
            format!("{} rules, {packets} packets to -p 8080:80\n{}", rules.len(), indent(&table))
        });
        self.look_at_netfilter();
        checks.run("iptables-save, nft ruleset, conntrack empty all the while", || {
            let (looks, traces) = &*self.looks.borrow();
            assert!(traces.is_empty(), "{traces:?}");
            format!("{looks} looks, nothing found")
        });
        checks.run("no packet left the host with a container's source", || {
            let broken = self.world().broken_promises();
            assert!(broken.is_empty(), "{broken:?}");
            "0 packets".to_owned()
        });
    }

    fn show_teardown(self, checks: &mut Checks) {
        checks.run("netpath down leaves nothing", || {
            let world = self.world();
            let start = Instant::now();
            world.netpath_ok(&["down"]);
            let took = ms(start);
            assert_eq!(world.host.interfaces(), ["up0"], "bridge and veths are gone");
            assert!(!world.instance().pin_dir.exists(), "pins are gone");
            format!("no bridge, veth, program, map or state; {took} ms")
        });
        let dir = self.world().dir();
        checks.run("namespaces and processes of the demo removed", || {
            drop(self);
            assert!(!dir.exists(), "{} is left", dir.display());
            format!("{} is gone", dir.display())
        });
        cleanup::remove_own();
    }

    fn look_at_netfilter(&self) {
        let (looks, traces) = &mut *self.looks.borrow_mut();
        *looks += 1;
        traces.extend(netfilter::traces(&self.world().host));
    }
}

/// A file that the client fetches from the container, slowly.
struct Download {
    curl: Child,
    start: Instant,
    sent: Vec<u8>,
    target: std::path::PathBuf,
}

impl Download {
    fn start(world: &World, seconds: u64) -> Self {
        let sent: Vec<u8> =
            (0..TRANSFER_BYTES as u64 / 8).flat_map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect();
        let (source, target) = (world.dir().join("web/file"), world.dir().join("fetched"));
        fs::write(&source, &sent).unwrap_or_else(|e| panic!("write {}: {e}", source.display()));
        let mut command: Command = world.client.command("curl");
        command.args(["--silent", "--show-error", "--fail"]);
        command.arg("--limit-rate").arg((TRANSFER_BYTES as u64 / seconds).to_string());
        command.arg("--max-time").arg((3 * seconds).to_string());
        command.arg("--output").arg(&target).arg(format!("{URL}file")).stderr(Stdio::piped());
        let curl = command.spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"));
        Self { curl, start: Instant::now(), sent, target }
    }

    fn finish(mut self) -> String {
        assert!(self.curl.try_wait().expect("ask for curl's status").is_none(), "the transfer was over too early");
        let output = self.curl.wait_with_output().expect("wait for curl");
        assert!(output.status.success(), "curl: {}", program::text(&output.stderr));
        let took = self.start.elapsed().as_secs_f64();
        let fetched = fs::read(&self.target).unwrap_or_else(|e| panic!("read {}: {e}", self.target.display()));
        assert!(fetched == self.sent, "what arrived differs from what was sent");
        format!("{} MB in {took:.1} s, byte for byte", fetched.len() >> 20)
    }
}

/// A web server outside: on the client, port 7000.
fn serve_on_client(world: &World) {
    let nginx = web::nginx(&world.dir().join("outside"), 7000);
    world.spawn(world.client.command(&nginx[0]).args(&nginx[1..]));
}

/// Tries until it works, for a server that has just been started.
fn fetch_soon(fetch: impl Fn() -> Result<String, String>) -> String {
    let start = Instant::now();
    loop {
        match fetch() {
            Ok(body) => return body,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(3), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ms(start: Instant) -> u128 {
    start.elapsed().as_millis()
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
}
