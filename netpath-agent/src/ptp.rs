//! Links from point to point: a veth pair between two containers, without a bridge and without the host.
//!
//! Each end has one address per family and a route to the other's, and nothing else. The data plane never sees
//! what goes over it. The kernel takes the pair away with either namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;

use crate::agent::Agent;
use crate::api::{self, PtpCreate};
use crate::endpoints::join;
use crate::host;
use crate::netns::{Netns, PairEnd};
use crate::network_mode::NetworkMode;
use crate::refusal::Refusal;
use crate::state::{Container, Ptp, PtpEnd, State};

/// What an Ethernet interface has by itself.
const MTU: u32 = 1500;
/// Addresses that are valid on one link only (RFC 3927), its first and last 256 left out as that asks for.
const FIRST_AUTOMATIC: u32 = u32::from_be_bytes([169, 254, 1, 0]);
const LAST_AUTOMATIC: u32 = u32::from_be_bytes([169, 254, 254, 254]);

impl Agent {
    pub fn ptps(&self) -> Vec<api::Ptp> {
        self.state.ptps.iter().map(show).collect()
    }

    /// Links two containers.
    ///
    /// # Errors
    /// A [`Refusal`] if the request cannot be served; nothing has changed then, nor after any other error.
    pub async fn create_ptp(&mut self, request: &PtpCreate) -> Result<api::Ptp> {
        let [a, b] = [&request.a, &request.b];
        let addrs = plan_addrs(request, &self.state)?;
        let netns = (self.own_namespace(a)?, self.own_namespace(b)?);
        let context = || format!("link `{a}` and `{b}` from point to point");
        let ends = [
            PtpEnd::new(a, &netns.0, &self.state, addrs.0).await,
            PtpEnd::new(b, &netns.1, &self.state, addrs.1).await,
        ];
        let [end_a, end_b] = ends;
        let ptp = Ptp { a: end_a.with_context(context)?, b: end_b.with_context(context)? };
        let mut made = make(&ptp, &netns).await;
        if made.is_ok() {
            self.state.ptps.push(ptp.clone());
            made = self.store.save(&self.state);
        }
        if let Err(error) = made {
            self.state.ptps.retain(|other| *other != ptp);
            self.warn("undo the link", netns.0.delete_link(ptp.a.pair_end()).await);
            return Err(error.context(context()));
        }
        tracing::info!("linked `{a}` and `{b}` from point to point");
        Ok(show(&ptp))
    }

    /// Takes the link between two containers away.
    ///
    /// # Errors
    /// A [`Refusal`] if there is none.
    pub async fn delete_ptp(&mut self, a: &str, b: &str) -> Result<api::Ptp> {
        let Some(ptp) = self.state.ptps.iter().find(|ptp| ptp.is_between(a, b)).cloned() else {
            return Err(Refusal::NotFound(format!("`{a}` and `{b}` are not linked from point to point")).into());
        };
        let errors = self.discard_ptps(|other| *other == ptp).await;
        match join(&errors) {
            Some(errors) => Err(anyhow!(errors).context(format!("remove the link between `{a}` and `{b}`"))),
            None => Ok(show(&ptp)),
        }
    }

    /// Takes links away, and goes on past errors.
    pub(crate) async fn discard_ptps(&mut self, is_meant: impl Fn(&Ptp) -> bool) -> Vec<anyhow::Error> {
        let (gone, kept): (Vec<_>, _) = std::mem::take(&mut self.state.ptps).into_iter().partition(|ptp| is_meant(ptp));
        self.state.ptps = kept;
        let mut errors = Vec::new();
        for ptp in &gone {
            errors.extend(ptp.remove(&self.state.containers).await);
        }
        if !gone.is_empty() {
            errors.extend(self.store.save(&self.state).err());
        }
        errors
    }

    fn own_namespace(&self, name: &str) -> Result<Netns> {
        let container = self.find(name)?;
        let mode: NetworkMode = container.network_mode.parse().map_err(Refusal::invalid)?;
        if mode.is_shared() {
            let error = format!("container `{name}` has no network of its own: it was started with --net={mode}");
            return Err(Refusal::Invalid(error).into());
        }
        container.open_netns().map_err(Refusal::invalid).map_err(Into::into)
    }
}

impl Ptp {
    /// Whose two ends they are, in either order.
    pub fn is_between(&self, a: &str, b: &str) -> bool {
        let ends = (self.a.container.as_str(), self.b.container.as_str());
        ends == (a, b) || ends == (b, a)
    }

    pub fn has(&self, container: &str) -> bool {
        self.a.container == container || self.b.container == container
    }

