//! containerd itself on the host of a world: a daemon of its own, with everything it keeps under the world's directory, and in
//! place of the machine's `/run`, `/etc`, `/opt` and `/var/lib` directories of its own. Files of Debian's packages, which are
//! not installed; `cargo xtask setup` fetches them.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cni_runtime::{debian_plugins, plugin_binary, tool};
use crate::{World, cleanup, program};

/// An image with busybox alone, and [`PAGE`] in a file for its web server.
pub const IMAGE: &str = "localhost/box:test";
/// `/www/index.html` in the image.
pub const PAGE: &str = "served by a container\n";
/// How long the daemon may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
const CNI_DIRS: [&str; 2] = ["etc/cni/net.d", "opt/cni/bin"];

/// Which containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// That of the machine's Debian: 1.6 of bookworm.
    Own,
    /// The newest that Debian has: 2.1 of sid.
    Newest,
}

/// A running daemon. Dropping it kills it; what its containers leave goes with the world.
pub struct ContainerdDaemon<'a> {
    world: &'a World,
    /// Of the world, and of the control group above those of containers.
    pub name: String,
    release: Release,
    dir: PathBuf,
    /// Keeps the mount namespace.
    keeper: Child,
    daemon: RefCell<Option<Child>>,
}

/// Why there can be no such containerd here.
pub fn missing(release: Release) -> Option<String> {
    let own = ["containerd", "containerd-shim-runc-v2", "ctr"].map(|file| release.file(file));
    let shared = ["containerd/runc", "containerd/busybox"].map(str::to_owned);
    if let Some(missing) = own.iter().chain(&shared).find(|file| tool(file).is_none()) {
        return Some(format!("there is no {missing} here: run `cargo xtask setup`"));
    }
    if let Err(why) = debian_plugins() {
        return Some(why);
    }
    let output = program::output_of(Command::new(tool(&own[0])?).arg("--version"));
    (!output.status.success()).then(|| format!("{} does not run here: {}", own[0], program::text(&output.stderr)))
}

impl Release {
    fn file(self, name: &str) -> String {
        let folder = match self {
            Self::Own => "containerd",
            Self::Newest => "containerd-newest",
        };
        format!("{folder}/{name}")
    }

    fn tool(self, name: &str) -> PathBuf {
        tool(&self.file(name)).expect("looked for before")
    }

    /// The programs that the daemon runs, before those of the system.
    fn path(self) -> String {
        let runc = tool("containerd/runc").expect("looked for before");
        let own = [self.tool("containerd"), runc].map(|path| path.parent().expect("a folder").display().to_string());
        own.into_iter().chain(std::env::var("PATH")).collect::<Vec<_>>().join(":")
    }
}

impl<'a> ContainerdDaemon<'a> {
    /// Starts a daemon whose containers are connected by the list `name` of `plugins`, in `version` of the specification.
    pub fn start(world: &'a World, release: Release, version: &str, name: &str, plugins: &[Value]) -> Self {
        let dir = world.dir().join("containerd");
        let mounts = dir.join("mounts");
        let own = CNI_DIRS.iter().chain(&["run", "var/lib"]).map(|place| mounts.join(place));
        own.chain([dir.join("state"), dir.join("tmp")]).for_each(|place| make_dir(&place));
        for (file, text) in [("hosts", "127.0.0.1 localhost\n"), ("resolv.conf", "nameserver 192.0.2.53\n")] {
            fs::write(mounts.join("etc").join(file), text).expect("write to its own /etc");
        }
        let bin = mounts.join("opt/cni/bin");
        symlink(plugin_binary(), bin.join("netpath-cni")).expect("name the plugin");
        for plugin in debian_plugins().ok().into_iter().flat_map(|dir| fs::read_dir(dir).expect("list the plugins")) {
            let plugin = plugin.expect("a plugin");
            symlink(plugin.path(), bin.join(plugin.file_name())).expect("name a plugin");
        }
        fs::write(dir.join("config.toml"), config(&dir)).expect("write containerd's configuration");
        let keeper = keep_mounts(world, &dir);
        let world_name = world.dir().file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let this = Self { world, name: world_name, release, dir, keeper, daemon: RefCell::new(None) };
        this.configure(version, name, plugins);
        this.start_again();
        this.import();
        this
    }

    /// Writes the list. Netpath's plugins know the world's agent.
    pub fn configure(&self, version: &str, name: &str, plugins: &[Value]) {
        let mut plugins = plugins.to_vec();
        for plugin in plugins.iter_mut().filter(|plugin| plugin["type"] == "netpath-cni") {
            plugin["socket"] = json!(self.world.instance().socket);
        }
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        fs::write(self.list(), list.to_string()).expect("write the list of plugins");
    }

