//! Who is where: the endpoints, interfaces and networks of a container. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::{Endpoint, State};

impl State {
    /// The endpoints of a container, in the order in which it was connected.
    pub fn endpoints_of(&self, container: &str) -> Vec<(u32, &Endpoint)> {
        let mut endpoints: Vec<_> = self.endpoints.iter().filter(|(_, e)| e.container == container).collect();
        endpoints.sort_by_key(|(_, endpoint)| endpoint.generation);
        endpoints.into_iter().map(|(index, endpoint)| (*index, endpoint)).collect()
    }

    /// What [`Self::endpoints_of`] says of every container that has any; for who asks about many.
    pub fn endpoints_by_container(&self) -> BTreeMap<&str, Vec<(u32, &Endpoint)>> {
        let mut by_container: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (index, endpoint) in &self.endpoints {
            by_container.entry(&endpoint.container).or_default().push((*index, endpoint));
        }
        by_container.values_mut().for_each(|endpoints| endpoints.sort_by_key(|(_, endpoint)| endpoint.generation));
        by_container
    }

    /// The container that has the interfaces of `container`: itself, or the one whose namespace it shares.
    pub fn home_of<'a>(&'a self, container: &'a str) -> &'a str {
        self.way_home(container).last().unwrap_or(container)
    }

    /// The container, the one whose namespace it shares, and so on.
    pub fn way_home<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a str> {
        let joined = |name: &str| self.containers.get(name)?.network_mode.strip_prefix("container:");
        std::iter::successors(Some(container), move |name| joined(name)).take(self.containers.len() + 1)
    }

    /// The networks that a container reaches.
    pub fn networks_of(&self, container: &str) -> BTreeSet<u32> {
        self.endpoints_of(self.home_of(container)).into_iter().map(|(_, endpoint)| endpoint.network).collect()
    }

    /// Names of the interfaces that a container was given.
    pub fn interfaces_of(&self, container: &str) -> Vec<&str> {
        let endpoints = self.endpoints.values().filter(|endpoint| endpoint.container == container);
        let ends = self.ptps.iter().flat_map(|ptp| [&ptp.a, &ptp.b]).filter(|end| end.container == container);
        endpoints.map(|endpoint| endpoint.interface.as_str()).chain(ends.map(|end| end.interface.as_str())).collect()
    }
}