    /// Takes the wire away, and goes on past errors.
    pub(crate) async fn remove(&self, containers: &BTreeMap<String, Container>) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        // Either end takes the other with it; a namespace that is gone has taken both.
        for end in [&self.a, &self.b] {
            let container = containers.get(&end.container);
            let Some(netns) = container.and_then(|c| c.open_netns().ok()) else { continue };
            errors.extend(netns.delete_link(end.pair_end()).await.err());
        }
        errors
    }
}

impl PtpEnd {
    async fn new(container: &str, netns: &Netns, state: &State, addrs: Vec<IpAddr>) -> Result<Self> {
        let taken = netns.interfaces().await?;
        let interface = free_interface(container, state, &taken);
        Ok(Self { container: container.to_owned(), interface, addrs, mac: crate::state::Mac(host::random_mac()?) })
    }

    fn pair_end(&self) -> PairEnd {
        PairEnd { interface: self.interface.clone(), mac: self.mac.0 }
    }
}

/// `eth1`, or the next that the container does not have. `eth0` is kept for a bridge.
fn free_interface(container: &str, state: &State, taken: &[String]) -> String {
    let known: BTreeSet<_> =
        state.interfaces_of(container).into_iter().chain(taken.iter().map(String::as_str)).collect();
    let names = (1..=known.len() + 1).map(|i| format!("eth{i}"));
    names.into_iter().find(|name| !known.contains(name.as_str())).unwrap_or_default()
}

async fn make(ptp: &Ptp, netns: &(Netns, Netns)) -> Result<()> {
    let Ptp { a, b } = ptp;
    netns.0.create_pair(a.pair_end(), &netns.1, b.pair_end(), MTU).await?;
    netns.0.configure_ptp(&a.interface, a.addrs.clone(), b.addrs.clone()).await?;
    netns.1.configure_ptp(&b.interface, b.addrs.clone(), a.addrs.clone()).await
}

/// The addresses of both ends: those that were asked for, in turn, or a pair that no other link has.
fn plan_addrs(request: &PtpCreate, state: &State) -> Result<(Vec<IpAddr>, Vec<IpAddr>), Refusal> {
    let PtpCreate { a, b, addresses } = request;
    if a == b {
        return Err(Refusal::Invalid(format!("cannot link `{a}` with itself")));
    }
    if state.ptps.iter().any(|ptp| ptp.is_between(a, b)) {
        return Err(Refusal::Taken(format!("`{a}` and `{b}` are linked from point to point already")));
    }
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for is_v4 in [true, false] {
        let family: Vec<IpAddr> = addresses.iter().copied().filter(|addr| addr.is_ipv4() == is_v4).collect();
        match family[..] {
            [] => {}
            [first, second] if first != second => {
                of_a.push(first);
                of_b.push(second);
            }
            _ => {
                let error =
                    "want two different addresses of a family: that of the first container, then that of the second";
                return Err(Refusal::Invalid(error.to_owned()));
            }
        }
    }
    if of_a.is_empty() {
        let (first, second) = automatic(state)
            .ok_or_else(|| Refusal::Taken("no address is free for another link; choose with --address".to_owned()))?;
        return Ok((vec![first], vec![second]));
    }
    for (container, own, peer) in [(a, &of_a, &of_b), (b, &of_b, &of_a)] {
        own.iter().chain(peer).try_for_each(|addr| check_addr(*addr, container, state))?;
    }
    Ok((of_a, of_b))
}

/// Neither a special address, nor one that the container has a better use for.
fn check_addr(addr: IpAddr, container: &str, state: &State) -> Result<(), Refusal> {
    let is_broadcast = matches!(addr, IpAddr::V4(Ipv4Addr::BROADCAST));
    if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || is_broadcast {
        return Err(Refusal::Invalid(format!("{addr} is no address of an interface")));
    }
    for (_, endpoint) in state.endpoints_of(container) {
        let Some(network) = state.networks.get(&endpoint.network) else { continue };
        let mut subnets = [&network.v4, &network.v6].into_iter().flatten();
        if let Some(subnet) = subnets.find(|subnet| subnet.subnet.contains(&addr)) {
            let error = format!(
                "{addr} is in the subnet {} of network `{}`, which `{container}` is in",
                subnet.subnet, network.name
            );
            return Err(Refusal::Invalid(error));
        }
    }
    let mut others = state.ptps.iter().filter(|ptp| ptp.has(container)).flat_map(|ptp| [&ptp.a, &ptp.b]);
    match others.find(|end| end.addrs.contains(&addr)) {
        Some(_) => Err(Refusal::Taken(format!("{addr} is in use on another link of `{container}`"))),
        None => Ok(()),
    }
}

