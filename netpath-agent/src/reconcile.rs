//! What the agent-written maps hold, and the changes that lead from one content to another. Pure: no
//! I/O, no clock. What the content should be is `desired`'s business.

use std::collections::BTreeMap;

use netpath_common::{Addr4, Endpoint, External, Network, PortKey, PortSource, PortTarget};

/// The content of every map that the agent writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Network index to network.
    pub networks: BTreeMap<u32, Network>,
    /// Endpoint index to endpoint.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Container address to endpoint index.
    pub addresses: BTreeMap<Addr4, u32>,
    /// Address and prefix length to network index.
    pub prefixes: BTreeMap<(Addr4, u8), u32>,
    /// Interface index to external.
    pub externals: BTreeMap<u32, External>,
    pub published: BTreeMap<PortKey<Addr4>, PortTarget>,
    pub sources: BTreeMap<PortKey<Addr4>, PortSource<Addr4>>,
}

/// One write to one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    PutNetwork(u32, Network),
    DeleteNetwork(u32),
    PutEndpoint(u32, Endpoint),
    DeleteEndpoint(u32),
    PutAddress(Addr4, u32),
    DeleteAddress(Addr4),
    PutPrefix((Addr4, u8), u32),
    DeletePrefix((Addr4, u8)),
    PutExternal(u32, External),
    DeleteExternal(u32),
    PutPublished(PortKey<Addr4>, PortTarget),
    DeletePublished(PortKey<Addr4>),
    PutSource(PortKey<Addr4>, PortSource<Addr4>),
    DeleteSource(PortKey<Addr4>),
}

/// The changes that turn `actual` into `desired`, in an order in which no packet meets half of
/// anything: what leads to an endpoint goes before it and comes after it; what every packet of a
/// container needs (network, prefix) comes first and goes last.
pub fn diff(desired: &Image, actual: &Image) -> Vec<Change> {
    let mut changes = Vec::new();
    delete(&desired.published, &actual.published, Change::DeletePublished, &mut changes);
    delete(&desired.sources, &actual.sources, Change::DeleteSource, &mut changes);
    delete(&desired.addresses, &actual.addresses, Change::DeleteAddress, &mut changes);
    delete(&desired.endpoints, &actual.endpoints, Change::DeleteEndpoint, &mut changes);

    put(&desired.networks, &actual.networks, Change::PutNetwork, &mut changes);
    put(&desired.prefixes, &actual.prefixes, Change::PutPrefix, &mut changes);
    put(&desired.endpoints, &actual.endpoints, Change::PutEndpoint, &mut changes);
    put(&desired.addresses, &actual.addresses, Change::PutAddress, &mut changes);
    put(&desired.sources, &actual.sources, Change::PutSource, &mut changes);
    put(&desired.published, &actual.published, Change::PutPublished, &mut changes);
    put(&desired.externals, &actual.externals, Change::PutExternal, &mut changes);

    delete(&desired.externals, &actual.externals, Change::DeleteExternal, &mut changes);
    delete(&desired.prefixes, &actual.prefixes, Change::DeletePrefix, &mut changes);
    delete(&desired.networks, &actual.networks, Change::DeleteNetwork, &mut changes);
    changes
}

fn put<K: Ord + Copy, V: PartialEq + Copy>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
    change: fn(K, V) -> Change,
    changes: &mut Vec<Change>,
) {
    let differs = desired.iter().filter(|(key, value)| actual.get(key) != Some(value));
    changes.extend(differs.map(|(key, value)| change(*key, *value)));
}

