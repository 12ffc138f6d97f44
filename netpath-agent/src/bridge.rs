//! A network's bridge: found or created, with its addresses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use tokio::time::{Instant, sleep};

use crate::adopted;
use crate::externals::Interfaces;
use crate::host;
use crate::netlink::Netlink;
use crate::state::Network;

/// The alias of a bridge that an agent made: it says so, and whose it is, when the state is lost. `instance` is the
/// default network's bridge, which tells one agent from another.
pub fn alias(instance: &str, network: &str) -> String {
    format!("{ALIAS}{instance}/{network}")
}

/// The network's name in an alias made by [`alias`], of whatever agent.
pub fn name_in_alias(alias: &str) -> Option<&str> {
    let named = alias.strip_prefix(ALIAS)?;
    Some(named.split_once('/').map_or(named, |(_, network)| network))
}

/// Whether the alias is of a bridge that the agent called `instance` made.
pub fn is_of(instance: &str, alias: &str) -> bool {
    alias.strip_prefix(ALIAS).and_then(|named| named.split_once('/')).is_some_and(|(other, _)| other == instance)
}

const ALIAS: &str = "netpath network ";
/// How long a container waits for its interface to carry frames.
const CARRIER_PATIENCE: Duration = Duration::from_secs(1);

/// The group of interfaces that the agent called `instance` is just making: the kernel takes no alias where an interface
/// is created, but a group, and the alias takes it away.
pub fn half_made(instance: &str) -> u32 {
    // FNV-1a. Groups of people are small numbers, and `ip link` takes no negative ones.
    let hash = instance.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash & !(1 << 31) | 1 << 30
}

/// What a bridge should be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The default network's bridge.
    pub instance: &'a str,
    /// Name of the network.
    pub network: &'a str,
    pub ifname: &'a str,
    pub addrs: Vec<IpNet>,
    pub mtu: u32,
    /// The agent made it in an earlier run.
    pub created: bool,
    /// The MTU was asked for: it is set on a bridge that somebody else made, too.
    pub force_mtu: bool,
}

/// The bridge as it is once [`ensure`] has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    pub ifindex: u32,
    pub mac: [u8; 6],
    /// Made by the agent, in this run or an earlier one.
    pub created: bool,
    /// Made by this very call.
    pub fresh: bool,
}

/// The bridge of a network: one that somebody else made as it is, another one found or created.
///
/// # Errors
/// If it is not there, or as [`ensure`].
pub(crate) async fn of(
    netlink: &Netlink,
    instance: &str,
    (network, ifname): (&Network, &str),
    mtu: u32,
    interfaces: &Interfaces,
) -> Result<Bridge> {
    if network.owner.is_netpath() {
        return ensure(netlink, &wanted(instance, network, ifname, mtu), interfaces).await;
    }
    let link = adopted::find_bridge(ifname, &interfaces.links)?;
    Ok(Bridge { ifindex: link.ifindex, mac: link.mac, created: false, fresh: false })
}

/// What the bridge of a network should be like.
fn wanted<'a>(instance: &'a str, network: &'a Network, ifname: &'a str, mtu: u32) -> Wanted<'a> {
    let nets = [&network.v4, &network.v6].into_iter().flatten().filter_map(|subnet| {
        let addr = subnet.bridge?;
        IpNet::new(addr, subnet.subnet.prefix_len()).ok()
    });
    Wanted {
        instance,
        network: &network.name,
        ifname,
        addrs: nets.collect(),
        mtu,
        created: network.created,
        force_mtu: network.mtu.is_some(),
    }
}

/// Whether the kernel takes it as the name of a new interface, as it stands.
pub fn is_ifname(name: &str) -> bool {
    // A `%` would be taken for a place to put a number in.
    let fits = (1..=15).contains(&name.len()) && ![".", ".."].contains(&name);
    fits && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c))
}

/// Whether there can be a bridge of that name.
///
/// # Errors
/// If another kind of interface has it.
pub fn check(ifname: &str, interfaces: &Interfaces) -> Result<()> {
    let link = interfaces.links.iter().find(|link| link.ifname == ifname);
    ensure!(link.is_none_or(|link| link.bridge), "interface {ifname} exists and is no bridge; choose another name");
    Ok(())
}

