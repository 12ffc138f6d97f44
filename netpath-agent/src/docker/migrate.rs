//! Takes a running Docker over, and gives it back. Containers go on meanwhile, and each step says that it is done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::daemon::{Config, Daemon, LIVE_RESTORE};
use super::engine;
use super::plan::{Ground, Step};
use crate::api::{self, Container, Info, InfoPatch};
use crate::client::{Client, ClientError};

const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long dockerd may take to read its configuration again, and the agent to serve what it may.
const PATIENCE: Duration = Duration::from_secs(20);

/// A way from Docker to netpath, and back.
#[derive(Debug)]
pub struct Migration {
    /// Of Docker Engine.
    pub socket: PathBuf,
    /// dockerd's configuration file, if it is not the one that dockerd says.
    pub config: Option<PathBuf>,
    /// What restarts dockerd; empty if somebody does it who is told to.
    pub command: Vec<String>,
    /// How long the restart may take.
    pub wait: Duration,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Something has to be done first; nothing was changed.
    Refused(Vec<String>),
    Done,
}

impl Migration {
    /// Makes dockerd leave the forwarding to the agent behind `client`, and tells `say` of every step.
    ///
    /// # Errors
    /// If a step fails. dockerd's configuration is put back then.
    pub async fn forward(&self, client: &Client, say: &dyn Fn(&str)) -> Result<Outcome> {
        let ground = Ground::read(&self.socket, self.config.as_deref()).await?;
        let mut obstacles = ground.plan.obstacles.clone();
        obstacles.extend(self.obstacle_of_agent(client).await?);
        if !obstacles.is_empty() {
            return Ok(Outcome::Refused(obstacles));
        }
        if ground.plan.steps.contains(&Step::Restart) {
            if ground.config.kept()?.is_none() {
                ground.config.keep()?;
                say(&format!("kept {} as it was", ground.config.path().display()));
            }
            if let Err(error) = self.reconfigure(&ground, say).await {
                return Err(self.gone_wrong(&ground, error, say).await);
            }
        }
        if ground.plan.steps.contains(&Step::RemoveRules) {
            serve_beside_rules(client, true).await?;
            let removed = self.remove_rules(client, say).await;
            serve_beside_rules(client, false).await?;
            removed?;
        } else {
            self.until_served(client, say).await?;
        }
        Ok(Outcome::Done)
    }

    /// Removes Docker's rules once the agent serves what they were for: the kernel translates connections no more when
    /// the last rule that needs conntrack has gone.
    async fn remove_rules(&self, client: &Client, say: &dyn Fn(&str)) -> Result<()> {
        self.until_served(client, say).await?;
        // Looked at again: containers came and went.
        let Ground { removal, .. } = Ground::read(&self.socket, self.config.as_deref()).await?;
        removal.carry_out().with_context(|| {
            "dockerd leaves the forwarding to netpath, but its rules are there; try again".to_owned()
        })?;
        say(&format!("removed {} of Docker's", removal.count()));
        Ok(())
    }

    /// Gives everything back to Docker.
    ///
    /// # Errors
    /// If there is no way back, or a step of it fails.
    pub async fn back(&self, say: &dyn Fn(&str)) -> Result<()> {
        let path = match (&self.config, Daemon::behind(&self.socket)) {
            (Some(config), _) => config.clone(),
            (None, Ok(daemon)) => daemon.config_path(),
            (None, Err(error)) => {
                return Err(error.context("which configuration file is dockerd's? say it with --config"));
            }
        };
        let config = Config::read(&path)?;
        self.go_back(&config, None, say).await
    }

    /// What the agent lacks to take over.
    async fn obstacle_of_agent(&self, client: &Client) -> Result<Option<String>> {
        let start = "start `netpath agent --docker`: until dockerd is restarted it leaves everything to Docker";
        let info = match client.get::<Info>("/v1/info").await {
            Ok(info) => info,
            Err(error) => {
                let why = match error.downcast_ref() {
                    Some(ClientError::Unreachable { socket, .. }) => {
                        format!("no agent listens at {}", socket.display())
                    }
                    _ => format!("the agent does not answer ({error:#})"),
                };
                return Ok(Some(format!("{why}: {start}")));
            }
        };
        let same = |a: &Path, b: &Path| a.canonicalize().ok() == b.canonicalize().ok();
        Ok(match info.docker {
            None => Some(format!("the agent does not follow Docker: {start}")),
            Some(docker) if !same(&docker.socket, &self.socket) => Some(format!(
                "the agent follows the Docker at {}, not the one at {}",
                docker.socket.display(),
                self.socket.display()
            )),
            Some(_) => None,
        })
    }

