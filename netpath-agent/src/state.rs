//! What the agent knows that the kernel does not: the types of it. `store.rs` keeps it on disk.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::api::{GatewayMode, Names, Netns, Owner, Subnet};
pub use crate::binding::PortBinding;
pub use crate::netns::NetnsId;

/// The map `NETWORKS` has so many elements and one that is nobody's.
pub const MAX_NETWORKS: u32 = 255;
const VERSION: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// Of the boot that the endpoints belong to.
    pub boot_id: String,
    /// The generation that the next endpoint gets; only ever grows.
    pub next_generation: u32,
    /// Index to network; indices begin at 1.
    pub networks: BTreeMap<u32, Network>,
    /// Name to container.
    pub containers: BTreeMap<String, Container>,
    /// Index to endpoint; indices begin at 1.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Links from point to point.
    #[serde(default)]
    pub ptps: Vec<Ptp>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub name: String,
    /// Index into `COUNTERS`: masqueraded packets; the next index counts packets between its containers.
    pub counter: u32,
    /// Name of the bridge's interface; none where the host routes to the containers one by one.
    pub bridge: Option<String>,
    /// The agent made the bridge, so `down` removes it.
    pub created: bool,
    /// Who made the bridge and the interfaces of the network's containers. What is not the agent's it leaves as it is.
    #[serde(default, skip_serializing_if = "Owner::is_netpath")]
    pub owner: Owner,
    pub v4: Option<Subnet>,
    pub v6: Option<Subnet>,
    pub icc: bool,
    pub internal: bool,
    pub masquerade: bool,
    /// As asked for; else that of the externals.
    pub mtu: Option<u32>,
    pub mode4: GatewayMode,
    pub mode6: GatewayMode,
    /// Names of interfaces from which published ports are reached at the containers' own addresses too.
    pub trusted: Vec<String>,
    /// Where a port without an address is published; absent: at every address.
    #[serde(default)]
    pub binding_addr: Option<IpAddr>,
    /// Packets from and to outside skip the kernel's stack where they can.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub shortcuts: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_yes(is_set: &bool) -> bool {
    *is_set
}

impl Network {
    /// What is between the network and the host, as rules show it: the bridge, or the network's own name.
    pub fn shown_gateway(&self) -> &str {
        self.bridge.as_ref().unwrap_or(&self.name)
    }
}

/// A container: the endpoints that name it are its interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// `bridge`, `none`, `host`, `container:NAME` or the name of a network.
    pub network_mode: String,
    pub netns: Netns,
    pub hostname: Option<String>,
    pub command: Vec<String>,
    /// Seconds since the epoch.
    pub created: u64,
    /// When the process started that `netns` names, in ticks since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ticks: Option<u64>,
    /// The namespace that `netns` was a name of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<NetnsId>,
    pub ports: Vec<PortBinding>,
    /// Exposed ports, `PORT[-LAST]/PROTO`.
    pub expose: Vec<String>,
    pub links: Vec<Link>,
    /// Its own variables, `NAME=VALUE`, which links tell.
    #[serde(default)]
    pub env: Vec<String>,
    /// What its files say; absent where it has none.
    #[serde(default)]
    pub names: Option<Names>,
    /// What Docker calls it, where it is Docker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_id: Option<String>,
    /// Who runs it keeps its host ports, by sockets of his own.
    #[serde(default)]
    pub keeps_ports: bool,
    /// It talks to containers of its networks by links only, whatever the network says.
    #[serde(default)]
    pub no_icc: bool,
}

/// A link from the container that holds it to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Name of the other container.
    pub target: String,
    pub alias: String,
    /// Index into `COUNTERS`: packets to the exposed ports; the next index counts replies.
    pub counter: u32,
}

/// A container's interface in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Name of the container.
    pub container: String,
    /// Index of the network.
    pub network: u32,
    pub generation: u32,
    /// Index into `COUNTERS`: packets to the container; the next index counts packets from it.
    pub counter: u32,
    /// Host end of the veth pair.
    pub ifname: String,
    pub ifindex: u32,
    /// Name of the container's end.
    pub interface: String,
    pub addr: Option<Ipv4Addr>,
    pub addr6: Option<Ipv6Addr>,
    pub mac: Mac,
    pub mtu: u32,
    /// Hardware address of the host's end, where the network has no bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mac: Option<Mac>,
    /// Name of the CNI network that it is an attachment to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<String>,
    /// The container's end takes frames that XDP redirects. Found out anew by every agent.
    #[serde(skip)]
    pub takes_xdp: bool,
}

