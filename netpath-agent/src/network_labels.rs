//! Docker's labels and options of a network, as what they stand for. Pure.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};

use crate::api::{GatewayMode, NetworkCreate};

/// Makes `request` what Docker's option says; `false` if netpath does not know it.
///
/// # Errors
/// If the value is none for the option.
pub fn apply(request: &mut NetworkCreate, key: &str, value: &str) -> Result<bool> {
    let short = key.strip_prefix("com.docker.network.").unwrap_or(key);
    match short {
        "bridge.name" => request.bridge = Some(value.to_owned()),
        "bridge.enable_icc" => request.icc = Some(boolean(key, value)?),
        "bridge.enable_ip_masquerade" => request.masquerade = Some(boolean(key, value)?),
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
        _ => return Ok(false),
    }
    Ok(true)
}

/// As Go reads them.
///
/// # Errors
/// If it is none.
pub fn boolean(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => bail!("{key}: `{value}` is not true or false"),
    }
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

pub fn mode_name(mode: GatewayMode) -> &'static str {
    match mode {
        GatewayMode::Nat => "nat",
        GatewayMode::NatUnprotected => "nat-unprotected",
        GatewayMode::Routed => "routed",
        GatewayMode::Isolated => "isolated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_labels_are_understood() {
        let mut request = NetworkCreate::default();
        for (key, value) in [
            ("com.docker.network.bridge.enable_icc", "0"),
            ("com.docker.network.bridge.gateway_mode_ipv6", "routed"),
            ("com.docker.network.bridge.trusted_host_interfaces", "wg0:eth1"),
            ("com.docker.network.driver.mtu", "1400"),
            ("bridge.name", "br0"),
        ] {
            assert!(apply(&mut request, key, value).unwrap(), "{key}");
        }
        assert_eq!((request.icc, request.mtu, request.bridge.as_deref()), (Some(false), Some(1400), Some("br0")));
        assert_eq!((request.gateway_mode_ipv6, request.trusted.len()), (GatewayMode::Routed, 2));
        for (key, value) in [("com.docker.network.bridge.enable_icc", "maybe"), ("driver.mtu", "x")] {
            assert!(apply(&mut request, key, value).is_err(), "{key}");
        }
        assert!(!apply(&mut request, "gateway", "1").unwrap());
    }
}
