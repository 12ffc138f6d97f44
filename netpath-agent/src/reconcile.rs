//! What the agent-written maps hold, and the changes that lead from one content to another. Pure: no
//! I/O, no clock. What the content should be is `desired`'s business.

use std::collections::BTreeMap;

use netpath_common::{
    Addr4, Addr6, Address, AllowedSource, BLOCK_LEN, Endpoint, External, Link, LinkKey, Network, PortKey, PortSource,
    PortTarget, TrustedKey,
};

/// The content of every map that the agent writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Network index to network.
    pub networks: BTreeMap<u32, Network>,
    /// Endpoint index to endpoint.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Interface index to external.
    pub externals: BTreeMap<u32, External>,
    pub links: BTreeMap<LinkKey, Link>,
    /// The values say nothing.
    pub trusted: BTreeMap<TrustedKey, u32>,
    /// Interface index of a bridge, or of a container's host end without one, to the index of the network.
    pub gateways: BTreeMap<u32, u32>,
    pub v4: FamilyImage<Addr4>,
    pub v6: FamilyImage<Addr6>,
}

/// The content of one family's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyImage<A> {
    /// Container address to endpoint index.
    pub addresses: BTreeMap<A, u32>,
    /// Address and prefix length to network index.
    pub prefixes: BTreeMap<(A, u8), u32>,
    pub published: BTreeMap<PortKey<A>, PortTarget>,
    pub sources: BTreeMap<PortKey<A>, PortSource<A>>,
    /// Binding, source address and its prefix length; the values say nothing.
    pub allowed: BTreeMap<(AllowedSource<A>, u8), u32>,
}

/// One write to one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    PutNetwork(u32, Network),
    DeleteNetwork(u32),
    PutEndpoint(u32, Endpoint),
    DeleteEndpoint(u32),
    PutExternal(u32, External),
    DeleteExternal(u32),
    PutLink(LinkKey, Link),
    DeleteLink(LinkKey),
    PutTrusted(TrustedKey, u32),
    DeleteTrusted(TrustedKey),
    PutGateway(u32, u32),
    DeleteGateway(u32),
    V4(FamilyChange<Addr4>),
    V6(FamilyChange<Addr6>),
}

/// One write to one of a family's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyChange<A> {
    PutAddress(A, u32),
    DeleteAddress(A),
    PutPrefix((A, u8), u32),
    DeletePrefix((A, u8)),
    PutPublished(PortKey<A>, PortTarget),
    DeletePublished(PortKey<A>),
    PutSource(PortKey<A>, PortSource<A>),
    DeleteSource(PortKey<A>),
    PutAllowed((AllowedSource<A>, u8), u32),
    DeleteAllowed((AllowedSource<A>, u8)),
}

impl From<FamilyChange<Addr4>> for Change {
    fn from(change: FamilyChange<Addr4>) -> Self {
        Self::V4(change)
    }
}

impl From<FamilyChange<Addr6>> for Change {
    fn from(change: FamilyChange<Addr6>) -> Self {
        Self::V6(change)
    }
}

impl Change {
    /// Whether it adds to what is known about published ports.
    pub fn is_about_a_port(&self) -> bool {
        fn is_port<A>(change: &FamilyChange<A>) -> bool {
            use FamilyChange::{PutAllowed, PutPublished, PutSource};
            matches!(change, PutAllowed(..) | PutPublished(..) | PutSource(..))
        }
        match self {
            Self::V4(change) => is_port(change),
            Self::V6(change) => is_port(change),
            _ => false,
        }
    }
}

