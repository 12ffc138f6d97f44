//! One run of a virtual machine: qemu, its console, its limit of time, and what it reports.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use super::accelerator::Accelerator;
use super::kernel::Kernel;
use super::tools::Tools;

/// How many of the console's last lines are shown of a guest that did not end by itself.
const LAST_LINES: usize = 20;
/// And how many characters of each.
const LINE: usize = 200;

/// What is booted, and how.
pub(super) struct Boot<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) image: &'a Path,
    pub(super) accelerator: Accelerator,
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    /// For how long it may run.
    pub(super) limit: Duration,
    /// Somebody types into its console, who also ends it: no limit applies.
    pub(super) terminal: bool,
    /// The console is shown.
    pub(super) shown: bool,
    /// An interface that leads out, and from this host's 127.0.0.1 to these ports.
    pub(super) forwarded: &'a [u16],
}

/// How a guest ended.
pub(super) enum End {
    /// By itself.
    Status(u8),
    /// With its limit, or by a fault, whose name this is. The last lines of its console.
    Broken(String, Vec<String>),
    /// By Ctrl-C.
    Interrupted,
}

/// What a guest leaves.
pub(super) struct Outcome {
    pub(super) end: End,
    /// Files that it sent, by name.
    pub(super) files: Vec<(String, Vec<u8>)>,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Boots a guest and waits until it has ended. `folder` is for what lies between it and this process.
pub(super) fn run(boot: &Boot<'_>, tools: &Tools, folder: &Path) -> Result<Outcome> {
    let report = folder.join("report");
    fs::write(&report, "").with_context(|| format!("write {}", report.display()))?;
    let mut command = command(boot, tools, &report);
    watch_for_interrupts()?;
    let mut child = command.spawn().context("start qemu")?;
    let tail = Tail::default();
    let reader = child.stdout.take().map(|console| {
        let (tail, shown) = (tail.clone(), boot.shown);
        thread::spawn(move || tail.follow(console, shown))
    });
    let limit = (!boot.terminal).then_some(boot.limit);
    let ended = wait(&mut child, limit);
    if let Some(reader) = reader {
        let _ = reader.join();
    }
    let ended = ended?;
    let bytes = fs::read(&report).with_context(|| format!("read {}", report.display()))?;
    let (status, files) = parse_report(&bytes);
    let end = match (ended, status) {
        (Ended::Interrupted, _) => End::Interrupted,
        (_, Some(status)) => End::Status(status),
        (Ended::AtLimit, None) => {
            End::Broken(format!("did not end within {} s (--limit)", boot.limit.as_secs()), tail.lines())
        }
        (Ended::Itself, None) if boot.terminal => End::Status(0),
        (Ended::Itself, None) => End::Broken("ended without a result".to_owned(), tail.lines()),
    };
    Ok(Outcome { end, files })
}

fn command(boot: &Boot<'_>, tools: &Tools, report: &Path) -> Command {
    let mut command = tools.qemu();
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"]);
    command.args(boot.accelerator.options());
    command.args(["-smp", &boot.cpus.to_string(), "-m", &boot.memory_mib.to_string()]);
    command.arg("-kernel").arg(&boot.kernel.image).arg("-initrd").arg(boot.image);
    // A panic ends the machine; so do reboots. Nobody attacks it.
    command.args(["-append", "console=ttyS0 rdinit=/init panic=-1 quiet mitigations=off"]);
    command.args(["-serial", if boot.terminal { "mon:stdio" } else { "stdio" }]);
    command.arg("-serial").arg(format!("file:{}", report.display()));
    command.args(["-device", "virtio-rng-pci"]);
    if !boot.forwarded.is_empty() {
        let ports = boot.forwarded.iter().map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:{port}"));
        command.arg("-nic").arg(format!("user,model=virtio-net-pci{}", ports.collect::<String>()));
    }
    if !boot.terminal {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // Ctrl-C is for this process, which ends the guest.
        command.process_group(0);
    }
    if !boot.shown {
        command.stderr(Stdio::null());
    }
    // SAFETY: between fork and exec there is only this system call, which takes no pointer.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}

fn watch_for_interrupts() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(interrupt), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler does nothing but store into an atomic.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("watch for {signal}"))?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Itself,
    AtLimit,
    Interrupted,
}

