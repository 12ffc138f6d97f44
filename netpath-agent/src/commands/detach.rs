//! `netpath detach`: takes a container's interface away and leaves its processes alone.

use std::process::ExitCode;

use anyhow::Result;

use crate::api::Container;
use crate::client::{Client, container_path};

pub(super) async fn run(client: &Client, name: &str) -> Result<ExitCode> {
    let _was: Container = client.delete(&container_path(name)).await?;
    Ok(ExitCode::SUCCESS)
}
