//! The process that becomes the command: namespaces first, then it waits for its [`Order`].
//!
//! Parent and child talk over one socket pair that `exec` closes: the child says one byte when its
//! namespaces are there, the parent sends the order, and the end of the stream means that the command
//! runs. A [`Failure`] may come instead at any time.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, sethostname, setsid};
use serde::{Deserialize, Serialize};

const READY: u8 = b'R';

/// What the child makes before the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    pub(super) network: Network,
    pub(super) hostname: String,
    pub(super) detach: bool,
}

/// Which network namespace the command runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Network {
    New,
    Host,
    /// The one that this file stands for.
    Join(PathBuf),
}

/// What the child does once the agent has connected it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Files, and those that they are laid over.
    pub(super) files: Vec<(PathBuf, PathBuf)>,
    /// Variables that the command gets besides those of the runner.
    pub(super) env: Vec<(String, String)>,
    /// Where a detached command's output goes.
    pub(super) log: Option<PathBuf>,
}

/// Why the child did not become the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) message: String,
    /// Exit status for the shell: 127 no such command, 126 not executable, 125 anything else.
    pub(super) status: u8,
}

/// The parent's handle. Dropped, it ends the child; `leave` lets it go.
pub(super) struct Child {
    pid: Pid,
    stream: UnixStream,
    is_left: bool,
}

