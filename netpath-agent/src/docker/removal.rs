//! All that Docker has written on a host, and taking it away.

use anyhow::Result;

use super::rules::{self, Found, Known};
use crate::ip_tables;
use crate::legacy_table::LegacyTable;
use crate::netlink::nftables::{self, Removal};

/// What is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Removals {
    nf_tables: Removal,
    /// Tables of the legacy iptables with something to remove.
    legacy: Vec<(LegacyTable, Removal)>,
}

impl Removals {
    /// Looks at the host's rules. Says also what there is of each chain.
    ///
    /// # Errors
    /// If the kernel does not show them.
    pub(super) fn read(known: &[Known]) -> Result<(Self, Vec<Found>)> {
        let (chains, all) = (nftables::chains()?, nftables::rules()?);
        let nf_tables = rules::removal(&chains, &all, known);
        let mut found = rules::found(&nf_tables, &all, false);
        let mut legacy = Vec::new();
        for table in ip_tables::tables()? {
            let all = table.rules();
            let removal = rules::removal(&table.chains(), &all, known);
            found.extend(rules::found(&removal, &all, true));
            if removal != Removal::default() {
                legacy.push((table, removal));
            }
        }
        Ok((Self { nf_tables, legacy }, found))
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Removes what is in nf_tables in one transaction, and then each legacy table's part of it in one.
    ///
    /// # Errors
    /// If the kernel refuses; what went before is gone then.
    pub(super) fn carry_out(&self) -> Result<()> {
        if self.nf_tables != Removal::default() {
            nftables::remove(&self.nf_tables)?;
        }
        for (table, removal) in &self.legacy {
            ip_tables::remove(table, removal)?;
        }
        Ok(())
    }

    /// `2 tables, 5 chains and 7 other rules`
    pub(super) fn count(&self) -> String {
        let all = || self.legacy.iter().map(|(_, removal)| removal).chain([&self.nf_tables]);
        let sum = |len: fn(&Removal) -> usize| all().map(len).sum::<usize>();
        let (tables, chains, rules) = (sum(|r| r.tables.len()), sum(|r| r.chains.len()), sum(|r| r.rules.len()));
        format!("{tables} tables, {chains} chains and {rules} other rules")
    }
}
