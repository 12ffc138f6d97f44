//! The HTTP API on the Unix socket. Thin: each handler sends one [`Command`] to the daemon and renders
//! the answer.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post};
use axum::{Router, middleware};
use futures::stream;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, chown};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{mpsc, oneshot};

use crate::api;
use crate::cni::Attachment;
use crate::flows::FlowFilter;
use crate::refusal::Refusal;

/// Where the answer to a command goes.
pub type Reply<T> = oneshot::Sender<Result<T>>;

/// A request to the daemon.
pub enum Command {
    Info(Reply<api::Info>),
    PatchInfo(api::InfoPatch, Reply<api::Info>),
    Networks(Reply<Vec<api::Network>>),
    Network(String, Reply<api::Network>),
    CreateNetwork(Box<api::NetworkCreate>, Reply<api::NetworkCreated>),
    PatchNetwork(String, api::NetworkPatch, Reply<api::Network>),
    DeleteNetwork(String, Reply<api::Network>),
    Connect(String, api::Connect, Reply<api::Container>),
    Disconnect(String, String, Reply<api::Container>),
    Containers(Reply<Vec<api::Container>>),
    Container(String, Reply<api::Container>),
    Attach(Box<api::Attach>, Reply<api::Container>),
    Detach(String, Reply<api::Container>),
    Publish(String, api::Ports, Reply<api::Container>),
    Unpublish(String, api::Ports, Reply<api::Container>),
    RemoveAttachment(Attachment, Reply<api::Deleted>),
    AddLink(String, api::LinkAdd, Reply<api::Container>),
    RemoveLink(String, String, Reply<api::Container>),
    Ptps(Reply<Vec<api::Ptp>>),
    CreatePtp(api::PtpCreate, Reply<api::Ptp>),
    DeletePtp(String, String, Reply<api::Ptp>),
    Rules(Reply<Vec<api::Rule>>),
    Flows(FlowFilter, Reply<Vec<api::Flow>>),
    DeleteFlows(FlowFilter, Reply<api::Deleted>),
    Stats(Reply<api::Stats>),
    Events(Reply<Receiver<api::Event>>),
    Down(Reply<api::Down>),
}

/// The socket, listening.
pub struct Socket {
    pub listener: UnixListener,
    pub file: SocketFile,
}

/// The socket's file, removed with this value.
pub struct SocketFile(PathBuf);

impl Socket {
    /// Creates the socket at `path`, in place of one that nobody listens on, for root and `group` only.
    ///
    /// # Errors
    /// If an agent listens there, something else lies there, or there is no such group.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self> {
        let gid = group.map(group_id).transpose()?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        remove_stale(path)?;
        let old = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(old);
        let listener = listener.with_context(|| format!("listen on {}", path.display()))?;
        let file = SocketFile(path.to_owned());
        if let Some(gid) = gid {
            chown(path, None, Some(gid)).with_context(|| format!("give {} to the group", path.display()))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660))
                .with_context(|| format!("open {} to the group", path.display()))?;
        }
        Ok(Self { listener, file })
    }
}

/// Answers requests until the task is dropped.
///
/// # Errors
/// If the socket breaks.
pub async fn serve(listener: UnixListener, commands: mpsc::Sender<Command>) -> Result<()> {
    axum::serve(listener, router(commands)).await.context("serve the API")
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn group_id(name: &str) -> Result<Gid> {
    let group = Group::from_name(name).with_context(|| format!("look up group `{name}`"))?;
    Ok(group.with_context(|| format!("--group: there is no group `{name}`"))?.gid)
}

fn remove_stale(path: &Path) -> Result<()> {
    let file_type = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
    };
    ensure!(file_type.is_socket(), "{} exists and is no socket; choose another --socket", path.display());
    if UnixStream::connect(path).is_ok() {
        bail!("an agent listens on {} already; stop it, or choose another --socket", path.display());
    }
    fs::remove_file(path).with_context(|| format!("remove stale socket {}", path.display()))
}

