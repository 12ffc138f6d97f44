//! `netpath agent`: the agent in the foreground, until SIGINT or SIGTERM.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::daemon;
use crate::memory;
use crate::options::{AgentFlags, Options};

pub(super) fn run(flags: AgentFlags, socket: &Path) -> Result<ExitCode> {
    memory::share();
    let options = Options::resolve(flags, socket)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
        let shutdown = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        daemon::run(options, shutdown).await
    })?;
    Ok(ExitCode::SUCCESS)
}
