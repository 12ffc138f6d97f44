//! The maps, typed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use aya::{Ebpf, Pod};
use netpath_common::{
    Addr4, Addr6, Config, Counter, DropKey, Endpoint, External, Link, LinkKey, Network, Share, TrustedKey,
};
use netpath_ebpf::family::{Family, V4, V6};

use super::Datapath;
use super::family_tables::FamilyTables;
use super::port_bits::{Bits, PortBits};
use crate::reconcile::{Change, Image};

pub(super) type Table<K, V> = HashMap<MapData, K, V>;

/// Every map that the agent reads or writes.
pub(super) struct Tables {
    config: Config,
    config_map: Array<MapData, Config>,
    networks: Array<MapData, Network>,
    endpoints: Array<MapData, Endpoint>,
    externals: Table<u32, External>,
    links: Table<LinkKey, Link>,
    trusted: Table<TrustedKey, u32>,
    gateways: Table<u32, u32>,
    bits: Bits,
    pub(super) v4: FamilyTables<Addr4>,
    pub(super) v6: FamilyTables<Addr6>,
    pub(super) locks: Table<u64, u32>,
    pub(super) counters: PerCpuArray<MapData, Counter>,
    pub(super) drops: PerCpuHashMap<MapData, DropKey, Counter>,
}

/// A family, and where its maps are.
pub trait FamilyMaps: Family<Addr: Pod + Ord> {
    #[expect(private_interfaces, reason = "only this module calls it")]
    fn tables(tables: &Tables) -> &FamilyTables<Self::Addr>;
    #[expect(private_interfaces, reason = "only this module calls it")]
    fn tables_mut(tables: &mut Tables) -> &mut FamilyTables<Self::Addr>;
}

impl FamilyMaps for V4 {
    #[expect(private_interfaces, reason = "only this module calls it")]
    fn tables(tables: &Tables) -> &FamilyTables<Addr4> {
        &tables.v4
    }
    #[expect(private_interfaces, reason = "only this module calls it")]
    fn tables_mut(tables: &mut Tables) -> &mut FamilyTables<Addr4> {
        &mut tables.v4
    }
}

impl FamilyMaps for V6 {
    #[expect(private_interfaces, reason = "only this module calls it")]
    fn tables(tables: &Tables) -> &FamilyTables<Addr6> {
        &tables.v6
    }
    #[expect(private_interfaces, reason = "only this module calls it")]
    fn tables_mut(tables: &mut Tables) -> &mut FamilyTables<Addr6> {
        &mut tables.v6
    }
}

