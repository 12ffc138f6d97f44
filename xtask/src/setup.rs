//! `cargo xtask setup`: everything a fresh machine lacks to build, run and test netpath.
//!
//! Every step looks first and acts only on what is missing, so a second run takes a moment. What needs root is not
//! tried without it: the commands to type are the error.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::apt::{Apt, missing};
use crate::cni_tools::TOOLS;
use crate::cnitool;
use crate::docker_proxy;
use crate::linker;
use crate::newest::NEWEST;
use crate::podman;
use crate::process::{capture, cargo, find, is_root, run};
use crate::toolchain::{self, Compiler};

const NIGHTLY: &str = "rustup toolchain install nightly --component rust-src";
/// Debian's compiler, the source of its `core`, and its cargo: always one version.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];
const BPFFS: &str = "/sys/fs/bpf";

/// What demo and tests drive: program, Debian package.
const PROGRAMS: [(&str, &str); 11] = [
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("iptables-save", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("nsenter", "util-linux"),
];

/// How much a task needs; each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// Compiler and linker for the eBPF programs, and a mounted BPF file system.
    Agent,
    /// And the programs that the demo drives.
    Demo,
    /// And the test runner, and what the tests are built with and run.
    Tests,
    /// And the compiler for libFuzzer.
    Fuzz,
}

/// What is told: everything, or only what is done about something missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Full,
    Quiet,
}

/// Makes sure of all that `scope` needs.
///
/// # Errors
/// What could not be had and the command that gets it.
pub(crate) fn ensure(scope: Scope, report: Report) -> Result<()> {
    let mut setup = Setup { report, apt: Apt::default(), for_root: Vec::new() };
    if let Some(compiler) = setup.compiler()? {
        setup.linker(&compiler)?;
    }
    setup.bpffs()?;
    if scope >= Scope::Demo {
        setup.programs()?;
    }
    if scope >= Scope::Tests {
        setup.protoc()?;
    }
    if scope >= Scope::Fuzz {
        setup.cpp()?;
    }
    setup.need_root(scope)?;
    if scope >= Scope::Tests {
        setup.nextest()?;
        setup.docker_proxy()?;
        setup.cni_tools()?;
        setup.unpacked("Podman", podman::is_in, podman::fetch)?;
        for newest in &NEWEST {
            setup.unpacked(newest.what, |tools| newest.is_in(tools), |tools| newest.fetch(tools))?;
        }
        setup.unpacked("reference tool of CNI", cnitool::is_in, cnitool::fetch)?;
    }
    Ok(())
}

/// Makes sure of what clippy needs to see every crate, the tests' too.
///
/// # Errors
/// The command that gets it.
pub(crate) fn ensure_protoc() -> Result<()> {
    let mut setup = Setup { report: Report::Quiet, apt: Apt::default(), for_root: Vec::new() };
    setup.protoc()?;
    setup.need_root(Scope::Tests)
}

struct Setup {
    report: Report,
    apt: Apt,
    /// Commands that only root can run, where this process is not root's.
    for_root: Vec<String>,
}

impl Setup {
    fn compiler(&mut self) -> Result<Option<Compiler>> {
        let refused = match toolchain::find() {
            Ok(compiler) => {
                self.found(&format!("eBPF compiler: {compiler}"));
                return Ok(Some(compiler));
            }
            Err(refused) => refused.join("; "),
        };
        if find("rustup").is_none() {
            bail!("rustup is not on PATH; get it from https://rustup.rs, then type: {NIGHTLY}");
        }
        if std::env::var_os(toolchain::OVERRIDE).is_some_and(|name| !name.is_empty()) {
            bail!("no compiler for eBPF ({refused}); unset {}", toolchain::OVERRIDE);
        }
        self.found(&format!("no eBPF compiler: {refused}"));
        if !debian_compiler_present() {
            let packages = DEBIAN_COMPILER.map(str::to_owned);
            let installed = self
                .install("Debian's Rust compiler", &packages)
                .with_context(|| format!("no compiler for eBPF; type: {NIGHTLY}"))?;
            if !installed {
                return Ok(None);
            }
        }
        self.installing(&format!("Debian's compiler as toolchain `{}`", toolchain::LINKED));
        capture(Command::new("rustup").args(["toolchain", "link", toolchain::LINKED, "/usr"]))?;
        let compiler = toolchain::find()
            .map_err(|refused| anyhow!("no compiler for eBPF ({}); type: {NIGHTLY}", refused.join("; ")))?;
        Ok(Some(compiler))
    }

