//! `netpath network`: networks as `docker network` has them.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::format::{or_dash, table};
use crate::api::{Connect, Container, GatewayMode, Network, NetworkCreate, NetworkCreated, NetworkPatch, Subnet};
use crate::cli_network::{NetworkCommand, NetworkCreateArgs};
use crate::client::{Client, encode, network_path};
use crate::network_labels;
use crate::options::Switch;

pub(super) async fn run(client: &Client, command: NetworkCommand) -> Result<ExitCode> {
    match command {
        NetworkCommand::Create(args) => {
            let created: NetworkCreated = client.post("/v1/networks", &request(*args)?).await?;
            for skipped in &created.skipped {
                eprintln!("note: skipped {skipped}");
            }
            super::print(&format!("{}\n", created.network.name))?;
        }
        NetworkCommand::Rm(args) => return remove(client, &args.names).await,
        NetworkCommand::Ls(args) => {
            let networks: Vec<Network> = client.get("/v1/networks").await?;
            if args.json {
                super::print_json(&networks)?;
            } else {
                super::print(&render(&networks))?;
            }
        }
        NetworkCommand::Inspect(args) => {
            let mut networks = Vec::new();
            for name in &args.names {
                networks.push(client.get::<Network>(&network_path(name)).await?);
            }
            super::print_json(&networks)?;
        }
        NetworkCommand::Connect(args) => {
            let (container, mac) = (args.container, args.mac_address);
            let request = Connect { container, address: args.ip, address6: args.ip6, mac, ..Connect::default() };
            let _: Container = client.post(&format!("{}/endpoints", network_path(&args.network)), &request).await?;
        }
        NetworkCommand::Disconnect(args) => {
            let path = format!("{}/endpoints/{}", network_path(&args.network), encode(&args.container));
            let _: Container = client.delete(&path).await?;
        }
        NetworkCommand::Set(args) => {
            let shortcuts = args.shortcuts.map(|switch| switch == Switch::On);
            let patch = NetworkPatch { icc: args.icc, shortcuts };
            let _: Network = client.patch(&network_path(&args.name), &patch).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &Client, names: &[String]) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for name in names {
        match client.delete::<Network>(&network_path(name)).await {
            Ok(_) => super::print(&format!("{name}\n"))?,
            Err(e) => {
                eprintln!("error: {e:#}");
                status = super::exit_code(&e);
            }
        }
    }
    Ok(status)
}

fn request(args: NetworkCreateArgs) -> Result<NetworkCreate> {
    let mut request = NetworkCreate {
        name: args.name,
        subnets: args.subnet,
        gateways: args.gateway,
        ip_ranges: args.ip_range,
        ipv6: args.ipv6,
        internal: args.internal,
        icc: args.icc,
        masquerade: args.ip_masq,
        shortcuts: args.shortcuts.map(|switch| switch == Switch::On),
        mtu: args.mtu,
        gateway_mode_ipv4: args.gateway_mode_ipv4,
        gateway_mode_ipv6: args.gateway_mode_ipv6,
        trusted: args.trusted,
        bridge: args.bridge,
        binding_addr: None,
        adopt: false,
    };
    for option in &args.opt {
        let (key, value) = option.split_once('=').with_context(|| format!("option `{option}` is not KEY=VALUE"))?;
        if !network_labels::apply(&mut request, key, value)? {
            bail!("unknown option `{key}`");
        }
    }
    Ok(request)
}

fn render(networks: &[Network]) -> String {
    let subnet = |subnet: &Option<Subnet>| or_dash(&subnet.map_or_else(String::new, |s| s.subnet.to_string()));
    let rows = networks.iter().map(|network| {
        let modes = [(&network.v4, network.gateway_mode_ipv4), (&network.v6, network.gateway_mode_ipv6)];
        let modes = modes.iter().filter(|(subnet, _)| subnet.is_some()).map(|(_, mode)| *mode);
        let notes = [
            (network.internal, "internal".to_owned()),
            (!network.icc, "icc off".to_owned()),
            (!network.masquerade, "no masquerade".to_owned()),
            (!network.shortcuts, "no shortcuts".to_owned()),
            (!network.owner.is_netpath(), "adopted".to_owned()),
        ];
        let trusted = (!network.trusted.is_empty(), format!("trusts {}", network.trusted.join(" ")));
        let modes = modes.map(|mode| (mode != GatewayMode::Nat, network_labels::mode_name(mode).to_owned()));
        let mut notes: Vec<String> =
            notes.into_iter().chain(modes).chain([trusted]).filter(|(holds, _)| *holds).map(|(_, note)| note).collect();
        notes.dedup();
        [
            network.name.clone(),
            or_dash(network.bridge.as_deref().unwrap_or_default()),
            subnet(&network.v4),
            subnet(&network.v6),
            network.containers.len().to_string(),
            or_dash(&notes.join(", ")),
        ]
    });
    table(["NAME", "BRIDGE", "SUBNET", "IPV6 SUBNET", "CONTAINERS", "NOTES"], rows)
}
