//! Following the host: what the agent does when interfaces, addresses and routes come, change and go.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::agent::{Agent, facts, mtu, network_mtu, read_interfaces};
use crate::datapath::Attachment;
use crate::desired::{self, HostFacts};
use crate::netlink::{Link, Notice};

/// What to do with an external interface that has its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attach {
    /// Leave it.
    Missing,
    /// Give it this agent's in place of an earlier one's.
    Anew,
}

impl Agent {
    /// Acts on what has changed on the host, a burst of changes at once; `true` if the host is to be looked at:
    /// [`Self::look`].
    pub async fn notice(&mut self, notices: impl IntoIterator<Item = Notice>) -> bool {
        let (mut look, mut bridges, mut has_links) = (false, BTreeSet::new(), false);
        for notice in notices {
            match notice {
                Notice::LinkGone(ifindex) => {
                    self.notice_bridge_gone(ifindex);
                    let is_news = !self.forget_link(ifindex).await;
                    look |= !self.deleted.remove(&ifindex) && is_news;
                }
                Notice::Link(ifindex) => {
                    has_links = true;
                    look |= !self.is_veth(ifindex) || self.is_gateway(ifindex);
                    bridges
                        .extend(self.host.bridges.iter().find(|(_, b)| b.ifindex == ifindex).map(|(index, _)| *index));
                }
                // Those of a veth say nothing, and every new one has some.
                Notice::Address(ifindex) => look |= !self.is_veth(ifindex),
                Notice::FilterGone(ifindex) => look |= self.notice_filter_gone(ifindex),
                Notice::Route => look = true,
                Notice::Lost => {
                    self.deleted.clear();
                    look = true;
                }
            }
        }
        for index in bridges {
            if let Err(error) = self.announce_bridge(index) {
                // Nobody is missed on a bridge that is down or gone.
                tracing::debug!("announce the bridge: {error:#}");
            }
        }
        if has_links {
            self.look_for_docker().await;
        }
        look
    }

    /// Follows what the host is like by now.
    pub async fn look(&mut self) {
        let refreshed = self.refresh().await;
        self.warn("follow the host's interfaces", refreshed);
        for (name, error) in self.hold_free_ports() {
            tracing::debug!("keep the ports of container `{name}` from other programs: {error:#}");
        }
    }

    /// Notes that an interface may lack programs; `false` if it is none of those that have filters.
    fn notice_filter_gone(&mut self, ifindex: u32) -> bool {
        let is_served = self.datapath.has_filters() && self.served(ifindex).is_some();
        if is_served {
            self.stripped.insert(ifindex);
        }
        is_served
    }

    /// What an interface is to the programs, and its name.
    fn served(&self, ifindex: u32) -> Option<(Attachment, String)> {
        if let Some(external) = self.host.externals.iter().find(|external| external.ifindex == ifindex) {
            return Some((Attachment::External, external.ifname.clone()));
        }
        if let Some(endpoint) = self.state.endpoints.values().find(|endpoint| endpoint.ifindex == ifindex) {
            return Some((endpoint.attachment(), endpoint.ifname.clone()));
        }
        let (index, _) = self.host.bridges.iter().find(|(_, bridge)| bridge.ifindex == ifindex)?;
        let network = self.state.networks.get(index)?;
        Some((Attachment::Bridge, network.bridge.clone()?))
    }

    /// Puts filters back that somebody has removed from interfaces that are still there.
    fn restore_filters(&mut self, alive: &BTreeSet<u32>) {
        for ifindex in std::mem::take(&mut self.stripped) {
            let Some((attachment, ifname)) = self.served(ifindex).filter(|_| alive.contains(&ifindex)) else {
                continue;
            };
            tracing::warn!("somebody removed a filter or a qdisc from {ifname}: the programs are put back");
            let restored = self.datapath.attach_all(attachment, ifindex, &ifname);
            self.warn("put programs back", restored);
        }
    }

    fn notice_bridge_gone(&self, ifindex: u32) {
        let network = self.host.bridges.iter().find(|(_, bridge)| bridge.ifindex == ifindex);
        let network = network.and_then(|(index, _)| self.state.networks.get(index));
        let network = network.filter(|network| network.owner.is_netpath());
        if let Some(bridge) = network.and_then(|network| network.bridge.as_ref()) {
            tracing::error!(
                "bridge {bridge} has been removed: its containers are cut off until the agent is restarted, which makes it anew"
            );
        }
    }

