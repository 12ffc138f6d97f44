//! Docker's containers whose ports are open at their own addresses. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::api::{GatewayMode, NetworkCreate};

/// The families in which a container is routed in all of its networks: there no host port is taken, whatever was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Routed {
    v4: bool,
    v6: bool,
}

impl Routed {
    /// Of a container in these networks.
    pub(super) fn of<'a>(networks: impl Iterator<Item = &'a NetworkCreate>) -> Self {
        let open: Vec<_> = networks.filter(|network| !network.internal).collect();
        let all = |mode: fn(&NetworkCreate) -> GatewayMode| {
            !open.is_empty() && open.iter().all(|network| mode(network) == GatewayMode::Routed)
        };
        Self { v4: all(|network| network.gateway_mode_ipv4), v6: all(|network| network.gateway_mode_ipv6) }
    }

    /// Every address of the family of `addr`, if it is routed.
    pub(super) fn every(self, addr: IpAddr) -> Option<IpAddr> {
        match addr {
            IpAddr::V4(_) => self.v4.then_some(Ipv4Addr::UNSPECIFIED.into()),
            IpAddr::V6(_) => self.v6.then_some(Ipv6Addr::UNSPECIFIED.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_that_translates_is_enough_for_a_host_port() {
        let network = |mode, internal| NetworkCreate { gateway_mode_ipv6: mode, internal, ..NetworkCreate::default() };
        let (routed, nat) = (network(GatewayMode::Routed, false), network(GatewayMode::Nat, false));
        let internal = network(GatewayMode::Nat, true);
        let v6 = |networks: &[&NetworkCreate]| Routed::of(networks.iter().copied()).every(Ipv6Addr::LOCALHOST.into());
        assert_eq!(v6(&[&routed, &internal]), Some(Ipv6Addr::UNSPECIFIED.into()));
        assert_eq!(v6(&[&routed, &nat]), None);
        assert_eq!(v6(&[&internal]), None);
        assert_eq!(Routed::of([&routed].into_iter()).every(Ipv4Addr::LOCALHOST.into()), None);
    }
}
