//! `netpath-netavark` under Podman itself: `podman run` asks netavark, which asks the plugin.

use std::fs;
use std::io::Read;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use netpath_tests::cni_runtime::tool;
use netpath_tests::sockets::{accept, at, converse};
use netpath_tests::{CLIENT, HOST, Namespace, Plane, World, program};

on_netpath_once! {
    what_podman_runs_is_served_until_it_is_removed,
    containers_of_one_network_talk_and_a_taken_port_is_refused,
}

/// What a refused connection may take.
const PATIENCE: Duration = Duration::from_secs(1);
const SUBNET: &str = "10.89.3.0/24";

fn what_podman_runs_is_served_until_it_is_removed(plane: Plane) {
    let world = World::new(plane);
    let Some(podman) = Podman::start(&world) else { return };
    podman.ok(&["network", "create", "--driver", "netpath-netavark", "--subnet", SUBNET, "web"]);
    podman.run("web", &["-p", "8080:80", "-p", "9000-9003:9000-9003"]);
    assert_eq!(podman.ok(&["port", "web", "80"]), "0.0.0.0:8080");
    for _ in 0..2 {
        let inside = podman.inside("web");
        for (port, own) in [(8080, 80), (9002, 9002)] {
            let listener = inside.listen(own);
            let mut client = world.client.connect(at(HOST, port));
            let (mut server, from) = accept(&listener);
            assert_eq!(from.ip(), CLIENT);
            converse(&mut client, &mut server);
        }
        let outside = world.client.listen(7000);
        let mut client = inside.connect(at(CLIENT, 7000));
        let (mut server, from) = accept(&outside);
        assert_eq!(from.ip(), HOST);
        converse(&mut client, &mut server);
        podman.ok(&["restart", "-t", "0", "web"]);
    }
    podman.ok(&["rm", "-f", "-t", "0", "web"]);
    world.client.assert_closed(at(HOST, 8080));
    assert_eq!(names(&world), [] as [String; 0]);
    podman.ok(&["network", "rm", "web"]);
}

fn containers_of_one_network_talk_and_a_taken_port_is_refused(plane: Plane) {
    let world = World::new(plane);
    let Some(podman) = Podman::start(&world) else { return };
    for (network, more) in [("open", &[][..]), ("closed", &["--opt", "icc=false"])] {
        podman.ok(&[&["network", "create", "--driver", "netpath-netavark"], more, &[network]].concat());
        let names = [format!("{network}-one"), format!("{network}-two")];
        for name in &names {
            podman.run(name, &["--network", network]);
        }
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        let address = podman.ok(&["inspect", "--format", &format, &names[1]]).parse::<IpAddr>().expect("an address");
        let _listener = podman.inside(&names[1]).listen(80);
        let reached = podman.inside(&names[0]).try_connect(0, at(address, 80), PATIENCE).is_ok();
        assert_eq!(reached, network == "open", "{network}");
    }
    podman.run("first", &["--network", "open", "-p", "8080:80"]);
    let before = names(&world);
    let refused = podman.podman(&["run", "-d", "--name", "second", "--network", "open", "-p", "8080:80"], true);
    let said = program::text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("8080"), "{said}");
    assert_eq!(names(&world), before);
}

/// The containers that the agent knows.
fn names(world: &World) -> Vec<String> {
    let listed = world.json(&["ps"]);
    listed.as_array().expect("a list").iter().map(|c| c["name"].as_str().expect("a name").to_owned()).collect()
}

/// Podman in the root that `cargo xtask setup` has unpacked, in a mount namespace of its own on the host of a world. Dropping
/// it removes the containers.
struct Podman<'a> {
    root: PathBuf,
    /// Keeps the mount namespace.
    keeper: Child,
    world: PhantomData<&'a World>,
}

