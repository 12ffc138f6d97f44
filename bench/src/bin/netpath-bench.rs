//! The command line of the bench: what to measure, and what to make of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use netpath_bench::machine;
use netpath_bench::plan::Effort;
use netpath_bench::record::Run;
use netpath_bench::{attempt, comparison, measuring, report, table, tables};
use netpath_tests::signals;

/// Measures netpath against Docker's iptables rules and others, in turn, and says what machine it was
///
/// Every contestant has network namespaces of its own with a client, a host and containers. All of them share this machine's
/// CPUs, so rates say little and ratios much. Needs root; leaves nothing behind. Do nothing else on the machine meanwhile.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", version, max_term_width = 120)]
struct Options {
    /// Takes less than 4 minutes instead of 20, and says less
    #[arg(long)]
    quick: bool,

    /// Only work with this in its name, such as keep-alive, hairpin, udp, publish, programs; NAME,ports for a series
    #[arg(long, value_name = "NAME")]
    only: Option<String>,

    /// Rounds: in each, every contestant runs once [default: 3, quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Seconds that a contestant runs in a round [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,

    /// Writes everything that was measured to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Writes run.json, report.html and ports.svg into a directory [default: bench/runs/DATE-MACHINE for a full run]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Compares the programs with the newest committed run of such a machine; exit status 1 if one has become worse
    #[arg(long, conflicts_with_all = ["only", "out", "tables"])]
    check: bool,

    /// Makes the marked tables of README.md and docs from the newest committed run, and its report anew; measures nothing
    #[arg(long)]
    tables: bool,

    /// Where README.md, docs and bench/runs are [default: the sources that this was built from]
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let root = options.root.clone().unwrap_or_else(machine::root);
    let runs = root.join("bench/runs");
    if options.tables {
        let Some((path, run)) = comparison::newest_run(&runs)? else { bail!("no run in {}", runs.display()) };
        let changed = tables::rewrite(&root, &run)?;
        eprintln!("from {}", path.display());
        changed.iter().for_each(|file| println!("{}", file.display()));
        save(drawn(&run, path.parent().unwrap_or(&runs))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    signals::clean_up_on_interrupt();
    attempt::take_over_panics();
    if options.check {
        return Ok(if comparison::check(&runs)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let effort = Effort {
        quick: options.quick,
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 3 }),
        seconds: options.seconds.unwrap_or(1),
        only: options.only.clone(),
    };
    let run = measuring::measure(&effort)?;
    show(&run);
    let is_whole = !options.quick && options.only.is_none();
    let default = is_whole.then(|| runs.join(format!("{}-{}", run.date, run.machine.name)));
    write(&run, options.json.clone(), options.out.clone().or(default))?;
    Ok(ExitCode::SUCCESS)
}

fn show(run: &Run) {
    println!("{}, netpath {}", run.machine.text(), run.machine.commit);
    if !run.items.is_empty() {
        println!("above 1.00 is better than iptables-nft; without a ratio to take, the value\n{}", table::ratios(run));
    }
    if !run.programs.is_empty() {
        println!("{}", table::programs(&run.programs));
    }
}

fn write(run: &Run, json: Option<PathBuf>, out: Option<PathBuf>) -> Result<()> {
    let text = serde_json::to_string_pretty(run).context("write the run as JSON")? + "\n";
    let mut files: Vec<(PathBuf, String)> = json.into_iter().map(|path| (path, text.clone())).collect();
    if let Some(dir) = out {
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        files.push((dir.join("run.json"), text));
        files.extend(drawn(run, &dir)?);
    }
    save(files)
}

/// What is for people, beside the run itself.
fn drawn(run: &Run, dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files = vec![(dir.join("report.html"), report::html(run)?)];
    files.extend(report::ports_svg(run)?.map(|svg| (dir.join("ports.svg"), svg)));
    Ok(files)
}

fn save(files: Vec<(PathBuf, String)>) -> Result<()> {
    for (path, text) in files {
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
