//! The network that containers are connected to: found, or made as the configuration has it.

use std::net::IpAddr;

use ipnet::IpNet;
use netpath_agent::api::{Network, NetworkCreate, NetworkCreated};
use netpath_agent::client::network_path;

use crate::agent::{Agent, Failure};
use crate::config::Config;
use crate::error::{CniError, Code};
use crate::result::Success;

/// How often to start again when others create and remove the network meanwhile.
const ATTEMPTS: usize = 5;

/// Does `work`, which needs a network; where there is none, it is made as `missing` has it first. One that was made for
/// work that failed is removed again.
pub(crate) fn with<T>(
    agent: &Agent,
    missing: Option<&NetworkCreate>,
    work: impl Fn() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut created = false;
    for _ in 0..ATTEMPTS {
        let failure = match work() {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let (Failure::NotFound(_), Some(missing)) = (&failure, missing) else {
            if let Some(missing) = missing.filter(|_| created) {
                // In use by others, it stays.
                let _ = agent.delete::<Network>(&network_path(&missing.name));
            }
            return Err(failure);
        };
        match agent.post::<NetworkCreated>("/v1/networks", missing) {
            Ok(_) => created = true,
            // Somebody else was faster, or the name is free and something else is taken.
            Err(Failure::Taken(taken)) => {
                agent.get::<Network>(&network_path(&missing.name)).map_err(|_| Failure::Taken(taken))?;
            }
            Err(failure) => return Err(failure),
        }
    }
    let error = "the network is created and removed by others all the time";
    Err(Failure::Other(CniError::new(Code::TryAgain, error)))
}

/// The network of the configuration, for containers that netpath connects.
pub(crate) fn find(agent: &Agent, config: &Config) -> Result<Network, Failure> {
    agent.get(&network_path(config.network()))
}

/// What to make where it is missing; `None` if the configuration counts on one that is there. Addresses that an IPAM
/// plugin gave say which subnets it has.
pub(crate) fn own(config: &Config, given: Option<&Success>) -> Option<NetworkCreate> {
    let (subnets, gateways): (Vec<IpNet>, Vec<IpAddr>) = match given {
        Some(given) => {
            let subnets = given.ips.iter().map(|ip| ip.address.trunc()).collect();
            (subnets, given.ips.iter().filter_map(|ip| ip.gateway).collect())
        }
        None => (config.subnets(), config.gateways()),
    };
    config.network.is_none().then(|| NetworkCreate {
        subnets,
        gateways,
        bridge: config.bridge.clone(),
        ..config.wanted()
    })
}
