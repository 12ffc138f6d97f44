//! XDP on external interfaces: the option `--xdp`, and what it makes of an interface with these properties. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use serde::Deserialize;

use crate::bridge;

/// Above this MTU a frame does not fit one buffer of every driver.
const LARGEST_PLAIN_MTU: u32 = 1500;

/// What the option asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    #[default]
    Off,
    /// In the driver, unless it is known to do harm there.
    Native,
    /// In the driver, whatever it costs.
    ForceNative,
    /// In the stack, after the kernel has made a packet of the frame.
    Generic,
    /// Native where the driver has all that is used of it, and gives up nothing for it that is known.
    Auto,
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Native,
    Generic,
}

/// An XDP program on an interface, whoever attached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// `None` where it is neither in the driver nor in the stack.
    pub mode: Option<Mode>,
    /// Its number in the kernel.
    pub program: u32,
}

/// One `--xdp`, written `MODE` or `IFACE=MODE`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct XdpOption {
    /// Absent: every external interface that no other option names.
    pub ifname: Option<String>,
    pub asked: Asked,
}

/// All of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpOptions {
    default: Asked,
    by_ifname: BTreeMap<String, Asked>,
}

/// What an interface is like, as far as XDP goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub driver: Option<String>,
    /// Of an interface that is made of software (`veth`, `bond`, `tun`); absent for network cards.
    pub kind: Option<String>,
    /// It belongs to another interface: a bridge, a bond, a VRF.
    pub is_port: bool,
    pub mtu: u32,
    /// Absent where the kernel does not say.
    pub features: Option<Features>,
    /// What the card merges before anybody sees it, and stops merging with a native program.
    pub merging: Vec<String>,
}

/// What a driver can do natively, as the netdev family of generic netlink says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u64);

/// What becomes of an interface, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub mode: Option<Mode>,
    /// For people; empty where the option itself says it all.
    pub reason: String,
}

impl XdpOptions {
    /// Later options win over earlier ones.
    pub fn new(options: impl IntoIterator<Item = XdpOption>) -> Self {
        let mut all = Self::default();
        for option in options {
            match option.ifname {
                Some(ifname) => _ = all.by_ifname.insert(ifname, option.asked),
                None => all.default = option.asked,
            }
        }
        all
    }

    /// What is asked for an external interface.
    pub fn of(&self, ifname: &str) -> Asked {
        self.by_ifname.get(ifname).copied().unwrap_or(self.default)
    }

    /// The interfaces that are named.
    pub fn ifnames(&self) -> impl Iterator<Item = &str> {
        self.by_ifname.keys().map(String::as_str)
    }
}

impl Features {
    // linux/netdev.h: NETDEV_XDP_ACT_*.
    const BASIC: u64 = 1;
    const REDIRECT: u64 = 2;
    const RX_SG: u64 = 32;

    /// It runs programs.
    pub fn basic(self) -> bool {
        self.0 & Self::BASIC != 0
    }

    /// Programs may hand frames to other interfaces.
    pub fn redirect(self) -> bool {
        self.0 & Self::REDIRECT != 0
    }

    /// Programs get frames that lie in several buffers.
    pub fn rx_sg(self) -> bool {
        self.0 & Self::RX_SG != 0
    }
}

/// Decides about one external interface.
pub fn choose(asked: Asked, facts: &Facts) -> Choice {
    let off = |reason: String| Choice { mode: None, reason };
    let on = |mode| Choice { mode: Some(mode), reason: String::new() };
    match asked {
        Asked::Off => off(String::new()),
        Asked::Generic => on(Mode::Generic),
        Asked::ForceNative => on(Mode::Native),
        Asked::Native => unfit(facts).map_or_else(|| on(Mode::Native), off),
        Asked::Auto => match unfit(facts).or_else(|| slower(facts)) {
            Some(reason) => off(reason),
            None => Choice {
                mode: Some(Mode::Native),
                reason: format!("{} has it, with redirection, and gives up nothing for it", facts.shown_driver()),
            },
        },
    }
}

/// Why a native program would do harm, or nothing at all.
fn unfit(facts: &Facts) -> Option<String> {
    if facts.kind.as_deref() == Some("veth") {
        return Some(
            "a veth with native XDP neither merges nor splits segments (GRO, GSO): bulk TCP gets far slower".to_owned(),
        );
    }
    match facts.features {
        Some(features) if !features.basic() => Some(format!("{} has no native XDP", facts.shown_driver())),
        // It would drop what it cannot redirect.
        Some(features) if !features.redirect() => Some(format!("{} has no redirection", facts.shown_driver())),
        _ => None,
    }
}

/// Why a native program might make bulk TCP slower.
fn slower(facts: &Facts) -> Option<String> {
    let driver = facts.shown_driver();
    let Some(features) = facts.features else {
        return Some(format!("the kernel does not say what {driver} can do"));
    };
    if let Some(kind) = &facts.kind {
        return Some(format!("an interface of kind {kind} is no network card: nothing is saved"));
    }
    if facts.is_port {
        return Some(
            "it belongs to another interface (bridge, bond, VRF), and what XDP costs there is not known".to_owned(),
        );
    }
    if !facts.merging.is_empty() {
        return Some(format!(
            "it would turn off {}, by which {driver} merges segments; turn that off yourself (ethtool -K) where it is no loss",
            facts.merging.join(" and ")
        ));
    }
    let is_large = facts.mtu > LARGEST_PLAIN_MTU && !features.rx_sg();
    is_large.then(|| format!("{driver} has no frames of several buffers (rx-sg), which an MTU of {} takes", facts.mtu))
}

impl Facts {
    fn shown_driver(&self) -> String {
        self.driver.as_ref().map_or_else(|| "its driver".to_owned(), |driver| format!("driver {driver}"))
    }
}

