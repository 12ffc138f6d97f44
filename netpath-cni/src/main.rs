//! `netpath-cni`: a plugin of the Container Network Interface, versions 0.3.0 to 1.1.0. It asks the agent; what it does
//! itself is the protocol. Speaks JSON on stdin and stdout, as the specification has it (SPEC.md of version 1.1.0).

mod add;
mod agent;
mod chained;
mod check;
mod config;
mod delete;
mod environment;
mod error;
mod inside;
mod ipam;
mod network;
mod ports;
mod result;
mod status;
mod version;

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::Value;

use crate::config::Config;
use crate::environment::{Command, Environment};
use crate::error::{CniError, Code};

/// What the runtime asks for.
struct Request {
    environment: Environment,
    config: Config,
    /// The configuration as it came, for delegated plugins.
    raw: Vec<u8>,
}

fn main() -> ExitCode {
    let mut raw = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut raw);
    let read = read.map_err(|error| CniError::new(Code::Io, format!("read the configuration from stdin: {error}")));
    let version = version::in_use(&raw);
    let answer = match read.and_then(|_| answer(raw)) {
        Ok(answer) => answer,
        Err(error) => {
            // The answer is for programs; people look here.
            eprintln!("netpath-cni: {error}");
            print(&error.json(&version));
            return ExitCode::FAILURE;
        }
    };
    answer.iter().for_each(print);
    ExitCode::SUCCESS
}

fn answer(raw: Vec<u8>) -> Result<Option<Value>, CniError> {
    let command = Command::from_env()?;
    if command == Command::Version {
        return version::report(&raw).map(Some);
    }
    let version = version::of(&raw)?;
    let environment = Environment::read(command)?;
    environment.command.require(version)?;
    let request = Request { environment, config: Config::parse(&raw, version)?, raw };
    match command {
        Command::Add => add::add(&request).map(Some),
        Command::Del => delete::delete(&request).map(|()| None),
        Command::Check => check::check(&request).map(|()| None),
        Command::Status => status::status(&request).map(|()| None),
        Command::Gc => delete::collect(&request).map(|()| None),
        Command::Version => Ok(None),
    }
}

fn print(value: &Value) {
    // A runtime that has gone wants no answer.
    let _ = writeln!(std::io::stdout(), "{value}");
}
