//! The bridge: found or created, with an address that nothing on the host overlaps.

use anyhow::{Context, Result, bail, ensure};
use ipnet::{IpNet, Ipv4Net};

use crate::externals::Interfaces;
use crate::host;
use crate::ipam::{self, InUse};
use crate::netlink::{Link, Netlink};
use crate::options::Options;
use crate::state;

/// Alias of a bridge that the agent made: it says so when the state is lost.
pub const ALIAS: &str = "netpath";

/// The bridge as it is once [`ensure`] has returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub addr: Ipv4Net,
    /// Made by the agent, in this run or an earlier one.
    pub created: bool,
    /// Made by this very call.
    pub fresh: bool,
}

/// Finds the bridge that the options name, or creates it, and sets it up. `known` is what an earlier run
/// left in the state. Creates nothing if it fails.
///
/// # Errors
/// If the interface is no bridge, its address does not fit the options, or no subnet is free.
pub async fn ensure(
    netlink: &Netlink,
    options: &Options,
    interfaces: &Interfaces,
    known: Option<&state::Network>,
    mtu: u32,
) -> Result<Bridge> {
    let known = known.filter(|network| network.bridge == options.bridge);
    let Some(link) = interfaces.links.iter().find(|link| link.ifname == options.bridge) else {
        return create(netlink, options, interfaces, known, mtu).await;
    };
    ensure!(link.bridge, "interface {} exists and is no bridge; choose another name with --bridge", link.ifname);
    let created = known.is_some_and(|network| network.created) || link.alias.as_deref() == Some(ALIAS);
    let addr = match address_of(link, options, interfaces)? {
        Some(addr) => addr,
        None if options.bip.is_some() || created => {
            let addr = choose(options, interfaces, known)?;
            netlink.add_address(link.ifindex, addr.into()).await?;
            addr
        }
        None => bail!("bridge {} has no IPv4 address; give it one, or choose one with --bip", link.ifname),
    };
    netlink.set_up(link.ifindex).await?;
    if link.mtu != mtu && (created || options.mtu.is_some()) {
        netlink.set_mtu(link.ifindex, mtu).await?;
    }
    Ok(Bridge { ifindex: link.ifindex, mac: link.mac, addr, created, fresh: false })
}

/// The address of an existing bridge that the network uses.
fn address_of(link: &Link, options: &Options, interfaces: &Interfaces) -> Result<Option<Ipv4Net>> {
    let mut addrs: Vec<_> = interfaces.addresses.iter().filter(|a| a.ifindex == link.ifindex).collect();
    addrs.sort_by_key(|address| (!address.universe, address.secondary));
    let addrs: Vec<Ipv4Net> = addrs.into_iter().filter_map(|address| v4(address.net)).collect();
    let Some(bip) = options.bip else {
        return Ok(addrs.first().copied());
    };
    match addrs.first() {
        Some(_) if addrs.contains(&bip) => Ok(Some(bip)),
        Some(other) => {
            bail!("bridge {} has address {other}, not --bip {bip}; remove one or the other", link.ifname)
        }
        None => Ok(None),
    }
}

async fn create(
    netlink: &Netlink,
    options: &Options,
    interfaces: &Interfaces,
    known: Option<&state::Network>,
    mtu: u32,
) -> Result<Bridge> {
    let addr = choose(options, interfaces, known)?;
    let mac = host::random_mac()?;
    netlink.create_bridge(&options.bridge, mac).await?;
    let link = netlink.link(&options.bridge).await?.context("the new bridge has vanished")?;
    let configured = async {
        netlink.set_alias(link.ifindex, ALIAS).await?;
        // Given at creation it would not stay: the bridge would go on taking its ports' smallest MTU.
        netlink.set_mtu(link.ifindex, mtu).await?;
        netlink.add_address(link.ifindex, addr.into()).await?;
        netlink.set_up(link.ifindex).await
    };
    if let Err(error) = configured.await {
        netlink.delete_link(link.ifindex).await?;
        return Err(error).with_context(|| format!("set up bridge {}", options.bridge));
    }
    tracing::info!("created bridge {} with {addr}", options.bridge);
    Ok(Bridge { ifindex: link.ifindex, mac, addr, created: true, fresh: true })
}

