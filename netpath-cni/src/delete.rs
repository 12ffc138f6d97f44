//! DEL and GC: taking attachments away, as far as that is possible, also without an agent.

use netpath_agent::api::{Container, Endpoint, Ports};
use netpath_agent::client::container_path;
use netpath_agent::cni::{self, Attachment};

use crate::agent::{Agent, Failure};
use crate::error::{CniError, Code, all};
use crate::result::Success;
use crate::{Request, inside, ipam, ports};

pub(crate) fn delete(request: &Request) -> Result<(), CniError> {
    let agent = Agent::behind(&request.config.socket)?;
    let removed = match remove(&agent, request) {
        Err(Failure::NoAgent(_)) => remove_without_agent(&agent, request),
        removed => removed.map_err(Failure::error),
    };
    // Last: nobody is to get the address while the container may still have it.
    let passed_on = ipam::pass_on(request, "DEL");
    all([removed, passed_on].into_iter().filter_map(Result::err).collect())
}

/// Removes every attachment to the network that the runtime does not list.
pub(crate) fn collect(request: &Request) -> Result<(), CniError> {
    // Go's library leaves the key out where its caller named none; the specification requires it.
    let missing = || {
        let name = &request.config.name;
        let why = "`cni.dev/valid-attachments` is missing, and nothing was removed (an empty list removes everything)";
        CniError::new(Code::InvalidConfig, format!("collect the garbage of `{name}`: {why}"))
    };
    let valid = request.config.valid_attachments.as_ref().ok_or_else(missing)?;
    let agent = Agent::behind(&request.config.socket)?;
    let containers: Vec<Container> = agent.get("/v1/containers")?;
    let is_valid = |container: &Container, endpoint: &Endpoint| {
        valid.iter().any(|one| one.container == container.name && one.ifname == endpoint.interface)
    };
    let mut errors = Vec::new();
    for container in &containers {
        let own = container.endpoints.iter().filter(|endpoint| endpoint.cni.as_ref() == Some(&request.config.name));
        for endpoint in own.filter(|endpoint| !is_valid(container, endpoint)) {
            let attachment = Attachment {
                network: request.config.name.clone(),
                container: container.name.clone(),
                interface: endpoint.interface.clone(),
            };
            errors.extend(agent.remove(&attachment).err().map(Failure::error));
        }
    }
    errors.extend(ipam::pass_on(request, "GC").err());
    all(errors)
}

fn remove(agent: &Agent, request: &Request) -> Result<(), Failure> {
    let mappings = &request.config.runtime_config.port_mappings;
    if !mappings.is_empty() {
        unpublish(agent, request)?;
    }
    agent.remove(&request.attachment()).map(drop)
}

/// Where the container goes on with other interfaces, its ports would lead there.
fn unpublish(agent: &Agent, request: &Request) -> Result<(), Failure> {
    let Some(container) = agent.container(&request.environment.container)? else { return Ok(()) };
    let is_first = container.endpoints.first().is_some_and(|endpoint| request.is_about(endpoint));
    if !is_first || container.endpoints.len() < 2 {
        return Ok(());
    }
    let mappings = &request.config.runtime_config.port_mappings;
    let missing = ports::missing(mappings, &container);
    let there: Vec<_> = mappings.iter().filter(|mapping| !missing.contains(mapping)).cloned().collect();
    if there.is_empty() {
        return Ok(());
    }
    let ports = ports::published(&there).map_err(Failure::Other)?;
    let path = format!("{}/ports", container_path(&container.name));
    agent.delete_from::<Container>(&path, &Ports { ports, from: Vec::new() }).map(drop)
}

/// The interface goes; for what the agent alone can do it finds a note when it is back.
fn remove_without_agent(agent: &Agent, request: &Request) -> Result<(), CniError> {
    let note = request.attachment().note_removal(&request.config.socket);
    let note = note.map_err(|error| CniError::new(Code::Io, format!("{error:#}")))?;
    // An agent that came up meanwhile may have looked for notes too early. One that answers has.
    match remove(agent, request) {
        Err(Failure::NoAgent(_)) => delete_interface(agent, request),
        removed => {
            if removed.is_ok() {
                let _ = std::fs::remove_file(note);
            }
            removed.map_err(Failure::error)
        }
    }
}

/// Deletes the container's veth pair by its host's end, which says whose it is; the namespace may be gone. An interface
/// that another plugin has made is that one's.
fn delete_interface(agent: &Agent, request: &Request) -> Result<(), CniError> {
    let Some(before) = &request.config.prev_result else { return Ok(()) };
    let before = Success::parse(before)?;
    let named = |name: &str| before.interfaces.iter().any(|known| known.sandbox.is_empty() && known.name == name);
    let mut errors = Vec::new();
    for link in inside::host_links(agent)?.iter().filter(|link| named(&link.ifname)) {
        let alias = link.alias.as_deref().unwrap_or_default();
        if cni::is_veth_of(alias, &request.environment.container) {
            errors.extend(inside::delete_host_link(agent, link.ifindex).err());
        }
    }
    all(errors)
}
