//! A whole run: series, publishing, rest and programs, whatever of it was asked for.

use anyhow::{Result, bail};

use crate::attempt::{attempt, in_short};
use crate::machine::{self, Machine};
use crate::plan::{self, Effort};
use crate::programs::Wanted;
use crate::progress::Progress;
use crate::record::{Run, Settings};
use crate::traffic::Traffic;
use crate::{cni, docker_memory, docker_run, programs, publishing, runner};

/// Measures all that `effort` asks for. What cannot be measured is left out with a line that says why.
///
/// # Errors
///
/// If nothing is asked for, or a program is missing without which nothing can be measured.
pub fn measure(effort: &Effort) -> Result<Run> {
    let wants = |name: &str| effort.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let series = plan::series(effort);
    let (publish, rest, per_program) = (wants("publish"), wants("rest"), wants("programs"));
    let (docker, memory) = (wants("docker-run") || wants("docker-rm"), wants("docker-memory"));
    let cni = wants("cni-add") || wants("cni-del");
    if series.is_empty() && ![publish, rest, per_program, docker, memory, cni].contains(&true) {
        bail!("no work has `{}` in its name", effort.only.as_deref().unwrap_or_default());
    }
    for program in ["ip", "nsenter", "nginx", "curl", "wrk", "iperf3", "ethtool"] {
        if machine::find(program).is_none() {
            bail!("`{program}` is not installed; type: cargo xtask setup");
        }
    }
    let progress = Progress::new(series.iter().map(|series| series.runs() * u64::from(effort.rounds)).sum());
    let settings = Settings { quick: effort.quick, rounds: effort.rounds, seconds: effort.seconds };
    let mut run = Run {
        date: machine::today(),
        machine: Machine::this(),
        settings,
        contestants: runner::contestants(&progress),
        items: Vec::new(),
        programs: Vec::new(),
    };
    let mut traffic = Traffic::load();
    for series in &series {
        run.items.extend(runner::run(series, effort, &mut traffic, &progress));
    }
    if publish {
        run.items.extend(publishing::publish(effort, &progress));
    }
    if rest {
        run.items.extend(publishing::rest(effort, &progress));
    }
    if cni {
        run.items.extend(cni::measure(effort, &progress));
    }
    if docker {
        run.items.extend(docker_run::measure(effort, &progress));
    }
    if memory {
        run.items.extend(docker_memory::measure(&progress));
    }
    if per_program {
        progress.says("programs");
        match attempt(|| programs::measure(if effort.quick { 1 } else { 10 }, &Wanted::All)) {
            Ok(Ok(programs)) => run.programs = programs,
            Ok(Err(error)) => progress.line(&format!("programs: {error:#}")),
            Err(error) => progress.line(&format!("programs: {}", in_short(&error))),
        }
    }
    progress.finish();
    Ok(run)
}
