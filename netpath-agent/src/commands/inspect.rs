//! `netpath inspect`: all that the agent knows about a container or the network, as JSON.

use std::process::ExitCode;

use anyhow::Result;

use crate::api::{Endpoint, Network};
use crate::client::{Client, encode};

pub(super) async fn run(client: &Client, name: Option<&str>) -> Result<ExitCode> {
    match name {
        Some(name) => super::print_json(&client.get::<Endpoint>(&format!("/v1/endpoints/{}", encode(name))).await?)?,
        None => super::print_json(&client.get::<Network>("/v1/network").await?)?,
    }
    Ok(ExitCode::SUCCESS)
}