/// The changes that turn `actual` into `desired`, in an order in which no packet meets half of
/// anything: what leads to an endpoint goes before it and comes after it; what every packet of a
/// container needs (network, prefix) comes first and goes last. A block of ports gives way to single ones, or
/// they to it, only when these are there.
pub fn diff(desired: &Image, actual: &Image) -> Vec<Change> {
    let mut changes = Vec::new();
    let out = &mut changes;
    desired.v4.delete_ways(&actual.v4, out);
    desired.v6.delete_ways(&actual.v6, out);
    delete(&desired.links, &actual.links, Change::DeleteLink, out);
    desired.v4.delete_addresses(&actual.v4, out);
    desired.v6.delete_addresses(&actual.v6, out);
    delete(&desired.endpoints, &actual.endpoints, Change::DeleteEndpoint, out);

    put(&desired.networks, &actual.networks, Change::PutNetwork, out);
    put(&desired.gateways, &actual.gateways, Change::PutGateway, out);
    desired.v4.put_prefixes(&actual.v4, out);
    desired.v6.put_prefixes(&actual.v6, out);
    put(&desired.endpoints, &actual.endpoints, Change::PutEndpoint, out);
    desired.v4.put_addresses(&actual.v4, out);
    desired.v6.put_addresses(&actual.v6, out);
    put(&desired.links, &actual.links, Change::PutLink, out);
    desired.v4.put_ways(&actual.v4, out);
    desired.v6.put_ways(&actual.v6, out);
    desired.v4.delete_replaced_ways(&actual.v4, out);
    desired.v6.delete_replaced_ways(&actual.v6, out);
    put(&desired.externals, &actual.externals, Change::PutExternal, out);
    put(&desired.trusted, &actual.trusted, Change::PutTrusted, out);

    delete(&desired.trusted, &actual.trusted, Change::DeleteTrusted, out);
    delete(&desired.externals, &actual.externals, Change::DeleteExternal, out);
    desired.v4.delete_prefixes(&actual.v4, out);
    desired.v6.delete_prefixes(&actual.v6, out);
    delete(&desired.gateways, &actual.gateways, Change::DeleteGateway, out);
    delete(&desired.networks, &actual.networks, Change::DeleteNetwork, out);
    changes
}