/// Waits for `child` and ends it at `limit`, or when this process is to end.
fn wait(child: &mut Child, limit: Option<Duration>) -> Result<Ended> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("wait for qemu")? {
            if !status.success() && !INTERRUPTED.load(Ordering::Relaxed) {
                bail!("qemu ended with {status}; its own words are above");
            }
            return Ok(if INTERRUPTED.load(Ordering::Relaxed) { Ended::Interrupted } else { Ended::Itself });
        }
        let interrupted = INTERRUPTED.load(Ordering::Relaxed);
        if interrupted || limit.is_some_and(|limit| started.elapsed() > limit) {
            end(child)?;
            return Ok(if interrupted { Ended::Interrupted } else { Ended::AtLimit });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// qemu leaves by SIGTERM in a moment, and by SIGKILL at once.
fn end(child: &mut Child) -> Result<()> {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    for _ in 0..40 {
        if child.try_wait().context("wait for qemu")?.is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill().and_then(|()| child.wait()).map(drop).context("end qemu")
}

/// The last lines of a console.
#[derive(Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn follow(&self, console: impl std::io::Read, shown: bool) {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if shown {
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(&line).and_then(|()| out.flush());
            }
            let text = String::from_utf8_lossy(&line).trim_end().chars().take(LINE).collect();
            if let Ok(mut lines) = self.0.lock() {
                lines.push_back(text);
                if lines.len() > LAST_LINES {
                    lines.pop_front();
                }
            }
            line.clear();
        }
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().map(|lines| lines.iter().cloned().collect()).unwrap_or_default()
    }
}

/// Reads what the guest's first process sends (vm-init/src/report.rs): its status, if it came to that, and files.
fn parse_report(mut bytes: &[u8]) -> (Option<u8>, Vec<(String, Vec<u8>)>) {
    let mut files = Vec::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 1..];
        let mut words = head.split(' ');
        match (words.next(), words.next(), words.next().map(str::parse::<usize>)) {
            (Some("status"), Some(status), None) => return (status.parse().ok(), files),
            (Some("file"), Some(name), Some(Ok(length))) if length <= bytes.len() => {
                files.push((name.to_owned(), bytes[..length].to_vec()));
                bytes = &bytes[length..];
            }
            _ => break,
        }
    }
    (None, files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_files_and_then_a_status() {
        let (status, files) = parse_report(b"file junit.xml 7\n<a>\n\n/>file log 0\nstatus 3\n");
        assert_eq!(status, Some(3));
        assert_eq!(files, [("junit.xml".to_owned(), b"<a>\n\n/>".to_vec()), ("log".to_owned(), Vec::new())]);
    }

    #[test]
    fn a_report_that_breaks_off_has_no_status() {
        assert_eq!(parse_report(b"").0, None);
        let (status, files) = parse_report(b"file a 1\nxfile junit.xml 70\n<a>");
        assert_eq!((status, files.len()), (None, 1));
    }

    #[test]
    fn what_does_not_end_is_ended_at_its_limit() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let started = Instant::now();
        assert_eq!(wait(&mut child, Some(Duration::from_millis(100))).expect("ended"), Ended::AtLimit);
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(child.try_wait().expect("waited for").is_some(), "it is gone");
    }

    #[test]
    fn the_consoles_last_lines_are_kept() {
        let tail = Tail::default();
        let text: String = (0..30).map(|number| format!("line {number}\r\n")).collect();
        tail.follow(text.as_bytes(), false);
        assert_eq!(tail.lines().len(), LAST_LINES);
        assert_eq!(tail.lines().last().map(String::as_str), Some("line 29"));
    }
}
