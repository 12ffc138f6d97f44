//! The data planes a test runs on.

/// Who forwards and translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// A plain bridge and Docker's own rules: what a behaviour is compared with.
    Iptables,
    Netpath {
        shortcuts: bool,
    },
}

impl Plane {
    pub fn is_netpath(self) -> bool {
        matches!(self, Self::Netpath { .. })
    }
}

/// How a plane is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Containers may talk to each other.
    pub icc: bool,
    /// More options for `netpath agent`.
    pub agent: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { icc: true, agent: Vec::new() }
    }
}

impl Options {
    /// The defaults and `options` for `netpath agent`, split at blanks.
    pub fn agent(options: &str) -> Self {
        Self { agent: options.split_whitespace().map(str::to_owned).collect(), ..Self::default() }
    }
}
