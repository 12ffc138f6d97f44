//! The command line: clap types only. What a subcommand does is in `commands/`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::cli_conntrack::ConntrackArgs;
use crate::cli_docker::DockerCommand;
use crate::cli_link::{LinkCommand, PtpCommand};
use crate::cli_network::NetworkCommand;
use crate::names::hosts::ExtraHost;
use crate::names::resolv_conf;
use crate::options::{AgentFlags, DEFAULT_SOCKET};

/// Container networking without netfilter: bridge, published ports, masquerade and policy in eBPF
#[derive(Debug, Parser)]
#[command(name = "netpath", version, max_term_width = 120, after_help = EXIT_STATUS)]
pub struct Cli {
    /// Unix socket of the agent
    #[arg(
        long,
        global = true,
        env = "NETPATH_SOCKET",
        value_name = "PATH",
        default_value = DEFAULT_SOCKET,
        display_order = 1000
    )]
    pub socket: PathBuf,

    #[command(subcommand)]
    pub command: Command,
}

const EXIT_STATUS: &str = "Exit status: 0 done, 1 refused or not found, 2 could not run (no agent, bad usage).";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the agent in the foreground; what it set up stays when it ends
    Agent(Box<AgentFlags>),
    /// Runs a command as a container: own network, mount and UTS namespaces
    Run(RunArgs),
    /// Connects a network namespace that somebody else made
    Attach(AttachArgs),
    /// Disconnects a container; its processes go on without a network
    Detach(NameArg),
    /// Stops containers and removes them
    Rm(RmArgs),
    /// Lists containers
    Ps(TableArgs),
    /// Lists the published ports of a container, or where one of them leads
    Port(PortArgs),
    /// Shows a container, or without a name the agent, as JSON
    Inspect(InspectArgs),
    /// Creates, removes and shows networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Publishes more ports of a container
    Publish(PublishArgs),
    /// Unpublishes ports of a container
    Unpublish(UnpublishArgs),
    /// Links running containers, or unlinks them
    #[command(subcommand)]
    Link(LinkCommand),
    /// Links two containers from point to point: a wire between them, without bridge and host
    #[command(subcommand)]
    Ptp(PtpCommand),
    /// Lists what is translated, allowed and dropped, with packets and bytes
    Rules(TableArgs),
    /// Lists, counts or deletes flows
    ///
    /// Shows them as conntrack-tools do. The filters look at a flow's first packet as the container sees it.
    Conntrack(ConntrackArgs),
    /// Shows how full the maps are, what the programs cost and what was dropped
    Stats(TableArgs),
    /// Shows drops and new flows as they happen
    Monitor(TableArgs),
    /// Says what this kernel and host have and lack for netpath, and what to do; exit status 1 if something that it needs is lacking. Needs no agent
    Doctor(DoctorArgs),
    /// Says what stands between this host's Docker and netpath, and takes Docker over or gives it back
    #[command(subcommand)]
    Docker(DockerCommand),
    /// Removes the network: containers' interfaces, programs, maps, the bridge and the state
    ///
    /// What runs in the containers goes on without a network, and the logs of detached containers stay in the state
    /// directory; `netpath rm` ends containers.
    Down(DownArgs),
}

const RUN_EXIT_STATUS: &str = "Exit status: the command's; 128 + N if signal N ended it; 127 if there is no such command, \
    126 if it cannot be executed; 1 if the agent refused, 2 if it could not be asked.";

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub table: TableArgs,
    /// Also offer every program to the kernel, and show what its verifier says; takes seconds
    #[arg(long)]
    pub programs: bool,
}

// `-h` is the host name, as in `docker run`; help is `--help`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, after_help = RUN_EXIT_STATUS)]
pub struct RunArgs {
    /// Returns at once and leaves the command running, its output in a log file
    #[arg(short, long)]
    pub detach: bool,

    /// Removes the container when it ends, as is done without it
    #[arg(long)]
    pub rm: bool,

    /// Name of the container [default: 12 random hexadecimal digits]
    #[arg(long)]
    pub name: Option<String>,

