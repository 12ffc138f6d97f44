//! `netpath port`: published ports of a container, as `docker port` shows them.

use std::process::ExitCode;

use anyhow::Result;

use super::format::port_lines;
use crate::api::{Container, PortBinding};
use crate::binding::host_name;
use crate::cli::PortArgs;
use crate::client::{Client, container_path};
use crate::port_spec;

pub(super) async fn run(client: &Client, args: &PortArgs) -> Result<ExitCode> {
    let wanted = args.port.as_deref().map(port_spec::parse_port).transpose()?;
    let container: Container = client.get(&container_path(&args.name)).await?;
    let narrow = |binding: PortBinding| match wanted {
        Some((port, proto)) => binding.at(port).filter(|binding| binding.proto == proto),
        None => Some(binding),
    };
    let ports: Vec<_> = container.ports.into_iter().filter_map(narrow).collect();
    if args.json {
        super::print_json(&ports)?;
    } else if wanted.is_some() {
        let line = |port: &PortBinding| format!("{}\n", host_name(port.host_addr, &port.host_ports()));
        super::print(&ports.iter().map(line).collect::<String>())?;
    } else {
        super::print(&port_lines(&ports))?;
    }
    match wanted {
        Some((port, proto)) if ports.is_empty() => {
            eprintln!("error: no public port '{port}/{proto}' published for {}", args.name);
            Ok(ExitCode::from(super::PROBLEM))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
