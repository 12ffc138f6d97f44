//! Whether the programs have become worse since a committed run: `cargo xtask bench --check`.
//!
//! Stack is compared always. Instructions are the verifier's count, which changes from kernel to kernel, and times relative
//! to the reference program's change from one model of CPU to another: each is compared where that is the same. What is
//! not compared is said, and so is a time that has risen by less than what fails.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::machine::Machine;
use crate::programs::{self, Wanted};
use crate::record::{Packet, Program, Run};
use crate::table;

/// By how much a count may rise.
const MAX_RISE: f64 = 0.10;
/// And a time relative to the reference program's. It depends on where the kernel happens to put programs and maps: what XDP
/// does with an IPv6 datagram has been seen to take 1.46 to 1.80 times the reference's, of the same programs on the same
/// machine, from one load to the next, and 1.60 on another one that says it is the same.
const MAX_TIME_RISE: f64 = 0.50;
/// And by how much of the reference program's time at least, about 5 ns: less is noise, for what takes 30 ns in all.
const MIN_RISE: f64 = 0.03;

/// How much a first look takes, and each of the others at what looks worse.
const EFFORT: u32 = 5;
const MORE_LOOKS: u32 = 4;

/// What there is to say about programs since a run.
#[derive(Debug, Default)]
struct Findings {
    worse: Vec<Finding>,
    /// What is not compared, and why.
    notes: Vec<String>,
}

/// A figure that has risen too much.
#[derive(Clone, Debug, PartialEq)]
struct Finding {
    program: String,
    /// None where it is no time.
    packet: Option<String>,
    text: String,
}

/// Measures the programs and compares them with the newest run under `runs` of a machine like this one, else the newest of
/// all; `false` if one has become worse. What looks worse is looked at again, as the machine may have been busy.
///
/// # Errors
///
/// If the programs cannot be measured, or the run not be read.
pub fn check(runs: &Path) -> Result<bool> {
    let machine = Machine::this();
    let mut after = programs::measure(EFFORT, &Wanted::All)?;
    let Some((path, before)) = baseline(runs, &machine)? else {
        println!("{}", table::programs(&after));
        println!("nothing to compare with: no run in {}", runs.display());
        return Ok(true);
    };
    let mut found = compare(&before, &machine, &after);
    for look in 1..=MORE_LOOKS {
        let suspects: Vec<(String, String)> =
            found.worse.iter().filter_map(|finding| Some((finding.program.clone(), finding.packet.clone()?))).collect();
        if suspects.is_empty() {
            break;
        }
        eprintln!("looking again ({look} of {MORE_LOOKS}) at {}", found.told().join("; "));
        after = lower(after, &programs::measure(EFFORT * (1 + look), &Wanted::Only(suspects))?);
        found = compare(&before, &machine, &after);
    }
    println!("{}", table::programs(&after));
    found.notes.iter().for_each(|line| println!("note: {line}"));
    found.told().iter().for_each(|line| println!("worse: {line}"));
    let is_well = found.worse.is_empty();
    println!("compared with {} ({}): {}", before.date, path.display(), if is_well { "ok" } else { "FAILED" });
    Ok(is_well)
}

/// Records that may lie beside `run.json`: of work that this run had not, measured by itself (`--only docker --json`).
const PARTS: [&str; 2] = ["docker.json", "cni.json"];

/// The newest run under `runs`, by the name of its directory, which begins with the date; with the parts that lie beside
/// it.
///
/// # Errors
///
/// If there is one that cannot be read.
pub fn newest_run(runs: &Path) -> Result<Option<(PathBuf, Run)>> {
    let Some((path, mut run)) = all_runs(runs)?.pop() else { return Ok(None) };
    for part in PARTS.map(|name| path.with_file_name(name)).iter().filter(|part| part.is_file()) {
        run.complete(read(part)?);
    }
    Ok(Some((path, run)))
}

/// The newest run of this CPU and kernel, else the newest; with the programs of a later one, if its record lies beside
/// it as `programs.json` (`--only programs --json`): what they cost has changed on purpose since.
fn baseline(runs: &Path, machine: &Machine) -> Result<Option<(PathBuf, Run)>> {
    let mut runs = all_runs(runs)?;
    let is_like_this = |run: &Run| run.machine.cpu == machine.cpu && run.machine.kernel == machine.kernel;
    let at = runs.iter().rposition(|(_, run)| is_like_this(run));
    let Some((path, run)) = at.map(|at| runs.swap_remove(at)).or_else(|| runs.pop()) else { return Ok(None) };
    let later = path.with_file_name("programs.json");
    Ok(Some(if later.is_file() { (later.clone(), read(&later)?) } else { (path, run) }))
}

/// From the oldest to the newest.
fn all_runs(runs: &Path) -> Result<Vec<(PathBuf, Run)>> {
    let mut found: Vec<PathBuf> = fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("run.json"))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.into_iter().map(|path| read(&path).map(|run| (path, run))).collect()
}