    #[command(flatten)]
    pub endpoint: EndpointArgs,

    /// Host name inside [default: the container's name]
    #[arg(short = 'h', long, value_name = "HOST")]
    pub hostname: Option<String>,

    #[command(flatten)]
    pub names: NamesArgs,

    /// Sets an environment variable, repeatable; without a value it is the caller's. The caller's others are there too
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<Variable>,

    /// Sets the variables that Docker's links set, such as DB_PORT_5432_TCP_ADDR [default: no, as Docker since 29]
    #[arg(long, requires = "link")]
    pub link_env: bool,

    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,

    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// What goes into a container's `/etc/hosts` and `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, Args)]
pub struct NamesArgs {
    /// Adds a line to /etc/hosts, repeatable; `host-gateway` as ADDR is the host
    #[arg(long, value_name = "NAME:ADDR")]
    pub add_host: Vec<ExtraHost>,

    /// Name server in place of the host's, repeatable
    #[arg(long, value_name = "ADDR")]
    pub dns: Vec<IpAddr>,

    /// Search domain in place of the host's, repeatable; `.` is none
    #[arg(long, value_name = "DOMAIN", value_parser = resolv_conf::parse_search)]
    pub dns_search: Vec<String>,

    /// Resolver option in place of the host's, repeatable
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION", value_parser = resolv_conf::parse_option)]
    pub dns_option: Vec<String>,
}

/// An environment variable as `run -e` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    /// `None` is the caller's.
    pub value: Option<String>,
}

impl Variable {
    /// Name and value; `None` where the caller has none either.
    pub fn value(self) -> Option<(String, String)> {
        let value = self.value.or_else(|| std::env::var(&self.name).ok())?;
        Some((self.name, value))
    }
}

impl FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        if name.is_empty() {
            return Err(format!("invalid environment variable: {text}"));
        }
        Ok(Self { name: name.to_owned(), value: value.map(str::to_owned) })
    }
}

/// What `run` and `attach` may ask for.
#[derive(Debug, Default, Args)]
pub struct EndpointArgs {
    /// Publishes a port, in Docker's grammar: [[ADDR:][HOSTPORT[-LAST]]:]PORT[-LAST][/PROTO]
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<String>,

    /// Lets only these sources use the published ports, or some of them; repeatable
    #[arg(long, value_name = "[HOSTPORT[-LAST][/PROTO]=]CIDR")]
    pub from: Vec<String>,

    /// Publishes every exposed port at a host port that is free
    #[arg(short = 'P', long)]
    pub publish_all: bool,

    /// Exposes a port to linked containers and to -P: PORT[-LAST][/PROTO]
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<String>,

    /// Links to another container of the network: its exposed ports are open to this one
    #[arg(long, value_name = "NAME[:ALIAS]")]
    pub link: Vec<String>,

    /// `--icc=false`: talks to containers of its network by links only [default: as the network says]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub icc: Option<bool>,

    /// Network: bridge, none, host, container:NAME or one made by `network create` [default: bridge]
    #[arg(long, visible_alias = "network", value_name = "NETWORK")]
    pub net: Option<String>,

    /// IPv4 address of the container [default: the lowest that is free]
    #[arg(long, value_name = "ADDR")]
    pub ip: Option<Ipv4Addr>,

    /// IPv6 address of the container [default: the lowest that is free]
    #[arg(long, value_name = "ADDR")]
    pub ip6: Option<Ipv6Addr>,

    /// Hardware address of the container [default: random]
    #[arg(long, value_name = "MAC")]
    pub mac_address: Option<String>,
}

#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Name to give the container
    pub name: String,

    #[command(flatten)]
    pub target: AttachTarget,

    #[command(flatten)]
    pub endpoint: EndpointArgs,
}

/// The namespace to connect.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct AttachTarget {
    /// File of the network namespace, such as /run/netns/NAME
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,

    /// Process in the network namespace
    #[arg(long)]
    pub pid: Option<u32>,
}

#[derive(Debug, Args)]
pub struct NameArg {
    /// Name of the container
    pub name: String,
}

