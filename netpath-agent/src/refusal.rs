//! Requests that the agent refuses: the caller's doing, not a failure. The server answers them with
//! their own status.

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    /// It would, but somebody else has what it wants.
    #[error("{0}")]
    Taken(String),
}

impl Refusal {
    pub fn no_container(name: &str) -> Self {
        Self::NotFound(format!("no container is called `{name}`"))
    }

    pub fn no_network(name: &str) -> Self {
        Self::NotFound(format!("network {name} not found"))
    }

    pub fn invalid(error: impl std::fmt::Display) -> Self {
        Self::Invalid(format!("{error:#}"))
    }
}
