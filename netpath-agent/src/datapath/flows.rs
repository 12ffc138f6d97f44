//! Flows as the agent sees them: listing, deleting, and the sweep that removes what has expired.
//!
//! The programs collect expired flows by themselves when they create new ones; the sweep only keeps an
//! idle host's tables short. It takes the programs' own locks and looks again before it removes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::MapError;
use netpath_common::{Config, Flow, Mapping, MappingKey, Share, Tuple, flow_flag, seconds};
use netpath_ebpf::conntrack::is_expired;
use netpath_ebpf::family::{Family, V4, V6};
use netpath_ebpf::flow_table::{ALL, flow_lock, reply_tuple};
use netpath_ebpf::mapping::mapping_lock;
use nix::time::{ClockId, clock_gettime};

use super::Datapath;
use super::tables::{FamilyMaps, Tables, remove};

/// `BPF_NOEXIST`: insert only what is not there.
const NOEXIST: u64 = 1;
/// How long a dead mapping stays that was shared, in seconds: until the others' flows have ended too, in most cases.
const SHARED_S: i32 = 300;

/// A flow under its tuple as the container knows it.
pub type FlowEntry<F> = (Tuple<<F as Family>::Addr>, Flow<<F as Family>::Addr>);

impl Datapath {
    /// All flows in the table, expired ones among them.
    ///
    /// # Errors
    ///
    /// If the table cannot be listed.
    pub fn flows<F: FamilyMaps>(&self) -> Result<Vec<FlowEntry<F>>> {
        let mut flows = Vec::new();
        for entry in F::tables(&self.tables).flows.iter() {
            match entry {
                Ok(entry) => flows.push(entry),
                // Removed while the list was read.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).context("list flows"),
            }
        }
        Ok(flows)
    }

    /// Ends a flow; false if it was not there.
    ///
    /// # Errors
    ///
    /// If the table cannot be written.
    pub fn delete_flow<F: FamilyMaps>(&mut self, tuple: &Tuple<F::Addr>) -> Result<bool> {
        self.tables.remove_flow::<F>(tuple, |_| true)
    }

    /// Removes expired flows, and masquerade ports that nobody uses; returns how many flows.
    ///
    /// # Errors
    ///
    /// If a table cannot be read or written.
    pub fn sweep(&mut self) -> Result<usize> {
        Ok(self.sweep_family::<V4>()? + self.sweep_family::<V6>()?)
    }

    fn sweep_family<F: FamilyMaps>(&mut self) -> Result<usize> {
        let config = self.config();
        let now_s = now_s()?;
        let mut removed = 0;
        let mut shares = BTreeMap::from([(ALL, 0)]);
        for (tuple, flow) in self.flows::<F>()? {
            if self.is_dead::<F>(&config, &tuple, &flow, now_s) {
                let same = |other: &Flow<F::Addr>| {
                    other.last_seen_s == flow.last_seen_s && other.generation == flow.generation
                };
                if self.tables.remove_flow::<F>(&tuple, same)? {
                    removed += 1;
                    continue;
                }
            }
            let mut add_to = |endpoint| *shares.entry(endpoint).or_default() += 1;
            add_to(ALL);
            if self.generation(flow.endpoint.into()) == Some(flow.generation) {
                add_to(flow.endpoint.into());
            }
        }
        self.tables.set_shares::<F>(&shares).context("count the flows of each container")?;
        self.sweep_mappings::<F>(now_s)?;
        Ok(removed)
    }

    fn is_dead<F: FamilyMaps>(
        &self,
        config: &Config,
        tuple: &Tuple<F::Addr>,
        flow: &Flow<F::Addr>,
        now_s: u32,
    ) -> bool {
        is_expired(config, flow, tuple.proto, now_s)
            || self.generation(u32::from(flow.endpoint)) != Some(flow.generation)
    }

