//! The maps, typed.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use netpath_common::{
    Addr4, Config, Counter, DropKey, Endpoint, External, Flow, Inside, Mapping, MappingKey, Network, PortKey,
    PortSource, PortTarget, Tuple,
};

use super::Datapath;
use crate::reconcile::{Change, Image};

type Table<K, V> = HashMap<MapData, K, V>;

/// Every map that the agent reads or writes.
pub(super) struct Tables {
    config: Config,
    config_map: Array<MapData, Config>,
    networks: Array<MapData, Network>,
    endpoints: Array<MapData, Endpoint>,
    addresses: Table<Addr4, u32>,
    prefixes: LpmTrie<MapData, Addr4, u32>,
    externals: Table<u32, External>,
    published: Table<PortKey<Addr4>, PortTarget>,
    sources: Table<PortKey<Addr4>, PortSource<Addr4>>,
    pub(super) flows: Table<Tuple<Addr4>, Flow<Addr4>>,
    pub(super) mappings: Table<MappingKey<Addr4>, Mapping<Addr4>>,
    pub(super) replies: Table<Tuple<Addr4>, Inside<Addr4>>,
    pub(super) locks: Table<u64, u32>,
    counters: PerCpuArray<MapData, Counter>,
    drops: PerCpuHashMap<MapData, DropKey, Counter>,
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
    let map = ebpf.take_map(name).with_context(|| format!("no map {name} in the eBPF object"))?;
    T::try_from(map).with_context(|| format!("open map {name}"))
}

impl Tables {
    /// Opens new maps and writes the settings.
    pub(super) fn create(ebpf: &mut Ebpf, config: Config) -> Result<Self> {
        let map = take(ebpf, "CONFIG")?;
        let mut tables = Self::with_config(ebpf, config, map)?;
        tables.set_config(config)?;
        Ok(tables)
    }

    /// Opens the maps of an earlier agent, which may have been killed while it held a lock.
    pub(super) fn adopt(ebpf: &mut Ebpf) -> Result<Self> {
        let map: Array<MapData, Config> = take(ebpf, "CONFIG")?;
        let config = map.get(&0, 0).context("read CONFIG")?;
        let mut tables = Self::with_config(ebpf, config, map)?;
        let names: Vec<u64> = tables.locks.keys().collect::<Result<_, _>>().context("list LOCKS")?;
        for name in names {
            remove(&mut tables.locks, &name).context("clear LOCKS")?;
        }
        Ok(tables)
    }

    fn with_config(ebpf: &mut Ebpf, config: Config, config_map: Array<MapData, Config>) -> Result<Self> {
        Ok(Self {
            config,
            config_map,
            networks: take(ebpf, "NETWORKS")?,
            endpoints: take(ebpf, "ENDPOINTS")?,
            addresses: take(ebpf, "ADDRESSES_V4")?,
            prefixes: take(ebpf, "PREFIXES_V4")?,
            externals: take(ebpf, "EXTERNALS")?,
            published: take(ebpf, "PUBLISHED_PORTS_V4")?,
            sources: take(ebpf, "PUBLISHED_SOURCES_V4")?,
            flows: take(ebpf, "FLOWS_V4")?,
            mappings: take(ebpf, "MAPPINGS_V4")?,
            replies: take(ebpf, "REPLIES_V4")?,
            locks: take(ebpf, "LOCKS")?,
            counters: take(ebpf, "COUNTERS")?,
            drops: take(ebpf, "DROPS")?,
        })
    }

    pub(super) fn set_config(&mut self, config: Config) -> Result<()> {
        self.write_config(config).context("write CONFIG")
    }

    fn write_config(&mut self, config: Config) -> Result<(), MapError> {
        self.config_map.set(0, config, 0)?;
        self.config = config;
        Ok(())
    }

    /// Writes an external interface, and its copy in the settings if it is the primary one or becomes it.
    fn put_external(&mut self, ifindex: u32, external: External) -> Result<(), MapError> {
        self.externals.insert(ifindex, external, 0)?;
        if [0, ifindex].contains(&self.config.primary_ifindex) {
            self.write_config(Config { primary_ifindex: ifindex, primary: external, ..self.config })?;
        }
        Ok(())
    }

    fn delete_external(&mut self, ifindex: u32) -> Result<(), MapError> {
        if self.config.primary_ifindex == ifindex {
            self.write_config(Config { primary_ifindex: 0, primary: External::default(), ..self.config })?;
        }
        remove(&mut self.externals, &ifindex)
    }
}

