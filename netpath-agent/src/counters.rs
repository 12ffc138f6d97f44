//! Which elements of the map `COUNTERS` are in use. Pure.

use std::collections::BTreeSet;

use crate::state::State;

/// Hands out indices: pairs to networks, endpoints and links, single ones to port bindings. Index 0 is nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The lowest index that was never used.
    next: u32,
    size: u32,
    singles: BTreeSet<u32>,
    /// First indices of free pairs.
    pairs: BTreeSet<u32>,
}

impl Counters {
    /// The counters of a map with `size` elements, of which `state` uses some.
    pub fn new(size: u32, state: &State) -> Self {
        let pairs = state.endpoints.values().flat_map(|endpoint| [endpoint.counter, endpoint.counter + 1]);
        let networks = state.networks.values().flat_map(|network| [network.counter, network.counter + 1]);
        let links = state.containers.values().flat_map(|container| &container.links);
        let links = links.flat_map(|link| [link.counter, link.counter + 1]);
        let ports = state.bindings().map(|(_, port)| port.counter);
        let used: BTreeSet<u32> = networks.chain(pairs).chain(links).chain(ports).collect();
        let mut counters = Self {
            next: used.last().map_or(1, |last| last + 1),
            size,
            singles: BTreeSet::new(),
            pairs: BTreeSet::new(),
        };
        let mut index = 1;
        while index < counters.next {
            if used.contains(&index) {
                index += 1;
            } else if index + 1 < counters.next && !used.contains(&(index + 1)) {
                counters.pairs.insert(index);
                index += 2;
            } else {
                counters.singles.insert(index);
                index += 1;
            }
        }
        counters
    }

    /// Two counters in a row; the index of the first.
    pub fn take_pair(&mut self) -> Option<u32> {
        self.pairs.pop_first().or_else(|| self.grow(2))
    }

    pub fn take(&mut self) -> Option<u32> {
        self.singles.pop_first().or_else(|| self.grow(1)).or_else(|| {
            let first = self.pairs.pop_first()?;
            self.singles.insert(first + 1);
            Some(first)
        })
    }

    pub fn give_back_pair(&mut self, first: u32) {
        self.pairs.insert(first);
    }

    pub fn give_back(&mut self, index: u32) {
        self.singles.insert(index);
    }

    fn grow(&mut self, count: u32) -> Option<u32> {
        let first = self.next;
        (first + count <= self.size).then(|| {
            self.next += count;
            first
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_map_is_used_to_its_last_element() {
        let mut counters = Counters::new(5, &State::new(String::new()));
        assert_eq!((counters.take_pair(), counters.take(), counters.take()), (Some(1), Some(3), Some(4)));
        assert_eq!((counters.take_pair(), counters.take()), (None, None));
        counters.give_back_pair(1);
        assert_eq!((counters.take(), counters.take(), counters.take()), (Some(1), Some(2), None));
    }

    proptest! {
        #[test]
        fn no_counter_is_given_twice(actions in prop::collection::vec((any::<bool>(), any::<bool>()), 0..60)) {
            let mut counters = Counters::new(40, &State::new(String::new()));
            let (mut singles, mut pairs) = (vec![], vec![]);
            for (take, pair) in actions {
                match (take, pair) {
                    (true, true) => pairs.extend(counters.take_pair()),
                    (true, false) => singles.extend(counters.take()),
                    (false, true) => pairs.pop().into_iter().for_each(|index| counters.give_back_pair(index)),
                    (false, false) => singles.pop().into_iter().for_each(|index| counters.give_back(index)),
                }
                let held: Vec<u32> = singles.iter().copied().chain(pairs.iter().flat_map(|p| [*p, p + 1])).collect();
                let distinct: BTreeSet<u32> = held.iter().copied().collect();
                prop_assert_eq!(held.len(), distinct.len());
                prop_assert!(distinct.iter().all(|index| (1..40).contains(index)));
            }
        }
    }
}
