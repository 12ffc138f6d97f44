//! What stands between a host's Docker and netpath. Changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bollard::Docker;
use bollard::models::{LocalNodeState, SystemInfo};
use bollard::query_parameters::{InspectContainerOptions, ListNetworksOptions};
use serde::{Deserialize, Serialize};

use super::PREFIX;
use super::daemon::{Config, Daemon, Source};
use super::engine;
use super::own_rules;
use super::removal::Removals;
pub use super::rules::Found;
use super::rules::Known;
use super::said::Said;
use super::translate::{self, Wanted};
use crate::binding::{PortBinding, host_name, span};

/// The Engine knows `ip6tables` since 20.10; another one would not start with it.
const IP6TABLES_API: (usize, usize) = (1, 41);
/// Since 27 it is on unless told otherwise.
const IP6TABLES_BY_DEFAULT_API: (usize, usize) = (1, 46);

/// What there is, and what there is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub engine: Engine,
    pub settings: Vec<Setting>,
    /// Rules that Docker has written, and those of the owner's that lose their effect on what netpath forwards.
    pub rules: Vec<Found>,
    pub ports: Vec<Port>,
    /// Networks and containers that netpath leaves to Docker, by name, and why.
    pub left_alone: BTreeMap<String, String>,
    /// What has to be done first, by hand.
    pub obstacles: Vec<String>,
    pub steps: Vec<Step>,
}

/// A Docker Engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    pub socket: PathBuf,
    pub version: String,
    pub api: String,
    pub pid: u32,
    /// The systemd service that it is.
    pub unit: Option<String>,
    pub config: PathBuf,
    /// Containers go on while dockerd is restarted.
    pub live_restore: bool,
    /// Running containers.
    pub running: usize,
}

/// A switch of dockerd's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    pub now: bool,
    pub wanted: bool,
    /// Who says what it is now: `default`, `file` or `command line`.
    pub set_by: String,
}

/// A published port, or a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub container: String,
    /// `0.0.0.0:8080`
    pub host: String,
    /// `80/tcp`
    pub leads_to: String,
    pub open_to: String,
}

/// What there is to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Let containers go on while dockerd is away.
    KeepRunning,
    Configure,
    Restart,
    RemoveRules,
}

/// Everything that the plan is made of, and what carries it out.
pub(super) struct Ground {
    pub(super) plan: Plan,
    pub(super) daemon: Daemon,
    pub(super) config: Config,
    pub(super) removal: Removals,
    pub(super) wanted: Wanted,
    /// dockerd itself forwards and translates.
    pub(super) is_dockerd_at_work: bool,
}

impl Plan {
    /// Looks at the Engine behind `socket` and at the host. `config` is its configuration file, if it is not the one that
    /// dockerd says.
    ///
    /// # Errors
    /// If the Engine does not answer, its process is not found, or its configuration cannot be read.
    pub async fn read(socket: &Path, config: Option<&Path>) -> Result<Self> {
        Ok(Ground::read(socket, config).await?.plan)
    }
}

