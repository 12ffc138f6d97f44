//! What this kernel and this host have and lack for netpath, and what to do about it. Changes nothing on the host:
//! what has to be tried is tried in a network namespace that is gone afterwards.

mod host;
mod interfaces;
mod kernel;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use interfaces::Interface;

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub checks: Vec<Check>,
    /// The host's interfaces but loopback ones and netpath's own.
    pub interfaces: Vec<Interface>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub status: Status,
    pub found: String,
    /// What is lost by it, and what to do; empty where nothing is.
    pub advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Something is missing that netpath does without.
    Warn,
    /// netpath does not work here.
    Fail,
}

/// Looks at everything.
///
/// # Errors
/// If the interfaces cannot be listed.
pub async fn examine() -> Result<Report> {
    let mut checks = kernel::checks();
    checks.extend(kernel::interface_kinds().await);
    checks.extend(host::checks());
    Ok(Report { checks, interfaces: interfaces::all().await? })
}

impl Report {
    /// Whether netpath works here.
    pub fn is_well(&self) -> bool {
        self.checks.iter().all(|check| check.status != Status::Fail)
    }
}

impl Status {
    pub fn shown(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

fn ok(name: &str, found: impl Into<String>) -> Check {
    check(name, Status::Ok, found, "")
}

fn warn(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    check(name, Status::Warn, found, advice)
}

fn fail(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    check(name, Status::Fail, found, advice)
}

fn check(name: &str, status: Status, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name: name.to_owned(), status, found: found.into(), advice: advice.into() }
}

/// A check that could not be made.
fn unknown(name: &str, error: &anyhow::Error) -> Check {
    let advice = if nix::unistd::geteuid().is_root() { "" } else { "ask again as root" };
    warn(name, format!("not known: {error:#}"), advice)
}
