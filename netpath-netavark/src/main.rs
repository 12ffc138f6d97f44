//! `netpath-netavark`: a netavark plugin (plugin API 1.0.0). Podman asks it for a network's configuration, netavark to connect
//! a container and to disconnect it. It asks the agent, and keeps nothing.

mod agent;
mod create;
mod network;
mod options;
mod setup;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What is said where the command makes no sense.
const USAGE: &str = "a plugin of netavark: it wants create, setup NETNS, teardown NETNS or info, and JSON on stdin";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (answer, status) = match answer(&arguments) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(json!({ "error": format!("{error:#}") })), ExitCode::FAILURE),
    };
    if let Some(answer) = answer {
        // Who has gone wants no answer.
        let _ = writeln!(std::io::stdout(), "{answer}");
    }
    status
}

fn answer(arguments: &[&str]) -> Result<Option<Value>> {
    match arguments {
        ["create"] => create::create(input()?).map(Some),
        ["setup", netns] => setup::set_up(&input()?, Path::new(netns)).map(Some),
        ["teardown", _] => setup::tear_down(&input()?).map(|()| None),
        ["info"] => Ok(Some(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "api_version": "1.0.0",
            "extra_info": { "agent": options::socket(None) },
        }))),
        _ => bail!(USAGE),
    }
}

fn input<T: DeserializeOwned>() -> Result<T> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("read from stdin")?;
    serde_json::from_str(&text).context("understand the JSON on stdin")
}
