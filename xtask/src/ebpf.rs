//! Builds eBPF programs with aya-build into `OUT_DIR`, so that a plain `cargo build` is enough. The build scripts that do
//! so include this file by its path.
//!
//! With `AYA_BUILD_SKIP=1` the object is empty: unit tests and clippy then need neither bpf-linker nor `core`'s source.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

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
    let object = Path::new(&env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join(object);
    if matches!(env::var("AYA_BUILD_SKIP").as_deref(), Ok("1" | "true")) {
        println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
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
        // bpf-linker optimises the whole program itself.
        env::set_var("CARGO_PROFILE_RELEASE_LTO", "off");
        env::set_var("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3");
    }
    aya_build::build_ebpf([package], Toolchain::Custom(&compiler.toolchain)).or_else(|error| {
        println!("cargo::warning={}", format!("{error:#}").replace('\n', " "));
        bail!("build the eBPF programs with {compiler}: see the warnings (if the linker complains, type: cargo xtask setup)")
    })?;
    strip(&object).with_context(|| format!("strip {}", object.display()))
}

/// Takes away what is for debuggers only, four fifths of the object: the kernel is told what its messages need by BTF.
fn strip(object: &Path) -> Result<()> {
    let bytes = fs::read(object)?;
    let mut elf = Builder::read(&*bytes)?;
    for section in &mut elf.sections {
        section.delete = section.name.starts_with(b".debug") || section.name.starts_with(b".rel.debug");
    }
    // The linker keeps all names in one table, the writer those of sections in their own.
    let names = elf.sections.add();
    (names.name, names.sh_type, names.data) = (".shstrtab".into(), SHT_STRTAB, SectionData::SectionString);
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(fs::write(object, stripped)?)
}
