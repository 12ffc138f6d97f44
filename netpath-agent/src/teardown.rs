//! Takes everything down that netpath has set up, with an agent or without one. Goes on past errors and
//! returns them all.

use std::path::Path;

use anyhow::{Context, Error, Result, anyhow};

use crate::agent::{Agent, DEFAULT_NETWORK_INDEX};
use crate::datapath::{self, Remains};
use crate::endpoints;
use crate::host;
use crate::netlink::Netlink;
use crate::state::{Network, State};
use crate::store::{Loaded, Store};

/// Takes down what lies behind `state_dir` and `pin_dir`, where no agent runs.
pub async fn down(state_dir: &Path, pin_dir: &Path) -> Vec<Error> {
    let netlink = match Netlink::connect() {
        Ok(netlink) => netlink,
        Err(error) => return vec![error],
    };
    if !state_dir.exists() {
        return data_plane(pin_dir, &netlink).await;
    }
    let store = match Store::open(state_dir) {
        Ok(store) => store,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    let state = match store.load(&host::boot_id().unwrap_or_default()) {
        Ok(Loaded::State(state)) => Some(state),
        Ok(Loaded::Nothing) => None,
        // Of what is not known the machine's end has left nothing.
        Ok(Loaded::Corrupt { networks: Some(networks), .. }) => Some(networks),
        Ok(Loaded::Corrupt { moved_to, error, networks: None }) => {
            errors.push(anyhow!(
                "the state was corrupt ({error:#}) and is set aside as {}: remove bridge and veths yourself, \
                 their alias (`ip link show`) begins with `netpath`",
                moved_to.display()
            ));
            None
        }
        Err(error) => {
            errors.push(error);
            None
        }
    };
    let default = state.as_ref().and_then(|state| state.networks.get(&DEFAULT_NETWORK_INDEX));
    let bridge = default.and_then(|network| network.bridge.clone()).unwrap_or_default();
    errors.extend(remove(state.as_ref(), &bridge, pin_dir, &netlink).await);
    errors.extend(store.remove().err());
    errors
}

/// Takes down what `agent` has set up.
pub async fn agent(agent: Agent) -> Vec<Error> {
    let Agent { options, store, state, datapath, netlink, .. } = agent;
    // What it holds open would stay attached.
    drop(datapath);
    let mut errors = remove(Some(&state), &options.bridge, &options.pin_dir, &netlink).await;
    errors.extend(store.remove().err());
    errors
}

/// Containers first: without programs their packets would leave with their own addresses.
async fn remove(state: Option<&State>, bridge: &str, pin_dir: &Path, netlink: &Netlink) -> Vec<Error> {
    let mut errors = Vec::new();
    if let Some(state) = state {
        errors.extend(remove_veths(state, bridge, netlink).await);
        errors.extend(remove_wires(state).await);
    }
    errors.extend(data_plane(pin_dir, netlink).await);
    if let Some(state) = state {
        for network in state.networks.values() {
            errors.extend(remove_bridge(network, netlink).await.err());
        }
    }
    errors
}

/// Takes the data plane down, and the qdiscs that were made for it.
pub(crate) async fn data_plane(pin_dir: &Path, netlink: &Netlink) -> Vec<Error> {
    let Remains { mut errors, qdiscs } = datapath::teardown(pin_dir);
    for ifindex in qdiscs {
        errors.extend(netlink.delete_unused_clsact(ifindex).await.err());
    }
    errors
}

/// `bridge` is the default network's, which is in the aliases.
async fn remove_veths(state: &State, bridge: &str, netlink: &Netlink) -> Vec<Error> {
    let mut errors = Vec::new();
    for endpoint in state.endpoints.values().filter(|endpoint| !state.is_adopted(endpoint.network)) {
        let removed = async {
            // By name and alias: after a reboot the interface index may be somebody else's.
            let link = netlink.link(&endpoint.ifname).await?;
            let alias = endpoints::alias(bridge, &endpoint.container);
            match link.filter(|link| link.alias.as_ref() == Some(&alias)) {
                Some(link) => netlink.delete_link(link.ifindex).await,
                None => Ok(()),
            }
        };
        errors.extend(removed.await.with_context(|| format!("disconnect container `{}`", endpoint.container)).err());
    }
    errors
}

/// After a reboot the processes that the state names are others.
async fn remove_wires(state: &State) -> Vec<Error> {
    let mut errors = Vec::new();
    if host::boot_id().is_ok_and(|boot_id| boot_id == state.boot_id) {
        for ptp in &state.ptps {
            errors.extend(ptp.remove(&state.containers).await);
        }
    }
    errors
}

async fn remove_bridge(network: &Network, netlink: &Netlink) -> Result<()> {
    let Some(bridge) = network.bridge.as_ref().filter(|_| network.created) else { return Ok(()) };
    let remove = async {
        match netlink.link(bridge).await?.filter(|link| link.bridge) {
            Some(link) => netlink.delete_link(link.ifindex).await,
            None => Ok(()),
        }
    };
    remove.await.with_context(|| format!("remove bridge {bridge}"))
}
