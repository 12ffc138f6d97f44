//! Follows Docker Engine: hears its events, reads all of it again after each that matters and every half minute, and hands
//! on what is to be served. When the Engine is away it tries again, and nobody hears of it but the log.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use bollard::Docker;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptions, InspectContainerOptions};
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::engine;
use super::own_rules::missing_options;
use super::translate::{self, Said, Wanted};

/// What is said about a container waits for its lock, which whoever starts it holds.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
/// The events begin to be heard a moment after they were asked for; and what an event tells of may not be to be seen yet.
const SECOND_READ: Duration = Duration::from_secs(1);
/// How often to look whether the Engine still forwards by itself: whoever changes that waits for it.
const SIGNS_INTERVAL: Duration = Duration::from_millis(250);
const READ_INTERVAL: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// What happens to containers and changes what is to be served, or what is known about them.
const CONTAINER_EVENTS: [&str; 6] = ["create", "start", "die", "destroy", "rename", "update"];

struct Follower {
    socket: PathBuf,
    icc: bool,
    said: Said,
    /// Containers that told nothing, being started.
    silent: BTreeSet<String>,
    missing: Vec<&'static str>,
    wanted: mpsc::Sender<Wanted>,
}

/// Starts to follow the Engine behind `socket`. `icc`: containers of its default network may talk to each other.
pub fn follow(socket: &Path, icc: bool) -> mpsc::Receiver<Wanted> {
    let (wanted, receiver) = mpsc::channel(1);
    let follower = Follower {
        socket: socket.to_owned(),
        icc,
        said: Said::default(),
        silent: BTreeSet::new(),
        missing: Vec::new(),
        wanted,
    };
    tokio::spawn(follower.run());
    receiver
}

impl Follower {
    async fn run(mut self) {
        let (mut wait, mut told) = (FIRST_WAIT, String::new());
        while !self.wanted.is_closed() {
            let since = Instant::now();
            let Err(error) = self.follow().await else { return };
            let text = format!("{error:#}");
            if text != told {
                tracing::error!(
                    "follow Docker Engine: {text}; what is served goes on, and the Engine is tried again and again"
                );
                told = text;
            }
            if since.elapsed() > LONGEST_WAIT {
                (wait, told) = (FIRST_WAIT, String::new());
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Follows until nobody listens any more.
    ///
    /// # Errors
    /// If the Engine cannot be reached, or goes away.
    async fn follow(&mut self) -> Result<()> {
        let docker = engine::connect(&self.socket).await?;
        tracing::info!("following Docker Engine at {}", self.socket.display());
        let kinds = vec!["container".to_owned(), "network".to_owned()];
        let only =
            EventsOptions { filters: Some(HashMap::from([("type".to_owned(), kinds)])), ..EventsOptions::default() };
        let mut events = pin!(docker.events(Some(only)));
        // The events are asked for when the stream is first looked at.
        let mut first = events.next().now_or_never();
        (self.said, self.silent) = (Said::default(), BTreeSet::new());
        let mut next_read = Instant::now() + SECOND_READ;
        self.read(&docker).await?;
        loop {
            let mut matters = false;
            let event = match first.take() {
                Some(event) => Some(event),
                None => tokio::select! {
                    event = events.next() => Some(event),
                    () = sleep_until(next_read) => None,
                    () = sleep(SIGNS_INTERVAL), if !self.missing.is_empty() => {
                        if missing_options(&self.socket, &self.said.networks) != self.missing {
                            self.read(&docker).await?;
                        }
                        continue;
                    }
                    () = self.wanted.closed() => return Ok(()),
                },
            };
            let mut burst = Vec::from_iter(event);
            burst.extend(std::iter::from_fn(|| events.next().now_or_never()).take(1000));
            for event in burst {
                let event = event.context("the Engine has ended its events")?.context("hear the Engine's events")?;
                matters |= self.note(&docker, &event).await;
            }
            if Instant::now() >= next_read {
                self.silent.clear();
                next_read = Instant::now() + READ_INTERVAL;
            } else if matters {
                next_read = Instant::now() + SECOND_READ;
            } else {
                continue;
            }
            self.read(&docker).await?;
        }
    }

    /// Learns what an event says; `true` if everything is to be read again.
    async fn note(&mut self, docker: &Docker, event: &EventMessage) -> bool {
        let action = event.action.as_deref().unwrap_or_default();
        let id = event.actor.as_ref().and_then(|actor| actor.id.as_deref()).unwrap_or_default();
        match event.typ {
            Some(EventMessageTypeEnum::NETWORK) => true,
            Some(EventMessageTypeEnum::CONTAINER) if CONTAINER_EVENTS.contains(&action) => {
                self.silent.remove(id);
                match action {
                    "create" | "start" => self.inspect(docker, id).await,
                    "die" => {
                        let state = self.said.details.get_mut(id).and_then(|details| details.state.as_mut());
                        state.into_iter().for_each(|state| state.pid = None);
                    }
                    "destroy" => drop(self.said.details.remove(id)),
                    _ => {}
                }
                action != "create"
            }
            _ => false,
        }
    }

    /// Learns what a container was created with, and its process, unless it is just being started.
    async fn inspect(&mut self, docker: &Docker, id: &str) {
        match timeout(LOCK_PATIENCE, docker.inspect_container(id, None::<InspectContainerOptions>)).await {
            Ok(Ok(details)) => drop(self.said.details.insert(id.to_owned(), details)),
            Ok(Err(error)) => tracing::debug!("inspect container {id}: {error}"),
            Err(_) => drop(self.silent.insert(id.to_owned())),
        }
    }

    /// Reads everything and hands on what is to be served.
    async fn read(&mut self, docker: &Docker) -> Result<()> {
        (self.said.networks, self.said.summaries) = engine::list(docker).await?;
        let ids: BTreeSet<String> = self.said.summaries.iter().filter_map(|summary| summary.id.clone()).collect();
        self.said.details.retain(|id, _| ids.contains(id));
        for id in ids
            .iter()
            .filter(|id| !self.said.details.contains_key(*id) && !self.silent.contains(*id))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.inspect(docker, &id).await;
        }
        let wanted = self.wanted();
        // Nobody listens when the agent ends.
        let _ = self.wanted.send(wanted).await;
        Ok(())
    }

    fn wanted(&mut self) -> Wanted {
        let missing = missing_options(&self.socket, &self.said.networks);
        if missing != self.missing {
            if missing.is_empty() {
                tracing::info!("Docker Engine leaves the forwarding to netpath from now on");
            } else {
                tracing::error!(
                    "Docker Engine forwards and translates by itself, and its containers are left to it: start dockerd with {}, \
                     and remove the rules of an earlier one (a reboot does)",
                    missing.join(" ")
                );
            }
            self.missing = missing;
        }
        if self.missing.is_empty() {
            translate::wanted(&self.said, self.icc)
        } else {
            Wanted { waits_for: self.missing.clone(), ..Wanted::default() }
        }
    }
}
