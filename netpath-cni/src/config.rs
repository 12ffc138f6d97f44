//! The configuration of one invocation: what the conflist says, and what the runtime puts in.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use netpath_agent::api::{GatewayMode, NetworkCreate};
use netpath_agent::options::DEFAULT_SOCKET;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{CniError, Code};
use crate::version::Version;

const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// Keys are those of Debian's bridge plugin where that has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    #[serde(skip, default = "latest")]
    pub(crate) version: Version,
    pub(crate) name: String,
    /// The agent's.
    #[serde(default = "default_socket")]
    pub(crate) socket: PathBuf,
    /// A network that is there already; absent: one called `name`, made when it is first needed.
    pub(crate) network: Option<String>,
    subnet: Option<IpNet>,
    #[serde(default)]
    subnets: Vec<IpNet>,
    gateway: Option<IpAddr>,
    #[serde(default)]
    gateways: Vec<IpAddr>,
    /// The network has IPv6 also where no subnet says so.
    #[serde(default)]
    pub(crate) ipv6: bool,
    /// Name of the bridge's interface.
    pub(crate) bridge: Option<String>,
    pub(crate) mtu: Option<u32>,
    pub(crate) ip_masq: Option<bool>,
    /// Containers do not reach each other.
    #[serde(default)]
    port_isolation: bool,
    ingress_policy: Option<IngressPolicy>,
    /// Packets from and to outside may skip the kernel's stack.
    shortcuts: Option<bool>,
    #[serde(default)]
    ipam: Ipam,
    pub(crate) dns: Option<Value>,
    #[serde(default)]
    pub(crate) runtime_config: RuntimeConfig,
    #[serde(default)]
    args: Args,
    pub(crate) prev_result: Option<Value>,
    // VALID_ATTACHMENTS; an attribute takes no constant.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(crate) valid_attachments: Option<Vec<ValidAttachment>>,
    /// Everything else.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Who reaches a container by its own address; named as the firewall plugin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum IngressPolicy {
    /// Whoever has a route.
    Open,
    /// Containers of the same network; others by published ports only.
    SameBridge,
    /// Nobody.
    Isolated,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Ipam {
    #[serde(rename = "type")]
    plugin: Option<String>,
}

/// What the runtime says about one attachment, as the capabilities have it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuntimeConfig {
    #[serde(default)]
    pub(crate) port_mappings: Vec<PortMapping>,
    #[serde(default)]
    pub(crate) ips: Vec<String>,
    pub(crate) mac: Option<String>,
}

/// containerd's CRI begins the names with capital letters, which plugins written in Go do not notice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortMapping {
    #[serde(alias = "HostPort")]
    pub(crate) host_port: u32,
    #[serde(alias = "ContainerPort")]
    pub(crate) container_port: u32,
    #[serde(default, alias = "Protocol")]
    pub(crate) protocol: String,
    #[serde(default, alias = "hostIp", alias = "HostIP", rename = "hostIP")]
    pub(crate) host_ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Args {
    #[serde(default)]
    cni: CniArgs,
}

/// The older way to what the runtime configuration says.
#[derive(Clone, Debug, Default, Deserialize)]
struct CniArgs {
    #[serde(default)]
    ips: Vec<String>,
    mac: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    pub(crate) ifname: String,
}

impl Config {
    pub(crate) fn parse(raw: &[u8], version: Version) -> Result<Self, CniError> {
        let mut value: Value = serde_json::from_slice(raw).map_err(|error| decode(&error))?;
        forget_nulls(&mut value);
        let config: Self = serde_json::from_value(value).map_err(|error| decode(&error))?;
        if config.name.is_empty() {
            return Err(CniError::new(Code::InvalidConfig, "the network has no name"));
        }
        config.check_bridge_keys()?;
        Ok(Self { version, ..config })
    }

    /// The network that containers are connected to.
    pub(crate) fn network(&self) -> &str {
        self.network.as_deref().unwrap_or(&self.name)
    }

    /// The network to make where it is missing, as far as the keys say how. Behind another plugin it is open, and leaves
    /// the rules of others their effect: who made the interfaces may count on both.
    pub(crate) fn wanted(&self) -> NetworkCreate {
        let is_chained = self.prev_result.is_some();
        let default = if is_chained { IngressPolicy::Open } else { IngressPolicy::SameBridge };
        let policy = self.ingress_policy.unwrap_or(default);
        let mode = if policy == IngressPolicy::Open { GatewayMode::NatUnprotected } else { GatewayMode::Nat };
        NetworkCreate {
            name: self.name.clone(),
            ipv6: self.ipv6,
            icc: (self.port_isolation || policy == IngressPolicy::Isolated).then_some(false),
            // Who has made the interfaces masquerades, or does not.
            masquerade: self.ip_masq.or(is_chained.then_some(false)),
            shortcuts: self.shortcuts.or(is_chained.then_some(false)),
            mtu: self.mtu.filter(|mtu| *mtu != 0),
            gateway_mode_ipv4: mode,
            gateway_mode_ipv6: mode,
            ..NetworkCreate::default()
        }
    }