    /// Compares the host with what the agent believes, and acts on the difference.
    ///
    /// # Errors
    /// If the host cannot be read or a map not be written.
    pub async fn refresh(&mut self) -> Result<()> {
        let interfaces = read_interfaces(&self.netlink).await?;
        let alive: BTreeSet<u32> = interfaces.links.iter().map(|link| link.ifindex).collect();
        let gone: Vec<u32> = self.state.endpoints.values().map(|e| e.ifindex).filter(|i| !alive.contains(i)).collect();
        for ifindex in gone {
            self.forget_link(ifindex).await;
        }
        self.forget_gone_bridges(&alive).await;
        self.forget_ended();
        self.restore_filters(&alive);
        let mut bridges = self.host.bridges.clone();
        for bridge in bridges.values_mut() {
            if let Some(link) = interfaces.links.iter().find(|link| link.ifindex == bridge.ifindex) {
                bridge.mac = link.mac;
            }
        }
        let moved = self.follow_host_macs(&interfaces.links);
        let facts = facts(&interfaces, &self.options, &self.state, bridges);
        self.unsettled |= moved;
        if facts == self.host && !self.unsettled && self.unfit == 0 {
            return Ok(());
        }
        if facts.externals != self.host.externals {
            tracing::info!("external interfaces: {}", describe(&facts));
        }
        let old = std::mem::replace(&mut self.host, facts);
        self.unsettled = true;
        self.follow_mtu(&old).await;
        // No interface is external to the programs that has none of them; and what one lacks is no reason to leave
        // out the others.
        let attached = self.attach_externals(Attach::Missing);
        self.follow_xdp(Attach::Missing, &interfaces.links).await;
        let settled = self.settle();
        self.detach_externals().and(settled).and(attached)?;
        self.unsettled = false;
        Ok(())
    }

    /// Attaches the programs to every external interface, and goes on past errors.
    ///
    /// # Errors
    /// The first of them.
    pub(crate) fn attach_externals(&mut self, what: Attach) -> Result<()> {
        let mut done = Ok(());
        for external in &self.host.externals {
            if what == Attach::Anew || !self.datapath.has_all(external.ifindex, Attachment::External) {
                done = done.and(self.datapath.attach_external(external.ifindex, &external.ifname));
            }
        }
        done
    }

    /// Takes the programs off what is no external interface any more.
    fn detach_externals(&mut self) -> Result<()> {
        let wanted: BTreeSet<u32> = self.host.externals.iter().map(|external| external.ifindex).collect();
        for (ifindex, attachment) in self.datapath.attached()? {
            if attachment == Attachment::External && !wanted.contains(&ifindex) {
                self.datapath.detach(ifindex)?;
            }
        }
        Ok(())
    }

    /// Notes the hardware addresses that containers' host ends have by now; whether one is another.
    pub(crate) fn follow_host_macs(&mut self, links: &[Link]) -> bool {
        let mut moved = false;
        for endpoint in self.state.endpoints.values_mut() {
            let Some(known) = &mut endpoint.host_mac else { continue };
            if let Some(link) = links.iter().find(|link| link.ifindex == endpoint.ifindex) {
                moved |= known.0 != link.mac;
                known.0 = link.mac;
            }
        }
        moved
    }

    /// Whether the interface is a container's, or was until the agent deleted it.
    fn is_veth(&self, ifindex: u32) -> bool {
        self.deleted.contains(&ifindex) || self.endpoint_of(ifindex).is_some()
    }

    /// Whether the interface is a container's host end that has no bridge.
    fn is_gateway(&self, ifindex: u32) -> bool {
        self.endpoint_of(ifindex).is_some_and(|index| self.state.endpoints[&index].host_mac.is_some())
    }

    fn endpoint_of(&self, ifindex: u32) -> Option<u32> {
        self.state.endpoints.iter().find(|(_, endpoint)| endpoint.ifindex == ifindex).map(|(index, _)| *index)
    }

    /// Removes the endpoint whose veth is gone, and its container with the last one; `false` if `ifindex` is
    /// nobody's veth.
    pub(crate) async fn forget_link(&mut self, ifindex: u32) -> bool {
        self.forget_endpoint_of(ifindex, "its interface has gone").await
    }

    /// As [`Self::forget_link`], for another reason.
    pub(crate) async fn forget_endpoint_of(&mut self, ifindex: u32, why: &str) -> bool {
        let Some(index) = self.endpoint_of(ifindex) else { return false };
        let endpoint = &self.state.endpoints[&index];
        let name = endpoint.container.clone();
        tracing::info!("container `{name}` is disconnected from {}: {why}", endpoint.ifname);
        let errors = if self.state.endpoints_of(&name).len() > 1 {
            self.discard_endpoint(index).await
        } else {
            self.discard(&name).await
        };
        for error in errors {
            tracing::warn!("clean up after `{name}`: {error:#}");
        }
        true
    }

    /// Gives the bridges whose MTU follows the externals their new one. Containers keep theirs: where it is too
    /// large, path MTU discovery says so.
    async fn follow_mtu(&mut self, old: &HostFacts) {
        for (index, network) in &self.state.networks {
            let new = mtu(network, &self.host);
            if new == mtu(network, old) {
                continue;
            }
            tracing::info!("the MTU of new containers in network `{}` is {new}", network.name);
            let Some(bridge) = self.host.bridges.get_mut(index) else { continue };
            bridge.mtu = network_mtu(*index, new, &self.state);
            if network.created {
                let set = self.netlink.set_mtu(bridge.ifindex, new).await;
                self.warn("change the bridge's MTU", set);
            }
        }
    }
}

fn describe(facts: &HostFacts) -> String {
    let one = |external: &desired::ExternalFacts| {
        let v4 = external.addrs.iter().map(ToString::to_string);
        let addrs: Vec<_> = v4.chain(external.addrs6.iter().map(ToString::to_string)).collect();
        format!("{} ({})", external.ifname, addrs.join(", "))
    };
    let all: Vec<_> = facts.externals.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
