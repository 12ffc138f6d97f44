//! Debian's containerd with the CNI plugin: a container runtime that nobody wrote for a test. Daemon, client and
//! containers see directories of their own in place of the machine's: `/run`, `/etc`, `/opt` and `/var/lib`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netpath_tests::cni_runtime::{plugin_binary, tool};
use netpath_tests::reach::talk_both_ways;
use netpath_tests::sockets::{at, eventually};
use netpath_tests::{HOST, Namespace, Plane, World, cleanup, program};
use serde_json::json;

on_netpath_once! {
    containers_of_containerd_are_connected,
}

fn containers_of_containerd_are_connected(plane: Plane) {
    let Some(tools) =
        tool("containerd").filter(|dir| ["containerd", "runc", "busybox"].iter().all(|f| dir.join(f).is_file()))
    else {
        eprintln!("skipped: there is no containerd here: run `cargo xtask setup`");
        return;
    };
    let world = World::new(plane);
    let containerd = Containerd::start(&world, &tools);
    containerd.import("np.test/sleep:1");
    let mut first = containerd.run("np.test/sleep:1", "web");
    let name = format!("{}-web", containerd.name);
    eventually("the container is connected", || world.endpoint(&name).is_some());
    let shown = world.endpoint(&name).unwrap();
    assert_eq!((&shown["endpoints"][0]["interface"], &shown["endpoints"][0]["cni"]), (&json!("eth0"), &json!("ctr")));
    let inside = containerd.inside("web");
    world.netpath_ok(&["publish", &name, "8080:80"]);
    talk_both_ways(&world, &inside, 8080);
    let mut second = containerd.run("np.test/sleep:1", "app");
    let other = format!("{}-app", containerd.name);
    eventually("the second container is connected", || world.endpoint(&other).is_some());
    for (container, client) in [("web", &mut first), ("app", &mut second)] {
        containerd.ctr(&["task", "kill", "--signal", "SIGKILL", container]);
        client.wait().unwrap();
    }
    assert_eq!(world.json(&["ps"]), json!([]), "the runtime has deleted what it added");
    world.client.assert_closed(at(HOST, 8080));
}

/// A daemon of this test's own.
struct Containerd {
    /// Of the world; the containers' namespace too, in containerd's sense, and their control group.
    name: String,
    dir: PathBuf,
    tools: PathBuf,
    daemon: Child,
}

impl Containerd {
    fn start(world: &World, tools: &Path) -> Self {
        let dir = world.dir().join("containerd");
        let mounted = ["run", "etc/cni/net.d", "opt/cni/bin", "var/lib"];
        mounted.iter().for_each(|place| fs::create_dir_all(dir.join("mounts").join(place)).unwrap());
        let mounts = dir.join("mounts");
        symlink(plugin_binary(), mounts.join("opt/cni/bin/netpath-cni")).unwrap();
        let plugin = json!({"type": "netpath-cni", "socket": world.instance().socket, "subnet": "10.94.0.0/16"});
        let list = json!({"cniVersion": "1.0.0", "name": "ctr", "plugins": [plugin]});
        fs::write(mounts.join("etc/cni/net.d/10-netpath.conflist"), list.to_string()).unwrap();
        let config = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        fs::write(dir.join("config.toml"), config).unwrap();
        let script =
            "for place in run etc opt var/lib; do mount --bind \"$0/$place\" \"/$place\" || exit; done; exec \"$@\"";
        let mut command = world.host.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&mounts);
        command.arg(tools.join("containerd")).arg("--config").arg(dir.join("config.toml"));
        command.arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("state"));
        command.arg("--address").arg(dir.join("containerd.sock"));
        let log = fs::File::create(dir.join("log")).unwrap();
        command.env("PATH", path(tools)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = command.spawn().unwrap();
        let name = world.dir().file_name().unwrap().to_str().unwrap().to_owned();
        let this = Self { name, dir, tools: tools.to_owned(), daemon };
        eventually("containerd answers", || program::output_of(this.command().arg("version")).status.success());
        this
    }

    /// `ctr`, in the daemon's network and mount namespace.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.daemon.id())).args(["--mount", "--net"]).arg(self.tools.join("ctr"));
        command.arg("--address").arg(self.dir.join("containerd.sock")).args(["--namespace", &self.name]);
        command.env("PATH", path(&self.tools));
        command
    }

    fn ctr(&self, args: &[&str]) -> String {
        program::stdout_of(self.command().args(args))
    }

    /// Makes an image of one static program, and imports it.
    fn import(&self, image: &str) {
        let dir = self.dir.join("image");
        fs::create_dir_all(dir.join("layer/bin")).unwrap();
        fs::copy(self.tools.join("busybox"), dir.join("layer/bin/busybox")).unwrap();
        let tar = |args: &[&str]| drop(program::stdout_of(Command::new("tar").current_dir(&dir).args(args)));
        tar(&["-cf", "layer.tar", "-C", "layer", "bin"]);
        let sum = program::stdout_of(Command::new("sha256sum").arg(dir.join("layer.tar")));
        let digest = format!("sha256:{}", sum.split_whitespace().next().unwrap());
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
                            "rootfs": {"type": "layers", "diff_ids": [digest]}});
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let manifest = json!([{"Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"]}]);
        fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
        tar(&["-cf", "image.tar", "manifest.json", "config.json", "layer.tar"]);
        self.ctr(&["image", "import", "--snapshotter", "native", dir.join("image.tar").to_str().unwrap()]);
    }

    /// `ctr run`, which stays until the container ends, and then takes it off its network.
    fn run(&self, image: &str, container: &str) -> Child {
        let mut command = self.command();
        command.args(["run", "--rm", "--snapshotter", "native", "--cni", image, container]);
        command.args(["/bin/busybox", "sleep", "60"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    /// The network namespace of a container.
    fn inside(&self, container: &str) -> Namespace {
        let tasks = self.ctr(&["task", "ls"]);
        let pid = tasks
            .lines()
            .map(str::split_whitespace)
            .find_map(|mut words| if words.next() == Some(container) { words.next()?.parse().ok() } else { None });
        Namespace::of_process(pid.unwrap_or_else(|| panic!("no task {container}: {tasks}")))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("containerd wrote:\n{}", fs::read_to_string(self.dir.join("log")).unwrap_or_default());
        }
        for container in ["web", "app"] {
            let _ = self.command().args(["task", "kill", "--signal", "SIGKILL", container]).output();
            let _ = self.command().args(["task", "delete", "--force", container]).output();
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        cleanup::remove_cgroup(&self.name);
    }
}

fn path(tools: &Path) -> String {
    format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default())
}
