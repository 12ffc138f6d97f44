//! XDP on the external interfaces as the options have it, and containers that take what it redirects. Where XDP does
//! not work, that is said, and tc does all of the work.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::agent::Agent;
use crate::api;
use crate::datapath::{XdpRefusal, program_name};
use crate::desired::ExternalFacts;
use crate::ethtool::{Ethtool, MERGING};
use crate::following::Attach;
use crate::netlink::Link;
use crate::netlink::netdev::Netdev;
use crate::netns::Netns;
use crate::state::Endpoint;
use crate::xdp::{Asked, Attached, Choice, Facts, Features, Mode, choose};

/// What became of an external interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What it was decided on.
    ifname: String,
    mtu: u32,
    pub(crate) asked: Asked,
    pub(crate) mode: Option<Mode>,
    /// Why it is so, where the option alone does not say it.
    pub(crate) reason: String,
}

impl Agent {
    /// Whether any external interface redirects frames before the stack sees them.
    pub(crate) fn has_xdp(&self) -> bool {
        self.xdp.values().any(|outcome| outcome.mode.is_some())
    }

    /// Gives every external interface XDP, or takes it away, as the options have it. An interface is decided on when it
    /// is new, when its MTU has changed and when the agent starts.
    pub(crate) async fn follow_xdp(&mut self, what: Attach, links: &[Link]) {
        let externals = self.host.externals.clone();
        let wanted: BTreeSet<u32> = externals.iter().map(|external| external.ifindex).collect();
        self.xdp.retain(|ifindex, _| wanted.contains(ifindex));
        for external in &externals {
            let known = self.xdp.get(&external.ifindex);
            let is_same = known.is_some_and(|old| old.ifname == external.ifname && old.mtu == external.mtu);
            if what == Attach::Anew || !is_same {
                let link = links.iter().find(|link| link.ifindex == external.ifindex);
                let outcome = self.decide_xdp(external, link);
                self.xdp.insert(external.ifindex, outcome);
            }
        }
        self.prepare_endpoints().await;
    }

    fn decide_xdp(&mut self, external: &ExternalFacts, link: Option<&Link>) -> Outcome {
        let ExternalFacts { ifindex, ifname, mtu, .. } = external;
        let asked = self.options.xdp.of(ifname);
        let outcome = |mode, reason| Outcome { ifname: ifname.clone(), mtu: *mtu, asked, mode, reason };
        let Choice { mode, reason } = match (asked, link) {
            (Asked::Off, _) | (_, None) => Choice { mode: None, reason: String::new() },
            (_, Some(link)) => choose(asked, &facts(link)),
        };
        let Some(mode) = mode else {
            match self.datapath.detach_xdp(*ifindex) {
                Ok(true) => tracing::info!("XDP is taken off {ifname}"),
                Ok(false) => {}
                Err(error) => tracing::warn!("take XDP off {ifname}: {error:#}"),
            }
            match asked {
                Asked::Off => {}
                Asked::Auto => tracing::info!("no XDP on {ifname}: {reason}"),
                _ => tracing::warn!(
                    "no XDP on {ifname}, tc serves it: {reason}; --xdp {ifname}=force-native does it all the same"
                ),
            }
            return outcome(None, reason);
        };
        let attached = link.and_then(|link| link.xdp);
        match self.datapath.attach_xdp(*ifindex, mode, attached.and_then(|xdp| xdp.mode)) {
            Ok(()) => {
                let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                tracing::info!("{mode} XDP on {ifname}{because}");
                outcome(Some(mode), reason)
            }
            Err(error) => {
                let reason = explain(&error, attached);
                // Of an earlier agent's that could not be replaced.
                let detached = self.datapath.detach_xdp(*ifindex);
                self.warn(&format!("take XDP off {ifname}"), detached.map(drop));
                tracing::warn!("no XDP on {ifname}, tc serves it: attach {mode} XDP: {reason}");
                outcome(None, reason)
            }
        }
    }

