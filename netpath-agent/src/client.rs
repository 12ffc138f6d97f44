//! The client side of the API: HTTP over the agent's Unix socket, one connection for each request. For async code, and for
//! programs that ask one thing after the other.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::api;

/// How long an answer may take: an agent that has just been started listens some seconds before it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Talks to the agent behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A client that waits for each answer, on this thread and not for ever.
#[derive(Debug)]
pub struct BlockingClient {
    client: Client,
    runtime: Runtime,
}

/// Why the agent did not do what it was asked for. Everything else is a plain [`anyhow::Error`].
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("connect to the agent at {}: {cause} ({})", socket.display(), advice(cause))]
    Unreachable { socket: PathBuf, cause: io::Error },
    #[error("{message}")]
    Refused { status: u16, message: String },
    #[error("the agent has not answered within {0:?}")]
    Late(Duration),
}

/// The lines of `GET /v1/events`.
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None::<&()>).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::DELETE, path, None::<&()>).await
    }

    /// `DELETE` with a body that says what of the resource to delete.
    pub async fn delete_from<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::DELETE, path, Some(body)).await
    }

    /// Drops and new flows from this moment on.
    pub async fn events(&self) -> Result<Events> {
        let response = self.send(Method::GET, "/v1/events", Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(refused(response).await?.into());
        }
        Ok(Events { body: response.into_body(), buffer: BytesMut::new() })
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<T> {
        let body = body.map(serde_json::to_vec).transpose().context("encode the request")?;
        let response = self.send(method, path, body.unwrap_or_default().into()).await?;
        if !response.status().is_success() {
            return Err(refused(response).await?.into());
        }
        let bytes = response.into_body().collect().await.context("read the agent's answer")?.to_bytes();
        serde_json::from_slice(&bytes)
            .with_context(|| format!("understand the agent's answer to {path} (is it of another version?)"))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|cause| ClientError::Unreachable { socket: self.socket.clone(), cause })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("greet the agent")?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "netpath")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .context("build the request")?;
        sender.send_request(request).await.with_context(|| format!("ask the agent at {}", self.socket.display()))
    }
}

impl BlockingClient {
    /// # Errors
    /// If there is no runtime to be had.
    pub fn new(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("start a runtime")?;
        Ok(Self { client: Client::new(socket), runtime })
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.wait(self.client.get(path))
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.wait(self.client.post(path, body))
    }

    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.wait(self.client.delete(path))
    }

    pub fn delete_from<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.wait(self.client.delete_from(path, body))
    }

    /// Runs `work` to its end on this thread.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        self.block_on(async { timeout(PATIENCE, answer).await })
            .unwrap_or_else(|_| Err(ClientError::Late(PATIENCE).into()))
    }
}

impl ClientError {
    /// Whether nobody listens on the socket.
    pub fn is_no_agent(&self) -> bool {
        matches!(self, Self::Unreachable { cause, .. }
            if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }
}

impl Events {
    /// The next event; `None` when the agent ends the stream.
    pub async fn next(&mut self) -> Result<Option<api::Event>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).context("understand an event");
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.context("read events")?;
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                }
            }
        }
    }
}

/// `text` as one segment of a path or one value of a query.
pub fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Where a container is.
pub fn container_path(name: &str) -> String {
    format!("/v1/containers/{}", encode(name))
}

/// Where a network is.
pub fn network_path(name: &str) -> String {
    format!("/v1/networks/{}", encode(name))
}

async fn refused(response: Response<Incoming>) -> Result<ClientError> {
    let status = response.status();
    let bytes = response.into_body().collect().await.context("read the agent's answer")?.to_bytes();
    let message = match serde_json::from_slice::<api::ErrorBody>(&bytes) {
        Ok(body) => body.error,
        Err(_) => format!("the agent answered {status}: {}", String::from_utf8_lossy(&bytes).trim_end()),
    };
    Ok(ClientError::Refused { status: status.as_u16(), message })
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "no agent listens there; start it with `netpath agent` or choose another socket with `--socket`"
        }
        io::ErrorKind::PermissionDenied => "root only, or the group given to the agent with `--group`",
        _ => "is that the agent's socket?",
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::Path as UrlPath;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn json_goes_out_and_comes_back() {
        let echo =
            post(|Json(body): Json<Value>| async { Json(body) }).delete(|Json(body): Json<Value>| async { Json(body) });
        let (client, _dir) = serve(Router::new().route("/v1/echo", echo));
        let body = json!({"ports": ["80:80"]});
        assert_eq!(client.post::<Value>("/v1/echo", &body).await.unwrap(), body);
        assert_eq!(client.delete_from::<Value>("/v1/echo", &body).await.unwrap(), body);
    }

    #[tokio::test]
    async fn names_arrive_as_they_were_typed() {
        let name = get(|UrlPath(name): UrlPath<String>| async { Json(name) });
        let (client, _dir) = serve(Router::new().route("/v1/containers/{name}", name));
        for typed in ["web", "a/b", "x?y=z&ä %2F"] {
            let got: String = client.get(&format!("/v1/containers/{}", encode(typed))).await.unwrap();
            assert_eq!(got, typed);
        }
    }

    #[tokio::test]
    async fn the_agents_words_are_the_error() {
        let taken = || async { (StatusCode::CONFLICT, Json(json!({"error": "name `web` is taken"}))) };
        let (client, _dir) = serve(Router::new().route("/v1/containers", get(taken)));
        let error = client.get::<Value>("/v1/containers").await.unwrap_err();
        assert_eq!(format!("{error:#}"), "name `web` is taken");
        assert!(matches!(error.downcast_ref(), Some(ClientError::Refused { status: 409, .. })));
        let error = client.get::<Value>("/nothing").await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(ClientError::Refused { status: 404, .. })));
    }

    #[tokio::test]
    async fn without_an_agent_the_error_names_the_socket_and_the_remedy() {
        let client = Client::new(Path::new("/nonexistent/netpath.sock"));
        let error = client.get::<Value>("/v1/version").await.unwrap_err();
        assert!(error.downcast_ref::<ClientError>().unwrap().is_no_agent());
        let text = format!("{error:#}");
        assert!(text.contains("/nonexistent/netpath.sock") && text.contains("`netpath agent`"), "{text}");
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
    }

    #[tokio::test]
    async fn events_are_read_line_by_line_wherever_the_chunks_end() {
        let event = api::Event {
            kind: "drop".to_owned(),
            reason: Some("icc".to_owned()),
            ifname: "veth0".to_owned(),
            proto: "tcp".to_owned(),
            src: "10.0.0.2".to_owned(),
            sport: 1,
            dst: "10.0.0.3".to_owned(),
            dport: 2,
            nat_port: None,
            bytes: 60,
        };
        let line = serde_json::to_string(&event).unwrap() + "\n";
        let text = line.repeat(3);
        let chunks: Vec<_> =
            text.as_bytes().chunks(50).map(|c| Ok::<_, std::convert::Infallible>(Bytes::copy_from_slice(c))).collect();
        let stream = move || async move { axum::body::Body::from_stream(futures::stream::iter(chunks)) };
        let (client, _dir) = serve(Router::new().route("/v1/events", get(stream)));
        let mut events = client.events().await.unwrap();
        for _ in 0..3 {
            assert_eq!(events.next().await.unwrap(), Some(event.clone()));
        }
        assert_eq!(events.next().await.unwrap(), None);
    }

    fn serve(router: Router) -> (Client, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("netpath.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (Client::new(&socket), dir)
    }
}
