//! A container runtime as CNI plugins see one: it runs the plugins of a list on the host of a world, one after the other,
//! and remembers what they answered (CNI SPEC 1.1.0, sections 2 and 3).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use serde_json::{Value, json};

use crate::{Namespace, World, program};

/// What one plugin answered: its result, or its error.
pub type Answer = Result<Value, Value>;

/// Runs the plugins of one list.
pub struct Runtime<'a> {
    world: &'a World,
    /// The conflist.
    pub list: Value,
    /// Directories of plugins.
    path: Vec<PathBuf>,
    results: RefCell<BTreeMap<(String, String), Value>>,
}

/// What a runtime says about one attachment.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub id: String,
    pub netns: Option<PathBuf>,
    pub ifname: String,
    pub args: String,
    /// Capability arguments.
    pub capabilities: Value,
}

impl Attachment {
    /// `eth0` of the container called `id`, whose namespace is at `netns`.
    pub fn new(id: &str, netns: &Path) -> Self {
        let (netns, ifname) = (Some(netns.to_owned()), "eth0".to_owned());
        Self { id: id.to_owned(), netns, ifname, args: String::new(), capabilities: json!({}) }
    }

    /// The same on another interface.
    pub fn at(&self, ifname: &str) -> Self {
        Self { ifname: ifname.to_owned(), ..self.clone() }
    }

    /// The same with host ports that lead to container ports, of TCP.
    pub fn publishing(&self, ports: &[(u16, u16)]) -> Self {
        let mapping =
            |(host, container): &(u16, u16)| json!({"hostPort": host, "containerPort": container, "protocol": "tcp"});
        let mappings: Vec<Value> = ports.iter().map(mapping).collect();
        Self { capabilities: json!({ "portMappings": mappings }), ..self.clone() }
    }

    /// The same after its namespace has gone.
    pub fn without_netns(&self) -> Self {
        Self { netns: None, ..self.clone() }
    }
}

impl<'a> Runtime<'a> {
    /// A list called `name` of `plugins`, in `version` of the specification. Netpath's know the world's agent.
    pub fn new(world: &'a World, version: &str, name: &str, plugins: Vec<Value>) -> Self {
        let mut plugins = plugins;
        for plugin in plugins.iter_mut().filter(|plugin| plugin["type"] == "netpath-cni") {
            plugin["socket"] = json!(world.instance().socket);
        }
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        let own = plugin_binary().parent().expect("a directory").to_owned();
        let path = std::iter::once(own).chain(debian_plugins().ok()).collect();
        Self { world, list, path, results: RefCell::default() }
    }

    /// A list of netpath's plugin alone, which takes port mappings.
    pub fn of_netpath(world: &'a World, version: &str, name: &str, more: Value) -> Self {
        let mut plugin =
            json!({"type": "netpath-cni", "capabilities": {"portMappings": true, "ips": true, "mac": true}});
        plugin.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        Self::new(world, version, name, vec![plugin])
    }

    /// ADD; the last plugin's result, or the first error. A list that fails is not deleted: that is another call.
    pub fn add(&self, attachment: &Attachment) -> Answer {
        let mut result = None;
        for index in 0..self.plugins().len() {
            result = Some(self.call("ADD", index, Some(attachment), result)?);
        }
        let result = result.expect("a list has plugins");
        self.results.borrow_mut().insert(key(attachment), result.clone());
        Ok(result)
    }

    pub fn check(&self, attachment: &Attachment) -> Answer {
        let before = self.results.borrow().get(&key(attachment)).cloned();
        (0..self.plugins().len())
            .try_fold(Value::Null, |_, index| self.call("CHECK", index, Some(attachment), before.clone()))
    }

    /// DEL, the last plugin first. What ADD answered stays known.
    pub fn del(&self, attachment: &Attachment) -> Answer {
        let before = self.results.borrow().get(&key(attachment)).cloned();
        let mut backwards = (0..self.plugins().len()).rev();
        backwards.try_fold(Value::Null, |_, index| self.call("DEL", index, Some(attachment), before.clone()))
    }

    /// `command` of the first plugin for all of them at once.
    pub fn call_all(&self, command: &str, attachments: &[Attachment]) -> Vec<Answer> {
        let started = attachments.iter().map(|attachment| {
            let mut process = self.process(command, &self.program(0), Some(attachment));
            let config = self.config(0, Some(attachment), None);
            self.world.host.within(|| start(&mut process, config.to_string().as_bytes()))
        });
        started.collect::<Vec<_>>().into_iter().map(wait).collect()
    }

    pub fn status(&self) -> Answer {
        (0..self.plugins().len()).try_fold(Value::Null, |_, index| self.call("STATUS", index, None, None))
    }

    /// GC of the first plugin, with the attachments that are still valid.
    pub fn gc(&self, valid: &[&Attachment]) -> Answer {
        let valid: Vec<Value> = valid.iter().map(|one| json!({"containerID": one.id, "ifname": one.ifname})).collect();
        let mut config = self.config(0, None, None);
        config["cni.dev/valid-attachments"] = json!(valid);
        self.run("GC", &self.program(0), &config, None)
    }

    /// Forgets what ADD answered, as a runtime does that has lost its cache.
    pub fn forget(&self) {
        self.results.borrow_mut().clear();
    }

