//! A port binding: one port of a host address, or a range of them, and the container ports behind it.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::port_spec::Proto;

/// Ports published one to one: host port `host_port + i` leads to container port `container_port + i`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct PortBinding {
    /// 0.0.0.0 and `::` are every address of their family.
    pub host_addr: IpAddr,
    /// The first; 0 where the network is routed and the container is reached at its own address.
    pub host_port: u16,
    /// The first.
    pub container_port: u16,
    /// Number of ports, at least 1.
    pub count: u16,
    pub proto: Proto,
    /// Index into `COUNTERS`.
    pub counter: u32,
    /// Sources that may use it; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<IpNet>,
}

impl PortBinding {
    /// Whether the container is reached at its own address, and no host port is taken.
    pub fn is_direct(&self) -> bool {
        self.host_port == 0
    }

    pub fn host_ports(&self) -> RangeInclusive<u16> {
        self.host_port..=self.host_port + (self.count - 1)
    }

    pub fn container_ports(&self) -> RangeInclusive<u16> {
        self.container_port..=self.container_port + (self.count - 1)
    }

    /// `count` of these ports from the one at `offset` on, with the same counter.
    pub fn part(&self, offset: u16, count: u16) -> Self {
        let host_port = if self.is_direct() { 0 } else { self.host_port + offset };
        Self { host_port, container_port: self.container_port + offset, count, ..self.clone() }
    }

    fn is_possible(&self) -> bool {
        let ends = |first: u16| first.checked_add(self.count.wrapping_sub(1)).is_some();
        self.count > 0 && self.container_port > 0 && ends(self.host_port) && ends(self.container_port)
    }
}

/// `8080` or `8000-8999`.
pub fn span(ports: &RangeInclusive<u16>) -> String {
    let (first, last) = ports.clone().into_inner();
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// `0.0.0.0:8080`, `[::]:8000-8999`.
pub fn host_name(addr: IpAddr, ports: &RangeInclusive<u16>) -> String {
    match addr {
        IpAddr::V4(addr) => format!("{addr}:{}", span(ports)),
        IpAddr::V6(addr) => format!("[{addr}]:{}", span(ports)),
    }
}

/// ` from 10.0.0.0/8, 192.0.2.1/32`; empty without an allow-list.
pub fn from_clause(from: &[IpNet]) -> String {
    if from.is_empty() {
        return String::new();
    }
    format!(" from {}", from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

impl Serialize for PortBinding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PortBinding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let binding = Self::deserialize(deserializer)?;
        binding.is_possible().then_some(binding).ok_or_else(|| D::Error::custom("a port binding without ports"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_survives_the_disk() {
        let from = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for binding in [binding(8080, 1), binding(1000, 60_000), PortBinding { from, ..binding(80, 1) }] {
            let text = serde_json::to_string(&binding).unwrap();
            assert_eq!(serde_json::from_str::<PortBinding>(&text).unwrap(), binding, "{text}");
        }
    }

    #[test]
    fn a_range_past_the_last_port_is_refused() {
        for (good, bad) in [("\"count\":1", "\"count\":2"), ("\"count\":1", "\"count\":0")] {
            let text = serde_json::to_string(&binding(65535, 1)).unwrap().replace(good, bad);
            assert!(serde_json::from_str::<PortBinding>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_part_leads_where_the_whole_did() {
        let part = PortBinding { host_port: 8000, ..binding(1000, 100) }.part(10, 5);
        assert_eq!((part.host_ports(), part.container_ports()), (8010..=8014, 1010..=1014));
        assert_eq!(PortBinding { host_port: 0, ..binding(1000, 100) }.part(10, 5).host_port, 0);
    }

    fn binding(port: u16, count: u16) -> PortBinding {
        PortBinding {
            host_addr: IpAddr::from([0, 0, 0, 0]),
            host_port: port,
            container_port: port,
            count,
            proto: Proto::Tcp,
            counter: 3,
            from: vec![],
        }
    }
}
