//! `netpath publish`: publishes more ports of a running container; prints all that it has.

use std::process::ExitCode;

use anyhow::Result;

use super::format::port_lines;
use crate::api::{Container, Ports};
use crate::cli::PublishArgs;
use crate::client::{Client, container_path};

pub(super) async fn run(client: &Client, args: PublishArgs) -> Result<ExitCode> {
    let path = format!("{}/ports", container_path(&args.name));
    let endpoint: Container = client.post(&path, &Ports { ports: args.specs, from: args.from }).await?;
    super::print(&port_lines(&endpoint.ports))?;
    Ok(ExitCode::SUCCESS)
}
