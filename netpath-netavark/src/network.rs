//! A network as Podman keeps it, as far as it matters here; the rest passes through `create` untouched.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Network {
    pub(crate) name: String,
    /// Name of the bridge's interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network_interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subnets: Option<Vec<Subnet>>,
    #[serde(default)]
    pub(crate) ipv6_enabled: bool,
    #[serde(default)]
    pub(crate) internal: bool,
    #[serde(default)]
    pub(crate) dns_enabled: bool,
    /// `--opt NAME=VALUE`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) options: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ipam_options: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Subnet {
    pub(crate) subnet: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Subnet {
    pub(crate) fn new(subnet: IpNet, gateway: Option<IpAddr>) -> Self {
        Self { subnet, gateway, rest: Map::new() }
    }
}

impl Network {
    pub(crate) fn subnets(&self) -> &[Subnet] {
        self.subnets.as_deref().unwrap_or_default()
    }
}
