//! The maps of one address family, typed.

use std::collections::BTreeSet;

use anyhow::Result;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, MapData, MapError};
use aya::{Ebpf, Pod};
use netpath_common::{
    Address, AllowedSource, Flow, Inside, Mapping, MappingKey, PortKey, PortSource, PortTarget, Share, Tuple,
    target_flag,
};

use super::network_bits::NetworkBits;
use super::port_bits::{Bits, PortBits};
use super::tables::{Table, entries, prefixes, remove, take};
use crate::reconcile::{FamilyChange, FamilyImage};

/// The maps of one family.
pub(super) struct FamilyTables<A> {
    addresses: Table<A, u32>,
    /// The keys of `addresses`.
    inside: BTreeSet<A>,
    prefixes: LpmTrie<MapData, A, u32>,
    network_bits: NetworkBits,
    published: Table<PortKey<A>, PortTarget>,
    pub(super) reserved: PortBits,
    /// Published ports that have no bit there, since somebody else keeps them.
    kept_elsewhere: BTreeSet<PortKey<A>>,
    sources: Table<PortKey<A>, PortSource<A>>,
    allowed: LpmTrie<MapData, AllowedSource<A>, u32>,
    pub(super) flows: Table<Tuple<A>, Flow<A>>,
    pub(super) mappings: Table<MappingKey<A>, Mapping<A>>,
    pub(super) replies: Table<Tuple<A>, Inside<A>>,
    pub(super) shares: Array<MapData, Share>,
}

impl<A: Address + Pod + Ord> FamilyTables<A> {
    pub(super) fn open(ebpf: &mut Ebpf, family: &str) -> Result<Self> {
        Ok(Self {
            addresses: take(ebpf, &format!("ADDRESSES_{family}"))?,
            inside: BTreeSet::new(),
            prefixes: take(ebpf, &format!("PREFIXES_{family}"))?,
            network_bits: NetworkBits::new(take(ebpf, &format!("NETWORK_BITS_{family}"))?),
            published: take(ebpf, &format!("PUBLISHED_PORTS_{family}"))?,
            reserved: PortBits::new(take(ebpf, &format!("RESERVED_{family}"))?),
            kept_elsewhere: BTreeSet::new(),
            sources: take(ebpf, &format!("PUBLISHED_SOURCES_{family}"))?,
            allowed: take(ebpf, &format!("ALLOWED_{family}"))?,
            flows: take(ebpf, &format!("FLOWS_{family}"))?,
            mappings: take(ebpf, &format!("MAPPINGS_{family}"))?,
            replies: take(ebpf, &format!("REPLIES_{family}"))?,
            shares: take(ebpf, &format!("SHARES_{family}"))?,
        })
    }

    /// Counts the entries that are there already.
    pub(super) fn count_ports(&mut self, bits: &mut Bits) -> Result<(), MapError> {
        self.inside = self.addresses.keys().collect::<Result<_, _>>()?;
        for entry in self.published.iter() {
            let (key, target) = entry?;
            bits.ports.hold(&key);
            if is_kept_elsewhere(&target) {
                self.kept_elsewhere.insert(key);
            } else if self.is_host_port(&key) {
                self.reserved.hold(&key);
            }
        }
        for key in self.sources.keys() {
            bits.sources.hold(&key?);
        }
        Ok(())
    }

    /// Whether the port is the host's: those of a routed network are published under their containers' addresses.
    fn is_host_port(&self, key: &PortKey<A>) -> bool {
        !self.inside.contains(&key.addr)
    }

    /// Raises the bits of what `changes` are going to write.
    pub(super) fn raise<'a>(
        &mut self,
        bits: &mut Bits,
        changes: impl Iterator<Item = &'a FamilyChange<A>> + Clone,
    ) -> Result<(), MapError> {
        let published = changes.clone().filter_map(|change| match change {
            FamilyChange::PutPublished(key, target) => Some((*key, is_kept_elsewhere(target))),
            _ => None,
        });
        let sources = changes.filter_map(|change| match change {
            FamilyChange::PutSource(key, _) => Some(*key),
            _ => None,
        });
        bits.ports.raise(published.clone().map(|(key, _)| key))?;
        bits.sources.raise(sources)?;
        let reserved = published.filter(|(key, kept_elsewhere)| !kept_elsewhere && !self.inside.contains(&key.addr));
        self.reserved.raise(reserved.map(|(key, _)| key))
    }

    pub(super) fn image(&self, family: &str) -> Result<FamilyImage<A>> {
        Ok(FamilyImage {
            addresses: entries(&self.addresses, &format!("ADDRESSES_{family}"))?,
            prefixes: prefixes(&self.prefixes, &format!("PREFIXES_{family}"))?,
            published: entries(&self.published, &format!("PUBLISHED_PORTS_{family}"))?,
            sources: entries(&self.sources, &format!("PUBLISHED_SOURCES_{family}"))?,
            allowed: prefixes(&self.allowed, &format!("ALLOWED_{family}"))?,
        })
    }

    pub(super) fn apply(&mut self, bits: &mut Bits, change: FamilyChange<A>) -> Result<(), MapError> {
        match change {
            FamilyChange::PutAddress(addr, index) => {
                self.inside.insert(addr);
                self.addresses.insert(addr, index, 0)
            }
            FamilyChange::DeleteAddress(addr) => {
                self.inside.remove(&addr);
                remove(&mut self.addresses, &addr)
            }
            FamilyChange::PutPrefix((addr, len), network) => {
                self.network_bits.add(&addr, len)?;
                self.prefixes.insert(&Key::new(u32::from(len), addr), network, 0)
            }
            FamilyChange::DeletePrefix((addr, len)) => {
                self.prefixes.remove(&Key::new(u32::from(len), addr))?;
                self.network_bits.follow(&self.prefixes)
            }
            FamilyChange::PutPublished(key, target) => {
                let is_new = bits.ports.put(&mut self.published, key, target)?;
                let was_reserved = !is_new && !self.kept_elsewhere.remove(&key);
                if is_kept_elsewhere(&target) {
                    self.kept_elsewhere.insert(key);
                }
                if self.is_host_port(&key) {
                    match (was_reserved, !is_kept_elsewhere(&target)) {
                        (false, true) => self.reserved.hold(&key),
                        (true, false) => self.reserved.release(&key),
                        _ => {}
                    }
                }
                Ok(())
            }
            FamilyChange::DeletePublished(key) => {
                let was_there = bits.ports.delete(&mut self.published, &key)?;
                if was_there && !self.kept_elsewhere.remove(&key) && self.is_host_port(&key) {
                    self.reserved.release(&key);
                }
                Ok(())
            }
            FamilyChange::PutSource(key, source) => bits.sources.put(&mut self.sources, key, source).map(drop),
            FamilyChange::DeleteSource(key) => bits.sources.delete(&mut self.sources, &key).map(drop),
            FamilyChange::PutAllowed((source, len), value) => {
                self.allowed.insert(&Key::new(u32::from(len), source), value, 0)
            }
            FamilyChange::DeleteAllowed((source, len)) => self.allowed.remove(&Key::new(u32::from(len), source)),
        }
    }
}

/// Whether no bit says that the port is taken.
fn is_kept_elsewhere(target: &PortTarget) -> bool {
    target.flags & target_flag::KEPT_ELSEWHERE != 0
}
