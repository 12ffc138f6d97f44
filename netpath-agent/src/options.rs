//! The agent's options: flags of `netpath agent` and keys of its TOML file, merged into [`Options`].
//! A flag wins over the file, the file over the default. Reads that one file and nothing else.
//!
//! Long because each option stands here as flag, key and value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::{Ipv4Net, Ipv6Net};
use netpath_common::{PortRange, Timeouts};
use serde::Deserialize;

use crate::bridge;
use crate::ipam::AddressPool;
use crate::names::resolv_conf::{self, Dns};
use crate::xdp::{XdpOption, XdpOptions};

pub const DEFAULT_SOCKET: &str = "/run/netpath/netpath.sock";
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const STATE_ROOT: &str = "/var/lib/netpath";
const PIN_ROOT: &str = "/sys/fs/bpf/netpath";

/// The options of `netpath agent` as given on the command line or in the TOML file, where the keys
/// have the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct AgentFlags {
    /// TOML file with any of the options below; flags win over it
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Bridge, created if missing, else used with its own address [default: netpath0]
    #[arg(long, value_name = "NAME")]
    pub bridge: Option<String>,

    /// The bridge's address and the network's prefix [default: the first of Docker's pools that is free]
    #[arg(long, value_name = "CIDR")]
    pub bip: Option<Ipv4Net>,

    /// Part of the subnet that containers get addresses from [default: all of it]
    #[arg(long, value_name = "CIDR")]
    pub fixed_cidr: Option<Ipv4Net>,

    /// Default gateway of the containers [default: the bridge's address]
    #[arg(long, value_name = "ADDR")]
    pub default_gateway: Option<Ipv4Addr>,

    /// Gives the network IPv6 too [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipv6: Option<bool>,

    /// The bridge's IPv6 address and the network's prefix [default: a unique local /64 of this host's]
    #[arg(long, value_name = "CIDR")]
    pub bip6: Option<Ipv6Net>,

    /// As --fixed-cidr, for IPv6; without --bip6 it is the subnet
    #[arg(long, value_name = "CIDR")]
    pub fixed_cidr_v6: Option<Ipv6Net>,

    /// As --default-gateway, for IPv6
    #[arg(long, value_name = "ADDR")]
    pub default_gateway_v6: Option<Ipv6Addr>,

    /// Where networks get their subnets from, repeatable: base=CIDR,size=PREFIX_LENGTH [default: Docker's pools]
    #[arg(long, value_name = "POOL")]
    pub default_address_pool: Vec<AddressPool>,

    /// Interface from which published ports are reached at the containers' own addresses too, repeatable
    #[arg(long, value_name = "IFACE")]
    pub trusted: Vec<String>,

    /// MTU in bytes of bridge and containers [default: the smallest of the externals, 1500 without any]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,

    /// Lets containers of the network talk to each other [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub icc: Option<bool>,

    /// Host address at which the first network publishes ports that have none [default: 0.0.0.0 and ::]
    #[arg(long, value_name = "ADDR")]
    pub ip: Option<IpAddr>,

    /// Turns on net.ipv4.ip_forward, and net.ipv6.conf.all.forwarding for IPv6 networks [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ip_forward: Option<bool>,

    /// Masquerades what containers send to the outside [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ip_masq: Option<bool>,

    /// External interface, repeatable [default: each with an address that is not netpath's own]
    #[arg(long, value_name = "IFACE")]
    pub external: Vec<String>,

    /// Redirects past the kernel's stack where that gives the same result [default: on]
    #[arg(long, value_name = "on|off")]
    pub shortcuts: Option<Switch>,

    /// Attaches programs by tcx links, or by filters of clsact qdiscs [default: on where the kernel has tcx, Linux 6.6]
    #[arg(long, value_name = "on|off")]
    pub tcx: Option<Switch>,

    /// XDP on external interfaces, or on IFACE=MODE alone, repeatable: off, native, generic, force-native, auto (native
    /// where no offload is lost by it) [default: off]
    #[arg(long, value_name = "MODE")]
    pub xdp: Vec<XdpOption>,

    /// Masqueraded flows at most [default: 131072]
    #[arg(long, value_name = "N")]
    pub max_flows: Option<u32>,

    /// Published ports at most, counted once for each host address [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_ports: Option<u32>,

    /// Containers' interfaces at most, up to 65535 [default: 4096]
    #[arg(long, value_name = "N")]
    pub max_endpoints: Option<u32>,

    /// Host ports that masquerade uses [default: those outside net.ipv4.ip_local_port_range]
    #[arg(long, value_name = "A-B")]
    pub masquerade_ports: Option<PortSpan>,

    /// Host ports for `-p` without one and for -P, as 49153-65535 [default: net.ipv4.ip_local_port_range]
    #[arg(long, value_name = "FIRST-LAST")]
    pub automatic_ports: Option<PortSpan>,

    /// How long a flow may be silent, repeatable; udp-unreplied [120], udp [300], tcp [7440],
    /// tcp-transitory [240], icmp [60]
    #[arg(long, value_name = "NAME=SECONDS")]
    pub timeout: Vec<Timeout>,

    /// Name server of containers in place of the host's, repeatable
    #[arg(long, value_name = "ADDR")]
    pub dns: Vec<IpAddr>,

    /// Search domain of containers in place of the host's, repeatable; `.` is none
    #[arg(long, value_name = "DOMAIN", value_parser = resolv_conf::parse_search)]
    pub dns_search: Vec<String>,

    /// Resolver option of containers in place of the host's, repeatable
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", value_parser = resolv_conf::parse_option)]
    pub dns_option: Vec<String>,

    /// Serves the networks and containers of the Docker Engine that listens at SOCKET [default: /var/run/docker.sock]
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = DOCKER_SOCKET)]
    pub docker: Option<PathBuf>,

    /// What survives a restart of the agent [default: /var/lib/netpath/<socket's name>]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Where programs and maps are pinned, on a BPF file system [default: /sys/fs/bpf/netpath/<socket's name>]
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,

    /// Group that may use the socket [default: root only]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
}

