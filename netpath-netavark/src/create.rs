//! `create`: completes the configuration of a network that Podman is about to keep. The agent gets it when its first container
//! does: Podman does not tell when it removes a network.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use netpath_agent::api::NetworkCreated;
use serde_json::Value;

use crate::agent::Agent;
use crate::network::{Network, Subnet};
use crate::options::{Options, socket};

pub(crate) fn create(mut network: Network) -> Result<Value> {
    let options = Options::of(&network)?;
    let agent = Agent::behind(&socket(options.socket.clone()))?;
    let name = options.name_of(&network);
    let found = match options.own(&network) {
        Some(own) => {
            // That it can be made is best seen by making it, and where it lands.
            let made = agent.post::<NetworkCreated>("/v1/networks", &own);
            let made = made.with_context(|| format!("create network `{}`", network.name))?;
            agent.delete_unused_network(&name)?;
            made.network
        }
        None => match agent.network(&name)? {
            Some(found) => found,
            None => bail!("netpath has no network `{name}` (see: netpath network ls)"),
        },
    };
    if network.subnets().is_empty() {
        let subnets = [found.v4, found.v6].into_iter().flatten();
        network.subnets = Some(subnets.map(|subnet| Subnet::new(subnet.subnet, subnet.bridge)).collect());
    }
    network.network_interface = found.bridge;
    network.ipv6_enabled |= found.v6.is_some();
    // Podman picks the addresses, as it does for its own bridges; nobody answers names.
    network.ipam_options.get_or_insert_with(|| BTreeMap::from([("driver".to_owned(), "host-local".to_owned())]));
    network.dns_enabled = false;
    serde_json::to_value(network).context("write the network's configuration")
}
