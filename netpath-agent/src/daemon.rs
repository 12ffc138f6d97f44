//! The agent's loop: commands from the API, changes on the host, the sweep of flows, events of the data
//! plane. One at a time, so nothing else needs a lock.

use std::collections::VecDeque;
use std::future::{Future, pending, ready};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netpath_common::config_flag;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::agent::Agent;
use crate::api;
use crate::datapath::Events;
use crate::docker;
use crate::host;
use crate::memory;
use crate::netlink::Notices;
use crate::options::Options;
use crate::server::{self, Command, Reply, Socket};
use crate::startup;
use crate::store::Store;
use crate::teardown;

const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How long changes of the host are collected before it is looked at: to look takes listing all of it.
const LOOK_DELAY: Duration = Duration::from_millis(50);
/// Events that a slow reader may be behind before it misses some.
const EVENT_BACKLOG: usize = 1024;

/// Runs the agent until `shutdown` completes or somebody asks it to take everything down. The data
/// plane goes on when this returns, unless it was taken down.
///
/// # Errors
/// If the agent cannot start, or loses its connection to the kernel.
pub async fn run(options: Options, shutdown: impl Future<Output = ()>) -> Result<()> {
    host::require_root()?;
    if let Err(error) = host::raise_file_limit() {
        tracing::warn!("{error:#}");
    }
    let store = Store::open(&options.state_dir)?;
    let Socket { listener, file } = Socket::bind(&options.socket, options.group.as_deref())?;
    let path = options.socket.clone();
    let (agent, mut notices) = startup::start(options, store).await?;
    #[cfg(feature = "trace")]
    let agent = {
        let mut agent = agent;
        agent.datapath.show_trace()?;
        agent
    };
    let (sender, commands) = mpsc::channel(64);
    let server = tokio::spawn(server::serve(listener, sender));
    let subnets = agent.networks().into_iter().flat_map(|network| [network.v4, network.v6]).flatten();
    let subnets: Vec<_> = subnets.map(|subnet| subnet.subnet.to_string()).collect();
    tracing::info!("ready on {}, networks {}", path.display(), subnets.join(", "));
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("tell the service manager (NOTIFY_SOCKET) that the agent is ready: {error}");
    }

    let docker = agent.options.docker.as_ref().map(|socket| docker::follow(socket, agent.options.icc));
    let mut daemon = Daemon { agent, docker, events: None, monitors: broadcast::channel(EVENT_BACKLOG).0 };
    // The programs' object and the kernel's types are read, and need several times what stays.
    memory::release();
    let ended = daemon.serve(&mut notices, commands, shutdown).await;
    if let Ok(Some(reply)) = ended {
        let errors = teardown::agent(daemon.agent).await;
        let errors = errors.iter().map(|error| format!("{error:#}")).collect();
        drop(file);
        let _ = reply.send(Ok(api::Down { errors }));
        // Gives the answer the time to reach its reader.
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.abort();
        return Ok(());
    }
    server.abort();
    let _ = timeout(Duration::from_secs(1), server).await;
    ended.map(|_| ())
}

struct Daemon {
    agent: Agent,
    docker: Option<docker::Following>,
    /// Those who listen to `GET /v1/events`.
    monitors: broadcast::Sender<api::Event>,
    /// What the data plane reports, as long as there are any.
    events: Option<Events>,
}