    /// The result of one plugin.
    pub fn call(&self, command: &str, index: usize, attachment: Option<&Attachment>, before: Option<Value>) -> Answer {
        self.run(command, &self.program(index), &self.config(index, attachment, before), attachment)
    }

    /// The command of netpath's plugin as a runtime starts it on the host, without variables.
    pub fn bare_command(world: &World) -> Command {
        let mut command = world.host.command(plugin_binary());
        command.env_clear();
        command
    }

    fn plugins(&self) -> &[Value] {
        self.list["plugins"].as_array().expect("a list of plugins")
    }

    fn program(&self, index: usize) -> PathBuf {
        let name = self.plugins()[index]["type"].as_str().expect("a type");
        let found = self.path.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        found.unwrap_or_else(|| panic!("no plugin {name} in {:?}", self.path))
    }

    /// The configuration of one plugin, as section 3 derives it.
    fn config(&self, index: usize, attachment: Option<&Attachment>, before: Option<Value>) -> Value {
        let mut config = self.plugins()[index].clone();
        let capabilities = config["capabilities"].take();
        let fields = config.as_object_mut().expect("an object");
        fields.remove("capabilities");
        fields.insert("cniVersion".to_owned(), self.list["cniVersion"].clone());
        fields.insert("name".to_owned(), self.list["name"].clone());
        fields.extend(before.map(|before| ("prevResult".to_owned(), before)));
        if let Some(said) = attachment.and_then(|attachment| attachment.capabilities.as_object()) {
            let wanted = said.iter().filter(|(key, _)| capabilities[*key] == true);
            let runtime: serde_json::Map<_, _> = wanted.map(|(key, value)| (key.clone(), value.clone())).collect();
            fields.insert("runtimeConfig".to_owned(), runtime.into());
        }
        config
    }

    fn run(&self, command: &str, plugin: &Path, config: &Value, attachment: Option<&Attachment>) -> Answer {
        let mut process = self.process(command, plugin, attachment);
        self.world.host.within(|| answer(&mut process, config.to_string().as_bytes()))
    }

    fn process(&self, command: &str, plugin: &Path, attachment: Option<&Attachment>) -> Command {
        let path = std::env::join_paths(&self.path).expect("paths without colons");
        let mut process = Command::new(plugin);
        process.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        process.env("CNI_COMMAND", command).env("CNI_PATH", path);
        if let Some(attachment) = attachment {
            process.env("CNI_CONTAINERID", &attachment.id).env("CNI_IFNAME", &attachment.ifname);
            process.env("CNI_ARGS", &attachment.args);
            process.envs(attachment.netns.iter().map(|netns| ("CNI_NETNS", netns)));
        }
        process
    }
}

/// Runs a plugin with `stdin`: what it printed, as JSON, or `null` for nothing.
pub fn answer(command: &mut Command, stdin: &[u8]) -> Answer {
    wait(start(command, stdin))
}

fn start(command: &mut Command, stdin: &[u8]) -> Child {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("run {command:?}: {e}"));
    // A plugin that does not read says why.
    let _ = child.stdin.take().expect("stdin is piped").write_all(stdin);
    child
}

fn wait(child: Child) -> Answer {
    let output = child.wait_with_output().expect("wait for a plugin");
    let (stdout, stderr) = (program::text(&output.stdout), program::text(&output.stderr));
    let printed = if stdout.trim().is_empty() { Ok(Value::Null) } else { serde_json::from_str(&stdout) };
    let printed = printed.unwrap_or_else(|e| panic!("a plugin printed what is no JSON: {e}: {stdout} {stderr}"));
    if output.status.success() { Ok(printed) } else { Err(printed) }
}

/// Netpath's plugin, beside the `netpath` binary.
pub fn plugin_binary() -> PathBuf {
    let path = program::netpath_binary().with_file_name("netpath-cni");
    assert!(path.is_file(), "no {}: run `cargo build -p netpath-cni`", path.display());
    path
}

/// The directory of Debian's plugins: `NETPATH_CNI_PLUGINS`, else where `cargo xtask setup` puts them, `tools/cni` in
/// cargo's target folder.
///
/// # Errors
/// What to do where there are none.
pub fn debian_plugins() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("NETPATH_CNI_PLUGINS") {
        return Ok(path.into());
    }
    let found = tool("cni/host-local").and_then(|path| path.parent().map(Path::to_owned));
    found.ok_or_else(|| "there are no CNI plugins here: run `cargo xtask setup`, or set NETPATH_CNI_PLUGINS".to_owned())
}

/// A file that `cargo xtask setup` has put into `tools` in cargo's target folder.
pub fn tool(name: &str) -> Option<PathBuf> {
    let this = std::env::current_exe().expect("the path of this program");
    this.ancestors().skip(1).take(4).map(|dir| dir.join("tools").join(name)).find(|path| path.exists())
}

/// A namespace, and `eth0` in it as the runtime speaks of it.
pub fn pod(world: &World, name: &str) -> (Rc<Namespace>, Attachment) {
    let inside = world.namespace(name);
    let attachment = Attachment::new(name, inside.path());
    (inside, attachment)
}

fn key(attachment: &Attachment) -> (String, String) {
    (attachment.id.clone(), attachment.ifname.clone())
}
