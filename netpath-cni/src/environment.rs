//! The runtime's parameters: the environment variables `CNI_*`.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;

use crate::error::{CniError, Code};
use crate::version::Version;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// The variables; those that the command does not need may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) command: Command,
    pub(crate) container: String,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) ifname: String,
    /// Directories of plugins.
    pub(crate) path: Vec<PathBuf>,
    pub(crate) args: BTreeMap<String, String>,
}

/// Keys of `CNI_ARGS` that mean something here, or are known to mean nothing.
const KNOWN_ARGS: [&str; 7] =
    ["IgnoreUnknown", "IP", "MAC", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID"];

/// The longest name of a container that the agent takes.
const MAX_NAME: usize = 128;

impl Command {
    pub(crate) fn from_env() -> Result<Self, CniError> {
        let text = variable("CNI_COMMAND").unwrap_or_default();
        match text.as_str() {
            "ADD" => Ok(Self::Add),
            "DEL" => Ok(Self::Del),
            "CHECK" => Ok(Self::Check),
            "STATUS" => Ok(Self::Status),
            "GC" => Ok(Self::Gc),
            "VERSION" => Ok(Self::Version),
            _ => Err(CniError::new(
                Code::InvalidEnvironment,
                format!(
                    "CNI_COMMAND is `{text}`, want ADD, DEL, CHECK, STATUS, GC or VERSION: a container runtime runs this program"
                ),
            )),
        }
    }

    /// Refuses what `version` does not have.
    pub(crate) fn require(self, version: Version) -> Result<(), CniError> {
        let since = match self {
            Self::Check => Version::WITH_CHECK,
            Self::Status | Self::Gc => Version::WITH_STATUS,
            Self::Add | Self::Del | Self::Version => return Ok(()),
        };
        if version >= since {
            return Ok(());
        }
        let (version, since) = (version.name(), since.name());
        let error = format!("CNI version {version} has no such command as this one, which {since} has");
        Err(CniError::new(Code::IncompatibleVersion, error))
    }

    fn is_about_a_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl Environment {
    pub(crate) fn read(command: Command) -> Result<Self, CniError> {
        Self::from_variables(command, variable)
    }

    fn from_variables(command: Command, variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let mut missing = Vec::new();
        let mut text = |name: &'static str, is_needed: bool| {
            let value = variable(name);
            missing.extend((is_needed && value.is_none()).then_some(name));
            value
        };
        let about_one = command.is_about_a_container();
        let container = text("CNI_CONTAINERID", about_one).unwrap_or_default();
        let netns = text("CNI_NETNS", about_one && command != Command::Del).map(PathBuf::from);
        let ifname = text("CNI_IFNAME", about_one).unwrap_or_default();
        let path = text("CNI_PATH", command == Command::Gc).unwrap_or_default();
        let args = text("CNI_ARGS", false).unwrap_or_default();
        if !missing.is_empty() {
            return Err(invalid(format!("missing: {}", missing.join(", "))));
        }
        if about_one {
            check_container(&container)?;
            check_ifname(&ifname)?;
        }
        let path = env::split_paths(&path).filter(|dir| !dir.as_os_str().is_empty()).collect();
        Ok(Self { command, container, netns, ifname, path, args: parse_args(&args)? })
    }
}

/// An empty variable says as much as none.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

fn check_container(id: &str) -> Result<(), CniError> {
    let first = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = id.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if first && rest && id.len() <= MAX_NAME {
        return Ok(());
    }
    Err(invalid(format!("CNI_CONTAINERID is `{id}`, want [a-zA-Z0-9][a-zA-Z0-9_.-]* of at most {MAX_NAME} characters")))
}

fn check_ifname(name: &str) -> Result<(), CniError> {
    let is_ours = netpath_agent::bridge::is_ifname(name) && name != "lo";
    if is_ours { Ok(()) } else { Err(invalid(format!("CNI_IFNAME is `{name}`, which is no name for an interface"))) }
}

fn parse_args(text: &str) -> Result<BTreeMap<String, String>, CniError> {
    let mut args = BTreeMap::new();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid(format!("CNI_ARGS has `{pair}`, want KEY=VALUE")));
        };
        args.insert(key.to_owned(), value.to_owned());
    }
    let ignores =
        args.get("IgnoreUnknown").is_some_and(|value| ["1", "true", "TRUE", "True"].contains(&value.as_str()));
    match args.keys().find(|key| !KNOWN_ARGS.contains(&key.as_str())) {
        Some(unknown) if !ignores => {
            Err(invalid(format!("CNI_ARGS has `{unknown}`, which means nothing here, and no IgnoreUnknown=1")))
        }
        _ => Ok(args),
    }
}

fn invalid(message: String) -> CniError {
    CniError::new(Code::InvalidEnvironment, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: Command, variables: &[(&str, &str)]) -> Result<Environment, CniError> {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Environment::from_variables(command, value)
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let error = read(Command::Add, &[("CNI_IFNAME", "eth0")]).unwrap_err();
        assert!(error.is(Code::InvalidEnvironment));
        assert_eq!(error.to_string(), "missing: CNI_CONTAINERID, CNI_NETNS");
        let error = read(Command::Gc, &[]).unwrap_err();
        assert_eq!(error.to_string(), "missing: CNI_PATH");
        assert!(read(Command::Status, &[]).is_ok());
        let deleted = read(Command::Del, &[("CNI_CONTAINERID", "web"), ("CNI_IFNAME", "eth0")]).unwrap();
        assert_eq!(deleted.netns, None);
    }

    #[test]
    fn names_that_nobody_can_have_are_refused() {
        for (id, ifname) in
            [("-web", "eth0"), ("a/b", "eth0"), (&"a".repeat(129), "eth0"), ("web", "a/b"), ("web", "lo")]
        {
            let variables = [("CNI_CONTAINERID", id), ("CNI_NETNS", "/x"), ("CNI_IFNAME", ifname)];
            assert!(read(Command::Check, &variables).unwrap_err().is(Code::InvalidEnvironment), "{id} {ifname}");
        }
    }

    #[test]
    fn unknown_arguments_are_refused_unless_they_are_to_be_ignored() {
        assert_eq!(parse_args("IP=10.0.0.2;MAC=02:00:00:00:00:01;").unwrap()["IP"], "10.0.0.2");
        assert!(parse_args("IgnoreUnknown=1;COLOUR=red").is_ok());
        assert!(parse_args("COLOUR=red").unwrap_err().to_string().contains("COLOUR"));
        assert!(parse_args("IP").is_err());
    }

    #[test]
    fn commands_are_those_of_the_version() {
        assert!(Command::Status.require(Version::WITHOUT_FAMILY).unwrap_err().is(Code::IncompatibleVersion));
        assert!(Command::Gc.require(Version::WITH_STATUS).is_ok());
        assert!(Command::Check.require(Version::WITH_CHECK).is_ok());
    }
}
