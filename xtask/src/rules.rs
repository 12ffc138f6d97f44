//! Source rules that no other tool checks: every file says what it owns, stays short, and every crate takes the
//! workspace's lints. Tests are exempt from the length.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const MAX_LINES: usize = 400;

/// Checks all sources and manifests below `root`; returns one line for each violation.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut broken = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        if name.ends_with(".rs") {
            broken.extend(check_source(&name, &text).into_iter().map(|what| format!("{name}: {what}")));
        } else {
            broken.extend(check_manifest(&text).into_iter().map(|what| format!("{name}: {what}")));
        }
    }
    Ok(broken)
}

/// Collects `*.rs` and `Cargo.toml`, but nothing hidden and nothing that cargo built (it tags its target folders).
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type()?;
        if kind.is_dir() && !name.starts_with('.') && !path.join("CACHEDIR.TAG").exists() {
            collect(&path, files)?;
        } else if kind.is_file() && (name.ends_with(".rs") || name == "Cargo.toml") {
            files.push(path);
        }
    }
    Ok(())
}

fn check_source(name: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    if !text.starts_with("//!") {
        broken.push("the first line is no `//!` that says what the file owns".to_owned());
    }
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
    let explained = text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains("Long because"));
    if lines > MAX_LINES && !explained && !is_test(name) {
        broken.push(format!("{lines} lines, more than {MAX_LINES}, and no `//! Long because ...`"));
    }
    broken
}

/// Files of tests only: below a folder `tests`, or named `tests.rs`.
fn is_test(name: &str) -> bool {
    name.split('/').any(|part| part == "tests" || part == "tests.rs")
}

fn check_manifest(text: &str) -> Vec<&'static str> {
    let mut lints = text.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    let inherits = lints.by_ref().take_while(|line| !line.starts_with('[')).any(|line| line == "workspace = true");
    // A manifest without a package is the workspace's own.
    let is_package = text.lines().any(|line| line.trim() == "[package]");
    if is_package && !inherits { vec!["no `[lints]` with `workspace = true`"] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_first_what_it_owns() {
        assert_eq!(check_source("a/src/b.rs", "//! Owns b.\n").len(), 0);
        assert_eq!(check_source("a/src/b.rs", "#![no_std]\n//! Owns b.\n").len(), 1);
        assert_eq!(check_source("a/src/b.rs", "").len(), 1);
    }

    #[test]
    fn a_long_file_explains_itself_or_is_a_test() {
        let long = "let a = 1;\n".repeat(MAX_LINES);
        assert_eq!(check_source("a/src/b.rs", &format!("//! Owns b.\n{long}")).len(), 1);
        assert_eq!(check_source("a/src/b.rs", &format!("//! Owns b. Long because of b.\n{long}")).len(), 0);
        assert_eq!(check_source("tests/src/b.rs", &format!("//! Tests b.\n{long}")).len(), 0);
        assert_eq!(check_source("a/src/b.rs", &format!("//! Owns b.\n#[cfg(test)]\n{long}")).len(), 0);
    }

    #[test]
    fn a_crate_takes_the_workspace_lints() {
        assert!(check_manifest("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n").is_empty());
        assert_eq!(check_manifest("[package]\nname = \"a\"\n[lints]\n[features]\nworkspace = true\n").len(), 1);
        assert!(check_manifest("[workspace]\nmembers = []\n").is_empty());
    }
}
