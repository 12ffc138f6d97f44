//! The machine that figures are from, and how busy it is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use netpath_tests::program;
use serde::{Deserialize, Serialize};

/// What must be said beside a figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub name: String,
    pub cpu: String,
    pub cpus: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// Of netpath; with `-dirty` behind it, more than the commit was measured.
    pub commit: String,
    /// Programs that measured or were measured, as they tell their version.
    pub tools: Vec<String>,
}

impl Machine {
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            name: read("/proc/sys/kernel/hostname").trim().to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown cpu".to_owned()),
            cpus: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: field(&read("/proc/meminfo"), "MemTotal").as_deref().map_or(0, kib) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit("git"),
            tools: tools(),
        }
    }

    /// One line for people.
    pub fn text(&self) -> String {
        format!("{} cpus, {}, kernel {}", self.cpus, self.cpu, self.kernel)
    }
}

/// Where the sources are that this was built from.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("NETPATH_ROOT").map(PathBuf::from);
    manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".."))
}

/// The date, as YYYY-MM-DD.
pub fn today() -> String {
    program::stdout_of(Command::new("date").arg("+%F")).trim().to_owned()
}

/// The path of `program`, from `PATH` or the folders of system programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Seconds that all CPUs together have worked since the machine started.
pub fn busy_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    // SAFETY: sysconf reads a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    busy_ticks(&stat) as f64 / ticks.max(1) as f64
}

/// The first line of /proc/stat, without the fourth and fifth number: idle, and waiting for a disk.
fn busy_ticks(stat: &str) -> u64 {
    let numbers = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).map(|n| n.parse().unwrap_or(0));
    // user nice system idle iowait irq softirq steal; what follows is counted in user and nice already.
    let counted: Vec<u64> = numbers.take(8).collect();
    counted.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks).sum()
}

/// As `git`, which need not be here, tells it.
fn commit(git: &str) -> String {
    let git = |args: &[&str]| {
        let output = Command::new(git).arg("-C").arg(root()).args(args).output().ok()?;
        output.status.success().then(|| program::text(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|files| !files.is_empty());
    format!("{commit}{}", if changed { "-dirty" } else { "" })
}

fn tools() -> Vec<String> {
    let versions: [(&str, &[&str]); 6] = [
        ("wrk", &["-v"]),
        ("iperf3", &["--version"]),
        ("nginx", &["-v"]),
        ("iptables-nft", &["--version"]),
        ("nft", &["--version"]),
        ("dockerd", &["--version"]),
    ];
    let ask = |(name, args): (&str, &[&str])| {
        let output = Command::new(name).args(args).output().ok()?;
        let text = program::text(&[output.stdout, output.stderr].concat());
        text.lines().next().map(|line| line.trim().to_owned())
    };
    versions.into_iter().filter_map(ask).collect()
}

/// What stands behind the first `NAME :`.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// The number in `1234 kB`.
pub(crate) fn kib(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A field of /proc/PID/status in KiB, such as `VmRSS`.
pub fn status_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, name).as_deref().map_or(0, kib)
}

/// Milliseconds of CPU that process `pid` has used.
pub fn cpu_ms(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    // The first number: nanoseconds on a CPU; of the main thread only, so all threads are added.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let each = threads.map(|thread| fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default());
    let first = |text: &str| text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    each.map(|text| first(&text)).reduce(|a, b| a + b).unwrap_or_else(|| first(&stat)) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9\n"), 1 + 2 + 4 + 8 + 16 + 32);
        assert_eq!(busy_ticks(""), 0);
    }

    #[test]
    fn a_machine_without_git_has_a_commit_that_nobody_knows() {
        assert_eq!(commit("netpath-no-such-git"), "unknown");
    }

    #[test]
    fn fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n";
        assert_eq!(field(text, "model name").as_deref(), Some("AMD EPYC"));
        assert_eq!(field(text, "model"), None);
        assert_eq!(kib("1234 kB"), 1234);
    }
}
