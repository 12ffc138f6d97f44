//! The command lines of `netpath link` and `netpath ptp`: clap types only.

use std::net::IpAddr;

use clap::{Args, Subcommand};

use crate::cli::TableArgs;

#[derive(Debug, Subcommand)]
pub enum LinkCommand {
    /// Links a running container to another one, as `run --link` does, but for the environment
    Add(LinkAddArgs),
    /// Removes a link: hosts entry and permission
    Rm(LinkRmArgs),
    /// Lists links
    Ls(TableArgs),
}

#[derive(Debug, Args)]
pub struct LinkAddArgs {
    /// Container that gets the link
    pub container: String,

    /// Container that it leads to, and what it is called
    #[arg(value_name = "NAME[:ALIAS]")]
    pub link: String,
}

#[derive(Debug, Args)]
pub struct LinkRmArgs {
    /// Container that has the link
    pub container: String,

    /// What it calls the other one
    pub alias: String,
}

#[derive(Debug, Subcommand)]
pub enum PtpCommand {
    /// Links two containers
    Create(PtpCreateArgs),
    /// Removes the link between two containers
    Rm(PtpRmArgs),
    /// Lists links from point to point
    Ls(TableArgs),
}

#[derive(Debug, Args)]
pub struct PtpCreateArgs {
    /// The first container
    pub a: String,

    /// The second container
    pub b: String,

    /// Address, given twice for each family: that of the first container, then that of the second [default: two
    /// of 169.254.0.0/16]
    #[arg(long, value_name = "ADDR")]
    pub address: Vec<IpAddr>,
}

#[derive(Debug, Args)]
pub struct PtpRmArgs {
    /// One of the two containers
    pub a: String,

    /// The other one
    pub b: String,
}
