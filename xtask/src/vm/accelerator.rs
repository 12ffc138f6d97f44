//! Whether this machine's processor runs guests itself (KVM) or qemu has to play one (TCG), which is many times slower. That
//! there is a /dev/kvm says little, so a guest is booted by it once; what came of that is remembered for this kernel and qemu.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::image::{self, Job};
use super::kernel::Kernel;
use super::machine::{self, Boot, End};
use super::tools::Tools;

/// A guest comes up in two seconds or never.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub(super) fn options(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Five levels of page tables are walked in software here.
            Self::Tcg => &["-accel", "tcg,tb-size=512", "-cpu", "max,la57=off"],
        }
    }

    pub(super) fn shown(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (software emulation)",
        }
    }
}

/// The one that works here, by the record in `cache` or by trying with `kernel`.
pub(super) fn choose(cache: &Path, kernel: &Kernel, init: &Path, tools: &Tools, folder: &Path) -> Result<Accelerator> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        eprintln!("vm: no KVM (/dev/kvm: {error}): {}", Accelerator::Tcg.shown());
        return Ok(Accelerator::Tcg);
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read this kernel's release")?;
    let machine = format!("{} {}", release.trim(), tools.qemu_version()?);
    let record = cache.join("accelerator");
    if let Some(known) = fs::read_to_string(&record).ok().and_then(|text| remembered(&text, &machine)) {
        return Ok(known);
    }
    eprintln!("vm: trying whether KVM works here (at most {} s, once)", LIMIT.as_secs());
    let found = attempt(kernel, init, tools, folder)?;
    eprintln!("vm: {}", if found == Accelerator::Kvm { "it does" } else { "it does not: software emulation" });
    fs::write(&record, format!("{machine}\n{found:?}\n")).with_context(|| format!("write {}", record.display()))?;
    Ok(found)
}

fn remembered(text: &str, machine: &str) -> Option<Accelerator> {
    match text.lines().collect::<Vec<_>>()[..] {
        [of, "Kvm"] if of == machine => Some(Accelerator::Kvm),
        [of, "Tcg"] if of == machine => Some(Accelerator::Tcg),
        _ => None,
    }
}

fn attempt(kernel: &Kernel, init: &Path, tools: &Tools, folder: &Path) -> Result<Accelerator> {
    let image = folder.join("probe.cpio");
    image::write(&image, init, &Job::default(), kernel, tools)?;
    let boot = Boot {
        kernel,
        image: &image,
        accelerator: Accelerator::Kvm,
        cpus: 2,
        memory_mib: 512,
        limit: LIMIT,
        terminal: false,
        shown: false,
        forwarded: &[],
    };
    // That qemu refuses is an answer too.
    let works = machine::run(&boot, tools, folder).is_ok_and(|outcome| matches!(outcome.end, End::Status(0)));
    Ok(if works { Accelerator::Kvm } else { Accelerator::Tcg })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_kernel_or_qemu_does_not_count() {
        let text = "6.18 QEMU 10\nTcg\n";
        assert_eq!(remembered(text, "6.18 QEMU 10"), Some(Accelerator::Tcg));
        assert_eq!(remembered(text, "6.19 QEMU 10"), None);
        assert_eq!(remembered("", "6.18 QEMU 10"), None);
    }
}
