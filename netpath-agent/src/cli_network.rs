//! The command line of `netpath network`: clap types only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::{ArgGroup, Args, Subcommand};
use ipnet::IpNet;

use crate::api::GatewayMode;
use crate::cli::TableArgs;
use crate::options::Switch;

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Creates a network with a bridge of its own; prints its name
    Create(Box<NetworkCreateArgs>),
    /// Removes networks that no container is connected to
    Rm(NetworkNames),
    /// Lists networks
    Ls(TableArgs),
    /// Shows networks as JSON
    Inspect(NetworkNames),
    /// Gives a container an interface in one more network
    Connect(ConnectArgs),
    /// Takes a container's interface in a network away
    Disconnect(DisconnectArgs),
    /// Changes a network live
    Set(NetworkSetArgs),
}

#[derive(Debug, Args)]
pub struct NetworkNames {
    /// Names of the networks
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct NetworkCreateArgs {
    /// Name of the network
    pub name: String,

    /// Driver of the network; there is one
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge", value_parser = ["bridge"])]
    pub driver: String,

    /// Subnet, one of each family [default: the first of Docker's pools that is free]
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<IpNet>,

    /// Address of the bridge, which is the containers' gateway [default: the first of the subnet]
    #[arg(long, value_name = "ADDR")]
    pub gateway: Vec<IpAddr>,

    /// Part of the subnet that containers get addresses from [default: all of it]
    #[arg(long, value_name = "CIDR")]
    pub ip_range: Vec<IpNet>,

    /// Gives the network IPv6 too
    #[arg(long)]
    pub ipv6: bool,

    /// Nothing leaves the network and nothing comes in
    #[arg(long)]
    pub internal: bool,

    /// Lets containers of the network talk to each other [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub icc: Option<bool>,

    /// Masquerades what containers send to the outside; else it leaves under their own addresses [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ip_masq: Option<bool>,

    /// Whether packets from and to outside skip the kernel's stack; off: iptables rules of others apply to them [default: on]
    #[arg(long, value_enum, value_name = "SWITCH")]
    pub shortcuts: Option<Switch>,

    /// MTU in bytes of bridge and containers [default: the agent's]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,

    /// How containers and the outside have each other
    #[arg(long, value_enum, value_name = "MODE", default_value = "nat")]
    pub gateway_mode_ipv4: GatewayMode,

    /// The same for IPv6
    #[arg(long, value_enum, value_name = "MODE", default_value = "nat")]
    pub gateway_mode_ipv6: GatewayMode,

    /// Interface from which published ports are reached at the containers' own addresses too, repeatable
    #[arg(long, value_name = "IFACE")]
    pub trusted: Vec<String>,

    /// Name of the bridge, created if missing [default: br- and 12 random hexadecimal digits]
    #[arg(long, value_name = "IFACE")]
    pub bridge: Option<String>,

    /// Docker's label for one of the above, such as com.docker.network.bridge.enable_icc=false, repeatable
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub opt: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    /// Name of the network
    pub network: String,

    /// Name of the container
    pub container: String,

    /// IPv4 address of the container [default: the lowest that is free]
    #[arg(long, value_name = "ADDR")]
    pub ip: Option<Ipv4Addr>,

    /// IPv6 address of the container [default: the lowest that is free]
    #[arg(long, value_name = "ADDR")]
    pub ip6: Option<Ipv6Addr>,

    /// Hardware address of the new interface [default: random]
    #[arg(long, value_name = "MAC")]
    pub mac_address: Option<String>,
}

#[derive(Debug, Args)]
pub struct DisconnectArgs {
    /// Name of the network
    pub network: String,

    /// Name of the container
    pub container: String,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub struct NetworkSetArgs {
    /// Name of the network
    pub name: String,

    /// Lets containers of the network talk to each other
    #[arg(long, value_name = "BOOL", require_equals = true, group = "change")]
    pub icc: Option<bool>,

    /// Whether packets from and to outside skip the kernel's stack; off: iptables rules of others apply to them
    #[arg(long, value_enum, value_name = "SWITCH", group = "change")]
    pub shortcuts: Option<Switch>,
}