/// Finds the bridge, or creates it, and gives it the addresses that it lacks. Creates nothing if it fails.
///
/// # Errors
/// If the interface is no bridge, or the kernel refuses.
pub async fn ensure(netlink: &Netlink, wanted: &Wanted<'_>, interfaces: &Interfaces) -> Result<Bridge> {
    let Some(link) = interfaces.links.iter().find(|link| link.ifname == wanted.ifname) else {
        return create(netlink, wanted).await;
    };
    check(wanted.ifname, interfaces)?;
    let created = wanted.created || link.alias.as_deref().is_some_and(|alias| name_in_alias(alias).is_some());
    let has = |net: &IpNet| interfaces.addresses.iter().any(|a| a.ifindex == link.ifindex && a.net == *net);
    let missing: Vec<IpNet> = wanted.addrs.iter().filter(|net| !has(net)).copied().collect();
    add_addresses(netlink, link.ifindex, wanted.ifname, &missing).await?;
    netlink.set_up(link.ifindex).await?;
    let alias = alias(wanted.instance, wanted.network);
    if created && link.alias.as_ref() != Some(&alias) {
        netlink.set_alias(link.ifindex, &alias).await?;
    }
    if link.mtu != wanted.mtu && (created || wanted.force_mtu) {
        netlink.set_mtu(link.ifindex, wanted.mtu).await?;
    }
    Ok(Bridge { ifindex: link.ifindex, mac: link.mac, created, fresh: false })
}

/// Waits, but not for long, until a port and its bridge carry frames. The kernel sees to that after the call that sets them
/// up (linkwatch), late on a busy machine, and drops what is sent before.
pub async fn until_operational(netlink: &Netlink, port: u32, bridge: u32) -> Result<()> {
    let deadline = Instant::now() + CARRIER_PATIENCE;
    for ifindex in [port, bridge] {
        while !netlink.is_operational(ifindex).await? {
            ensure!(Instant::now() < deadline, "interface {ifindex} carries no frames after {CARRIER_PATIENCE:?}");
            sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}

async fn create(netlink: &Netlink, wanted: &Wanted<'_>) -> Result<Bridge> {
    let mac = host::random_mac()?;
    netlink.create_bridge(wanted.ifname, mac, half_made(wanted.instance)).await?;
    let link = netlink.link(wanted.ifname).await?.context("the new bridge has vanished")?;
    let configured = async {
        netlink.set_alias(link.ifindex, &alias(wanted.instance, wanted.network)).await?;
        // Given at creation it would not stay: the bridge would go on taking its ports' smallest MTU.
        netlink.set_mtu(link.ifindex, wanted.mtu).await?;
        add_addresses(netlink, link.ifindex, wanted.ifname, &wanted.addrs).await?;
        netlink.set_up(link.ifindex).await
    };
    if let Err(error) = configured.await {
        netlink.delete_link(link.ifindex).await?;
        return Err(error).with_context(|| format!("set up bridge {}", wanted.ifname));
    }
    let addrs: Vec<_> = wanted.addrs.iter().map(ToString::to_string).collect();
    tracing::info!(
        "created bridge {} with {}",
        wanted.ifname,
        if addrs.is_empty() { "no address".to_owned() } else { addrs.join(", ") }
    );
    Ok(Bridge { ifindex: link.ifindex, mac, created: true, fresh: true })
}

async fn add_addresses(netlink: &Netlink, ifindex: u32, ifname: &str, addrs: &[IpNet]) -> Result<()> {
    if addrs.iter().any(|net| net.addr().is_ipv6()) {
        host::enable_ipv6(ifname)?;
    }
    for net in addrs {
        netlink.add_address(ifindex, *net).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_names_agent_and_network() {
        let alias = alias("netpath0", "web");
        assert_eq!(name_in_alias(&alias), Some("web"));
        assert_eq!(name_in_alias("netpath network web"), Some("web"), "as an earlier version wrote it");
        assert!(is_of("netpath0", &alias) && !is_of("netpath1", &alias) && !is_of("web", "netpath network web"));
        assert_eq!(half_made("netpath0"), 1_262_486_061);
        assert_ne!(half_made("netpath0"), half_made("netpath1"));
    }

    #[test]
    fn names_that_the_kernel_takes_otherwise_are_no_names() {
        for good in ["br0", "netpath0", "a.b", "fifteen-letters"] {
            assert!(is_ifname(good), "{good}");
        }
        for bad in ["", "sixteen-letters!", "br%d", "a/b", "a b", "a\tb", "a:1", ".", ".."] {
            assert!(!is_ifname(bad), "{bad}");
        }
    }
}