impl<A: Address + Ord> FamilyImage<A>
where
    Change: From<FamilyChange<A>>,
    AllowedSource<A>: Ord,
    PortKey<A>: Ord,
    PortSource<A>: PartialEq,
{
    /// What leads from outside to containers and back.
    fn put_ways(&self, actual: &Self, out: &mut Vec<Change>) {
        put(&self.allowed, &actual.allowed, |key, value| FamilyChange::PutAllowed(key, value).into(), out);
        put(&self.sources, &actual.sources, |key, value| FamilyChange::PutSource(key, value).into(), out);
        put(&self.published, &actual.published, |key, value| FamilyChange::PutPublished(key, value).into(), out);
    }

    fn delete_ways(&self, actual: &Self, out: &mut Vec<Change>) {
        let published = actual.published.keys().filter(|key| !is_replaced(key, &self.published));
        delete_keys(&self.published, published, |key| FamilyChange::DeletePublished(key).into(), out);
        let sources = actual.sources.keys().filter(|key| !is_replaced(key, &self.sources));
        delete_keys(&self.sources, sources, |key| FamilyChange::DeleteSource(key).into(), out);
        delete(&self.allowed, &actual.allowed, |key| FamilyChange::DeleteAllowed(key).into(), out);
    }

    /// What other entries for the same ports stand in for.
    fn delete_replaced_ways(&self, actual: &Self, out: &mut Vec<Change>) {
        let published = actual.published.keys().filter(|key| is_replaced(key, &self.published));
        delete_keys(&self.published, published, |key| FamilyChange::DeletePublished(key).into(), out);
        let sources = actual.sources.keys().filter(|key| is_replaced(key, &self.sources));
        delete_keys(&self.sources, sources, |key| FamilyChange::DeleteSource(key).into(), out);
    }

    fn put_addresses(&self, actual: &Self, out: &mut Vec<Change>) {
        put(&self.addresses, &actual.addresses, |key, value| FamilyChange::PutAddress(key, value).into(), out);
    }

    fn delete_addresses(&self, actual: &Self, out: &mut Vec<Change>) {
        delete(&self.addresses, &actual.addresses, |key| FamilyChange::DeleteAddress(key).into(), out);
    }

    fn put_prefixes(&self, actual: &Self, out: &mut Vec<Change>) {
        put(&self.prefixes, &actual.prefixes, |key, value| FamilyChange::PutPrefix(key, value).into(), out);
    }

    fn delete_prefixes(&self, actual: &Self, out: &mut Vec<Change>) {
        delete(&self.prefixes, &actual.prefixes, |key| FamilyChange::DeletePrefix(key).into(), out);
    }

    fn apply(&mut self, change: FamilyChange<A>) {
        match change {
            FamilyChange::PutAddress(key, value) => drop(self.addresses.insert(key, value)),
            FamilyChange::DeleteAddress(key) => drop(self.addresses.remove(&key)),
            FamilyChange::PutPrefix(key, value) => drop(self.prefixes.insert(key, value)),
            FamilyChange::DeletePrefix(key) => drop(self.prefixes.remove(&key)),
            FamilyChange::PutPublished(key, value) => drop(self.published.insert(key, value)),
            FamilyChange::DeletePublished(key) => drop(self.published.remove(&key)),
            FamilyChange::PutSource(key, value) => drop(self.sources.insert(key, value)),
            FamilyChange::DeleteSource(key) => drop(self.sources.remove(&key)),
            FamilyChange::PutAllowed(key, value) => drop(self.allowed.insert(key, value)),
            FamilyChange::DeleteAllowed(key) => drop(self.allowed.remove(&key)),
        }
    }

    fn extend(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        self.prefixes.extend(other.prefixes);
        self.published.extend(other.published);
        self.sources.extend(other.sources);
        self.allowed.extend(other.allowed);
    }

    /// Keeps the entries whose keys `other` has too.
    fn retain_keys_of(&mut self, other: &Self) {
        self.addresses.retain(|key, _| other.addresses.contains_key(key));
        self.prefixes.retain(|key, _| other.prefixes.contains_key(key));
        self.published.retain(|key, _| other.published.contains_key(key));
        self.sources.retain(|key, _| other.sources.contains_key(key));
        self.allowed.retain(|key, _| other.allowed.contains_key(key));
    }
}

// Derived, it would ask for `A: Default`.
impl<A> Default for FamilyImage<A> {
    fn default() -> Self {
        Self {
            addresses: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            published: BTreeMap::new(),
            sources: BTreeMap::new(),
            allowed: BTreeMap::new(),
        }
    }
}

fn put<K: Ord + Copy, V: PartialEq + Copy>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
    change: impl Fn(K, V) -> Change,
    changes: &mut Vec<Change>,
) {
    let differs = desired.iter().filter(|(key, value)| actual.get(key) != Some(value));
    changes.extend(differs.map(|(key, value)| change(*key, *value)));
}

fn delete<K: Ord + Copy, V>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
    change: impl Fn(K) -> Change,
    changes: &mut Vec<Change>,
) {
    delete_keys(desired, actual.keys(), change, changes);
}

fn delete_keys<'a, K: Ord + Copy + 'a, V>(
    desired: &BTreeMap<K, V>,
    actual: impl Iterator<Item = &'a K>,
    change: impl Fn(K) -> Change,
    changes: &mut Vec<Change>,
) {
    changes.extend(actual.filter(|key| !desired.contains_key(key)).map(|key| change(*key)));
}

/// Whether `desired` has the block that a port lies in, or a port of a block.
fn is_replaced<A: Address + Ord, V>(key: &PortKey<A>, desired: &BTreeMap<PortKey<A>, V>) -> bool {
    if !key.is_block() {
        return desired.contains_key(&PortKey::block(key.addr, key.port, key.proto));
    }
    let last = PortKey::new(key.addr, key.port + (BLOCK_LEN - 1), u8::MAX);
    let mut ports = desired.range(PortKey::new(key.addr, key.port, 0)..=last);
    ports.any(|(port, _)| port.proto == key.proto && !port.is_block())
}

