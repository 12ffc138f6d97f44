//! Tasks for working on netpath: `cargo xtask TASK`. Each task's work is in the file of its name.

mod apt;
mod bench;
mod ci;
mod cni_tools;
mod cnitool;
mod conformance;
mod demo;
mod differential;
mod docker_proxy;
mod fuzz;
mod linker;
mod lint;
mod newest;
mod pages;
mod podman;
mod process;
mod rules;
mod run;
mod setup;
mod test;
mod toolchain;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks for working on netpath.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build, run and test; says what it finds and does
    Setup {
        /// Only what it takes to build and run the agent
        #[arg(long)]
        agent: bool,
    },
    /// Start the agent on this host's interfaces, in the foreground (root)
    Run {
        /// Options of `netpath agent`
        #[arg(last = true, value_name = "AGENT OPTIONS")]
        args: Vec<OsString>,
    },
    /// Show netpath at work, in network namespaces of its own (root)
    Demo {
        /// Options of the demo
        #[arg(last = true, value_name = "DEMO OPTIONS")]
        args: Vec<OsString>,
    },
    /// Run all tests, or those whose name contains FILTER
    Test {
        /// Filters and options of `cargo nextest run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FILTER")]
        args: Vec<OsString>,
    },
    /// Check format, clippy and the rules of CONTRIBUTING.md
    Lint,
    /// Measure; the options are the bench's own
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "BENCH OPTIONS")]
        args: Vec<OsString>,
    },
    /// Send random packets through netpath, Docker's rules and a reference model, and compare; the options are those of the
    /// comparison: --packets, --seed, ... (root)
    Differential {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        args: Vec<OsString>,
    },
    /// Feed parsers and decisions with what libFuzzer thinks of, or the loaded programs with random frames
    Fuzz(fuzz::Options),
    /// Run the conformance tests and write docs/conformance.md (root)
    Conformance {
        /// Run nothing: write what the last tests saw
        #[arg(long)]
        tables: bool,
    },
    /// Boot test machines with other kernels and do something in them; nothing touches this host:
    /// `cargo xtask vm 6.12 -- demo`, `cargo xtask vm -- test published_port`, `cargo xtask vm sid -- run`
    Vm(vm::Options),
    /// Do what CI does: lint, bench --check, then all tests
    Ci,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup { agent } => {
            let scope = if agent { setup::Scope::Agent } else { setup::Scope::Fuzz };
            setup::ensure(scope, setup::Report::Full).map(|()| ExitCode::SUCCESS)
        }
        Task::Run { args } => run::run(&args),
        Task::Demo { args } => demo::run(&args),
        Task::Test { args } => test::run(&args),
        Task::Lint => lint::run(),
        Task::Bench { args } => bench::run(&args),
        Task::Differential { args } => differential::run(&args),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Conformance { tables } => conformance::run(tables),
        Task::Vm(options) => vm::run(&options),
        Task::Ci => ci::run(),
    }
}
