//! Which subnets a network gets: asked for, as it had, or the first pool that is free. Reads no more than the
//! host's name servers and identity.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

use crate::api::{GatewayMode, NetworkCreate, Subnet};
use crate::bridge;
use crate::externals::Interfaces;
use crate::host;
use crate::ipam::{self, AddressPool, Allocator, InUse, Picked, Skipped, Use};
use crate::netlink::Link;
use crate::options::Options;
use crate::state::{self, State};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    fn has(self, addr: IpAddr) -> bool {
        addr.is_ipv4() == (self == Self::V4)
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// What was said about one family of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    /// The bridge's address and the network's prefix.
    bridge: Option<IpNet>,
    subnet: Option<IpNet>,
    ip_range: Option<IpNet>,
    gateway: Option<IpAddr>,
}

/// The subnets of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnets {
    pub v4: Option<Subnet>,
    pub v6: Option<Subnet>,
    /// Pools before the ones they come from that something on the host was in the way of. A pool that another network
    /// has is nothing to speak of.
    pub skipped: Vec<Skipped>,
}

/// Where subnets may lie.
#[derive(Clone, Copy)]
struct Space<'a> {
    in_use: &'a [InUse],
    pools: &'a [AddressPool],
}

impl Space<'_> {
    fn only(&self, is_wanted: impl Fn(Use) -> bool) -> Vec<InUse> {
        self.in_use.iter().filter(|used| is_wanted(used.kind)).cloned().collect()
    }
}

/// The subnets of the default network, by the options, its bridge if there is one, and what it had.
///
/// # Errors
/// If options and bridge contradict each other, or no subnet is free.
pub fn of_default(
    options: &Options,
    interfaces: &Interfaces,
    known: Option<&state::Network>,
    state: &State,
) -> Result<Subnets> {
    let known = known.filter(|network| network.bridge.as_ref() == Some(&options.bridge));
    let link = interfaces.links.iter().find(|link| link.ifname == options.bridge);
    let is_ours = known.is_some_and(|network| network.created)
        || link.is_none_or(|link| link.alias.as_deref().is_some_and(|alias| bridge::name_in_alias(alias).is_some()));
    let in_use = in_use(interfaces, &options.bridge, state);

    let asked = Asked {
        bridge: present(link, IpFamily::V4, options.bip.map(IpNet::V4), interfaces)?,
        subnet: None,
        ip_range: options.fixed_cidr.map(IpNet::V4),
        gateway: options.default_gateway.map(IpAddr::V4),
    };
    ensure!(
        asked.bridge.is_some() || is_ours,
        "bridge {} has no IPv4 address; give it one, or choose one with --bip",
        options.bridge
    );
    let had = known.and_then(|network| network.v4);
    let space = Space { in_use: &in_use, pools: &options.address_pools };
    let mut skipped = Vec::new();
    let v4 = Some(choose(IpFamily::V4, asked, had, space, "--bip", &mut skipped)?);
    if !options.ipv6 {
        return Ok(Subnets { v4, v6: None, skipped });
    }
    host::require_ipv6().context("use --ipv6")?;
    let asked = Asked {
        bridge: present(link, IpFamily::V6, options.bip6.map(IpNet::V6), interfaces)?,
        // As with Docker, the range says which subnet it is where nothing else does.
        subnet: options.fixed_cidr_v6.map(IpNet::V6),
        ip_range: options.fixed_cidr_v6.map(IpNet::V6),
        gateway: options.default_gateway_v6.map(IpAddr::V6),
    };
    let had = known.and_then(|network| network.v6);
    let v6 = Some(choose(IpFamily::V6, asked, had, space, "--bip6", &mut skipped)?);
    Ok(Subnets { v4, v6, skipped })
}

