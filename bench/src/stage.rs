//! A contestant on its stage: namespaces of its own with client, host, server and a second container, and the servers
//! that all of them have.
//!
//! Each kind of traffic has a server port of its own: one that was reached by one way before would meet its own TIME_WAIT
//! entries with another timestamp offset, and refuse connections for a second each.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::web::{self, PAGE};
use netpath_tests::{Bare, CLIENT, Container, HOST, Namespace, World, program};

use crate::engine::Engine;
use crate::kind::Kind;
use crate::plain;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(10);

/// What a server does, which is also where: `HOST_PORT` outside, `PORT` in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Web,
    Hairpin,
    Loopback,
    Neighbour,
    Iperf,
    Udp,
}

impl Service {
    pub const ALL: [Self; 6] = [Self::Web, Self::Hairpin, Self::Loopback, Self::Neighbour, Self::Iperf, Self::Udp];

    /// Where the container serves it, and where the host does.
    pub const fn ports(self) -> (u16, u16) {
        match self {
            Self::Web => (80, 2080),
            Self::Hairpin => (81, 2081),
            Self::Loopback => (82, 2082),
            Self::Neighbour => (83, 2083),
            Self::Iperf => (2201, 2201),
            Self::Udp => (2900, 2900),
        }
    }

    /// As `-p` takes it.
    pub fn spec(self) -> String {
        let (port, host_port) = self.ports();
        format!("{host_port}:{port}{}", if self == Self::Udp { "/udp" } else { "" })
    }
}

/// Where the client serves, for traffic that leaves the containers.
pub const OUTSIDE: (IpAddr, u16) = (CLIENT, 7000);

/// The ports that are published beside the services: `EXTRA_PORTS` of them.
pub const FIRST_EXTRA_PORT: u16 = 5000;
pub const EXTRA_PORTS: u16 = 60_000;

/// A contestant, ready to be measured. Dropping it removes it.
pub struct Stage {
    pub kind: Kind,
    ground: Ground,
    /// Where the servers are.
    pub server: Rc<Namespace>,
    /// The address that they have there.
    pub server_addr: IpAddr,
    /// The second container; the server's own namespace where there are no containers.
    pub app: Rc<Namespace>,
}

/// What a stage stands on.
enum Ground {
    World(Box<World>, Container),
    Bare(Bare),
    /// Fields drop in this order.
    Engine {
        engine: Engine,
        bare: Bare,
    },
}

impl Stage {
    /// Builds `kind`; `agent` are more options for netpath's agent.
    pub fn new(kind: Kind, agent: &[String]) -> Self {
        let specs = Service::ALL.map(Service::spec);
        let specs = specs.each_ref().map(String::as_str);
        let stage = match kind.plane(agent) {
            Some((plane, options)) => {
                let world = World::with(plane, options);
                let (web, app) = (world.container("web", &specs), world.container("app", &[]));
                let (server, server_addr, app) = (Rc::clone(&web.inside), web.address, app.inside);
                Self { kind, ground: Ground::World(Box::new(world), web), server, server_addr, app }
            }
            None => {
                let bare = Bare::new();
                let is_engine = matches!(kind, Kind::Docker | Kind::DockerNoProxy);
                let engine = is_engine.then(|| Engine::start(&bare, kind == Kind::Docker));
                let containers = engine.as_ref().map(|engine| engine.run_containers(&specs));
                let containers = containers.unwrap_or_else(|| plain::build(kind, &bare));
                let plain::Containers { server, server_addr, app } = containers;
                let ground = match engine {
                    Some(engine) => Ground::Engine { engine, bare },
                    None => Ground::Bare(bare),
                };
                Self { kind, ground, server, server_addr, app }
            }
        };
        stage.start_servers();
        stage
    }

    pub fn host(&self) -> &Namespace {
        match &self.ground {
            Ground::World(world, _) => &world.host,
            Ground::Bare(bare) | Ground::Engine { bare, .. } => &bare.host,
        }
    }

    pub fn client(&self) -> &Namespace {
        match &self.ground {
            Ground::World(world, _) => &world.client,
            Ground::Bare(bare) | Ground::Engine { bare, .. } => &bare.client,
        }
    }

    /// The world of a contestant that the tests have too.
    pub fn world(&self) -> Option<&World> {
        match &self.ground {
            Ground::World(world, _) => Some(world),
            Ground::Bare(_) | Ground::Engine { .. } => None,
        }
    }

    pub fn dir(&self) -> PathBuf {
        match &self.ground {
            Ground::World(world, _) => world.dir(),
            Ground::Bare(bare) | Ground::Engine { bare, .. } => bare.dir(),
        }
    }

