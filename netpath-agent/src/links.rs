//! Links between containers: asked for with a container, added and removed live.

use std::collections::BTreeSet;
use std::str::FromStr;

use anyhow::Result;

use crate::agent::Agent;
use crate::api;
use crate::names::link;
use crate::network_mode::{Asked, NetworkMode};
use crate::refusal::Refusal;
use crate::state::{Link, State};

/// The links that `texts` ask for, those of `container` in `networks`.
///
/// # Errors
/// A [`Refusal`] with Docker's words if a text is malformed, nobody has such a name, or who has it is elsewhere.
pub fn parse_all(
    texts: &[String],
    container: &str,
    networks: &BTreeSet<u32>,
    state: &State,
) -> Result<Vec<link::Link>, Refusal> {
    let mut links: Vec<link::Link> = Vec::new();
    for text in texts {
        let link: link::Link = text.trim_start_matches('/').parse().map_err(Refusal::invalid)?;
        let link::Link { name, alias } = &link;
        if name == container || !state.containers.contains_key(name) {
            return Err(Refusal::NotFound(format!(
                "Cannot link to a non running container: /{name} AS /{container}/{alias}"
            )));
        }
        if state.networks_of(name).is_disjoint(networks) {
            let reason = format!("Cannot link to /{name}, as it does not belong to a network of /{container}");
            return Err(Refusal::Invalid(reason));
        }
        if links.iter().any(|other| other.alias == *alias) {
            return Err(Refusal::Invalid(format!("the alias `{alias}` is given twice")));
        }
        links.push(link);
    }
    Ok(links)
}

impl Agent {
    /// Links a running container to another one.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such container, or the alias is taken; nothing has changed then.
    pub fn add_link(&mut self, name: &str, request: &api::LinkAdd) -> Result<api::Container> {
        let container = self.find(name)?;
        let mode = NetworkMode::from_str(&container.network_mode).map_err(Refusal::invalid)?;
        mode.check(Asked { links: true, ..Asked::default() }).map_err(Refusal::invalid)?;
        let texts = std::slice::from_ref(&request.link);
        let Some(link::Link { name: target, alias }) =
            parse_all(texts, name, &self.state.networks_of(name), &self.state)?.pop()
        else {
            return self.container(name);
        };
        if container.links.iter().any(|link| link.alias == alias) {
            return Err(Refusal::Taken(format!("container `{name}` has a link with the alias `{alias}`")).into());
        }
        let Some(counter) = self.counters.take_pair() else {
            return Err(Refusal::Taken("no counter is free for another link; raise --max-ports".to_owned()).into());
        };
        let link = Link { target, alias, counter };
        let added = self.datapath.reset_counter(counter).and_then(|()| self.datapath.reset_counter(counter + 1));
        let added = added.and_then(|()| {
            self.change(name, |state| {
                state.containers.get_mut(name).into_iter().for_each(|c| c.links.push(link.clone()))
            })
        });
        if let Err(error) = added {
            self.counters.give_back_pair(counter);
            return Err(error);
        }
        self.follow_names(name);
        self.container(name)
    }

    /// Takes a link away from a running container.
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such container or link.
    pub fn remove_link(&mut self, name: &str, alias: &str) -> Result<api::Container> {
        let links = &self.find(name)?.links;
        let Some(link) = links.iter().find(|link| link.alias == alias) else {
            return Err(Refusal::NotFound(format!("container `{name}` has no link with the alias `{alias}`")).into());
        };
        let counter = link.counter;
        self.change(name, |state| {
            state.containers.get_mut(name).into_iter().for_each(|c| c.links.retain(|link| link.alias != alias));
        })?;
        self.counters.give_back_pair(counter);
        self.follow_names(name);
        self.container(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Container, samples};

    #[test]
    fn links_lead_to_running_containers_only() {
        let mut state = State::new(String::new());
        state.containers.insert("db".to_owned(), samples::container());
        state.endpoints.insert(1, samples::endpoint("db"));
        let joined = Container { network_mode: "container:db".to_owned(), ..samples::container() };
        state.containers.insert("side".to_owned(), joined);
        let host = Container { network_mode: "host".to_owned(), ..samples::container() };
        state.containers.insert("metrics".to_owned(), host);
        let of = |texts: &[&str], network| {
            let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
            parse_all(&texts, "web", &BTreeSet::from([network]), &state)
        };
        let all = |texts: &[&str]| of(texts, samples::endpoint("db").network);
        assert!(all(&["side:s"]).is_ok());
        let error = all(&["metrics"]).unwrap_err().to_string();
        assert_eq!(error, "Cannot link to /metrics, as it does not belong to a network of /web");
        assert!(of(&["db"], 99).is_err());
        assert_eq!(all(&["db:a", "db:b"]).map(|links| links.len()), Ok(2));
        assert!(all(&["db:a", "db:a"]).is_err());
        let error = all(&["cache:c"]).unwrap_err().to_string();
        assert_eq!(error, "Cannot link to a non running container: /cache AS /web/c");
        assert!(all(&["web"]).is_err());
    }
}
