//! `netpath link`: links of running containers.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Result;

use super::format::{or_dash, table};
use crate::api::{Container, LinkAdd};
use crate::binding::span;
use crate::cli_link::LinkCommand;
use crate::client::{Client, container_path, encode};

pub(super) async fn run(client: &Client, command: LinkCommand) -> Result<ExitCode> {
    match command {
        LinkCommand::Add(args) => {
            let path = format!("{}/links", container_path(&args.container));
            let _: Container = client.post(&path, &LinkAdd { link: args.link }).await?;
        }
        LinkCommand::Rm(args) => {
            let path = format!("{}/links/{}", container_path(&args.container), encode(&args.alias));
            let _: Container = client.delete(&path).await?;
        }
        LinkCommand::Ls(args) => {
            let containers: Vec<Container> = client.get("/v1/containers").await?;
            if args.json {
                let all = containers.iter().filter(|container| !container.links.is_empty());
                let all: serde_json::Map<_, _> = all
                    .map(|container| Ok((container.name.clone(), serde_json::to_value(&container.links)?)))
                    .collect::<Result<_, serde_json::Error>>()?;
                super::print_json(&all)?;
            } else {
                super::print(&render(&containers))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn render(containers: &[Container]) -> String {
    let rows = containers.iter().flat_map(|container| {
        container.links.iter().map(|link| {
            let target = containers.iter().find(|other| other.name == link.name);
            let ports = target.map(open_ports).unwrap_or_default();
            let address = target.and_then(|target| target.address).map(|addr| addr.to_string()).unwrap_or_default();
            [container.name.clone(), link.alias.clone(), link.name.clone(), or_dash(&address), or_dash(&ports)]
        })
    });
    table(["CONTAINER", "ALIAS", "TARGET", "ADDRESS", "EXPOSED"], rows)
}

/// What a link opens: exposed ports, and published ones, which are exposed too.
fn open_ports(target: &Container) -> String {
    let published = target.ports.iter().map(|port| format!("{}/{}", span(&port.container_ports()), port.proto));
    let ports: BTreeSet<String> = target.expose.iter().cloned().chain(published).collect();
    ports.into_iter().collect::<Vec<_>>().join(", ")
}