impl Child {
    /// Forks the child and waits until its namespaces are there.
    pub(super) fn spawn(setup: &Setup, command: &[String]) -> Result<Self> {
        let (parent_end, child_end) = UnixStream::pair().context("create a socket pair")?;
        // SAFETY: `netpath run` has started no thread, so the child may allocate and lock as it likes.
        match unsafe { fork() }.context("fork")? {
            ForkResult::Child => {
                drop(parent_end);
                become_command(child_end, setup, command)
            }
            ForkResult::Parent { child: pid } => {
                drop(child_end);
                let mut child = Self { pid, stream: parent_end, is_left: false };
                child.wait_ready()?;
                Ok(child)
            }
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets the child become the command; `None` when it has.
    pub(super) fn release(&mut self, order: &Order) -> Result<Option<Failure>> {
        let bytes = serde_json::to_vec(order).context("encode the order")?;
        self.stream.write_all(&bytes).context("send the order to the child")?;
        self.stream.shutdown(Shutdown::Write).context("send the order to the child")?;
        self.read_failure(Vec::new())
    }

    /// Lets go of the child.
    pub(super) fn leave(mut self) -> Pid {
        self.is_left = true;
        self.pid
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut first = [0];
        match self.stream.read(&mut first).context("wait for the child")? {
            1 if first == [READY] => Ok(()),
            n => match self.read_failure(first[..n].to_vec())? {
                Some(failure) => bail!(failure.message),
                None => bail!("the child ended before it was ready"),
            },
        }
    }

    fn read_failure(&mut self, mut bytes: Vec<u8>) -> Result<Option<Failure>> {
        self.stream.read_to_end(&mut bytes).context("listen to the child")?;
        if bytes.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&bytes).map(Some).context("understand the child")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_left {
            // Not yet reaped, so the id is still the child's.
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// The child's whole life.
fn become_command(mut stream: UnixStream, setup: &Setup, command: &[String]) -> ! {
    let failure = match prepare(&mut stream, setup) {
        Ok(order) => exec(&setup.hostname, command, &order),
        Err(e) => Failure { message: format!("{e:#}"), status: 125 },
    };
    let _ = stream.write_all(&serde_json::to_vec(&failure).unwrap_or_default());
    // SAFETY: ends this process without running the handlers that the parent registered.
    unsafe { libc::_exit(failure.status.into()) }
}

fn prepare(stream: &mut UnixStream, setup: &Setup) -> Result<Order> {
    if setup.detach {
        setsid().context("start a session")?;
    } else {
        // A foreground command does not outlive its runner.
        prctl::set_pdeathsig(Signal::SIGKILL).context("follow the runner")?;
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .context("create mount and UTS namespaces (needs root)")?;
    enter_network(&setup.network)?;
    mount_at(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, "make mounts private")?;
    sethostname(&setup.hostname).with_context(|| format!("set the host name `{}`", setup.hostname))?;
    if setup.network != Network::Host {
        // The host's /sys shows the host's interfaces. Where another one is refused, that one stays.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let _ = mount_at(Some(Path::new("sysfs")), Path::new("/sys"), Some("sysfs"), flags, "mount sysfs");
    }
    stream.write_all(&[READY]).context("report to the runner")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).context("wait for the runner")?;
    let order: Order = serde_json::from_slice(&bytes).context("understand the runner (has it ended?)")?;
    cover_files(&order.files)?;
    Ok(order)
}

fn enter_network(network: &Network) -> Result<()> {
    match network {
        Network::Host => Ok(()),
        Network::Join(path) => {
            let namespace =
                fs::File::open(path).with_context(|| format!("open network namespace {}", path.display()))?;
            setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", path.display()))
        }
        Network::New => {
            unshare(CloneFlags::CLONE_NEWNET).context("create a network namespace (needs root)")?;
            raise_loopback().context("bring lo up")?;
            allow_unprivileged();
            Ok(())
        }
    }
}

/// Becomes the command. Returns only if that fails.
fn exec(hostname: &str, command: &[String], order: &Order) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return Failure { message: "no command given".to_owned(), status: 125 };
    };
    let mut child = Command::new(program);
    child.args(arguments).env("HOSTNAME", hostname).envs(order.env.iter().map(|(name, value)| (name, value)));
    if let Some(path) = &order.log {
        close_on_exec();
        let outputs = open_log(path).and_then(|log| Ok((log.try_clone()?, log)));
        match outputs {
            Ok((out, err)) => child.stdin(Stdio::null()).stdout(out).stderr(err),
            Err(e) => return Failure { message: format!("open log {}: {e}", path.display()), status: 125 },
        };
    }
    let error = child.exec();
    let status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Failure { message: format!("execute `{program}`: {error}"), status }
}

/// Keeps what the caller's shell left open (the other end of its pipes) from a command that outlives it.
fn close_on_exec() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: marks descriptors, closes none. A kernel before 5.11 refuses the flag, and they stay open.
    unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// Lays each file over the one that exists, in this mount namespace only.
fn cover_files(files: &[(PathBuf, PathBuf)]) -> Result<()> {
    // A link leads to a file of the host, which may be laid over as well.
    let targets = files.iter().filter_map(|(source, target)| Some((source, fs::canonicalize(target).ok()?)));
    for (source, target) in targets.collect::<Vec<_>>() {
        mount_at(Some(source), &target, None, MsFlags::MS_BIND, "lay a file")?;
    }
    Ok(())
}

fn mount_at(source: Option<&Path>, target: &Path, kind: Option<&str>, flags: MsFlags, what: &str) -> Result<()> {
    mount(source, target, kind, flags, None::<&str>).with_context(|| format!("{what} on {}", target.display()))
}

/// Ports below 1024 and ping for everybody inside, as Docker has it. A kernel without the one or the other
/// keeps its rules.
fn allow_unprivileged() {
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
}

fn raise_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all fields of an ifreq are integers or arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a whole ifreq with a name that ends in zero bytes.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::thread;

    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn files_are_covered_in_this_mount_namespace_only() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let (covered, missing) = (dir.path().join("hosts"), dir.path().join("missing"));
        fs::write(&covered, "host").unwrap();
        let source = dir.path().join("generated");
        fs::write(&source, "container").unwrap();
        let files = vec![(source.clone(), covered.clone()), (source, missing.clone())];
        let seen = in_own_namespaces(move || {
            cover_files(&files).unwrap();
            (fs::read_to_string(&files[0].1).unwrap(), fs::exists(&files[1].1).unwrap())
        });
        let Some(seen) = seen else { return };
        assert_eq!(seen, ("container".to_owned(), false));
        assert_eq!(fs::read_to_string(&covered).unwrap(), "host");
        assert!(!missing.exists());
    }

    #[test]
    fn loopback_comes_up() {
        let works = in_own_namespaces(|| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let before = socket.send_to(b"x", socket.local_addr().unwrap()).is_ok();
            raise_loopback().unwrap();
            (before, socket.send_to(b"x", socket.local_addr().unwrap()).is_ok())
        });
        let Some(works) = works else { return };
        assert_eq!(works, (false, true));
    }

    /// Runs `act` in new namespaces, on a thread that ends with them; `None` where that takes root.
    fn in_own_namespaces<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if !geteuid().is_root() {
            eprintln!("skipped: namespaces need root");
            return None;
        }
        let thread = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            mount_at(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, "make mounts private").unwrap();
            act()
        });
        Some(thread.join().unwrap())
    }
}
