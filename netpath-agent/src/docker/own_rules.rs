//! Whether Docker Engine itself translates: its options as far as they show. Pure but for two looks at the kernel.

use std::fs;

use bollard::models::Network;

use super::{rules, translate};
use crate::ip_tables;
use crate::netlink::nftables;

/// Of Docker's published ports, in a table `nat`.
const CHAIN: &str = "DOCKER";

/// The three options, and whether each is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    /// There is a chain of Docker's for IPv4, and one for IPv6.
    chains: (bool, bool),
    /// Sockets of the host do not reach containers from loopback addresses: the proxy is to do it.
    is_proxied: bool,
}

/// The options that the Engine should have been started with and, as it looks, was not.
///
/// By what is there alone. That a network says it masquerades means nothing: one that lived through dockerd's restart says what
/// the dockerd before it did. Nor does dockerd's file, which whoever wants to may edit while dockerd goes on as it was started.
/// `beside_rules`: its rules are about to be removed, and do not count.
pub(super) fn missing_options(networks: &[Network], beside_rules: bool) -> Vec<&'static str> {
    let is_proxied = is_proxied(networks);
    if beside_rules {
        return missing(Signs { is_proxied, ..Signs::default() });
    }
    let chains = nftables::chains().unwrap_or_default();
    let is_dockers =
        |chain: &nftables::Chain| rules::is_in_own_table(chain) || (&*chain.table, &*chain.name) == ("nat", CHAIN);
    let legacy = ip_tables::tables_with_chain(CHAIN).unwrap_or_default();
    let has_chain = |family| {
        chains.iter().any(|chain| chain.family == family && is_dockers(chain))
            || legacy.iter().any(|table| *table == format!("{family} nat"))
    };
    missing(Signs { chains: (has_chain("ip"), has_chain("ip6")), is_proxied })
}

/// Whether this very dockerd has proxies.
pub(super) fn is_proxied(networks: &[Network]) -> bool {
    let default = networks.iter().find(|network| translate::is_default(network));
    let localnet = |network: &Network| {
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", translate::bridge(network));
        fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    default.and_then(localnet).is_some_and(|value| value == "0")
}

fn missing(signs: Signs) -> Vec<&'static str> {
    let options = [
        (signs.chains.0, "--iptables=false"),
        (signs.chains.1, "--ip6tables=false"),
        (signs.is_proxied, "--userland-proxy=false"),
    ];
    options.iter().filter(|(is_missing, _)| *is_missing).map(|(_, option)| *option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_does_itself_says_which_option_is_missing() {
        assert_eq!(missing(Signs::default()), Vec::<&str>::new());
        assert_eq!(missing(Signs { chains: (true, false), ..Signs::default() }), ["--iptables=false"]);
        let all = Signs { chains: (true, true), is_proxied: true };
        assert_eq!(missing(all), ["--iptables=false", "--ip6tables=false", "--userland-proxy=false"]);
    }
}
