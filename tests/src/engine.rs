//! Docker Engine itself on the host of a world: a daemon and a containerd of its own, with everything they keep under the
//! world's directory; for benchmarks on a bare host too. Files of Debian's packages, which are not installed; `cargo xtask setup` fetches them.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cni_runtime::tool;
use crate::{Bare, Family, Namespace, World, program};

/// How long the daemon may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// An image with busybox alone.
pub const IMAGE: &str = "box";
/// Where the daemon looks for programs first.
const PREFERRED: &str = "bin";
/// What dockerd is told so that netpath does the forwarding.
pub const FOR_NETPATH: [&str; 3] = ["--iptables=false", "--ip6tables=false", "--userland-proxy=false"];

/// Which Engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// That of the machine's Debian: 20.10 of bookworm.
    Own,
    /// The newest that Debian has: 28.5 of sid.
    Newest,
}

/// A running daemon. Dropping it kills it; what its containers leave goes with the world.
pub struct Engine<'a> {
    host: &'a Namespace,
    /// Of the world, and of the control group above those of containers.
    name: String,
    release: Release,
    dir: PathBuf,
    containerd: Child,
    daemon: RefCell<Option<Child>>,
}

/// A runtime that waits.
pub struct Gate {
    program: PathBuf,
    open: PathBuf,
}

impl Gate {
    /// The daemon's option that has it called `gated`.
    pub fn option(&self) -> String {
        format!("--add-runtime=gated={}", self.program.display())
    }

    /// Lets everybody through.
    pub fn open(&self) {
        fs::write(&self.open, "").expect("open the gate");
    }
}

/// Why there can be no such Engine here.
pub fn missing(release: Release) -> Option<String> {
    let own = ["dockerd", "docker"].map(|file| release.file(file));
    let shared = ["containerd/containerd", "containerd/runc", "containerd/busybox"].map(str::to_owned);
    if let Some(missing) = own.iter().chain(&shared).find(|file| tool(file).is_none()) {
        return Some(format!("there is no {missing} here: run `cargo xtask setup`"));
    }
    let output = program::output_of(Command::new(tool(&own[0])?).arg("--version"));
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (!output.status.success()).then(|| format!("{} does not run here: {said}", own[0]))
}

impl Release {
    fn file(self, name: &str) -> String {
        let folder = match self {
            Self::Own => "docker",
            Self::Newest => "docker-newest",
        };
        format!("{folder}/{name}")
    }

    fn tool(self, name: &str) -> PathBuf {
        tool(&self.file(name)).expect("looked for before")
    }

    /// The programs that the daemon runs, before those of the system.
    fn path(self) -> String {
        let runtime = tool("containerd/containerd").expect("looked for before");
        let own = [self.tool("dockerd"), runtime].map(|path| path.parent().expect("a folder").display().to_string());
        own.into_iter().chain(std::env::var("PATH")).collect::<Vec<_>>().join(":")
    }
}

impl<'a> Engine<'a> {
    /// Starts containerd and, with `options`, the daemon on the host of `world`, and makes an image.
    pub fn start(world: &'a World, release: Release, options: &[&str]) -> Self {
        Self::on(&world.host, &world.dir(), release, options)
    }

    /// The same where nothing else forwards.
    pub fn alone(bare: &'a Bare, release: Release, options: &[&str]) -> Self {
        Self::on(&bare.host, &bare.dir(), release, options)
    }

    fn on(host: &'a Namespace, world_dir: &Path, release: Release, options: &[&str]) -> Self {
        let dir = world_dir.join("docker");
        let name = world_dir.file_name().expect("a directory of that name").to_string_lossy().into_owned();
        fs::create_dir_all(dir.join("containerd")).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
        let config = match release {
            Release::Own => format!("{{\"deprecated-key-path\": \"{}\"}}", dir.join("key").display()),
            Release::Newest => "{}".to_owned(),
        };
        fs::write(dir.join("daemon.json"), config).expect("write the daemon's configuration");
        let containerd = start_containerd(host, release, &dir);
        let engine = Self { host, name, release, dir, containerd, daemon: RefCell::new(None) };
        engine.start_daemon(options);
        engine.make_image();
        engine
    }

    /// Starts the daemon, also after [`Engine::kill_daemon`].
    pub fn start_daemon(&self, options: &[&str]) {
        let at = |file: &str| self.dir.join(file).display().to_string();
        let mut command = self.host.command("dockerd");
        command.env("PATH", format!("{}:{}", self.dir.join(PREFERRED).display(), self.release.path()));
        command.args(["--config-file", &at("daemon.json"), "--pidfile", &at("pid"), "--host", &self.address()]);
        command.args(["--data-root", &at("data"), "--exec-root", &at("run"), "--storage-driver", "vfs"]);
        command.args(["--containerd", &at("containerd/sock"), "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        command.args(["--cgroup-parent", &format!("/{}", self.name)]).args(options);
        // Killed, it leaves its number to nobody.
        let _ = fs::remove_file(self.dir.join("pid"));
        *self.daemon.borrow_mut() = Some(spawn(command, &self.dir.join("dockerd.log")));
        self.wait("dockerd.log", || self.run(&["version"]).status.success());
    }

    /// Takes the daemon away with SIGKILL; the containers stay if it runs with `--live-restore`.
    pub fn kill_daemon(&self) {
        let mut daemon = self.daemon.borrow_mut().take().expect("a running daemon");
        daemon.kill().expect("kill the daemon");
        daemon.wait().expect("wait for the daemon");
    }

    /// Ends the daemon with SIGTERM, as a service manager does.
    pub fn stop_daemon(&self) {
        let mut daemon = self.daemon.borrow_mut().take().expect("a running daemon");
        kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).expect("end the daemon");
        daemon.wait().expect("wait for the daemon");
    }

    /// The daemon's configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("daemon.json")
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// `docker ARGS`; panics when it fails.
    pub fn docker(&self, args: &[&str]) -> String {
        program::stdout_of(&mut self.command(args)).trim().to_owned()
    }

    /// `docker ARGS`, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Output {
        program::output_of(&mut self.command(args))
    }