/// A veth pair between two containers, without a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ptp {
    pub a: PtpEnd,
    pub b: PtpEnd,
}

/// One end of a [`Ptp`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PtpEnd {
    /// Name of the container.
    pub container: String,
    pub interface: String,
    /// At most one of each family.
    pub addrs: Vec<IpAddr>,
    pub mac: Mac,
}

/// A hardware address, written `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl State {
    /// # Errors
    /// If it is no state, or one of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let state: Self = serde_json::from_slice(bytes)?;
        if state.version != VERSION {
            bail!("state is of version {}, want {VERSION}", state.version);
        }
        Ok(state)
    }

    pub fn new(boot_id: String) -> Self {
        Self {
            version: VERSION,
            boot_id,
            next_generation: 1,
            networks: BTreeMap::new(),
            containers: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            ptps: Vec::new(),
        }
    }

    /// What outlives the kernel.
    pub fn networks_alone(&self) -> Self {
        Self { networks: self.networks.clone(), ..Self::new(self.boot_id.clone()) }
    }

    /// The network called `name`, with its index.
    pub fn network(&self, name: &str) -> Option<(u32, &Network)> {
        self.networks.iter().find(|(_, network)| network.name == name).map(|(index, network)| (*index, network))
    }

    /// Whether somebody else made the network, and with it the interfaces of its containers.
    pub fn is_adopted(&self, network: u32) -> bool {
        self.networks.get(&network).is_some_and(|network| !network.owner.is_netpath())
    }

    /// Whether somebody else keeps the container's host ports.
    pub fn are_ports_kept(&self, container: &str) -> bool {
        if self.containers.get(container).is_some_and(|container| container.keeps_ports) {
            return true;
        }
        let endpoints = self.endpoints.values().filter(|endpoint| endpoint.container == container);
        let mut networks = endpoints.filter_map(|endpoint| self.networks.get(&endpoint.network));
        networks.any(|network| network.owner == Owner::Docker)
    }

    /// Whether any network has IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.networks.values().any(|network| network.v6.is_some())
    }

    /// The lowest endpoint index that is free.
    pub fn free_index(&self) -> u32 {
        lowest_free(&self.endpoints)
    }

    /// The lowest network index that is free; `None` if there are [`MAX_NETWORKS`].
    pub fn free_network_index(&self) -> Option<u32> {
        Some(lowest_free(&self.networks)).filter(|index| *index <= MAX_NETWORKS)
    }

    /// Forgets links with an end in a container that is no more.
    pub fn forget_dead_ptps(&mut self) {
        let lives = |end: &PtpEnd| self.containers.contains_key(&end.container);
        self.ptps.retain(|ptp| lives(&ptp.a) && lives(&ptp.b));
    }

    /// All bindings with the name of the container they belong to.
    pub fn bindings(&self) -> impl Iterator<Item = (&str, &PortBinding)> {
        self.containers
            .iter()
            .flat_map(|(name, container)| container.ports.iter().map(move |port| (name.as_str(), port)))
    }
}

