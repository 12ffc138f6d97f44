//! Flows as `netpath conntrack` lists and deletes them.

use std::net::IpAddr;

use anyhow::Result;
use netpath_common::{Address, CtState, Flow, Tuple, proto};
use netpath_ebpf::conntrack::timeout_s;
use netpath_ebpf::family::{V4, V6};
use serde::Deserialize;

use crate::agent::Agent;
use crate::api;
use crate::datapath::{FamilyMaps, now_s};

/// Which flows; what is absent matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    pub proto: Option<String>,
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    /// Container.
    pub name: Option<String>,
}

impl Agent {
    /// The living flows that `filter` matches.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn flows(&self, filter: &FlowFilter) -> Result<Vec<api::Flow>> {
        let v4 = self.matching::<V4>(filter)?.into_iter().map(|(_, flow)| flow);
        let v6 = self.matching::<V6>(filter)?.into_iter().map(|(_, flow)| flow);
        Ok(v4.chain(v6).collect())
    }

    /// Deletes the flows that `filter` matches.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn delete_flows(&mut self, filter: &FlowFilter) -> Result<api::Deleted> {
        let deleted = self.delete_matching::<V4>(filter)? + self.delete_matching::<V6>(filter)?;
        Ok(api::Deleted { deleted })
    }

    fn matching<F: FamilyMaps>(&self, filter: &FlowFilter) -> Result<Vec<(Tuple<F::Addr>, api::Flow)>> {
        let now_s = now_s()?;
        let config = self.datapath.config();
        let mut flows = Vec::new();
        for (tuple, flow) in self.datapath.flows::<F>()? {
            let Some(endpoint) = self.state.endpoints.get(&u32::from(flow.endpoint)) else { continue };
            if endpoint.generation != flow.generation {
                continue;
            }
            let state = flow.state(tuple.proto);
            let Some(expires_s) = remaining_s(timeout_s(&config, state, tuple.proto), flow.last_seen_s, now_s) else {
                continue;
            };
            let shown = show(&tuple, &flow, state, &endpoint.container, expires_s);
            if filter.matches(&shown) {
                flows.push((tuple, shown));
            }
        }
        Ok(flows)
    }

    fn delete_matching<F: FamilyMaps>(&mut self, filter: &FlowFilter) -> Result<usize> {
        let mut deleted = 0;
        for (tuple, _) in self.matching::<F>(filter)? {
            deleted += usize::from(self.datapath.delete_flow::<F>(&tuple)?);
        }
        Ok(deleted)
    }
}

impl FlowFilter {
    fn matches(&self, flow: &api::Flow) -> bool {
        self.proto.as_ref().is_none_or(|proto| proto.eq_ignore_ascii_case(&flow.proto))
            && self.src.is_none_or(|src| src == flow.src)
            && self.dst.is_none_or(|dst| dst == flow.dst)
            && self.sport.is_none_or(|sport| sport == flow.sport)
            && self.dport.is_none_or(|dport| dport == flow.dport)
            && self.name.as_ref().is_none_or(|name| *name == flow.name)
    }
}

/// Seconds until a flow expires; `None` once it has.
fn remaining_s(timeout_s: u32, last_seen_s: u32, now_s: u32) -> Option<u32> {
    // Another CPU may have seen a packet after `now_s` was read.
    timeout_s.checked_sub(now_s.saturating_sub(last_seen_s))
}

fn show<A: Address>(tuple: &Tuple<A>, flow: &Flow<A>, state: CtState, name: &str, expires_s: u32) -> api::Flow {
    api::Flow {
        proto: proto_name(tuple.proto),
        state: state.name().to_owned(),
        expires_s,
        name: name.to_owned(),
        src: tuple.src_addr.to_ip(),
        sport: tuple.src_port,
        dst: tuple.dst_addr.to_ip(),
        dport: tuple.dst_port,
        nat_addr: flow.nat_addr.to_ip(),
        nat_port: flow.nat_port,
    }
}

/// The name of an IP protocol, or its number.
pub(crate) fn proto_name(proto: u8) -> String {
    match proto {
        proto::ICMP => "icmp".to_owned(),
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        proto::ICMPV6 => "icmpv6".to_owned(),
        proto::SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_flow_is_not_shown_and_one_from_just_now_is() {
        assert_eq!(remaining_s(300, 1000, 1300), Some(0));
        assert_eq!(remaining_s(300, 1000, 1301), None);
        assert_eq!(remaining_s(300, 1000, 999), Some(300));
    }

    #[test]
    fn a_filter_matches_what_it_names() {
        let shown = api::Flow {
            proto: "tcp".to_owned(),
            state: "ESTABLISHED".to_owned(),
            expires_s: 9,
            name: "web".to_owned(),
            src: IpAddr::from([172, 17, 0, 2]),
            sport: 40000,
            dst: IpAddr::from([192, 0, 2, 9]),
            dport: 443,
            nat_addr: IpAddr::from([192, 0, 2, 1]),
            nat_port: 2000,
        };
        let none = FlowFilter::default();
        assert!(none.matches(&shown));
        assert!(FlowFilter { proto: Some("TCP".to_owned()), dport: Some(443), ..none.clone() }.matches(&shown));
        assert!(FlowFilter { name: Some("web".to_owned()), sport: Some(40000), ..none.clone() }.matches(&shown));
        assert!(!FlowFilter { proto: Some("udp".to_owned()), ..none.clone() }.matches(&shown));
        assert!(!FlowFilter { src: Some(IpAddr::from([192, 0, 2, 9])), ..none }.matches(&shown));
    }
}
