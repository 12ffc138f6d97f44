//! Takes tables, chains and rules away, all of them or none.

use anyhow::{Context, Result};
use nix::sys::socket::SockProtocol;

use super::{Chain, FAMILIES, NFNL_SUBSYS_NFTABLES, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, Rule, Table};
use crate::netlink::raw::{Part, Raw, made};

// linux/netfilter/nfnetlink.h, nf_tables.h.
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_DELRULE: u16 = 8;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;

/// What is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// Single rules of chains that stay.
    pub rules: Vec<Rule>,
    /// Chains with all that is in them.
    pub chains: Vec<Chain>,
    /// Tables with chains, maps and rules.
    pub tables: Vec<Table>,
}

/// Removes all of it in one transaction: the kernel does everything or nothing.
///
/// # Errors
/// If the kernel refuses: EBUSY where a rule that stays leads to a chain, ENOENT where something has gone meanwhile.
pub fn remove(removal: &Removal) -> Result<()> {
    let batch = |kind| Part { kind, head: [0, 0, 0, NFNL_SUBSYS_NFTABLES as u8], attributes: Vec::new() };
    let raw = Raw::open(SockProtocol::NetlinkNetFilter)?;
    raw.transact(&batch(NFNL_MSG_BATCH_BEGIN), &parts(removal), &batch(NFNL_MSG_BATCH_END))
        .context("remove rules of nf_tables")
}

/// Rules first, and those of the chains, so that none leads to a chain that goes.
fn parts(removal: &Removal) -> Vec<Part> {
    let rules = removal.rules.iter().map(|rule| {
        let place = place(NFTA_RULE_TABLE, &rule.table, NFTA_RULE_CHAIN, &rule.chain);
        let handle = made((NFTA_RULE_HANDLE, &rule.handle.to_be_bytes()));
        part(NFT_MSG_DELRULE, rule.family, [place, handle].concat())
    });
    let emptied = removal.chains.iter().map(|chain| {
        let place = place(NFTA_RULE_TABLE, &chain.table, NFTA_RULE_CHAIN, &chain.name);
        part(NFT_MSG_DELRULE, chain.family, place)
    });
    let chains = removal.chains.iter().map(|chain| {
        let place = place(NFTA_CHAIN_TABLE, &chain.table, NFTA_CHAIN_NAME, &chain.name);
        part(NFT_MSG_DELCHAIN, chain.family, place)
    });
    let tables = removal
        .tables
        .iter()
        .map(|table| part(NFT_MSG_DELTABLE, table.family, made((NFTA_TABLE_NAME, &ended(&table.name)))));
    rules.chain(emptied).chain(chains).chain(tables).collect()
}

fn part(kind: u16, family: &str, attributes: Vec<u8>) -> Part {
    let number = FAMILIES.iter().find(|(_, name)| *name == family).map_or(0, |(number, _)| *number);
    Part { kind: NFNL_SUBSYS_NFTABLES << 8 | kind, head: [number, 0, 0, 0], attributes }
}

/// Attributes that name a table and a chain.
fn place(table_kind: u16, table: &str, chain_kind: u16, chain: &str) -> Vec<u8> {
    [made((table_kind, &ended(table))), made((chain_kind, &ended(chain)))].concat()
}

fn ended(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}
