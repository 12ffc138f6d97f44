//! Parts of port bindings: closing some ports of a range, opening some to a few sources only. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::Result;
use ipnet::IpNet;

use crate::binding::PortBinding;
use crate::port_spec::{self, Proto};
use crate::refusal::Refusal;

/// Puts the allow-lists that `texts` name on `bindings`, cutting ranges where only some ports have one.
///
/// # Errors
/// A [`Refusal`] if a text is malformed, or names no binding.
pub fn restrict(mut bindings: Vec<PortBinding>, texts: &[String]) -> Result<Vec<PortBinding>> {
    for text in texts {
        let from = port_spec::parse_from(text).map_err(Refusal::invalid)?;
        let Some(ports) = &from.ports else {
            bindings.iter_mut().for_each(|binding| allow(binding, from.net));
            continue;
        };
        let mut found = false;
        let mut cut = Vec::with_capacity(bindings.len());
        for binding in bindings {
            let parts = split(&binding, ports).filter(|_| from.proto.is_none_or(|proto| proto == binding.proto));
            let Some((below, mut inside, above)) = parts else {
                cut.push(binding);
                continue;
            };
            found = true;
            allow(&mut inside, from.net);
            cut.extend(below.into_iter().chain([inside]).chain(above));
        }
        if !found {
            return Err(Refusal::Invalid(format!("--from {text}: nothing is published at these host ports")).into());
        }
        bindings = cut;
    }
    Ok(bindings)
}

fn allow(binding: &mut PortBinding, net: IpNet) {
    if !binding.from.contains(&net) {
        binding.from.push(net);
    }
}

/// The parts of `binding` below `ports`, inside and above; `None` if there is none inside. One that has no
/// host ports goes by its container ports.
fn split(
    binding: &PortBinding,
    ports: &RangeInclusive<u16>,
) -> Option<(Option<PortBinding>, PortBinding, Option<PortBinding>)> {
    let own = own_ports(binding);
    let (first, last) = (*ports.start().max(own.start()), *ports.end().min(own.end()));
    if first > last {
        return None;
    }
    let (below, above) = (first - own.start(), own.end() - last);
    Some((
        (below > 0).then(|| binding.part(0, below)),
        binding.part(below, last - first + 1),
        (above > 0).then(|| binding.part(below + (last - first) + 1, above)),
    ))
}

/// The ports by which people name a binding.
fn own_ports(binding: &PortBinding) -> RangeInclusive<u16> {
    if binding.is_direct() { binding.container_ports() } else { binding.host_ports() }
}

/// Sets of ports by host address, or none for all of them, and protocol.
#[derive(Default)]
struct PortSets(BTreeMap<(Option<IpAddr>, Proto), Vec<bool>>);

impl PortSets {
    fn insert(&mut self, addr: Option<IpAddr>, proto: Proto, ports: RangeInclusive<u16>) {
        let set = self.0.entry((addr, proto)).or_insert_with(|| vec![false; 1 << 16]);
        set[usize::from(*ports.start())..=usize::from(*ports.end())].fill(true);
    }

    fn has(&self, addr: Option<IpAddr>, proto: Proto, port: u16) -> bool {
        self.0.get(&(addr, proto)).is_some_and(|set| set[usize::from(port)])
    }
}

/// What `texts` leave of `ports`. Of a range that falls apart the first part keeps the counter, the others
/// have 0: theirs is still to give.
///
/// # Errors
/// A [`Refusal`] if a text is malformed, or names no binding.
pub fn without(ports: &[PortBinding], texts: &[String], name: &str) -> Result<Vec<PortBinding>, Refusal> {
    let (mut published, mut closed) = (PortSets::default(), PortSets::default());
    for binding in ports {
        for addr in [None, Some(binding.host_addr)] {
            published.insert(addr, binding.proto, own_ports(binding));
        }
    }
    for text in texts {
        let wanted = port_spec::parse_published(text).map_err(Refusal::invalid)?;
        if !wanted.ports.clone().any(|port| published.has(wanted.addr, wanted.proto, port)) {
            return Err(Refusal::NotFound(format!("container `{name}` does not publish host port {text}")));
        }
        closed.insert(wanted.addr, wanted.proto, wanted.ports);
    }
    let is_closed = |binding: &PortBinding, port| {
        [None, Some(binding.host_addr)].iter().any(|addr| closed.has(*addr, binding.proto, port))
    };
    let mut left = Vec::with_capacity(ports.len());
    for binding in ports {
        let first = *own_ports(binding).start();
        let open: Vec<u16> = own_ports(binding).filter(|port| !is_closed(binding, *port)).collect();
        let runs = open.chunk_by(|a, b| a.checked_add(1) == Some(*b));
        left.extend(runs.map(|run| binding.part(run[0] - first, run.len() as u16)));
    }
    let mut seen = BTreeSet::new();
    for binding in left.iter_mut().filter(|binding| binding.counter != 0) {
        if !seen.insert(binding.counter) {
            binding.counter = 0;
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port_spec::Proto;

    const ANY: &str = "0.0.0.0";
    const ETH0: &str = "192.0.2.1";

    #[test]
    fn unpublishing_takes_exactly_what_is_named() {
        let ports = [binding(ANY, 80, 1), binding(ETH0, 81, 1), binding("127.0.0.1", 81, 1), binding("::", 8000, 100)];
        let left = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
            without(&ports, &texts, "web").map(|left| left.iter().map(|b| u32::from(b.count)).sum::<u32>())
        };
        assert_eq!(left(&["80"]), Ok(102));
        assert_eq!(left(&["81"]), Ok(101));
        assert_eq!(left(&["192.0.2.1:81"]), Ok(102));
        assert_eq!(left(&["80-81/tcp"]), Ok(100));
        assert_eq!(left(&["[::]:8010-8019", "8050"]), Ok(92));
        assert_eq!(left(&["1-65535"]), Ok(0));
        assert!(matches!(left(&["80", "82"]), Err(Refusal::NotFound(_))));
        assert!(matches!(left(&["80/udp"]), Err(Refusal::NotFound(_))));
        assert!(matches!(left(&["0.0.0.0:8010"]), Err(Refusal::NotFound(_))));
        assert!(matches!(left(&["x"]), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn a_range_falls_apart_where_a_part_of_it_is_closed() {
        let range = PortBinding { container_port: 1000, counter: 7, ..binding(ANY, 8000, 100) };
        let left = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
            let left = without(std::slice::from_ref(&range), &texts, "web").unwrap();
            left.iter().map(|b| (b.host_ports(), b.container_port, b.counter)).collect::<Vec<_>>()
        };
        assert_eq!(left(&["8010"]), [(8000..=8009, 1000, 7), (8011..=8099, 1011, 0)]);
        assert_eq!(left(&["8000-8009"]), [(8010..=8099, 1010, 7)]);
        assert_eq!(left(&["8090-9000"]), [(8000..=8089, 1000, 7)]);
        assert_eq!(left(&["8010", "8020"]), [(8000..=8009, 1000, 7), (8011..=8019, 1011, 0), (8021..=8099, 1021, 0)]);
    }

    fn binding(host_addr: &str, host_port: u16, count: u16) -> PortBinding {
        let (host_addr, proto) = (host_addr.parse().unwrap(), Proto::Tcp);
        PortBinding { host_addr, host_port, container_port: 1, count, proto, counter: 0, from: vec![] }
    }
}
