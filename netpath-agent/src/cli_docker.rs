//! The command lines of `netpath docker`: clap types only.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::options::DOCKER_SOCKET;

#[derive(Debug, Subcommand)]
pub enum DockerCommand {
    /// Prints what would change on this host; changes nothing, and needs no agent. Exit status 1 if something is in the way
    Plan(DockerPlanArgs),
    /// Takes Docker over: sets dockerd's options, has it restarted, removes its rules; containers go on running
    ///
    /// COMMAND restarts dockerd, such as `systemctl restart docker`. Without it, netpath says when, and waits.
    /// If something fails, dockerd's configuration is as it was before.
    Migrate(DockerMigrateArgs),
}

/// Which Docker Engine.
#[derive(Clone, Debug, Args)]
pub struct EngineArgs {
    /// Socket of Docker Engine
    #[arg(long, value_name = "SOCKET", default_value = DOCKER_SOCKET)]
    pub docker: PathBuf,

    /// dockerd's configuration file [default: as dockerd's command line says, else /etc/docker/daemon.json]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DockerPlanArgs {
    #[command(flatten)]
    pub engine: EngineArgs,

    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DockerMigrateArgs {
    #[command(flatten)]
    pub engine: EngineArgs,

    /// Gives everything back to Docker: its configuration as it was, and its rules
    #[arg(long)]
    pub back: bool,

    /// How long dockerd's restart may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub wait: u64,

    /// Restarts dockerd
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
