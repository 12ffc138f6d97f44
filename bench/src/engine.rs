//! Docker Engine itself: a daemon in the host's network namespace of one world, with everything it keeps under that world's
//! directory.
//!
//! It has a process namespace and a mount namespace of its own: when it is killed, its containers and all that it has
//! mounted go with it.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::{Bare, Namespace, cleanup, program};
use nix::mount::{MsFlags, mount};

use crate::plain::Containers;

/// How long the daemon may take to start, and to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

const IMAGE: &str = "sleeper";

/// A running daemon with a server's container and a second one. Dropping it ends all of them.
pub(crate) struct Engine {
    name: String,
    dir: PathBuf,
    child: Child,
    /// The daemon's process as this process sees it.
    pid: u32,
}

impl Engine {
    /// Starts the daemon in the host's namespace of `bare`, with its user-land proxy or without.
    pub(crate) fn start(bare: &Bare, has_proxy: bool) -> Self {
        let dir = bare.dir().join("docker");
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
        fs::write(dir.join("daemon.json"), "{}").expect("write an empty configuration");
        let log = File::create(dir.join("log")).expect("create the daemon's log");
        let errors = log.try_clone().expect("clone a file");
        let name = bare.name().to_owned();
        let at = |file: &str| dir.join(file).display().to_string();
        let mut command = bare.host.command("unshare");
        // A containerd of the system's would start the containers elsewhere.
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
        command.arg("[ ! -d /run/containerd ] || mount -t tmpfs tmpfs /run/containerd; exec dockerd \"$@\"").arg("sh");
        command.args(["--config-file", &at("daemon.json"), "--pidfile", &at("pid"), "--host", &socket(&dir)]);
        command.args(["--data-root", &at("data"), "--exec-root", &at("run"), "--storage-driver", "vfs"]);
        command.args(["--bip", "172.17.0.1/16", "--cgroup-parent", &format!("/{name}")]);
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs"]);
        if !has_proxy {
            command.arg("--userland-proxy=false");
        }
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let child = child.unwrap_or_else(|e| panic!("run {command:?}: {e}"));
        let mut engine = Self { name, dir, child, pid: 0 };
        engine.wait_until_it_answers();
        engine
    }

    /// Runs the server's container, which publishes `specs`, and the second one.
    pub(crate) fn run_containers(&self, specs: &[&str]) -> Containers {
        let tar = self.dir.join("image.tar");
        program::stdout_of(Command::new("tar").arg("-chf").arg(&tar).args(["-C", "/"]).args(files_of("/bin/sleep")));
        self.docker(&["import", &tar.display().to_string(), IMAGE]);
        let publish: Vec<&str> = specs.iter().flat_map(|spec| ["-p", *spec]).collect();
        self.docker(&[&["run", "-d", "--name", "web"], &publish[..], &[IMAGE, "/bin/sleep", "infinity"]].concat());
        self.docker(&["run", "-d", "--name", "app", IMAGE, "/bin/sleep", "infinity"]);
        Containers { server: self.inside("web"), server_addr: self.address("web"), app: self.inside("app") }
    }

    /// Publishes more ports, of one more container: those of one that runs cannot be changed.
    pub(crate) fn publish(&self, specs: &[String]) {
        let publish: Vec<&str> = specs.iter().flat_map(|spec| ["-p", spec.as_str()]).collect();
        self.docker(&[&["run", "-d"], &publish[..], &[IMAGE, "/bin/sleep", "infinity"]].concat());
    }

    fn docker(&self, args: &[&str]) -> String {
        program::stdout_of(Command::new("docker").args(["--host", &socket(&self.dir)]).args(args))
    }

    fn inspect(&self, container: &str, what: &str) -> String {
        let format = format!("{{{{.NetworkSettings.{what}}}}}");
        self.docker(&["inspect", "--format", &format, container]).trim().to_owned()
    }

    fn address(&self, container: &str) -> IpAddr {
        let text = self.inspect(container, "Networks.bridge.IPAddress");
        text.parse().unwrap_or_else(|e| panic!("the address of `{container}`, {text}: {e}"))
    }

    /// The namespace that the daemon has made, under a name of this world's, so that what runs inside is found when the
    /// world ends.
    fn inside(&self, container: &str) -> Rc<Namespace> {
        let theirs = format!("/proc/{}/root{}", self.pid, self.inspect(container, "SandboxKey"));
        let ours = PathBuf::from(format!("/run/netns/{}-{container}", self.name));
        File::create(&ours).unwrap_or_else(|e| panic!("create {}: {e}", ours.display()));
        mount(Some(theirs.as_str()), &ours, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .unwrap_or_else(|e| panic!("mount {theirs} as {}: {e}", ours.display()));
        Rc::new(Namespace::at(&ours))
    }

    fn wait_until_it_answers(&mut self) {
        let start = Instant::now();
        loop {
            let children = format!("/proc/{0}/task/{0}/children", self.child.id());
            let children = fs::read_to_string(children).unwrap_or_default();
            self.pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
            let mut command = Command::new("docker");
            let answer = program::output_of(command.args(["--host", &socket(&self.dir), "version"]));
            if self.pid != 0 && answer.status.success() {
                return;
            }
            let ended = self.child.try_wait().expect("ask for the daemon's status").is_some();
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            if ended || start.elapsed() > PATIENCE {
                let log = log();
                let why = log.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
                panic!("dockerd does not start: {why}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The daemon dies with its parent, and its process namespace with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let start = Instant::now();
        while Path::new("/proc").join(self.pid.to_string()).exists() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        cleanup::remove_cgroup(&self.name);
    }
}

fn socket(dir: &Path) -> String {
    format!("unix://{}", dir.join("sock").display())
}

/// A program and the libraries that it needs, as tar takes them.
fn files_of(path: &str) -> Vec<String> {
    let listed = program::stdout_of(Command::new("ldd").arg(path));
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    [path].into_iter().chain(libraries).map(|path| path.trim_start_matches('/').to_owned()).collect()
}