    pub(crate) fn show_xdp(&self, ifindex: u32) -> api::Xdp {
        let outcome = self.xdp.get(&ifindex);
        let mode = outcome.and_then(|outcome| outcome.mode);
        api::Xdp {
            asked: outcome.map_or(Asked::Off, |outcome| outcome.asked).to_string(),
            mode: mode.map_or_else(|| "off".to_owned(), |mode| mode.to_string()),
            reason: outcome.map(|outcome| outcome.reason.clone()).unwrap_or_default(),
        }
    }

    /// Lets the containers' ends take redirected frames if there will be any.
    async fn prepare_endpoints(&mut self) {
        let has_xdp = self.has_xdp();
        for index in self.state.endpoints.keys().copied().collect::<Vec<_>>() {
            let endpoint = &self.state.endpoints[&index];
            if endpoint.takes_xdp == has_xdp {
                continue;
            }
            let takes_xdp =
                has_xdp && !self.state.is_adopted(endpoint.network) && self.prepare_endpoint(endpoint).await;
            self.state.endpoints.entry(index).and_modify(|endpoint| endpoint.takes_xdp = takes_xdp);
        }
    }

    async fn prepare_endpoint(&self, endpoint: &Endpoint) -> bool {
        let netns = self.state.containers.get(&endpoint.container).map(|container| container.open_netns());
        match netns {
            Some(Ok(netns)) => prepare_for_xdp(&netns, endpoint).await,
            Some(Err(error)) => {
                tracing::debug!("container `{}` gets no frames by XDP: {error:#}", endpoint.container);
                false
            }
            None => false,
        }
    }
}

/// Lets a container's end take frames that XDP redirects; `false` if it cannot, and they go by tc.
pub(crate) async fn prepare_for_xdp(netns: &Netns, endpoint: &Endpoint) -> bool {
    let done = match require_napi_by_gro(&endpoint.ifname) {
        Ok(()) => netns.turn_gro_on(&endpoint.interface).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &done {
        tracing::warn!("container `{}` gets no frames by XDP, but by tc: {error:#}", endpoint.container);
    }
    done.is_ok()
}

fn require_napi_by_gro(ifname: &str) -> Result<()> {
    ensure!(
        Ethtool::open()?.has_napi_by_gro(ifname)?,
        "GRO of {ifname} is on, as kernels before 5.13 make it, whose veths drop redirected frames (if somebody turned it \
         on: ethtool -K {ifname} gro off, and restart the agent)"
    );
    Ok(())
}

/// What an interface is like, as far as the kernel tells.
pub(crate) fn facts(link: &Link) -> Facts {
    let note = |result: Result<Option<Features>>| {
        result.unwrap_or_else(|error| {
            tracing::debug!("{error:#}");
            None
        })
    };
    let features = || match Netdev::open()? {
        Some(netdev) => netdev.xdp_features(link.ifindex).map(|bits| Some(Features(bits))),
        None => Ok(None),
    };
    let ethtool = Ethtool::open().ok();
    let merging = ethtool.as_ref().and_then(|ethtool| ethtool.active(&link.ifname, &MERGING).ok());
    Facts {
        driver: ethtool.and_then(|ethtool| ethtool.driver(&link.ifname).ok()),
        kind: link.kind.clone(),
        is_port: link.master.is_some(),
        mtu: link.mtu,
        features: note(features()),
        merging: merging.unwrap_or_default(),
    }
}

fn explain(error: &anyhow::Error, attached: Option<Attached>) -> String {
    match (error.downcast_ref(), attached) {
        (Some(XdpRefusal::Taken), Some(Attached { program, .. })) => {
            let name = program_name(program).map_or_else(String::new, |name| format!(" `{name}`"));
            format!("another XDP program{name} (id {program}) is attached; take it off and restart the agent")
        }
        _ => format!("{error:#}"),
    }
}
