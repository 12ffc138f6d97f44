//! The process of Docker Engine, what it was started with, and its configuration file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{getsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Map, Value};

use crate::container::process;

const DEFAULT_CONFIG: &str = "/etc/docker/daemon.json";
/// The switches of dockerd's that netpath wants off.
pub(super) const SWITCHES: [&str; 3] = ["iptables", "ip6tables", "userland-proxy"];
/// Containers go on while dockerd is away.
pub(super) const LIVE_RESTORE: &str = "live-restore";
/// Behind the name of the file as it was.
const BEFORE: &str = "before-netpath";
/// Behind the file's name while it has live-restore for a restart's sake.
const LENT: &str = "live-restore-by-netpath";

/// A dockerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Daemon {
    pub(super) pid: u32,
    /// Without its own name.
    pub(super) args: Vec<String>,
    /// Of systemd, if it is one's.
    pub(super) unit: Option<String>,
}

/// Where a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File,
    Flag,
}

impl Daemon {
    /// The process that listens at `socket`, or that systemd listens for.
    ///
    /// # Errors
    /// If nobody listens, or it is not to be found.
    pub(super) fn behind(socket: &Path) -> Result<Self> {
        let stream =
            UnixStream::connect(socket).with_context(|| format!("connect to Docker Engine at {}", socket.display()))?;
        let listener = getsockopt(&stream, sockopt::PeerCredentials).context("ask who listens")?.pid().cast_unsigned();
        if is_dockerd(listener) {
            return Self::read(listener);
        }
        let mut daemons = processes()?.into_iter().filter(|pid| is_dockerd(*pid));
        match (daemons.next(), daemons.next()) {
            (Some(pid), None) => Self::read(pid),
            (None, _) => bail!("find dockerd: process {listener} listens at {} and is none", socket.display()),
            _ => bail!("find dockerd: there are several, and process {listener} listens at {}", socket.display()),
        }
    }

    fn read(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let args = read("cmdline")?.split('\0').skip(1).filter(|arg| !arg.is_empty()).map(str::to_owned).collect();
        Ok(Self { pid, args, unit: read("cgroup").ok().and_then(|text| unit(&text)) })
    }

    /// The value of an option on the command line: `--NAME VALUE` or `--NAME=VALUE`.
    fn flag(&self, name: &str) -> Option<&str> {
        let mut args = self.args.iter();
        while let Some(arg) = args.next() {
            match arg.strip_prefix("--").and_then(|arg| arg.strip_prefix(name)) {
                Some("") => return args.next().map(String::as_str),
                Some(rest) if rest.starts_with('=') => return Some(&rest[1..]),
                _ => {}
            }
        }
        None
    }

    /// What a switch on the command line is, if it is there: `--NAME` or `--NAME=BOOL`.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let of = |arg: &String| match arg.strip_prefix("--")?.strip_prefix(name)? {
            "" => Some(true),
            rest => rest.strip_prefix('=').map(|value| matches!(value, "true" | "1" | "t" | "T" | "TRUE" | "True")),
        };
        self.args.iter().rev().find_map(of)
    }

    /// Whether the file is older than the process, which then has read it as it is.
    pub(super) fn has_read(&self, config: &Config) -> bool {
        let written = fs::metadata(&config.path).and_then(|file| file.modified());
        // Absent is what it was at the start, as far as anybody can tell.
        let Ok(written) = written else { return true };
        self.started().is_ok_and(|started| written <= started)
    }

    /// When it was started.
    fn started(&self) -> Result<SystemTime> {
        let ticks = process::start_ticks(self.pid).with_context(|| format!("ask when process {} started", self.pid))?;
        let up = clock_gettime(ClockId::CLOCK_BOOTTIME).context("ask how long the machine has been up")?;
        let millis = ticks * 1000 / process::ticks_per_second().context("ask how long a tick is")?;
        Ok(SystemTime::now() - Duration::from(up).saturating_sub(Duration::from_millis(millis)))
    }

    /// Its configuration file, which need not be there.
    pub(super) fn config_path(&self) -> PathBuf {
        PathBuf::from(self.flag("config-file").unwrap_or(DEFAULT_CONFIG))
    }

    /// What a switch is after a start with `config`, and who says so.
    pub(super) fn setting(&self, config: &Config, name: &str, default: bool) -> (bool, Source) {
        if let Some(value) = self.switch(name) {
            return (value, Source::Flag);
        }
        match config.is_set(name) {
            Some(value) => (value, Source::File),
            None => (default, Source::Default),
        }
    }
}

