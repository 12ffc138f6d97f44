//! Chains and rules of nf_tables: which chains drop what the host forwards, which rules there are, and their removal.
//! iptables writes such chains too, unless it is the legacy one.

mod removal;
mod rule;

pub use removal::{Removal, remove};
pub use rule::{Rule, Term, Verdict, rules};

use anyhow::{Context, Result};
use nix::sys::socket::SockProtocol;

use super::raw::{Answer, Raw, attribute};

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
        let family = family(chain)?;
        let hook = number(attribute(attribute(&chain.rest, NFTA_CHAIN_HOOK)?, NFTA_HOOK_HOOKNUM)?)?;
        let policy = number(attribute(&chain.rest, NFTA_CHAIN_POLICY)?)?;
        let text = |kind| attribute(&chain.rest, kind).map(text);
        (hook == NF_INET_FORWARD && policy == NF_DROP)
            .then(|| Some(format!("{family} {} {}", text(NFTA_CHAIN_TABLE)?, text(NFTA_CHAIN_NAME)?)))?
    });
    Ok(dropping.collect())
}

/// A table of nf_tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// `ip`, `ip6` or `inet`
    pub family: &'static str,
    pub name: String,
}

/// A chain of nf_tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// `ip`, `ip6` or `inet`
    pub family: &'static str,
    pub table: String,
    pub name: String,
}

/// Every chain of the families with IP packets.
///
/// # Errors
/// As [`dropping_forward_chains`].
pub fn chains() -> Result<Vec<Chain>> {
    let raw = Raw::open(SockProtocol::NetlinkNetFilter)?;
    let chains =
        raw.dump(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, [0; 4], &[]).context("list the chains of nf_tables")?;
    let chain = |chain: &Answer| {
        let text = |kind| attribute(&chain.rest, kind).map(text);
        Some(Chain { family: family(chain)?, table: text(NFTA_CHAIN_TABLE)?, name: text(NFTA_CHAIN_NAME)? })
    };
    Ok(chains.iter().filter_map(chain).collect())
}

fn family(answer: &Answer) -> Option<&'static str> {
    FAMILIES.iter().find(|(number, _)| *number == answer.head[0]).map(|(_, name)| *name)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned()
}
