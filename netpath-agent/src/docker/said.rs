//! What is kept of what the Engine API says: of each container it says far more.

use std::collections::{BTreeMap, HashMap, HashSet};

use bollard::models::{self, ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, Port};

/// Names of labels that are for netpath begin so.
pub(super) const LABEL: &str = "netpath.";

/// What the Engine API says at one moment.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Each as `GET /networks/ID` has it, but for [`forget_unread`].
    pub networks: Vec<models::Network>,
    pub summaries: Vec<Summary>,
    /// By id. Of a container that is being started none can be had.
    pub details: HashMap<String, Details>,
}

/// Of a container, as `GET /containers/json?all=1` has it.
#[derive(Debug)]
pub(super) struct Summary {
    pub id: String,
    /// The one that no link gave it.
    pub name: Option<String>,
    /// Those that are published, at the host or at its own address.
    pub ports: Vec<Port>,
    /// Those for netpath.
    pub labels: BTreeMap<String, String>,
    pub is_running: bool,
}

/// Of a container, as `GET /containers/ID/json` has it.
#[derive(Debug)]
pub(super) struct Details {
    pub hostname: Option<String>,
    /// `PORT/PROTO`
    pub exposed: Vec<String>,
    /// `/TARGET:/CONTAINER/ALIAS`
    pub links: Vec<String>,
    pub asked_ports: Vec<AskedPort>,
    /// Of its first process.
    pub pid: Option<u32>,
}

/// A port that was asked for when the container was created.
#[derive(Debug)]
pub(super) struct AskedPort {
    /// `PORT/PROTO`
    pub container_port: String,
    pub host_ip: Option<String>,
    /// A number, a range, or nothing.
    pub host_port: Option<String>,
}

/// Forgets what nobody reads of who is in networks: ids of endpoints, and names that a summary has too.
pub(super) fn forget_unread(networks: &mut [models::Network], summaries: &[Summary]) {
    let named: HashSet<&str> = summaries.iter().filter(|said| said.name.is_some()).map(|said| &*said.id).collect();
    for (id, member) in networks.iter_mut().filter_map(|network| network.containers.as_mut()).flatten() {
        member.endpoint_id = None;
        if named.contains(&**id) {
            member.name = None;
        }
    }
}

impl Summary {
    /// `None` of one without an id.
    pub(super) fn of(said: ContainerSummary) -> Option<Self> {
        let names = said.names.unwrap_or_default();
        let own = names.iter().find(|name| name.matches('/').count() == 1);
        let is_published = |port: &Port| {
            port.public_port.is_some_and(|port| port > 0) || port.ip.as_ref().is_some_and(|ip| !ip.is_empty())
        };
        let is_ours = |(key, _): &(String, String)| key.starts_with(LABEL);
        Some(Self {
            id: said.id?,
            name: own.map(|name| name.trim_start_matches('/').to_owned()),
            ports: said.ports.into_iter().flatten().filter(is_published).collect(),
            labels: said.labels.into_iter().flatten().filter(is_ours).collect(),
            is_running: said.state == Some(ContainerSummaryStateEnum::RUNNING),
        })
    }
}

impl From<ContainerInspectResponse> for Details {
    fn from(said: ContainerInspectResponse) -> Self {
        let (config, host) = (said.config.unwrap_or_default(), said.host_config.unwrap_or_default());
        let mut exposed: Vec<String> = config.exposed_ports.into_iter().flatten().map(|(port, _)| port).collect();
        exposed.sort();
        let asked = host.port_bindings.into_iter().flatten().flat_map(|(container_port, bindings)| {
            bindings.into_iter().flatten().map(move |binding| AskedPort {
                container_port: container_port.clone(),
                host_ip: binding.host_ip.filter(|address| !address.is_empty()),
                host_port: binding.host_port,
            })
        });
        let pid = said.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
        Self {
            hostname: config.hostname.filter(|name| !name.is_empty()),
            exposed,
            links: host.links.unwrap_or_default(),
            asked_ports: asked.collect(),
            pid: pid.and_then(|pid| u32::try_from(pid).ok()),
        }
    }
}
