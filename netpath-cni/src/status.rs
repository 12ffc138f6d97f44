//! STATUS: whether an ADD could succeed.

use netpath_agent::api::Network;

use crate::agent::{Agent, Failure};
use crate::error::{CniError, Code};
use crate::{Request, inside, ipam, network};

pub(crate) fn status(request: &Request) -> Result<(), CniError> {
    let agent = Agent::behind(&request.config.socket)?;
    match network::find(&agent, &request.config) {
        Ok(network) => check(&agent, request, &network)?,
        // The first ADD makes it.
        Err(Failure::NotFound(_)) if request.config.network.is_none() => {}
        Err(failure) => return Err(failure.error().with_code(Code::NotAvailable)),
    }
    ipam::pass_on(request, "STATUS").map_err(|error| error.with_code(Code::NotAvailable))
}

fn check(agent: &Agent, request: &Request, network: &Network) -> Result<(), CniError> {
    if let Some(bridge) = &network.bridge
        && inside::host_link(agent, bridge)?.is_none_or(|bridge| !bridge.up)
    {
        let error = format!("bridge {bridge} of network `{}` is down or gone", network.name);
        return Err(CniError::new(Code::LimitedConnectivity, error));
    }
    if request.config.ipam().is_none() && network.is_full {
        let error = format!("network `{}` has no free address", network.name);
        return Err(CniError::new(Code::NotAvailable, error));
    }
    Ok(())
}
