//! Whether Docker Engine itself translates: its options as far as they show. Pure but for two looks at the kernel.

use std::fs;
use std::path::Path;

use bollard::models::Network;

use super::daemon::{Config, Daemon};
use super::translate;
use crate::ip_tables;
use crate::netlink::nftables;

/// Of Docker's published ports, in a table `nat`.
pub(super) const CHAIN: &str = "DOCKER";
/// Where Docker writes its rules when it does so without iptables, since 29.
pub(super) const NFTABLES_TABLE: &str = "docker-bridges";

/// The three options, and whether each is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signs {
    /// Docker says that it masquerades, which it does by rules.
    masquerades: bool,
    /// There is a chain of Docker's for IPv4, and one for IPv6.
    chains: (bool, bool),
    /// Sockets of the host do not reach containers from loopback addresses: the proxy is to do it.
    is_proxied: bool,
}

/// The options that the Engine behind `socket` should have been started with and, as it looks, was not.
pub(super) fn missing_options(socket: &Path, networks: &[Network]) -> Vec<&'static str> {
    let default = networks.iter().find(|network| translate::is_default(network));
    let masquerade = default.and_then(|n| translate::option(n, "com.docker.network.bridge.enable_ip_masquerade"));
    let chains = nftables::chains().unwrap_or_default();
    let is_dockers =
        |chain: &nftables::Chain| chain.table == NFTABLES_TABLE || (&*chain.table, &*chain.name) == ("nat", CHAIN);
    let legacy = ip_tables::tables_with_chain(CHAIN).unwrap_or_default();
    let has_chain = |family| {
        chains.iter().any(|chain| chain.family == family && is_dockers(chain))
            || legacy.iter().any(|table| *table == format!("{family} nat"))
    };
    missing(Signs {
        // A network that lived through dockerd's restart says what the dockerd before it did.
        masquerades: masquerade == Some("true") && !is_told_to_write_none(socket),
        chains: (has_chain("ip"), has_chain("ip6")),
        is_proxied: is_proxied(networks),
    })
}

/// Whether dockerd's command line or file tells it to write no rules; `false` too if its process is not to be found.
fn is_told_to_write_none(socket: &Path) -> bool {
    let Ok(daemon) = Daemon::behind(socket) else { return false };
    let Ok(config) = Config::read(&daemon.config_path()) else { return false };
    daemon.has_read(&config) && !daemon.setting(&config, "iptables", true).0
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
        (signs.masquerades || signs.chains.0, "--iptables=false"),
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
        assert_eq!(missing(Signs { masquerades: true, ..Signs::default() }), ["--iptables=false"]);
        let all = Signs { masquerades: false, chains: (true, true), is_proxied: true };
        assert_eq!(missing(all), ["--iptables=false", "--ip6tables=false", "--userland-proxy=false"]);
    }
}