/// The subnets of a new network.
///
/// # Errors
/// If the request contradicts itself or a network that there is, or no subnet is free.
pub fn of_new(
    request: &NetworkCreate,
    bridge: &str,
    interfaces: &Interfaces,
    state: &State,
    pools: &[AddressPool],
) -> Result<Subnets> {
    let in_use = in_use(interfaces, bridge, state);
    let space = Space { in_use: &in_use, pools };
    let link = interfaces.links.iter().find(|link| link.ifname == bridge);
    let has = |family| present(link, family, None, interfaces);
    let mut skipped = Vec::new();
    let v4 = Some(of_family(IpFamily::V4, request, has(IpFamily::V4)?, space, &mut skipped)?);
    let wants6 = request.ipv6 || request.subnets.iter().any(|subnet| subnet.addr().is_ipv6());
    if !wants6 {
        let stray = request.gateways.iter().copied().find(|addr| addr.is_ipv6());
        ensure!(stray.is_none(), "no matching subnet for gateway {}", stray.unwrap_or(IpAddr::from([0; 16])));
        return Ok(Subnets { v4, v6: None, skipped });
    }
    host::require_ipv6().context("cannot enable IPv6 on the network")?;
    let v6 = Some(of_family(IpFamily::V6, request, has(IpFamily::V6)?, space, &mut skipped)?);
    Ok(Subnets { v4, v6, skipped })
}

/// The subnets of a network on a bridge that somebody else made: as the request says, else as the bridge's addresses do.
/// Without a bridge, `link`, only the request says them.
///
/// # Errors
/// If there are none, they contradict each other, or another network has them.
pub fn of_adopted(
    request: &NetworkCreate,
    link: Option<&Link>,
    interfaces: &Interfaces,
    state: &State,
) -> Result<Subnets> {
    let what = link.map_or_else(|| format!("network {}", request.name), |link| format!("bridge {}", link.ifname));
    let in_use = in_use(interfaces, link.map_or("", |link| &link.ifname), state);
    let networks = Space { in_use: &in_use, pools: &[] }.only(|kind| kind == Use::Network);
    let of = |family, mode| -> Result<Option<Subnet>> {
        let has = present(link, family, None, interfaces)?;
        let asked = only(&request.subnets, |net| family.has(net.addr()), family, "subnet")?;
        let gateway = only(&request.gateways, |addr| family.has(*addr), family, "gateway")?;
        let subnet = asked.or(has.filter(|_| request.subnets.is_empty())).map(|net| net.trunc());
        if let Some(gateway) = gateway.filter(|addr| subnet.is_none_or(|net| !net.contains(addr))) {
            bail!("no matching subnet for gateway {gateway}");
        }
        let Some(subnet) = subnet else { return Ok(None) };
        ipam::check_overlap(subnet, &networks).with_context(|| format!("adopt {what}"))?;
        let bridge = gateway.or(has.map(|net| net.addr()).filter(|addr| subnet.contains(addr)));
        let bridge = bridge.filter(|_| mode != GatewayMode::Isolated);
        Ok(Some(Subnet { subnet, ip_range: None, bridge, gateway: bridge.filter(|_| !request.internal) }))
    };
    let v4 = of(IpFamily::V4, request.gateway_mode_ipv4)?;
    let v6 = of(IpFamily::V6, request.gateway_mode_ipv6)?;
    ensure!(v4.is_some() || v6.is_some(), "{what} has no address; say which subnet it serves");
    if v6.is_some() {
        host::require_ipv6().context("cannot enable IPv6 on the network")?;
    }
    Ok(Subnets { v4, v6, skipped: Vec::new() })
}