impl<'a> Podman<'a> {
    /// `None`, and a word about it, if there is no Podman here.
    fn start(world: &'a World) -> Option<Self> {
        let Some(binary) = tool("podman/usr/bin/podman") else {
            eprintln!("skipped: there is no Podman here: run `cargo xtask setup`");
            return None;
        };
        let root = binary.ancestors().nth(3).expect("the root that it is in").to_owned();
        let dir = world.dir().join("podman");
        fs::create_dir_all(dir.join("plugins")).expect("create a directory for the plugin");
        let plugin = program::netpath_binary().with_file_name("netpath-netavark");
        fs::copy(&plugin, dir.join("plugins/netpath-netavark"))
            .unwrap_or_else(|e| panic!("copy {}: {e}: run `cargo build -p netpath-netavark`", plugin.display()));
        fs::write(dir.join("containers.conf"), CONFIG).expect("write Podman's configuration");
        for part in ["bin", "proc", "sys", "dev", "etc"] {
            fs::create_dir_all(dir.join("box").join(part)).expect("create the containers' root");
        }
        fs::copy(tool("containerd/busybox").expect("busybox of the setup"), dir.join("box/bin/sleep"))
            .expect("copy busybox");
        let mut command = world.host.command("unshare");
        command.args(["--mount", "--propagation", "unchanged", "sh", "-ec", SCRIPT, "sh"]).arg(&root).arg(world.dir());
        let mut keeper = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("run unshare");
        let mut said = [0; 6];
        keeper.stdout.as_mut().expect("a pipe").read_exact(&mut said).expect("the namespace is ready");
        Some(Self { root, keeper, world: PhantomData })
    }

    /// `podman run -d --name NAME OPTIONS` of a process that does nothing; in the network `web` unless told otherwise.
    fn run(&self, name: &str, options: &[&str]) {
        let network: &[&str] = if options.contains(&"--network") { &[] } else { &["--network", "web"] };
        let output = self.podman(&[&["run", "-d", "--name", name], network, options].concat(), true);
        assert!(output.status.success(), "{}", program::text(&output.stderr));
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.podman(args, false);
        assert!(output.status.success(), "podman {args:?}: {}", program::text(&output.stderr));
        program::text(&output.stdout).trim().to_owned()
    }

    /// `podman ARGS`, with what a container is made of behind them if it is to be one.
    fn podman(&self, args: &[&str], is_container: bool) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.keeper.id())).args(["--mount", "--net", "chroot"]).arg(&self.root);
        command.env("CONTAINERS_CONF", "/mnt/podman/containers.conf").env("NETPATH_SOCKET", "/mnt/netpath.sock");
        command.env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1").env("PATH", "/usr/bin:/usr/sbin").env("HOME", "/tmp");
        command.args(["/usr/bin/podman", "--root", "/tmp/storage", "--runroot", "/run/storage"]).args(args);
        if is_container {
            command.args(["--cgroups=disabled", "--rootfs", "/mnt/podman/box:O", "/bin/sleep", "3600"]);
        }
        program::output_of(&mut command)
    }

    fn inside(&self, container: &str) -> Namespace {
        let pid = self.ok(&["inspect", "--format", "{{.State.Pid}}", container]);
        Namespace::of_process(pid.parse().unwrap_or_else(|e| panic!("the process of `{container}`, {pid}: {e}")))
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let gone = self.podman(&["rm", "--all", "--force", "--time", "0"], false);
        if !gone.status.success() {
            eprintln!("podman rm: {}", program::text(&gone.stderr));
        }
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Makes the root's file systems; `$1` is the root, `$2` the world's directory. Nothing of it is seen outside, but for what
/// Podman mounts in `/run/netns`, which the agent has to open.
const SCRIPT: &str = "grep -v ' /run/netns ' /proc/self/mountinfo | cut -d' ' -f5 | while read -r at; do mount --make-private \"$at\"; done; \
    mount --bind \"$1\" \"$1\"; cd \"$1\"; mount -t proc proc proc; mount --rbind --make-rprivate /sys sys; \
    mount -t cgroup2 none sys/fs/cgroup; mount --rbind --make-rprivate /dev dev; mount -t tmpfs none run; mkdir run/netns; \
    mount --bind /run/netns run/netns; mount -t tmpfs none tmp; mount --bind \"$2\" mnt; \
    mount -t tmpfs none etc/containers; mount -t tmpfs none var/lib; echo ready; exec sleep 3600";

const CONFIG: &str = r#"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
netavark_plugin_dirs = ["/mnt/podman/plugins"]
network_config_dir = "/tmp/networks"
"#;