/// The agent's options, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub socket: PathBuf,
    pub bridge: String,
    pub bip: Option<Ipv4Net>,
    pub fixed_cidr: Option<Ipv4Net>,
    pub default_gateway: Option<Ipv4Addr>,
    pub ipv6: bool,
    pub bip6: Option<Ipv6Net>,
    pub fixed_cidr_v6: Option<Ipv6Net>,
    pub default_gateway_v6: Option<Ipv6Addr>,
    /// Where networks get subnets from; a family without any has the predefined ones.
    pub address_pools: Vec<AddressPool>,
    /// Names of interfaces from which containers may be reached directly.
    pub trusted: Vec<String>,
    pub mtu: Option<u32>,
    pub icc: bool,
    /// Host address of bindings that name none.
    pub binding_addr: IpAddr,
    pub ip_forward: bool,
    pub masquerade: bool,
    /// Names of the external interfaces; empty: every one that qualifies.
    pub externals: Vec<String>,
    pub shortcuts: bool,
    /// Whether programs are attached by tcx links; `None`: where the kernel has them.
    pub tcx: Option<bool>,
    pub xdp: XdpOptions,
    pub max_flows: u32,
    pub max_ports: u32,
    pub max_endpoints: u32,
    pub masquerade_ports: Option<PortRange>,
    /// Where host ports come from that nobody chose; `None`: the kernel's ephemeral range.
    pub automatic_ports: Option<PortRange>,
    pub timeouts: Timeouts,
    /// For containers that say nothing else.
    pub dns: Dns,
    /// Where Docker Engine listens whose containers are served.
    pub docker: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
    pub group: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    On,
    Off,
}

/// A range of ports written `A-B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PortSpan(pub PortRange);

/// A time-out written `NAME=SECONDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Timeout {
    pub kind: TimeoutKind,
    pub seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutKind {
    UdpUnreplied,
    Udp,
    Tcp,
    TcpTransitory,
    Icmp,
}

impl Options {
    /// Merges `flags` with the file they name and fills in the defaults.
    ///
    /// # Errors
    /// If the file cannot be read, has an unknown key, or two options contradict each other.
    pub fn resolve(flags: AgentFlags, socket: &Path) -> Result<Self> {
        let file = match &flags.config {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("read configuration {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("read configuration {}", path.display()))?
            }
            None => AgentFlags::default(),
        };
        let options = Self::from_flags(flags.or(file), socket);
        options.check()?;
        Ok(options)
    }