    fn sweep_mappings<F: FamilyMaps>(&mut self, now_s: u32) -> Result<()> {
        let mut dead = Vec::new();
        for entry in F::tables(&self.tables).mappings.iter() {
            match entry {
                Ok((key, mapping)) if self.is_mapping_dead(&mapping, now_s) => dead.push(key),
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error).context("list mappings"),
            }
        }
        for key in dead {
            self.sweep_mapping::<F>(&key, now_s)?;
        }
        Ok(())
    }

    fn is_mapping_dead<A>(&self, mapping: &Mapping<A>, now_s: u32) -> bool {
        let silent_s = now_s.wrapping_sub(mapping.deadline_s).cast_signed();
        let is_over = silent_s > if mapping.shared != 0 { SHARED_S } else { 0 };
        is_over || (mapping.shared == 0 && self.generation(mapping.endpoint) != Some(mapping.generation))
    }

    fn sweep_mapping<F: FamilyMaps>(&mut self, key: &MappingKey<F::Addr>, now_s: u32) -> Result<()> {
        let lock = mapping_lock::<F>(key);
        if !self.tables.try_lock(lock)? {
            return Ok(());
        }
        let mapping = F::tables(&self.tables).mappings.get(key, 0);
        let dead = mapping.is_ok_and(|mapping| self.is_mapping_dead(&mapping, now_s));
        let removed = if dead { remove(&mut F::tables_mut(&mut self.tables).mappings, key) } else { Ok(()) };
        self.tables.unlock(lock)?;
        removed.context("sweep mappings")
    }
}

impl Tables {
    /// Writes how many flows each endpoint has. Those that programs begin or end meanwhile are counted wrong until the
    /// next time: shares are about fairness, and what the table holds is the map's to say.
    fn set_shares<F: FamilyMaps>(&mut self, flows: &BTreeMap<u32, u64>) -> Result<(), MapError> {
        let shares = &mut F::tables_mut(self).shares;
        for index in 0..shares.len() {
            let share = shares.get(&index, 0)?;
            let flows = flows.get(&index).copied().unwrap_or(0);
            if share.flows != flows {
                shares.set(index, Share { flows, ..share }, 0)?;
            }
        }
        Ok(())
    }

    fn remove_flow<F: FamilyMaps>(
        &mut self,
        tuple: &Tuple<F::Addr>,
        condition: impl Fn(&Flow<F::Addr>) -> bool,
    ) -> Result<bool> {
        let lock = flow_lock::<F>(tuple);
        if !self.try_lock(lock)? {
            return Ok(false);
        }
        let removed = self.remove_flow_locked::<F>(tuple, condition);
        self.unlock(lock)?;
        removed.context("remove a flow")
    }

    fn remove_flow_locked<F: FamilyMaps>(
        &mut self,
        tuple: &Tuple<F::Addr>,
        condition: impl Fn(&Flow<F::Addr>) -> bool,
    ) -> Result<bool, MapError> {
        let family = F::tables_mut(self);
        let flow = match family.flows.get(tuple, 0) {
            Ok(flow) => flow,
            Err(MapError::KeyNotFound) => return Ok(false),
            Err(error) => return Err(error),
        };
        if !condition(&flow) {
            return Ok(false);
        }
        if flow.flags & flow_flag::SHARED != 0 {
            remove(&mut family.replies, &reply_tuple::<F>(tuple, flow.nat_addr, flow.nat_port))?;
        }
        remove(&mut family.flows, tuple)?;
        Ok(true)
    }

    fn try_lock(&mut self, name: u64) -> Result<bool> {
        match self.locks.insert(name, 1, NOEXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(false)
            }
            Err(error) => Err(error).context("take a lock"),
        }
    }

    fn unlock(&mut self, name: u64) -> Result<()> {
        remove(&mut self.locks, &name).context("release a lock")
    }
}

/// This moment as the programs count it.
///
/// # Errors
///
/// If there is no monotonic clock.
pub fn now_s() -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the monotonic clock")?;
    let ns = now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned();
    Ok(seconds(ns))
}
