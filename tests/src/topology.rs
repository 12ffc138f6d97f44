//! A world for one test: a client, a host, containers, and the data plane on the host.
//!
//! ```text
//!   client                    host                            containers
//!   eth0 198.18.0.2, .3 ----- up0 198.18.0.1   bridge ------- eth0 172.17.0.2, .3, ...
//! ```

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::agent::{Agent, Instance};
use crate::plane::{Options, Plane};
use crate::watcher::Watcher;
use crate::{Family, Namespace, cleanup, iptables, netfilter, program};

/// The host's address on the wire to the client.
pub const HOST: IpAddr = Family::V4.host();
/// The client's address.
pub const CLIENT: IpAddr = Family::V4.client();
/// Another address of the client, for a second destination.
pub const SECOND_CLIENT: IpAddr = Family::V4.second_client();
/// The bridge's address, on both planes.
pub const GATEWAY: IpAddr = IpAddr::V4(iptables::GATEWAY);

/// Namespaces, a wire and a data plane. Dropping it checks what every test promises and removes everything.
pub struct World {
    name: String,
    pub plane: Plane,
    pub host: Namespace,
    pub client: Namespace,
    instance: Option<Instance>,
    options: Options,
    agent: RefCell<Option<Agent>>,
    namespaces: RefCell<Vec<Rc<Namespace>>>,
    programs: RefCell<Vec<Child>>,
    made: Cell<u8>,
    leaks: RefCell<Watcher>,
}

/// A container: a namespace that is connected to the bridge.
#[derive(Clone, Debug)]
pub struct Container {
    pub name: String,
    pub address: IpAddr,
    pub inside: Rc<Namespace>,
}

impl World {
    /// A world with default options.
    pub fn new(plane: Plane) -> Self {
        Self::with(plane, Options::default())
    }

