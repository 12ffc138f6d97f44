//! Whether Docker Engine itself translates: its options as far as they show. Pure but for two looks at the kernel.

use std::fs;

use bollard::models::Network;

use super::translate;
use crate::netlink::nftables;

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

/// The options that the Engine should have been started with and, as it looks, was not.
pub(super) fn missing_options(networks: &[Network]) -> Vec<&'static str> {
    let default = networks.iter().find(|network| translate::is_default(network));
    let masquerade = default.and_then(|n| translate::option(n, "com.docker.network.bridge.enable_ip_masquerade"));
    let localnet = |network: &Network| {
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", translate::bridge(network));
        fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    let has_chain = |family| nftables::chains_called("DOCKER").is_ok_and(|chains| chains.contains(&family));
    missing(Signs {
        masquerades: masquerade == Some("true"),
        chains: (has_chain("ip"), has_chain("ip6")),
        is_proxied: default.and_then(localnet).is_some_and(|value| value == "0"),
    })
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