impl Ground {
    /// # Errors
    /// As in [`Plan::read`].
    pub(super) async fn read(socket: &Path, config: Option<&Path>) -> Result<Self> {
        let docker = engine::connect(socket).await?;
        let daemon = Daemon::behind(socket)?;
        let config = Config::read(&config.map_or_else(|| daemon.config_path(), Path::to_owned))?;
        let info = docker.info().await.context("ask Docker Engine about itself")?;
        let version = docker.version().await.context("ask Docker Engine for its version")?;
        let said = read(&docker).await?;
        let wanted = translate::wanted(&said, true);
        let (removal, rules) = look_at_rules(&said)?;
        let engine = Engine {
            socket: socket.to_owned(),
            version: version.version.unwrap_or_default(),
            api: version.api_version.unwrap_or_default(),
            pid: daemon.pid,
            unit: daemon.unit.clone(),
            config: config.path().to_owned(),
            live_restore: info.live_restore_enabled == Some(true),
            running: said.summaries.iter().filter(|summary| summary.is_running).count(),
        };
        let settings = settings(&engine, &daemon, &config);
        let is_told = settings.iter().all(|setting| setting.now == setting.wanted);
        let is_dockerd_at_work = !is_told || !daemon.has_read(&config) || own_rules::is_proxied(&said.networks);
        let plan = Plan {
            left_alone: left_alone(&docker, &wanted).await?,
            obstacles: obstacles(&settings, &daemon, &config, &info, &wanted),
            steps: steps(&engine, is_dockerd_at_work, &settings, !removal.is_empty()),
            ports: wanted.containers.iter().flat_map(|c| c.ports.iter().map(|port| show(&c.name, port))).collect(),
            engine,
            settings,
            rules,
        };
        Ok(Self { plan, daemon, config, removal, wanted, is_dockerd_at_work })
    }
}

async fn read(docker: &Docker) -> Result<Said> {
    let (networks, summaries) = engine::list(docker).await?;
    let mut said = Said { networks, summaries, ..Said::default() };
    for id in said.summaries.iter().map(|summary| summary.id.clone()).collect::<Vec<_>>() {
        // One that has gone meanwhile says nothing.
        if let Ok(details) = docker.inspect_container(&id, None::<InspectContainerOptions>).await {
            said.details.insert(id, details.into());
        }
    }
    Ok(said)
}

fn look_at_rules(said: &Said) -> Result<(Removals, Vec<Found>)> {
    let known = |network| {
        let configs = network_configs(network).filter_map(|subnet| subnet.parse().ok());
        Known { bridge: translate::bridge(network), subnets: configs.collect() }
    };
    let known: Vec<Known> = said.networks.iter().map(known).collect();
    Removals::read(&known)
}

fn network_configs(network: &bollard::models::Network) -> impl Iterator<Item = &str> {
    let configs = network.ipam.iter().filter_map(|ipam| ipam.config.as_ref()).flatten();
    configs.filter_map(|config| config.subnet.as_deref())
}

fn settings(engine: &Engine, daemon: &Daemon, config: &Config) -> Vec<Setting> {
    let api = engine::api_numbers(&engine.api).unwrap_or_default();
    let mut names = vec![("iptables", true), ("userland-proxy", true)];
    if api >= IP6TABLES_API {
        names.insert(1, ("ip6tables", api >= IP6TABLES_BY_DEFAULT_API));
    }
    let setting = |(name, default): (&str, bool)| {
        let (now, source) = daemon.setting(config, name, default);
        Setting { name: name.to_owned(), now, wanted: false, set_by: source.shown().to_owned() }
    };
    names.into_iter().map(setting).collect()
}

impl Source {
    fn shown(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Flag => "command line",
        }
    }
}

/// What netpath leaves to Docker: networks without a bridge, and what cannot be served.
async fn left_alone(docker: &Docker, wanted: &Wanted) -> Result<BTreeMap<String, String>> {
    let listed = docker.list_networks(None::<ListNetworksOptions>).await.context("list Docker's networks")?;
    let others = listed.iter().filter(|network| !translate::is_bridge(network));
    let others = others.filter(|network| !matches!(network.driver.as_deref(), Some("host" | "null")));
    let name = |name: &Option<String>| format!("{PREFIX}{}", name.as_deref().unwrap_or_default());
    let why = |driver: &Option<String>| format!("its driver is {}", driver.as_deref().unwrap_or("unknown"));
    let mut left: BTreeMap<String, String> = others.map(|n| (name(&n.name), why(&n.driver))).collect();
    left.extend(wanted.faults.clone());
    Ok(left)
}

