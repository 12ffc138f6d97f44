//! Which of Docker's containers are served as Docker has them. Pure. It is asked about all of them whenever one has changed,
//! so it looks nothing up by going through all.

use std::collections::{BTreeMap, BTreeSet};

use super::translate::Container;
use crate::api::Netns;
use crate::exposed;
use crate::state::{self, Endpoint, State};

/// What is served at one moment.
pub(super) struct Served<'a> {
    containers: &'a BTreeMap<String, state::Container>,
    endpoints: BTreeMap<&'a str, Vec<(u32, &'a Endpoint)>>,
    /// Name of a network to its index.
    networks: BTreeMap<&'a str, u32>,
}

impl<'a> Served<'a> {
    pub(super) fn of(state: &'a State) -> Self {
        let networks = state.networks.iter().map(|(index, network)| (network.name.as_str(), *index));
        Self { containers: &state.containers, endpoints: state.endpoints_by_container(), networks: networks.collect() }
    }

    /// Whether one of the container's interfaces is not served.
    pub(super) fn lacks_interface(&self, asked: &Container) -> bool {
        let known = self.endpoints.get(asked.name.as_str()).map_or(&[][..], Vec::as_slice);
        let mut networks = asked.endpoints.iter().filter_map(|endpoint| self.networks.get(endpoint.network.as_str()));
        networks.any(|network| known.iter().all(|(_, endpoint)| endpoint.network != *network))
    }

    /// Whether there is nothing to do about the container, links to containers that are not there among it.
    pub(super) fn is_as_asked(&self, asked: &Container) -> bool {
        let Some(known) = self.containers.get(&asked.name) else { return false };
        known.docker_id.as_ref() == Some(&asked.id)
            && asked.pid.is_none_or(|pid| known.netns == Netns::Pid(pid))
            && !self.lacks_interface(asked)
            && (!asked.is_known || is_made_as_asked(known, asked))
    }
}

/// Whether ports, names and links are those that the container was created with.
fn is_made_as_asked(known: &state::Container, asked: &Container) -> bool {
    let ports = known.ports.iter().map(|port| state::PortBinding { counter: 0, ..port.clone() });
    let links: BTreeSet<String> = known.links.iter().map(|link| format!("{}:{}", link.target, link.alias)).collect();
    ports.eq(asked.ports.iter().cloned())
        && known.hostname == asked.hostname
        && exposed::normalise(&asked.expose).is_ok_and(|expose| expose == known.expose)
        && links == asked.links.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::translate;
    use crate::state::samples;

    #[test]
    fn a_container_that_is_served_as_it_should_be_is_left_alone() {
        assert!(is_left_alone(|_, _| {}));
    }

    #[test]
    fn what_differs_is_found() {
        assert!(!is_left_alone(|_, asked| asked.name = "other".to_owned()));
        assert!(!is_left_alone(|_, asked| asked.id = "other".to_owned()));
        assert!(!is_left_alone(|_, asked| asked.pid = Some(2)));
        assert!(!is_left_alone(|_, asked| asked.hostname = Some("box".to_owned())));
        assert!(!is_left_alone(|_, asked| asked.ports.clear()));
        assert!(!is_left_alone(|_, asked| asked.ports[0].host_port += 1));
        assert!(!is_left_alone(|_, asked| asked.expose.push("53/udp".to_owned())));
        assert!(!is_left_alone(|_, asked| asked.links.push("db:db".to_owned())));
        assert!(!is_left_alone(|state, _| state.endpoints.clear()));
        assert!(!is_left_alone(|state, _| state.endpoints.get_mut(&1).unwrap().network = 2));
        assert!(!is_left_alone(|state, _| state.containers.clear()));
    }

    #[test]
    fn what_is_not_known_yet_is_no_difference() {
        assert!(is_left_alone(|_, asked| asked.pid = None));
        assert!(is_left_alone(|_, asked| {
            asked.is_known = false;
            asked.ports.clear();
        }));
        assert!(is_left_alone(|_, asked| asked.endpoints[0].network = "docker/unknown".to_owned()));
    }

    fn is_left_alone(change: fn(&mut State, &mut Container)) -> bool {
        let mut state = samples::state();
        let known = state.containers.get_mut("web").unwrap();
        known.docker_id = Some("id".to_owned());
        let endpoint = &state.endpoints[&1];
        let mut asked = Container {
            id: "id".to_owned(),
            name: "web".to_owned(),
            hostname: None,
            is_known: true,
            pid: Some(1),
            endpoints: vec![translate::Endpoint {
                network: "bridge".to_owned(),
                address: endpoint.addr,
                address6: endpoint.addr6,
                mac: endpoint.mac,
            }],
            ports: known.ports.iter().map(|port| state::PortBinding { counter: 0, ..port.clone() }).collect(),
            expose: Vec::new(),
            links: Vec::new(),
            icc: true,
        };
        change(&mut state, &mut asked);
        Served::of(&state).is_as_asked(&asked)
    }
}
