//! `JUMPS`: the programs that others jump to.
//!
//! Programs that jump to one another hand the packet over in a map of their own, so those of one agent must not jump
//! to those of another: while a new agent attaches its programs, both are at work. Each agent has a table of its own,
//! pinned under `maps/JUMPS-NUMBER`, since the kernel empties a table that nobody holds; the tables of earlier ones
//! go when all their programs have been replaced.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};

use super::links::unpin;
use super::program;

/// By their places in the table.
const JUMPED_TO: [&str; 12] = [
    "inside_from_container",
    "inside_from_container6",
    "from_container",
    "from_container6",
    "to_external",
    "to_external6",
    "begin_flow",
    "begin_flow6",
    "answer_refusal",
    "answer_refusal6",
    "release_fragments",
    "release_fragments6",
];

const PREFIX: &str = "JUMPS-";

/// Where the next agent's table is pinned: after all that there are.
pub(super) fn next_pin(maps_dir: &Path) -> Result<PathBuf> {
    let last = pins(maps_dir)?.into_iter().map(|(number, _)| number).max();
    Ok(maps_dir.join(format!("{PREFIX}{}", last.map_or(0, |last| last + 1))))
}

/// Removes the tables before that at `current`. No program that is attached may use them.
pub(super) fn retire(maps_dir: &Path, current: &Path) -> Result<()> {
    for (_, pin) in pins(maps_dir)?.into_iter().filter(|(_, pin)| pin != current) {
        unpin(&pin)?;
    }
    Ok(())
}

fn pins(maps_dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = fs::read_dir(maps_dir).with_context(|| format!("list {}", maps_dir.display()))?;
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok();
    Ok(entries.flatten().filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect())
}

/// Tells the programs of a family which programs they jump to. The pin keeps the table filled.
pub(super) fn fill(jumps: &mut ProgramArray<MapData>, ebpf: &mut Ebpf, is_family: impl Fn(&str) -> bool) -> Result<()> {
    for (place, name) in (0..).zip(JUMPED_TO).filter(|(_, name)| is_family(name)) {
        let fd = program(ebpf, name)?.fd().with_context(|| format!("`{name}` is not loaded"))?;
        jumps.set(place, fd, 0).with_context(|| format!("write `{name}` to JUMPS"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_has_a_table_of_its_own_until_it_is_retired() {
        let dir = tempfile::tempdir().unwrap();
        let first = next_pin(dir.path()).unwrap();
        fs::write(&first, "").unwrap();
        let second = next_pin(dir.path()).unwrap();
        assert_ne!(first, second);
        fs::write(&second, "").unwrap();
        fs::write(dir.path().join("CONFIG"), "").unwrap();
        retire(dir.path(), &second).unwrap();
        assert!(!first.exists() && second.exists() && dir.path().join("CONFIG").exists());
        assert_ne!(next_pin(dir.path()).unwrap(), second);
    }
}
