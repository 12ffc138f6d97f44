//! The subcommands, one file each. Here: which one runs, in what runtime, and the exit status.

mod agent;
mod attach;
mod conntrack;
mod detach;
mod docker;
mod doctor;
mod down;
mod format;
mod inspect;
mod link;
mod monitor;
mod network;
mod port;
mod ps;
mod ptp;
mod publish;
mod rm;
mod rules;
mod run;
mod stats;
mod unpublish;

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::client::{Client, ClientError};

/// Exit status where the request was refused or something was not found.
const PROBLEM: u8 = 1;
/// Exit status where the command could not do its work at all.
const COULD_NOT_RUN: u8 = 2;

/// What the program does: log, parse, run.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // `RUST_LOG=netpath_agent=debug netpath agent` says more.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi).with_target(false).init();
    match dispatch(cli) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            exit_code(&e)
        }
    }
}

/// Runs the subcommand that was given.
fn dispatch(cli: Cli) -> Result<ExitCode> {
    let client = Client::new(&cli.socket);
    match cli.command {
        Command::Agent(flags) => agent::run(*flags, &cli.socket),
        // Not in a runtime: it forks.
        Command::Run(args) => run::run(&client, args),
        Command::Attach(args) => block_on(attach::run(&client, args))?,
        Command::Detach(args) => block_on(detach::run(&client, &args.name))?,
        Command::Rm(args) => block_on(rm::run(&client, &args))?,
        Command::Ps(args) => block_on(ps::run(&client, args.json))?,
        Command::Port(args) => block_on(port::run(&client, &args))?,
        Command::Inspect(args) => block_on(inspect::run(&client, args.name.as_deref()))?,
        Command::Network(command) => block_on(network::run(&client, command))?,
        Command::Publish(args) => block_on(publish::run(&client, args))?,
        Command::Unpublish(args) => block_on(unpublish::run(&client, args))?,
        Command::Link(command) => block_on(link::run(&client, command))?,
        Command::Ptp(command) => block_on(ptp::run(&client, command))?,
        Command::Rules(args) => block_on(rules::run(&client, args.json))?,
        Command::Conntrack(args) => block_on(conntrack::run(&client, &args))?,
        Command::Stats(args) => block_on(stats::run(&client, args.json))?,
        Command::Monitor(args) => block_on(monitor::run(&client, args.json))?,
        Command::Doctor(args) => block_on(doctor::run(&args))?,
        Command::Docker(command) => block_on(docker::run(&client, command))?,
        Command::Down(args) => block_on(down::run(&client, &cli.socket, args))?,
    }
}

/// The exit status for an error that ended a subcommand.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(ClientError::Refused { .. }) => ExitCode::from(PROBLEM),
        Some(ClientError::Unreachable { .. } | ClientError::Late(_)) | None => ExitCode::from(COULD_NOT_RUN),
    }
}

/// Runs `future` on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    Ok(runtime.block_on(future))
}

/// Writes `text` to stdout. A reader that went away (`netpath ps | head -1`) ends the process quietly.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("write to stdout"),
    }
}

fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value).context("encode JSON")? + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_problem_and_a_missing_agent_means_could_not_run() {
        let refused = ClientError::Refused { status: 404, message: "no container `x`".to_owned() };
        let unreachable = ClientError::Unreachable { socket: "/x".into(), cause: io::ErrorKind::NotFound.into() };
        let same = |code: ExitCode, expected: u8| format!("{code:?}") == format!("{:?}", ExitCode::from(expected));
        assert!(same(exit_code(&refused.into()), 1));
        assert!(same(exit_code(&unreachable.into()), 2));
        assert!(same(exit_code(&anyhow::anyhow!("x")), 2));
    }
}
