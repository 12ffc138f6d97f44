//! The command's process from the outside: waiting for it with signals passed on, and stopping it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};

/// Signals that the runner passes on to the command.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
/// How long a process may take to vanish after SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Waits for the child, passing signals on; gives its exit status as a shell would.
pub(super) fn wait(pid: Pid) -> Result<u8> {
    let mut signals: SigSet = PASSED_ON.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("block signals")?;
    let incoming = SignalFd::new(&signals).context("receive signals")?;
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)).context("wait for the command")? {
            WaitStatus::Exited(_, status) => return Ok(status as u8),
            WaitStatus::Signaled(_, signal, _) => return Ok(128 + signal as u8),
            _ => {}
        }
        let Some(info) = incoming.read_signal().context("receive signals")? else { continue };
        let signal = Signal::try_from(info.ssi_signo.cast_signed()).context("receive signals")?;
        // What the terminal sends (Ctrl-C), it has sent to the command as well.
        if signal != Signal::SIGCHLD && info.ssi_code != libc::SI_KERNEL {
            let _ = kill(pid, signal);
        }
    }
}

/// What tells a process from a later one that got the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// When it started, in the kernel's ticks since boot: no clock that is set moves them. The agent keeps them for
    /// one boot only. `None` where an agent noted the container that did not know them.
    pub ticks: Option<u64>,
    /// When its container was made, in seconds since the epoch, for where there are no ticks: it is no older.
    pub created: u64,
}

/// When the process started, in ticks since boot.
pub fn start_ticks(pid: u32) -> Option<u64> {
    status(Pid::from_raw(pid.cast_signed())).map(|(_, ticks)| ticks)
}

/// Ends the process that started so, and the others of its group if it leads one: SIGTERM, after `grace`
/// SIGKILL. Fine if it is gone.
///
/// # Errors
/// If it is not there to be stopped by us: ids below 2 mean the first process, one's own group, or everybody.
pub async fn stop(pid: u32, start: Start, grace: Duration) -> Result<()> {
    let raw = i32::try_from(pid).ok().filter(|raw| *raw > 1);
    let raw = raw.with_context(|| format!("stop process {pid}: no container has a process with this id"))?;
    let process = Process { pid: Pid::from_raw(raw), start };
    if !grace.is_zero() {
        process.signal(Signal::SIGTERM)?;
        if process.ends_within(grace).await {
            return Ok(());
        }
    }
    process.signal(Signal::SIGKILL)?;
    if !process.ends_within(KILL_GRACE).await {
        bail!("kill process {pid}: it is still there {} s after SIGKILL", KILL_GRACE.as_secs());
    }
    Ok(())
}

/// Whether the process that started so still runs.
pub fn is_running(pid: u32, start: Start) -> bool {
    Process { pid: Pid::from_raw(pid.cast_signed()), start }.is_alive()
}

struct Process {
    pid: Pid,
    start: Start,
}

impl Process {
    fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let result = match getpgid(Some(self.pid)) {
            Ok(group) if group == self.pid => killpg(group, signal),
            _ => kill(self.pid, signal),
        };
        match result {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(e) => Err(e).with_context(|| format!("send {signal} to process {}", self.pid)),
        }
    }

    async fn ends_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// Whether the process is there, is no zombie, and is not a later one that got the same id.
    fn is_alive(&self) -> bool {
        let Some((state, ticks)) = status(self.pid) else { return false };
        let is_same = match self.start.ticks {
            Some(started) => ticks == started,
            // The boot time is in whole seconds.
            None => seconds(ticks).is_some_and(|started| started <= self.start.created + 2),
        };
        is_same && !matches!(state, 'Z' | 'X')
    }
}

/// A process's state, and its start in ticks since boot.
fn status(pid: Pid) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<_> = after_name.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// How many of the ticks of `/proc` a second has.
pub fn ticks_per_second() -> Option<u64> {
    // SAFETY: reads a constant of this system.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|n| *n > 0)
}

/// Ticks since boot as seconds since the epoch, by the clock as it is set at the moment.
fn seconds(ticks: u64) -> Option<u64> {
    let ticks_per_second = ticks_per_second()?;
    let booted = fs::read_to_string("/proc/stat").ok()?;
    let booted: u64 = booted.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + ticks / ticks_per_second)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};
    use std::time::SystemTime;

    use super::*;

    #[tokio::test]
    async fn a_process_is_asked_to_end_first() {
        let mut child = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done");
        stop(child.id(), start(&child), Duration::from_secs(5)).await.unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }

    #[tokio::test]
    async fn a_process_that_does_not_listen_is_killed() {
        for grace in [Duration::ZERO, Duration::from_millis(100)] {
            let mut child = shell("trap '' TERM; echo ready; while :; do sleep 0.02; done");
            stop(child.id(), start(&child), grace).await.unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
    }

    #[tokio::test]
    async fn a_later_process_with_the_same_id_is_left_alone() {
        let mut child = shell("echo ready; exec sleep 60");
        let Start { ticks, created } = start(&child);
        let earlier = Start { ticks: ticks.map(|ticks| ticks - 1), created };
        stop(child.id(), earlier, Duration::ZERO).await.unwrap();
        stop(child.id(), Start { ticks: None, created: created - 3600 }, Duration::ZERO).await.unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_process_that_is_gone_needs_no_stopping() {
        let mut child = shell("echo ready");
        let start = start(&child);
        child.wait().unwrap();
        stop(child.id(), start, Duration::from_secs(1)).await.unwrap();
    }

    #[test]
    fn a_clock_that_is_set_makes_no_process_another_one() {
        let mut child = shell("echo ready; exec sleep 60");
        let Start { ticks, created } = start(&child);
        assert!(is_running(child.id(), Start { ticks, created: created - 3600 }));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_running(child.id(), Start { ticks, created }));
    }

    #[tokio::test]
    async fn ids_that_mean_others_are_refused() {
        for pid in [0, 1, u32::MAX, 1 << 31] {
            let any = Start { ticks: start_ticks(pid), created: u64::MAX - 2 };
            assert!(stop(pid, any, Duration::ZERO).await.is_err(), "{pid}");
        }
    }

    fn start(child: &Child) -> Start {
        Start { ticks: start_ticks(child.id()), created: now() }
    }

    /// A shell that leads its own group and has said that it is ready.
    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut ready = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
        child
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }
}