/// The address for a bridge that has none: `--bip`, the one it had, or the first pool that is free.
fn choose(options: &Options, interfaces: &Interfaces, known: Option<&state::Network>) -> Result<Ipv4Net> {
    let mut in_use = in_use(interfaces, &options.bridge);
    if let Some(bip) = options.bip {
        ipam::check_overlap(bip, &in_use).context("use the subnet of --bip")?;
        return Ok(bip);
    }
    if let Some(known) = known
        && ipam::check_overlap(known.bridge_addr, &in_use).is_ok()
    {
        return Ok(known.bridge_addr);
    }
    let nameserver = |addr| InUse { subnet: Ipv4Net::from(addr), by: format!("nameserver {addr}") };
    in_use.extend(host::nameservers().into_iter().map(nameserver));
    let picked = ipam::pick_pool(&in_use).context("choose a subnet for the bridge")?;
    for skipped in &picked.skipped {
        tracing::info!("subnet {} is skipped: it overlaps {}", skipped.pool, skipped.by);
    }
    let gateway = ipam::Allocator::new(picked.pool, None)?.pick_gateway()?;
    Ok(Ipv4Net::new(gateway, picked.pool.prefix_len())?)
}

/// Subnets that the host uses elsewhere than on the bridge.
fn in_use(interfaces: &Interfaces, bridge: &str) -> Vec<InUse> {
    let name = |ifindex: u32| {
        let link = interfaces.links.iter().find(|link| link.ifindex == ifindex);
        link.map_or_else(|| format!("interface {ifindex}"), |link| link.ifname.clone())
    };
    let routes = interfaces.routes.iter().filter(|route| route.dst.prefix_len() > 0).filter_map(|route| {
        let ifname = route.ifindex.map_or_else(|| "none".to_owned(), name);
        Some((ifname.clone(), InUse { subnet: v4(route.dst)?, by: format!("route {} dev {ifname}", route.dst) }))
    });
    let addresses = interfaces.addresses.iter().filter_map(|address| {
        let ifname = name(address.ifindex);
        let by = format!("address {} of {ifname}", address.net);
        Some((ifname, InUse { subnet: v4(address.net)?, by }))
    });
    routes.chain(addresses).filter(|(ifname, _)| ifname != bridge).map(|(_, in_use)| in_use).collect()
}

fn v4(net: IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(net),
        IpNet::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::netlink::{Address, Route};
    use crate::options::AgentFlags;

    #[test]
    fn a_chosen_subnet_that_overlaps_a_route_is_refused_by_name() {
        let options = options(Some("10.1.0.1/16"));
        let error = format!("{:#}", choose(&options, &interfaces(), None).unwrap_err());
        assert!(error.contains("10.1.2.0/24 dev eth0"), "{error}");
    }

    #[test]
    fn the_earlier_subnet_is_kept_while_it_is_free() {
        let known = |addr: &str| state::Network {
            bridge: "netpath0".to_owned(),
            created: true,
            bridge_addr: addr.parse().unwrap(),
        };
        let chosen = |addr| choose(&options(None), &interfaces(), Some(&known(addr))).unwrap().to_string();
        assert_eq!(chosen("172.25.0.1/16"), "172.25.0.1/16");
        assert_ne!(chosen("10.1.0.1/16"), "10.1.0.1/16");
    }

    #[test]
    fn what_the_bridge_itself_uses_overlaps_nothing() {
        assert!(in_use(&interfaces(), "netpath0").iter().all(|used| !used.by.contains("netpath0")));
        assert_eq!(in_use(&interfaces(), "netpath0").len(), 2);
    }

    fn options(bip: Option<&str>) -> Options {
        let flags = AgentFlags { bip: bip.map(|text| text.parse().unwrap()), ..AgentFlags::default() };
        Options::resolve(flags, Path::new("/run/netpath/netpath.sock")).unwrap()
    }

    fn interfaces() -> Interfaces {
        let link = |ifindex, ifname: &str| Link {
            ifindex,
            ifname: ifname.to_owned(),
            mac: [0; 6],
            mtu: 1500,
            up: true,
            loopback: false,
            ethernet: true,
            bridge: ifindex == 2,
            alias: None,
            master: None,
        };
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let address =
            |ifindex, text| Address { ifindex, net: net(text), universe: true, secondary: false, usable: true };
        let route = |ifindex, text| Route { dst: net(text), gateway: None, ifindex: Some(ifindex) };
        Interfaces {
            links: vec![link(2, "netpath0"), link(3, "eth0")],
            addresses: vec![address(2, "10.9.0.1/16"), address(3, "10.1.2.3/24")],
            routes: vec![route(2, "10.9.0.0/16"), route(3, "10.1.2.0/24"), route(3, "0.0.0.0/0")],
        }
    }
}
