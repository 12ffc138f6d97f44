//! `JUMPS`: the programs that others jump to.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::ProgramArray;

use super::program;

/// By their places in the table.
const JUMPED_TO: [&str; 2] = ["inside_from_container", "inside_from_container6"];

/// Tells the programs which programs they jump to. The pin keeps the table filled.
pub(super) fn fill(ebpf: &mut Ebpf) -> Result<()> {
    let jumps = ebpf.take_map("JUMPS").context("no map JUMPS in the eBPF object")?;
    let mut jumps = ProgramArray::try_from(jumps).context("open JUMPS")?;
    for (place, name) in (0..).zip(JUMPED_TO) {
        let fd = program(ebpf, name)?.fd().with_context(|| format!("`{name}` is not loaded"))?;
        jumps.set(place, fd, 0).with_context(|| format!("write `{name}` to JUMPS"))?;
    }
    Ok(())
}
