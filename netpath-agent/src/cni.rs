//! Attachments of CNI networks: taking one away, also one whose removal was asked for while no agent ran. The plugin
//! leaves a note of it beside the socket, which the next agent reads.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::api;
use crate::endpoints::{is_alias, join};

/// An interface of a container, as CNI knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Name of the CNI network.
    pub network: String,
    pub container: String,
    pub interface: String,
}

impl Attachment {
    /// Notes for the next agent behind `socket` that the attachment is to be removed; gives the note's path.
    ///
    /// # Errors
    /// If the note cannot be written.
    pub fn note_removal(&self, socket: &Path) -> Result<PathBuf> {
        let dir = note_dir(socket);
        let path = dir.join(format!("{}@{}", self.container, self.interface));
        let write = || {
            fs::create_dir_all(&dir)?;
            // What has no `@` is not finished.
            let unfinished = dir.join(format!("unfinished-{}", std::process::id()));
            fs::write(&unfinished, serde_json::to_vec(self)?)?;
            fs::rename(&unfinished, &path)
        };
        write().with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Agent {
    /// Removes an attachment, and its container with the last one; one that is not there is fine.
    ///
    /// # Errors
    /// Everything that failed, the rest being done.
    pub async fn remove_attachment(&mut self, attachment: &Attachment) -> Result<api::Deleted> {
        let Attachment { network, container, interface } = attachment;
        let endpoints = self.state.endpoints_of(container);
        let is_meant = |cni: &Option<String>, name: &str| cni.as_ref() == Some(network) && name == interface;
        let Some((_, endpoint)) = endpoints.iter().find(|(_, e)| is_meant(&e.cni, &e.interface)) else {
            return Ok(api::Deleted { deleted: 0 });
        };
        if endpoints.len() > 1 {
            let name = self.state.networks.get(&endpoint.network).map(|network| network.name.clone());
            self.disconnect(&name.unwrap_or_default(), container).await?;
        } else {
            let errors = self.discard(container).await;
            if let Some(errors) = join(&errors) {
                return Err(anyhow!(errors).context(format!("disconnect container `{container}`")));
            }
        }
        tracing::info!("removed {interface} of container `{container}` from CNI network `{network}`");
        Ok(api::Deleted { deleted: 1 })
    }

    /// Does what the notes ask for that were left while no agent ran.
    pub(crate) async fn heed_notes(&mut self) {
        for path in notes(&note_dir(&self.options.socket)) {
            let removed = match read(&path) {
                Ok(attachment) => self.remove_attachment(&attachment).await.map(drop),
                Err(error) => Err(error),
            };
            self.warn("remove a CNI attachment", removed);
            self.warn("remove a note", fs::remove_file(&path).with_context(|| path.display().to_string()));
        }
    }
}

/// Whether an interface with this alias is the host's end of a veth pair of `container`, made by whatever agent.
pub fn is_veth_of(alias: &str, container: &str) -> bool {
    is_alias(alias) && alias.rsplit_once(':').is_some_and(|(_, name)| name == container)
}

fn read(path: &Path) -> Result<Attachment> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("understand {}", path.display()))
}

/// The notes in `dir` that are finished.
fn notes(dir: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!("list {}: {error}", dir.display());
            return Vec::new();
        }
    };
    let is_finished = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains('@'));
    entries.flatten().map(|entry| entry.path()).filter(is_finished).collect()
}

/// Where notes for the agent behind `socket` lie: it need not know more than the plugin does.
fn note_dir(socket: &Path) -> PathBuf {
    let mut name = socket.file_stem().map_or_else(|| OsString::from("netpath"), OsString::from);
    name.push("-cni-removed");
    socket.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_says_whose_it_is() {
        let alias = crate::endpoints::alias("netpath0", "web");
        assert!(is_veth_of(&alias, "web") && !is_veth_of(&alias, "eb") && !is_veth_of("somebody:web", "web"));
    }

    #[test]
    fn a_note_is_found_once_it_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("netpath.sock");
        assert!(notes(&note_dir(&socket)).is_empty());
        let name = |text: &str| text.to_owned();
        let attachment = Attachment { network: name("pods"), container: name("web"), interface: name("eth0") };
        let path = attachment.note_removal(&socket).unwrap();
        fs::write(note_dir(&socket).join("unfinished-1"), "{").unwrap();
        assert_eq!(notes(&note_dir(&socket)), std::slice::from_ref(&path));
        assert_eq!(read(&path).unwrap(), attachment);
        assert_eq!(path, dir.path().join("netpath-cni-removed/web@eth0"));
    }
}
