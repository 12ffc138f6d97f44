//! Where kernels, package lists and qemu are kept between runs: the user's cache folder, so that all working trees share them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result, bail};
use nix::sys::statvfs::statvfs;

/// The folder, made if it is not there.
pub(crate) fn dir() -> Result<PathBuf> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    let dir = base.context("neither XDG_CACHE_HOME nor HOME says where to keep kernels")?.join("netpath/vm");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// Refuses unless `mib` MiB are free where `dir` lies.
pub(crate) fn require_space(dir: &Path, mib: u64) -> Result<()> {
    let found = statvfs(dir).with_context(|| format!("ask for the space free in {}", dir.display()))?;
    let free = found.blocks_available().saturating_mul(found.fragment_size()) >> 20;
    if free < mib {
        bail!("no space in {}: {free} MiB are free, {mib} are needed; make room, or set XDG_CACHE_HOME", dir.display());
    }
    Ok(())
}

/// Makes the folder `path` as a whole or not at all: `fill` gets another one, which takes its place.
pub(crate) fn replace(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let fresh = path.with_extension(format!("new-{}", process::id()));
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
    let filled = fill(&fresh).and_then(|()| {
        let _ = fs::remove_dir_all(path);
        fs::rename(&fresh, path).with_context(|| format!("move {} to {}", fresh.display(), path.display()))
    });
    if filled.is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_space_is_one_line_that_says_how_much_is_wanted() {
        let error = format!("{:#}", require_space(&env::temp_dir(), u64::MAX).expect_err("nobody has that"));
        assert!(error.starts_with("no space in ") && error.contains("make room"), "{error}");
        assert_eq!(error.lines().count(), 1);
        require_space(&env::temp_dir(), 0).expect("nothing is always free");
    }

    #[test]
    fn a_folder_that_cannot_be_filled_leaves_the_one_before() {
        let dir = env::temp_dir().join(format!("netpath-cache-{}", process::id()));
        let path = dir.join("6.1");
        replace(&path, |fresh| Ok(fs::write(fresh.join("version"), "one")?)).expect("first");
        replace(&path, |_| bail!("broke off")).expect_err("second");
        assert_eq!(fs::read_to_string(path.join("version")).expect("first"), "one");
        assert_eq!(fs::read_dir(&dir).expect("list").count(), 1, "nothing half made stays");
        fs::remove_dir_all(&dir).expect("remove");
    }
}
