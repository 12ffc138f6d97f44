//! Which chains of nf_tables drop what the host forwards. iptables writes such chains too, unless it is the legacy one.

use anyhow::{Context, Result};
use nix::sys::socket::SockProtocol;

use super::raw::{Raw, attribute};

// linux/netfilter/nfnetlink.h, nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NF_INET_FORWARD: u32 = 2;
const NF_DROP: u32 = 0;
/// Families with a forward hook for IP packets.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// Chains at the forward hook whose policy is to drop, as `FAMILY TABLE CHAIN`.
///
/// # Errors
/// If the kernel has no nf_tables, or the caller may not look.
pub fn dropping_forward_chains() -> Result<Vec<String>> {
    let raw = Raw::open(SockProtocol::NetlinkNetFilter)?;
    let chains =
        raw.dump(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, [0; 4], &[]).context("list the chains of nf_tables")?;
    let dropping = chains.iter().filter_map(|chain| {
        let (_, family) = FAMILIES.iter().find(|(number, _)| *number == chain.head[0])?;
        let hook = number(attribute(attribute(&chain.rest, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM)?)?;
        let policy = number(attribute(&chain.rest, NFTA_CHAIN_POLICY)?)?;
        let text = |kind| attribute(&chain.rest, kind).map(text);
        (hook == NF_INET_FORWARD && policy == NF_DROP)
            .then(|| Some(format!("{family} {} {}", text(NFTA_CHAIN_TABLE)?, text(NFTA_CHAIN_NAME)?)))?
    });
    Ok(dropping.collect())
}

/// The families, `ip` or `ip6` or `inet`, of the tables `nat` that have a chain of that name.
///
/// # Errors
/// As [`dropping_forward_chains`].
pub fn chains_called(name: &str) -> Result<Vec<&'static str>> {
    let raw = Raw::open(SockProtocol::NetlinkNetFilter)?;
    let chains =
        raw.dump(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, [0; 4], &[]).context("list the chains of nf_tables")?;
    let families = chains.iter().filter_map(|chain| {
        let (_, family) = FAMILIES.iter().find(|(number, _)| *number == chain.head[0])?;
        let is = |kind, wanted: &str| attribute(&chain.rest, kind).is_some_and(|value| text(value) == wanted);
        (is(NFTA_CHAIN_TABLE, "nat") && is(NFTA_CHAIN_NAME, name)).then_some(*family)
    });
    Ok(families.collect())
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
}
