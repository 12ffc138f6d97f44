//! Builds eBPF programs with aya-build into `OUT_DIR`, so that a plain `cargo build` is enough. The build scripts that do
//! so include this file by its path.
//!
//! With `AYA_BUILD_SKIP=1` the object is empty: unit tests and clippy then need neither bpf-linker nor `core`'s source.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

use crate::toolchain;

/// Builds `package` into `object`, which is the name of its bin target. An error stops cargo.
pub(crate) fn build(package: Package<'_>, object: &str) {
    if let Err(error) = try_build(package, object) {
        // Cargo takes one line, shows it as an error and stops, without a backtrace through the build script.
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
    }
}

fn try_build(package: Package<'_>, object: &str) -> Result<()> {
    println!("cargo::rerun-if-env-changed={}", toolchain::OVERRIDE);
    if matches!(env::var("AYA_BUILD_SKIP").as_deref(), Ok("1" | "true")) {
        println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
        let object = Path::new(&env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join(object);
        return fs::write(&object, []).with_context(|| format!("write {}", object.display()));
    }
    // Profile and dependency versions of the eBPF crate; aya-build watches the crate itself.
    println!("cargo::rerun-if-changed=../Cargo.toml");
    println!("cargo::rerun-if-changed=../Cargo.lock");

    let compiler = match toolchain::find() {
        Ok(compiler) => compiler,
        Err(refused) => bail!("no compiler for eBPF ({}); type: cargo xtask setup", refused.join("; ")),
    };
    // SAFETY: a build script has one thread, so nobody reads the environment meanwhile.
    unsafe {
        // Lets any compiler, Debian's stable one too, take `-Z build-std`.
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // aya-build shows what cargo says as warnings; these should be the compiler's only, not cargo's progress.
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    aya_build::build_ebpf([package], Toolchain::Custom(&compiler.toolchain)).or_else(|error| {
        println!("cargo::warning={}", format!("{error:#}").replace('\n', " "));
        bail!("build the eBPF programs with {compiler}: see the warnings (if the linker complains, type: cargo xtask setup)")
    })
}
