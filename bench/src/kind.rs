//! The contestants: who may carry the packets, and what each needs on this machine.

use netpath_tests::{Backend, Options, Plane, docker_proxy};

use crate::machine::find;

/// A way from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Host,
    Forward,
    IptablesLegacy,
    IptablesNft,
    Nftables,
    DockerProxy,
    Docker,
    DockerNoProxy,
    Netpath,
    NetpathOff,
    NetpathXdp,
}

impl Kind {
    /// In the order of tables. Who is measured next to whom changes from round to round.
    pub const ALL: [Self; 11] = [
        Self::Host,
        Self::Forward,
        Self::IptablesLegacy,
        Self::IptablesNft,
        Self::Nftables,
        Self::DockerProxy,
        Self::Docker,
        Self::DockerNoProxy,
        Self::Netpath,
        Self::NetpathOff,
        Self::NetpathXdp,
    ];

    /// Whom ratios are taken to.
    pub const REFERENCE: Self = Self::IptablesNft;

    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Forward => "forward",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
            Self::Nftables => "nftables",
            Self::DockerProxy => "docker-proxy",
            Self::Docker => "docker",
            Self::DockerNoProxy => "docker-no-proxy",
            Self::Netpath => "netpath",
            Self::NetpathOff => "netpath-off",
            Self::NetpathXdp => "netpath-xdp",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Self::Host => "the server in the host's namespace: no bridge, no NAT, nothing of netfilter",
            Self::Forward => "a bridge and the kernel's forwarding without NAT; the client has a route",
            Self::IptablesLegacy => "the rules Docker Engine 29 writes, by iptables-legacy; no user-land proxy",
            Self::IptablesNft => "the rules Docker Engine 29 writes, by iptables-nft; no user-land proxy",
            Self::Nftables => "nftables: DNAT by a map, masquerade, nothing else",
            Self::DockerProxy => "the same rules with Docker's user-land proxy, where connections go through it",
            Self::Docker => "Docker Engine itself, as its daemon starts by default",
            Self::DockerNoProxy => "Docker Engine itself, with --userland-proxy=false",
            Self::Netpath => "netpath as it starts by default",
            Self::NetpathOff => "netpath --shortcuts=off: the same translations on the kernel's road",
            Self::NetpathXdp => "netpath --xdp force-native on the interface to the client",
        }
    }

    /// Why this machine cannot have it.
    pub fn missing(self) -> Option<String> {
        let program = |name: &str| find(name).is_none().then(|| format!("`{name}` is not installed"));
        match self {
            Self::Host | Self::Forward | Self::Netpath | Self::NetpathOff | Self::NetpathXdp => None,
            Self::IptablesLegacy => program("iptables-legacy-restore"),
            Self::IptablesNft => program("iptables-nft-restore"),
            Self::Nftables => program("nft"),
            Self::DockerProxy => docker_proxy::binary().err(),
            Self::Docker | Self::DockerNoProxy => program("dockerd").or_else(|| program("docker")),
        }
    }

    /// The plane of the tests that it is, and how that is set up.
    pub fn plane(self, agent: &[String]) -> Option<(Plane, Options)> {
        let backend = if self == Self::IptablesLegacy { Backend::Legacy } else { Backend::Nft };
        let plane = match self {
            Self::IptablesLegacy | Self::IptablesNft => Plane::Iptables { proxy: false },
            Self::DockerProxy => Plane::Iptables { proxy: true },
            Self::Netpath | Self::NetpathOff | Self::NetpathXdp => {
                Plane::Netpath { shortcuts: self != Self::NetpathOff }
            }
            Self::Host | Self::Forward | Self::Nftables | Self::Docker | Self::DockerNoProxy => return None,
        };
        // A veth merges less with a program in its driver, so the agent wants to be told that this is meant.
        let xdp: &[&str] = if self == Self::NetpathXdp { &["--xdp", "up0=force-native"] } else { &[] };
        let agent = agent.iter().cloned().chain(xdp.iter().map(|option| (*option).to_owned())).collect();
        Some((plane, Options { watch: false, backend, agent, ..Options::default() }))
    }

    pub fn is_netpath(self) -> bool {
        matches!(self, Self::Netpath | Self::NetpathOff | Self::NetpathXdp)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_contestant_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Kind::ALL.map(Kind::name).into();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
