//! The bench's eBPF programs: one that makes frames, and some that get rid of them.
//!
//! Built for the host, this is an empty program.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod bpf;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
