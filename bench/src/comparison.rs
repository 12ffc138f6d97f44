//! Whether the programs have become worse since the last committed run: `cargo xtask bench --check`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::record::{Program, Run};

/// By how much a figure may rise. Times relative to the reference program's differ by up to 8 % from run to run on a machine
/// that is busy with three times as much as it has CPUs.
const MAX_RISE: f64 = 0.10;

/// The newest run under `runs`, by the name of its directory, which begins with the date.
///
/// # Errors
///
/// If there is one that cannot be read.
pub fn newest_run(runs: &Path) -> Result<Option<(PathBuf, Run)>> {
    let mut found: Vec<PathBuf> = fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("run.json"))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    let Some(path) = found.pop() else { return Ok(None) };
    Ok(Some((path.clone(), read(&path)?)))
}

/// Reads a `run.json`.
///
/// # Errors
///
/// If there is none, or it is none.
pub fn read(path: &Path) -> Result<Run> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {} as a run", path.display()))
}

/// What has risen too much from `before` to `after`, one line each. Programs and packets that only one of them has are not
/// compared.
pub fn worse(before: &[Program], after: &[Program]) -> Vec<String> {
    let mut worse = Vec::new();
    for program in after {
        let Some(old) = before.iter().find(|old| old.name == program.name) else { continue };
        let counts = [
            ("instructions verified", old.instructions, program.instructions),
            ("bytes of stack", old.stack, program.stack),
        ];
        for (what, was, is) in counts {
            if f64::from(is) > f64::from(was) * (1.0 + MAX_RISE) {
                worse.push(format!("`{}`: {is} {what}, {was} before", program.name));
            }
        }
        for packet in &program.packets {
            let Some(was) = old.packets.iter().find(|old| old.name == packet.name) else { continue };
            if packet.relative > was.relative * (1.0 + MAX_RISE) {
                worse.push(format!(
                    "`{}`, {}: {:.2} times the reference program, {:.2} before",
                    program.name, packet.name, packet.relative, was.relative
                ));
            }
        }
    }
    worse
}

/// The lower of two measurements of the same programs, packet by packet: what else the machine does only adds.
pub fn lower(mut one: Vec<Program>, other: &[Program]) -> Vec<Program> {
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
    use crate::record::Packet;

    fn program(name: &str, instructions: u32, stack: u32, relative: f64) -> Program {
        let packets = vec![Packet { name: "x".to_owned(), ns: 100.0 * relative, relative }];
        Program { name: name.to_owned(), instructions, stack, packets }
    }

    #[test]
    fn a_rise_of_more_than_a_tenth_is_told_with_the_programs_name() {
        let before = [program("from_external", 1000, 200, 1.0)];
        assert_eq!(worse(&before, &[program("from_external", 1100, 220, 1.0)]), Vec::<String>::new());
        let found = worse(&before, &[program("from_external", 1101, 224, 1.3)]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().all(|line| line.starts_with("`from_external`")));
    }

    #[test]
    fn a_slower_machine_is_not_a_slower_program() {
        let mut slow = program("p", 10, 16, 1.0);
        slow.packets[0].ns *= 5.0;
        assert!(worse(&[program("p", 10, 16, 1.0)], &[slow]).is_empty());
    }

    #[test]
    fn of_two_measurements_the_lower_counts() {
        let both = lower(vec![program("p", 10, 16, 1.2)], &[program("p", 10, 16, 1.0), program("q", 1, 1, 0.1)]);
        assert_eq!(both, [program("p", 10, 16, 1.0)]);
        assert_eq!(lower(both.clone(), &[program("p", 10, 16, 1.1)]), both);
    }

    #[test]
    fn what_is_new_is_not_compared() {
        assert!(worse(&[], &[program("p", 10, 16, 1.0)]).is_empty());
        let other = Program { packets: Vec::new(), ..program("p", 10, 16, 1.0) };
        assert!(worse(&[other], &[program("p", 10, 16, 9.0)]).is_empty());
    }

    #[test]
    fn the_newest_run_is_the_one_of_the_last_date() {
        let none = newest_run(Path::new("/nonexistent")).unwrap();
        assert!(none.is_none());
    }
}
