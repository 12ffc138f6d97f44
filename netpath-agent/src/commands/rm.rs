//! `netpath rm`: stops what `netpath run` started and removes the container; goes on past errors.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::api::{Container, Netns};
use crate::cli::RmArgs;
use crate::client::{Client, ClientError, container_path};
use crate::container::process;

/// How long a process has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

pub(super) async fn run(client: &Client, args: &RmArgs) -> Result<ExitCode> {
    let grace = if args.force { Duration::ZERO } else { GRACE };
    let mut status = ExitCode::SUCCESS;
    for name in &args.names {
        match remove(client, name, grace).await {
            Ok(()) => super::print(&format!("{name}\n"))?,
            Err(e) => {
                eprintln!("error: {e:#}");
                status = super::exit_code(&e);
            }
        }
    }
    Ok(status)
}

async fn remove(client: &Client, name: &str, grace: Duration) -> Result<()> {
    let path = container_path(name);
    let endpoint: Container = client.get(&path).await?;
    // Only `netpath run` says what it started; what somebody else started is theirs to stop.
    if let Netns::Pid(pid) = endpoint.netns
        && !endpoint.command.is_empty()
    {
        let start = process::Start { ticks: endpoint.start_ticks, created: endpoint.created };
        process::stop(pid, start, grace).await?;
    }
    match client.delete::<Container>(&path).await {
        // Its namespace ended with the process, and the agent saw it first.
        Err(e) if matches!(e.downcast_ref(), Some(ClientError::Refused { status: 404, .. })) => Ok(()),
        result => result.map(drop),
    }
}
