//! The agent, asked one thing after the other.

use std::path::Path;

use netpath_agent::api;
use netpath_agent::client::{BlockingClient, ClientError, container_path, encode};
use netpath_agent::cni::Attachment;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{CniError, Code};

pub(crate) struct Agent(BlockingClient);

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
        BlockingClient::new(socket).map(Self).map_err(|error| CniError::new(Code::Io, format!("{error:#}")))
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.0.get(path).map_err(|error| Failure::of(&error))
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.0.post(path, body).map_err(|error| Failure::of(&error))
    }

    pub(crate) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.0.delete(path).map_err(|error| Failure::of(&error))
    }

    pub(crate) fn delete_from<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.0.delete_from(path, body).map_err(|error| Failure::of(&error))
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
        self.0.block_on(work)
    }
}

impl Failure {
    fn of(error: &anyhow::Error) -> Self {
        let told = CniError::of_agent(error);
        match error.downcast_ref::<ClientError>() {
            Some(error) if error.is_no_agent() => Self::NoAgent(told),
            Some(ClientError::Refused { status: 404, .. }) => Self::NotFound(told),
            Some(ClientError::Refused { status: 409, .. }) => Self::Taken(told),
            _ => Self::Other(told),
        }
    }

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
