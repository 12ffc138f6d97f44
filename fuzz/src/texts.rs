//! The agent's parsers: nothing panics, and what is written of what was read is read as the same.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use netpath_agent::api;
use netpath_agent::ipam::AddressPool;
use netpath_agent::names::{self, hosts, link, resolv_conf};
use netpath_agent::network_mode::NetworkMode;
use netpath_agent::options::{AgentFlags, PortSpan, Timeout};
use netpath_agent::port_spec;
use netpath_agent::state::{Mac, State};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn text(data: &[u8]) -> Option<&str> {
    str::from_utf8(data).ok()
}

/// What `-p`, `--expose`, `--from`, `port` and `unpublish` take.
pub(crate) fn port_spec(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(specs) = port_spec::parse(text) {
        assert!(!specs.is_empty(), "`{text}` publishes nothing");
        for spec in specs {
            assert!(spec.container_port > 0 && spec.count > 0, "{spec:?}");
            assert!(u32::from(spec.container_port) + u32::from(spec.count) <= 0x1_0000, "{spec:?}");
            assert_eq!(port_spec::parse(&spec.to_string()), Ok(vec![spec]), "`{text}` as `{spec}`");
        }
    }
    if let Ok(published) = port_spec::parse_published(text) {
        assert!(*published.ports.start() > 0 && !published.ports.is_empty(), "{published:?}");
    }
    if let Ok((ports, _)) = port_spec::parse_exposed(text) {
        assert!(*ports.start() > 0 && !ports.is_empty(), "{ports:?}");
    }
    if let Ok(from) = port_spec::parse_from(text) {
        assert_eq!(from.net, from.net.trunc());
        assert!(from.ports.is_none_or(|ports| *ports.start() > 0 && !ports.is_empty()));
    }
    if let Ok((first, last)) = port_spec::parse_range(text) {
        assert!(first <= last);
    }
    assert!(port_spec::parse_port(text).is_ok_and(|(port, _)| port > 0) || port_spec::parse_port(text).is_err());
}

/// What single options of the agent and of `run` take.
pub(crate) fn option(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(PortSpan(span)) = text.parse() {
        assert!(span.first > 0 && span.first <= span.last);
    }
    let _ = text.parse::<Timeout>();
    if let Ok(pool) = text.parse::<AddressPool>() {
        assert!(pool.subnets().take(3).count() > 0, "`{text}` has no subnet");
    }
    round_trip::<NetworkMode>(text);
    round_trip::<Mac>(text);
    round_trip::<link::Link>(text);
    if let Ok(host) = text.parse::<hosts::ExtraHost>() {
        assert_eq!(String::from(host.clone()).parse(), Ok(host));
    }
    let _ = names::check_hostname(text);
    if let Ok(domain) = resolv_conf::parse_search(text) {
        assert!(!domain.contains(char::is_whitespace), "`{text}` gives the search domain `{domain}`");
    }
    let _ = resolv_conf::parse_option(text);
}

fn round_trip<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let said = value.to_string();
        assert_eq!(said.parse::<T>().ok().as_ref(), Some(&value), "`{text}` as `{said}`");
    }
}

/// The agent's configuration file.
pub(crate) fn config(data: &[u8]) {
    if let Some(text) = text(data) {
        let _ = toml::from_str::<AgentFlags>(text);
    }
}

/// The agent's memory.
pub(crate) fn state(data: &[u8]) {
    let Ok(state) = serde_json::from_slice::<State>(data) else { return };
    let said = serde_json::to_vec(&state).expect("state as JSON");
    assert_eq!(serde_json::from_slice::<State>(&said).expect("what was written"), state);
    let (index, network) = (state.free_index(), state.free_network_index());
    assert!(index > 0 && !state.endpoints.contains_key(&index));
    assert!(network.is_none_or(|index| index > 0 && !state.networks.contains_key(&index)));
    for (_, binding) in state.bindings().take(64) {
        let _ = (binding.host_ports(), binding.container_ports(), binding.is_direct());
    }
    let mut without = state.clone();
    without.forget_dead_ptps();
    assert!(without.ptps.len() <= state.ptps.len());
}

/// Bodies of requests.
pub(crate) fn api(data: &[u8]) {
    body::<api::InfoPatch>(data);
    body::<api::NetworkCreate>(data);
    body::<api::NetworkPatch>(data);
    body::<api::Connect>(data);
    body::<api::Attach>(data);
    body::<api::Ports>(data);
    body::<api::LinkAdd>(data);
    body::<api::PtpCreate>(data);
}

fn body<T: Serialize + DeserializeOwned>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else { return };
    let said = serde_json::to_value(&value).expect("a body as JSON");
    let again: T = serde_json::from_value(said.clone()).expect("what was written");
    assert_eq!(serde_json::to_value(&again).expect("a body as JSON"), said);
}

/// `/etc/hosts` and `/etc/resolv.conf`: three texts, which the byte 0xff ends.
pub(crate) fn names(data: &[u8]) {
    // Which returns belong to a line's end is another question.
    if data.contains(&b'\r') {
        return;
    }
    let mut parts = data.split(|byte| *byte == 0xff).map(text);
    let Some(first) = parts.next().flatten() else { return };
    let (second, third) = (parts.next().flatten().unwrap_or(""), parts.next().flatten().unwrap_or(""));
    let updated = hosts::update(first, second, third);
    let own = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !second.lines().any(|old| old == *line)).map(str::to_owned).collect()
    };
    let (before, mut after) = (own(first).into_iter(), own(&updated).into_iter());
    for line in before {
        assert!(after.any(|kept| kept == line), "the user's line `{line}` is lost");
    }
    let dns = resolv_conf::Dns::default();
    assert_eq!(resolv_conf::text(first, &dns, resolv_conf::Reach::Host), first);
    for has_ipv6 in [false, true] {
        let reach = resolv_conf::Reach::Network { has_ipv6 };
        let once = resolv_conf::text(first, &dns, reach);
        let servers = |text: &str| text.lines().filter(|line| line.starts_with("nameserver ")).count();
        let twice = resolv_conf::text(&once, &dns, reach);
        assert_eq!(servers(&once), servers(&twice), "the name servers of a container of a container");
    }
}
