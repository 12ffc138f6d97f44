//! The agent of one world and its command line.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Namespace, program};

/// How long an agent may take until it answers: the verifier looks at the programs first.
pub const START: Duration = Duration::from_secs(120);

/// Where an agent keeps its things; makes the command lines that start it and talk to it.
#[derive(Clone, Debug)]
pub struct Instance {
    binary: PathBuf,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
    pub log: PathBuf,
    /// Whether the agent sees the file system of cgroups.
    pub cgroups: bool,
    /// How many files the agent may have open, without the right to change that.
    pub files: Option<u32>,
    /// Where a service manager waits for the agent to be ready.
    pub notify_socket: Option<PathBuf>,
}

/// A running agent. Dropping it kills it, as SIGKILL does; the data plane stays.
pub struct Agent {
    child: Child,
}

impl Instance {
    /// An agent with socket, state and log in `dir` and pins in `pin_dir`.
    pub fn new(dir: &Path, pin_dir: &Path) -> Self {
        assert!(
            fs::metadata("/sys/fs/bpf").is_ok() && is_bpffs(),
            "/sys/fs/bpf is not a BPF file system: run `cargo xtask setup`, or `mount -t bpf bpf /sys/fs/bpf`"
        );
        Self {
            binary: program::netpath_binary(),
            socket: dir.join("netpath.sock"),
            state_dir: dir.join("state"),
            pin_dir: pin_dir.to_owned(),
            log: dir.join("agent.log"),
            cgroups: true,
            files: None,
            notify_socket: None,
        }
    }

    /// `netpath agent` with this instance's paths, to be run in `host`.
    pub fn agent_command(&self, host: &Namespace) -> Command {
        let mut programs = Vec::new();
        if let Some(count) = self.files {
            programs.extend(["prlimit".to_owned(), format!("--nofile={count}:{count}")].map(OsString::from));
            programs.extend(["setpriv", "--bounding-set=-sys_resource"].map(OsString::from));
        }
        programs.push(self.binary.clone().into());
        let mut command = if self.cgroups { host.command(&programs[0]) } else { without_cgroups(host, &programs[0]) };
        command.args(&programs[1..]).arg("--socket").arg(&self.socket).arg("agent");
        command.arg("--state-dir").arg(&self.state_dir).arg("--pin-dir").arg(&self.pin_dir);
        command.envs(self.notify_socket.iter().map(|socket| ("NOTIFY_SOCKET", socket)));
        command
    }

    /// `netpath ARGS`, to be run in `host`.
    pub fn command<'a>(&self, host: &Namespace, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = host.command(&self.binary);
        command.arg("--socket").arg(&self.socket).args(args);
        command
    }

    /// Runs `netpath ARGS` to its end, whatever that is.
    pub fn run(&self, host: &Namespace, args: &[&str]) -> Output {
        program::output_of(&mut self.command(host, args.iter().copied()))
    }

    /// What `netpath ARGS --json` prints.
    pub fn json(&self, host: &Namespace, args: &[&str]) -> Value {
        let args = args.iter().copied().chain(["--json"]);
        let stdout = program::stdout_of(&mut self.command(host, args));
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("json expected: {e}: {stdout}"))
    }

    /// Starts the agent in `host` and waits until it answers.
    pub fn start(&self, host: &Namespace, options: &[String]) -> Agent {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.unwrap_or_else(|e| panic!("open {}: {e}", self.log.display()));
        let errors = log.try_clone().expect("clone a file");
        let mut command = self.agent_command(host);
        command.args(options).stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"));
        let mut agent = Agent { child };
        let deadline = Instant::now() + START;
        while !self.answers() {
            if let Some(status) = agent.child.try_wait().expect("ask for the agent's status") {
                panic!("the agent ended, {status}:\n{}", self.log_text());
            }
            assert!(Instant::now() < deadline, "no agent listens after {START:?}:\n{}", self.log_text());
            thread::sleep(Duration::from_millis(5));
        }
        agent
    }

    /// Asks the agent for its version. It listens before it is ready, and answers when it is.
    fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(&self.socket) else { return false };
        let request = b"GET /v1/version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        let asked = stream.set_read_timeout(Some(START)).and_then(|()| stream.write_all(request));
        asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    /// Asks the API as a user with curl would: `METHOD /v1/PATH` with `body`. The status and the answer.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--request", method, "--unix-socket"]).arg(&self.socket);
        curl.args(["--header", "content-type: application/json", "--data", &body.to_string()]);
        curl.args(["--write-out", "\n%{http_code}", &format!("http://localhost/v1/{path}")]);
        let answer = program::stdout_of(&mut curl);
        let (body, status) = answer.rsplit_once('\n').expect("the status on a line of its own");
        let body = serde_json::from_str(body).unwrap_or_else(|e| panic!("{method} {path} answers {answer}: {e}"));
        (status.parse().expect("a status"), body)
    }

    /// What the agent wrote.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: the agent has no chance to tidy up.
    pub fn kill(mut self) {
        self.child.kill().expect("kill the agent");
        self.child.wait().expect("wait for the agent");
    }

    /// SIGTERM, and waits for the end; panics when it is not a clean one.
    pub fn stop(mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).expect("signal the agent");
        let status = self.child.wait().expect("wait for the agent");
        assert!(status.success(), "the agent ended with {status}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The start of a command in a mount namespace of its own, where nothing of cgroups of version 2 is mounted and other
/// mounts come and go as they do outside.
fn without_cgroups(host: &Namespace, program: &OsStr) -> Command {
    let mut command = host.command("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c"]);
    command.arg("umount --all --lazy --types cgroup2 && exec \"$0\" \"$@\"").arg(program);
    command
}

fn is_bpffs() -> bool {
    let kind = nix::sys::statfs::statfs("/sys/fs/bpf").map(|fs| fs.filesystem_type());
    kind.is_ok_and(|kind| kind == nix::sys::statfs::BPF_FS_MAGIC)
}
