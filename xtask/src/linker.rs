//! bpf-linker: is there one whose LLVM reads what the compiler writes, and building one where there is not.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::process::{find, line};
use crate::toolchain::Compiler;

/// Builds on the workspace's Rust and has a feature for each LLVM from 21 to 23.
const VERSION: &str = "0.13.0";

/// The least program with a function in it: what a linker of an older LLVM fails on is the function's attributes.
const PROBE: &str = r#"
#![feature(no_core, lang_items)]
#![no_core]
#![no_main]
#![allow(internal_features)]
#[lang = "pointee_sized"] pub trait PointeeSized {}
#[lang = "meta_sized"] pub trait MetaSized: PointeeSized {}
#[lang = "sized"] pub trait Sized: MetaSized {}
#[unsafe(no_mangle)] pub extern "C" fn probe() {}
"#;

/// Links a tiny program with `compiler` and the bpf-linker on `PATH`, as building the eBPF programs will.
///
/// # Errors
/// Why the linker will not do, in one line.
pub(crate) fn probe(compiler: &Compiler) -> Result<(), String> {
    let object = env::temp_dir().join(format!("netpath-probe-{}.o", process::id()));
    let mut command = Command::new("rustup");
    command
        .args(["run", &compiler.toolchain, "rustc", "--edition=2021", "--crate-name=probe", "--crate-type=bin"])
        .args(["--target=bpfel-unknown-none", "-Cdebuginfo=2", "-Clink-arg=--btf", "-Clinker=bpf-linker", "-o"])
        .arg(&object)
        .arg("-")
        .env("RUSTC_BOOTSTRAP", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("run `{}`: {error}", line(&command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A compiler that ends early says why on standard error.
        let _ = stdin.write_all(PROBE.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("wait for `{}`: {error}", line(&command)))?;
    let _ = std::fs::remove_file(&object);
    if output.status.success() { Ok(()) } else { verdict(&String::from_utf8_lossy(&output.stderr)) }
}

/// What the probe's messages say about the linker. A compiler that does not take the probe says nothing about it.
fn verdict(stderr: &str) -> Result<(), String> {
    if stderr.contains("linker `bpf-linker` not found") {
        return Err("not on PATH".to_owned());
    }
    let Some(at) = stderr.find("linking with") else { return Ok(()) };
    // Two notes are the compiler's own: the command line, and that it is shortened.
    let complaint = |line: &&str| !line.starts_with('"') && !line.starts_with("some arguments are omitted");
    let mut notes = stderr[at..].lines().filter_map(|line| line.trim().strip_prefix("= note:")).map(str::trim);
    let why = notes.find(complaint).unwrap_or("it fails");
    Err(format!("does not link what the compiler makes: {why}"))
}

/// The major version of the LLVM that a bpf-linker for `compiler` is built on.
pub(crate) fn llvm_major(compiler: &Compiler) -> Option<u32> {
    compiler.llvm.split('.').next()?.parse().ok()
}

/// The Debian packages that bpf-linker is built with.
pub(crate) fn packages(major: u32) -> Vec<String> {
    vec![format!("llvm-{major}-dev"), format!("libpolly-{major}-dev")]
}

/// Where those packages put LLVM.
pub(crate) fn llvm_prefix(major: u32) -> PathBuf {
    Path::new("/usr/lib").join(format!("llvm-{major}"))
}

/// `cargo install` of a bpf-linker on the LLVM in `llvm`, or on the one it finds by itself.
pub(crate) fn install_command(mut cargo: Command, llvm: Option<u32>) -> Command {
    cargo.args(["install", "--quiet", "--force", "bpf-linker", "--version", VERSION]);
    if let Some(major) = llvm {
        cargo.args(["--no-default-features", "--features", &format!("llvm-{major}")]);
        // Without it the link finds no `-lLLVM`.
        cargo.env("LLVM_PREFIX", llvm_prefix(major));
    }
    cargo
}

/// The path and version of the bpf-linker that is there, for the report.
pub(crate) fn describe() -> Result<String> {
    let path = find("bpf-linker").context("not on PATH")?;
    let version = crate::process::capture(Command::new(&path).arg("--version"))?;
    Ok(format!("{} at {}", version.trim(), path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_of_an_older_llvm_is_refused_in_its_own_words() {
        let stderr = "error: linking with `bpf-linker` failed: exit status: 1\n  |\n  \
            = note:  \"bpf-linker\" \"--export-symbols\" \"/tmp/x\"\n  \
            = note: some arguments are omitted. use `--verbose` to show all linker arguments\n  \
            = note: Error: failure linking module: Unknown attribute kind (102)\n\nerror: aborting\n";
        let why = verdict(stderr).expect_err("refused");
        assert!(why.ends_with("Error: failure linking module: Unknown attribute kind (102)"), "{why}");
    }

    #[test]
    fn an_absent_linker_is_said_to_be_absent() {
        let why = verdict("error: linker `bpf-linker` not found\n  = note: No such file").expect_err("refused");
        assert_eq!(why, "not on PATH");
    }

    #[test]
    fn a_compiler_that_refuses_the_probe_does_not_blame_the_linker() {
        assert_eq!(verdict("error[E0522]: definition of an unknown lang item: `meta_sized`"), Ok(()));
    }

    #[test]
    fn the_linker_is_built_on_the_llvm_of_the_compiler() {
        let compiler = Compiler { toolchain: "t".to_owned(), release: "1.96.0".to_owned(), llvm: "22.1.8".to_owned() };
        assert_eq!(llvm_major(&compiler), Some(22));
        let command = install_command(Command::new("cargo"), Some(22));
        assert!(line(&command).ends_with("--no-default-features --features llvm-22"), "{}", line(&command));
    }
}
