//! Errors as the specification has them: a code, a short message, details.

use std::fmt;

use netpath_agent::client::ClientError;
use serde_json::{Value, json};

use crate::version::Version;

/// CNI SPEC 1.1.0, section 5, "Error"; from 100 on they are this plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    InvalidConfig = 7,
    TryAgain = 11,
    NotAvailable = 50,
    /// And containers that are there may be cut off.
    LimitedConnectivity = 51,
    /// Somebody else has the address, the port or the interface name.
    Taken = 100,
    /// The agent tried and failed.
    Agent = 101,
    /// A container's network is not what it was made to be.
    Changed = 102,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    code: u64,
    message: String,
    details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code as u64, message: message.into(), details: String::new() }
    }

    /// What a delegated plugin said went wrong, or that it said nothing.
    pub(crate) fn of_plugin(plugin: &str, stdout: &[u8]) -> Self {
        let told: Value = serde_json::from_slice(stdout).unwrap_or_default();
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        Self {
            code: told["code"].as_u64().unwrap_or(Code::Agent as u64),
            message: format!("{plugin}: {}", if told["msg"].is_string() { text("msg") } else { "failed".to_owned() }),
            details: text("details"),
        }
    }

    /// An error of the agent, or on the way to it.
    pub(crate) fn of_agent(error: &anyhow::Error) -> Self {
        let code = match error.downcast_ref::<ClientError>() {
            Some(ClientError::Unreachable { .. } | ClientError::Late(_)) => Code::TryAgain,
            Some(ClientError::Refused { status: 400 | 404, .. }) => Code::InvalidConfig,
            Some(ClientError::Refused { status: 409, .. }) => Code::Taken,
            _ => Code::Agent,
        };
        Self::new(code, format!("{error:#}"))
    }

    pub(crate) fn with_code(self, code: Code) -> Self {
        Self { code: code as u64, ..self }
    }

    #[cfg(test)]
    pub(crate) fn is(&self, code: Code) -> bool {
        self.code == code as u64
    }

    /// Adds what went wrong besides.
    pub(crate) fn and(self, other: &Self) -> Self {
        let details = if self.details.is_empty() { other.to_string() } else { format!("{}; {other}", self.details) };
        Self { details, ..self }
    }

    pub(crate) fn json(&self, version: &Version) -> Value {
        json!({ "cniVersion": version.name(), "code": self.code, "msg": self.message, "details": self.details })
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, " ({})", self.details) }
    }
}

/// All of them as one; `Ok` for none.
pub(crate) fn all(errors: Vec<CniError>) -> Result<(), CniError> {
    match errors.into_iter().reduce(|one, other| one.and(&other)) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_what_the_specification_says() {
        let error = CniError::new(Code::Taken, "port 80 is taken").and(&CniError::new(Code::Io, "and more"));
        let expected = json!({"cniVersion": "1.1.0", "code": 100, "msg": "port 80 is taken", "details": "and more"});
        assert_eq!(error.json(&Version::LATEST), expected);
    }

    #[test]
    fn a_delegated_plugins_error_is_passed_on() {
        let error = CniError::of_plugin("host-local", br#"{"code": 7, "msg": "no range", "details": "none"}"#);
        assert!(error.is(Code::InvalidConfig), "{error}");
        assert_eq!(error.to_string(), "host-local: no range (none)");
        assert_eq!(CniError::of_plugin("dhcp", b"").to_string(), "dhcp: failed");
    }

    #[test]
    fn what_the_agent_refuses_has_a_code_of_its_own() {
        let refused = |status| {
            let error = ClientError::Refused { status, message: "no".to_owned() };
            CniError::of_agent(&error.into())
        };
        assert!(refused(400).is(Code::InvalidConfig) && refused(409).is(Code::Taken) && refused(500).is(Code::Agent));
        let error = ClientError::Unreachable { socket: "/x".into(), cause: std::io::ErrorKind::NotFound.into() };
        assert!(CniError::of_agent(&error.into()).is(Code::TryAgain));
    }
}
