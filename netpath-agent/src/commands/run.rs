//! `netpath run`: a command as a container; the work is in [`crate::container`].

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::RunArgs;
use crate::client::Client;
use crate::container::{self, Outcome};

pub(super) fn run(client: &Client, args: RunArgs) -> Result<ExitCode> {
    match container::run(client, args)? {
        Outcome::Detached { name } => {
            super::print(&format!("{name}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Ended { status } => Ok(ExitCode::from(status)),
    }
}