impl Image {
    /// Makes the change here that it makes in the maps.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::PutNetwork(key, value) => drop(self.networks.insert(key, value)),
                Change::DeleteNetwork(key) => drop(self.networks.remove(&key)),
                Change::PutEndpoint(key, value) => drop(self.endpoints.insert(key, value)),
                Change::DeleteEndpoint(key) => drop(self.endpoints.remove(&key)),
                Change::PutExternal(key, value) => drop(self.externals.insert(key, value)),
                Change::DeleteExternal(key) => drop(self.externals.remove(&key)),
                Change::PutLink(key, value) => drop(self.links.insert(key, value)),
                Change::DeleteLink(key) => drop(self.links.remove(&key)),
                Change::PutTrusted(key, value) => drop(self.trusted.insert(key, value)),
                Change::DeleteTrusted(key) => drop(self.trusted.remove(&key)),
                Change::PutGateway(key, value) => drop(self.gateways.insert(key, value)),
                Change::DeleteGateway(key) => drop(self.gateways.remove(&key)),
                Change::V4(change) => self.v4.apply(change),
                Change::V6(change) => self.v6.apply(change),
            }
        }
    }

    /// Adds all entries of `other`.
    pub fn extend(&mut self, other: Self) {
        self.networks.extend(other.networks);
        self.endpoints.extend(other.endpoints);
        self.externals.extend(other.externals);
        self.links.extend(other.links);
        self.trusted.extend(other.trusted);
        self.gateways.extend(other.gateways);
        self.v4.extend(other.v4);
        self.v6.extend(other.v6);
    }

    /// Keeps the entries whose keys `other` has too.
    pub fn retain_keys_of(&mut self, other: &Self) {
        self.networks.retain(|key, _| other.networks.contains_key(key));
        self.endpoints.retain(|key, _| other.endpoints.contains_key(key));
        self.externals.retain(|key, _| other.externals.contains_key(key));
        self.links.retain(|key, _| other.links.contains_key(key));
        self.trusted.retain(|key, _| other.trusted.contains_key(key));
        self.gateways.retain(|key, _| other.gateways.contains_key(key));
        self.v4.retain_keys_of(&other.v4);
        self.v6.retain_keys_of(&other.v6);
    }

    /// Entries of `PUBLISHED_PORTS_*`.
    pub fn published_len(&self) -> usize {
        self.v4.published.len() + self.v6.published.len()
    }
}

#[cfg(test)]
mod tests {
    use netpath_common::proto;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn diff_applied_to_actual_gives_desired(desired in image(), actual in image()) {
            let mut image = actual.clone();
            image.apply(&diff(&desired, &actual));
            prop_assert_eq!(image, desired);
        }

        #[test]
        fn equal_images_need_no_change(image in image()) {
            prop_assert_eq!(diff(&image, &image.clone()), vec![]);
        }

