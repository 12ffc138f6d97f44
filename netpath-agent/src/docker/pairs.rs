//! Which port of a bridge leads to which container: the kernel says what the other end of a veth pair is, wherever that end
//! is, and Docker which MAC address it has. So a container is known before it has a process.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::netlink::{Link, Netlink};
use crate::state::Mac;

/// A veth pair with one end in a bridge.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub port: Link,
    pub inside: Link,
    /// `inside` is in a namespace of its own and has been given its name there.
    pub is_named: bool,
}

/// The pairs of some bridges at one moment.
#[derive(Debug, Default)]
pub(super) struct Pairs(Vec<Pair>);

impl Pairs {
    /// Reads those of `bridges`, but for the ports in `without`.
    ///
    /// # Errors
    /// If the kernel refuses to list interfaces.
    pub(super) async fn read(netlink: &Netlink, bridges: &BTreeSet<u32>, without: &BTreeSet<u32>) -> Result<Self> {
        let links = netlink.links().await?;
        let is_asked = |link: &&Link| {
            link.master.is_some_and(|master| bridges.contains(&master)) && !without.contains(&link.ifindex)
        };
        let mut pairs = Vec::new();
        for port in links.iter().filter(is_asked) {
            let inside = match port.peer_netns {
                Some(_) => netlink.peer(port).await?,
                None => links.iter().find(|link| Some(link.ifindex) == port.peer).cloned(),
            };
            let Some(inside) = inside else { continue };
            // Docker makes the pair on the host, moves one end into the container, and gives that its name there.
            let is_named = port.peer_netns.is_some() && !inside.ifname.starts_with("veth");
            pairs.push(Pair { port: port.clone(), inside, is_named });
        }
        Ok(Self(pairs))
    }

    /// The pair that leads from `bridge` to the interface with this MAC address.
    ///
    /// # Errors
    /// If there are several.
    pub(super) fn find(&self, bridge: u32, mac: Mac) -> Result<Option<&Pair>> {
        let mut found = self.0.iter().filter(|pair| pair.port.master == Some(bridge) && pair.inside.mac == mac.0);
        let first = found.next();
        if let (Some(one), Some(other)) = (first, found.next()) {
            bail!("{} and {} both lead to MAC address {mac}", one.port.ifname, other.port.ifname);
        }
        Ok(first)
    }

    /// The name inside that the pair of `port` has by now.
    pub(super) fn name_inside(&self, port: u32) -> Option<&str> {
        let pair = self.0.iter().find(|pair| pair.port.ifindex == port && pair.is_named)?;
        Some(&pair.inside.ifname)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_found_by_bridge_and_mac_address() {
        let pairs = Pairs(vec![pair(10, 1, 7), pair(11, 2, 7), pair(12, 1, 8)]);
        let found = |bridge, mac| pairs.find(bridge, Mac([2, 0, 0, 0, 0, mac])).unwrap().map(|pair| pair.port.ifindex);
        assert_eq!((found(1, 7), found(2, 7), found(1, 8), found(2, 8)), (Some(10), Some(11), Some(12), None));
    }

    #[test]
    fn two_pairs_to_one_mac_address_are_nobodys() {
        let pairs = Pairs(vec![pair(10, 1, 7), pair(11, 1, 7)]);
        let error = pairs.find(1, Mac([2, 0, 0, 0, 0, 7])).unwrap_err().to_string();
        assert_eq!(error, "veth10 and veth11 both lead to MAC address 02:00:00:00:00:07");
    }

    fn pair(port: u32, bridge: u32, mac: u8) -> Pair {
        let link = |ifindex, master, mac| Link {
            ifindex,
            ifname: format!("veth{ifindex}"),
            mac: [2, 0, 0, 0, 0, mac],
            mtu: 1500,
            up: true,
            loopback: false,
            ethernet: true,
            bridge: false,
            kind: Some("veth".to_owned()),
            xdp: None,
            alias: None,
            master,
            peer: None,
            peer_netns: None,
        };
        Pair { port: link(port, Some(bridge), 99), inside: link(port + 100, None, mac), is_named: false }
    }
}
