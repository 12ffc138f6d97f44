//! `netpath down`: removes everything, through the agent or, where none runs, by itself.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::api::Down;
use crate::cli::DownArgs;
use crate::client::{Client, ClientError};
use crate::options::{default_pin_dir, default_state_dir};
use crate::teardown;

pub(super) async fn run(client: &Client, socket: &Path, args: DownArgs) -> Result<ExitCode> {
    let errors = match client.post::<Down>("/v1/down", &()).await {
        Ok(answer) => answer.errors,
        Err(e) if e.downcast_ref().is_some_and(ClientError::is_no_agent) => {
            let state_dir = args.state_dir.unwrap_or_else(|| default_state_dir(socket));
            let pin_dir = args.pin_dir.unwrap_or_else(|| default_pin_dir(socket));
            let errors = teardown::down(&state_dir, &pin_dir).await;
            errors.iter().map(|e| format!("{e:#}")).collect()
        }
        Err(e) => return Err(e),
    };
    for error in &errors {
        eprintln!("error: {error}");
    }
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(super::PROBLEM) })
}