impl FromStr for Asked {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "off" => Self::Off,
            "native" => Self::Native,
            "force-native" => Self::ForceNative,
            "generic" => Self::Generic,
            "auto" => Self::Auto,
            _ => bail!("unknown XDP mode `{text}`, want off, native, generic, auto or force-native"),
        })
    }
}

impl FromStr for XdpOption {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((ifname, mode)) = text.split_once('=') else {
            return Ok(Self { ifname: None, asked: text.parse()? });
        };
        ensure!(bridge::is_ifname(ifname), "`{text}`: `{ifname}` is no interface name, want MODE or IFACE=MODE");
        Ok(Self { ifname: Some(ifname.to_owned()), asked: mode.parse()? })
    }
}

impl TryFrom<String> for XdpOption {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Native => "native",
            Self::ForceNative => "force-native",
            Self::Generic => "generic",
            Self::Auto => "auto",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_names_a_mode_or_an_interface_and_a_mode() {
        let option = |ifname: Option<&str>, asked| XdpOption { ifname: ifname.map(str::to_owned), asked };
        for (text, want) in [
            ("off", option(None, Asked::Off)),
            ("auto", option(None, Asked::Auto)),
            ("force-native", option(None, Asked::ForceNative)),
            ("eth0=native", option(Some("eth0"), Asked::Native)),
            ("native=generic", option(Some("native"), Asked::Generic)),
        ] {
            assert_eq!(text.parse::<XdpOption>().unwrap(), want, "{text}");
        }
        for (text, want) in [
            ("", "unknown XDP mode ``, want off, native, generic, auto or force-native"),
            ("fast", "unknown XDP mode `fast`"),
            ("eth0=", "unknown XDP mode ``"),
            ("eth0=on", "unknown XDP mode `on`"),
            ("=native", "`=native`: `` is no interface name"),
            ("name-that-is-too-long=native", "is no interface name, want MODE or IFACE=MODE"),
        ] {
            let error = text.parse::<XdpOption>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn the_interfaces_own_mode_wins_wherever_it_stands_and_the_last_one_of_equals() {
        let parse = |texts: &[&str]| XdpOptions::new(texts.iter().map(|text| text.parse().unwrap()));
        let options = parse(&["eth0=native", "auto", "eth1=off", "eth1=generic"]);
        assert_eq!(
            (options.of("eth0"), options.of("eth1"), options.of("eth2")),
            (Asked::Native, Asked::Generic, Asked::Auto)
        );
        assert_eq!(options.ifnames().collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert_eq!(parse(&[]).of("eth0"), Asked::Off);
    }

    #[test]
    fn auto_takes_a_card_that_loses_nothing() {
        assert_eq!(
            choose(Asked::Auto, &card()),
            Choice {
                mode: Some(Mode::Native),
                reason: "driver ice has it, with redirection, and gives up nothing for it".to_owned()
            }
        );
        let jumbo = Facts { mtu: 9000, features: Some(Features(1 | 2 | 32)), ..card() };
        assert_eq!(choose(Asked::Auto, &jumbo).mode, Some(Mode::Native));
    }

    #[test]
    fn auto_keeps_off_whatever_bulk_tcp_could_lose_by_and_says_why() {
        for (facts, want) in [
            (Facts { features: None, ..card() }, "the kernel does not say what driver ice can do"),
            (Facts { features: None, driver: None, ..card() }, "what its driver can do"),
            (Facts { features: Some(Features(0)), ..card() }, "driver ice has no native XDP"),
            (Facts { features: Some(Features(1)), ..card() }, "driver ice has no redirection"),
            (Facts { kind: Some("veth".to_owned()), ..card() }, "GRO, GSO"),
            (Facts { kind: Some("bond".to_owned()), ..card() }, "an interface of kind bond is no network card"),
            (Facts { is_port: true, ..card() }, "belongs to another interface"),
            (Facts { merging: vec!["rx-lro".to_owned(), "rx-gro-hw".to_owned()], ..card() }, "rx-lro and rx-gro-hw"),
            (Facts { mtu: 1501, ..card() }, "rx-sg"),
        ] {
            let Choice { mode, reason } = choose(Asked::Auto, &facts);
            assert!(mode.is_none() && reason.contains(want), "{facts:?}: {reason}");
        }
    }

    #[test]
    fn native_is_refused_where_it_does_harm_unless_it_is_forced() {
        let veth = Facts { kind: Some("veth".to_owned()), features: Some(Features(3)), ..Facts::default() };
        assert!(choose(Asked::Native, &veth).reason.contains("bulk TCP"));
        for unfit in
            [veth, Facts { features: Some(Features(0)), ..card() }, Facts { features: Some(Features(1)), ..card() }]
        {
            assert_eq!(choose(Asked::Native, &unfit).mode, None, "{unfit:?}");
            assert_eq!(choose(Asked::ForceNative, &unfit).mode, Some(Mode::Native), "{unfit:?}");
        }
    }

    #[test]
    fn native_is_what_was_asked_for_where_it_costs_something() {
        let merging = Facts { merging: vec!["rx-lro".to_owned()], ..card() };
        for facts in [merging, Facts { features: None, ..card() }, Facts { kind: Some("tun".to_owned()), ..card() }] {
            assert_eq!(choose(Asked::Native, &facts).mode, Some(Mode::Native), "{facts:?}");
        }
        assert_eq!(choose(Asked::Generic, &Facts::default()).mode, Some(Mode::Generic));
        assert_eq!(choose(Asked::Off, &card()), Choice { mode: None, reason: String::new() });
    }

    fn card() -> Facts {
        Facts { driver: Some("ice".to_owned()), mtu: 1500, features: Some(Features(1 | 2)), ..Facts::default() }
    }
}
