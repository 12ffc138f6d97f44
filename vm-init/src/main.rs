//! The first process of a test machine: mounts what a host has mounted, does one job, tells the machine's owner by the second
//! serial port how it ended, and turns the machine off. Runs nowhere else, and refuses to.
//!
//! `/vm/argv` is the job, `/vm/env` its environment and `/vm/modules` the modules it wants, each word ended by a NUL; without
//! a job there is nothing to do.
//! `/vm/terminal`, if there, gives the job a terminal. What the job leaves in `/vm/report` goes to the owner.

mod report;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{self, Command, ExitStatus};

use anyhow::{Context as _, Result, bail};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::termios::tcdrain;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname, setsid, sync};

use report::Report;

/// What is mounted: type, where.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
];
/// The kernel gives the first process none.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The exit status where the job could not be begun.
const NOT_RUN: u8 = 2;

fn main() {
    if process::id() != 1 {
        eprintln!("error: this is the first process of a test machine: type `cargo xtask vm`");
        process::exit(i32::from(NOT_RUN));
    }
    if let Err(error) = serve() {
        eprintln!("error: {error:#}");
    }
    sync();
    // What the job has written is still on its way through the serial port.
    let _ = tcdrain(std::io::stdout());
    // SAFETY: the call takes no pointer; this machine is of nobody else.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
}

fn serve() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("create {place}"))?;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {kind} on {place}"))?;
    }
    let mut report = Report::open()?;
    let status = match job() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            NOT_RUN
        }
    };
    report.files(Path::new("/vm/report"))?;
    report.status(status)
}

/// Does the job and returns its exit status.
fn job() -> Result<u8> {
    let words = words("/vm/argv")?;
    let Some((program, args)) = words.split_first() else { return Ok(0) };
    sethostname("netpath-vm").context("name this machine")?;
    Command::new("ip").env("PATH", PATH).args(["link", "set", "lo", "up"]).status().context("set lo up")?;
    for module in self::words("/vm/modules")? {
        // What is built in, or not there at all, is no module.
        let _ = Command::new("modprobe").env("PATH", PATH).arg("-q").arg(module).status();
    }
    let mut command = Command::new(program);
    command.args(args).current_dir("/root").env_clear();
    for setting in self::words("/vm/env")? {
        let setting = setting.to_string_lossy().into_owned();
        let Some((name, value)) = setting.split_once('=') else { bail!("`{setting}` is no setting") };
        command.env(name, value);
    }
    if Path::new("/vm/terminal").exists() {
        give_terminal(&mut command)?;
    }
    let child = command.spawn().with_context(|| format!("run {}", program.display()))?;
    wait_for(Pid::from_raw(child.id().cast_signed()))
}

fn words(path: &str) -> Result<Vec<OsString>> {
    let bytes = fs::read(path).with_context(|| format!("read {path}"))?;
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Ok(words.map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// Makes the first serial port the terminal that `command` controls its jobs by.
fn give_terminal(command: &mut Command) -> Result<()> {
    let open = || -> Result<File> { Ok(OpenOptions::new().read(true).write(true).open("/dev/ttyS0")?) };
    let terminal = open().context("open the terminal")?;
    command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal.try_clone()?);
    let control = move || {
        setsid()?;
        // SAFETY: the descriptor is open: the closure keeps its file.
        let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(control) };
    Ok(())
}

/// Waits until `child` has ended, and meanwhile for whatever else ends: orphans are the first process's.
fn wait_for(child: Pid) -> Result<u8> {
    loop {
        match waitpid(None::<Pid>, None).context("wait for the job")? {
            WaitStatus::Exited(pid, code) if pid == child => return Ok(u8::try_from(code).unwrap_or(NOT_RUN)),
            // As a shell says it.
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                eprintln!("the job ended by {signal}: {}", ExitStatus::from_raw(signal as i32));
                return Ok(128 + signal as u8);
            }
            _ => {}
        }
    }
}