#[derive(Debug, Args)]
pub struct RmArgs {
    /// Kills at once instead of after 10 s
    #[arg(short, long)]
    pub force: bool,

    /// Names of the containers
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct TableArgs {
    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PortArgs {
    /// Name of the container
    pub name: String,

    /// Container port
    #[arg(value_name = "PORT[/PROTO]")]
    pub port: Option<String>,

    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Name of the container
    pub name: Option<String>,

    /// Prints JSON, as without it
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// Name of the container
    pub name: String,

    /// Ports, as `run -p` takes them
    #[arg(required = true, value_name = "SPEC")]
    pub specs: Vec<String>,

    /// Lets only these sources use them, or some of them; repeatable
    #[arg(long, value_name = "[HOSTPORT[-LAST][/PROTO]=]CIDR")]
    pub from: Vec<String>,
}

#[derive(Debug, Args)]
pub struct UnpublishArgs {
    /// Name of the container
    pub name: String,

    /// Host ports; without an address on every address
    #[arg(required = true, value_name = "[ADDR:]PORT[-LAST][/PROTO]")]
    pub ports: Vec<String>,
}

#[derive(Debug, Args)]
pub struct DownArgs {
    /// State directory, where no agent runs that knows it [default: /var/lib/netpath/<socket's name>]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Pin directory, where no agent runs that knows it [default: /sys/fs/bpf/netpath/<socket's name>]
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_after_the_command_belongs_to_it() {
        let Command::Run(args) =
            parse("run -d --name web -p 8080:80 -p 53:53/udp -h host nginx -g daemon --name x").unwrap()
        else {
            panic!("not run");
        };
        assert_eq!(args.command, ["nginx", "-g", "daemon", "--name", "x"]);
        assert_eq!((args.detach, args.name.as_deref(), args.hostname.as_deref()), (true, Some("web"), Some("host")));
        assert_eq!(args.endpoint.publish, ["8080:80", "53:53/udp"]);
        let Command::Run(args) = parse("run -- sh -c true").unwrap() else { panic!("not run") };
        assert_eq!(args.command, ["sh", "-c", "true"]);
        assert!(parse("run -d").is_err());
    }

    #[test]
    fn files_and_environment_of_a_container_can_be_chosen() {
        let line = "run --add-host a:192.0.2.1 --add-host up:host-gateway --dns 192.0.2.53 --dns ::1 --dns-search . \
                    --dns-opt ndots:1 -e A=b=c -e HOME x";
        let Command::Run(args) = parse(line).unwrap() else { panic!("not run") };
        assert_eq!((args.names.add_host.len(), args.names.dns.len()), (2, 2));
        let variables: Vec<_> = args.env.iter().map(|variable| (&*variable.name, variable.value.as_deref())).collect();
        assert_eq!(variables, [("A", Some("b=c")), ("HOME", None)]);
        for (bad, expected) in [
            ("--add-host a", r#"bad format for add-host: "a""#),
            ("--add-host a:b", r#"invalid IP address in add-host: "b""#),
            ("--dns-search 1.2", "1.2 is not a valid domain"),
            ("-e =x", "invalid environment variable: =x"),
            ("--dns host", "invalid IP address syntax"),
        ] {
            let error = parse(&format!("run {bad} true")).unwrap_err().to_string();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }

    #[test]
    fn attach_wants_exactly_one_namespace() {
        assert!(parse("attach web --pid 1").is_ok());
        assert!(parse("attach web --netns /run/netns/x -p 80").is_ok());
        assert!(parse("attach web").is_err());
        assert!(parse("attach web --pid 1 --netns /run/netns/x").is_err());
    }

    #[test]
    fn the_socket_may_stand_anywhere() {
        for line in ["netpath --socket /x.sock ps", "netpath ps --socket /x.sock"] {
            assert_eq!(Cli::parse_from(line.split(' ')).socket, PathBuf::from("/x.sock"));
        }
    }

    pub(crate) fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = ["netpath"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()));
        Cli::try_parse_from(words).map(|cli| cli.command)
    }
}