fn read(path: &Path) -> Result<Run> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {} as a run", path.display()))
}

/// What has risen too much since `before`, and what cannot be compared.
fn compare(before: &Run, machine: &Machine, after: &[Program]) -> Findings {
    let mut found = Findings::default();
    let (same_kernel, same_cpu) = (before.machine.kernel == machine.kernel, before.machine.cpu == machine.cpu);
    if !same_kernel {
        let (was, is) = (&before.machine.kernel, &machine.kernel);
        found.notes.push(format!("instructions are not compared: the run is of kernel {was}, this is {is}"));
    }
    if !same_cpu {
        let (was, is) = (&before.machine.cpu, &machine.cpu);
        found.notes.push(format!("times are not compared: the run is of {was}, this is {is}"));
    }
    for program in after {
        let Some(old) = before.programs.iter().find(|old| old.name == program.name) else {
            found.notes.push(format!("`{}` is new since the run", program.name));
            continue;
        };
        if same_kernel {
            found.count(program, "instructions verified", old.instructions, program.instructions);
        }
        found.count(program, "bytes of stack", old.stack, program.stack);
        for packet in &program.packets {
            match old.packets.iter().find(|old| old.name == packet.name) {
                Some(was) if same_cpu => found.time(program, was, packet),
                Some(_) => {}
                None => found.notes.push(format!("`{}`, {}: new since the run", program.name, packet.name)),
            }
        }
    }
    let gone = before.programs.iter().filter(|old| after.iter().all(|program| program.name != old.name));
    found.notes.extend(gone.map(|old| format!("`{}` is in the run and no more", old.name)));
    found
}

impl Findings {
    fn told(&self) -> Vec<String> {
        self.worse.iter().map(|finding| finding.text.clone()).collect()
    }

    fn count(&mut self, program: &Program, what: &str, was: u32, is: u32) {
        if has_risen(f64::from(was), f64::from(is), MAX_RISE) {
            let text = format!("`{}`: {is} {what}, {was} before{}", program.name, percent(was.into(), is.into()));
            self.worse.push(Finding { program: program.name.clone(), packet: None, text });
        }
    }

    fn time(&mut self, program: &Program, was: &Packet, is: &Packet) {
        if !has_risen(was.relative, is.relative, MAX_RISE) || is.relative - was.relative <= MIN_RISE {
            return;
        }
        let rise = percent(was.relative, is.relative);
        let text = format!(
            "`{}`, {}: {:.2} times the reference program, {:.2} before{rise}",
            program.name, is.name, is.relative, was.relative
        );
        if has_risen(was.relative, is.relative, MAX_TIME_RISE) {
            self.worse.push(Finding { program: program.name.clone(), packet: Some(is.name.clone()), text });
        } else {
            self.notes.push(text);
        }
    }
}

fn has_risen(was: f64, is: f64, by: f64) -> bool {
    is > was * (1.0 + by)
}

fn percent(was: f64, is: f64) -> String {
    if was > 0.0 { format!(", {:+.0} %", (is / was - 1.0) * 100.0) } else { String::new() }
}