fn obstacles(
    settings: &[Setting],
    daemon: &Daemon,
    config: &Config,
    info: &SystemInfo,
    wanted: &Wanted,
) -> Vec<String> {
    let mut obstacles = Vec::new();
    for setting in settings.iter().filter(|setting| setting.now != setting.wanted) {
        if daemon.setting(config, &setting.name, true).1 == Source::Flag {
            obstacles.push(format!(
                "dockerd's command line has --{}: remove it there, the file cannot say otherwise",
                setting.name
            ));
        }
    }
    if info.swarm.as_ref().and_then(|swarm| swarm.local_node_state) == Some(LocalNodeState::ACTIVE) {
        obstacles.push(
            "the Engine is in a swarm, whose services need Docker's rules: leave it, or stay with Docker".to_owned(),
        );
    }
    for (name, why) in &wanted.faults {
        obstacles.push(format!("`{name}` would be without its network: {why}"));
    }
    obstacles
}

fn steps(engine: &Engine, needs_restart: bool, settings: &[Setting], has_rules: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if needs_restart {
        if !engine.live_restore && engine.running > 0 {
            steps.push(Step::KeepRunning);
        }
        if settings.iter().any(|setting| setting.now != setting.wanted) {
            steps.push(Step::Configure);
        }
        steps.push(Step::Restart);
    }
    if has_rules {
        steps.push(Step::RemoveRules);
    }
    steps
}

fn show(container: &str, port: &PortBinding) -> Port {
    let sources: Vec<String> = port.from.iter().map(ToString::to_string).collect();
    Port {
        container: container.to_owned(),
        host: match port.is_direct() {
            true => "its own address".to_owned(),
            false => host_name(port.host_addr, &port.host_ports()),
        },
        leads_to: format!("{}/{}", span(&port.container_ports()), port.proto),
        open_to: match port.host_addr {
            _ if !sources.is_empty() => sources.join(", "),
            addr if addr.is_loopback() => "this host".to_owned(),
            addr if addr.is_unspecified() => "everybody".to_owned(),
            addr => format!("everybody who reaches {addr}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_done() {
        let engine = |live_restore, running| Engine {
            socket: PathBuf::new(),
            version: String::new(),
            api: String::new(),
            pid: 1,
            unit: None,
            config: PathBuf::new(),
            live_restore,
            running,
        };
        let setting = |now| [Setting { name: "iptables".to_owned(), now, wanted: false, set_by: "default".to_owned() }];
        let (all, done) = (setting(true), setting(false));
        assert_eq!(
            steps(&engine(false, 1), true, &all, true),
            [Step::KeepRunning, Step::Configure, Step::Restart, Step::RemoveRules]
        );
        assert_eq!(steps(&engine(true, 1), true, &all, false), [Step::Configure, Step::Restart]);
        assert_eq!(steps(&engine(false, 0), true, &done, false), [Step::Restart]);
        assert_eq!(steps(&engine(false, 1), false, &done, true), [Step::RemoveRules]);
        assert_eq!(steps(&engine(false, 1), false, &done, false), []);
    }

    #[test]
    fn a_port_says_who_may_come_in() {
        let port = |addr: &str, from: &[&str]| PortBinding {
            host_addr: addr.parse().unwrap(),
            host_port: 8080,
            container_port: 80,
            count: 2,
            proto: crate::port_spec::Proto::Tcp,
            counter: 0,
            from: from.iter().map(|net| net.parse().unwrap()).collect(),
        };
        let shown = show("web", &port("0.0.0.0", &[]));
        assert_eq!((shown.host.as_str(), shown.leads_to.as_str()), ("0.0.0.0:8080-8081", "80-81/tcp"));
        assert_eq!(shown.open_to, "everybody");
        assert_eq!(show("web", &port("::1", &[])).open_to, "this host");
        assert_eq!(show("web", &port("192.0.2.1", &[])).open_to, "everybody who reaches 192.0.2.1");
        assert_eq!(show("web", &port("0.0.0.0", &["10.0.0.0/8", "192.0.2.0/24"])).open_to, "10.0.0.0/8, 192.0.2.0/24");
    }
}