/// dockerd's configuration file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    /// # Errors
    /// If the file is there and cannot be read, or is no JSON object.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let values = match fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Map::new(),
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        // Where a link leads, so that it stays one.
        Ok(Self { path: fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()), values })
    }

    /// What the file says of a switch.
    pub(super) fn is_set(&self, name: &str) -> Option<bool> {
        self.values.get(name).and_then(Value::as_bool)
    }

    pub(super) fn unset(&mut self, name: &str) {
        self.values.shift_remove(name);
    }

    pub(super) fn set(&mut self, name: &str, value: bool) {
        self.values.insert(name.to_owned(), Value::Bool(value));
    }

    /// Writes the file, with the old one's permissions.
    ///
    /// # Errors
    /// If it cannot be written; then the old one is there.
    pub(super) fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.values).context("encode dockerd's configuration")?;
        replace(&self.path, format!("{text}\n").as_bytes())
    }

    /// Makes the file as old as what `daemon` has read.
    ///
    /// # Errors
    /// If the file cannot be changed.
    pub(super) fn date_back(&self, daemon: &Daemon) -> Result<()> {
        // A little before: clocks are not that exact.
        let before = daemon.started()? - Duration::from_secs(1);
        let set = || File::options().write(true).open(&self.path)?.set_modified(before);
        set().with_context(|| format!("set the time of {}", self.path.display()))
    }

    /// Keeps the file as it is beside it.
    ///
    /// # Errors
    /// If there is a copy already, or none can be made.
    pub(super) fn keep(&self) -> Result<()> {
        let copy = beside(&self.path, BEFORE);
        if copy.exists() {
            bail!("{} is there already", copy.display());
        }
        match fs::read(&self.path) {
            // Nothing stands for no file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = self.path.parent().unwrap_or(Path::new("/"));
                fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
                replace(&copy, b"")
            }
            Err(error) => Err(error).with_context(|| format!("read {}", self.path.display())),
            Ok(bytes) => replace(&copy, &bytes),
        }
    }

    /// This configuration with the switches that netpath wants otherwise as `kept` has them. What somebody else has
    /// changed meanwhile stays.
    pub(super) fn taken_back(&self, kept: &Self) -> Self {
        let mut values = self.values.clone();
        let lent = Some(LIVE_RESTORE).filter(|_| beside(&self.path, LENT).exists());
        for name in SWITCHES.into_iter().chain(lent) {
            match kept.values.get(name) {
                Some(value) => _ = values.insert(name.to_owned(), value.clone()),
                None => _ = values.shift_remove(name),
            }
        }
        Self { path: self.path.clone(), values }
    }

    /// Forgets what [`Self::keep`] kept.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(super) fn forget_kept(&self) -> Result<()> {
        self.give_back()?;
        let copy = beside(&self.path, BEFORE);
        fs::remove_file(&copy).with_context(|| format!("remove {}", copy.display()))
    }

    /// Notes that the file has live-restore for a restart's sake, until it is [given back](Self::give_back): whoever comes
    /// after a failure in between would take it for the owner's.
    ///
    /// # Errors
    /// If that cannot be written.
    pub(super) fn lend(&self) -> Result<()> {
        replace(&beside(&self.path, LENT), b"")
    }

    /// # Errors
    /// If the note of [`Self::lend`] cannot be removed.
    pub(super) fn give_back(&self) -> Result<()> {
        let note = beside(&self.path, LENT);
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", note.display()))
            }
            _ => Ok(()),
        }
    }

    /// Makes the file again what [`Self::keep`] kept, and forgets that.
    ///
    /// # Errors
    /// If there is no copy, or files cannot be changed.
    pub(super) fn put_back(&self) -> Result<()> {
        let copy = beside(&self.path, BEFORE);
        let bytes = fs::read(&copy).with_context(|| format!("read {}", copy.display()))?;
        if bytes.is_empty() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", self.path.display()));
                }
                _ => {}
            }
        } else {
            replace(&self.path, &bytes)?;
        }
        self.forget_kept()
    }

    /// What [`Self::keep`] kept; `None` if nothing.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn kept(&self) -> Result<Option<Self>> {
        let copy = beside(&self.path, BEFORE);
        if !copy.exists() {
            return Ok(None);
        }
        Ok(Some(Self { path: self.path.clone(), values: Self::read(&copy)?.values }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The file with this behind its name.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    PathBuf::from(name)
}

/// Writes a file as a whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    // dockerd itself reads any file; who else may, stays.
    let mode = fs::metadata(path).map_or(0o644, |old| old.permissions().mode());
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&new))).with_context(|| format!("write {}", path.display()))
}

