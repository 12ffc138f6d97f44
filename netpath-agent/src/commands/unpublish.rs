//! `netpath unpublish`: unpublishes host ports of a running container.

use std::process::ExitCode;

use anyhow::Result;

use crate::api::{Container, Ports};
use crate::cli::UnpublishArgs;
use crate::client::{Client, container_path};

pub(super) async fn run(client: &Client, args: UnpublishArgs) -> Result<ExitCode> {
    let path = format!("{}/ports", container_path(&args.name));
    let _endpoint: Container = client.delete_from(&path, &Ports { ports: args.ports, from: Vec::new() }).await?;
    Ok(ExitCode::SUCCESS)
}
