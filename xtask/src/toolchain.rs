//! Which compiler builds the eBPF programs. One answer for two users: `cargo xtask setup`, which makes sure there is
//! one, and the agent's build.rs, which includes this file by its path. Looks only; changes nothing.

use std::env;
use std::fmt;
use std::process::Command;

/// The rustup toolchain that `cargo xtask setup` links to Debian's compiler.
pub(crate) const LINKED: &str = "netpath-bpf";
/// Names another rustup toolchain to use.
pub(crate) const OVERRIDE: &str = "NETPATH_BPF_TOOLCHAIN";

/// Where `-Z build-std` looks for the source of `core`, below the sysroot.
const CORE: &str = "lib/rustlib/src/rust/library/core";

/// A compiler that can build the eBPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// The name that `rustup run` takes.
    pub(crate) toolchain: String,
    pub(crate) release: String,
    pub(crate) llvm: String,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { toolchain, release, llvm } = self;
        write!(f, "toolchain `{toolchain}` (rustc {release}, LLVM {llvm})")
    }
}

/// Returns the first toolchain that will do, or why each of them will not: the one that [`OVERRIDE`] names, else a
/// nightly, else [`LINKED`].
pub(crate) fn find() -> Result<Compiler, Vec<String>> {
    choose(env::var(OVERRIDE).ok(), inspect)
}

fn choose(named: Option<String>, inspect: impl Fn(&str) -> Result<Compiler, String>) -> Result<Compiler, Vec<String>> {
    let named = named.filter(|name| !name.is_empty());
    let candidates = named.map_or_else(|| vec!["nightly".to_owned(), LINKED.to_owned()], |name| vec![name]);
    let mut refused = Vec::new();
    for toolchain in &candidates {
        match inspect(toolchain) {
            Ok(compiler) => return Ok(compiler),
            Err(why) => refused.push(format!("toolchain `{toolchain}` {why}")),
        }
    }
    Err(refused)
}

fn inspect(toolchain: &str) -> Result<Compiler, String> {
    let sysroot = rustc(toolchain, "--print=sysroot")?;
    if !std::path::Path::new(sysroot.trim()).join(CORE).is_dir() {
        return Err("has no rust-src".to_owned());
    }
    let version = rustc(toolchain, "-vV")?;
    let field = |name| version.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown").to_owned();
    let release = field("release: ");
    let needed = env!("CARGO_PKG_RUST_VERSION");
    if !is_at_least(&release, needed) {
        return Err(format!("is rustc {release}, older than {needed}"));
    }
    Ok(Compiler { toolchain: toolchain.to_owned(), release, llvm: field("LLVM version: ") })
}

fn rustc(toolchain: &str, argument: &str) -> Result<String, String> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", argument])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .map_err(|error| format!("cannot be asked for: run `rustup`: {error}"))?;
    if !output.status.success() {
        return Err("is not installed".to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Compares major and minor of two versions; what follows them (`.0-nightly`) does not count.
fn is_at_least(version: &str, needed: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> { text.split('.').take(2).map_while(|part| part.parse().ok()).collect() };
    numbers(version) >= numbers(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nightly_with_the_source_of_core_goes_before_debians_compiler() {
        assert_eq!(chosen(None, &["nightly", LINKED]), Ok("nightly".to_owned()));
        assert_eq!(chosen(Some(""), &["nightly", LINKED]), Ok("nightly".to_owned()));
        assert_eq!(chosen(None, &["nightly"]), Ok("nightly".to_owned()));
        assert_eq!(chosen(None, &["stable", LINKED]), Ok(LINKED.to_owned()));
    }

    #[test]
    fn a_toolchain_that_is_named_is_the_only_candidate() {
        assert_eq!(chosen(Some("mine"), &["nightly", LINKED, "mine"]), Ok("mine".to_owned()));
        assert_eq!(
            chosen(Some("mine"), &["nightly", LINKED]),
            Err(vec!["toolchain `mine` has no rust-src".to_owned()])
        );
    }

    #[test]
    fn every_toolchain_that_will_not_do_says_why() {
        let refused = chosen(None, &["stable"]).unwrap_err();
        assert_eq!(refused, ["nightly", LINKED].map(|name| format!("toolchain `{name}` has no rust-src")));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(is_at_least("1.97.0-nightly", "1.95"));
        assert!(is_at_least("1.100.0", "1.95"));
        assert!(is_at_least("1.95.0", "1.95"));
        assert!(!is_at_least("1.63.0", "1.95"));
        assert!(!is_at_least("unknown", "1.95"));
    }

    /// Chooses where only the toolchains in `usable` have the source of `core`.
    fn chosen(named: Option<&str>, usable: &[&str]) -> Result<String, Vec<String>> {
        let inspect = |name: &str| {
            let compiler = Compiler { toolchain: name.to_owned(), release: String::new(), llvm: String::new() };
            if usable.contains(&name) { Ok(compiler) } else { Err("has no rust-src".to_owned()) }
        };
        choose(named.map(str::to_owned), inspect).map(|compiler| compiler.toolchain)
    }
}
