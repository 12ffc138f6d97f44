//! What ADD answers, in the shape of each version.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{CniError, Code};
use crate::version::Version;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Success {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) ips: Vec<Ip>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    /// Path of the namespace; empty: the host's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ip {
    pub(crate) address: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    /// Index into the interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
}

impl Success {
    /// Reads a result of any version, also an abbreviated one as IPAM plugins give it.
    pub(crate) fn parse(value: &Value) -> Result<Self, CniError> {
        let mut fields = value.as_object().cloned().unwrap_or_default();
        // Some write `null` for an empty list.
        fields.retain(|_, field| !field.is_null());
        let read = if value.is_object() { serde_json::from_value(fields.into()) } else { Self::deserialize(value) };
        read.map_err(|error| CniError::new(Code::Decode, format!("understand a plugin's result: {error}")))
    }

    pub(crate) fn json(&self, version: Version) -> Value {
        let mut value = json!(self);
        value["cniVersion"] = version.name().into();
        if value["dns"].is_null() {
            value["dns"] = json!({});
        }
        for interface in value["interfaces"].as_array_mut().into_iter().flatten() {
            if let Some(fields) = interface.as_object_mut().filter(|_| version < Version::WITH_STATUS) {
                fields.remove("mtu");
            }
        }
        for (ip, said) in value["ips"].as_array_mut().into_iter().flatten().zip(&self.ips) {
            if version < Version::WITHOUT_FAMILY {
                ip["version"] = if said.address.addr().is_ipv4() { "4" } else { "6" }.into();
            }
        }
        value
    }

    /// Addresses of interfaces inside a container. An address without an interface is one of the container's.
    pub(crate) fn inside(&self) -> impl Iterator<Item = &Ip> {
        let is_inside =
            |index: usize| self.interfaces.get(index).is_some_and(|interface| !interface.sandbox.is_empty());
        self.ips.iter().filter(move |ip| ip.interface.is_none_or(is_inside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Success {
        let interface = |name: &str, sandbox: &str, mtu| Interface {
            name: name.to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            mtu,
            sandbox: sandbox.to_owned(),
        };
        let ip = |address: &str, gateway: &str, interface| Ip {
            address: address.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            interface: Some(interface),
        };
        Success {
            interfaces: vec![interface("cni0", "", None), interface("eth0", "/run/netns/x", Some(1500))],
            ips: vec![ip("10.1.0.5/16", "10.1.0.1", 1), ip("fd00::5/64", "fd00::1", 0)],
            routes: vec![Route { dst: "0.0.0.0/0".parse().unwrap(), gw: None }],
            dns: Value::Null,
        }
    }

    #[test]
    fn each_version_has_its_shape() {
        let old = sample().json(Version::WITH_CHECK);
        assert_eq!(old["cniVersion"], "0.4.0");
        assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&json!("4"), &json!("6")));
        assert!(old["interfaces"][1]["mtu"].is_null());
        let middle = sample().json(Version::WITHOUT_FAMILY);
        assert!(middle["ips"][0]["version"].is_null() && middle["interfaces"][1]["mtu"].is_null());
        let latest = sample().json(Version::LATEST);
        assert_eq!(
            latest["interfaces"][1],
            json!({"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500, "sandbox": "/run/netns/x"})
        );
        assert_eq!(latest["ips"][0], json!({"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1}));
        assert_eq!((&latest["routes"], &latest["dns"]), (&json!([{"dst": "0.0.0.0/0"}]), &json!({})));
    }

    #[test]
    fn results_of_other_plugins_are_read() {
        let parsed = Success::parse(
            &json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.1.0.5/16"}], "routes": null}),
        );
        let parsed = parsed.unwrap();
        assert_eq!((parsed.ips.len(), parsed.inside().count(), parsed.routes.len()), (1, 1, 0));
        assert_eq!(Success::parse(&sample().json(Version::LATEST)).unwrap().inside().count(), 1);
        assert!(Success::parse(&json!({"ips": [{"address": "10.1.0.5"}]})).unwrap_err().is(Code::Decode));
        assert!(Success::parse(&json!("text")).is_err());
    }
}
