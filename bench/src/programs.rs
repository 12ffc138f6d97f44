//! What each program costs: instructions that the verifier walked through, stack, and ns per packet by BPF_PROG_TEST_RUN,
//! also as a multiple of what the reference program takes on the same machine in the same run.
//!
//! With its caches warm a program runs on one packet 250 times in a row. The programs change the packet, so one run's
//! output must be a good input for the next: what is published at A leads to B, and what is published at B to A. Where
//! there is no such circle, each run is a call of its own, and colder.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use netpath_agent::datapath::{self, TestRun};
use netpath_agent::xdp::Mode;
use netpath_common::config_flag;
use netpath_tests::program_world::ProgramWorld;

use crate::attempt::attempt;
use crate::packets::{self, Repeat, Sent};
use crate::program_maps;
use crate::record::{Packet, Program};
use crate::stack;

/// Packets in a row; each loses a hop, so fewer than 255.
const REPEAT: u32 = 250;

/// Rows of packets, and packets one by one, at an effort of 1.
const ROWS: u32 = 400;
const SINGLES: u32 = 4_000;

/// What is measured goes to the reference and back as often, so that a pause of the machine meets both; turns are short, so
/// that each finds some without one.
const TURNS: u32 = 20;
/// Fewer turns are enough where a packet has taken this long: on a processor that is played in software.
const LONG: Duration = Duration::from_secs(4);
const FEW_TURNS: usize = 2;

/// What is to be measured.
#[derive(Clone, Debug)]
pub enum Wanted {
    All,
    /// Programs by name, each with the name of a packet.
    Only(Vec<(String, String)>),
}

/// Measures programs on the packets they see most; 10 is a good `effort`, 1 a quick one.
///
/// # Errors
///
/// If the programs cannot be loaded or run.
pub fn measure(effort: u32, wanted: &Wanted) -> Result<Vec<Program>> {
    // A thread of its own, because it moves into a network namespace of its own.
    let wanted = wanted.clone();
    let thread = std::thread::spawn(move || attempt(|| measure_here(effort, &wanted)));
    let outcome = thread.join().map_err(|_| anyhow!("the measuring thread panicked"))?;
    outcome.map_err(|message| anyhow!(message))?
}

fn measure_here(effort: u32, wanted: &Wanted) -> Result<Vec<Program>> {
    let mut bench = Bench::load()?;
    let stacks = stack::of_programs(datapath::OBJECT)?;
    let mut programs: Vec<Program> = Vec::new();
    for info in bench.world.datapath.programs()? {
        let stack = stacks.get(&info.name).copied().unwrap_or(0);
        programs.push(Program { name: info.name, instructions: info.instructions, stack, packets: Vec::new() });
    }
    for sent in packets::all().into_iter().filter(|sent| wanted.has(sent)) {
        let packet = bench.measure(&sent, effort)?;
        let program = programs.iter_mut().find(|program| program.name == sent.program);
        program.with_context(|| format!("no program `{}`", sent.program))?.packets.push(packet);
    }
    Ok(programs)
}

impl Wanted {
    fn has(&self, sent: &Sent) -> bool {
        match self {
            Self::All => true,
            Self::Only(named) => named.iter().any(|(program, packet)| *program == sent.program && *packet == sent.name),
        }
    }
}

struct Bench {
    world: ProgramWorld,
    reference: Ebpf,
}

impl Bench {
    fn load() -> Result<Self> {
        let mut world = program_maps::load();
        world.datapath.load_xdp(Mode::Native)?;
        let mut reference = Ebpf::load(crate::traffic::object()).context("load the reference program")?;
        let program = reference.program_mut("reference").context("no program `reference`")?;
        let program: &mut SchedClassifier = program.try_into().context("`reference` is no tc program")?;
        program.load().context("load `reference` into the kernel")?;
        Ok(Self { world, reference })
    }

    fn measure(&mut self, sent: &Sent, effort: u32) -> Result<Packet> {
        self.world.set_flags(config_flag::SHORTCUTS);
        for packet in &sent.before {
            self.check(packet)?;
        }
        self.world.set_flags(if sent.shortcuts { config_flag::SHORTCUTS } else { 0 });
        self.check(sent)?;
        let (repeat, runs) = match sent.repeat {
            Repeat::InARow => (REPEAT, ROWS * effort / TURNS),
            Repeat::OneByOne => (1, SINGLES * effort / TURNS),
        };
        let (mut own, mut reference) = (Vec::new(), Vec::new());
        let start = Instant::now();
        for _ in 0..TURNS {
            if own.len() >= FEW_TURNS && start.elapsed() > LONG {
                break;
            }
            own.push(mean(runs, || Ok(self.run(sent, repeat)?.duration))?);
            reference.push(mean(runs, || self.run_reference(&sent.frame, repeat))?);
        }
        let ns = lowest(&own);
        Ok(Packet { name: sent.name.clone(), ns, relative: ns / lowest(&reference) })
    }

    /// Whether the program does with the packet what is to be measured.
    fn check(&self, sent: &Sent) -> Result<()> {
        let run = self.run(sent, 1)?;
        let (program, name) = (sent.program, &sent.name);
        let drops: Vec<u32> = self.world.datapath.drops()?.iter().map(|(key, _)| key.reason).collect();
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

    fn run(&self, sent: &Sent, repeat: u32) -> Result<TestRun> {
        let datapath = &self.world.datapath;
        if sent.program == packets::XDP {
            return datapath.test_run_xdp(&sent.frame, repeat);
        }
        datapath.test_run(sent.program, &sent.frame, repeat)
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