/// Removes an entry that may be gone already.
pub(super) fn remove<K: aya::Pod, V: aya::Pod>(table: &mut Table<K, V>, key: &K) -> Result<(), MapError> {
    match table.remove(key) {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn entries<K: aya::Pod + Ord, V: aya::Pod, B: FromIterator<(K, V)>>(table: &Table<K, V>, name: &str) -> Result<B> {
    table.iter().collect::<Result<_, _>>().with_context(|| format!("list {name}"))
}

fn total(values: &PerCpuValues<Counter>) -> Counter {
    values.iter().fold(Counter::default(), |sum, counter| Counter {
        packets: sum.packets + counter.packets,
        bytes: sum.bytes + counter.bytes,
    })
}

impl Datapath {
    /// What the maps that the agent writes hold.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn image(&self) -> Result<Image> {
        let tables = &self.tables;
        let mut image = Image {
            addresses: entries(&tables.addresses, "ADDRESSES_V4")?,
            externals: entries(&tables.externals, "EXTERNALS")?,
            published: entries(&tables.published, "PUBLISHED_PORTS_V4")?,
            sources: entries(&tables.sources, "PUBLISHED_SOURCES_V4")?,
            ..Image::default()
        };
        for (index, network) in (0..).zip(tables.networks.iter()) {
            let network = network.context("read NETWORKS")?;
            if network.flags != 0 {
                image.networks.insert(index, network);
            }
        }
        for (index, endpoint) in (0..).zip(tables.endpoints.iter()) {
            let endpoint = endpoint.context("read ENDPOINTS")?;
            if endpoint.generation != 0 {
                image.endpoints.insert(index, endpoint);
            }
        }
        for entry in tables.prefixes.iter() {
            let (key, network) = entry.context("list PREFIXES_V4")?;
            let prefix_len = u8::try_from(key.prefix_len()).context("a prefix longer than an address")?;
            image.prefixes.insert((key.data(), prefix_len), network);
        }
        Ok(image)
    }

    /// Writes changes in the order given. Stops at the first that fails.
    ///
    /// # Errors
    ///
    /// If a map is full or cannot be written.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        for change in changes {
            self.apply_one(change).with_context(|| format!("write {change:?}"))?;
        }
        Ok(())
    }

    fn apply_one(&mut self, change: &Change) -> Result<(), MapError> {
        let tables = &mut self.tables;
        match *change {
            Change::PutNetwork(index, network) => tables.networks.set(index, network, 0),
            Change::DeleteNetwork(index) => tables.networks.set(index, Network::EMPTY, 0),
            Change::PutEndpoint(index, endpoint) => tables.endpoints.set(index, endpoint, 0),
            Change::DeleteEndpoint(index) => tables.endpoints.set(index, Endpoint::EMPTY, 0),
            Change::PutAddress(addr, index) => tables.addresses.insert(addr, index, 0),
            Change::DeleteAddress(addr) => remove(&mut tables.addresses, &addr),
            Change::PutPrefix((addr, len), network) => {
                tables.prefixes.insert(&Key::new(u32::from(len), addr), network, 0)
            }
            Change::DeletePrefix((addr, len)) => tables.prefixes.remove(&Key::new(u32::from(len), addr)),
            Change::PutExternal(ifindex, external) => tables.put_external(ifindex, external),
            Change::DeleteExternal(ifindex) => tables.delete_external(ifindex),
            Change::PutPublished(key, target) => tables.published.insert(key, target, 0),
            Change::DeletePublished(key) => remove(&mut tables.published, &key),
            Change::PutSource(key, source) => tables.sources.insert(key, source, 0),
            Change::DeleteSource(key) => remove(&mut tables.sources, &key),
        }
    }

    /// Generation of the endpoint at `index`.
    pub(super) fn generation(&self, index: u32) -> Option<u32> {
        self.tables.endpoints.get(&index, 0).ok().map(|endpoint| endpoint.generation)
    }

    /// Settings of the data plane. Only the agent writes them.
    pub fn config(&self) -> Config {
        self.tables.config
    }

    /// Changes the settings, live. The primary external interface is kept: it follows `apply`.
    ///
    /// # Errors
    ///
    /// If CONFIG cannot be written.
    pub fn set_config(&mut self, config: Config) -> Result<()> {
        let Config { primary_ifindex, primary, .. } = self.tables.config;
        self.tables.set_config(Config { primary_ifindex, primary, ..config })
    }

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
