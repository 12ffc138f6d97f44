//! The HTTP + JSON API on the agent's Unix socket, version 1. Shared by server and client.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/version` | - | [`Version`] |
//! | `GET /v1/info` | - | [`Info`] |
//! | `PATCH /v1/info` | [`InfoPatch`] | [`Info`] |
//! | `GET /v1/networks` | - | `[`[`Network`]`]` |
//! | `POST /v1/networks` | [`NetworkCreate`] | [`NetworkCreated`] |
//! | `GET /v1/networks/NAME` | - | [`Network`] |
//! | `PATCH /v1/networks/NAME` | [`NetworkPatch`] | [`Network`] |
//! | `DELETE /v1/networks/NAME` | - | [`Network`] as it was |
//! | `POST /v1/networks/NAME/endpoints` | [`Connect`] | [`Container`] |
//! | `DELETE /v1/networks/NAME/endpoints/CONTAINER` | - | [`Container`] |
//! | `GET /v1/containers` | - | `[`[`Container`]`]` |
//! | `POST /v1/containers` | [`Attach`] | [`Container`] |
//! | `GET /v1/containers/NAME` | - | [`Container`] |
//! | `DELETE /v1/containers/NAME` | - | [`Container`] as it was |
//! | `POST /v1/containers/NAME/ports` | [`Ports`] | [`Container`] |
//! | `DELETE /v1/containers/NAME/ports` | [`Ports`] | [`Container`] |
//! | `POST /v1/containers/NAME/links` | [`LinkAdd`] | [`Container`] |
//! | `DELETE /v1/containers/NAME/links/ALIAS` | - | [`Container`] |
//! | `DELETE /v1/cni/NETWORK/CONTAINER/INTERFACE` | - | [`Deleted`], also where there is none |
//! | `GET /v1/ptp` | - | `[`[`Ptp`]`]` |
//! | `POST /v1/ptp` | [`PtpCreate`] | [`Ptp`] |
//! | `DELETE /v1/ptp/CONTAINER/CONTAINER` | - | [`Ptp`] as it was |
//! | `GET /v1/rules` | - | `[`[`Rule`]`]` |
//! | `GET /v1/conntrack?proto=&src=&dst=&sport=&dport=&name=` | - | `[`[`Flow`]`]` |
//! | `DELETE /v1/conntrack` with the same query; no query = all | - | [`Deleted`] |
//! | `GET /v1/stats` | - | [`Stats`] |
//! | `GET /v1/events` | - | one [`Event`] as JSON a line, without end |
//! | `POST /v1/down` | - | [`Down`] |
//!
//! **Adopted** networks and containers are connected by somebody else, a CNI plugin for instance: netpath serves the
//! bridge and the veth pairs as it finds them, and neither configures nor removes them. `adopt` asks for it. A network that
//! is adopted without a bridge is made of veth pairs that the host routes to one by one, as CNI's plugin `ptp` makes them.
//!
//! Errors: status 400 (the request is wrong), 404 (no such name), 409 (taken), 500, with [`ErrorBody`].
//!
//! Long because the whole API stands in one place.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ipam::Skipped;
use crate::names::hosts::ExtraHost;
use crate::names::resolv_conf::Dns;
use crate::port_spec::Proto;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub api: u32,
    pub pid: u32,
}

/// The agent and what it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    pub shortcuts: bool,
    /// Interfaces served as external.
    pub externals: Vec<External>,
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
    /// Absent if the agent follows no Docker Engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
}

/// How it stands between the agent and Docker Engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Docker {
    pub socket: PathBuf,
    /// The Engine has answered since the agent was started.
    pub is_read: bool,
    /// Options that dockerd has to be started with before anything of its is served.
    pub waits_for: Vec<String>,
    /// Networks and containers that cannot be served, by name, and why.
    pub faults: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    pub ifname: String,
    pub ifindex: u32,
    pub addresses: Vec<IpAddr>,
    pub xdp: Xdp,
}

/// What XDP does on an external interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    /// As the option has it: `off`, `native`, `force-native`, `generic` or `auto`.
    pub asked: String,
    /// What came of it: `off`, `native` or `generic`.
    pub mode: String,
    /// Why, where the option alone does not say it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Live changes to the agent; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InfoPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortcuts: Option<bool>,
    /// Docker's containers are served although its rules are still there. Whoever sets this removes them: it is for a
    /// minute, and no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_beside_rules: Option<bool>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    /// Who made the bridge, or the veth pairs without one.
    #[serde(default)]
    pub owner: Owner,
    /// Name of the bridge's interface; absent where the host routes to the containers one by one.
    pub bridge: Option<String>,
    /// Absent only where the network has IPv6 alone.
    pub v4: Option<Subnet>,
    pub v6: Option<Subnet>,
    pub mtu: u32,
    pub icc: bool,
    pub internal: bool,
    pub masquerade: bool,
    pub gateway_mode_ipv4: GatewayMode,
    pub gateway_mode_ipv6: GatewayMode,
    /// Interfaces from which published ports are reached at the containers' own addresses too.
    pub trusted: Vec<String>,
    /// Whether packets from and to outside skip the kernel's stack, if the agent has that switched on.
    #[serde(default = "yes")]
    pub shortcuts: bool,
    /// The containers connected to it.
    pub containers: Vec<String>,
    /// No address of one of its families is free for another container.
    #[serde(default)]
    pub is_full: bool,
}

