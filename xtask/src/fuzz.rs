//! `cargo xtask fuzz`: builds libFuzzer with the targets of netpath-fuzz, runs it on each of them, and says what it saw.
//!
//! Every branch of the code reports to libFuzzer, which keeps an input that takes a new one. No sanitizer: what unsafe
//! code there is reads map values, and those outlive their entries in the kernel but not in the world of the tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::process::{built, capture, cargo, exec, require_root, root_dir, run as run_command};
use crate::setup::{self, Report, Scope};

/// Instrumentation by the compiler's LLVM, as libFuzzer wants it: counters at edges, and operands of comparisons.
const RUSTFLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

#[derive(Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    seconds: u64,
    /// Instead of all that: so many random frames through the loaded programs, compared with the decisions (root)
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["seconds", "targets"])]
    frames: Option<u64>,
    /// What the random frames begin with
    #[arg(long, default_value_t = 1, value_name = "NUMBER", requires = "frames")]
    seed: u64,
    /// Targets; all of them if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(frames) = options.frames {
        return send(frames, options.seed);
    }
    let seeds = root_dir().join("fuzz/seeds");
    let targets = chosen(&options.targets, &known(&seeds)?)?;
    setup::ensure(Scope::Fuzz, Report::Quiet)?;
    let binary = build()?;
    let dir = binary.parent().context("find the fuzzer's folder")?.join("found");
    println!("{:<12} {:>12} {:>9} {:>9} {:>8}  crash", "target", "runs", "runs/s", "edges", "inputs");
    let mut crashes = Vec::new();
    for target in &targets {
        let report = fuzz(&binary, &seeds.join(target), &dir.join(target), target, options.seconds)?;
        println!("{target:<12} {}", report.row());
        crashes.extend(report.crash.map(|path| (target, path)));
    }
    for (target, path) in &crashes {
        eprintln!("fuzz: `{target}` fails on {}; to see it again, type:", path.display());
        eprintln!("  cargo run -p netpath-fuzz --bin netpath-replay -- {target} {}", path.display());
    }
    Ok(if crashes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Becomes the program that sends random frames.
fn send(frames: u64, seed: u64) -> Result<ExitCode> {
    require_root("fuzz --frames")?;
    setup::ensure(Scope::Tests, Report::Quiet)?;
    run_command(cargo().args(["build", "-p", "netpath-fuzz", "--bin", "netpath-frames"]))?;
    let mut command = Command::new(built("debug", "netpath-frames")?);
    Err(exec(command.args(["--frames", &frames.to_string(), "--seed", &seed.to_string()])))
}

/// The targets there are: each has a folder of saved inputs.
fn known(seeds: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(seeds).with_context(|| format!("list {}", seeds.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn chosen(named: &[String], known: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        bail!("no target `{unknown}`, there are {}", known.join(", "));
    }
    Ok(if named.is_empty() { known.to_vec() } else { named.to_vec() })
}

/// Builds the fuzzer; its path. For a named machine, so that build scripts are built without the instrumentation.
fn build() -> Result<PathBuf> {
    let version = capture(Command::new("rustc").arg("-vV").current_dir(root_dir()))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("find the host in `rustc -vV`")?;
    let args = ["build", "-p", "netpath-fuzz", "--bin", "netpath-libfuzzer", "--features", "libfuzzer"];
    let mut command = cargo();
    command.args(args).args(["--profile", "fuzz", "--target", host]);
    // The programs themselves are not run here.
    command.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f")).env("AYA_BUILD_SKIP", "1");
    run_command(&mut command)?;
    built(&format!("{host}/fuzz"), "netpath-libfuzzer")
}

/// What one run of libFuzzer saw.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    runs: u64,
    runs_per_s: u64,
    edges: u64,
    inputs: u64,
    crash: Option<PathBuf>,
}

impl Seen {
    /// Reads libFuzzer's report.
    fn of(log: &str) -> Self {
        let stat = |name: &str| {
            let line = log.lines().rfind(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
        };
        // `#N DONE cov: 812 ft: 2210 corp: 301/12Kb ...`
        let after = |name: &str| {
            let words = log.lines().rev().find_map(|line| line.split_once(name)).map(|(_, rest)| rest);
            let number = |rest: &str| rest.split(['/', ' ']).find(|word| !word.is_empty())?.parse().ok();
            words.and_then(number).unwrap_or(0)
        };
        let crash = log.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.into());
        Self {
            runs: stat("stat::number_of_executed_units"),
            runs_per_s: stat("stat::average_exec_per_sec"),
            edges: after(" cov: "),
            inputs: after(" corp: "),
            crash,
        }
    }

    fn row(&self) -> String {
        let crash = self.crash.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
        format!("{:>12} {:>9} {:>9} {:>8}  {crash}", self.runs, self.runs_per_s, self.edges, self.inputs)
    }
}

/// Runs libFuzzer on one target. What it finds stays in `dir`, for the next run too.
fn fuzz(binary: &Path, seeds: &Path, dir: &Path, target: &str, seconds: u64) -> Result<Seen> {
    let corpus = dir.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("create {}", corpus.display()))?;
    let log_path = dir.join("log");
    let log = File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
    let status = Command::new(binary)
        .args([&corpus, seeds])
        .args([format!("-max_total_time={seconds}"), format!("-artifact_prefix={}/", dir.display())])
        .args(["-max_len=4096", "-timeout=10", "-print_final_stats=1"])
        .env("NETPATH_FUZZ_TARGET", target)
        .stderr(log)
        .status()
        .with_context(|| format!("run {}", binary.display()))?;
    let text = fs::read(&log_path).with_context(|| format!("read {}", log_path.display()))?;
    let seen = Seen::of(&String::from_utf8_lossy(&text));
    if !status.success() && seen.crash.is_none() {
        bail!("libFuzzer on `{target}` ended with {status}, see {}", log_path.display());
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let log = "INFO: seed corpus: files: 3\n#2\tINITED cov: 17 ft: 18 corp: 1/1b exec/s: 0\n\
                   #500\tDONE   cov: 812 ft: 2210 corp: 301/12Kb lim: 64 exec/s: 250 rss: 40Mb\n\
                   stat::number_of_executed_units: 500\nstat::average_exec_per_sec:     250\n";
        let seen = Seen { runs: 500, runs_per_s: 250, edges: 812, inputs: 301, crash: None };
        assert_eq!(Seen::of(log), seen);
        let log = format!("{log}artifact_prefix='/t/'; Test unit written to /t/crash-1\n");
        assert_eq!(Seen::of(&log).crash, Some(PathBuf::from("/t/crash-1")));
    }

    #[test]
    fn a_target_that_is_not_there_is_refused() {
        let known = ["api", "state"].map(str::to_owned);
        assert_eq!(chosen(&[], &known).unwrap_or_default(), known);
        assert_eq!(chosen(&known[1..], &known).unwrap_or_default(), known[1..]);
        assert!(chosen(&["other".to_owned()], &known).is_err());
    }
}
