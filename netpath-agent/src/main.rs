//! The binary `netpath`: log, parse, dispatch.

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use clap::Parser;
use netpath_agent::cli::Cli;
use netpath_agent::commands;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // `RUST_LOG=netpath_agent=debug netpath agent` says more.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(ansi).with_target(false).init();
    match commands::dispatch(cli) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            commands::exit_code(&e)
        }
    }
}
