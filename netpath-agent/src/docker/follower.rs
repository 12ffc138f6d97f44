//! Follows Docker Engine: hears its events, reads all of it again after each that matters and every half minute, and hands
//! on what is to be served. When the Engine is away it tries again, and nobody hears of it but the log.
//!
//! What a container was created with is told under its lock, which whoever starts it holds to the end. So it is asked for as
//! soon as the container is there, nothing waits for the answer, and it is handed on when it comes.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use bollard::Docker;
use bollard::errors::Error as DockerError;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptions, InspectContainerOptions};
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::engine;
use super::listener::{Listener, Stopped};
use super::own_rules::missing_options;
use super::said::{Details, Said};
use super::translate::{self, Wanted};

/// How many containers the Engine is asked about at once, beside those that it tells of itself.
const MOST_ASKED: usize = 32;
/// The events begin to be heard a moment after they were asked for; and what an event tells of may not be to be seen yet.
const SECOND_READ: Duration = Duration::from_secs(1);
/// How often to look whether the Engine still forwards by itself: whoever changes that waits for it.
const SIGNS_INTERVAL: Duration = Duration::from_millis(250);
/// How long the Engine's rules may stand beside what is served: whoever asked for that removes them.
const BESIDE_RULES: Duration = Duration::from_secs(60);
const READ_INTERVAL: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The same where nobody is asked: dockerd is stopped.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// Whoever could be followed that long fails anew.
const STEADY: Duration = Duration::from_secs(10);
/// What happens to containers and changes what is to be served, or what is known about them.
const CONTAINER_EVENTS: [&str; 6] = ["create", "start", "die", "destroy", "rename", "update"];

struct Follower {
    socket: PathBuf,
    listener: Listener,
    icc: bool,
    said: Said,
    /// Containers to ask about, and those asked about that have not answered.
    to_ask: BTreeSet<String>,
    asked: BTreeSet<String>,
    missing: Vec<&'static str>,
    /// Until when its rules do not count.
    beside_rules: watch::Receiver<Option<Instant>>,
    wanted: Arc<watch::Sender<Option<Wanted>>>,
}

/// The Engine is followed as long as this lives.
pub struct Following {
    newest: Arc<watch::Sender<Option<Wanted>>>,
    changes: watch::Receiver<Option<Wanted>>,
    beside_rules: watch::Sender<Option<Instant>>,
}

impl Following {
    /// What Docker has, when it may have changed: the newest of it, for what came before and was not asked for is of no use.
    pub async fn next(&mut self) -> Wanted {
        loop {
            // There is always a sender: this one.
            let _ = self.changes.changed().await;
            let mut newest = None;
            self.newest.send_if_modified(|slot| {
                newest = slot.take();
                false
            });
            if let Some(newest) = newest {
                return newest;
            }
        }
    }

    /// Whether Docker's containers are to be served beside its rules, for a while.
    pub fn serve_beside_rules(&self, on: bool) {
        self.beside_rules.send_replace(on.then(|| Instant::now() + BESIDE_RULES));
    }
}

/// Starts to follow the Engine behind `socket`. `icc`: containers of its default network may talk to each other.
pub fn follow(socket: &Path, icc: bool) -> Following {
    let (newest, changes) = watch::channel(None);
    let (sender, beside_rules) = watch::channel(None);
    let newest = Arc::new(newest);
    let follower = Follower {
        socket: socket.to_owned(),
        listener: Listener::default(),
        icc,
        said: Said::default(),
        to_ask: BTreeSet::new(),
        asked: BTreeSet::new(),
        missing: Vec::new(),
        beside_rules,
        wanted: newest.clone(),
    };
    tokio::spawn(follower.run());
    Following { newest, changes, beside_rules: sender }
}

/// What the Engine says, as it comes.
enum Heard {
    Event(EventMessage),
    /// About the container with this id.
    Container(String, Result<Details, DockerError>),
    /// Nothing more, and why.
    End(Error),
}