    async fn reconfigure(&self, ground: &Ground, say: &dyn Fn(&str)) -> Result<()> {
        let mut config = ground.config.clone();
        if ground.plan.steps.contains(&Step::KeepRunning) {
            self.set_live_restore(&ground.daemon, &config, true).await?;
            config.set(LIVE_RESTORE, true);
            say("told dockerd to let containers go on while it is restarted (live-restore)");
        }
        for setting in ground.plan.settings.iter().filter(|setting| setting.now != setting.wanted) {
            config.set(&setting.name, setting.wanted);
        }
        config.write()?;
        say(&format!("wrote {}", config.path().display()));
        let daemon = self.restart(ground.daemon.pid, ground.plan.engine.unit.as_deref(), say).await?;
        ensure!(
            !Ground::read(&self.socket, self.config.as_deref()).await?.is_dockerd_at_work,
            "dockerd was restarted as process {}, but not with {}: is it another file that it reads?",
            daemon.pid,
            config.path().display()
        );
        if ground.plan.steps.contains(&Step::KeepRunning) {
            self.set_live_restore(&daemon, &config, false).await?;
            config.unset(LIVE_RESTORE);
            config.write()?;
            config.give_back()?;
            // In all else dockerd has read it.
            config.date_back(&daemon)?;
        }
        Ok(())
    }

    /// Goes back after a failure; both are told.
    async fn gone_wrong(&self, ground: &Ground, error: Error, say: &dyn Fn(&str)) -> Error {
        say(&format!("failed: {error:#}; going back"));
        match self.go_back(&ground.config, Some(ground.daemon.pid), say).await {
            Ok(()) => error.context("everything is as it was before"),
            Err(other) => error.context(format!("and the way back failed: {other:#}")),
        }
    }

    /// `untouched` is a dockerd that never took the options, and needs no restart to be without them.
    async fn go_back(&self, config: &Config, untouched: Option<u32>, say: &dyn Fn(&str)) -> Result<()> {
        let Some(kept) = config.kept()? else {
            bail!(
                "there is no way back: nothing was kept beside {}; either Docker was not taken over by `netpath docker migrate`, or it \
                 was given back",
                config.path().display()
            );
        };
        let target = config.taken_back(&kept);
        let running = Ground::read(&self.socket, Some(config.path())).await;
        let before = running.as_ref().map_or(0, |ground| ground.daemon.pid);
        let unit = running.as_ref().ok().and_then(|ground| ground.plan.engine.unit.clone());
        let keeps_running = target.is_set(LIVE_RESTORE) == Some(true)
            || running.as_ref().is_ok_and(|ground| ground.daemon.switch(LIVE_RESTORE) == Some(true));
        let must_keep = !keeps_running && running.as_ref().map_or(true, |ground| ground.plan.engine.running > 0);
        let daemon = match &running {
            Ok(ground) if Some(ground.daemon.pid) == untouched => ground.daemon.clone(),
            _ => {
                let mut first = target.clone();
                if must_keep {
                    if let Ok(ground) = running.as_ref().map_err(drop)
                        && !ground.plan.engine.live_restore
                    {
                        self.set_live_restore(&ground.daemon, &ground.config, true).await?;
                    }
                    first.lend()?;
                    first.set(LIVE_RESTORE, true);
                }
                first.write()?;
                self.restart(before, unit.as_deref(), say).await?
            }
        };
        if must_keep {
            self.set_live_restore(&daemon, &target, false).await?;
        }
        if target == kept {
            config.put_back()?;
        } else {
            target.write()?;
            config.forget_kept()?;
        }
        say(&format!("{} is as it was; Docker forwards and translates by itself", config.path().display()));
        Ok(())
    }

