//! Every program for itself: whether this kernel takes it, and if not, the verifier's last words. Nothing is pinned or
//! attached, and all of it is gone afterwards.

use anyhow::{Context as _, Result, bail};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use serde::{Deserialize, Serialize};

use super::attempts::verify;
use super::{Features, OBJECT, PROGRAMS, Sizes, features, hooks, locked_memory, sizes, xdp};

/// How many of the verifier's last lines are kept. The last but one says what is wrong; those before, where.
const LAST_LINES: usize = 6;
/// As small as maps get: programs do not see how large they are.
const SIZES: Sizes = Sizes { max_flows: 64, max_ports: 64, max_endpoints: 64, max_counters: 64 };

/// What the kernel said to one program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub name: String,
    /// Instructions that the verifier walked through; 0 where the kernel does not tell (before Linux 5.16).
    pub instructions: u32,
    /// Why it was refused; empty if it was not.
    pub refusal: Vec<String>,
}

/// Offers every program, with the `wanted` helpers, to the kernel, also after it has refused one.
///
/// # Errors
///
/// If there are no maps to be had.
pub fn programs(wanted: Features) -> Result<Vec<Trial>> {
    locked_memory::lift_limit();
    let mut loader = EbpfLoader::new();
    sizes::set(&mut loader, &SIZES);
    features::set(&mut loader, wanted);
    let mut ebpf = loader.load(OBJECT).context("create the maps (needs root and a kernel with BPF)")?;
    let names = PROGRAMS.into_iter().chain(hooks::HOOKS).chain(xdp::Programs::of(wanted).all());
    names.map(|name| attempt(&mut ebpf, name)).collect()
}

fn attempt(ebpf: &mut Ebpf, name: &str) -> Result<Trial> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program `{name}` in the eBPF object"))?;
    let loaded = match program {
        Program::SchedClassifier(program) => verify(|| program.load()),
        Program::CgroupSockAddr(program) => verify(|| program.load()),
        Program::Xdp(program) => verify(|| program.load()),
        _ => bail!("`{name}` is of a kind that nobody tries"),
    };
    let refusal = loaded.err().map(|error| refusal(&error)).unwrap_or_default();
    let info = if refusal.is_empty() { program.info().ok() } else { None };
    let instructions = info.and_then(|info| info.verified_instruction_count()).unwrap_or(0);
    Ok(Trial { name: name.to_owned(), instructions, refusal })
}

/// The error, and before it the verifier's last lines.
fn refusal(error: &ProgramError) -> Vec<String> {
    let (log, error) = match error {
        ProgramError::LoadError { io_error, verifier_log } => (verifier_log.to_string(), io_error.to_string()),
        other => (String::new(), other.to_string()),
    };
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].iter();
    last.map(|line| (*line).to_owned()).chain([error]).collect()
}
