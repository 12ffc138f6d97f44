//! What `podman network create --opt` may say, and which agent is asked.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use netpath_agent::api::NetworkCreate;

use crate::network::Network;

/// Where the agent listens unless told otherwise.
const SOCKET: &str = "/run/netpath/netpath.sock";
/// Before the names of the networks that are made here: they go when their last container does.
const PREFIX: &str = "podman-";

/// The options of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) socket: Option<PathBuf>,
    /// A network of netpath's that is there, in place of one of Podman's own.
    network: Option<String>,
    mtu: Option<u32>,
    icc: Option<bool>,
    masquerade: Option<bool>,
}

impl Options {
    /// # Errors
    /// If an option is unknown, or its value makes no sense.
    pub(crate) fn of(network: &Network) -> Result<Self> {
        let mut options = Self::default();
        for (name, value) in network.options.iter().flatten() {
            let bad = || format!("option {name}={value} of network `{}`", network.name);
            match name.as_str() {
                "socket" => options.socket = Some(value.into()),
                "network" => options.network = Some(value.clone()),
                "mtu" => options.mtu = Some(value.parse().with_context(bad)?).filter(|mtu| *mtu != 0),
                "icc" => options.icc = Some(value.parse().with_context(bad)?),
                "ip-masq" => options.masquerade = Some(value.parse().with_context(bad)?),
                _ => bail!("{}: there are socket, network, mtu, icc and ip-masq", bad()),
            }
        }
        Ok(options)
    }

    /// What the network is called in netpath.
    pub(crate) fn name_of(&self, network: &Network) -> String {
        self.network.clone().unwrap_or_else(|| format!("{PREFIX}{}", network.name))
    }

    /// What to make where it is missing; `None` if it is somebody else's.
    pub(crate) fn own(&self, network: &Network) -> Option<NetworkCreate> {
        self.network.is_none().then(|| NetworkCreate {
            name: self.name_of(network),
            subnets: network.subnets().iter().map(|subnet| subnet.subnet).collect(),
            gateways: network.subnets().iter().filter_map(|subnet| subnet.gateway).collect(),
            ipv6: network.ipv6_enabled,
            internal: network.internal,
            icc: self.icc,
            masquerade: self.masquerade,
            mtu: self.mtu,
            bridge: network.network_interface.clone().filter(|name| !name.is_empty()),
            ..NetworkCreate::default()
        })
    }
}

/// The socket of the agent: as the network has it, or the environment (`NETPATH_SOCKET`).
pub(crate) fn socket(of_network: Option<PathBuf>) -> PathBuf {
    of_network.or_else(|| std::env::var_os("NETPATH_SOCKET").map(PathBuf::from)).unwrap_or_else(|| SOCKET.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn network(options: serde_json::Value) -> Network {
        let subnets =
            json!([{ "subnet": "10.89.3.0/24", "gateway": "10.89.3.1", "lease_range": { "start_ip": "10.89.3.9" } }]);
        let network =
            json!({ "name": "web", "id": "1", "driver": "netpath-netavark", "subnets": subnets, "options": options });
        serde_json::from_value(network).unwrap()
    }

    #[test]
    fn options_say_what_is_made() {
        let web = network(json!({ "mtu": "1400", "icc": "false", "ip-masq": "true" }));
        let own = Options::of(&web).unwrap().own(&web).unwrap();
        assert_eq!(
            (own.name.as_str(), own.mtu, own.icc, own.masquerade),
            ("podman-web", Some(1400), Some(false), Some(true))
        );
        assert_eq!(
            (own.subnets[0].to_string(), own.gateways[0].to_string()),
            ("10.89.3.0/24".into(), "10.89.3.1".into())
        );
        let other = network(json!({ "network": "bridge" }));
        let options = Options::of(&other).unwrap();
        assert_eq!((options.name_of(&other).as_str(), options.own(&other)), ("bridge", None));
    }

    #[test]
    fn an_option_that_nobody_knows_is_refused_by_name() {
        for (name, value) in [("vlan", "7"), ("mtu", "large"), ("icc", "no")] {
            let error = format!("{:#}", Options::of(&network(json!({ name: value }))).unwrap_err());
            assert!(error.contains(&format!("{name}={value}")), "{error}");
        }
    }

    #[test]
    fn what_is_not_known_passes_through() {
        let web = network(json!({}));
        let again = serde_json::to_value(&web).unwrap();
        assert_eq!((&again["driver"], &again["id"]), (&json!("netpath-netavark"), &json!("1")));
        assert_eq!(again["subnets"][0]["lease_range"]["start_ip"], "10.89.3.9");
    }
}