/// The lowest key from 1 on that is free.
fn lowest_free<V>(map: &BTreeMap<u32, V>) -> u32 {
    (1..).zip(map.keys()).find(|(i, used)| i != *used).map_or(map.len() as u32 + 1, |(i, _)| i)
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .with_context(|| format!("invalid MAC address `{text}`, want aa:bb:cc:dd:ee:ff"))?;
        }
        if parts.next().is_some() {
            bail!("invalid MAC address `{text}`, want aa:bb:cc:dd:ee:ff");
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::samples::network;
    use super::*;

    #[test]
    fn the_lowest_free_index_is_used_next() {
        let mut state = samples::state();
        assert_eq!(state.free_index(), 2);
        let endpoint = state.endpoints[&1].clone();
        state.endpoints.insert(2, endpoint.clone());
        state.endpoints.insert(4, endpoint);
        assert_eq!(state.free_index(), 3);
        state.endpoints.remove(&1);
        assert_eq!(state.free_index(), 1);
        assert_eq!(State::new(String::new()).free_index(), 1);
    }

    #[test]
    fn a_network_more_than_the_map_holds_gets_no_index() {
        let mut state = State::new(String::new());
        state.networks = (1..MAX_NETWORKS).map(|index| (index, network("some"))).collect();
        assert_eq!(state.free_network_index(), Some(MAX_NETWORKS));
        state.networks.insert(MAX_NETWORKS, network("last"));
        assert_eq!(state.free_network_index(), None);
        state.networks.remove(&7);
        assert_eq!(state.free_network_index(), Some(7));
    }

    #[test]
    fn a_containers_endpoints_come_in_the_order_of_their_connection() {
        let mut state = samples::state();
        let later = Endpoint { generation: 9, ..state.endpoints[&1].clone() };
        let latest = Endpoint { generation: 10, ..later.clone() };
        state.endpoints = BTreeMap::from([(1, latest), (2, state.endpoints[&1].clone()), (3, later)]);
        let indices: Vec<u32> = state.endpoints_of("web").iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, [2, 3, 1]);
        assert_eq!(state.endpoints_by_container(), BTreeMap::from([("web", state.endpoints_of("web"))]));
        assert!(state.endpoints_of("db").is_empty());
    }

    #[test]
    fn hardware_addresses_are_read_strictly() {
        let mac: Mac = "02:00:5e:10:00:fF".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for text in
            ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "02-00-5e-10-00-ff", "+2:00:5e:10:00:ff"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}

/// Samples for the tests of other modules.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// The container `web` in the network `bridge`, in the boot called `boot`.
    pub(crate) fn state() -> State {
        let mut state = State::new("boot".to_owned());
        state.networks.insert(1, network("bridge"));
        let port = PortBinding {
            host_addr: Ipv4Addr::UNSPECIFIED.into(),
            host_port: 8080,
            container_port: 80,
            count: 1,
            proto: crate::port_spec::Proto::Tcp,
            counter: 3,
            from: vec![],
        };
        state.containers.insert("web".to_owned(), Container { ports: vec![port], ..container() });
        state.endpoints.insert(1, endpoint("web"));
        state
    }

    /// 172.17.0.0/16 behind `netpath0`.
    pub(crate) fn network(name: &str) -> Network {
        let subnet = Subnet {
            subnet: "172.17.0.0/16".parse().unwrap(),
            ip_range: None,
            bridge: Some("172.17.0.1".parse().unwrap()),
            gateway: Some("172.17.0.1".parse().unwrap()),
        };
        Network {
            name: name.to_owned(),
            counter: 1,
            bridge: Some("netpath0".to_owned()),
            created: true,
            owner: Owner::Netpath,
            v4: Some(subnet),
            v6: None,
            icc: true,
            internal: false,
            masquerade: true,
            mtu: None,
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            trusted: vec![],
            binding_addr: None,
            shortcuts: true,
        }
    }

    pub(crate) fn container() -> Container {
        Container {
            network_mode: "bridge".to_owned(),
            netns: Netns::Pid(1),
            hostname: None,
            command: vec!["sh".to_owned()],
            created: 0,
            start_ticks: None,
            netns_id: None,
            ports: vec![],
            expose: vec![],
            links: vec![],
            env: vec![],
            names: None,
            docker_id: None,
            keeps_ports: false,
            no_icc: false,
        }
    }

    /// 172.17.0.2 in network 1.
    pub(crate) fn endpoint(container: &str) -> Endpoint {
        Endpoint {
            container: container.to_owned(),
            network: 1,
            generation: 1,
            counter: 3,
            ifname: "veth0123456".to_owned(),
            ifindex: 7,
            interface: "eth0".to_owned(),
            addr: Some(Ipv4Addr::new(172, 17, 0, 2)),
            addr6: None,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            host_mac: None,
            cni: None,
            takes_xdp: false,
        }
    }
}
