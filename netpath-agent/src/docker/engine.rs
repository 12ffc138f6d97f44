//! Asks Docker Engine over its socket.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use bollard::errors::Error as DockerError;
use bollard::models::Network;
use bollard::query_parameters::{InspectNetworkOptions, ListContainersOptions, ListNetworksOptions};
use bollard::{API_DEFAULT_VERSION, Docker};

use super::said::{self, Summary};
use super::translate;

/// How long the Engine may take to answer, in seconds.
const PATIENCE_S: u64 = 20;
/// Docker 1.13: networks tell who is in them.
const OLDEST_API: (usize, usize) = (1, 25);

/// # Errors
/// If nobody answers, or the Engine is too old.
pub(super) async fn connect(socket: &Path) -> Result<Docker> {
    let path = socket.to_str().context("the socket's path is not UTF-8")?;
    let docker =
        Docker::connect_with_unix(path, PATIENCE_S, API_DEFAULT_VERSION).map_err(|error| explain(socket, error))?;
    let version = docker.version().await.map_err(|error| explain(socket, error))?;
    let api = version.api_version.unwrap_or_default();
    let numbers = api_numbers(&api);
    let Some(numbers) = numbers else { bail!("the Engine at {path} says that its API is of version `{api}`") };
    ensure!(
        numbers >= OLDEST_API,
        "the Engine at {path} has API {api}, want {}.{} or newer (Docker 1.13)",
        OLDEST_API.0,
        OLDEST_API.1
    );
    docker.negotiate_version().await.map_err(|error| explain(socket, error))
}

/// `1.41` as numbers.
pub(super) fn api_numbers(api: &str) -> Option<(usize, usize)> {
    api.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
}

/// The networks of bridges, each with who is in it, and all containers.
///
/// # Errors
/// If the Engine does not say.
pub(super) async fn list(docker: &Docker) -> Result<(Vec<Network>, Vec<Summary>)> {
    let listed = docker.list_networks(None::<ListNetworksOptions>).await.context("list Docker's networks")?;
    let mut networks = Vec::new();
    for id in listed.iter().filter(|network| translate::is_bridge(network)).filter_map(|network| network.id.as_deref())
    {
        match docker.inspect_network(id, None::<InspectNetworkOptions>).await {
            Ok(network) => networks.push(network),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("inspect Docker's network {id}")),
        }
    }
    let all = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let containers = docker.list_containers(Some(all)).await.context("list Docker's containers")?;
    let mut summaries: Vec<Summary> = containers.into_iter().filter_map(Summary::of).collect();
    // They lie where the Engine's answer lay, which was larger.
    summaries.shrink_to_fit();
    said::forget_unread(&mut networks, &summaries);
    Ok((networks, summaries))
}

fn is_not_found(error: &DockerError) -> bool {
    matches!(error, DockerError::DockerResponseServerError { status_code: 404, .. })
}

/// What hyper says of a socket leaves out which one and why.
fn explain(socket: &Path, error: DockerError) -> Error {
    let shown = socket.display();
    let Err(cause) = UnixStream::connect(socket) else {
        return Error::from(error).context(format!("ask Docker Engine at {shown}"));
    };
    let advice = match cause.kind() {
        ErrorKind::NotFound => "start dockerd, or say where its socket is: `--docker=PATH`",
        ErrorKind::ConnectionRefused => "nobody listens there: start dockerd",
        ErrorKind::PermissionDenied => "it takes root",
        _ => "is it dockerd's socket?",
    };
    anyhow!("connect to Docker Engine at {shown}: {cause} ({advice})")
}
