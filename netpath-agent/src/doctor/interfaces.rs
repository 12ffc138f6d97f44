//! What the host's interfaces are, and what XDP would make of them.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::agent::read_interfaces;
use crate::bridge;
use crate::endpoints;
use crate::externals::Interfaces;
use crate::netlink::{Link, Netlink};
use crate::xdp::{Asked, Facts, Features, choose};
use crate::xdp_externals::facts;

/// An interface of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub ifname: String,
    pub driver: Option<String>,
    /// Whether an agent without `--external` serves it.
    pub external: bool,
    pub mtu: u32,
    /// What the driver can do with native XDP: `basic`, `redirect`, `rx-sg`; absent where the kernel does not say.
    pub native_xdp: Option<Vec<String>>,
    /// What a native program would turn off.
    pub turned_off_by_xdp: Vec<String>,
    /// What `--xdp auto` makes of it: `native` or `off`.
    pub xdp_auto: String,
    pub reason: String,
}

/// # Errors
/// If the kernel refuses to list them.
pub(super) async fn all() -> Result<Vec<Interface>> {
    let interfaces = read_interfaces(&Netlink::connect()?).await?;
    let externals = externals(&interfaces);
    let links = interfaces.links.iter().filter(|link| !link.loopback && !is_own(link));
    Ok(links.map(|link| show(link, &facts(link), externals.contains(&link.ifindex))).collect())
}

fn externals(interfaces: &Interfaces) -> BTreeSet<u32> {
    let own = || interfaces.links.iter().filter(|link| is_own(link));
    let bridges = own().filter(|link| link.bridge).map(|link| link.ifname.as_str()).collect();
    let veths = own().filter(|link| !link.bridge).map(|link| link.ifindex).collect();
    interfaces.externals(&[], &bridges, &veths).into_iter().map(|external| external.ifindex).collect()
}

/// Whether an agent, of whatever name, has made the bridge or veth: it says so in its alias.
fn is_own(link: &Link) -> bool {
    let is_own = |alias: &str| bridge::name_in_alias(alias).is_some() || endpoints::is_alias(alias);
    link.alias.as_deref().is_some_and(is_own)
}

fn show(link: &Link, facts: &Facts, external: bool) -> Interface {
    let choice = choose(Asked::Auto, facts);
    let names = |features: Features| {
        let all = [(features.basic(), "basic"), (features.redirect(), "redirect"), (features.rx_sg(), "rx-sg")];
        all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_owned()).collect()
    };
    Interface {
        ifname: link.ifname.clone(),
        driver: facts.driver.clone(),
        external,
        mtu: link.mtu,
        native_xdp: facts.features.map(names),
        turned_off_by_xdp: facts.merging.clone(),
        xdp_auto: choice.mode.map_or_else(|| "off".to_owned(), |mode| mode.to_string()),
        reason: choice.reason,
    }
}
