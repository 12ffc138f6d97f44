//! `netpath network`: networks as `docker network` has them.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::format::{or_dash, table};
use crate::api::{Connect, Container, GatewayMode, Network, NetworkCreate, NetworkCreated, NetworkPatch, Subnet};
use crate::cli_network::{NetworkCommand, NetworkCreateArgs};
use crate::client::{Client, encode};

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
                networks.push(client.get::<Network>(&path(name)).await?);
            }
            super::print_json(&networks)?;
        }
        NetworkCommand::Connect(args) => {
            let (container, mac) = (args.container, args.mac_address);
            let request = Connect { container, address: args.ip, address6: args.ip6, mac, ..Connect::default() };
            let _: Container = client.post(&format!("{}/endpoints", path(&args.network)), &request).await?;
        }
        NetworkCommand::Disconnect(args) => {
            let path = format!("{}/endpoints/{}", path(&args.network), encode(&args.container));
            let _: Container = client.delete(&path).await?;
        }
        NetworkCommand::Set(args) => {
            let _: Network = client.patch(&path(&args.name), &NetworkPatch { icc: Some(args.icc) }).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(name: &str) -> String {
    format!("/v1/networks/{}", encode(name))
}

async fn remove(client: &Client, names: &[String]) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for name in names {
        match client.delete::<Network>(&path(name)).await {
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
        mtu: args.mtu,
        gateway_mode_ipv4: args.gateway_mode_ipv4,
        gateway_mode_ipv6: args.gateway_mode_ipv6,
        trusted: args.trusted,
        bridge: args.bridge,
        binding_addr: None,
        adopt: false,
    };
    for option in &args.opt {
        label(&mut request, option)?;
    }
    Ok(request)
}

/// Docker's label `KEY=VALUE` as what it stands for.
fn label(request: &mut NetworkCreate, option: &str) -> Result<()> {
    let (key, value) = option.split_once('=').with_context(|| format!("option `{option}` is not KEY=VALUE"))?;
    let short = key.strip_prefix("com.docker.network.").unwrap_or(key);
    // As Go reads them.
    let boolean = || match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => bail!("{key}: `{value}` is not true or false"),
    };
    match short {
        "bridge.name" => request.bridge = Some(value.to_owned()),
        "bridge.enable_icc" => request.icc = Some(boolean()?),
        "bridge.enable_ip_masquerade" => request.masquerade = Some(boolean()?),
        "bridge.gateway_mode_ipv4" => request.gateway_mode_ipv4 = mode(key, value)?,
        "bridge.gateway_mode_ipv6" => request.gateway_mode_ipv6 = mode(key, value)?,
        "bridge.host_binding_ipv4" => {
            let addr = value.parse::<Ipv4Addr>().with_context(|| format!("{key}: `{value}` is no IPv4 address"))?;
            request.binding_addr = Some(addr.into());
        }
        "bridge.trusted_host_interfaces" => request.trusted.extend(value.split(':').map(str::to_owned)),
        "driver.mtu" => {
            request.mtu = Some(value.parse().with_context(|| format!("{key}: `{value}` is no number of bytes"))?);
        }
        _ => bail!("unknown option `{key}`"),
    }
    Ok(())
}

fn mode(key: &str, value: &str) -> Result<GatewayMode> {
    use GatewayMode::{Isolated, Nat, NatUnprotected, Routed};
    if value.is_empty() {
        return Ok(Nat);
    }
    let found = [Nat, NatUnprotected, Routed, Isolated].into_iter().find(|mode| mode_name(*mode) == value);
    found.with_context(|| {
        format!("{key}: unknown gateway mode `{value}`, want nat, nat-unprotected, routed or isolated")
    })
}

fn mode_name(mode: GatewayMode) -> &'static str {
    match mode {
        GatewayMode::Nat => "nat",
        GatewayMode::NatUnprotected => "nat-unprotected",
        GatewayMode::Routed => "routed",
        GatewayMode::Isolated => "isolated",
    }
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
            (!network.owner.is_netpath(), "adopted".to_owned()),
        ];
        let trusted = (!network.trusted.is_empty(), format!("trusts {}", network.trusted.join(" ")));
        let modes = modes.map(|mode| (mode != GatewayMode::Nat, mode_name(mode).to_owned()));
        let mut notes: Vec<String> =
            notes.into_iter().chain(modes).chain([trusted]).filter(|(holds, _)| *holds).map(|(_, note)| note).collect();
        notes.dedup();
        [
            network.name.clone(),
            network.bridge.clone(),
            subnet(&network.v4),
            subnet(&network.v6),
            network.containers.len().to_string(),
            or_dash(&notes.join(", ")),
        ]
    });
    table(["NAME", "BRIDGE", "SUBNET", "IPV6 SUBNET", "CONTAINERS", "NOTES"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_labels_are_understood() {
        let mut request = NetworkCreate::default();
        for option in [
            "com.docker.network.bridge.enable_icc=0",
            "com.docker.network.bridge.gateway_mode_ipv6=routed",
            "com.docker.network.bridge.trusted_host_interfaces=wg0:eth1",
            "com.docker.network.driver.mtu=1400",
            "bridge.name=br0",
        ] {
            label(&mut request, option).unwrap();
        }
        assert_eq!((request.icc, request.mtu, request.bridge.as_deref()), (Some(false), Some(1400), Some("br0")));
        assert_eq!((request.gateway_mode_ipv6, request.trusted.len()), (GatewayMode::Routed, 2));
        for option in ["x", "com.docker.network.bridge.enable_icc=maybe", "gateway=1", "driver.mtu=x"] {
            assert!(label(&mut request, option).is_err(), "{option}");
        }
    }
}