    fn from_flags(flags: AgentFlags, socket: &Path) -> Self {
        let mut timeouts = Timeouts::default();
        for timeout in &flags.timeout {
            timeout.store(&mut timeouts);
        }
        Self {
            socket: socket.to_owned(),
            bridge: flags.bridge.unwrap_or_else(|| "netpath0".to_owned()),
            bip: flags.bip,
            fixed_cidr: flags.fixed_cidr,
            default_gateway: flags.default_gateway,
            ipv6: flags.ipv6.unwrap_or(false),
            bip6: flags.bip6,
            fixed_cidr_v6: flags.fixed_cidr_v6,
            default_gateway_v6: flags.default_gateway_v6,
            address_pools: flags.default_address_pool,
            trusted: flags.trusted,
            mtu: flags.mtu,
            icc: flags.icc.unwrap_or(true),
            binding_addr: flags.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            ip_forward: flags.ip_forward.unwrap_or(true),
            masquerade: flags.ip_masq.unwrap_or(true),
            externals: flags.external,
            shortcuts: flags.shortcuts.unwrap_or(Switch::On) == Switch::On,
            tcx: flags.tcx.map(|tcx| tcx == Switch::On),
            xdp: XdpOptions::new(flags.xdp),
            max_flows: flags.max_flows.unwrap_or(131_072),
            max_ports: flags.max_ports.unwrap_or(65_536),
            max_endpoints: flags.max_endpoints.unwrap_or(4_096),
            masquerade_ports: flags.masquerade_ports.map(|span| span.0),
            automatic_ports: flags.automatic_ports.map(|span| span.0),
            timeouts,
            dns: Dns { servers: flags.dns, search: flags.dns_search, options: flags.dns_option },
            docker: flags
                .docker
                .map(|path| path.strip_prefix("unix:").map_or(path.clone(), |bare| Path::new("/").join(bare))),
            state_dir: flags.state_dir.unwrap_or_else(|| default_state_dir(socket)),
            pin_dir: flags.pin_dir.unwrap_or_else(|| default_pin_dir(socket)),
            group: flags.group,
        }
    }

    fn check(&self) -> Result<()> {
        ensure!(
            bridge::is_ifname(&self.bridge),
            "--bridge `{}` is no interface name: 1 to 15 characters, no `/`, `:` or `%`, no space",
            self.bridge
        );
        if let Some(mtu) = self.mtu {
            ensure!((68..=65_535).contains(&mtu), "--mtu {mtu} is out of range, want 68 to 65535");
        }
        for (name, value, max) in [
            ("max-flows", self.max_flows, 1 << 24),
            ("max-ports", self.max_ports, 1 << 24),
            // A flow says in 16 bits whose it is.
            ("max-endpoints", self.max_endpoints, u32::from(u16::MAX)),
        ] {
            ensure!((1..=max).contains(&value), "--{name} {value} is out of range, want 1 to {max}");
        }
        if let Some(bip) = self.bip {
            ensure!(
                bip.prefix_len() <= 30,
                "--bip {bip} leaves no address for containers, want a prefix of at most 30"
            );
            let is_host = bip.addr() != bip.network() && bip.addr() != bip.broadcast();
            ensure!(is_host, "--bip {bip} is the network's own or its broadcast address, want one for the bridge");
        }
        if let Some(bip) = self.bip6 {
            ensure!(
                bip.prefix_len() <= 126 && bip.addr() != bip.network(),
                "--bip6 {bip} is the network's own address or leaves none for containers, want one for the bridge"
            );
        }
        self.dns.check().map_err(anyhow::Error::msg)?;
        let v6 = self.bip6.is_some() || self.fixed_cidr_v6.is_some() || self.default_gateway_v6.is_some();
        ensure!(self.ipv6 || !v6, "--bip6, --fixed-cidr-v6 and --default-gateway-v6 need --ipv6");
        Ok(())
    }
}