    pub fn with(plane: Plane, options: Options) -> Self {
        static STALE: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        STALE.call_once(cleanup::remove_stale);
        let name = format!("np{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = cleanup::directory(&name);
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
        let (host, client) = (Namespace::new(&format!("{name}-host")), Namespace::new(&format!("{name}-client")));
        lay_wire(&host, &client);
        let leaks = RefCell::new(Watcher::new(&client, GATEWAY, 16));
        let instance = plane.is_netpath().then(|| Instance::new(&dir, &cleanup::pin_directory(&name)));
        let world = Self {
            name,
            plane,
            host,
            client,
            instance,
            options,
            agent: RefCell::new(None),
            namespaces: RefCell::default(),
            programs: RefCell::default(),
            made: Cell::new(0),
            leaks,
        };
        match plane {
            Plane::Iptables => iptables::setup(&world.host, world.options.icc),
            Plane::Netpath { .. } => world.start_agent(),
        }
        world
    }

    /// A directory of this world's own.
    pub fn dir(&self) -> PathBuf {
        cleanup::directory(&self.name)
    }

    /// A namespace that is connected to nothing.
    pub fn namespace(&self, name: &str) -> Rc<Namespace> {
        let namespace = Rc::new(Namespace::new(&format!("{}-{name}", self.name)));
        self.namespaces.borrow_mut().push(Rc::clone(&namespace));
        namespace
    }

    /// A container that publishes `specs`.
    pub fn container(&self, name: &str, specs: &[&str]) -> Container {
        let inside = self.namespace(name);
        let address = match self.plane {
            Plane::Iptables => {
                self.made.set(self.made.get() + 1);
                let address = iptables::connect(&self.host, &inside, self.made.get());
                specs.iter().for_each(|spec| iptables::publish(&self.host, address, spec));
                address
            }
            Plane::Netpath { .. } => self.attach(name, &inside, specs),
        };
        Container { name: name.to_owned(), address, inside }
    }

    /// Publishes one more port of `container`.
    pub fn publish(&self, container: &Container, spec: &str) {
        match self.plane {
            Plane::Iptables => iptables::publish(&self.host, container.address, spec),
            Plane::Netpath { .. } => _ = self.netpath_ok(&["publish", &container.name, spec]),
        }
    }

    /// Takes back what [`World::publish`] did with `spec`, `HOST_PORT:PORT[/PROTO]`.
    pub fn unpublish(&self, container: &Container, spec: &str) {
        match self.plane {
            Plane::Iptables => iptables::unpublish(&self.host, container.address, spec),
            Plane::Netpath { .. } => {
                let (ports, proto) = spec.split_once('/').unwrap_or((spec, "tcp"));
                let host_port = ports.split(':').next().unwrap_or_default();
                self.netpath_ok(&["unpublish", &container.name, &format!("{host_port}/{proto}")]);
            }
        }
    }

    /// Runs a command in a container of its own through the built-in runner; netpath only.
    pub fn run(&self, name: &str, specs: &[&str], command: &[String]) -> Container {
        let mut args = vec!["run", "-d", "--name", name];
        specs.iter().for_each(|spec| args.extend(["-p", spec]));
        args.push("--");
        args.extend(command.iter().map(String::as_str));
        self.netpath_ok(&args);
        let endpoint = self.endpoint(name).unwrap_or_else(|| panic!("`ps` does not list `{name}`"));
        let pid = endpoint["netns"]["pid"].as_u64().expect("a pid") as u32;
        cleanup::remember_process(&self.name, pid);
        Container { name: name.to_owned(), address: address_of(&endpoint), inside: Rc::new(Namespace::of_process(pid)) }
    }

    /// Starts a program, such as [`Namespace::command`] makes, that ends with this world.
    pub fn spawn(&self, command: &mut Command) {
        let child = command.spawn().unwrap_or_else(|e| panic!("run {command:?}: {e}"));
        self.programs.borrow_mut().push(child);
    }

    /// Where the agent keeps its things; netpath only.
    pub fn instance(&self) -> &Instance {
        self.instance.as_ref().expect("a world with netpath")
    }

    /// Runs `netpath ARGS` on the host, whatever comes of it.
    pub fn netpath(&self, args: &[&str]) -> Output {
        self.instance().run(&self.host, args)
    }

    /// Runs `netpath ARGS` on the host and returns what it printed; panics when it fails.
    pub fn netpath_ok(&self, args: &[&str]) -> String {
        program::stdout_of(&mut self.instance().command(&self.host, args.iter().copied()))
    }

    /// What `netpath ARGS --json` prints.
    pub fn json(&self, args: &[&str]) -> Value {
        self.instance().json(&self.host, args)
    }

    /// The endpoint called `name`, as `ps` lists it.
    pub fn endpoint(&self, name: &str) -> Option<Value> {
        self.json(&["ps"]).as_array().expect("a list").iter().find(|endpoint| endpoint["name"] == name).cloned()
    }

    /// Packets dropped so far for `reason`, over all endpoints.
    pub fn drops(&self, reason: &str) -> u64 {
        let stats = self.json(&["stats"]);
        let drops = stats["drops"].as_array().expect("a list of drops");
        drops.iter().filter(|drop| drop["reason"] == reason).map(|drop| drop["packets"].as_u64().unwrap_or(0)).sum()
    }

    /// Starts the agent, also after [`World::kill_agent`].
    pub fn start_agent(&self) {
        self.start_agent_with(&[]);
    }

    /// Starts the agent with the world's options and `more`.
    pub fn start_agent_with(&self, more: &[String]) {
        let Plane::Netpath { shortcuts } = self.plane else { panic!("a world without netpath has no agent") };
        let mut options = vec![format!("--shortcuts={}", if shortcuts { "on" } else { "off" })];
        if !self.options.icc {
            options.push("--icc=false".to_owned());
        }
        options.extend(self.options.agent.iter().chain(more).cloned());
        *self.agent.borrow_mut() = Some(self.instance().start(&self.host, &options));
    }

    /// Takes the agent away with SIGKILL.
    pub fn kill_agent(&self) {
        self.take_agent().kill();
    }

    /// The running agent, to be stopped by the caller.
    pub fn take_agent(&self) -> Agent {
        self.agent.borrow_mut().take().expect("a running agent")
    }

    /// What must hold whatever a test does; netpath only, since Docker's rules do let packets escape that conntrack
    /// calls invalid.
    pub fn broken_promises(&self) -> Vec<String> {
        if !self.plane.is_netpath() {
            return Vec::new();
        }
        let leaks = self.leaks.borrow_mut().take();
        let mut broken: Vec<String> = leaks.iter().map(|caught| format!("left the host: {caught}")).collect();
        broken.extend(netfilter::traces(&self.host));
        broken
    }

    fn attach(&self, name: &str, inside: &Namespace, specs: &[&str]) -> IpAddr {
        let path = path_text(inside.path());
        let mut args = vec!["attach", name, "--netns", &path];
        specs.iter().for_each(|spec| args.extend(["-p", spec]));
        self.netpath_ok(&args);
        address_of(&self.endpoint(name).unwrap_or_else(|| panic!("`ps` does not list `{name}`")))
    }

    fn explain(&self) {
        if let Some(instance) = &self.instance {
            eprintln!("the agent wrote:\n{}", instance.log_text());
            for what in [&["stats", "--json"][..], &["rules"], &["conntrack"]] {
                eprintln!("netpath {}: {}", what.join(" "), program::text(&self.netpath(what).stdout));
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        let broken = if panicking { Vec::new() } else { self.broken_promises() };
        if panicking || !broken.is_empty() {
            self.explain();
        }
        self.agent.borrow_mut().take();
        for program in self.programs.get_mut() {
            let _ = program.kill();
            let _ = program.wait();
        }
        cleanup::remove(&self.name);
        assert!(broken.is_empty(), "promises broken at the end: {broken:#?}");
    }
}

fn lay_wire(host: &Namespace, client: &Namespace) {
    let ends = (path_text(host.path()), path_text(client.path()));
    program::ip(["link", "add", "up0", "netns", &ends.0, "type", "veth", "peer", "name", "eth0", "netns", &ends.1]);
    for (namespace, ifname, address) in [(host, "up0", HOST), (client, "eth0", CLIENT), (client, "eth0", SECOND_CLIENT)]
    {
        namespace.ip(&format!("addr add {address}/24 dev {ifname}"));
        namespace.ip(&format!("link set {ifname} up"));
    }
}

fn address_of(endpoint: &Value) -> IpAddr {
    let address = endpoint["address"].as_str().and_then(|text| text.parse().ok());
    address.unwrap_or_else(|| panic!("an endpoint has an address: {endpoint}"))
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