/// Who made a network's bridge and its containers' interfaces, and takes them away again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    #[default]
    Netpath,
    /// Docker Engine, which keeps the host ports of its containers by sockets of its own.
    Docker,
    /// Whoever asked netpath to adopt them.
    Other,
}

impl Owner {
    pub fn is_netpath(&self) -> bool {
        *self == Self::Netpath
    }
}

/// The addresses of one family in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    pub subnet: IpNet,
    /// Part of the subnet that addresses are picked from; absent: all of it.
    pub ip_range: Option<IpNet>,
    /// The host's own address, of the bridge where there is one; absent in gateway mode `isolated`.
    pub bridge: Option<IpAddr>,
    /// Where the containers' default route leads; absent in an internal network.
    pub gateway: Option<IpAddr>,
}

/// What a network's containers and the outside have of each other, per family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Masquerade and published ports.
    #[default]
    Nat,
    /// The same, and every port of a container is reached at its own address.
    NatUnprotected,
    /// Containers are reached and known by their own addresses, at their published ports.
    Routed,
    /// The bridge has no address; internal networks only.
    Isolated,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkCreate {
    pub name: String,
    /// At most one of each family; without one, the first pool that is free.
    pub subnets: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
    pub ip_ranges: Vec<IpNet>,
    pub ipv6: bool,
    pub internal: bool,
    pub icc: Option<bool>,
    pub masquerade: Option<bool>,
    /// False: packets from and to outside take the kernel's road, and with it the rules of others there. Default: true.
    pub shortcuts: Option<bool>,
    pub mtu: Option<u32>,
    pub gateway_mode_ipv4: GatewayMode,
    pub gateway_mode_ipv6: GatewayMode,
    pub trusted: Vec<String>,
    /// Name of the bridge's interface; created if missing. Default: `br-` and 12 hexadecimal digits.
    pub bridge: Option<String>,
    /// Where a port without an address is published. Default: at every address.
    pub binding_addr: Option<IpAddr>,
    /// Serves the bridge called `bridge`, which must be there, and leaves it as it is, also when the network is removed.
    /// `subnets` are those that it has and `gateways` its own addresses in them; what is absent is read from it.
    /// Without `bridge` the network has none, and `subnets` are those that its containers have addresses of.
    /// `ip_ranges` say nothing then, since netpath gives out no address.
    pub adopt: bool,
}

/// A network that has just been created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCreated {
    #[serde(flatten)]
    pub network: Network,
    /// Pools that its subnets could not come from, because of something on the host: a route, an address, a name
    /// server.
    pub skipped: Vec<Skipped>,
}

/// Live changes to a network; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortcuts: Option<bool>,
}

/// Connects a container to one more network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connect {
    pub container: String,
    /// Name inside the container; absent: the next `ethN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    pub address: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    /// `aa:bb:cc:dd:ee:ff`
    pub mac: Option<String>,
    /// Name of the CNI network that the interface is an attachment to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni: Option<String>,
    /// The interface that is there already, where the network is an adopted one; all of the above but `container` is
    /// then without meaning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopt: Option<AdoptedInterface>,
}

/// A veth pair that somebody else has made, between a container and the bridge of an adopted network, or the host itself
/// where that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdoptedInterface {
    /// Name of the network.
    pub network: String,
    /// The host's end: a port of the network's bridge, or of none where there is none.
    pub ifname: String,
    /// Name inside the container.
    pub interface: String,
    /// At least one of the two.
    pub address: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    /// Of the container's end, `aa:bb:cc:dd:ee:ff`; absent: as it is found in the namespace.
    pub mac: Option<String>,
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
    /// `bridge`, `none`, `host`, `container:NAME` or the name of a network. Absent: `bridge`.
    #[serde(default)]
    pub network: Option<String>,
    /// Name of the interface inside; absent: `eth0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Name of the CNI network that the interface is an attachment to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<String>,
    /// `-p` specifications in Docker's grammar.
    #[serde(default)]
    pub publish: Vec<String>,
    /// Who may use them, `[HOSTPORT[-LAST][/PROTO]=]CIDR`; empty: everybody.
    #[serde(default)]
    pub from: Vec<String>,
    /// Publishes every exposed port automatically.
    #[serde(default)]
    pub publish_all: bool,
    /// `false`: it talks to containers of its networks by links only, as in a network without inter-container
    /// communication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icc: Option<bool>,
    /// Who asks keeps the host ports by sockets of his own, as Podman does: netpath asks nobody whether they are free, and
    /// reserves none.
    #[serde(default)]
    pub keeps_ports: bool,
    /// Exposed ports, `PORT[-LAST][/PROTO]`.
    #[serde(default)]
    pub expose: Vec<String>,
    /// `NAME[:ALIAS]` of containers to link to.
    #[serde(default)]
    pub links: Vec<String>,
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// `aa:bb:cc:dd:ee:ff`
    #[serde(default)]
    pub mac: Option<String>,
    #[serde(default)]
    pub hostname: Option<String>,
    /// What runs inside, shown by `ps`. The container ends with the process of `netns` if there is any.
    #[serde(default)]
    pub command: Vec<String>,
    /// Its variables, `NAME=VALUE`, which links tell.
    #[serde(default)]
    pub env: Vec<String>,
    /// Asks for files to lay over those in the container's `/etc`. Not for an adopted container.
    #[serde(default)]
    pub names: Option<Names>,
    /// The interfaces that are there already, in adopted networks: then nothing is made, several networks at once are
    /// possible, `network` is absent or that of one of them, and `address`, `address6` and `mac` are without meaning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopt: Vec<AdoptedInterface>,
}