    fn linker(&mut self, compiler: &Compiler) -> Result<()> {
        let why = match linker::probe(compiler) {
            Ok(()) => {
                let linker = linker::describe().unwrap_or_else(|_| "bpf-linker".to_owned());
                self.found(&format!("eBPF linker: {linker}"));
                return Ok(());
            }
            Err(why) => why,
        };
        self.found(&format!("no eBPF linker: bpf-linker {why}"));
        // Without Debian's packages bpf-linker looks for an LLVM by itself.
        let llvm = linker::llvm_major(compiler).filter(|_| find("apt-get").is_some());
        if let Some(major) = llvm
            && !linker::llvm_prefix(major).join("bin/llvm-config").exists()
            && !self.install(&format!("LLVM {major} for bpf-linker"), &linker::packages(major))?
        {
            return Ok(());
        }
        self.installing("bpf-linker with `cargo install` (about a minute)");
        let mut command = linker::install_command(cargo(), llvm);
        run(&mut command).context("install bpf-linker; its LLVM must not be older than the compiler's")?;
        linker::probe(compiler).map_err(|why| {
            anyhow!("bpf-linker {why}; put cargo's bin folder first: export PATH=\"$HOME/.cargo/bin:$PATH\"")
        })
    }

    fn bpffs(&mut self) -> Result<()> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        if has_bpffs(&mounts) {
            self.found(&format!("BPF file system: on {BPFFS}"));
            return Ok(());
        }
        if !Path::new(BPFFS).is_dir() {
            bail!("there is no {BPFFS}: this kernel has no BPF, or /sys is not mounted");
        }
        if !is_root() {
            self.for_root.push(format!("mount -t bpf bpf {BPFFS}"));
            return Ok(());
        }
        self.installing(&format!("BPF file system on {BPFFS}"));
        capture(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS])).map(drop)
    }

    fn programs(&mut self) -> Result<()> {
        let packages = missing(&PROGRAMS, |name| find(name).is_some());
        if packages.is_empty() {
            self.found(&format!("programs: {}", PROGRAMS.map(|(name, _)| name).join(" ")));
            return Ok(());
        }
        self.install("programs", &packages).map(drop)
    }

    /// The tests speak to containerd's CRI by what Kubernetes' definition of it is made into when they are built.
    fn protoc(&mut self) -> Result<()> {
        if let Some(path) = find("protoc") {
            self.found(&format!("protocol compiler: {}", path.display()));
            return Ok(());
        }
        self.install("protocol compiler, to build the tests", &["protobuf-compiler".to_owned()]).map(drop)
    }

    /// libFuzzer comes as C++ with the crate that binds it.
    fn cpp(&mut self) -> Result<()> {
        if let Some(path) = find("c++") {
            self.found(&format!("C++ compiler: {}", path.display()));
            return Ok(());
        }
        self.install("C++ compiler for libFuzzer", &["g++".to_owned()]).map(drop)
    }

    fn nextest(&mut self) -> Result<()> {
        if let Some(path) = find("cargo-nextest") {
            self.found(&format!("test runner: {}", path.display()));
            return Ok(());
        }
        self.installing("test runner cargo-nextest with `cargo install` (some minutes)");
        // No self-update and no optimisation: it is built in less than half the time and runs tests as fast.
        let features = ["--no-default-features", "--features", "default-no-update"];
        run(cargo().args(["install", "--quiet", "--locked", "--debug", "cargo-nextest"]).args(features))
    }

    /// What cannot be had is no error: the tests that need it say that they are skipped.
    fn docker_proxy(&mut self) -> Result<()> {
        let path = docker_proxy::path()?;
        if path.exists() {
            self.found(&format!("Docker's proxy: {}", path.display()));
            return Ok(());
        }
        self.installing("docker-proxy of Debian's docker.io, that one file, for comparison");
        if let Err(error) = docker_proxy::fetch(&mut self.apt, &path) {
            eprintln!("no docker-proxy, the tests that compare with it are skipped: {error:#}");
        }
        Ok(())
    }

    fn cni_tools(&mut self) -> Result<()> {
        let proxy = docker_proxy::path()?;
        let folder = proxy.parent().context("the folder of tools")?;
        for tools in &TOOLS {
            if tools.are_in(folder) {
                self.found(&format!("files of {}", tools.package));
                continue;
            }
            self.installing(&format!("files of Debian's {}, for the tests of the CNI plugin", tools.package));
            if let Err(error) = tools.fetch(&mut self.apt, folder) {
                eprintln!("nothing of {}, the tests with it are skipped: {error:#}", tools.package);
            }
        }
        Ok(())
    }

    /// Fetches what only some tests run; without it they are skipped, and say so.
    fn unpacked(
        &mut self,
        what: &str,
        is_in: impl Fn(&Path) -> bool,
        fetch: impl Fn(&Path) -> Result<()>,
    ) -> Result<()> {
        let proxy = docker_proxy::path()?;
        let folder = proxy.parent().context("the folder of tools")?;
        if is_in(folder) {
            self.found(what);
            return Ok(());
        }
        self.installing(&format!("{what}, in a folder of its own, for the tests"));
        if let Err(error) = fetch(folder) {
            eprintln!("no {what}, the tests with it are skipped: {error:#}");
        }
        Ok(())
    }

    /// Installs `packages` if this is root; else remembers the command. Returns whether they are there afterwards.
    fn install(&mut self, what: &str, packages: &[String]) -> Result<bool> {
        if !is_root() {
            self.for_root.push(Apt::command(packages));
            return Ok(false);
        }
        self.installing(&format!("{what} with apt-get: {}", packages.join(" ")));
        self.apt.install(packages)?;
        Ok(true)
    }

    /// Stops if something has been left to root, before a step that takes long.
    fn need_root(&self, scope: Scope) -> Result<()> {
        if self.for_root.is_empty() {
            return Ok(());
        }
        bail!("setup needs root for what is missing; type: {}", sudo_line(&self.for_root, scope))
    }

    fn found(&self, what: &str) {
        if self.report == Report::Full {
            eprintln!("found {what}");
        }
    }

    fn installing(&self, what: &str) {
        eprintln!("installing {what}");
    }
}

