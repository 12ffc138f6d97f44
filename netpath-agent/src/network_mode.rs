//! `--net`: which network a container gets, and what cannot be had together with it. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The network called so is the one of containers that ask for none.
pub const DEFAULT_NETWORK: &str = "bridge";

/// What `--net` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetworkMode {
    /// An interface in the network of this name.
    Network(String),
    /// A namespace of its own with nothing but `lo`.
    None,
    /// The host's namespace.
    Host,
    /// The namespace of the container of this name.
    Container(String),
}

/// What a container asks for besides `--net`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub hostname: bool,
    pub links: bool,
    pub dns: bool,
    pub add_host: bool,
    pub mac_address: bool,
    /// `--ip` or `--ip6`.
    pub address: bool,
    pub publish: bool,
    pub expose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    #[error("invalid network mode: invalid container format container:<name|id>")]
    ContainerFormat,
    #[error("invalid network mode: it is empty")]
    Empty,
    #[error("conflicting options: hostname and the network mode")]
    Hostname,
    #[error(
        "conflicting options: container type network can't be used with links. This would result in undefined behavior"
    )]
    ContainerLinks,
    #[error(
        "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
    )]
    HostLinks,
    #[error("conflicting options: links and the network mode")]
    NoneLinks,
    #[error("conflicting options: dns and the network mode")]
    Dns,
    #[error("conflicting options: custom host-to-IP mapping and the network mode")]
    AddHost,
    #[error("conflicting options: mac-address and the network mode")]
    MacAddress,
    #[error("conflicting options: IP address and the network mode")]
    Address,
    #[error("conflicting options: port publishing and the container type network mode")]
    Publish,
    #[error("conflicting options: port exposing and the container type network mode")]
    Expose,
}

impl NetworkMode {
    /// Refuses what makes no sense in this mode, as Docker does.
    ///
    /// # Errors
    /// The first conflict, in Docker's order and words where it has any.
    pub fn check(&self, asked: Asked) -> Result<(), ModeError> {
        let conflicts: &[(bool, ModeError)] = match self {
            Self::Network(_) => &[],
            Self::Container(_) => &[
                (asked.hostname, ModeError::Hostname),
                (asked.links, ModeError::ContainerLinks),
                (asked.dns, ModeError::Dns),
                (asked.add_host, ModeError::AddHost),
                (asked.mac_address, ModeError::MacAddress),
                (asked.address, ModeError::Address),
                (asked.publish, ModeError::Publish),
                (asked.expose, ModeError::Expose),
            ],
            Self::Host => &[
                (asked.links, ModeError::HostLinks),
                (asked.mac_address, ModeError::MacAddress),
                (asked.address, ModeError::Address),
            ],
            Self::None => &[
                (asked.links, ModeError::NoneLinks),
                (asked.mac_address, ModeError::MacAddress),
                (asked.address, ModeError::Address),
            ],
        };
        conflicts.iter().find(|(conflict, _)| *conflict).map_or(Ok(()), |(_, error)| Err(*error))
    }

    /// What the user should know about options that have no effect in this mode.
    pub fn warning(&self, asked: Asked) -> Option<String> {
        let discards = matches!(self, Self::Host | Self::None) && asked.publish;
        discards.then(|| format!("Published ports are discarded when using {self} network mode"))
    }

    /// The container joins somebody else's namespace instead of having its own.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Host | Self::Container(_))
    }
}

impl Default for NetworkMode {
    fn default() -> Self {
        Self::Network(DEFAULT_NETWORK.to_owned())
    }
}

impl FromStr for NetworkMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        match text.split_once(':') {
            Some(("container", "")) => Err(ModeError::ContainerFormat),
            Some(("container", name)) => Ok(Self::Container(name.to_owned())),
            _ => match text {
                "" => Err(ModeError::Empty),
                "container" => Err(ModeError::ContainerFormat),
                "none" => Ok(Self::None),
                "host" => Ok(Self::Host),
                "default" => Ok(Self::default()),
                name => Ok(Self::Network(name.to_owned())),
            },
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) => f.write_str(name),
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(name) => write!(f, "container:{name}"),
        }
    }
}

impl TryFrom<String> for NetworkMode {
    type Error = ModeError;

    fn try_from(text: String) -> Result<Self, ModeError> {
        text.parse()
    }
}

impl From<NetworkMode> for String {
    fn from(mode: NetworkMode) -> Self {
        mode.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_and_written_as_docker_does() {
        for text in ["bridge", "none", "host", "container:web", "backend"] {
            assert_eq!(text.parse::<NetworkMode>().unwrap().to_string(), text);
        }
        assert_eq!("default".parse(), Ok(NetworkMode::default()));
        assert_eq!("container:a:b".parse(), Ok(NetworkMode::Container("a:b".to_owned())));
        for text in ["container", "container:"] {
            assert_eq!(text.parse::<NetworkMode>(), Err(ModeError::ContainerFormat));
        }
        assert!("".parse::<NetworkMode>().is_err());
    }

    #[test]
    fn options_that_need_a_network_conflict_with_a_shared_one() {
        let none = Asked::default();
        let cases: [(Asked, &str); 8] = [
            (Asked { hostname: true, ..none }, "hostname and the network mode"),
            (
                Asked { links: true, ..none },
                "container type network can't be used with links. This would result in undefined behavior",
            ),
            (Asked { dns: true, ..none }, "dns and the network mode"),
            (Asked { add_host: true, ..none }, "custom host-to-IP mapping and the network mode"),
            (Asked { mac_address: true, ..none }, "mac-address and the network mode"),
            (Asked { address: true, ..none }, "IP address and the network mode"),
            (Asked { publish: true, ..none }, "port publishing and the container type network mode"),
            (Asked { expose: true, ..none }, "port exposing and the container type network mode"),
        ];
        let mode = NetworkMode::Container("web".to_owned());
        assert_eq!(mode.check(none), Ok(()));
        for (asked, expected) in cases {
            assert_eq!(mode.check(asked).unwrap_err().to_string(), format!("conflicting options: {expected}"));
            assert_eq!(NetworkMode::default().check(asked), Ok(()));
        }
    }

    #[test]
    fn the_hosts_network_takes_no_links_and_discards_published_ports() {
        let asked =
            Asked { hostname: true, dns: true, add_host: true, publish: true, expose: true, ..Asked::default() };
        for mode in [NetworkMode::Host, NetworkMode::None] {
            assert_eq!(mode.check(asked), Ok(()));
            let warning = format!("Published ports are discarded when using {mode} network mode");
            assert_eq!(mode.warning(asked), Some(warning));
            assert!(mode.check(Asked { links: true, ..asked }).is_err());
            assert!(mode.check(Asked { mac_address: true, ..asked }).is_err());
        }
        assert_eq!(NetworkMode::default().warning(asked), None);
    }
}