/// What the files say that a container gets over `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Names {
    pub add_host: Vec<ExtraHost>,
    pub dns: Dns,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// `-p` specifications for publish; `[ADDR:]HOSTPORT[-LAST][/PROTO]` for unpublish.
    pub ports: Vec<String>,
    /// For publish: who may use them, as in [`Attach`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
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

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub name: String,
    /// As asked for: `bridge`, `none`, `host`, `container:NAME` or the name of a network.
    pub network_mode: String,
    /// Of the first endpoint; absent where there is none.
    pub address: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    pub netns: Netns,
    pub hostname: Option<String>,
    pub command: Vec<String>,
    /// Seconds since the epoch.
    pub created: u64,
    /// When the process started that `netns` names, in ticks since boot.
    #[serde(default)]
    pub start_ticks: Option<u64>,
    /// Its interfaces, the one that published ports lead to first.
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<PortBinding>,
    /// It may talk to containers of its networks as far as those say.
    #[serde(default = "yes")]
    pub icc: bool,
    /// Exposed ports, `PORT[-LAST]/PROTO`.
    pub expose: Vec<String>,
    pub links: Vec<Link>,
    pub env: Vec<String>,
    /// Directory of its `hosts`, `hostname` and `resolv.conf`; absent where it has none of its own.
    pub files: Option<PathBuf>,
    /// Where the runner keeps the logs of detached containers.
    pub log_dir: PathBuf,
}

fn yes() -> bool {
    true
}

/// A container's interface in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub network: String,
    /// Name inside the container.
    pub interface: String,
    pub address: Option<Ipv4Addr>,
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    pub prefix_len6: u8,
    pub gateway6: Option<Ipv6Addr>,
    pub mac: String,
    pub mtu: u32,
    /// Host end of the veth pair.
    pub ifname: String,
    pub ifindex: u32,
    /// Name of the CNI network that it is an attachment to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<String>,
}

/// A link to another container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub name: String,
    pub alias: String,
}

/// Links a running container to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkAdd {
    /// `NAME[:ALIAS]`
    pub link: String,
}

/// Links two containers from point to point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PtpCreate {
    pub a: String,
    pub b: String,
    /// None, or of each family first that of `a`, then that of `b`.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// A link from point to point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ptp {
    pub a: PtpEnd,
    pub b: PtpEnd,
}

/// One end of a [`Ptp`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtpEnd {
    pub container: String,
    /// Name inside the container.
    pub interface: String,
    pub addresses: Vec<IpNet>,
    pub mac: String,
}

/// One line of `netpath rules`: what `iptables -L -v -n` would have shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `dnat`, `masquerade`, `direct`, `routed`, `unprotected`, `internal`, `icc`, `trusted`, `link`, `to`, `from` or
    /// `drop`.
    pub kind: String,
    /// Endpoint or network name; empty for the host.
    pub name: String,
    /// What is matched, for people.
    pub matches: String,
    /// What is done, for people; for `drop` the reason's name.
    pub action: String,
    /// Absent where nothing counts: `to` and `from` count what a container receives and sends, `drop` what is dropped.
    /// `dnat` counts a connection of the host's own once, and each datagram of its sockets that are not connected.
    pub packets: Option<u64>,
    /// L3 bytes; none of what the host's own sockets send.
    pub bytes: Option<u64>,
}

/// A masqueraded flow, both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    pub proto: String,
    pub state: String,
    /// Seconds until it expires.
    pub expires_s: u32,
    pub name: String,
    pub src: IpAddr,
    pub sport: u16,
    pub dst: IpAddr,
    pub dport: u16,
    pub nat_addr: IpAddr,
    pub nat_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    pub deleted: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub containers: usize,
    pub networks: usize,
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
