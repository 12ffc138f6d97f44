//! How much stack an eBPF program takes on the deepest way through it, read from its instructions: the verifier knows, but
//! tells only who asks for its log.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context as _, Result};
use aya_obj::Object;

/// The frame pointer.
const R10: u8 = 10;

/// The kernel rounds a frame up to this.
const ROUND: u32 = 16;

/// An instruction, as linux/bpf.h has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Insn {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

/// Bytes of stack of every program in `object`, by its name.
///
/// # Errors
///
/// If `object` is no eBPF object.
pub fn of_programs(object: &[u8]) -> Result<BTreeMap<String, u32>> {
    let mut object = Object::parse(object).context("read the eBPF object")?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).context("link the functions of the eBPF object")?;
    let depth_of = |(name, program): (&String, &aya_obj::Program)| {
        let function = object.functions.get(&program.function_key()).with_context(|| format!("find `{name}`"))?;
        let insns: Vec<Insn> = function
            .instructions
            .iter()
            .map(|i| Insn { code: i.code, dst: i.dst_reg(), src: i.src_reg(), off: i.off, imm: i.imm })
            .collect();
        Ok((name.clone(), depth(&insns)))
    };
    object.programs.iter().map(depth_of).collect()
}

/// The deepest sum of frames along a chain of calls from the first instruction.
fn depth(insns: &[Insn]) -> u32 {
    let calls: Vec<(usize, usize)> = (0..insns.len()).filter_map(|at| Some((at, called(insns, at)?))).collect();
    let starts: BTreeSet<usize> = calls.iter().map(|(_, target)| *target).chain([0]).collect();
    below(insns, &calls, &starts, 0, &mut Vec::new())
}

fn below(
    insns: &[Insn],
    calls: &[(usize, usize)],
    starts: &BTreeSet<usize>,
    start: usize,
    chain: &mut Vec<usize>,
) -> u32 {
    if chain.contains(&start) {
        // The verifier refuses recursion; this ends on whatever else there may be.
        return 0;
    }
    let end = starts.range(start + 1..).next().copied().unwrap_or(insns.len());
    chain.push(start);
    let inner = calls.iter().filter(|(at, _)| (start..end).contains(at));
    let deepest = inner.map(|(_, target)| below(insns, calls, starts, *target, chain)).max().unwrap_or(0);
    chain.pop();
    frame(&insns[start..end.min(insns.len())]) + deepest
}

/// The function that the instruction at `at` calls or passes to a helper.
fn called(insns: &[Insn], at: usize) -> Option<usize> {
    const CALL: u8 = 0x85;
    const LOAD_64: u8 = 0x18;
    const PSEUDO_CALL: u8 = 1;
    const PSEUDO_FUNC: u8 = 4;
    let insn = insns[at];
    let is_call = (insn.code, insn.src) == (CALL, PSEUDO_CALL) || (insn.code, insn.src) == (LOAD_64, PSEUDO_FUNC);
    if !is_call {
        return None;
    }
    usize::try_from(at as i64 + 1 + i64::from(insn.imm)).ok().filter(|target| *target < insns.len())
}

/// The lowest byte below the frame pointer that a function touches, or hands out the address of.
fn frame(insns: &[Insn]) -> u32 {
    const MOVE: u8 = 0xbf;
    const ADD: u8 = 0x07;
    let mut lowest = 0;
    for (at, insn) in insns.iter().enumerate() {
        // Loads use the source register as the address, stores the destination.
        let address = match insn.code & 0x07 {
            0x01 => Some(insn.src),
            0x02 | 0x03 => Some(insn.dst),
            _ => None,
        };
        if address == Some(R10) {
            lowest = lowest.min(i32::from(insn.off));
        }
        if insn.code == MOVE && insn.src == R10 {
            // The offset is added to the copy before anything else is done with it.
            let changed = insns[at + 1..].iter().find(|next| next.dst == insn.dst && is_write(next.code));
            lowest = lowest.min(changed.filter(|next| next.code == ADD).map_or(0, |next| next.imm));
        }
    }
    lowest.unsigned_abs().next_multiple_of(ROUND)
}

/// Whether an instruction changes its destination register: loads and arithmetic do.
fn is_write(code: u8) -> bool {
    matches!(code & 0x07, 0x00 | 0x01 | 0x04 | 0x07)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Insn = Insn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 };

    fn store(off: i16) -> Insn {
        Insn { code: 0x7b, dst: R10, src: 1, off, imm: 0 }
    }

    fn call(imm: i32) -> Insn {
        Insn { code: 0x85, dst: 0, src: 1, off: 0, imm }
    }

    #[test]
    fn the_lowest_byte_that_is_stored_or_handed_out_counts() {
        let address = [
            Insn { code: 0xbf, dst: 2, src: R10, off: 0, imm: 0 },
            Insn { code: 0x07, dst: 2, src: 0, off: 0, imm: -40 },
        ];
        assert_eq!(depth(&[store(-8), EXIT]), 16);
        assert_eq!(depth(&[store(-8), address[0], address[1], EXIT]), 48);
        let between = store(-8);
        assert_eq!(depth(&[address[0], between, address[1], EXIT]), 48);
        assert_eq!(depth(&[EXIT]), 0);
    }

    #[test]
    fn frames_add_up_along_the_deepest_chain_of_calls() {
        // 0: store, call 4; call 6; exit. 4: deep. 6: shallow, calls 4.
        let insns = [store(-32), call(2), call(3), EXIT, store(-64), EXIT, call(-3), store(-16), EXIT];
        assert_eq!(depth(&insns), 32 + 16 + 64);
    }
}
