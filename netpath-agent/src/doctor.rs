//! What this kernel and this host have and lack for netpath, and what to do about it. Changes nothing on the host:
//! what has to be tried is tried in a network namespace that is gone afterwards.

mod host;
mod interfaces;
mod kernel;

use anyhow::Result;
use serde::{Deserialize, Serialize};

pub use interfaces::Interface;

use crate::datapath::Features;
use crate::datapath::trial::{self, Trial};

/// Everything that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub checks: Vec<Check>,
    /// The host's interfaces but loopback ones and netpath's own.
    pub interfaces: Vec<Interface>,
    /// What the kernel says to each program; empty unless that was asked.
    pub programs: Vec<Trial>,
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

/// Looks at everything; with `programs`, which takes seconds, also whether the kernel takes each program.
///
/// # Errors
/// If the interfaces cannot be listed.
pub async fn examine(programs: bool) -> Result<Report> {
    let mut checks = kernel::checks();
    checks.extend(kernel::interface_kinds().await);
    checks.extend(host::checks());
    let programs = if programs { try_programs(&mut checks) } else { Vec::new() };
    Ok(Report { checks, interfaces: interfaces::all().await?, programs })
}

/// What the kernel says to each program, and the check that comes of it.
fn try_programs(checks: &mut Vec<Check>) -> Vec<Trial> {
    const NAME: &str = "programs";
    let trials = match trial::programs(Features::Found) {
        Ok(trials) => trials,
        Err(error) => {
            checks.push(fail(NAME, format!("{error:#}"), "nothing can be loaded"));
            return Vec::new();
        }
    };
    let refused = trials.iter().filter(|trial| !trial.refusal.is_empty()).count();
    checks.push(match refused {
        0 => ok(NAME, format!("the kernel takes all {}", trials.len())),
        _ => fail(NAME, format!("the kernel refuses {refused} of {}", trials.len()), "why is said below"),
    });
    trials
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
