//! The data planes a test runs on.

/// Who forwards and translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Plain bridges and Docker's own rules, with or without Docker's user-land proxy: what a behaviour is compared with.
    Iptables {
        proxy: bool,
    },
    Netpath {
        shortcuts: bool,
    },
}

impl Plane {
    pub fn is_netpath(self) -> bool {
        matches!(self, Self::Netpath { .. })
    }
}

/// Which of iptables' two implementations writes the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The one the system prefers.
    #[default]
    System,
    Legacy,
    Nft,
}

/// How a plane is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Containers of the network that is there from the start may talk to each other.
    pub icc: bool,
    /// That network has IPv6 too.
    pub ipv6: bool,
    /// There is a second wire, with a stranger at its end.
    pub second_wire: bool,
    /// Packet sockets look for container addresses that get out. They cost every packet something.
    pub watch: bool,
    pub backend: Backend,
    /// The agent sees the file system of cgroups, and so attaches the programs on the host's sockets.
    pub cgroups: bool,
    /// More options for `netpath agent`; `{dir}` in them is the world's directory.
    pub agent: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            icc: true,
            ipv6: false,
            second_wire: false,
            watch: true,
            backend: Backend::System,
            cgroups: true,
            agent: Vec::new(),
        }
    }
}

impl Options {
    /// The defaults with IPv6, and with a second wire.
    pub fn dual() -> Self {
        Self { ipv6: true, second_wire: true, ..Self::default() }
    }

    /// The defaults and `options` for `netpath agent`, split at blanks.
    pub fn agent(options: &str) -> Self {
        Self { agent: options.split_whitespace().map(str::to_owned).collect(), ..Self::default() }
    }
}
