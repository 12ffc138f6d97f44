//! `netpath inspect`: all that the agent knows about a container, or about itself, as JSON.

use std::process::ExitCode;

use anyhow::Result;

use crate::api::{Container, Info};
use crate::client::{Client, container_path};

pub(super) async fn run(client: &Client, name: Option<&str>) -> Result<ExitCode> {
    match name {
        Some(name) => super::print_json(&client.get::<Container>(&container_path(name)).await?)?,
        None => super::print_json(&client.get::<Info>("/v1/info").await?)?,
    }
    Ok(ExitCode::SUCCESS)
}
