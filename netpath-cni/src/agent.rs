//! The agent, asked one thing after the other.

use std::path::Path;
use std::time::Duration;

use netpath_agent::api;
use netpath_agent::client::{Client, ClientError, encode};
use netpath_agent::cni::Attachment;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

use crate::error::{CniError, Code};

/// How long an answer may take: an agent that has just been started listens some seconds before it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Agent {
    client: Client,
    runtime: Runtime,
}

/// Why the agent did not answer with what was asked for.
pub(crate) enum Failure {
    /// Nobody listens.
    NoAgent(CniError),
    /// There is no such thing.
    NotFound(CniError),
    /// Somebody else has it.
    Taken(CniError),
    Other(CniError),
}

impl Agent {
    pub(crate) fn behind(socket: &Path) -> Result<Self, CniError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CniError::new(Code::Io, format!("start a runtime: {error}")))?;
        Ok(Self { client: Client::new(socket), runtime })
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.wait(self.client.get(path))
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.wait(self.client.post(path, body))
    }

    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.wait(self.client.delete(path))
    }

    pub(crate) fn delete_from<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.wait(self.client.delete_from(path, body))
    }

    /// The container, if there is one of that name.
    pub(crate) fn container(&self, name: &str) -> Result<Option<api::Container>, Failure> {
        match self.get(&container_path(name)) {
            Ok(container) => Ok(Some(container)),
            Err(Failure::NotFound(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(crate) fn remove(&self, attachment: &Attachment) -> Result<api::Deleted, Failure> {
        let Attachment { network, container, interface } = attachment;
        self.delete(&format!("/v1/cni/{}/{}/{}", encode(network), encode(container), encode(interface)))
    }

    /// Runs `work` to its end on this thread.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn wait<T>(&self, answer: impl Future<Output = anyhow::Result<T>>) -> Result<T, Failure> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
        let late = || CniError::new(Code::TryAgain, format!("the agent has not answered within {PATIENCE:?}"));
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => return Err(Failure::Other(late())),
        };
        let told = CniError::of_agent(&error);
        Err(match error.downcast_ref::<ClientError>() {
            Some(error) if error.is_no_agent() => Failure::NoAgent(told),
            Some(ClientError::Refused { status: 404, .. }) => Failure::NotFound(told),
            Some(ClientError::Refused { status: 409, .. }) => Failure::Taken(told),
            _ => Failure::Other(told),
        })
    }
}

impl Failure {
    pub(crate) fn error(self) -> CniError {
        match self {
            Self::NoAgent(error) | Self::NotFound(error) | Self::Taken(error) | Self::Other(error) => error,
        }
    }
}

impl From<Failure> for CniError {
    fn from(failure: Failure) -> Self {
        failure.error()
    }
}

pub(crate) fn container_path(name: &str) -> String {
    format!("/v1/containers/{}", encode(name))
}

pub(crate) fn network_path(name: &str) -> String {
    format!("/v1/networks/{}", encode(name))
}
