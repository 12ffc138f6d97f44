//! A world for one test: a client, a host, containers, and the data plane on the host.
//!
//! ```text
//!   client                    host                            containers
//!   eth0 198.18.0.2, .3 ----- up0 198.18.0.1   bridge ------- eth0 172.17.0.2, .3, ...
//!   stranger                                   br-NAME ------ eth0 or eth1 172.18.0.2, ...
//!   eth0 198.18.1.2 --------- up1 198.18.1.1
//! ```
//!
//! The wires have IPv6 too, 2001:db8:0:WIRE::NUMBER; the networks have it, fd00:NUMBER::/64, when asked. The second wire
//! is there when asked.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::rc::Rc;

use serde_json::Value;

use crate::agent::{Agent, Instance};
use crate::docker::Docker;
use crate::network::{DEFAULT, Network, NetworkOptions};
use crate::plane::{Options, Plane};
use crate::watcher::Watcher;
use crate::{Family, Namespace, cleanup, netfilter, program};

/// The host's address on the wire to the client.
pub const HOST: IpAddr = Family::V4.host();
/// The client's address.
pub const CLIENT: IpAddr = Family::V4.client();
/// Another address of the client, for a second destination.
pub const SECOND_CLIENT: IpAddr = Family::V4.second_client();
/// The bridge's address, on both planes.
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));

/// Namespaces, a wire and a data plane. Dropping it checks what every test promises and removes everything.
pub struct World {
    name: String,
    pub plane: Plane,
    pub host: Namespace,
    pub client: Namespace,
    /// At the end of the second wire.
    stranger: Option<Namespace>,
    docker: Option<Docker>,
    networks: RefCell<Vec<Network>>,
    instance: Option<Instance>,
    options: Options,
    agent: RefCell<Option<Agent>>,
    namespaces: RefCell<Vec<Rc<Namespace>>>,
    programs: RefCell<Vec<Child>>,
    leaks: RefCell<Vec<Watcher>>,
    /// Somebody else on the host has rules, and so connections are tracked.
    netfilter_works: Cell<bool>,
}

/// A container: a namespace that is connected to the bridge.
#[derive(Clone, Debug)]
pub struct Container {
    pub name: String,
    /// Of IPv4, where its network has it.
    pub address: IpAddr,
    pub address6: Option<IpAddr>,
    pub inside: Rc<Namespace>,
}

/// What a container is made with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// None for the network that is there from the start.
    pub network: Option<&'a str>,
    /// As `-p` takes them.
    pub publish: &'a [&'a str],
    /// PORT/PROTO that links open.
    pub expose: &'a [&'a str],
    /// Containers to link to.
    pub links: &'a [&'a str],
}

impl Container {
    /// Its address of `family`.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.address,
            Family::V6 => self.address6.unwrap_or_else(|| panic!("`{}` has no IPv6 address", self.name)),
        }
    }
}

impl World {
    /// A world with default options.
    pub fn new(plane: Plane) -> Self {
        Self::with(plane, Options::default())
    }