fn debian_compiler_present() -> bool {
    Path::new("/usr/lib/rustlib/src/rust/library/core").is_dir() && Path::new("/usr/bin/rustc").exists()
}

/// Says whether `mounts` (/proc/self/mounts) has a BPF file system at its usual place.
fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(1) == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

/// One command for all that root has to do, and then setup again for the steps that depended on it.
fn sudo_line(commands: &[String], scope: Scope) -> String {
    let mut words: Vec<String> = commands.iter().map(|command| format!("sudo {command}")).collect();
    words.push(if scope == Scope::Agent { "cargo xtask setup --agent" } else { "cargo xtask setup" }.to_owned());
    words.join(" && ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bpf_file_system_counts_only_at_its_place() {
        assert!(has_bpffs("sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n"));
        assert!(!has_bpffs("sysfs /sys sysfs rw 0 0\nbpf /mnt/bpf bpf rw 0 0\n"));
        assert!(!has_bpffs("none /sys/fs/bpf tmpfs rw 0 0\n"));
    }

    #[test]
    fn what_needs_root_becomes_one_line_to_type() {
        let commands = [Apt::command(&["wrk".to_owned()]), "mount -t bpf bpf /sys/fs/bpf".to_owned()];
        assert_eq!(
            sudo_line(&commands, Scope::Tests),
            "sudo apt-get install -y --no-install-recommends --no-remove wrk && sudo mount -t bpf bpf /sys/fs/bpf && cargo xtask setup"
        );
        assert!(sudo_line(&commands, Scope::Agent).ends_with(" && cargo xtask setup --agent"));
    }

    #[test]
    fn scopes_include_the_ones_before() {
        assert!(Scope::Agent < Scope::Demo && Scope::Demo < Scope::Tests);
    }
}
