//! The command line of `netpath conntrack`: clap types only.

use std::net::IpAddr;

use clap::Args;

#[derive(Debug, Args)]
pub struct ConntrackArgs {
    #[command(flatten)]
    pub action: ConntrackAction,

    #[command(flatten)]
    pub filter: ConntrackFilter,

    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

/// What to do with the flows; `--list` if nothing is said.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct ConntrackAction {
    /// Lists the flows that match
    #[arg(short = 'L', long)]
    pub list: bool,

    /// Deletes the flows that match
    #[arg(short = 'D', long, requires = "ConntrackFilter")]
    pub delete: bool,

    /// Deletes every flow
    #[arg(short = 'F', long, conflicts_with = "ConntrackFilter")]
    pub flush: bool,

    /// Counts the flows that match
    #[arg(short = 'C', long)]
    pub count: bool,
}

/// Which flows; addresses and ports are those of the first packet, as the container sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[group(multiple = true)]
pub struct ConntrackFilter {
    /// Protocol
    #[arg(short, long, value_parser = ["tcp", "udp", "icmp", "icmpv6", "sctp"], ignore_case = true)]
    pub proto: Option<String>,

    /// Source address
    #[arg(short, long, value_name = "ADDR")]
    pub src: Option<IpAddr>,

    /// Destination address
    #[arg(short, long, value_name = "ADDR")]
    pub dst: Option<IpAddr>,

    /// Source port
    #[arg(long, value_name = "PORT")]
    pub sport: Option<u16>,

    /// Destination port
    #[arg(long, value_name = "PORT")]
    pub dport: Option<u16>,

    /// Container
    #[arg(long)]
    pub name: Option<String>,
}

#[cfg(test)]
mod tests {
    use crate::cli::tests::parse;

    #[test]
    fn conntrack_takes_one_action_and_deletes_by_filter_only() {
        for good in ["", "-L -p tcp", "-D --name web", "-D -s 10.0.0.1 --dport 80", "-F", "-C", "--json"] {
            assert!(parse(&format!("conntrack {good}")).is_ok(), "{good}");
        }
        for bad in ["-L -D --name web", "-F -C", "-D", "-F --name web", "--src host", "--sport 70000"] {
            assert!(parse(&format!("conntrack {bad}")).is_err(), "{bad}");
        }
    }
}