    pub fn with(plane: Plane, options: Options) -> Self {
        let name = cleanup::new_world();
        let (host, client) = (Namespace::new(&format!("{name}-host")), Namespace::new(&format!("{name}-client")));
        lay_wire(&host, &client, 0);
        client.ip(&format!("addr add {SECOND_CLIENT}/24 dev eth0"));
        // Deprecated, so that it is no source unless asked for: of IPv4 the first address is.
        client.ip(&format!("addr add {}/64 dev eth0 nodad preferred_lft 0", Family::V6.second_client()));
        let stranger = options.second_wire.then(|| Namespace::new(&format!("{name}-stranger")));
        stranger.iter().for_each(|stranger| lay_wire(&host, stranger, 1));
        let instance = plane.is_netpath().then(|| {
            let mut instance = Instance::new(&cleanup::directory(&name), &cleanup::pin_directory(&name));
            instance.cgroups = options.cgroups;
            instance
        });
        let docker = match plane {
            Plane::Iptables { proxy } => Some(Docker::start(&host, proxy, options.backend)),
            Plane::Netpath { .. } => None,
        };
        let world = Self {
            name,
            plane,
            host,
            client,
            stranger,
            docker,
            networks: RefCell::default(),
            instance,
            options,
            agent: RefCell::new(None),
            namespaces: RefCell::default(),
            programs: RefCell::default(),
            leaks: RefCell::default(),
            netfilter_works: Cell::new(false),
        };
        let first = NetworkOptions { icc: world.options.icc, ipv6: world.options.ipv6, ..NetworkOptions::default() };
        world.note_network(DEFAULT, first);
        match &world.docker {
            Some(docker) => docker.create(&world.host, &world.network(DEFAULT)),
            None => world.start_agent(),
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

    /// The machine at the end of the second wire.
    pub fn stranger(&self) -> &Namespace {
        self.stranger.as_ref().expect("a world with a second wire")
    }

    /// Makes a network.
    pub fn create_network(&self, name: &str, options: NetworkOptions) -> Network {
        let network = self.note_network(name, options);
        match &self.docker {
            Some(docker) => docker.create(&self.host, &network),
            None => {
                let args = network.create_args();
                let args = ["network", "create"].into_iter().chain(args.iter().map(String::as_str));
                self.netpath_ok(&args.collect::<Vec<_>>());
            }
        }
        network
    }

    /// The network called `name`.
    pub fn network(&self, name: &str) -> Network {
        let networks = self.networks.borrow();
        networks.iter().find(|network| network.name == name).expect("a network of that name").clone()
    }

    /// The address of the bridge that is there from the start.
    pub fn gateway(&self, family: Family) -> IpAddr {
        self.network(DEFAULT).gateway(family)
    }

    /// A container that publishes `specs`, on the network that is there from the start.
    pub fn container(&self, name: &str, specs: &[&str]) -> Container {
        self.container_with(name, Request { publish: specs, ..Request::default() })
    }

    /// A container that publishes `specs`, on `network`.
    pub fn container_on(&self, network: &str, name: &str, specs: &[&str]) -> Container {
        self.container_with(name, Request { network: Some(network), publish: specs, ..Request::default() })
    }

    /// A container as wanted.
    pub fn container_with(&self, name: &str, request: Request) -> Container {
        let inside = self.namespace(name);
        let network = request.network.unwrap_or(DEFAULT);
        match &self.docker {
            Some(docker) => {
                docker.connect(&self.host, network, name, &inside, 0);
                docker.publish(&self.host, name, request.publish);
                docker.expose(name, request.expose);
                request.links.iter().for_each(|child| docker.link(&self.host, name, child));
            }
            None => self.attach(name, &inside, request),
        }
        self.connected(network, name, inside)
    }

    /// Connects `container` to one more network, and returns it as that network sees it.
    pub fn connect(&self, network: &str, container: &Container) -> Container {
        match &self.docker {
            Some(docker) => docker.connect(&self.host, network, &container.name, &container.inside, 1),
            None => _ = self.netpath_ok(&["network", "connect", network, &container.name]),
        }
        self.connected(network, &container.name, Rc::clone(&container.inside))
    }

    /// Takes `container` off `network`.
    pub fn disconnect(&self, network: &str, container: &Container) {
        match &self.docker {
            Some(docker) => docker.disconnect(&self.host, network, &container.name, &container.inside),
            None => _ = self.netpath_ok(&["network", "disconnect", network, &container.name]),
        }
    }

    /// Publishes one more port of `container`.
    pub fn publish(&self, container: &Container, spec: &str) {
        self.publish_all(container, &[spec]);
    }

    /// Publishes more ports of `container`, in one go.
    pub fn publish_all(&self, container: &Container, specs: &[&str]) {
        match &self.docker {
            Some(docker) => docker.publish(&self.host, &container.name, specs),
            None => _ = self.netpath_ok(&[&["publish", &container.name], specs].concat()),
        }
    }

    /// Takes back what [`World::publish`] did with `spec`, `HOST_PORT:PORT[/PROTO]`.
    pub fn unpublish(&self, container: &Container, spec: &str) {
        match &self.docker {
            Some(docker) => docker.unpublish(&self.host, &container.name, spec),
            None => {
                let (ports, proto) = spec.split_once('/').unwrap_or((spec, "tcp"));
                let host_port = ports.split(':').next().unwrap_or_default();
                self.netpath_ok(&["unpublish", &container.name, &format!("{host_port}/{proto}")]);
            }
        }
    }

    /// Runs a command in a container of its own through the built-in runner; netpath only.
    pub fn run(&self, name: &str, specs: &[&str], command: &[String]) -> Container {
        let options: Vec<&str> = specs.iter().flat_map(|spec| ["-p", spec]).collect();
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let container = self.start(name, &options, &command);
        let inside = Rc::new(self.inside(&container));
        Container { name: name.to_owned(), address: address_of(&container), address6: None, inside }
    }

    /// `netpath run -d` with any options; gives the container as `ps` lists it.
    pub fn start(&self, name: &str, options: &[&str], command: &[&str]) -> Value {
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(options);
        args.push("--");
        args.extend(command);
        self.netpath_ok(&args);
        let container = self.endpoint(name).unwrap_or_else(|| panic!("`ps` does not list `{name}`"));
        cleanup::remember_process(&self.name, pid_of(&container));
        container
    }

    /// The namespace of a container that [`World::start`] has started.
    pub fn inside(&self, container: &Value) -> Namespace {
        Namespace::of_process(pid_of(container))
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
        if self.options.ipv6 {
            let subnet = self.network(DEFAULT).subnet(Family::V6);
            options.extend(["--ipv6".to_owned(), "--fixed-cidr-v6".to_owned(), subnet]);
        }
        let dir = self.dir().display().to_string();
        options.extend(self.options.agent.iter().chain(more).map(|option| option.replace("{dir}", &dir)));
        *self.agent.borrow_mut() = Some(self.instance().start(&self.host, &options));
    }

    /// The next agent finds no file system of cgroups.
    pub fn hide_cgroups(&mut self) {
        self.instance.as_mut().expect("a world with netpath").cgroups = false;
    }

    /// The next agent may have `count` files open, and may not change that.
    pub fn limit_files(&mut self, count: u32) {
        self.instance.as_mut().expect("a world with netpath").files = Some(count);
    }

    /// The process id of the running agent.
    pub fn agent_pid(&self) -> u32 {
        self.agent.borrow().as_ref().expect("a running agent").pid()
    }

    /// Takes the agent away with SIGKILL.
    pub fn kill_agent(&self) {
        self.take_agent().kill();
    }

    /// The running agent, to be stopped by the caller.
    pub fn take_agent(&self) -> Agent {
        self.agent.borrow_mut().take().expect("a running agent")
    }

    /// Takes back the promise that netfilter does nothing: the test has somebody on the host who makes it work.
    pub fn lets_netfilter_work(&self) {
        self.netfilter_works.set(true);
    }

    /// What must hold whatever a test does; netpath only, since Docker's rules do let packets escape that conntrack
    /// calls invalid.
    pub fn broken_promises(&self) -> Vec<String> {
        if !self.plane.is_netpath() {
            return Vec::new();
        }
        let leaks: Vec<_> = self.leaks.borrow_mut().iter_mut().flat_map(Watcher::take).collect();
        let mut broken: Vec<String> = leaks.iter().map(|caught| format!("left the host: {caught}")).collect();
        if !self.netfilter_works.get() {
            broken.extend(netfilter::traces(&self.host));
        }
        broken
    }

    fn attach(&self, name: &str, inside: &Namespace, request: Request) {
        let path = path_text(inside.path());
        let mut args = vec!["attach", name, "--netns", &path];
        args.extend(request.network.iter().flat_map(|network| ["--net", *network]));
        args.extend(request.publish.iter().flat_map(|spec| ["-p", *spec]));
        args.extend(request.expose.iter().flat_map(|port| ["--expose", *port]));
        args.extend(request.links.iter().flat_map(|link| ["--link", *link]));
        self.netpath_ok(&args);
    }

    /// The container as `network` sees it: with the addresses that it has inside.
    fn connected(&self, network: &str, name: &str, inside: Rc<Namespace>) -> Container {
        let network = self.network(network);
        let addresses = inside.addresses();
        let of = |family: Family| {
            let gateway = network.gateway(family);
            let here = addresses.iter().find(|a| same_network(**a, gateway, network.prefix_len(family)));
            // The test may have given the agent a subnet or a bridge of its own.
            here.or(addresses.iter().find(|a| network.name == DEFAULT && Family::of(**a) == family)).copied()
        };
        let address6 = of(Family::V6);
        let address = of(Family::V4).or(address6);
        let address = address.unwrap_or_else(|| panic!("`{name}` has {addresses:?}, none of `{}`", network.name));
        Container { name: name.to_owned(), address, address6, inside }
    }

    /// Gives the network its addresses, and watches that none of them gets out.
    fn note_network(&self, name: &str, options: NetworkOptions) -> Network {
        let network = Network::new(name, options, self.networks.borrow().len());
        let watched = |family: &&Family| self.options.watch && network.hides_containers(**family);
        let hidden = network.options.families().iter().filter(watched);
        for family in hidden {
            let (prefix, length) = (network.address(*family, 0), network.prefix_len(*family));
            let outside = std::iter::once(&self.client).chain(&self.stranger);
            let watchers = outside.map(|namespace| Watcher::new(namespace, prefix, u32::from(length)));
            self.leaks.borrow_mut().extend(watchers);
        }
        self.networks.borrow_mut().push(network.clone());
        network
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

/// Wire number `number` from `host` to the `eth0` of `outside`.
pub(crate) fn lay_wire(host: &Namespace, outside: &Namespace, number: u8) {
    let ends = (path_text(host.path()), path_text(outside.path()));
    let up = format!("up{number}");
    program::ip(["link", "add", &up, "netns", &ends.0, "type", "veth", "peer", "name", "eth0", "netns", &ends.1]);
    for (namespace, ifname, end) in [(host, up.as_str(), 1), (outside, "eth0", 2)] {
        namespace.set_sysctl(&format!("net/ipv6/conf/{ifname}/accept_dad"), "0");
        for family in Family::BOTH {
            let (address, length) = (family.wire(number, end), family.wire_prefix());
            namespace.ip(&format!("addr add {address}/{length} dev {ifname}{}", family.pick("", " nodad")));
        }
        namespace.ip(&format!("link set {ifname} up"));
    }
}

fn same_network(one: IpAddr, other: IpAddr, prefix_len: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => u128::from(address),
    };
    one.is_ipv4() == other.is_ipv4() && (bits(one) ^ bits(other)) >> (128 - prefix_len) == 0
}

fn pid_of(container: &Value) -> u32 {
    container["netns"]["pid"].as_u64().unwrap_or_else(|| panic!("a container has a process: {container}")) as u32
}

fn address_of(endpoint: &Value) -> IpAddr {
    let address = endpoint["address"].as_str().and_then(|text| text.parse().ok());
    address.unwrap_or_else(|| panic!("an endpoint has an address: {endpoint}"))
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