impl Daemon {
    /// Serves until there is an end; `Some` if it is to take everything down.
    async fn serve(
        &mut self,
        notices: &mut Notices,
        mut commands: mpsc::Receiver<Command>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Option<Reply<api::Down>>> {
        let mut shutdown = pin!(shutdown);
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When to look at the host, if it has changed.
        let mut look_at: Option<Instant> = None;
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(None),
                command = commands.recv() => match command {
                    Some(Command::Down(reply)) => return Ok(Some(reply)),
                    Some(command) => {
                        // What was done to the host before is what the command counts on.
                        let burst = std::iter::from_fn(|| notices.pending()).collect::<Vec<_>>();
                        if self.agent.notice(burst).await || look_at.is_some() {
                            look_at = None;
                            self.agent.look().await;
                        }
                        self.handle(command).await;
                    }
                    None => bail!("the API server has ended"),
                },
                notice = notices.next() => {
                    let first = notice.context("the connection to rtnetlink is lost")?;
                    let mut burst = VecDeque::from([first]);
                    burst.extend(std::iter::from_fn(|| notices.pending()));
                    if self.agent.notice(burst).await {
                        look_at.get_or_insert_with(|| Instant::now() + LOOK_DELAY);
                    }
                }
                () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {
                    look_at = None;
                    self.agent.look().await;
                }
                wanted = next_of_docker(&mut self.docker) => {
                    // What has gone by now is not taken for what comes.
                    let burst = std::iter::from_fn(|| notices.pending()).collect::<Vec<_>>();
                    if self.agent.notice(burst).await {
                        look_at = None;
                        self.agent.look().await;
                    }
                    self.agent.follow_docker(&wanted).await;
                    drop(wanted);
                    memory::release();
                }
                () = ready(()), if self.agent.is_docker_under_way() => self.agent.go_on_with_docker().await,
                name = self.agent.exits.next() => self.agent.process_ended(&name).await,
                _ = sweep.tick() => self.sweep().await,
                event = next_event(&mut self.events) => match event {
                    Ok(event) => { let _ = self.monitors.send(self.agent.show_event(&event)); }
                    Err(error) => {
                        tracing::warn!("read events: {error:#}");
                        self.end_monitoring();
                    }
                },
            }
            if self.events.is_some() && self.monitors.receiver_count() == 0 {
                self.end_monitoring();
            }
        }
    }

    async fn handle(&mut self, command: Command) {
        let agent = &mut self.agent;
        match command {
            Command::Info(reply) => answer(reply, Ok(agent.info())),
            Command::PatchInfo(patch, reply) => {
                if let (Some(on), Some(docker)) = (patch.docker_beside_rules, &self.docker) {
                    docker.serve_beside_rules(on);
                }
                answer(reply, agent.patch_info(&patch));
            }
            Command::Networks(reply) => answer(reply, Ok(agent.networks())),
            Command::Network(name, reply) => answer(reply, agent.network(&name)),
            Command::CreateNetwork(request, reply) => {
                let created = agent.create_network(*request).await;
                answer(reply, created);
            }
            Command::PatchNetwork(name, patch, reply) => answer(reply, agent.patch_network(&name, &patch)),
            Command::DeleteNetwork(name, reply) => {
                let deleted = agent.delete_network(&name).await;
                answer(reply, deleted);
            }
            Command::Connect(network, request, reply) => {
                let connected = agent.connect(&network, &request).await;
                answer(reply, connected);
            }
            Command::Disconnect(network, name, reply) => {
                let disconnected = agent.disconnect(&network, &name).await;
                answer(reply, disconnected);
            }
            Command::Containers(reply) => answer(reply, Ok(agent.containers())),
            Command::Container(name, reply) => answer(reply, agent.container(&name)),
            Command::Attach(request, reply) => {
                let attached = agent.attach(*request).await;
                answer(reply, attached);
            }
            Command::Detach(name, reply) => {
                let detached = agent.detach(&name).await;
                answer(reply, detached);
            }
            Command::RemoveAttachment(attachment, reply) => {
                let removed = agent.remove_attachment(&attachment).await;
                answer(reply, removed);
            }
            Command::Publish(name, ports, reply) => answer(reply, agent.publish(&name, &ports)),
            Command::Unpublish(name, ports, reply) => answer(reply, agent.unpublish(&name, &ports)),
            Command::AddLink(name, link, reply) => answer(reply, agent.add_link(&name, &link)),
            Command::RemoveLink(name, alias, reply) => answer(reply, agent.remove_link(&name, &alias)),
            Command::Ptps(reply) => answer(reply, Ok(agent.ptps())),
            Command::CreatePtp(request, reply) => {
                let created = agent.create_ptp(&request).await;
                answer(reply, created);
            }
            Command::DeletePtp(a, b, reply) => {
                let deleted = agent.delete_ptp(&a, &b).await;
                answer(reply, deleted);
            }
            Command::Rules(reply) => answer(reply, agent.rules()),
            Command::Flows(filter, reply) => answer(reply, agent.flows(&filter)),
            Command::DeleteFlows(filter, reply) => answer(reply, agent.delete_flows(&filter)),
            Command::Stats(reply) => answer(reply, agent.stats()),
            Command::Events(reply) => {
                let monitored = self.monitor();
                answer(reply, monitored);
            }
            Command::Down(_) => {}
        }
    }

    /// Removes expired flows, and looks whether a message about the host's interfaces got lost.
    async fn sweep(&mut self) {
        match self.agent.datapath.sweep() {
            Ok(0) => {}
            Ok(removed) => tracing::debug!("removed {removed} expired flows"),
            Err(error) => tracing::warn!("remove expired flows: {error:#}"),
        }
        self.agent.look().await;
        memory::release();
    }

    /// One more monitor; the first has the data plane report.
    ///
    /// # Errors
    /// If the stream of events cannot be opened, or the data plane not be told.
    fn monitor(&mut self) -> Result<broadcast::Receiver<api::Event>> {
        if self.events.is_none() {
            let events = self.agent.datapath.events()?;
            self.agent.set_config_flag(config_flag::MONITOR, true).context("switch the reporting of events on")?;
            self.events = Some(events);
        }
        Ok(self.monitors.subscribe())
    }

    fn end_monitoring(&mut self) {
        let set = self.agent.set_config_flag(config_flag::MONITOR, false);
        self.agent.warn("switch the reporting of events off", set);
        self.events = None;
    }
}

async fn next_of_docker(docker: &mut Option<docker::Following>) -> docker::Wanted {
    match docker {
        Some(docker) => docker.next().await,
        None => pending().await,
    }
}

async fn next_event(events: &mut Option<Events>) -> Result<netpath_common::Event> {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T>) {
    // Whoever asked may have gone; the deed is done all the same.
    let _ = reply.send(result);
}