fn router(commands: mpsc::Sender<Command>) -> Router {
    let container = get(|s, UrlPath(name)| ask(s, |reply| Command::Container(name, reply)))
        .delete(|s, UrlPath(name)| ask(s, |reply| Command::Detach(name, reply)));
    let ports = post(|s, UrlPath(name), body: Bytes| ask_with(s, body, |ports, r| Command::Publish(name, ports, r)))
        .delete(|s, UrlPath(name), body: Bytes| ask_with(s, body, |ports, r| Command::Unpublish(name, ports, r)));
    let network = get(|s, UrlPath(name)| ask(s, |reply| Command::Network(name, reply)))
        .patch(|s, UrlPath(name), body: Bytes| ask_with(s, body, |patch, r| Command::PatchNetwork(name, patch, r)))
        .delete(|s, UrlPath(name)| ask(s, |reply| Command::DeleteNetwork(name, reply)));
    let connect = |s, UrlPath(name), body: Bytes| ask_with(s, body, |request, r| Command::Connect(name, request, r));
    let link = |s, UrlPath(name), body: Bytes| ask_with(s, body, |link, r| Command::AddLink(name, link, r));
    let unlink = |s, UrlPath((name, alias))| ask(s, |reply| Command::RemoveLink(name, alias, reply));
    let detach = |s, UrlPath((network, container, interface))| {
        ask(s, |reply| Command::RemoveAttachment(Attachment { network, container, interface }, reply))
    };
    let ptp = get(|s| ask(s, Command::Ptps)).post(|s, body: Bytes| ask_with(s, body, Command::CreatePtp));
    let disconnect = |s, UrlPath((network, name))| ask(s, |reply| Command::Disconnect(network, name, reply));
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/info", get(|s| ask(s, Command::Info)).patch(|s, body: Bytes| ask_with(s, body, Command::PatchInfo)))
        .route(
            "/v1/networks",
            get(|s| ask(s, Command::Networks))
                .post(|s, body: Bytes| ask_with(s, body, |network, r| Command::CreateNetwork(Box::new(network), r))),
        )
        .route("/v1/networks/{name}", network)
        .route("/v1/networks/{name}/endpoints", post(connect))
        .route("/v1/networks/{network}/endpoints/{name}", delete(disconnect))
        .route(
            "/v1/containers",
            get(|s| ask(s, Command::Containers))
                .post(|s, body: Bytes| ask_with(s, body, |attach, r| Command::Attach(Box::new(attach), r))),
        )
        .route("/v1/containers/{name}", container)
        .route("/v1/containers/{name}/ports", ports)
        .route("/v1/containers/{name}/links", post(link))
        .route("/v1/containers/{name}/links/{alias}", delete(unlink))
        .route("/v1/cni/{network}/{container}/{interface}", delete(detach))
        .route("/v1/ptp", ptp)
        .route("/v1/ptp/{a}/{b}", delete(|s, UrlPath((a, b))| ask(s, |reply| Command::DeletePtp(a, b, reply))))
        .route("/v1/rules", get(|s| ask(s, Command::Rules)))
        .route(
            "/v1/conntrack",
            get(|s, query| ask_query(s, query, Command::Flows))
                .delete(|s, query| ask_query(s, query, Command::DeleteFlows)),
        )
        .route("/v1/stats", get(|s| ask(s, Command::Stats)))
        .route("/v1/events", get(events))
        .route("/v1/down", post(|s| ask(s, Command::Down)))
        .fallback(|| async { Failure(Refusal::NotFound("no such path in the API".to_owned()).into()) })
        .layer(middleware::map_response(name_method_not_allowed))
        .with_state(commands)
}

type Commands = State<mpsc::Sender<Command>>;

async fn version() -> Json<api::Version> {
    Json(api::Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: 1, pid: std::process::id() })
}

async fn ask<T: Serialize>(State(commands): Commands, command: impl FnOnce(Reply<T>) -> Command) -> Response {
    match send(&commands, command).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => Failure(error).into_response(),
    }
}

async fn ask_with<B: DeserializeOwned, T: Serialize>(
    commands: Commands,
    body: Bytes,
    command: impl FnOnce(B, Reply<T>) -> Command,
) -> Response {
    match serde_json::from_slice(&body) {
        Ok(body) => ask(commands, |reply| command(body, reply)).await,
        Err(error) => Failure(Refusal::Invalid(format!("read the request's body: {error}")).into()).into_response(),
    }
}

async fn ask_query<T: Serialize>(
    commands: Commands,
    query: Result<Query<FlowFilter>, QueryRejection>,
    command: impl FnOnce(FlowFilter, Reply<T>) -> Command,
) -> Response {
    match query {
        Ok(Query(filter)) => ask(commands, |reply| command(filter, reply)).await,
        Err(error) => Failure(Refusal::Invalid(error.body_text()).into()).into_response(),
    }
}

/// The events, one as JSON a line, from this moment on.
async fn events(State(commands): Commands) -> Response {
    let receiver = match send(&commands, Command::Events).await {
        Ok(receiver) => receiver,
        Err(error) => return Failure(error).into_response(),
    };
    let lines = stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => {
                    let line = serde_json::to_vec(&event).map(|mut line| {
                        line.push(b'\n');
                        line
                    });
                    return Some((line, receiver));
                }
                // A reader that is too slow misses events.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

async fn send<T>(commands: &mpsc::Sender<Command>, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    let gone = || anyhow!("the agent is going down");
    commands.send(command(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

async fn name_method_not_allowed(response: Response) -> Response {
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let body = api::ErrorBody { error: "this path of the API does not take that method".to_owned() };
    (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response()
}

struct Failure(Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.downcast_ref() {
            Some(Refusal::Invalid(_)) => StatusCode::BAD_REQUEST,
            Some(Refusal::NotFound(_)) => StatusCode::NOT_FOUND,
            Some(Refusal::Taken(_)) => StatusCode::CONFLICT,
            None => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(api::ErrorBody { error: format!("{:#}", self.0) })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_own_status_even_inside_a_context() {
        let status = |error: Error| Failure(error.context("connect container `web`")).into_response().status();
        assert_eq!(status(Refusal::Invalid(String::new()).into()), StatusCode::BAD_REQUEST);
        assert_eq!(status(Refusal::NotFound(String::new()).into()), StatusCode::NOT_FOUND);
        assert_eq!(status(Refusal::Taken(String::new()).into()), StatusCode::CONFLICT);
        assert_eq!(status(anyhow!("disk full")), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Socket::bind(&path, None).err().expect("want an error").to_string();
        assert!(error.contains("an agent listens on"), "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(Socket::bind(&path, None).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
        assert!(Socket::bind(&dir.path().join("y.sock"), Some("no-such-group-here")).is_err());
    }
}
