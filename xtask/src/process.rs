//! Child processes: finding a program, running it, and saying in one line what went wrong.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result, anyhow, bail};

/// Where Debian puts programs for root; not on everybody's `PATH`.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The workspace root. `cargo run` says where this package is; what was true when it was built may be another copy.
pub(crate) fn root_dir() -> PathBuf {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest_dir).parent().unwrap_or(Path::new(".")).to_owned()
}

/// The cargo that runs this task, in the workspace root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root_dir());
    // `cargo run` says with these which package this program is of; to a build script they would be lies.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Where cargo put `name` when it was built in the profile folder `profile` (`debug`, `release`).
pub(crate) fn built(profile: &str, name: &str) -> Result<PathBuf> {
    let this = env::current_exe().context("find this program's own path")?;
    let target_dir = this.parent().and_then(Path::parent).context("find cargo's target folder")?;
    Ok(target_dir.join(profile).join(name))
}

/// Builds agent and bench in release, always both, so that their shared dependencies are built once.
pub(crate) fn build_release() -> Result<()> {
    run(cargo().args(["build", "--release", "-p", "netpath-agent", "-p", "netpath-cni", "-p", "netpath-bench"]))
}

/// Builds everything that tests run. Tests too, though nextest builds them: with their features chosen as nextest does,
/// nothing is built twice.
pub(crate) fn build_for_tests() -> Result<()> {
    run(cargo().args(["build", "--workspace", "--exclude", "xtask", "--bins", "--tests"]))
}

/// The path of `program`, from `PATH` or the folders of system programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs `command` on this terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs `command` on this terminal; any exit status is an answer.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("run `{}`", line(command)))
}

/// Runs `command` in silence and returns its standard output; the last line it complained with is the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run `{}`", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let why = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").trim();
        bail!("`{}`: {why} ({})", line(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes `command`: same process, same terminal. Returns only when that cannot be done.
pub(crate) fn exec(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow!(error).context(format!("run `{}`", line(command)))
}

/// `command` as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Refuses unless this process is root's; `task` is what the user typed after `cargo xtask`.
pub(crate) fn require_root(task: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!("`cargo xtask {task}` needs root; type: sudo env \"PATH=$PATH\" cargo xtask {task}")
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_reported_with_its_last_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo last >&2; exit 3"]);
        let error = format!("{:#}", capture(&mut command).expect_err("exit 3"));
        assert!(error.contains("last (exit status: 3)"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = format!("{:#}", run(&mut Command::new("netpath-no-such-program")).expect_err("not there"));
        assert!(error.starts_with("run `netpath-no-such-program`"), "{error}");
    }

    #[test]
    fn programs_are_found_by_name_only_when_executable() {
        assert!(find("sh").is_some());
        assert_eq!(find("netpath-no-such-program"), None);
    }
}