    /// Has `daemon` read `config` again, with or without live-restore, and waits until it has.
    async fn set_live_restore(&self, daemon: &Daemon, config: &Config, on: bool) -> Result<()> {
        let mut config = config.clone();
        if on {
            config.lend()?;
        }
        config.set(LIVE_RESTORE, on);
        config.write()?;
        kill(Pid::from_raw(daemon.pid.cast_signed()), Signal::SIGHUP)
            .with_context(|| format!("tell dockerd, process {}, to read its configuration", daemon.pid))?;
        let docker = engine::connect(&self.socket).await?;
        until(PATIENCE, async || {
            let info = docker.info().await.context("ask Docker Engine about itself")?;
            Ok((info.live_restore_enabled == Some(on)).then_some(()))
        })
        .await?
        .with_context(|| {
            format!("dockerd does not take live-restore={on} from {}: see its log", config.path().display())
        })
    }

    /// Has dockerd restarted and waits until another process than `before` answers.
    async fn restart(&self, before: u32, unit: Option<&str>, say: &dyn Fn(&str)) -> Result<Daemon> {
        let deadline = Instant::now() + self.wait;
        match self.command.split_first() {
            None => {
                let how = unit.map_or_else(|| "as you do it".to_owned(), |unit| format!("`systemctl restart {unit}`"));
                say(&format!("now restart dockerd, {how}: waiting for that for {} s", self.wait.as_secs()));
            }
            Some((program, args)) => {
                say(&format!("restarting dockerd: {}", self.command.join(" ")));
                let status = timeout(self.wait, Command::new(program).args(args).status());
                let status =
                    status.await.map_err(|_| anyhow!("`{program}` has not ended after {} s", self.wait.as_secs()))?;
                let status = status.with_context(|| format!("run {program}"))?;
                ensure!(status.success(), "`{}` failed: {status}", self.command.join(" "));
            }
        }
        let daemon = until(deadline.saturating_duration_since(Instant::now()), async || {
            let Ok(daemon) = Daemon::behind(&self.socket) else { return Ok(None) };
            if daemon.pid == before || engine::connect(&self.socket).await.is_err() {
                return Ok(None);
            }
            Ok(Some(daemon))
        })
        .await?;
        let daemon = daemon.with_context(|| {
            format!("no new dockerd answers at {} after {} s", self.socket.display(), self.wait.as_secs())
        })?;
        say(&format!("dockerd is back as process {}", daemon.pid));
        Ok(daemon)
    }

    /// Waits until the agent serves every container that there is.
    async fn until_served(&self, client: &Client, say: &dyn Fn(&str)) -> Result<()> {
        let mut missing = vec!["not known yet".to_owned()];
        let served = until(PATIENCE, async || {
            let info: Info = client.get("/v1/info").await?;
            let docker = info.docker.context("the agent does not follow Docker any more")?;
            let ground = Ground::read(&self.socket, self.config.as_deref()).await?;
            let containers: Vec<Container> = client.get("/v1/containers").await?;
            missing = lacking(&docker, &ground, &containers);
            Ok(missing.is_empty().then_some(ground.wanted.containers.len()))
        })
        .await?;
        match served {
            Some(count) => say(&format!("{count} containers are served by netpath")),
            None => bail!(
                "the agent does not serve all of it: {}; `netpath docker migrate --back` gives it back to Docker",
                missing.join("; ")
            ),
        }
        Ok(())
    }
}

async fn serve_beside_rules(client: &Client, on: bool) -> Result<()> {
    let patch = InfoPatch { docker_beside_rules: Some(on), ..InfoPatch::default() };
    client.patch::<Info>("/v1/info", &patch).await.map(drop)
}

/// What is not served yet, and why.
fn lacking(docker: &api::Docker, ground: &Ground, containers: &[Container]) -> Vec<String> {
    let mut lacking: Vec<String> = docker.faults.iter().map(|(name, why)| format!("`{name}`: {why}")).collect();
    lacking.extend(docker.waits_for.iter().map(|option| format!("it waits for dockerd with {option}")));
    let is_served = |name: &str| containers.iter().any(|container| container.name == name);
    let unserved = ground.wanted.containers.iter().filter(|container| !is_served(&container.name));
    lacking.extend(unserved.map(|container| format!("`{}` is not served", container.name)));
    lacking
}

/// Tries until there is something, or `patience` is at its end.
async fn until<T>(patience: Duration, mut tries: impl AsyncFnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = tries().await? {
            return Ok(Some(found));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        sleep(POLL_INTERVAL).await;
    }
}