        #[test]
        fn deletions_towards_an_endpoint_precede_its_reuse(desired in image(), actual in image()) {
            let ranks: Vec<u32> = diff(&desired, &actual).iter().map(rank).collect();
            prop_assert!(ranks.is_sorted(), "{ranks:?}");
        }
    }

    #[test]
    fn a_new_container_is_complete_before_it_is_reachable() {
        let changes = diff(&one_container(), &Image::default());
        let position = |wanted: fn(&Change) -> bool| changes.iter().position(wanted).expect("change is there");
        let endpoint = position(|c| matches!(c, Change::PutEndpoint(..)));
        let source = position(|c| matches!(c, Change::V4(FamilyChange::PutSource(..))));
        let published = position(|c| matches!(c, Change::V4(FamilyChange::PutPublished(..))));
        assert!(endpoint < source && source < published);
    }

    #[test]
    fn a_container_that_goes_is_unreachable_first() {
        let changes = diff(&Image::default(), &one_container());
        assert!(matches!(changes.first(), Some(Change::V4(FamilyChange::DeletePublished(_)))));
        assert!(matches!(changes.last(), Some(Change::DeleteNetwork(_))));
    }

    #[test]
    fn no_port_is_closed_while_its_block_is_cut_or_made_whole() {
        let host = Addr4([192, 0, 2, 1]);
        let image = |keys: &[PortKey<Addr4>]| {
            let mut image = Image::default();
            for key in keys {
                image.v4.published.insert(*key, PortTarget::new(1, 1, key.port, 0, 3));
                image.v4.sources.insert(*key, PortSource::new(host, key.port, 0, 3));
            }
            image
        };
        let whole = image(&[PortKey::block(host, 256, proto::TCP), PortKey::new(host, 512, proto::TCP)]);
        let ports: Vec<_> =
            (256..=512).filter(|port| *port != 300).map(|port| PortKey::new(host, port, proto::TCP)).collect();
        let cut = image(&ports);
        for (desired, actual) in [(&cut, &whole), (&whole, &cut)] {
            let mut now = actual.clone();
            for change in diff(desired, actual) {
                now.apply(&[change]);
                for key in &ports {
                    let block = PortKey::block(key.addr, key.port, key.proto);
                    let is_open = now.v4.published.contains_key(key) || now.v4.published.contains_key(&block);
                    let has_name = now.v4.sources.contains_key(key) || now.v4.sources.contains_key(&block);
                    assert!(is_open && has_name, "{key:?} after {change:?}");
                }
            }
            assert_eq!(&now, desired);
        }
    }

    fn rank(change: &Change) -> u32 {
        fn of<A>(change: &FamilyChange<A>) -> u32 {
            match change {
                FamilyChange::DeletePublished(_) | FamilyChange::DeleteSource(_) | FamilyChange::DeleteAllowed(_) => 0,
                FamilyChange::DeleteAddress(_) => 2,
                FamilyChange::PutPrefix(..) => 5,
                FamilyChange::PutAddress(..) => 7,
                FamilyChange::PutAllowed(..) | FamilyChange::PutSource(..) | FamilyChange::PutPublished(..) => 9,
                FamilyChange::DeletePrefix(_) => 13,
            }
        }
        match change {
            Change::V4(change) => of(change),
            Change::V6(change) => of(change),
            Change::DeleteLink(_) => 1,
            Change::DeleteEndpoint(_) => 3,
            Change::PutNetwork(..) => 4,
            Change::PutGateway(..) => 4,
            Change::PutEndpoint(..) => 6,
            Change::PutLink(..) => 8,
            Change::PutExternal(..) => 10,
            Change::PutTrusted(..) => 10,
            Change::DeleteTrusted(_) => 11,
            Change::DeleteExternal(_) => 12,
            Change::DeleteGateway(_) => 14,
            Change::DeleteNetwork(_) => 14,
        }
    }

    fn one_container() -> Image {
        let addr = Addr4([172, 17, 0, 2]);
        let mut image = Image::default();
        image.networks.insert(1, Network::EMPTY);
        image.v4.prefixes.insert((Addr4([172, 17, 0, 0]), 16), 1);
        image.endpoints.insert(1, Endpoint::EMPTY);
        image.v4.addresses.insert(addr, 1);
        image.v4.sources.insert(PortKey::new(addr, 80, proto::TCP), PortSource::new(Addr4([192, 0, 2, 1]), 8080, 0, 3));
        image
            .v4
            .published
            .insert(PortKey::new(Addr4([192, 0, 2, 1]), 8080, proto::TCP), PortTarget::new(1, 1, 80, 0, 3));
        image
    }

    prop_compose! {
        fn family()(
            addresses in prop::collection::btree_map(0u8..16, 0u32..8, 0..8),
            prefixes in prop::collection::btree_map((0u8..16, 8u8..32), 0u32..4, 0..4),
            published in prop::collection::btree_map(0u16..16, (0u32..8, any::<u32>()), 0..16),
            sources in prop::collection::btree_map(0u16..16, any::<u16>(), 0..16),
            allowed in prop::collection::btree_map((0u32..4, 0u8..4, 32u8..64), 0u32..2, 0..4),
        ) -> FamilyImage<Addr4> {
            let addr = |last| Addr4([10, 0, 0, last]);
            let key = |port| PortKey::new(addr(1), port, proto::TCP);
            FamilyImage {
                addresses: addresses.into_iter().map(|(k, v)| (addr(k), v)).collect(),
                prefixes: prefixes.into_iter().map(|((a, l), v)| ((addr(a), l), v)).collect(),
                published: published
                    .into_iter()
                    .map(|(k, (e, g))| (key(k), PortTarget::new(e, g, 80, 0, 1)))
                    .collect(),
                sources: sources.into_iter().map(|(k, v)| (key(k), PortSource::new(addr(1), v, 0, 1))).collect(),
                allowed: allowed
                    .into_iter()
                    .map(|((binding, a, l), v)| ((AllowedSource { binding, addr: addr(a) }, l), v))
                    .collect(),
            }
        }
    }

    prop_compose! {
        fn image()(
            networks in prop::collection::btree_map(0u32..4, any::<u32>(), 0..4),
            endpoints in prop::collection::btree_map(0u32..8, any::<u32>(), 0..8),
            externals in prop::collection::btree_map(0u32..4, any::<[u8; 4]>(), 0..4),
            links in prop::collection::btree_map((0u32..4, 0u32..4), any::<u32>(), 0..4),
            trusted in prop::collection::btree_map((0u32..4, 0u32..4), 0u32..2, 0..4),
            gateways in prop::collection::btree_map(0u32..4, 0u32..4, 0..4),
            v4 in family(),
            v6 in family(),
        ) -> Image {
            let network = |mtu| { let mut n = Network::EMPTY; n.mtu = mtu; n };
            let endpoint = |generation| { let mut e = Endpoint::EMPTY; e.generation = generation; e };
            Image {
                networks: networks.into_iter().map(|(k, v)| (k, network(v))).collect(),
                endpoints: endpoints.into_iter().map(|(k, v)| (k, endpoint(v))).collect(),
                externals: externals
                    .into_iter()
                    .map(|(k, v)| (k, External { addr4: Addr4(v), ..External::default() }))
                    .collect(),
                links: links
                    .into_iter()
                    .map(|((from, to), counter)| (LinkKey::new(from, to, 80, proto::TCP), Link { counter }))
                    .collect(),
                trusted: trusted.into_iter().map(|((i, n), v)| (TrustedKey::new(i, n), v)).collect(),
                gateways,
                v4,
                v6: widen(v6),
            }
        }
    }

    /// The same image of the other family.
    fn widen(image: FamilyImage<Addr4>) -> FamilyImage<Addr6> {
        let addr = |a: Addr4| Addr6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a.0[0], a.0[1], a.0[2], a.0[3]]);
        let key = |k: PortKey<Addr4>| PortKey::new(addr(k.addr), k.port, k.proto);
        let source = |s: PortSource<Addr4>| PortSource::new(addr(s.addr), s.port, s.flags, s.counter);
        let allowed = |a: AllowedSource<Addr4>| AllowedSource { binding: a.binding, addr: addr(a.addr) };
        FamilyImage {
            addresses: image.addresses.into_iter().map(|(k, v)| (addr(k), v)).collect(),
            prefixes: image.prefixes.into_iter().map(|((a, l), v)| ((addr(a), l), v)).collect(),
            published: image.published.into_iter().map(|(k, v)| (key(k), v)).collect(),
            sources: image.sources.into_iter().map(|(k, v)| (key(k), source(v))).collect(),
            allowed: image.allowed.into_iter().map(|((a, l), v)| ((allowed(a), l), v)).collect(),
        }
    }
}