fn delete<K: Ord + Copy, V>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
    change: fn(K) -> Change,
    changes: &mut Vec<Change>,
) {
    changes.extend(actual.keys().filter(|key| !desired.contains_key(key)).map(|key| change(*key)));
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
                Change::PutAddress(key, value) => drop(self.addresses.insert(key, value)),
                Change::DeleteAddress(key) => drop(self.addresses.remove(&key)),
                Change::PutPrefix(key, value) => drop(self.prefixes.insert(key, value)),
                Change::DeletePrefix(key) => drop(self.prefixes.remove(&key)),
                Change::PutExternal(key, value) => drop(self.externals.insert(key, value)),
                Change::DeleteExternal(key) => drop(self.externals.remove(&key)),
                Change::PutPublished(key, value) => drop(self.published.insert(key, value)),
                Change::DeletePublished(key) => drop(self.published.remove(&key)),
                Change::PutSource(key, value) => drop(self.sources.insert(key, value)),
                Change::DeleteSource(key) => drop(self.sources.remove(&key)),
            }
        }
    }

    /// Adds all entries of `other`.
    pub fn extend(&mut self, other: Self) {
        self.networks.extend(other.networks);
        self.endpoints.extend(other.endpoints);
        self.addresses.extend(other.addresses);
        self.prefixes.extend(other.prefixes);
        self.externals.extend(other.externals);
        self.published.extend(other.published);
        self.sources.extend(other.sources);
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
        let source = position(|c| matches!(c, Change::PutSource(..)));
        let published = position(|c| matches!(c, Change::PutPublished(..)));
        assert!(endpoint < source && source < published);
    }

    #[test]
    fn a_container_that_goes_is_unreachable_first() {
        let changes = diff(&Image::default(), &one_container());
        assert!(matches!(changes.first(), Some(Change::DeletePublished(_))));
        assert!(matches!(changes.last(), Some(Change::DeleteNetwork(_))));
    }

    fn rank(change: &Change) -> u32 {
        match change {
            Change::DeletePublished(_) => 0,
            Change::DeleteSource(_) => 1,
            Change::DeleteAddress(_) => 2,
            Change::DeleteEndpoint(_) => 3,
            Change::PutNetwork(..) => 4,
            Change::PutPrefix(..) => 5,
            Change::PutEndpoint(..) => 6,
            Change::PutAddress(..) => 7,
            Change::PutSource(..) => 8,
            Change::PutPublished(..) => 9,
            Change::PutExternal(..) => 10,
            Change::DeleteExternal(_) => 11,
            Change::DeletePrefix(_) => 12,
            Change::DeleteNetwork(_) => 13,
        }
    }

    fn one_container() -> Image {
        let addr = Addr4([172, 17, 0, 2]);
        let mut image = Image::default();
        image.networks.insert(1, Network::EMPTY);
        image.prefixes.insert((Addr4([172, 17, 0, 0]), 16), 1);
        image.endpoints.insert(1, Endpoint::EMPTY);
        image.addresses.insert(addr, 1);
        image.sources.insert(PortKey::new(addr, 80, proto::TCP), PortSource::new(Addr4([192, 0, 2, 1]), 8080, 0, 3));
        image.published.insert(PortKey::new(Addr4([192, 0, 2, 1]), 8080, proto::TCP), PortTarget::new(1, 1, 80, 0, 3));
        image
    }

    prop_compose! {
        fn image()(
            networks in prop::collection::btree_map(0u32..4, any::<u32>(), 0..4),
            endpoints in prop::collection::btree_map(0u32..8, any::<u32>(), 0..8),
            addresses in prop::collection::btree_map(any::<[u8; 1]>(), 0u32..8, 0..8),
            prefixes in prop::collection::btree_map((any::<[u8; 1]>(), 8u8..32), 0u32..4, 0..4),
            externals in prop::collection::btree_map(0u32..4, any::<[u8; 4]>(), 0..4),
            published in prop::collection::btree_map(0u16..16, (0u32..8, any::<u32>()), 0..16),
            sources in prop::collection::btree_map(0u16..16, any::<u16>(), 0..16),
        ) -> Image {
            let key = |port| PortKey::new(Addr4([192, 0, 2, 1]), port, proto::TCP);
            let network = |mtu| { let mut n = Network::EMPTY; n.mtu = mtu; n };
            let endpoint = |generation| { let mut e = Endpoint::EMPTY; e.generation = generation; e };
            Image {
                networks: networks.into_iter().map(|(k, v)| (k, network(v))).collect(),
                endpoints: endpoints.into_iter().map(|(k, v)| (k, endpoint(v))).collect(),
                addresses: addresses.into_iter().map(|(k, v)| (Addr4([10, 0, 0, k[0]]), v)).collect(),
                prefixes: prefixes.into_iter().map(|((a, l), v)| ((Addr4([a[0], 0, 0, 0]), l), v)).collect(),
                externals: externals
                    .into_iter()
                    .map(|(k, v)| (k, External { addr4: Addr4(v), addr6: Default::default() }))
                    .collect(),
                published: published
                    .into_iter()
                    .map(|(k, (e, g))| (key(k), PortTarget::new(e, g, 80, 0, 1)))
                    .collect(),
                sources: sources
                    .into_iter()
                    .map(|(k, v)| (key(k), PortSource::new(Addr4([192, 0, 2, 1]), v, 0, 1)))
                    .collect(),
            }
        }
    }
}