    /// Where the client finds a service.
    pub fn published(&self, service: Service) -> (IpAddr, u16) {
        let (port, host_port) = service.ports();
        if self.kind == Kind::Forward { (self.server_addr, port) } else { (HOST, host_port) }
    }

    /// Where a neighbour of the server finds a service.
    pub fn inside(&self, service: Service) -> (IpAddr, u16) {
        let (port, host_port) = service.ports();
        (self.server_addr, if self.kind == Kind::Host { host_port } else { port })
    }

    /// The host's interface to the server's container; none where there is no container.
    pub fn server_veth(&self) -> Option<u32> {
        if self.kind == Kind::Host {
            return None;
        }
        // `7: eth0@if8: ...`: the number behind the @ is the other end's.
        let shown = self.server.ip("-o link show dev eth0");
        shown.split("@if").nth(1)?.split(':').next()?.parse().ok()
    }

    /// Publishes the ports `from..to` of the extra ones, counted from 0: one by one, or as one range.
    pub fn publish_extra(&self, from: u16, to: u16, as_range: bool) {
        let (first, last) = (FIRST_EXTRA_PORT + from, FIRST_EXTRA_PORT + to - 1);
        match &self.ground {
            Ground::World(world, web) => {
                let specs = extra_specs(first, last, as_range);
                world.publish_all(web, &specs.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Ground::Engine { engine, .. } => engine.publish(&extra_specs(first, last, true)),
            Ground::Bare(bare) => plain::publish_with_nftables(&bare.host, self.server_addr, first, last),
        }
    }

    fn spawn(&self, command: &mut Command) {
        match &self.ground {
            Ground::World(world, _) => world.spawn(command),
            Ground::Bare(bare) | Ground::Engine { bare, .. } => bare.spawn(command),
        }
    }

    fn start_servers(&self) {
        let webs = [Service::Web, Service::Hairpin, Service::Loopback, Service::Neighbour];
        let nginx = web::nginx_at(&self.dir().join("web"), &webs.map(|service| self.inside(service).1));
        self.spawn(self.server.command(&nginx[0]).args(&nginx[1..]));
        let outside = web::nginx(&self.dir().join("outside"), OUTSIDE.1);
        self.spawn(self.client().command(&outside[0]).args(&outside[1..]));
        let port = self.inside(Service::Iperf).1.to_string();
        let mut iperf = self.server.command("iperf3");
        self.spawn(iperf.args(["-s", "-p", &port]).stdout(std::process::Stdio::null()));
        self.wait_for_page(self.client(), self.published(Service::Web));
        self.wait_for_page(&self.app, OUTSIDE);
    }

    /// Waits until `from` gets the page at `address`.
    pub fn wait_for_page(&self, from: &Namespace, address: (IpAddr, u16)) {
        let (start, url) = (Instant::now(), url(address));
        loop {
            match web::fetch(from, &url) {
                Ok(page) if page == PAGE => return,
                Ok(other) => panic!("{}: {url} answers {other:?}", self.kind.name()),
                Err(error) => {
                    assert!(start.elapsed() < START, "{}: no page at {url}: {error}", self.kind.name());
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

pub fn url(address: (IpAddr, u16)) -> String {
    format!("http://{}:{}/", address.0, address.1)
}

/// What `-p` takes for the ports `first..=last`.
pub fn extra_specs(first: u16, last: u16, as_range: bool) -> Vec<String> {
    if as_range {
        return vec![format!("{first}-{last}:{first}-{last}")];
    }
    (first..=last).map(|port| format!("{port}:{port}")).collect()
}

/// Segmentation and merging of an interface, by ethtool's name for them.
pub fn set_feature(namespace: &Namespace, ifname: &str, feature: &str, on: bool) {
    let state = if on { "on" } else { "off" };
    program::stdout_of(namespace.command("ethtool").args(["-K", ifname, feature, state]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_ports_do_not_meet_the_services() {
        let last = FIRST_EXTRA_PORT + (EXTRA_PORTS - 1);
        assert_eq!(last, 64_999);
        for service in Service::ALL {
            let (port, host_port) = service.ports();
            assert!(port < FIRST_EXTRA_PORT && host_port < FIRST_EXTRA_PORT, "{service:?}");
        }
    }

    #[test]
    fn ports_are_published_one_by_one_or_as_a_range() {
        assert_eq!(extra_specs(5000, 5002, false), ["5000:5000", "5001:5001", "5002:5002"]);
        assert_eq!(extra_specs(5000, 5002, true), ["5000-5002:5000-5002"]);
    }
}