/// `has` is the address of a bridge that is there already: it says the subnet where nothing else does.
fn of_family(
    family: IpFamily,
    request: &NetworkCreate,
    has: Option<IpNet>,
    space: Space<'_>,
    skipped: &mut Vec<Skipped>,
) -> Result<Subnet> {
    let mut asked = Asked {
        bridge: None,
        subnet: only(&request.subnets, |net| family.has(net.addr()), family, "subnet")?,
        ip_range: only(&request.ip_ranges, |net| family.has(net.addr()), family, "IP range")?,
        gateway: only(&request.gateways, |addr| family.has(*addr), family, "gateway")?,
    };
    if asked.subnet.is_none() {
        if let Some(gateway) = asked.gateway {
            bail!("no matching subnet for gateway {gateway}");
        }
        if let Some(range) = asked.ip_range {
            bail!("no matching subnet for range {range}");
        }
        asked.bridge = has;
    }
    let mut subnet = choose(family, asked, None, space, "--subnet", skipped)?;
    // What was asked for as gateway is the bridge's own address, as with Docker.
    let mode = if family == IpFamily::V4 { request.gateway_mode_ipv4 } else { request.gateway_mode_ipv6 };
    if let Some(gateway) = asked.gateway {
        subnet.bridge = Some(gateway);
    }
    if mode == GatewayMode::Isolated {
        subnet.bridge = None;
    }
    if request.internal || mode == GatewayMode::Isolated {
        subnet.gateway = None;
    }
    Ok(subnet)
}

fn only<T: Copy + std::fmt::Display>(
    all: &[T],
    is_wanted: impl Fn(&T) -> bool,
    family: IpFamily,
    what: &str,
) -> Result<Option<T>> {
    let mut wanted = all.iter().copied().filter(is_wanted);
    let first = wanted.next();
    if let Some(second) = wanted.next() {
        bail!("more than one {} {what}: {second}; a bridge network has one", family.name());
    }
    Ok(first)
}

/// The address that a bridge has, which must be the one asked for.
fn present(
    link: Option<&Link>,
    family: IpFamily,
    asked: Option<IpNet>,
    interfaces: &Interfaces,
) -> Result<Option<IpNet>> {
    let Some(link) = link else { return Ok(asked) };
    let is_link_local = |addr: IpAddr| matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    let is_wanted = |net: IpNet| family.has(net.addr()) && !is_link_local(net.addr());
    let mut addrs: Vec<_> = interfaces.addresses.iter().filter(|a| a.ifindex == link.ifindex).collect();
    addrs.retain(|address| is_wanted(address.net));
    addrs.sort_by_key(|address| (!address.universe, address.secondary));
    match (asked, addrs.first()) {
        (Some(asked), Some(_)) if addrs.iter().any(|address| address.net == asked) => Ok(Some(asked)),
        (Some(asked), Some(other)) => {
            bail!("bridge {} has address {}, not {asked} as asked; remove one or the other", link.ifname, other.net)
        }
        (asked, other) => Ok(asked.or(other.map(|address| address.net))),
    }
}

/// The subnet: asked for, had before, or the first pool that is free.
fn choose(
    family: IpFamily,
    asked: Asked,
    had: Option<Subnet>,
    space: Space<'_>,
    option: &str,
    skipped: &mut Vec<Skipped>,
) -> Result<Subnet> {
    let asked_for = asked.bridge.or(asked.subnet);
    let had = had.filter(|had| asked_for.is_none() && ipam::check_overlap(had.subnet, space.in_use).is_ok());
    let subnet = match (asked_for, had) {
        (Some(net), _) => {
            // As with Docker, in spite of the host's routes: a wide one may lead elsewhere.
            let in_use = space.only(|kind| matches!(kind, Use::Network | Use::Address));
            ipam::check_overlap(net, &in_use).with_context(|| format!("use the subnet of {option}"))?;
            net.trunc()
        }
        (None, Some(had)) => had.subnet,
        (None, None) => pick(family, space, skipped)?,
    };
    let allocator = Allocator::new(subnet, asked.ip_range)?;
    let bridge = match (asked.bridge, had.and_then(|had| had.bridge)) {
        (Some(net), _) => net.addr(),
        (None, Some(addr)) => addr,
        (None, None) => allocator.pick_gateway()?,
    };
    if let Some(gateway) = asked.gateway {
        allocator.clone().reserve(gateway).with_context(|| format!("no matching subnet for gateway {gateway}"))?;
    }
    Ok(Subnet {
        subnet,
        ip_range: asked.ip_range,
        bridge: Some(bridge),
        gateway: Some(asked.gateway.unwrap_or(bridge)),
    })
}