impl AgentFlags {
    /// These flags, completed with `file` where they are silent.
    fn or(self, file: Self) -> Self {
        Self {
            config: self.config,
            bridge: self.bridge.or(file.bridge),
            bip: self.bip.or(file.bip),
            fixed_cidr: self.fixed_cidr.or(file.fixed_cidr),
            default_gateway: self.default_gateway.or(file.default_gateway),
            ipv6: self.ipv6.or(file.ipv6),
            bip6: self.bip6.or(file.bip6),
            fixed_cidr_v6: self.fixed_cidr_v6.or(file.fixed_cidr_v6),
            default_gateway_v6: self.default_gateway_v6.or(file.default_gateway_v6),
            default_address_pool: or(self.default_address_pool, file.default_address_pool),
            trusted: if self.trusted.is_empty() { file.trusted } else { self.trusted },
            mtu: self.mtu.or(file.mtu),
            icc: self.icc.or(file.icc),
            ip: self.ip.or(file.ip),
            ip_forward: self.ip_forward.or(file.ip_forward),
            ip_masq: self.ip_masq.or(file.ip_masq),
            external: if self.external.is_empty() { file.external } else { self.external },
            shortcuts: self.shortcuts.or(file.shortcuts),
            tcx: self.tcx.or(file.tcx),
            xdp: file.xdp.into_iter().chain(self.xdp).collect(),
            max_flows: self.max_flows.or(file.max_flows),
            max_ports: self.max_ports.or(file.max_ports),
            max_endpoints: self.max_endpoints.or(file.max_endpoints),
            masquerade_ports: self.masquerade_ports.or(file.masquerade_ports),
            automatic_ports: self.automatic_ports.or(file.automatic_ports),
            timeout: file.timeout.into_iter().chain(self.timeout).collect(),
            dns: or(self.dns, file.dns),
            dns_search: or(self.dns_search, file.dns_search),
            dns_option: or(self.dns_option, file.dns_option),
            state_dir: self.state_dir.or(file.state_dir),
            pin_dir: self.pin_dir.or(file.pin_dir),
            docker: self.docker.or(file.docker),
            group: self.group.or(file.group),
        }
    }
}

/// The flag's values, or the file's where it has none.
fn or<T>(flag: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flag.is_empty() { file } else { flag }
}

/// Where the agent behind `socket` keeps its state unless told otherwise.
pub fn default_state_dir(socket: &Path) -> PathBuf {
    Path::new(STATE_ROOT).join(instance(socket))
}

/// Where the agent behind `socket` pins programs and maps unless told otherwise.
pub fn default_pin_dir(socket: &Path) -> PathBuf {
    Path::new(PIN_ROOT).join(instance(socket))
}

fn instance(socket: &Path) -> &Path {
    socket.file_stem().map_or(Path::new("netpath"), Path::new)
}

impl FromStr for PortSpan {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parsed {
            Some((first, last)) if first > 0 && first <= last => Ok(Self(PortRange { first, last })),
            _ => bail!("`{text}` is no range of ports, want A-B with 1 <= A <= B <= 65535"),
        }
    }
}

impl FromStr for Timeout {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((name, seconds)) = text.split_once('=') else {
            bail!("`{text}` is no time-out, want NAME=SECONDS");
        };
        let kind = match name {
            "udp-unreplied" => TimeoutKind::UdpUnreplied,
            "udp" => TimeoutKind::Udp,
            "tcp" => TimeoutKind::Tcp,
            "tcp-transitory" => TimeoutKind::TcpTransitory,
            "icmp" => TimeoutKind::Icmp,
            _ => bail!("unknown time-out `{name}`, want udp-unreplied, udp, tcp, tcp-transitory or icmp"),
        };
        let seconds = seconds.parse().ok().filter(|s| (1..=31_536_000).contains(s));
        Ok(Self { kind, seconds: seconds.with_context(|| format!("`{text}`: want 1 to 31536000 seconds"))? })
    }
}

impl Timeout {
    fn store(self, timeouts: &mut Timeouts) {
        *match self.kind {
            TimeoutKind::UdpUnreplied => &mut timeouts.udp_unreplied,
            TimeoutKind::Udp => &mut timeouts.udp,
            TimeoutKind::Tcp => &mut timeouts.tcp,
            TimeoutKind::TcpTransitory => &mut timeouts.tcp_transitory,
            TimeoutKind::Icmp => &mut timeouts.icmp,
        } = self.seconds;
    }
}