    pub(crate) fn subnets(&self) -> Vec<IpNet> {
        self.subnet.into_iter().chain(self.subnets.iter().copied()).collect()
    }

    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        self.gateway.into_iter().chain(self.gateways.iter().copied()).collect()
    }

    /// The plugin that gives addresses, if the agent does not.
    pub(crate) fn ipam(&self) -> Option<&str> {
        self.ipam.plugin.as_deref().filter(|plugin| !plugin.is_empty())
    }

    /// Addresses that the runtime wants the container to have.
    pub(crate) fn ips(&self) -> &[String] {
        if self.runtime_config.ips.is_empty() { &self.args.cni.ips } else { &self.runtime_config.ips }
    }

    pub(crate) fn mac(&self) -> Option<&str> {
        let runtime = self.runtime_config.mac.as_deref();
        runtime.or(self.args.cni.mac.as_deref()).filter(|mac| !mac.is_empty())
    }

    /// The bridge plugin's keys that ask for what a netpath network is not. What it is anyway may be asked for.
    fn check_bridge_keys(&self) -> Result<(), CniError> {
        let is_unsupported = |key: &str, value: &Value| match key {
            "isGateway" => value == false,
            "promiscMode" | "disableContainerInterface" => value == true,
            "vlan" => value.as_u64().is_some_and(|tag| tag != 0),
            "vlanTrunk" => value.as_array().is_some_and(|tags| !tags.is_empty()),
            _ => false,
        };
        let Some((key, value)) = self.rest.iter().find(|(key, value)| is_unsupported(key, value)) else {
            return Ok(());
        };
        Err(CniError::new(Code::UnsupportedField, format!("`{key}`: {value} cannot be had of a netpath network")))
    }
}

/// Runtimes written in Go write an empty list as `null`. No valid attachment is not the same as none said.
fn forget_nulls(config: &mut Value) {
    if let Some(valid) = config.get_mut(VALID_ATTACHMENTS).filter(|valid| valid.is_null()) {
        *valid = Value::Array(Vec::new());
    }
    let Some(fields) = config.as_object_mut() else { return };
    fields.retain(|_, value| !value.is_null());
    if let Some(said) = fields.get_mut("runtimeConfig").and_then(Value::as_object_mut) {
        said.retain(|_, value| !value.is_null());
    }
}

fn decode(error: &serde_json::Error) -> CniError {
    CniError::new(Code::Decode, format!("understand the configuration: {error}"))
}

fn latest() -> Version {
    Version::LATEST
}

fn default_socket() -> PathBuf {
    DEFAULT_SOCKET.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, CniError> {
        Config::parse(text.as_bytes(), Version::LATEST)
    }

    #[test]
    fn a_conflist_of_the_bridge_plugin_is_understood() {
        let config = parse(
            r#"{"cniVersion": "1.0.0", "name": "pods", "type": "netpath-cni", "bridge": "cni0", "isGateway": true,
                "ipMasq": true, "hairpinMode": true, "mtu": 1400, "ipam": {"type": "host-local", "ranges": []},
                "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
                                  "ips": ["10.1.0.9/16"], "mac": "02:00:00:00:00:09"}}"#,
        );
        let config = config.unwrap();
        assert_eq!((config.network(), config.ipam(), config.mtu), ("pods", Some("host-local"), Some(1400)));
        assert_eq!((config.ips(), config.mac()), (&["10.1.0.9/16".to_owned()][..], Some("02:00:00:00:00:09")));
        let mapping = &config.runtime_config.port_mappings[0];
        assert_eq!((mapping.host_port, mapping.container_port, mapping.host_ip.as_str()), (8080, 80, ""));
        assert_eq!(config.socket, PathBuf::from(DEFAULT_SOCKET));
    }

    #[test]
    fn port_mappings_of_containerds_cri_are_understood() {
        let said = r#"{"name": "pods", "runtimeConfig": {"portMappings": [
            {"HostPort": 8080, "ContainerPort": 80, "Protocol": "udp", "HostIP": "192.0.2.1"}]}}"#;
        let config = parse(said).unwrap();
        let mapping =
            PortMapping { host_port: 8080, container_port: 80, protocol: "udp".into(), host_ip: "192.0.2.1".into() };
        assert_eq!(config.runtime_config.port_mappings, [mapping]);
    }

    #[test]
    fn null_is_an_empty_list() {
        let said = r#"{"name": "pods", "prevResult": null, "ipam": null, "subnets": null, "cni.dev/valid-attachments": null,
                       "runtimeConfig": {"portMappings": null, "ips": null, "mac": null}}"#;
        let config = parse(said).unwrap();
        assert_eq!((config.valid_attachments, config.prev_result), (Some(vec![]), None));
        assert!(config.runtime_config.port_mappings.is_empty());
        assert_eq!(parse(r#"{"name": "pods"}"#).unwrap().valid_attachments, None);
    }

    #[test]
    fn both_families_may_be_asked_for() {
        let config =
            parse(r#"{"name": "pods", "subnets": ["10.9.0.0/16", "fd00:9::/64"], "gateway": "10.9.0.1"}"#).unwrap();
        assert_eq!((config.subnets().len(), config.gateways().len(), config.ipam()), (2, 1, None));
    }

    #[test]
    fn what_a_network_cannot_be_is_refused_by_name_and_value() {
        for text in [r#""isGateway": false"#, r#""promiscMode": true"#, r#""vlan": 7"#, r#""vlanTrunk": [{"id": 1}]"#] {
            let error = parse(&format!(r#"{{"name": "pods", {text}}}"#)).unwrap_err();
            assert!(error.is(Code::UnsupportedField), "{error}");
        }
        assert!(parse(r#"{"name": "pods", "isGateway": true, "promiscMode": false, "vlan": 0, "other": 1}"#).is_ok());
        assert!(parse(r#"{"name": ""}"#).unwrap_err().is(Code::InvalidConfig));
        assert!(parse(r#"{"name": "pods", "subnet": "10.0.0.0/33"}"#).unwrap_err().is(Code::Decode));
        assert!(parse("[").unwrap_err().is(Code::Decode));
    }
}
