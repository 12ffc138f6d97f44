//! What each program costs: instructions that the verifier walked through, stack, and ns per packet by BPF_PROG_TEST_RUN,
//! also as a multiple of what the reference program takes on the same machine in the same run.
//!
//! With its caches warm a program runs on one packet 250 times in a row. The programs change the packet, so one run's
//! output must be a good input for the next: what is published at A leads to B, and what is published at B to A. Where
//! there is no such circle, each run is a call of its own, and colder.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use netpath_agent::datapath::{self, Datapath};
use netpath_common::{Config, config_flag};
use nix::sched::{CloneFlags, unshare};

use crate::packets::{self, Repeat, Sent};
use crate::program_maps;
use crate::record::{Packet, Program};
use crate::stack;

/// Packets in a row; each loses a hop, so fewer than 255.
const REPEAT: u32 = 250;

/// Rows of packets, and packets one by one, at an effort of 1.
const ROWS: u32 = 400;
const SINGLES: u32 = 4_000;

/// What is measured goes to the reference and back as often, so that a pause of the machine meets both.
const TURNS: u32 = 5;

/// Measures every program on the packets it sees most; 10 is a good `effort`, 1 a quick one.
///
/// # Errors
///
/// If the programs cannot be loaded or run.
pub fn measure(effort: u32) -> Result<Vec<Program>> {
    // A thread of its own, because it moves into a network namespace of its own.
    let thread = std::thread::spawn(move || measure_here(effort));
    thread.join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
}

fn measure_here(effort: u32) -> Result<Vec<Program>> {
    enter_namespace()?;
    let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netpath-programs-{}", std::process::id()));
    let programs = measure_pinned(&pin_dir, effort);
    let errors = datapath::teardown(&pin_dir);
    ensure!(errors.is_empty(), "remove the pins: {errors:?}");
    programs
}

fn measure_pinned(pin_dir: &Path, effort: u32) -> Result<Vec<Program>> {
    let mut bench = Bench::load(pin_dir)?;
    let stacks = stack::of_programs(datapath::OBJECT)?;
    let mut programs: Vec<Program> = Vec::new();
    for info in bench.datapath.programs()? {
        let stack = stacks.get(&info.name).copied().unwrap_or(0);
        programs.push(Program { name: info.name, instructions: info.instructions, stack, packets: Vec::new() });
    }
    for sent in packets::all() {
        let packet = bench.measure(&sent, effort)?;
        let program = programs.iter_mut().find(|program| program.name == sent.program);
        program.with_context(|| format!("no program `{}`", sent.program))?.packets.push(packet);
    }
    Ok(programs)
}

struct Bench {
    datapath: Datapath,
    reference: Ebpf,
}

impl Bench {
    fn load(pin_dir: &Path) -> Result<Self> {
        let datapath = program_maps::load(pin_dir)?;
        let mut reference = Ebpf::load(crate::traffic::object()).context("load the reference program")?;
        let program = reference.program_mut("reference").context("no program `reference`")?;
        let program: &mut SchedClassifier = program.try_into().context("`reference` is no tc program")?;
        program.load().context("load `reference` into the kernel")?;
        Ok(Self { datapath, reference })
    }

    fn measure(&mut self, sent: &Sent, effort: u32) -> Result<Packet> {
        self.set_flags(config_flag::SHORTCUTS)?;
        for packet in &sent.before {
            self.check(packet)?;
        }
        self.set_flags(if sent.shortcuts { config_flag::SHORTCUTS } else { 0 })?;
        self.check(sent)?;
        let (repeat, runs) = match sent.repeat {
            Repeat::InARow => (REPEAT, ROWS * effort / TURNS),
            Repeat::OneByOne => (1, SINGLES * effort / TURNS),
        };
        let (mut own, mut reference) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            own.push(mean(runs, || Ok(self.datapath.test_run(sent.program, &sent.frame, repeat)?.duration))?);
            reference.push(mean(runs, || self.run_reference(&sent.frame, repeat))?);
        }
        let ns = lowest(&own);
        Ok(Packet { name: sent.name.clone(), ns, relative: ns / lowest(&reference) })
    }

    fn set_flags(&mut self, flags: u32) -> Result<()> {
        let config = self.datapath.config();
        self.datapath.set_config(Config { flags, ..config })
    }

    /// Whether the program does with the packet what is to be measured.
    fn check(&self, sent: &Sent) -> Result<()> {
        let run = self.datapath.test_run(sent.program, &sent.frame, 1)?;
        let (program, name) = (sent.program, &sent.name);
        let drops: Vec<u32> = self.datapath.drops()?.iter().map(|(key, _)| key.reason).collect();
        ensure!(
            run.verdict == sent.verdict,
            "`{program}` {name}: verdict {}, want {} (reasons of drops: {drops:?})",
            run.verdict,
            sent.verdict
        );
        let (src, dst) = packets::addresses(&run.frame);
        ensure!((src, dst) == sent.becomes, "`{program}` {name}: {src} to {dst}, want {:?}", sent.becomes);
        Ok(())
    }

    fn run_reference(&self, frame: &[u8], repeat: u32) -> Result<Duration> {
        let program = self.reference.program("reference").context("no program `reference`")?;
        let program: &SchedClassifier = program.try_into().context("`reference` is no tc program")?;
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        Ok(program.test_run(options).context("run `reference`")?.duration)
    }
}

/// Mean of `runs`, in nanoseconds.
fn mean(runs: u32, run: impl Fn() -> Result<Duration>) -> Result<f64> {
    let mut total = Duration::ZERO;
    for _ in 0..runs {
        total += run()?;
    }
    Ok(total.as_secs_f64() * 1e9 / f64::from(runs))
}

/// What else the machine does only adds.
fn lowest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// A network namespace with a route to the client, for the route look-up.
fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace (needs root)")?;
    let address = |address: IpAddr| format!("addr add {address}/{} dev up0", if address.is_ipv4() { 24 } else { 64 });
    for command in [
        "link set lo up".to_owned(),
        "link add up0 type veth peer name peer0".to_owned(),
        address(packets::V4.host),
        format!("{} nodad", address(packets::V6.host)),
        "link set up0 up".to_owned(),
        "link set peer0 up".to_owned(),
    ] {
        let status = Command::new("ip").args(command.split(' ')).status().context("run ip")?;
        ensure!(status.success(), "ip {command}: {status}");
    }
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{switch}"), "1").context("switch forwarding on")?;
    }
    Ok(())
}