fn automatic(state: &State) -> Option<(IpAddr, IpAddr)> {
    let used: BTreeSet<IpAddr> =
        state.ptps.iter().flat_map(|ptp| [&ptp.a, &ptp.b]).flat_map(|end| end.addrs.clone()).collect();
    let pairs = (FIRST_AUTOMATIC..LAST_AUTOMATIC).step_by(2).map(|n| (v4(n), v4(n + 1)));
    pairs.into_iter().find(|(first, second)| !used.contains(first) && !used.contains(second))
}

fn v4(bits: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(bits))
}

fn show(ptp: &Ptp) -> api::Ptp {
    let end = |end: &PtpEnd| api::PtpEnd {
        container: end.container.clone(),
        interface: end.interface.clone(),
        addresses: end.addrs.iter().copied().map(IpNet::from).collect(),
        mac: end.mac.to_string(),
    };
    api::Ptp { a: end(&ptp.a), b: end(&ptp.b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::samples;

    #[test]
    fn addresses_are_given_in_turn_for_each_family() {
        let state = State::new(String::new());
        let plan = |texts: &[&str]| {
            let addresses = texts.iter().map(|text| text.parse().unwrap()).collect();
            plan_addrs(&PtpCreate { a: "a".to_owned(), b: "b".to_owned(), addresses }, &state)
        };
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let both = plan(&["10.1.1.1", "fd00::1", "10.1.1.2", "fd00::2"]).unwrap();
        assert_eq!(both, (vec![addr("10.1.1.1"), addr("fd00::1")], vec![addr("10.1.1.2"), addr("fd00::2")]));
        for bad in [&["10.1.1.1"][..], &["10.1.1.1", "10.1.1.1"], &["10.1.1.1", "fd00::1"], &["127.0.0.1", "10.1.1.2"]]
        {
            assert!(plan(bad).is_err(), "{bad:?}");
        }
        assert_eq!(plan(&[]), Ok((vec![addr("169.254.1.0")], vec![addr("169.254.1.1")])));
    }

    #[test]
    fn a_link_is_refused_where_it_would_be_in_the_way() {
        let mut state = State::new(String::new());
        state.networks.insert(1, samples::network("bridge"));
        state.endpoints.insert(1, samples::endpoint("a"));
        state.ptps.push(ptp("a", "c", "10.1.1.1", "10.1.1.2"));
        let plan = |a: &str, b: &str, addrs: [&str; 2]| {
            let addresses = addrs.iter().map(|text| text.parse().unwrap()).collect();
            plan_addrs(&PtpCreate { a: a.to_owned(), b: b.to_owned(), addresses }, &state)
        };
        assert!(plan("a", "b", ["10.1.1.3", "10.1.1.4"]).is_ok());
        assert!(plan("d", "b", ["10.1.1.1", "10.1.1.2"]).is_ok());
        for (a, b, addrs) in [
            ("a", "a", ["10.1.1.3", "10.1.1.4"]),
            ("c", "a", ["10.1.1.3", "10.1.1.4"]),
            ("a", "b", ["10.1.1.3", "172.17.0.9"]),
            ("b", "a", ["10.1.1.3", "10.1.1.2"]),
        ] {
            assert!(plan(a, b, addrs).is_err(), "{a} {b} {addrs:?}");
        }
    }

    #[test]
    fn automatic_addresses_are_those_that_no_link_has() {
        let mut state = State::new(String::new());
        state.ptps.push(ptp("a", "b", "169.254.1.1", "169.254.1.2"));
        assert_eq!(automatic(&state), Some((v4(FIRST_AUTOMATIC + 4), v4(FIRST_AUTOMATIC + 5))));
    }

    #[test]
    fn interfaces_are_numbered_from_one() {
        let mut state = State::new(String::new());
        assert_eq!(free_interface("a", &state, &[]), "eth1");
        state.ptps.push(ptp("a", "b", "10.1.1.1", "10.1.1.2"));
        assert_eq!(free_interface("b", &state, &["eth2".to_owned(), "lo".to_owned()]), "eth3");
    }

    fn ptp(a: &str, b: &str, addr_a: &str, addr_b: &str) -> Ptp {
        let end = |name: &str, addr: &str| PtpEnd {
            container: name.to_owned(),
            interface: "eth1".to_owned(),
            addrs: vec![addr.parse().unwrap()],
            mac: crate::state::Mac([2, 0, 0, 0, 0, 1]),
        };
        Ptp { a: end(a, addr_a), b: end(b, addr_b) }
    }
}
