//! `netpath attach`: connects a namespace that somebody else made; prints its addresses.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::api::{Container, Netns};
use crate::cli::{AttachArgs, AttachTarget};
use crate::client::Client;
use crate::container;

pub(super) async fn run(client: &Client, args: AttachArgs) -> Result<ExitCode> {
    let request = container::request(args.endpoint, args.name, netns(args.target)?);
    let container: Container = client.post("/v1/containers", &request).await?;
    let v4 = container.address.map(|addr| format!("{addr}\n"));
    let v6 = container.address6.map(|addr| format!("{addr}\n"));
    super::print(&v4.into_iter().chain(v6).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// The target as the agent can find it, whatever its working directory is.
fn netns(target: AttachTarget) -> Result<Netns> {
    match (target.pid, target.netns) {
        (Some(pid), _) => Ok(Netns::Pid(pid)),
        (None, path) => {
            let path = path.unwrap_or_default();
            Ok(Netns::Path(std::path::absolute(&path).with_context(|| format!("find namespace {}", path.display()))?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_becomes_absolute() {
        let target = AttachTarget { netns: Some("ns/x".into()), pid: None };
        let expected = std::env::current_dir().unwrap().join("ns/x");
        assert_eq!(netns(target).unwrap(), Netns::Path(expected));
        let target = AttachTarget { netns: None, pid: Some(7) };
        assert_eq!(netns(target).unwrap(), Netns::Pid(7));
    }
}
