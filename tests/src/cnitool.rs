//! The reference library for container runtimes, through its tool `cnitool`: what it caches, what it derives, and what it
//! takes for a result. Debian has no package of the program: `cargo xtask setup` builds it, or `NETPATH_CNITOOL` names one.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use netpath_tests::cni_runtime::{self, debian_plugins, plugin_binary};
use netpath_tests::sockets::{accept, at, converse};
use netpath_tests::{HOST, Namespace, Plane, World, program};
use serde_json::{Value, json};

on_netpath_once! {
    the_reference_tool_adds_checks_and_deletes,
    the_reference_tool_chains,
    the_reference_tool_asks_for_status_and_collects_garbage,
}

fn the_reference_tool_adds_checks_and_deletes(plane: Plane) {
    let Some(tool) = tool() else { return };
    let world = World::new(plane);
    let (cnitool, inside) = (Tool::new(&world, tool), world.namespace("web"));
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let plugin = json!({"type": "netpath-cni", "capabilities": {"portMappings": true}, "subnet": "10.88.0.0/16"});
        cnitool.configure(version, &[plugin]);
        let result: Value = serde_json::from_str(&cnitool.succeeds("add", &inside)).unwrap();
        assert_eq!(result["cniVersion"], version);
        talk(&world, &inside);
        // The library refuses it where the version has none.
        if version != "0.3.1" {
            cnitool.succeeds("check", &inside);
            inside.ip("addr flush dev eth0");
            let refused = cnitool.run("check", &inside);
            let why = program::text(&refused.stderr);
            assert!(!refused.status.success() && why.contains("lost its address"), "{why}");
        }
        cnitool.succeeds("del", &inside);
        cnitool.succeeds("del", &inside);
        assert_eq!((inside.interfaces(), world.json(&["ps"])), (vec![], json!([])));
    }
}

fn the_reference_tool_chains(plane: Plane) {
    let Some(tool) = tool() else { return };
    if let Err(why) = debian_plugins() {
        eprintln!("skipped: {why}");
        return;
    }
    let world = World::new(plane);
    let (cnitool, inside) = (Tool::new(&world, tool), world.namespace("web"));
    let ipam = json!({"type": "host-local", "dataDir": world.dir().join("leases"), "routes": [{"dst": "0.0.0.0/0"}],
                      "ranges": [[{"subnet": "10.93.0.0/24"}]]});
    let bridge = json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam});
    let own = json!({"type": "netpath-cni", "ipMasq": true, "capabilities": {"portMappings": true}});
    cnitool.configure("1.0.0", &[bridge, own]);
    cnitool.succeeds("add", &inside);
    cnitool.succeeds("check", &inside);
    talk(&world, &inside);
    cnitool.succeeds("del", &inside);
    assert_eq!((inside.interfaces(), world.json(&["ps"])), (vec![], json!([])));
}

fn the_reference_tool_asks_for_status_and_collects_garbage(plane: Plane) {
    let Some(tool) = tool() else { return };
    let world = World::new(plane);
    let (cnitool, inside) = (Tool::new(&world, tool), world.namespace("web"));
    cnitool.configure("1.1.0", &[json!({"type": "netpath-cni", "subnet": "10.88.0.0/16"})]);
    cnitool.succeeds("status", &inside);
    let lost = world.namespace("lost");
    cnitool.succeeds("add", &lost);
    fs::remove_dir_all(world.dir().join("var-lib/cni/results")).unwrap();
    cnitool.succeeds("add", &inside);
    // The tool names no valid attachment, not even an empty list: the library deletes what it has in its cache, and the
    // plugin does not guess about the rest.
    let refused = cnitool.run("gc", &inside);
    let why = program::text(&refused.stderr);
    assert!(!refused.status.success() && why.contains("cni.dev/valid-attachments"), "{why}");
    assert_eq!((inside.interfaces(), lost.interfaces()), (vec![], vec!["eth0".to_owned()]));
    world.kill_agent();
    let refused = cnitool.run("status", &inside);
    let why = program::text(&refused.stderr);
    assert!(!refused.status.success() && why.contains("netpath"), "{why}");
}

/// The program, on the host of a world, with directories of its own for configurations and results.
struct Tool<'a> {
    world: &'a World,
    program: PathBuf,
}

impl<'a> Tool<'a> {
    fn new(world: &'a World, program: PathBuf) -> Self {
        ["net.d", "var-lib"].iter().for_each(|name| fs::create_dir_all(world.dir().join(name)).unwrap());
        Self { world, program }
    }

    fn configure(&self, version: &str, plugins: &[Value]) {
        let mut plugins = plugins.to_vec();
        for plugin in plugins.iter_mut().filter(|plugin| plugin["type"] == "netpath-cni") {
            plugin["socket"] = json!(self.world.instance().socket);
        }
        let list = json!({"cniVersion": version, "name": "pods", "plugins": plugins});
        fs::write(self.world.dir().join("net.d/pods.conflist"), list.to_string()).unwrap();
    }

    fn succeeds(&self, command: &str, inside: &Namespace) -> String {
        let output = self.run(command, inside);
        assert!(output.status.success(), "{command}: {}", program::text(&output.stderr));
        program::text(&output.stdout)
    }

    /// The tool keeps results in `/var/lib/cni`, which is the world's own here.
    fn run(&self, command: &str, inside: &Namespace) -> Output {
        let script = "mount --bind \"$0\" /var/lib && exec \"$@\"";
        let mut process = self.world.host.command("unshare");
        process.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(self.world.dir().join("var-lib"));
        process.arg(&self.program).args([command, "pods"]).arg(inside.path());
        let own = plugin_binary().parent().unwrap().to_owned();
        process.env("CNI_PATH", std::env::join_paths(std::iter::once(own).chain(debian_plugins().ok())).unwrap());
        process.env("NETCONFPATH", self.world.dir().join("net.d"));
        let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
        program::output_of(process.env("CAP_ARGS", ports.to_string()))
    }
}

fn tool() -> Option<PathBuf> {
    let named = std::env::var_os("NETPATH_CNITOOL").map(PathBuf::from);
    let program = named.or_else(|| cni_runtime::tool("cnitool/cnitool"));
    if program.is_none() {
        eprintln!("skipped: there is no cnitool here: run `cargo xtask setup`, or set NETPATH_CNITOOL");
    }
    program
}

fn talk(world: &World, inside: &Namespace) {
    let listener = inside.listen(80);
    let mut client = world.client.connect(at(HOST, 8080));
    converse(&mut client, &mut accept(&listener).0);
}
