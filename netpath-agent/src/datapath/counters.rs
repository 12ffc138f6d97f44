//! What the programs count: packets by counter, and drops by interface and reason.

use anyhow::{Context as _, Result};
use aya::maps::PerCpuValues;
use netpath_common::{Counter, DropKey};

use super::Datapath;

impl Datapath {
    /// A counter, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// If COUNTERS has no such index.
    pub fn counter(&self, index: u32) -> Result<Counter> {
        let values = self.tables.counters.get(&index, 0).with_context(|| format!("read counter {index}"))?;
        Ok(total(&values))
    }

    /// Sets a counter to zero.
    ///
    /// # Errors
    ///
    /// As [`Self::counter`].
    pub fn reset_counter(&mut self, index: u32) -> Result<()> {
        let cpus = self.tables.counters.get(&index, 0).with_context(|| format!("read counter {index}"))?.len();
        let zero = PerCpuValues::try_from(vec![Counter::default(); cpus]).context("make zeros")?;
        self.tables.counters.set(index, zero, 0).with_context(|| format!("reset counter {index}"))
    }

    /// Drops by interface and reason, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// If DROPS cannot be listed.
    pub fn drops(&self) -> Result<Vec<(DropKey, Counter)>> {
        let entries = self.tables.drops.iter();
        entries
            .map(|entry| entry.map(|(key, values)| (key, total(&values))))
            .collect::<Result<_, _>>()
            .context("list DROPS")
    }

    /// Forgets the drops on an interface that is gone: its number may come again.
    ///
    /// # Errors
    ///
    /// If DROPS cannot be written.
    pub fn forget_drops(&mut self, ifindex: u32) -> Result<()> {
        let keys: Vec<DropKey> = self.tables.drops.keys().collect::<Result<_, _>>().context("list DROPS")?;
        for key in keys.iter().filter(|key| key.ifindex == ifindex) {
            self.tables.drops.remove(key).context("forget drops")?;
        }
        Ok(())
    }
}

fn total(values: &PerCpuValues<Counter>) -> Counter {
    values.iter().fold(Counter::default(), |sum, counter| Counter {
        packets: sum.packets + counter.packets,
        bytes: sum.bytes + counter.bytes,
    })
}