impl TryFrom<String> for PortSpan {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for Timeout {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for PortSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.first, self.0.last)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::xdp::Asked;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: AgentFlags,
    }

    #[test]
    fn defaults_are_dockers_and_follow_the_sockets_name() {
        let options = resolve(&[], "").unwrap();
        assert!(options.icc && options.masquerade && options.ip_forward && options.shortcuts);
        assert_eq!((options.bridge.as_str(), options.binding_addr), ("netpath0", IpAddr::from(Ipv4Addr::UNSPECIFIED)));
        assert_eq!(options.state_dir, Path::new("/var/lib/netpath/blue"));
        assert_eq!(options.pin_dir, Path::new("/sys/fs/bpf/netpath/blue"));
        assert_eq!(options.timeouts, Timeouts::default());
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = "bridge = 'br-file'\nmtu = 1400\nicc = false\nexternal = ['eth1', 'eth2']\ntimeout = ['udp=9', 'icmp=8']\n\
             xdp = ['native', 'eth1=generic']";
        let options =
            resolve(&["--bridge=br-flag", "--icc", "--external=eth9", "--timeout=udp=7", "--xdp=auto"], file).unwrap();
        assert_eq!((options.bridge.as_str(), options.mtu, options.icc), ("br-flag", Some(1400), true));
        assert_eq!(options.externals, ["eth9"]);
        assert_eq!((options.timeouts.udp, options.timeouts.icmp, options.timeouts.tcp), (7, 8, 7440));
        assert_eq!((options.xdp.of("eth9"), options.xdp.of("eth1")), (Asked::Auto, Asked::Generic));
    }

    #[test]
    fn every_key_of_the_file_has_the_flags_name() {
        let file = r#"
            bridge = "b0"
            bip = "10.1.0.1/16"
            fixed-cidr = "10.1.128.0/17"
            default-gateway = "10.1.0.9"
            ipv6 = true
            bip6 = "fd00:1::1/64"
            fixed-cidr-v6 = "fd00:1::/80"
            default-gateway-v6 = "fd00:1::9"
            default-address-pool = ["base=10.2.0.0/16,size=24"]
            trusted = ["wg0"]
            mtu = 1400
            icc = false
            ip = "127.0.0.1"
            ip-forward = false
            ip-masq = false
            external = ["eth0"]
            shortcuts = "off"
            xdp = ["auto", "eth0=native"]
            max-flows = 1
            max-ports = 2
            max-endpoints = 3
            masquerade-ports = "1024-2047"
            automatic-ports = "49153-65535"
            timeout = ["tcp=100"]
            state-dir = "/s"
            pin-dir = "/p"
            group = "wheel"
        "#;
        let options = resolve(&[], file).unwrap();
        assert!(!(options.icc || options.ip_forward || options.masquerade || options.shortcuts));
        assert_eq!((options.max_flows, options.max_ports, options.max_endpoints), (1, 2, 3));
        assert_eq!(options.masquerade_ports, Some(PortRange { first: 1024, last: 2047 }));
        assert_eq!(options.automatic_ports, Some(PortRange { first: 49153, last: 65535 }));
        assert_eq!(options.bip.map(|b| b.addr()), Some(Ipv4Addr::new(10, 1, 0, 1)));
        assert_eq!((options.xdp.of("eth0"), options.xdp.of("eth1")), (Asked::Native, Asked::Auto));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = format!("{:#}", resolve(&[], "brigde = 'x'").unwrap_err());
        assert!(error.contains("brigde"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        for args in [
            "--mtu=65536",
            "--max-flows=0",
            "--bridge=",
            "--bridge=name-that-is-too-long",
            "--bridge=br%d",
            "--max-endpoints=65536",
            "--bip=10.0.0.0/16",
            "--bip=10.0.0.1/31",
            "--bip6=fd00::1/64",
        ] {
            assert!(resolve(&[args], "").is_err(), "{args}");
        }
        for args in [
            "--xdp",
            "--xdp=fast",
            "--xdp=eth0=",
            "--timeout=udp",
            "--timeout=quic=3",
            "--timeout=udp=0",
            "--masquerade-ports=9-8",
            "--icc=maybe",
        ] {
            assert!(Cli::try_parse_from(["x", args]).is_err(), "{args}");
        }
    }

    fn resolve(args: &[&str], file: &str) -> Result<Options> {
        let dir = tempfile::tempdir().expect("make a directory");
        let path = dir.path().join("netpath.toml");
        std::fs::write(&path, file).expect("write the file");
        let config = format!("--config={}", path.display());
        let cli = Cli::parse_from(["netpath", &config].into_iter().chain(args.iter().copied()));
        Options::resolve(cli.flags, Path::new("/run/netpath/blue.sock"))
    }
}