impl Follower {
    async fn run(mut self) {
        let (mut wait, mut told) = (FIRST_WAIT, String::new());
        while !self.wanted.is_closed() {
            let since = Instant::now();
            let Err(error) = self.follow().await else { return };
            if since.elapsed() > STEADY {
                (wait, told) = (FIRST_WAIT, String::new());
            }
            let text = format!("{error:#}");
            if text != told {
                if error.is::<Stopped>() {
                    // No fault: at each boot it is so for a moment.
                    tracing::info!("{text}; waiting until somebody does");
                } else {
                    tracing::error!(
                        "follow Docker Engine: {text}; what is served goes on, and the Engine is tried again and again"
                    );
                }
                told = text;
            }
            sleep(if error.is::<Stopped>() { wait.min(LONGEST_LOOK) } else { wait }).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Follows until nobody listens any more.
    ///
    /// # Errors
    /// If the Engine cannot be reached, or goes away.
    async fn follow(&mut self) -> Result<()> {
        self.listener.require_dockerd(&self.socket)?;
        let docker = engine::connect(&self.socket).await?;
        tracing::info!("following Docker Engine at {}", self.socket.display());
        // Ends with this: what is dropped is aborted.
        let mut tasks = JoinSet::new();
        let (sender, mut heard) = mpsc::unbounded_channel();
        tasks.spawn(hear(docker.clone(), sender.clone()));
        (self.said, self.to_ask, self.asked) = (Said::default(), BTreeSet::new(), BTreeSet::new());
        let mut next_read = Instant::now() + SECOND_READ;
        self.read(&docker).await?;
        loop {
            self.ask(&docker, &mut tasks, &sender);
            let mut burst = Vec::new();
            tokio::select! {
                _ = heard.recv_many(&mut burst, 1000) => {}
                () = sleep_until(next_read) => {}
                () = sleep(SIGNS_INTERVAL), if !self.missing.is_empty() => {
                    if self.missing() != self.missing {
                        self.read(&docker).await?;
                    }
                    continue;
                }
                Ok(()) = self.beside_rules.changed() => {
                    self.read(&docker).await?;
                    continue;
                }
                () = self.wanted.closed() => return Ok(()),
            }
            let (mut matters, mut has_answer) = (false, false);
            for heard in burst {
                match heard {
                    Heard::Event(event) => matters |= self.note(&event),
                    Heard::Container(id, answer) => has_answer |= self.learn(id, answer),
                    Heard::End(error) => return Err(error),
                }
            }
            if Instant::now() >= next_read {
                next_read = Instant::now() + READ_INTERVAL;
            } else if matters {
                next_read = Instant::now() + SECOND_READ;
            } else {
                if has_answer {
                    self.tell();
                }
                continue;
            }
            self.read(&docker).await?;
        }
    }

    /// Learns what an event says; `true` if everything is to be read again.
    fn note(&mut self, event: &EventMessage) -> bool {
        let action = event.action.as_deref().unwrap_or_default();
        let id = event.actor.as_ref().and_then(|actor| actor.id.as_deref()).unwrap_or_default();
        match event.typ {
            Some(EventMessageTypeEnum::NETWORK) => true,
            Some(EventMessageTypeEnum::CONTAINER) if CONTAINER_EVENTS.contains(&action) => {
                match action {
                    "die" => self.said.details.get_mut(id).into_iter().for_each(|details| details.pid = None),
                    "destroy" => drop(self.said.details.remove(id)),
                    _ => {}
                }
                action != "create"
            }
            _ => false,
        }
    }

    /// Asks about containers that the Engine has not told of by itself, as many as may be at once.
    fn ask(&mut self, docker: &Docker, tasks: &mut JoinSet<()>, heard: &mpsc::UnboundedSender<Heard>) {
        while tasks.try_join_next().is_some() {}
        let free = MOST_ASKED.saturating_sub(self.asked.len());
        let next: Vec<String> = self.to_ask.iter().take(free).cloned().collect();
        for id in next {
            self.to_ask.remove(&id);
            self.asked.insert(id.clone());
            tasks.spawn(ask(docker.clone(), id, heard.clone()));
        }
    }

    /// Learns what a container was created with, and its process; `false` if the Engine did not say.
    fn learn(&mut self, id: String, answer: Result<Details, DockerError>) -> bool {
        self.asked.remove(&id);
        match answer {
            Ok(details) => _ = self.said.details.insert(id, details),
            Err(error) => {
                tracing::debug!("inspect container {id}: {error}");
                return false;
            }
        }
        true
    }

    /// Reads everything and hands on what is to be served.
    async fn read(&mut self, docker: &Docker) -> Result<()> {
        // One that is being stopped tells of its containers' end, and nobody else answers any more.
        self.listener.require_dockerd(&self.socket)?;
        (self.said.networks, self.said.summaries) = engine::list(docker).await?;
        let ids: BTreeSet<String> = self.said.summaries.iter().map(|summary| summary.id.clone()).collect();
        self.said.details.retain(|id, _| ids.contains(id));
        let unknown = ids.into_iter().filter(|id| !self.said.details.contains_key(id) && !self.asked.contains(id));
        self.to_ask.extend(unknown.collect::<Vec<_>>());
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        let wanted = self.wanted();
        self.wanted.send_replace(Some(wanted));
    }

    fn missing(&self) -> Vec<&'static str> {
        let beside_rules = self.beside_rules.borrow().is_some_and(|until| Instant::now() < until);
        missing_options(&self.said.networks, beside_rules)
    }

    fn wanted(&mut self) -> Wanted {
        let missing = self.missing();
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

/// Hands on the Engine's events, and asks about each container that is made or started.
async fn hear(docker: Docker, heard: mpsc::UnboundedSender<Heard>) {
    let kinds = vec!["container".to_owned(), "network".to_owned()];
    let only = EventsOptions { filters: Some(HashMap::from([("type".to_owned(), kinds)])), ..EventsOptions::default() };
    let mut events = pin!(docker.events(Some(only)));
    let mut questions = JoinSet::new();
    loop {
        let event = match events.next().await {
            Some(Ok(event)) => event,
            Some(Err(error)) => {
                return drop(heard.send(Heard::End(Error::from(error).context("hear the Engine's events"))));
            }
            None => return drop(heard.send(Heard::End(anyhow!("the Engine has ended its events")))),
        };
        let is_asked = matches!(event.action.as_deref(), Some("create" | "start"));
        if is_asked && event.typ == Some(EventMessageTypeEnum::CONTAINER) {
            let id = event.actor.as_ref().and_then(|actor| actor.id.clone()).unwrap_or_default();
            questions.spawn(ask(docker.clone(), id, heard.clone()));
        }
        while questions.try_join_next().is_some() {}
        if heard.send(Heard::Event(event)).is_err() {
            return;
        }
    }
}

async fn ask(docker: Docker, id: String, heard: mpsc::UnboundedSender<Heard>) {
    let answer = docker.inspect_container(&id, None::<InspectContainerOptions>).await;
    // Nobody listens when the Engine has gone.
    let _ = heard.send(Heard::Container(id, answer.map(Details::from)));
}
