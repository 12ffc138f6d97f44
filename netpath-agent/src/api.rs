//! The HTTP + JSON API on the agent's Unix socket, version 1. Shared by server and client.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/version` | - | [`Version`] |
//! | `GET /v1/network` | - | [`Network`] |
//! | `PATCH /v1/network` | [`NetworkPatch`] | [`Network`] |
//! | `GET /v1/endpoints` | - | `[`[`Endpoint`]`]` |
//! | `POST /v1/endpoints` | [`Attach`] | [`Endpoint`] |
//! | `GET /v1/endpoints/NAME` | - | [`Endpoint`] |
//! | `DELETE /v1/endpoints/NAME` | - | [`Endpoint`] as it was |
//! | `POST /v1/endpoints/NAME/ports` | [`Ports`] | [`Endpoint`] |
//! | `DELETE /v1/endpoints/NAME/ports` | [`Ports`] | [`Endpoint`] |
//! | `GET /v1/rules` | - | `[`[`Rule`]`]` |
//! | `GET /v1/conntrack?proto=&src=&dst=&sport=&dport=&name=` | - | `[`[`Flow`]`]` |
//! | `DELETE /v1/conntrack` with the same query; no query = all | - | [`Deleted`] |
//! | `GET /v1/stats` | - | [`Stats`] |
//! | `GET /v1/events` | - | one [`Event`] as JSON a line, without end |
//! | `POST /v1/down` | - | [`Down`] |
//!
//! Errors: status 400 (the request is wrong), 404 (no such name), 409 (taken), 500, with [`ErrorBody`].

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::port_spec::Proto;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub api: u32,
    pub pid: u32,
}

/// The bridge network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    pub bridge: String,
    pub subnet: Ipv4Net,
    pub gateway: Ipv4Addr,
    pub mtu: u32,
    pub icc: bool,
    pub masquerade: bool,
    pub shortcuts: bool,
    /// Interfaces served as external.
    pub externals: Vec<External>,
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    pub ifname: String,
    pub ifindex: u32,
    pub addresses: Vec<Ipv4Addr>,
}

/// Live changes to the network; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortcuts: Option<bool>,
}

/// Whose network namespace to connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Netns {
    Pid(u32),
    Path(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    pub name: String,
    pub netns: Netns,
    /// `-p` specifications in Docker's grammar.
    #[serde(default)]
    pub publish: Vec<String>,
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// `aa:bb:cc:dd:ee:ff`
    #[serde(default)]
    pub mac: Option<String>,
    #[serde(default)]
    pub hostname: Option<String>,
    /// What runs inside, shown by `ps`.
    #[serde(default)]
    pub command: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// `-p` specifications for publish; `[ADDR:]HOSTPORT[/PROTO]` for unpublish.
    pub ports: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// 0.0.0.0 and `::` are every address of their family.
    pub host_addr: IpAddr,
    /// The first.
    pub host_port: u16,
    /// The first.
    pub container_port: u16,
    /// Number of ports.
    pub count: u16,
    pub proto: Proto,
    /// Sources that may use it; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<IpNet>,
}

impl PortBinding {
    pub fn host_ports(&self) -> RangeInclusive<u16> {
        self.host_port..=self.host_port.saturating_add(self.count.saturating_sub(1))
    }

    pub fn container_ports(&self) -> RangeInclusive<u16> {
        self.container_port..=self.container_port.saturating_add(self.count.saturating_sub(1))
    }

    /// The part of it that leads to `container_port`.
    pub fn at(&self, container_port: u16) -> Option<Self> {
        let offset = container_port.checked_sub(self.container_port).filter(|offset| *offset < self.count)?;
        Some(Self { host_port: self.host_port + offset, container_port, count: 1, ..self.clone() })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub name: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    pub mac: String,
    pub mtu: u32,
    /// Host end of the veth pair.
    pub ifname: String,
    pub ifindex: u32,
    pub network: String,
    pub netns: Netns,
    pub hostname: Option<String>,
    pub command: Vec<String>,
    /// Seconds since the epoch.
    pub created: u64,
    pub ports: Vec<PortBinding>,
    /// Where the runner keeps the logs of detached containers.
    pub log_dir: PathBuf,
}

/// One line of `netpath rules`: what `iptables -L -v -n` would have shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `dnat`, `masquerade`, `icc`, `to`, `from` or `drop`.
    pub kind: String,
    /// Endpoint or network name; empty for the host.
    pub name: String,
    /// What is matched, for people.
    pub matches: String,
    /// What is done, for people; for `drop` the reason's name.
    pub action: String,
    pub packets: u64,
    /// L3 bytes.
    pub bytes: u64,
}

/// A masqueraded flow, both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    pub proto: String,
    pub state: String,
    /// Seconds until it expires.
    pub expires_s: u32,
    pub name: String,
    pub src: Ipv4Addr,
    pub sport: u16,
    pub dst: Ipv4Addr,
    pub dport: u16,
    pub nat_addr: Ipv4Addr,
    pub nat_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    pub deleted: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub endpoints: usize,
    pub published_ports: usize,
    pub flows: usize,
    pub max_flows: u32,
    pub max_ports: u32,
    pub programs: Vec<Program>,
    /// Drops by reason, over all endpoints.
    pub drops: Vec<Drop>,
    pub maps: Vec<MapMemory>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    /// eBPF instructions after the verifier.
    pub instructions: u32,
    /// Only counted while `kernel.bpf_stats_enabled` is 1.
    pub run_count: u64,
    pub run_time_ns: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    pub name: String,
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapMemory {
    pub name: String,
    pub max_entries: u32,
    pub bytes: u64,
}

/// A drop or a new flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `drop` or `new-flow`.
    pub kind: String,
    pub reason: Option<String>,
    pub ifname: String,
    pub proto: String,
    pub src: String,
    pub sport: u16,
    pub dst: String,
    pub dport: u16,
    pub nat_port: Option<u16>,
    pub bytes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// What could not be removed; everything else was.
    pub errors: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}
