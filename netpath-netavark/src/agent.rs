//! The agent, asked one thing after the other.

use std::path::Path;

use anyhow::Result;
use netpath_agent::api::Network;
use netpath_agent::client::{BlockingClient, ClientError, network_path};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) struct Agent(BlockingClient);

impl Agent {
    pub(crate) fn behind(socket: &Path) -> Result<Self> {
        BlockingClient::new(socket).map(Self)
    }

    /// What is there; `None` if nothing is.
    pub(crate) fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        allow(404, self.0.get(path))
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.0.post(path, body)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Option<Value>> {
        allow(404, self.0.delete(path))
    }

    pub(crate) fn network(&self, name: &str) -> Result<Option<Network>> {
        self.find(&network_path(name))
    }

    /// Removes the network, unless it has containers.
    pub(crate) fn delete_unused_network(&self, name: &str) -> Result<()> {
        allow(409, self.delete(&network_path(name))).map(drop)
    }
}

/// `None` where the agent refused with `status`.
fn allow<T>(status: u16, answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) => match error.downcast_ref() {
            Some(ClientError::Refused { status: is, .. }) if *is == status => Ok(None),
            _ => Err(error),
        },
    }
}
