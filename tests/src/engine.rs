//! Docker Engine itself on the host of a world: a daemon and a containerd of its own, with everything they keep under the
//! world's directory. Files of Debian's packages, which are not installed; `cargo xtask setup` fetches them.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cni_runtime::tool;
use crate::{Namespace, World, program};

/// How long the daemon may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
const IMAGE: &str = "box";
/// What dockerd is told so that netpath does the forwarding.
pub const FOR_NETPATH: [&str; 3] = ["--iptables=false", "--ip6tables=false", "--userland-proxy=false"];

/// A running daemon. Dropping it kills it; what its containers leave goes with the world.
pub struct Engine<'a> {
    world: &'a World,
    dir: PathBuf,
    containerd: Child,
    daemon: RefCell<Option<Child>>,
}

/// Why there can be no Engine here.
pub fn missing() -> Option<String> {
    let files = ["docker/dockerd", "docker/docker", "containerd/containerd", "containerd/runc", "containerd/busybox"];
    let missing = files.iter().find(|file| tool(file).is_none())?;
    Some(format!("there is no {missing} here: run `cargo xtask setup`"))
}

impl<'a> Engine<'a> {
    /// Starts containerd and, with `options`, the daemon on the host of `world`, and makes an image.
    pub fn start(world: &'a World, options: &[&str]) -> Self {
        let dir = world.dir().join("docker");
        fs::create_dir_all(dir.join("containerd")).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
        fs::write(dir.join("daemon.json"), format!("{{\"deprecated-key-path\": \"{}\"}}", dir.join("key").display()))
            .expect("write the daemon's configuration");
        let containerd = start_containerd(world, &dir);
        let engine = Self { world, dir, containerd, daemon: RefCell::new(None) };
        engine.start_daemon(options);
        engine.make_image();
        engine
    }

    /// Starts the daemon, also after [`Engine::kill_daemon`].
    pub fn start_daemon(&self, options: &[&str]) {
        let at = |file: &str| self.dir.join(file).display().to_string();
        let mut command = self.world.host.command("dockerd");
        command.env("PATH", path());
        command.args(["--config-file", &at("daemon.json"), "--pidfile", &at("pid"), "--host", &self.address()]);
        command.args(["--data-root", &at("data"), "--exec-root", &at("run"), "--storage-driver", "vfs"]);
        command.args(["--containerd", &at("containerd/sock"), "--exec-opt", "native.cgroupdriver=cgroupfs"]);
        let name = self.world.dir().file_name().expect("a directory of that name").to_string_lossy().into_owned();
        command.args(["--cgroup-parent", &format!("/{name}")]).args(options);
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

    /// As [`Engine::start_container`], without waiting for the end.
    pub fn begin_container(&self, name: &str, options: &[&str]) -> Child {
        let mut command = self.command(&["run", "-d", "--name", name]);
        command.args(options).args([IMAGE, "/bin/sleep", "3600"]).stdout(Stdio::null());
        command.spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"))
    }

    /// The container's address in `network`.
    pub fn ip(&self, container: &str, network: &str) -> IpAddr {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
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
        let mut command = Command::new(tool("docker/docker").expect("looked for before"));
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

fn start_containerd(world: &World, dir: &Path) -> Child {
    let at = |file: &str| dir.join("containerd").join(file).display().to_string();
    let config = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
        at("root"),
        at("state"),
        at("sock")
    );
    fs::write(at("config.toml"), config).expect("write containerd's configuration");
    let mut command = world.host.command("containerd");
    command.env("PATH", path()).args(["--config", &at("config.toml")]);
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

/// The programs that the daemon runs, before those of the system.
fn path() -> String {
    let of = |file: &str| tool(file).and_then(|path| path.parent().map(|dir| dir.display().to_string()));
    let own = of("docker/dockerd").into_iter().chain(of("containerd/containerd"));
    own.chain(std::env::var("PATH")).collect::<Vec<_>>().join(":")
}
