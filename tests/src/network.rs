//! The networks of a world: what is asked for, and the addresses that follow. Both planes get the same.

use std::net::IpAddr;

use crate::Family;

/// The network that is there from the start, with Docker's first pool.
pub const DEFAULT: &str = "bridge";
const DEFAULT_NUMBER: u8 = 17;

/// How a network's containers are reached from outside, Docker's `gateway_mode_ipv4` and `gateway_mode_ipv6`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayMode {
    #[default]
    Nat,
    NatUnprotected,
    Routed,
    /// The bridge has no address; for internal networks.
    Isolated,
}

/// What a network is asked to be.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    pub ipv6: bool,
    pub internal: bool,
    /// Its containers may talk to each other.
    pub icc: bool,
    pub masquerade: bool,
    pub mode: GatewayMode,
    pub mode6: GatewayMode,
    /// Interfaces from which container addresses may be reached directly.
    pub trusted: Vec<String>,
}

/// A network as both planes make it: 172.NUMBER.0.0/16 and fd00:NUMBER::/64.
#[derive(Clone, Debug)]
pub struct Network {
    pub name: String,
    pub options: NetworkOptions,
    number: u8,
}

impl GatewayMode {
    /// As Docker and netpath call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::NatUnprotected => "nat-unprotected",
            Self::Routed => "routed",
            Self::Isolated => "isolated",
        }
    }
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            ipv6: false,
            internal: false,
            icc: true,
            masquerade: true,
            mode: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            trusted: Vec::new(),
        }
    }
}

impl NetworkOptions {
    /// The defaults with both families.
    pub fn dual() -> Self {
        Self { ipv6: true, ..Self::default() }
    }

    /// Both families in the same gateway mode.
    pub fn in_mode(mode: GatewayMode) -> Self {
        Self { mode, mode6: mode, ..Self::dual() }
    }

    pub fn mode(&self, family: Family) -> GatewayMode {
        family.pick(self.mode, self.mode6)
    }

    pub fn families(&self) -> &'static [Family] {
        if self.ipv6 { &Family::BOTH } else { &[Family::V4] }
    }
}

impl Network {
    /// Network number `index` of a world; 0 is the one that is there from the start.
    pub fn new(name: &str, options: NetworkOptions, index: usize) -> Self {
        let number = DEFAULT_NUMBER + u8::try_from(index).expect("a handful of networks");
        Self { name: name.to_owned(), options, number }
    }

    /// Its address number `host`.
    pub fn address(&self, family: Family, host: u8) -> IpAddr {
        let number = self.number;
        let text = family.pick(format!("172.{number}.0.{host}"), format!("fd00:{number}::{host:x}"));
        text.parse().expect("an address")
    }

    /// The bridge's address, which an isolated network does not have.
    pub fn gateway(&self, family: Family) -> IpAddr {
        self.address(family, 1)
    }

    pub fn prefix_len(&self, family: Family) -> u8 {
        family.pick(16, 64)
    }

    /// As ADDRESS/LENGTH.
    pub fn subnet(&self, family: Family) -> String {
        let first = self.address(family, 0);
        format!("{first}/{}", self.prefix_len(family))
    }

    /// The options of `netpath network create`.
    pub fn create_args(&self) -> Vec<String> {
        let NetworkOptions { ipv6, internal, icc, masquerade, mode, mode6, ref trusted } = self.options;
        let mut args: Vec<String> =
            self.options.families().iter().flat_map(|family| ["--subnet".to_owned(), self.subnet(*family)]).collect();
        let flags =
            [(ipv6, "--ipv6"), (internal, "--internal"), (!icc, "--icc=false"), (!masquerade, "--ip-masq=false")];
        args.extend(flags.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| (*flag).to_owned()));
        for (flag, mode) in [("--gateway-mode-ipv4", mode), ("--gateway-mode-ipv6", mode6)] {
            if mode != GatewayMode::Nat {
                args.extend([flag.to_owned(), mode.name().to_owned()]);
            }
        }
        args.extend(trusted.iter().flat_map(|ifname| ["--trusted".to_owned(), ifname.clone()]));
        args.push(self.name.clone());
        args
    }

    /// Nothing with a container's address may leave for the outside.
    pub fn hides_containers(&self, family: Family) -> bool {
        let mode = self.options.mode(family);
        let translated = matches!(mode, GatewayMode::Nat | GatewayMode::Isolated);
        translated && self.options.trusted.is_empty() && self.options.masquerade
    }
}
