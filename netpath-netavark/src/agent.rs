//! The agent, asked one thing after the other.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use netpath_agent::api::Network;
use netpath_agent::client::{Client, ClientError, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long an answer may take: an agent that has just been started listens some seconds before it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Agent {
    client: Client,
    runtime: Runtime,
}

impl Agent {
    pub(crate) fn behind(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("start a runtime")?;
        Ok(Self { client: Client::new(socket), runtime })
    }

    /// What is there; `None` if nothing is.
    pub(crate) fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        allow(404, self.wait(self.client.get(path)))
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.wait(self.client.post(path, body))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Option<Value>> {
        allow(404, self.wait(self.client.delete(path)))
    }

    pub(crate) fn network(&self, name: &str) -> Result<Option<Network>> {
        self.find(&network_path(name))
    }

    /// Removes the network, unless it has containers.
    pub(crate) fn delete_unused_network(&self, name: &str) -> Result<()> {
        allow(409, self.delete(&network_path(name))).map(drop)
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = self.runtime.block_on(async { timeout(PATIENCE, answer).await });
        answer.with_context(|| format!("the agent has not answered within {PATIENCE:?}"))?
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

fn network_path(name: &str) -> String {
    format!("/v1/networks/{}", encode(name))
}