    /// `docker run -d --name NAME OPTIONS` of a process that does nothing.
    pub fn start_container(&self, name: &str, options: &[&str]) {
        let command = [&["run", "-d", "--name", name], options, &[IMAGE, "/bin/sleep", "3600"]].concat();
        self.docker(&command);
    }

    /// `docker run -d --name NAME OPTIONS` of a process that does what `script` says, without waiting for the end.
    pub fn begin_container(&self, name: &str, options: &[&str], script: &str) -> Child {
        self.begin(&[&["run", "-d", "--name", name], options, &[IMAGE, "/bin/busybox", "sh", "-c", script]].concat())
    }

    /// As [`Engine::begin_container`], but nothing is started.
    pub fn create_container(&self, name: &str, options: &[&str], script: &str) {
        let command = [&["create", "--name", name], options, &[IMAGE, "/bin/busybox", "sh", "-c", script]].concat();
        self.docker(&command);
    }

    /// `docker ARGS`, without waiting for the end.
    pub fn begin(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"))
    }

    /// Has the daemon of `world` that is to start write its rules with the legacy iptables.
    pub fn prefer_legacy_iptables(world: &World) {
        let dir = world.dir().join("docker").join(PREFERRED);
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
        for name in ["iptables", "ip6tables"] {
            symlink(format!("/usr/sbin/{name}-legacy"), dir.join(name)).expect("name a program");
        }
    }

    /// A runtime that gives no container its process before [`Gate::open`]: everything else is there by then.
    pub fn gate(world: &World) -> Gate {
        let dir = world.dir().join("docker");
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
        let gate = Gate { program: dir.join("gated"), open: dir.join("open") };
        let runc = tool("containerd/runc").expect("looked for before");
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *\" start \"*) while [ ! -e {} ]; do sleep 0.05; done;; esac\nexec {} \"$@\"\n",
            gate.open.display(),
            runc.display()
        );
        fs::write(&gate.program, script).expect("write the runtime");
        fs::set_permissions(&gate.program, fs::Permissions::from_mode(0o755)).expect("make the runtime a program");
        gate
    }

    /// The container's IPv4 address in `network`.
    pub fn ip(&self, container: &str, network: &str) -> IpAddr {
        self.ip_of(container, network, Family::V4)
    }

    /// The container's address in `network`.
    pub fn ip_of(&self, container: &str, network: &str, family: Family) -> IpAddr {
        let field = family.pick("IPAddress", "GlobalIPv6Address");
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}");
        let text = self.docker(&["inspect", "--format", &format, container]);
        text.parse().unwrap_or_else(|e| panic!("the address of `{container}` in {network}, {text}: {e}"))
    }

    /// The container's namespace.
    pub fn inside(&self, container: &str) -> Namespace {
        let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]);
        Namespace::of_process(pid.parse().unwrap_or_else(|e| panic!("the process of `{container}`, {pid}: {e}")))
    }

    /// What the daemon wrote.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.dir.join("dockerd.log")).unwrap_or_default()
    }

    fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.release.tool("docker"));
        command.env("DOCKER_CONFIG", &self.dir).args(["--host", &self.address()]).args(args);
        command
    }

    /// A file system with busybox alone, under the names of what is run.
    fn make_image(&self) {
        let root = self.dir.join("root");
        fs::create_dir_all(root.join("bin")).expect("create the image's directory");
        fs::copy(tool("containerd/busybox").expect("looked for before"), root.join("bin/busybox"))
            .expect("copy busybox");
        symlink("busybox", root.join("bin/sleep")).expect("name busybox");
        let tar = self.dir.join("image.tar");
        program::stdout_of(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&root).arg("bin"));
        self.docker(&["import", &tar.display().to_string(), IMAGE]);
    }

    fn wait(&self, log: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            let ended =
                self.daemon.borrow_mut().as_mut().is_some_and(|child| child.try_wait().is_ok_and(|s| s.is_some()));
            let text = || fs::read_to_string(self.dir.join(log)).unwrap_or_default();
            assert!(!ended && Instant::now() < deadline, "the Engine does not start:\n{}", text());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log_text();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the last that dockerd wrote:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        for child in self.daemon.borrow_mut().iter_mut().chain([&mut self.containerd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_containerd(host: &Namespace, release: Release, dir: &Path) -> Child {
    let at = |file: &str| dir.join("containerd").join(file).display().to_string();
    let config = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
        at("root"),
        at("state"),
        at("sock")
    );
    fs::write(at("config.toml"), config).expect("write containerd's configuration");
    let mut command = host.command("containerd");
    command.env("PATH", release.path()).args(["--config", &at("config.toml")]);
    let child = spawn(command, &dir.join("containerd.log"));
    let deadline = Instant::now() + PATIENCE;
    while !Path::new(&at("sock")).exists() {
        let log = || fs::read_to_string(dir.join("containerd.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "containerd does not start:\n{}", log());
        thread::sleep(Duration::from_millis(20));
    }
    child
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let file = File::options().create(true).append(true).open(log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    let errors = file.try_clone().expect("clone a file");
    let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
    child.unwrap_or_else(|e| panic!("run {command:?}: {e}"))
}