/// The first pool that is free. Where every pool has a route through some gateway, as with a router that has all private
/// networks behind it, such routes do not count.
fn pick(family: IpFamily, space: Space<'_>, skipped: &mut Vec<Skipped>) -> Result<IpNet> {
    let nameserver =
        |addr: IpAddr| InUse { subnet: addr.into(), kind: Use::NameServer, by: format!("nameserver {addr}") };
    let nameservers: Vec<_> = host::nameservers().into_iter().map(nameserver).collect();
    let all = [space.in_use, &nameservers].concat();
    let picked = match pick_beside(family, space.pools, &all)? {
        Err(error) => {
            let near = [space.only(|kind| kind != Use::Via), nameservers].concat();
            pick_beside(family, space.pools, &near)?.map_err(|_| error)
        }
        picked => picked,
    };
    let picked = picked.context("choose a subnet for the bridge")?;
    let is_network = |by: &str| space.in_use.iter().any(|used| used.kind == Use::Network && used.by == by);
    for reason in picked.skipped.into_iter().filter(|reason| !is_network(&reason.by)) {
        tracing::info!("skipped {reason}");
        skipped.push(reason);
    }
    Ok(picked.pool)
}

fn pick_beside(family: IpFamily, pools: &[AddressPool], in_use: &[InUse]) -> Result<Result<Picked, ipam::IpamError>> {
    let mut own = pools.iter().filter(|pool| family.has(pool.base.addr())).peekable();
    Ok(match family {
        _ if own.peek().is_some() => ipam::pick_pool(own.flat_map(|pool| pool.subnets()), in_use),
        IpFamily::V4 => ipam::pick_pool(ipam::default_pools(), in_use),
        IpFamily::V6 => ipam::pick_pool(ipam::default_pools6(host::site_id()?), in_use),
    })
}