/// The lower of two measurements of the same programs, packet by packet: what else the machine does only adds.
///
/// Each stays beside its own reference. A machine that is busy all the time makes what touches much memory slower than the
/// reference, and the best moment of the one says nothing about the other.
fn lower(mut one: Vec<Program>, other: &[Program]) -> Vec<Program> {
    for program in &mut one {
        let Some(same) = other.iter().find(|other| other.name == program.name) else { continue };
        for packet in &mut program.packets {
            let lower = same.packets.iter().find(|p| p.name == packet.name && p.relative < packet.relative);
            lower.into_iter().for_each(|lower| packet.clone_from(lower));
        }
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    fn program(name: &str, instructions: u32, stack: u32, relative: f64) -> Program {
        let packets = vec![Packet { name: "x".to_owned(), ns: 100.0 * relative, relative }];
        Program { name: name.to_owned(), instructions, stack, packets }
    }

    fn machine(cpu: &str, kernel: &str) -> Machine {
        Machine { cpu: cpu.to_owned(), kernel: kernel.to_owned(), ..record::tests::run(Vec::new()).machine }
    }

    fn run(programs: &[Program]) -> Run {
        Run { programs: programs.to_vec(), ..record::tests::run(Vec::new()) }
    }

    fn worse(before: &[Program], after: &[Program]) -> Vec<String> {
        compare(&run(before), &machine("epyc", "6.18"), after).told()
    }

    #[test]
    fn a_count_may_rise_by_ten_percent_and_a_time_by_half() {
        let before = [program("from_external", 1000, 200, 1.0)];
        for (within, beyond, rise) in [
            (program("from_external", 1090, 200, 1.0), program("from_external", 1110, 200, 1.0), "+11 %"),
            (program("from_external", 1000, 218, 1.0), program("from_external", 1000, 222, 1.0), "+11 %"),
            (program("from_external", 1000, 200, 1.49), program("from_external", 1000, 200, 1.51), "+51 %"),
        ] {
            assert_eq!(worse(&before, &[within]), Vec::<String>::new());
            let found = worse(&before, &[beyond]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with("`from_external`") && found[0].ends_with(rise), "{found:?}");
        }
    }

    #[test]
    fn a_time_that_has_risen_by_less_than_what_fails_is_said() {
        let notes = |relative| {
            let after = [program("from_external", 1000, 200, relative)];
            compare(&run(&[program("from_external", 1000, 200, 1.0)]), &machine("epyc", "6.18"), &after).notes
        };
        assert_eq!(notes(1.09), Vec::<String>::new());
        assert_eq!(notes(1.12), ["`from_external`, x: 1.12 times the reference program, 1.00 before, +12 %"]);
    }

    #[test]
    fn a_few_nanoseconds_are_noise() {
        let before = [program("to_external6", 1000, 200, 0.16)];
        assert_eq!(worse(&before, &[program("to_external6", 1000, 200, 0.18)]), Vec::<String>::new());
        assert_eq!(worse(&before, &[program("to_external6", 1000, 200, 0.26)]).len(), 1);
    }

    #[test]
    fn a_slower_machine_is_not_a_slower_program() {
        let mut slow = program("p", 10, 16, 1.0);
        slow.packets[0].ns *= 5.0;
        assert!(worse(&[program("p", 10, 16, 1.0)], &[slow]).is_empty());
    }

    #[test]
    fn another_kernel_counts_other_instructions_and_another_cpu_takes_other_times() {
        let (before, after) = (run(&[program("p", 10, 16, 1.0)]), [program("p", 20, 32, 2.0)]);
        let told = |cpu, kernel| {
            let found = compare(&before, &machine(cpu, kernel), &after);
            (found.told().len(), found.notes.len())
        };
        assert_eq!(told("epyc", "6.18"), (3, 0));
        assert_eq!(told("epyc", "6.6"), (2, 1), "stack and time");
        assert_eq!(told("xeon", "6.18"), (2, 1), "stack and instructions");
        assert_eq!(told("xeon", "6.6"), (1, 2), "stack");
    }

    #[test]
    fn of_two_measurements_the_lower_counts() {
        let both = lower(vec![program("p", 10, 16, 1.2)], &[program("p", 10, 16, 1.0), program("q", 1, 1, 0.1)]);
        assert_eq!(both, [program("p", 10, 16, 1.0)]);
        assert_eq!(lower(both.clone(), &[program("p", 10, 16, 1.1)]), both);
    }

    #[test]
    fn what_is_new_is_said_and_not_compared() {
        let told = |before: &[Program]| {
            let found = compare(&run(before), &machine("epyc", "6.18"), &[program("p", 10, 16, 9.0)]);
            (found.told().len(), found.notes.len())
        };
        assert_eq!(told(&[]), (0, 1));
        assert_eq!(told(&[Program { packets: Vec::new(), ..program("p", 10, 16, 1.0) }]), (0, 1));
        assert_eq!(told(&[program("p", 10, 16, 9.0), program("gone", 1, 1, 1.0)]), (0, 1));
    }

    #[test]
    fn a_run_of_a_machine_like_this_goes_before_a_newer_one() {
        let dir = tempfile::tempdir().unwrap();
        for (name, cpu) in [("2026-01-01-a", "epyc"), ("2026-01-02-a", "epyc"), ("2026-01-03-b", "xeon")] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            let run = Run { date: name.to_owned(), machine: machine(cpu, "6.18"), ..run(&[]) };
            fs::write(path.join("run.json"), serde_json::to_string(&run).unwrap()).unwrap();
        }
        let date = |cpu: &str| baseline(dir.path(), &machine(cpu, "6.18")).unwrap().expect("a run").1.date;
        assert_eq!(["epyc", "xeon", "another"].map(date), ["2026-01-02-a", "2026-01-03-b", "2026-01-03-b"]);
        assert_eq!(newest_run(dir.path()).unwrap().expect("a run").1.date, "2026-01-03-b");
        assert!(newest_run(Path::new("/nonexistent")).unwrap().is_none());

        let part = Run { items: vec![record::tests::item("cni-add", true, &[("netpath", &[1.0])])], ..run(&[]) };
        fs::write(dir.path().join("2026-01-03-b/cni.json"), serde_json::to_string(&part).unwrap()).unwrap();
        let (_, whole) = newest_run(dir.path()).unwrap().expect("a run");
        assert_eq!((whole.date.as_str(), whole.items.len()), ("2026-01-03-b", 1));

        let later = Run { date: "later".to_owned(), ..run(&[]) };
        fs::write(dir.path().join("2026-01-02-a/programs.json"), serde_json::to_string(&later).unwrap()).unwrap();
        assert_eq!(["epyc", "xeon"].map(date), ["later", "2026-01-03-b"]);
    }
}