pub(super) fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T> {
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

    /// Opens the maps of an earlier agent, which may have been killed while it held a lock, or between an entry
    /// and its bits.
    pub(super) fn adopt(ebpf: &mut Ebpf) -> Result<Self> {
        let map: Array<MapData, Config> = take(ebpf, "CONFIG")?;
        let config = map.get(&0, 0).context("read CONFIG")?;
        let mut tables = Self::with_config(ebpf, config, map)?;
        let names: Vec<u64> = tables.locks.keys().collect::<Result<_, _>>().context("list LOCKS")?;
        for name in names {
            remove(&mut tables.locks, &name).context("clear LOCKS")?;
        }
        tables.write_bits().context("write the bits of published ports")?;
        Ok(tables)
    }

    fn with_config(ebpf: &mut Ebpf, config: Config, config_map: Array<MapData, Config>) -> Result<Self> {
        Ok(Self {
            config,
            config_map,
            networks: take(ebpf, "NETWORKS")?,
            endpoints: take(ebpf, "ENDPOINTS")?,
            externals: take(ebpf, "EXTERNALS")?,
            links: take(ebpf, "LINKS")?,
            trusted: take(ebpf, "TRUSTED")?,
            gateways: take(ebpf, "GATEWAYS")?,
            bits: Bits {
                ports: PortBits::new(take(ebpf, "PORT_BITS")?),
                sources: PortBits::new(take(ebpf, "SOURCE_BITS")?),
            },
            v4: FamilyTables::open(ebpf, "V4")?,
            v6: FamilyTables::open(ebpf, "V6")?,
            locks: take(ebpf, "LOCKS")?,
            counters: take(ebpf, "COUNTERS")?,
            drops: take(ebpf, "DROPS")?,
        })
    }

    /// Makes the bits say what the entries do.
    fn write_bits(&mut self) -> Result<(), MapError> {
        let Self { bits, v4, v6, .. } = self;
        v4.count_ports(bits)?;
        v6.count_ports(bits)?;
        [&mut bits.ports, &mut bits.sources, &mut v4.reserved, &mut v6.reserved]
            .into_iter()
            .try_for_each(PortBits::write)
    }

    /// What has to be done before `changes` are made, for all of them at once.
    fn raise_bits(&mut self, changes: &[Change]) -> Result<(), MapError> {
        let v4 = changes.iter().filter_map(|change| if let Change::V4(change) = change { Some(change) } else { None });
        let v6 = changes.iter().filter_map(|change| if let Change::V6(change) = change { Some(change) } else { None });
        self.v4.raise(&mut self.bits, v4)?;
        self.v6.raise(&mut self.bits, v6)
    }

    /// And after them.
    fn settle_bits(&mut self) -> Result<(), MapError> {
        let Self { bits, v4, v6, .. } = self;
        [&mut bits.ports, &mut bits.sources, &mut v4.reserved, &mut v6.reserved]
            .into_iter()
            .try_for_each(PortBits::settle)
    }

    pub(super) fn set_config(&mut self, config: Config) -> Result<()> {
        self.write_config(config).context("write CONFIG")
    }

    fn write_config(&mut self, config: Config) -> Result<(), MapError> {
        self.config_map.set(0, config, 0)?;
        self.config = config;
        Ok(())
    }

    /// Writes an endpoint. A new one has no flows yet, whatever the one before it at this index had.
    fn put_endpoint(&mut self, index: u32, endpoint: Endpoint) -> Result<(), MapError> {
        if self.endpoints.get(&index, 0)?.generation != endpoint.generation {
            self.v4.shares.set(index, Share::default(), 0)?;
            self.v6.shares.set(index, Share::default(), 0)?;
        }
        self.endpoints.set(index, endpoint, 0)
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
pub(super) fn remove<K: Pod, V: Pod>(table: &mut Table<K, V>, key: &K) -> Result<(), MapError> {
    match table.remove(key) {
        Err(error) if is_missing(&error) => Ok(()),
        result => result,
    }
}

pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// What the kernel says of a hash map that is full, and of a trie.
fn is_full(error: &MapError) -> bool {
    let codes =
        [nix::errno::Errno::E2BIG, nix::errno::Errno::ENOSPC, nix::errno::Errno::ENOMEM].map(|errno| errno as i32);
    let MapError::SyscallError(error) = error else { return false };
    error.io_error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

pub(super) fn entries<K: Pod + Ord, V: Pod, B: FromIterator<(K, V)>>(table: &Table<K, V>, name: &str) -> Result<B> {
    table.iter().collect::<Result<_, _>>().with_context(|| format!("list {name}"))
}

pub(super) fn prefixes<K: Pod + Ord>(trie: &LpmTrie<MapData, K, u32>, name: &str) -> Result<BTreeMap<(K, u8), u32>> {
    let mut prefixes = BTreeMap::new();
    for entry in trie.iter() {
        let (key, value) = entry.with_context(|| format!("list {name}"))?;
        let prefix_len = u8::try_from(key.prefix_len()).context("a prefix longer than its key")?;
        prefixes.insert((key.data(), prefix_len), value);
    }
    Ok(prefixes)
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
            externals: entries(&tables.externals, "EXTERNALS")?,
            links: entries(&tables.links, "LINKS")?,
            trusted: entries(&tables.trusted, "TRUSTED")?,
            gateways: entries(&tables.gateways, "GATEWAYS")?,
            v4: tables.v4.image("V4")?,
            v6: tables.v6.image("V6")?,
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
        Ok(image)
    }

    /// Writes changes in the order given. Stops at the first that fails.
    ///
    /// # Errors
    ///
    /// If a map is full or cannot be written.
    pub fn apply(&mut self, changes: &[Change]) -> Result<()> {
        self.tables.raise_bits(changes).context("raise the bits of published ports")?;
        let one = |change| self.apply_one(change).with_context(|| format!("write {change:?}"));
        let applied = changes.iter().try_for_each(one);
        let settled = self.tables.settle_bits().context("settle the bits of published ports");
        applied.and(settled)
    }

    /// As [`Self::apply`], but goes on past published ports that find their table full; returns what was said
    /// about each.
    ///
    /// # Errors
    ///
    /// If a map cannot be written for another reason.
    pub fn apply_fitting(&mut self, changes: &[Change]) -> Result<Vec<anyhow::Error>> {
        let mut unfit = Vec::new();
        self.tables.raise_bits(changes).context("raise the bits of published ports")?;
        for change in changes {
            let applied = self.apply_one(change);
            let stands_back = change.is_about_a_port() && applied.as_ref().is_err_and(is_full);
            let applied = applied.with_context(|| format!("write {change:?}"));
            match applied {
                Err(error) if stands_back => unfit.push(error),
                applied => applied?,
            }
        }
        self.tables.settle_bits().context("settle the bits of published ports")?;
        Ok(unfit)
    }

    fn apply_one(&mut self, change: &Change) -> Result<(), MapError> {
        let tables = &mut self.tables;
        match *change {
            Change::PutNetwork(index, network) => tables.networks.set(index, network, 0),
            Change::DeleteNetwork(index) => tables.networks.set(index, Network::EMPTY, 0),
            Change::PutEndpoint(index, endpoint) => tables.put_endpoint(index, endpoint),
            Change::DeleteEndpoint(index) => tables.endpoints.set(index, Endpoint::EMPTY, 0),
            Change::PutExternal(ifindex, external) => tables.put_external(ifindex, external),
            Change::DeleteExternal(ifindex) => tables.delete_external(ifindex),
            Change::PutLink(key, link) => tables.links.insert(key, link, 0),
            Change::DeleteLink(key) => remove(&mut tables.links, &key),
            Change::PutTrusted(key, value) => tables.trusted.insert(key, value, 0),
            Change::DeleteTrusted(key) => remove(&mut tables.trusted, &key),
            Change::PutGateway(ifindex, network) => tables.gateways.insert(ifindex, network, 0),
            Change::DeleteGateway(ifindex) => remove(&mut tables.gateways, &ifindex),
            Change::V4(change) => tables.v4.apply(&mut tables.bits, change),
            Change::V6(change) => tables.v6.apply(&mut tables.bits, change),
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
}