/// Subnets that the host uses elsewhere than on the bridge: networks, routes, addresses.
fn in_use(interfaces: &Interfaces, bridge: &str, state: &State) -> Vec<InUse> {
    let name = |ifindex: u32| {
        let link = interfaces.links.iter().find(|link| link.ifindex == ifindex);
        link.map_or_else(|| format!("interface {ifindex}"), |link| link.ifname.clone())
    };
    let networks =
        state.networks.values().filter(|network| network.bridge.as_deref() != Some(bridge)).flat_map(|network| {
            let used = |subnet: &Subnet| InUse {
                subnet: subnet.subnet,
                kind: Use::Network,
                by: format!("network `{}`", network.name),
            };
            [&network.v4, &network.v6].into_iter().flatten().map(used).collect::<Vec<_>>()
        });
    let routes = interfaces.routes.iter().filter(|route| route.dst.prefix_len() > 0).map(|route| {
        let ifname = route.ifindex.map_or_else(|| "none".to_owned(), name);
        let kind = if route.gateway.is_some() { Use::Via } else { Use::OnLink };
        (ifname.clone(), InUse { subnet: route.dst, kind, by: format!("route {} dev {ifname}", route.dst) })
    });
    let addresses = interfaces.addresses.iter().map(|address| {
        let ifname = name(address.ifindex);
        let by = format!("address {} of {ifname}", address.net);
        (ifname, InUse { subnet: address.net, kind: Use::Address, by })
    });
    let on_links = routes.chain(addresses).filter(|(ifname, _)| ifname != bridge).map(|(_, in_use)| in_use);
    networks.chain(on_links).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::netlink::{Address, Route};
    use crate::options::AgentFlags;
    use crate::state::samples;

    #[test]
    fn a_chosen_subnet_that_overlaps_an_address_is_refused_by_name() {
        let error = format!("{:#}", default(Some("10.1.0.1/16"), None).unwrap_err());
        assert!(error.contains("address 10.1.2.3/24 of eth0"), "{error}");
        assert!(default(Some("10.99.0.1/16"), None).is_ok(), "a route leads there, through a gateway");
    }

    #[test]
    fn routes_through_a_gateway_are_avoided_where_that_leaves_a_pool() {
        let via = |text: &str| {
            let dst = text.parse().unwrap();
            Route { dst, gateway: Some([10, 1, 2, 1].into()), ifindex: Some(3) }
        };
        let state = State::new(String::new());
        for (routes, expected) in [
            (&["172.16.0.0/12"][..], "192.168.0.0/20"),
            (&["172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/8"], "172.17.0.0/16"),
        ] {
            let mut interfaces = interfaces();
            interfaces.routes.extend(routes.iter().map(|text| via(text)));
            let new = of_new(&NetworkCreate::default(), "br-x", &interfaces, &state, &[]).unwrap();
            assert_eq!(new.v4.unwrap().subnet.to_string(), expected);
        }
    }

    #[test]
    fn the_earlier_subnet_is_kept_while_it_is_free() {
        let known = |addr: &str, subnet: &str| {
            let subnet = Subnet {
                subnet: subnet.parse().unwrap(),
                ip_range: None,
                bridge: Some(addr.parse().unwrap()),
                gateway: Some(addr.parse().unwrap()),
            };
            state::Network { v4: Some(subnet), ..samples::network("bridge") }
        };
        let chosen = |addr, subnet| default(None, Some(&known(addr, subnet))).unwrap();
        assert_eq!(chosen("172.25.0.9", "172.25.0.0/16").bridge.unwrap().to_string(), "172.25.0.9");
        assert_eq!(chosen("10.1.0.1", "10.1.0.0/16").subnet.to_string(), "172.17.0.0/16");
    }

    #[test]
    fn a_new_network_gets_the_next_pool_and_what_it_asks_for() {
        let mut state = State::new(String::new());
        state.networks.insert(1, samples::network("bridge"));
        let new = |request: &NetworkCreate| of_new(request, "br-x", &interfaces(), &state, &[]);
        let next = new(&NetworkCreate::default()).unwrap();
        assert_eq!((next.v4.unwrap().subnet.to_string().as_str(), next.v6), ("172.18.0.0/16", None));
        assert_eq!(next.skipped, [], "that another network has the first is nothing to speak of");
        let subnets = vec!["10.50.0.0/24".parse().unwrap()];
        let gateways = vec!["10.50.0.9".parse().unwrap()];
        let asked = NetworkCreate { subnets, gateways, internal: true, ..NetworkCreate::default() };
        let v4 = new(&asked).unwrap().v4.unwrap();
        assert_eq!((v4.bridge.unwrap().to_string().as_str(), v4.gateway), ("10.50.0.9", None));
        let isolated = NetworkCreate { gateway_mode_ipv4: GatewayMode::Isolated, ..asked };
        assert_eq!(new(&isolated).unwrap().v4.unwrap().bridge, None);
    }

    #[test]
    fn a_request_that_contradicts_itself_or_a_network_is_refused() {
        let mut state = State::new(String::new());
        state.networks.insert(1, samples::network("bridge"));
        let subnets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let addrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let none = NetworkCreate::default;
        for (request, want) in [
            (NetworkCreate { subnets: subnets(&["172.17.5.0/24"]), ..none() }, "overlaps network `bridge`"),
            (NetworkCreate { subnets: subnets(&["10.1.2.0/25"]), ..none() }, "overlaps address 10.1.2.3/24 of eth0"),
            (
                NetworkCreate { subnets: subnets(&["10.50.0.0/24", "10.8.0.0/24"]), ..none() },
                "more than one IPv4 subnet",
            ),
            (NetworkCreate { gateways: addrs(&["10.9.0.1"]), ..none() }, "no matching subnet for gateway 10.9.0.1"),
            (NetworkCreate { gateways: addrs(&["fd00::1"]), ..none() }, "no matching subnet for gateway fd00::1"),
            (
                NetworkCreate { subnets: subnets(&["10.50.0.0/24"]), gateways: addrs(&["10.8.0.1"]), ..none() },
                "no matching subnet for gateway 10.8.0.1",
            ),
            (
                NetworkCreate { subnets: subnets(&["10.50.0.0/24"]), ip_ranges: subnets(&["10.8.0.0/25"]), ..none() },
                "range 10.8.0.0/25 is not in subnet 10.50.0.0/24",
            ),
        ] {
            let error = format!("{:#}", of_new(&request, "br-x", &interfaces(), &state, &[]).unwrap_err());
            assert!(error.contains(want), "{error}, want {want}");
        }
    }

    #[test]
    fn what_the_bridge_itself_uses_overlaps_nothing() {
        let used = in_use(&interfaces(), "netpath0", &State::new(String::new()));
        assert!(used.iter().all(|used| !used.by.contains("netpath0")));
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn a_bridge_that_is_there_brings_its_subnet() {
        let state = State::new(String::new());
        let of = |request: &NetworkCreate| of_new(request, "netpath0", &interfaces(), &state, &[]).unwrap().v4.unwrap();
        let subnet = of(&NetworkCreate::default());
        assert_eq!((subnet.subnet.to_string().as_str(), subnet.bridge), ("10.9.0.0/16", "10.9.0.1".parse().ok()));
        let subnets = vec!["10.50.0.0/24".parse().unwrap()];
        assert_eq!(of(&NetworkCreate { subnets, ..NetworkCreate::default() }).subnet.to_string(), "10.50.0.0/24");
    }

    #[test]
    fn pools_of_ones_own_take_the_predefined_ones_place_in_their_family() {
        let mut state = State::new(String::new());
        state.networks.insert(1, samples::network("bridge"));
        let pools = ["base=10.1.0.0/16,size=20", "base=10.5.0.0/24,size=24"].map(|text| text.parse().unwrap());
        let request = NetworkCreate { ipv6: true, ..NetworkCreate::default() };
        let Subnets { v4, v6, skipped } = of_new(&request, "br-x", &interfaces(), &state, &pools).unwrap();
        assert_eq!(v4.unwrap().subnet.to_string(), "10.1.16.0/20", "the host has an address in the first");
        assert!(v6.unwrap().subnet.to_string().starts_with("fd"));
        let skipped: Vec<_> = skipped.iter().map(ToString::to_string).collect();
        assert_eq!(skipped, ["10.1.0.0/20: overlaps route 10.1.2.0/24 dev eth0"]);
    }

    fn default(bip: Option<&str>, known: Option<&state::Network>) -> Result<Subnet> {
        let flags = AgentFlags { bip: bip.map(|text| text.parse().unwrap()), ..AgentFlags::default() };
        let options = Options::resolve(flags, Path::new("/run/netpath/netpath.sock")).unwrap();
        let mut interfaces = interfaces();
        // Not there yet.
        interfaces.links.retain(|link| link.ifname != "netpath0");
        interfaces.addresses.retain(|address| address.ifindex != 2);
        interfaces.routes.retain(|route| route.ifindex != Some(2));
        of_default(&options, &interfaces, known, &State::new(String::new())).map(|subnets| subnets.v4.unwrap())
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
            kind: None,
            xdp: None,
            alias: None,
            master: None,
            peer: None,
            peer_netns: None,
        };
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let address =
            |ifindex, text| Address { ifindex, net: net(text), universe: true, secondary: false, usable: true };
        let route = |ifindex, text| Route { dst: net(text), gateway: None, ifindex: Some(ifindex) };
        Interfaces {
            links: vec![link(2, "netpath0"), link(3, "eth0")],
            addresses: vec![address(2, "10.9.0.1/16"), address(3, "10.1.2.3/24")],
            routes: vec![
                route(2, "10.9.0.0/16"),
                route(3, "10.1.2.0/24"),
                route(3, "0.0.0.0/0"),
                Route { gateway: Some([10, 1, 2, 1].into()), ..route(3, "10.99.0.0/16") },
            ],
        }
    }
}
