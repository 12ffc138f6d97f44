//! Kernels to boot: Debian's cloud kernels by their series, fetched once, or one's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cache;
use super::suite::{self, Suite};
use super::tools::Tools;
use crate::process::{capture, find};

/// What can be asked for, and the Debian suite that has it.
pub(super) const SERIES: [(&str, &str); 4] =
    [("5.10", "bullseye"), ("6.1", "bookworm"), ("6.12", "trixie"), ("sid", "sid")];
/// The package that depends on a suite's newest cloud kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// For package list, packages and unpacked modules.
const SPACE_MIB: u64 = 600;

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As it was asked for.
    pub(super) name: String,
    /// Package and version, or the path.
    pub(super) version: String,
    /// The bzImage.
    pub(super) image: PathBuf,
    /// The folder that has `modules.dep`, named by the kernel's release.
    pub(super) modules: Option<PathBuf>,
}

/// Refuses a name that is none of [`SERIES`].
pub(super) fn check(name: &str) -> Result<()> {
    if SERIES.iter().any(|(series, _)| *series == name) {
        return Ok(());
    }
    let known = SERIES.map(|(series, _)| series).join(", ");
    bail!("no kernel is called `{name}`: there are {known}, and --kernel PATH for one's own");
}

/// One's own kernel.
pub(super) fn own(image: &Path, modules: Option<&Path>) -> Result<Kernel> {
    if !image.is_file() {
        bail!("there is no kernel {}: --kernel wants a bzImage", image.display());
    }
    if let Some(modules) = modules.filter(|dir| !dir.join("modules.dep").is_file()) {
        bail!("{} has no modules.dep: --modules wants a folder as /lib/modules/RELEASE is", modules.display());
    }
    let absolute = |path: &Path| path.canonicalize().with_context(|| format!("find {}", path.display()));
    let image = absolute(image)?;
    let version = image.display().to_string();
    Ok(Kernel { name: "own".to_owned(), version, image, modules: modules.map(absolute).transpose()? })
}

/// The kernel of the series `name`: from the cache, or, if it is not there or `update` is asked for, from Debian.
pub(super) fn ensure(name: &str, update: bool, tools: &Tools) -> Result<Kernel> {
    let cache = cache::dir()?;
    let dir = cache.join("kernels").join(name.replace('.', "-"));
    if update || !dir.join("version").is_file() {
        fetch(name, &cache, &dir, tools).with_context(|| format!("get kernel {name} (--kernel PATH for one's own)"))?;
    }
    let version = fs::read_to_string(dir.join("version")).with_context(|| format!("read {}", dir.display()))?;
    let modules = only_folder(&dir.join("lib/modules"))?;
    Ok(Kernel { name: name.to_owned(), version, image: dir.join("vmlinuz"), modules: Some(modules) })
}

fn fetch(name: &str, cache: &Path, dir: &Path, tools: &Tools) -> Result<()> {
    let (_, suite) = SERIES.iter().find(|(series, _)| *series == name).context("a kernel that nobody knows")?;
    cache::require_space(cache, SPACE_MIB)?;
    let suite = Suite::new(&cache.join("suites"), suite, &suite::mirror()?)?;
    suite.update()?;
    let mut packages = suite.closure(&[PACKAGE])?;
    packages.retain(|package| is_of_kernel(&package.name));
    let first = packages.first().context("Debian's package list names no kernel")?;
    let version = format!("{} {}", first.name, first.version);
    eprintln!("vm: fetching {version} to {}", dir.display());
    cache::replace(dir, |fresh| {
        let unpacked = fresh.join("unpacked");
        suite.unpack(&packages, &unpacked)?;
        arrange(&unpacked, fresh, tools)?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))?;
        fs::write(fresh.join("version"), &version).with_context(|| format!("write to {}", fresh.display()))
    })
}

/// Whether a package of the closure has the kernel or modules in it. Newer ones have a package for each.
fn is_of_kernel(package: &str) -> bool {
    let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
    package != PACKAGE && parts.iter().any(|part| package.starts_with(part))
}

/// Puts kernel and modules where [`ensure`] looks, the modules unpacked and listed.
fn arrange(unpacked: &Path, dir: &Path, tools: &Tools) -> Result<()> {
    // Where Debian has put modules before and after /lib became a link.
    let modules = ["usr/lib/modules", "lib/modules"].map(|path| unpacked.join(path));
    let modules = modules.iter().find(|path| path.is_dir()).context("the packages have no modules")?;
    let release = only_folder(modules)?;
    let name = release.file_name().context("the modules' folder has no name")?.to_string_lossy().into_owned();
    let images = [unpacked.join(format!("boot/vmlinuz-{name}")), release.join("vmlinuz")];
    let image = images.iter().find(|path| path.is_file()).context("the packages have no kernel")?;
    fs::rename(image, dir.join("vmlinuz")).context("keep the kernel")?;
    fs::create_dir_all(dir.join("lib/modules"))?;
    let kept = dir.join("lib/modules").join(&name);
    fs::rename(&release, &kept).context("keep the modules")?;
    let mut compressed = Vec::new();
    collect(&kept, ".ko.xz", &mut compressed)?;
    if !compressed.is_empty() {
        if find("xz").is_none() {
            bail!("the modules are compressed; install xz: apt-get install xz-utils");
        }
        capture(Command::new("xz").arg("--decompress").args(&compressed))?;
    }
    capture(tools.busybox().args(["depmod", "-b"]).arg(dir).arg(&name)).map(drop)
}

/// All files below `dir` whose name ends with `ending`.
pub(super) fn collect(dir: &Path, ending: &str, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), ending, files)?;
        } else if entry.file_name().to_string_lossy().ends_with(ending) {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn only_folder(dir: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    folders.next().with_context(|| format!("{} is empty", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_kernel_is_refused_with_the_names_there_are() {
        let error = format!("{:#}", check("4.19").expect_err("too old"));
        assert_eq!(
            error,
            "no kernel is called `4.19`: there are 5.10, 6.1, 6.12, sid, and --kernel PATH for one's own"
        );
        SERIES.iter().for_each(|(name, _)| check(name).expect("known"));
    }

    #[test]
    fn an_own_kernel_must_be_there_and_have_listed_modules() {
        let error = format!("{:#}", own(Path::new("/no/such/bzImage"), None).expect_err("not there"));
        assert!(error.contains("there is no kernel /no/such/bzImage"), "{error}");
        let error = format!("{:#}", own(Path::new("/proc/version"), Some(Path::new("/proc"))).expect_err("no modules"));
        assert!(error.contains("/proc has no modules.dep"), "{error}");
    }

    #[test]
    fn packages_of_a_kernel_are_told_from_those_around_it() {
        let names = ["linux-image-7.2-cloud-amd64", "linux-binary-7.2-cloud-amd64", "linux-modules-7.2-cloud-amd64"];
        assert!(names.iter().all(|name| is_of_kernel(name)));
        assert!(!["linux-base", "linux-base-cloud-amd64", PACKAGE, "kmod"].iter().any(|name| is_of_kernel(name)));
    }
}