fn is_dockerd(pid: u32) -> bool {
    is_called(pid, "dockerd")
}

/// Whether that is the name of the process.
pub(super) fn is_called(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// All that are to be seen.
///
/// # Errors
/// If /proc is not mounted.
pub(super) fn processes() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("list the processes")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The service in `/proc/PID/cgroup`: the last part of a path such as `/system.slice/docker.service`.
fn unit(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut units = paths.filter_map(|path| path.rsplit('/').next()).filter(|name| name.ends_with(".service"));
    units.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_what_the_command_line_says_then_the_file_then_dockerd() {
        let daemon = Daemon {
            pid: 1,
            args: ["-H", "fd://", "--config-file=/x/y.json", "--live-restore", "--iptables=false"]
                .map(str::to_owned)
                .to_vec(),
            unit: None,
        };
        let mut config = Config { path: PathBuf::from("/x"), values: Map::new() };
        config.set("iptables", true);
        config.set("userland-proxy", false);
        assert_eq!(daemon.config_path(), PathBuf::from("/x/y.json"));
        let cases = [
            ("iptables", (false, Source::Flag)),
            ("live-restore", (true, Source::Flag)),
            ("userland-proxy", (false, Source::File)),
            ("ip6tables", (true, Source::Default)),
            ("live", (true, Source::Default)),
        ];
        for (name, expected) in cases {
            assert_eq!(daemon.setting(&config, name, true), expected, "{name}");
        }
        let split = Daemon { args: vec!["--config-file".to_owned(), "/z.json".to_owned()], ..daemon };
        assert_eq!(split.config_path(), PathBuf::from("/z.json"));
    }

    #[test]
    fn the_way_back_leads_to_the_very_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker/daemon.json");
        let files = || fs::read_dir(path.parent().unwrap()).unwrap().count();
        let mut config = Config::read(&path).unwrap();
        config.keep().unwrap();
        config.set("iptables", false);
        config.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\n  \"iptables\": false\n}\n");
        assert_eq!(config.kept().unwrap().unwrap().values, Map::new());
        assert!(config.keep().is_err(), "a second way back would hide the first");
        config.put_back().unwrap();
        assert_eq!((files(), config.kept().unwrap()), (0, None));

        let mut changed = config.clone();
        changed.set("iptables", false);
        changed.set("debug", true);
        let mut kept = config.clone();
        kept.unset("debug");
        kept.set("iptables", true);
        let mut expected = kept.clone();
        expected.set("debug", true);
        assert_eq!(changed.taken_back(&kept), expected, "what somebody else has set stays");

        let text = "{ \"z\": 1,\n \"a\": [true] }";
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut config = Config::read(&path).unwrap();
        config.keep().unwrap();
        config.set("a2", true);
        config.write().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        config.put_back().unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), files()), (text, 1));
        fs::write(&path, "[]").unwrap();
        assert!(Config::read(&path).unwrap_err().to_string().contains("daemon.json"));
    }

    #[test]
    fn the_unit_is_the_last_part_of_a_cgroups_path() {
        assert_eq!(unit("0::/system.slice/docker.service\n").as_deref(), Some("docker.service"));
        let old = "12:pids:/system.slice/docker.service\n1:name=systemd:/system.slice/docker.service\n";
        assert_eq!(unit(old).as_deref(), Some("docker.service"));
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
    }
}
