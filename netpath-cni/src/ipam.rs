//! Delegation: the plugin that gives addresses, run as the runtime runs this one.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Request;
use crate::error::{CniError, Code};
use crate::result::Success;

/// Addresses from the plugin that the configuration names; `None` if the agent gives them. A plugin that fails has been
/// told to take back what it may have done.
pub(crate) fn add(request: &Request) -> Result<Option<Success>, CniError> {
    let Some(plugin) = request.config.ipam() else { return Ok(None) };
    let given = run(request, plugin, "ADD").and_then(|stdout| {
        let value = serde_json::from_slice(&stdout);
        let value =
            value.map_err(|error| CniError::new(Code::Decode, format!("understand what {plugin} said: {error}")))?;
        let result = Success::parse(&value)?;
        if result.ips.is_empty() {
            return Err(CniError::new(Code::InvalidConfig, format!("{plugin} gave no address")));
        }
        Ok(result)
    });
    given.map(Some).map_err(|error| with_undone(request, error))
}

/// `error`, once the plugin has been told to take its addresses back.
pub(crate) fn with_undone(request: &Request, error: CniError) -> CniError {
    match pass_on(request, "DEL") {
        Ok(()) => error,
        Err(other) => error.and(&other),
    }
}

/// Passes a command without an answer on to the plugin, if there is one.
pub(crate) fn pass_on(request: &Request, command: &str) -> Result<(), CniError> {
    request.config.ipam().map_or(Ok(()), |plugin| run(request, plugin, command).map(drop))
}

fn run(request: &Request, plugin: &str, command: &str) -> Result<Vec<u8>, CniError> {
    let program = find(request, plugin)?;
    let failed = |error| CniError::new(Code::Io, format!("run {}: {error}", program.display()));
    let mut child = Command::new(&program)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin need not read.
        let _ = stdin.write_all(&request.raw);
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() { Ok(output.stdout) } else { Err(CniError::of_plugin(plugin, &output.stdout)) }
}

fn find(request: &Request, plugin: &str) -> Result<PathBuf, CniError> {
    if plugin.contains('/') {
        return Err(CniError::new(Code::InvalidConfig, format!("`{plugin}` is no name of an IPAM plugin")));
    }
    let places = request.environment.path.iter().map(|dir| dir.join(plugin));
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        CniError::new(Code::InvalidConfig, format!("there is no IPAM plugin `{plugin}` in the directories of CNI_PATH"))
    })
}
