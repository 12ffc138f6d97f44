//! What the state says of one container. With such records the state on disk goes on behind the whole of it, and a change
//! that came to nothing is taken back. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::state::{Container, Endpoint, State};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Name of the container.
    name: String,
    /// Absent: there is none.
    container: Option<Container>,
    /// All that it has, by index.
    endpoints: BTreeMap<u32, Endpoint>,
    next_generation: u32,
}

impl Record {
    pub fn of(name: &str, state: &State) -> Self {
        let endpoints = state.endpoints_of(name).into_iter().map(|(index, endpoint)| (index, endpoint.clone()));
        Self {
            name: name.to_owned(),
            container: state.containers.get(name).cloned(),
            endpoints: endpoints.collect(),
            next_generation: state.next_generation,
        }
    }

    /// Makes the state say this of the container, whatever it said before.
    pub fn apply(self, state: &mut State) {
        state.endpoints.retain(|_, endpoint| endpoint.container != self.name);
        state.endpoints.extend(self.endpoints);
        match self.container {
            Some(container) => drop(state.containers.insert(self.name, container)),
            None => drop(state.containers.remove(&self.name)),
        }
        state.next_generation = state.next_generation.max(self.next_generation);
    }
}

/// The state that a file says: all of it in the first line, and a record in each line behind. A last record that broke off
/// counts for nothing: whoever wrote it had done nothing else yet.
///
/// # Errors
/// If a line is not understood.
pub fn read(bytes: &[u8]) -> Result<State> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let mut state = State::parse(lines.next().unwrap_or_default())?;
    for (line, number) in lines.filter(|line| line.ends_with(b"\n")).zip(2..) {
        let record: Record = serde_json::from_slice(line).with_context(|| format!("understand line {number}"))?;
        record.apply(&mut state);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::samples;

    proptest! {
        #[test]
        fn records_lead_from_one_state_to_another(before in state(), after in state()) {
            let mut now = before.clone();
            for name in NAMES {
                Record::of(name, &after).apply(&mut now);
            }
            now.next_generation = after.next_generation;
            prop_assert_eq!(now, after);
        }

        #[test]
        fn a_record_takes_a_change_back(before in state(), after in state(), name in prop::sample::select(&NAMES[..])) {
            let mut now = before.clone();
            let was = Record::of(name, &before);
            // Endpoints of others keep their indices.
            let mut change = Record::of(name, &after);
            change.endpoints.retain(|index, _| before.endpoints.get(index).is_none_or(|e| e.container == name));
            change.next_generation = before.next_generation;
            change.apply(&mut now);
            was.apply(&mut now);
            prop_assert_eq!(now, before);
        }
    }

    #[test]
    fn a_file_without_records_is_read() {
        let state = samples::state();
        assert_eq!(read(&serde_json::to_vec(&state).unwrap()).unwrap(), state);
    }

    #[test]
    fn wherever_the_last_record_broke_off_what_was_before_counts() {
        let mut state = samples::state();
        let mut bytes = serde_json::to_vec(&state).unwrap();
        bytes.push(b'\n');
        let add = |bytes: &mut Vec<u8>, name: &str, state: &State| {
            serde_json::to_writer(&mut *bytes, &Record::of(name, state)).unwrap();
            bytes.push(b'\n');
        };
        state.containers.insert("app".to_owned(), samples::container());
        state.next_generation += 1;
        add(&mut bytes, "app", &state);
        let (length, was) = (bytes.len(), state.clone());
        state.containers.remove("web");
        state.endpoints.clear();
        add(&mut bytes, "web", &state);
        assert_eq!(read(&bytes).unwrap(), state);
        assert!(State::parse(&bytes).is_err(), "who knows no records does not take the old state for the new");
        for length in length..bytes.len() {
            assert_eq!(read(&bytes[..length]).unwrap(), was, "{length} bytes");
        }
    }

    #[test]
    fn a_line_that_is_no_record_is_an_error() {
        let mut bytes = serde_json::to_vec(&samples::state()).unwrap();
        bytes.extend(b"\n{\"name\": \"web\"}\n");
        let error = format!("{:#}", read(&bytes).unwrap_err());
        assert!(error.starts_with("understand line 2: "), "{error}");
    }

    const NAMES: [&str; 3] = ["app", "db", "web"];

    prop_compose! {
        fn state()(
            created in prop::collection::btree_map(prop::sample::select(&NAMES[..]), any::<u64>(), 0..4),
            owners in prop::collection::btree_map(1u32..8, prop::sample::select(&NAMES[..]), 0..6),
            next_generation in 1u32..9,
        ) -> State {
            let mut state = samples::state();
            let container = |created| Container { created, ..samples::container() };
            state.containers = created.into_iter().map(|(name, at)| (name.to_owned(), container(at))).collect();
            state.endpoints = owners.into_iter().map(|(index, name)| (index, samples::endpoint(name))).collect();
            state.next_generation = next_generation;
            state
        }
    }
}