    /// The file that [`ContainerdDaemon::configure`] writes.
    pub fn list(&self) -> PathBuf {
        self.dir.join("mounts/etc/cni/net.d/10-netpath.conflist")
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Where it keeps what does not outlive the machine.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Directory of a pod's or container's own.
    pub fn dir_of(&self, name: &str) -> PathBuf {
        let dir = self.dir.join("logs").join(name);
        make_dir(&dir);
        dir
    }

    /// Takes the daemon away with SIGKILL. Its containers stay.
    pub fn kill(&self) {
        let mut daemon = self.daemon.take().expect("a running daemon");
        daemon.kill().expect("kill containerd");
        daemon.wait().expect("wait for containerd");
    }

    /// Starts the daemon after [`ContainerdDaemon::kill`], and waits until it answers.
    pub fn start_again(&self) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).expect("open the log");
        let mut command = self.inside(&self.release.tool("containerd"));
        command.arg("--config").arg(self.dir.join("config.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *self.daemon.borrow_mut() = Some(command.spawn().expect("run containerd"));
        self.wait("answers", || program::output_of(self.command("default").arg("version")).status.success());
    }

    /// `ctr`, for the containers of `namespace`, in the daemon's network and mount namespace.
    pub fn command(&self, namespace: &str) -> Command {
        let mut command = self.inside(&self.release.tool("ctr"));
        command.arg("--address").arg(self.socket()).args(["--namespace", namespace]);
        command
    }

    /// Panics unless `holds` comes true in the time that a daemon may take.
    pub fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            let ended =
                self.daemon.borrow_mut().as_mut().is_none_or(|child| child.try_wait().is_ok_and(|s| s.is_some()));
            assert!(!ended && Instant::now() < deadline, "containerd does not come to this: {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.keeper.id())).args(["--mount", "--net"]).arg(program);
        command.env("PATH", self.release.path()).env("TMPDIR", self.dir.join("tmp"));
        command
    }

    /// Makes the image, and imports it for `ctr` in the world's namespace and for the CRI in its own.
    fn import(&self) {
        let dir = self.dir.join("image");
        make_dir(&dir.join("layer/bin"));
        make_dir(&dir.join("layer/www"));
        fs::copy(tool("containerd/busybox").expect("looked for before"), dir.join("layer/bin/busybox"))
            .expect("copy busybox");
        fs::write(dir.join("layer/www/index.html"), PAGE).expect("write the page");
        let tar = |args: &[&str]| drop(program::stdout_of(Command::new("tar").current_dir(&dir).args(args)));
        tar(&["-cf", "layer.tar", "-C", "layer", "bin", "www"]);
        let sum = program::stdout_of(Command::new("sha256sum").arg(dir.join("layer.tar")));
        let digest = format!("sha256:{}", sum.split_whitespace().next().expect("a digest"));
        let run = json!({"Entrypoint": ["/bin/busybox", "sleep", "3600"]});
        let config = json!({"architecture": "amd64", "os": "linux", "config": run,
                            "rootfs": {"type": "layers", "diff_ids": [digest]}});
        fs::write(dir.join("config.json"), config.to_string()).expect("write the image's configuration");
        let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        fs::write(dir.join("manifest.json"), manifest.to_string()).expect("write the manifest");
        tar(&["-cf", "image.tar", "manifest.json", "config.json", "layer.tar"]);
        for namespace in [self.name.as_str(), "k8s.io"] {
            let mut command = self.command(namespace);
            command.args(["image", "import", "--no-unpack"]).arg(dir.join("image.tar"));
            program::stdout_of(&mut command);
        }
    }
}

impl Drop for ContainerdDaemon<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the last that containerd wrote:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        for child in self.daemon.get_mut().iter_mut().chain([&mut self.keeper]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        cleanup::remove_cgroup(&self.name);
    }
}

/// Namespaces of pods are among the state, where the agent can open them. Sandboxes are not spared from the lack of memory:
/// that takes a privilege that a machine for tests may not have.
fn config(dir: &Path) -> String {
    let at = |file: &str| dir.join(file).display().to_string();
    format!(
        r#"version = 2
root = {:?}
state = {:?}
[grpc]
address = {:?}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {IMAGE:?}
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#,
        at("root"),
        at("state"),
        at("containerd.sock")
    )
}

/// A mount namespace on the host of `world` that nothing gets out of, but for what is mounted in the daemon's state.
fn keep_mounts(world: &World, dir: &Path) -> Child {
    let state = dir.join("state");
    program::stdout_of(Command::new("mount").arg("--bind").arg(&state).arg(&state));
    program::stdout_of(Command::new("mount").arg("--make-shared").arg(&state));
    let script = "cut -d' ' -f5 /proc/self/mountinfo | grep -vFx \"$1/state\" \
        | while read -r at; do mount --make-private \"$at\" || ! mountpoint -q \"$at\"; done; \
        for place in run etc opt var/lib; do mount --bind \"$1/mounts/$place\" \"/$place\"; done; \
        echo ready; exec sleep 3600";
    let mut command = world.host.command("unshare");
    command.args(["--mount", "--propagation", "unchanged", "sh", "-ec", script, "sh"]).arg(dir);
    let mut keeper = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("run unshare");
    let mut said = [0; 6];
    keeper.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("the namespace is ready");
    keeper
}

fn make_dir(dir: &Path) {
    fs::create_dir_all(dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
}
