//! From `-p` specifications to port bindings: which host ports are free, and who has the others. Writes
//! nothing; what is on the host beside netpath is asked through [`HostPorts`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use anyhow::Result;
use netpath_common::PortRange;

use crate::binding::{PortBinding, host_name, span};
use crate::desired_ports::Gateway;
use crate::host_ports::HostPorts;
use crate::port_parts::restrict;
use crate::port_spec::{self, HostPorts as Wanted, PortSpec, Proto};
use crate::refusal::Refusal;

/// What bindings may be made of.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Address of bindings that name none (`--ip`).
    pub default_addr: IpAddr,
    /// The host's addresses but loopback ones.
    pub local_addrs: Vec<IpAddr>,
    /// How the container's network is reached; `None` where it has no IPv4.
    pub v4: Option<Gateway>,
    /// As `v4`.
    pub v6: Option<Gateway>,
}

/// What somebody asks to be published.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// `-p`
    pub publish: &'a [String],
    /// `-P`: exposed ports that `publish` does not name, each at a free host port.
    pub publish_all: bool,
    /// `--expose`
    pub expose: &'a [String],
    /// `--from`
    pub from: &'a [String],
}

/// Chooses host ports for one request.
pub struct Resolver<'a, H> {
    host: H,
    scope: Scope,
    taken: Taken<'a>,
    /// The port given out automatically last.
    last_automatic: u16,
    /// Where automatic ports come from, and which of them are left out; asked for once.
    automatic: Option<(PortRange, Vec<PortRange>)>,
}

/// Who has published which host ports, at each address.
#[derive(Default)]
struct Taken<'a>(BTreeMap<(Proto, IpAddr), Ranges<'a>>);

/// First port to last port and name; no two overlap.
type Ranges<'a> = BTreeMap<u16, (u16, &'a str)>;

/// What is published at the container's own address: family, protocol, first port and number of ports.
type Direct = BTreeSet<(IpAddr, Proto, u16, u16)>;

/// One specification, or several that differ in their host address only and get the same host port.
struct Ask {
    spec: PortSpec,
    host_addrs: Vec<IpAddr>,
}

impl<'a, H: HostPorts> Resolver<'a, H> {
    /// `bindings` are all that exist, with the names of their containers.
    pub fn new(
        host: H,
        scope: Scope,
        bindings: impl IntoIterator<Item = (&'a str, &'a PortBinding)>,
        last_automatic: u16,
    ) -> Self {
        let mut taken = Taken::default();
        for (name, binding) in bindings {
            taken.insert(binding, name);
        }
        Self { host, scope, taken, last_automatic, automatic: None }
    }

    pub fn last_automatic(&self) -> u16 {
        self.last_automatic
    }

    /// The bindings that `request` asks for on behalf of the container `name`, with counters still to give.
    /// Families in which the network is internal get none.
    ///
    /// # Errors
    /// A [`Refusal`] if one of them is malformed, or its host port taken.
    pub fn resolve(&mut self, request: &Request<'_>, name: &'a str) -> Result<Vec<PortBinding>> {
        let (mut bindings, mut direct) = (Vec::new(), Direct::new());
        for ask in self.asks(specs(request)?)? {
            let new = self.bind(&ask, &bindings, &mut direct)?;
            for binding in new {
                self.taken.insert(&binding, name);
                bindings.push(binding);
            }
        }
        restrict(bindings, request.from)
    }

    /// Groups what gets the same host port, in Docker's order: exact ports first, so that no choice takes
    /// one away from under them.
    fn asks(&self, mut specs: Vec<PortSpec>) -> Result<Vec<Ask>, Refusal> {
        for spec in &mut specs {
            self.keep_sctp_port(spec)?;
        }
        let is_choice = |spec: &PortSpec| !matches!(spec.host_ports, Wanted::One(_));
        specs.sort_by_key(|s| (is_choice(s), s.container_port, s.proto, s.host_ports, s.host_ip));
        let mut asks: Vec<Ask> = Vec::new();
        for spec in specs {
            let host_addrs = self.host_addrs(&spec)?;
            let key = |s: &PortSpec| (s.container_port, s.count, s.proto, s.host_ports);
            match asks.last_mut().filter(|ask| key(&ask.spec) == key(&spec)) {
                Some(ask) => ask.host_addrs.extend(host_addrs),
                None => asks.push(Ask { spec, host_addrs }),
            }
        }
        Ok(asks)
    }

    /// SCTP's checksum, a CRC of the whole packet, covers the ports: they stay as they are.
    fn keep_sctp_port(&self, spec: &mut PortSpec) -> Result<(), Refusal> {
        let own = spec.container_port;
        let fits = match spec.host_ports {
            Wanted::One(port) => port == own,
            Wanted::Any => true,
            Wanted::FirstFreeOf(first, last) => (first..=last).contains(&own),
        };
        let is_translated = [self.scope.v4, self.scope.v6].contains(&Some(Gateway::Nat));
        if spec.proto != Proto::Sctp || !is_translated {
            return Ok(());
        }
        if !fits {
            return Err(Refusal::Invalid(format!(
                "cannot publish {own}/sctp at another host port: an SCTP port is published under its own number only, \
                 as in -p {own}:{own}/sctp"
            )));
        }
        spec.host_ports = Wanted::One(own);
        Ok(())
    }

    /// The addresses that a specification binds to.
    fn host_addrs(&self, spec: &PortSpec) -> Result<Vec<IpAddr>, Refusal> {
        let what = || format!("{}/{}", span(&container_ports(spec)), spec.proto);
        let Some(addr) = spec.host_ip else {
            let default = self.scope.default_addr;
            if default == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
                let every = [(default, self.scope.v4), (Ipv6Addr::UNSPECIFIED.into(), self.scope.v6)];
                return Ok(every.into_iter().filter(|(_, gateway)| gateway.is_some()).map(|(addr, _)| addr).collect());
            }
            return self.check_addr(default, &what()).map(|()| vec![default]);
        };
        self.check_addr(addr, &what()).map(|()| vec![addr])
    }

    fn check_addr(&self, addr: IpAddr, what: &str) -> Result<(), Refusal> {
        let Some(gateway) = self.gateway(addr) else {
            let family = if addr.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(Refusal::Invalid(format!("cannot publish {what} on {addr}: the network has no {family}")));
        };
        let is_local = addr.is_unspecified() || addr.is_loopback() || self.scope.local_addrs.contains(&addr);
        if is_local || gateway != Gateway::Nat {
            return Ok(());
        }
        Err(Refusal::Invalid(format!("cannot publish {what} on {addr}: no interface of this host has that address")))
    }

    fn gateway(&self, addr: IpAddr) -> Option<Gateway> {
        if addr.is_ipv4() { self.scope.v4 } else { self.scope.v6 }
    }

    /// The bindings for one ask, after `bindings` of the same request.
    fn bind(&mut self, ask: &Ask, bindings: &[PortBinding], direct: &mut Direct) -> Result<Vec<PortBinding>> {
        let spec = &ask.spec;
        let of = |gateway| {
            let addrs = ask.host_addrs.iter().copied().filter(|addr| self.gateway(*addr) == Some(gateway));
            addrs.collect::<Vec<_>>()
        };
        let (addrs, routed) = (of(Gateway::Nat), of(Gateway::Routed));
        let binding = |host_addr, host_port| PortBinding {
            host_addr,
            host_port,
            container_port: spec.container_port,
            count: spec.count,
            proto: spec.proto,
            counter: 0,
            from: vec![],
        };
        let mut new = Vec::new();
        if !addrs.is_empty() {
            refuse_twice(spec, &addrs, bindings)?;
            let host_port = self.host_port(spec, &addrs)?;
            new.extend(addrs.iter().map(|addr| binding(*addr, host_port)));
        }
        for addr in routed {
            let every: IpAddr =
                if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            // Whatever its host ports were to be, it is one port of the container.
            if direct.insert((every, spec.proto, spec.container_port, spec.count)) {
                new.push(binding(every, 0));
            }
        }
        Ok(new)
    }

    fn host_port(&mut self, spec: &PortSpec, addrs: &[IpAddr]) -> Result<u16> {
        match spec.host_ports {
            Wanted::One(first) => {
                let ports = first..=first + (spec.count - 1);
                for addr in addrs {
                    self.check_free(spec.proto, *addr, &ports)?;
                }
                Ok(first)
            }
            Wanted::FirstFreeOf(first, last) => {
                self.first_free(spec.proto, addrs, first..=last)?.ok_or_else(|| none_free(first, last, addrs))
            }
            Wanted::Any => self.automatic(spec.proto, addrs),
        }
    }

    fn check_free(&mut self, proto: Proto, addr: IpAddr, ports: &RangeInclusive<u16>) -> Result<()> {
        let name = |port: u16| host_name(addr, &(port..=port));
        if let Some((port, holder)) = self.taken.lowest(proto, addr, ports) {
            return Err(Refusal::Taken(format!(
                "Bind for {} failed: port is already allocated (container `{holder}`)",
                name(port)
            ))
            .into());
        }
        let Some(port) = self.host.in_use(proto, addr, ports.clone())? else { return Ok(()) };
        let holder = self.host.holder(proto, addr, port)?;
        Err(Refusal::Taken(format!(
            "failed to bind host port {}/{proto}: address already in use by {}",
            name(port),
            holder.as_deref().unwrap_or("a connection, or a process that has just ended")
        ))
        .into())
    }

    /// The next free port of the ephemeral range after the one given out last.
    fn automatic(&mut self, proto: Proto, addrs: &[IpAddr]) -> Result<u16> {
        let (PortRange { first, last }, reserved) = match self.automatic.take() {
            Some(known) => known,
            None => (self.host.ephemeral()?, self.host.reserved()?),
        };
        let start = if (first..last).contains(&self.last_automatic) { self.last_automatic + 1 } else { first };
        let ports = (start..=last).chain(first..start).filter(|port| !reserved.iter().any(|r| r.contains(*port)));
        let port = self.first_free(proto, addrs, ports)?.ok_or_else(|| none_free(first, last, addrs))?;
        self.automatic = Some((PortRange { first, last }, reserved));
        self.last_automatic = port;
        Ok(port)
    }

    fn first_free(&mut self, proto: Proto, addrs: &[IpAddr], ports: impl Iterator<Item = u16>) -> Result<Option<u16>> {
        'ports: for port in ports {
            for addr in addrs {
                let is_taken = self.taken.lowest(proto, *addr, &(port..=port)).is_some();
                if is_taken || self.host.in_use(proto, *addr, port..=port)?.is_some() {
                    continue 'ports;
                }
            }
            return Ok(Some(port));
        }
        Ok(None)
    }
}

impl<'a> Taken<'a> {
    fn insert(&mut self, binding: &PortBinding, name: &'a str) {
        if !binding.is_direct() {
            let (first, last) = binding.host_ports().into_inner();
            self.0.entry((binding.proto, binding.host_addr)).or_default().insert(first, (last, name));
        }
    }

    /// The lowest of `ports` that is published at `addr`, and by whom.
    fn lowest(&self, proto: Proto, addr: IpAddr, ports: &RangeInclusive<u16>) -> Option<(u16, &'a str)> {
        let tables = self.0.iter().filter(|((other, at), _)| *other == proto && overlap(*at, addr));
        tables.filter_map(|(_, table)| lowest(table, ports)).min_by_key(|(port, _)| *port)
    }
}

fn lowest<'a>(table: &Ranges<'a>, ports: &RangeInclusive<u16>) -> Option<(u16, &'a str)> {
    let around = table.range(..=*ports.start()).next_back().filter(|(_, (last, _))| last >= ports.start());
    if let Some((_, (_, name))) = around {
        return Some((*ports.start(), name));
    }
    table.range(ports.clone()).next().map(|(first, (_, name))| (*first, *name))
}

/// Whether a port on one address is a port on the other too.
pub(crate) fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one == other || one.is_unspecified() || other.is_unspecified())
}

fn none_free(first: u16, last: u16, addrs: &[IpAddr]) -> anyhow::Error {
    let addrs: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    Refusal::Taken(format!("all ports are allocated: none of {first}-{last} is free on {}", addrs.join(" and "))).into()
}

fn container_ports(spec: &PortSpec) -> RangeInclusive<u16> {
    spec.container_port..=spec.container_port + (spec.count - 1)
}

/// All that a request publishes, still without host ports.
fn specs(request: &Request<'_>) -> Result<Vec<PortSpec>, Refusal> {
    let mut specs = Vec::new();
    for text in request.publish {
        specs.extend(port_spec::parse(text).map_err(Refusal::invalid)?);
    }
    let named = specs.clone();
    let mut exposed = BTreeSet::new();
    for text in request.expose.iter().filter(|_| request.publish_all) {
        let (ports, proto) = port_spec::parse_exposed(text).map_err(Refusal::invalid)?;
        let is_named = |port| named.iter().any(|spec| spec.proto == proto && container_ports(spec).contains(&port));
        for container_port in ports.filter(|port| !is_named(*port)) {
            if exposed.insert((proto, container_port)) {
                specs.push(PortSpec { host_ip: None, host_ports: Wanted::Any, container_port, count: 1, proto });
            }
        }
    }
    Ok(specs)
}

/// Refuses what the same request has asked for already: an address twice, or a host port of `bindings`.
fn refuse_twice(spec: &PortSpec, addrs: &[IpAddr], bindings: &[PortBinding]) -> Result<(), Refusal> {
    let twice = |what| Err(Refusal::Invalid(format!("{what}/{} is given twice", spec.proto)));
    let overlaps = |(i, addr): (usize, &IpAddr)| addrs[..i].iter().any(|other| overlap(*other, *addr));
    let has_double = addrs.iter().enumerate().any(overlaps);
    let Wanted::One(first) = spec.host_ports else {
        let what = format!("container port {}", spec.container_port);
        return if has_double { twice(what) } else { Ok(()) };
    };
    let last = first + (spec.count - 1);
    if has_double {
        return twice(format!("host port {}", span(&(first..=last))));
    }
    for other in bindings.iter().filter(|b| b.proto == spec.proto && !b.is_direct()) {
        let (from, to) = (first.max(*other.host_ports().start()), last.min(*other.host_ports().end()));
        if from <= to && addrs.iter().any(|addr| overlap(*addr, other.host_addr)) {
            return twice(format!("host port {}", span(&(from..=to))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::from_clause;

    const ANY: &str = "0.0.0.0";
    const ETH0: &str = "192.0.2.1";

    #[test]
    fn a_port_that_a_container_has_is_refused_with_dockers_words_and_its_name() {
        let taken = [binding(ANY, 8080, 1), binding("::", 9000, 1000)];
        for (spec, expected) in [
            ("8080:80", "Bind for 0.0.0.0:8080 failed: port is already allocated (container `other`)"),
            ("192.0.2.1:8080:80", "Bind for 192.0.2.1:8080 failed: port is already allocated (container `other`)"),
            ("8000-8100:80-180", "Bind for 0.0.0.0:8080 failed: port is already allocated (container `other`)"),
            ("8080-8180:80-180", "Bind for 0.0.0.0:8080 failed: port is already allocated (container `other`)"),
            ("[::1]:9500:80", "Bind for [::1]:9500 failed: port is already allocated (container `other`)"),
            ("9999:80", "Bind for [::]:9999 failed: port is already allocated (container `other`)"),
        ] {
            assert_eq!(resolve(&[spec], &taken).unwrap_err(), expected, "{spec}");
        }
    }

    #[test]
    fn only_the_same_address_or_a_wildcard_of_the_family_is_in_the_way() {
        for (spec, taken, is_free) in [
            ("192.0.2.1:8080:80", ANY, false),
            ("8080:80", ETH0, false),
            ("127.0.1.2:8080:80", "127.0.1.3", true),
            ("0.0.0.0:8080:80", "::", true),
            ("[::]:8080:80", ANY, true),
            ("[::]:8080:80", "::1", false),
            ("8080:80/udp", ANY, true),
            ("8081:80", ANY, true),
        ] {
            assert_eq!(resolve(&[spec], &[binding(taken, 8080, 1)]).is_ok(), is_free, "{spec} beside {taken}");
        }
    }

    #[test]
    fn a_port_that_a_process_has_is_refused_with_the_process() {
        for spec in ["22:80", "20-30:80-90", "[::]:22:80"] {
            let addr = if spec.starts_with('[') { "[::]" } else { ANY };
            let error = resolve(&[spec], &[]).unwrap_err();
            let expected = format!("failed to bind host port {addr}:22/tcp: address already in use by `sshd` (pid 1)");
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn every_port_can_be_exposed_and_published() {
        let expose = ["1-65535".to_owned(), "80".to_owned()];
        let request = Request { publish_all: true, expose: &expose, ..Request::default() };
        let routed = Scope { v4: Some(Gateway::Routed), v6: None, ..scope() };
        assert_eq!(resolver(routed, &[], 0).resolve(&request, "web").unwrap().len(), 65_535);
    }

    #[test]
    fn one_request_does_not_name_a_port_twice() {
        for (specs, expected) in [
            (vec!["8080:80", "8080:80"], "host port 8080/tcp is given twice"),
            (vec!["8080:80", "8080:81"], "host port 8080/tcp is given twice"),
            (vec!["8080:80", "127.0.0.1:8080:80"], "host port 8080/tcp is given twice"),
            (vec!["8000-8010:80-90", "8005-8006:180-181"], "host port 8005-8006/tcp is given twice"),
            (vec!["80", "80"], "container port 80/tcp is given twice"),
        ] {
            assert_eq!(resolve(&specs, &[]).unwrap_err(), expected);
        }
        assert!(resolve(&["127.0.0.1:8080:80", "192.0.2.1:8080:80", "8080:80/udp"], &[]).is_ok());
    }

    #[test]
    fn without_an_address_a_port_is_open_in_each_family_that_the_network_has() {
        assert_eq!(resolve(&["8080:80"], &[]), Ok(shown(&["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"])));
        assert_eq!(resolve(&["0.0.0.0:8080:80"], &[]), Ok(shown(&["0.0.0.0:8080->80/tcp"])));
        assert_eq!(resolve(&["[::]:8080:80"], &[]), Ok(shown(&["[::]:8080->80/tcp"])));
        let only = |scope| resolve_in(scope, &Request { publish: &["8080:80".to_owned()], ..Request::default() }, &[]);
        assert_eq!(only(Scope { v6: None, ..scope() }), Ok(shown(&["0.0.0.0:8080->80/tcp"])));
        assert_eq!(only(Scope { v4: None, ..scope() }), Ok(shown(&["[::]:8080->80/tcp"])));
        let default_addr = addr("127.0.0.1");
        assert_eq!(only(Scope { default_addr, ..scope() }), Ok(shown(&["127.0.0.1:8080->80/tcp"])));
        let default_addr = addr("::");
        assert_eq!(only(Scope { default_addr, ..scope() }), Ok(shown(&["[::]:8080->80/tcp"])));
    }

    #[test]
    fn what_differs_in_its_address_only_gets_the_same_port() {
        let expected = shown(&["127.0.0.1:40001->80/tcp", "192.0.2.1:40001->80/tcp", "[::1]:40001->80/tcp"]);
        let taken = [binding("::1", 40000, 1)];
        assert_eq!(resolve(&["192.0.2.1::80", "[::1]::80", "127.0.0.1::80"], &taken), Ok(expected));
        let expected = shown(&["0.0.0.0:8001->80/tcp", "[::]:8001->80/tcp"]);
        assert_eq!(resolve(&["8000-8005:80"], &[binding("::1", 8000, 1)]), Ok(expected));
    }

    #[test]
    fn automatic_ports_go_round_and_skip_what_is_taken_or_reserved() {
        let v4 = |specs: &[&str], taken: &[PortBinding], last| {
            let specs: Vec<_> = specs.iter().map(|spec| format!("{ANY}::{spec}")).collect();
            resolver(scope(), taken, last)
                .resolve(&Request { publish: &specs, ..Request::default() }, "web")
                .map(|b| b.iter().map(|b| (b.host_port, b.container_port)).collect::<Vec<_>>())
        };
        assert_eq!(v4(&["80"], &[], 0).unwrap(), [(40000, 80)]);
        assert_eq!(v4(&["80"], &[binding(ANY, 40000, 1)], 0).unwrap(), [(40001, 80)]);
        assert_eq!(v4(&["80", "81"], &[], 40001).unwrap(), [(40003, 80), (40000, 81)], "40002 is reserved");
        assert_eq!(v4(&["80-82"], &[], 0).unwrap(), [(40000, 80), (40001, 81), (40003, 82)]);
        let error = v4(&["80"], &[binding(ANY, 40000, 4)], 0).unwrap_err().to_string();
        assert_eq!(error, "all ports are allocated: none of 40000-40003 is free on 0.0.0.0");
    }

    #[test]
    fn exact_ports_come_first_then_the_container_port_and_the_protocol() {
        let specs = ["0.0.0.0:8000-8002:80", "0.0.0.0:8000:81/udp", "0.0.0.0:8000:81", "0.0.0.0::79"];
        let expected =
            ["0.0.0.0:8000->81/tcp", "0.0.0.0:8000->81/udp", "0.0.0.0:40000->79/tcp", "0.0.0.0:8001->80/tcp"];
        assert_eq!(resolve(&specs, &[]), Ok(shown(&expected)));
    }

    #[test]
    fn a_range_of_equal_length_is_one_binding() {
        let expected = shown(&["192.0.2.1:1000-60999->1000-60999/udp"]);
        assert_eq!(resolve(&["192.0.2.1:1000-60999:1000-60999/udp"], &[]), Ok(expected));
    }

    #[test]
    fn sctp_ports_keep_their_number() {
        for (spec, expected) in [
            ("0.0.0.0:5000:5000/sctp", "0.0.0.0:5000->5000/sctp"),
            ("0.0.0.0::5000/sctp", "0.0.0.0:5000->5000/sctp"),
            ("0.0.0.0:4990-5010:5000/sctp", "0.0.0.0:5000->5000/sctp"),
            ("0.0.0.0:5000-5010:5000-5010/sctp", "0.0.0.0:5000-5010->5000-5010/sctp"),
        ] {
            assert_eq!(resolve(&[spec], &[]), Ok(shown(&[expected])), "{spec}");
        }
        for spec in ["6000:5000/sctp", "6000-6010:5000/sctp", "5001-5011:5000-5010/sctp"] {
            let error = resolve(&[spec], &[]).unwrap_err();
            assert!(error.starts_with("cannot publish 5000/sctp at another host port"), "{spec}: {error}");
        }
    }

    #[test]
    fn an_address_must_be_the_hosts_and_of_a_family_that_the_network_has() {
        let v4_only = |spec: &str| {
            let scope = Scope { v6: None, ..scope() };
            resolve_in(scope, &Request { publish: &[spec.to_owned()], ..Request::default() }, &[]).unwrap_err()
        };
        let expected = "cannot publish 80/tcp on 203.0.113.9: no interface of this host has that address";
        assert_eq!(v4_only("203.0.113.9:80:80"), expected);
        assert_eq!(v4_only("[::1]:80-81:80-81"), "cannot publish 80-81/tcp on ::1: the network has no IPv6");
        assert_eq!(v4_only("x:80"), "invalid hostPort: x");
    }

    #[test]
    fn a_routed_network_takes_no_host_port_and_an_internal_one_publishes_nothing() {
        let of = |gateway, specs: &[&str]| {
            let specs: Vec<_> = specs.iter().map(ToString::to_string).collect();
            let scope = Scope { v4: Some(gateway), v6: None, ..scope() };
            let request = Request { publish: &specs, ..Request::default() };
            resolver(scope, &[binding(ANY, 8080, 1)], 0).resolve(&request, "web").unwrap()
        };
        let routed = of(Gateway::Routed, &["8080:80", "203.0.113.9:9090:80", "8000-8010:8000-8010", "5:6/sctp"]);
        let routed: Vec<_> = routed.iter().map(|b| (b.is_direct(), b.container_ports(), b.host_addr)).collect();
        assert_eq!(routed, [(true, 6..=6, addr(ANY)), (true, 80..=80, addr(ANY)), (true, 8000..=8010, addr(ANY))]);
        assert_eq!(of(Gateway::Internal, &["8080:80", "81"]), []);
    }

    #[test]
    fn every_exposed_port_is_published_that_no_binding_names() {
        let (publish, expose) =
            (["0.0.0.0:8080:80".to_owned()], ["80", "80/udp", "53-54/udp", "53/udp"].map(str::to_owned));
        let request = Request { publish: &publish, publish_all: true, expose: &expose, from: &[] };
        let scope = Scope { v6: None, ..scope() };
        let expected =
            ["0.0.0.0:8080->80/tcp", "0.0.0.0:40000->53/udp", "0.0.0.0:40001->54/udp", "0.0.0.0:40003->80/udp"];
        assert_eq!(resolve_in(scope.clone(), &request, &[]), Ok(shown(&expected)));
        let request = Request { publish_all: false, ..request };
        assert_eq!(resolve_in(scope, &request, &[]), Ok(shown(&expected[..1])));
    }

    #[test]
    fn an_allow_list_is_for_all_ports_or_for_those_it_names() {
        let of = |publish: &[&str], from: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
            let (publish, from) = (owned(publish), owned(from));
            let request = Request { publish: &publish, from: &from, ..Request::default() };
            resolve_in(Scope { v6: None, ..scope() }, &request, &[])
        };
        assert_eq!(
            of(&["80:80", "81:81"], &["10.0.0.0/8", "80=fd00::1", "80=10.9.9.9/8"]),
            Ok(shown(&["0.0.0.0:80->80/tcp from 10.0.0.0/8, fd00::1/128", "0.0.0.0:81->81/tcp from 10.0.0.0/8"]))
        );
        assert_eq!(
            of(&["8000-8010:80-90", "8005:85/udp"], &["8004-8005=10.0.0.0/8", "8005/udp=192.0.2.7"]),
            Ok(shown(&[
                "0.0.0.0:8000-8003->80-83/tcp",
                "0.0.0.0:8004-8005->84-85/tcp from 10.0.0.0/8",
                "0.0.0.0:8006-8010->86-90/tcp",
                "0.0.0.0:8005->85/udp from 10.0.0.0/8, 192.0.2.7/32",
            ]))
        );
        assert_eq!(
            of(&["80:80"], &["81=10.0.0.0/8"]).unwrap_err(),
            "--from 81=10.0.0.0/8: nothing is published at these host ports"
        );
        assert_eq!(of(&["80:80"], &["x"]).unwrap_err(), "invalid source `x`: want [PORT[-LAST][/PROTO]=]CIDR");
    }

    /// Ports 40000 to 40003 are ephemeral, 40002 is reserved, and `sshd` has TCP port 22.
    struct Fake;

    impl HostPorts for Fake {
        fn in_use(&mut self, proto: Proto, _: IpAddr, ports: RangeInclusive<u16>) -> Result<Option<u16>> {
            Ok((proto == Proto::Tcp && ports.contains(&22)).then_some(22))
        }

        fn holder(&mut self, _: Proto, _: IpAddr, _: u16) -> Result<Option<String>> {
            Ok(Some("`sshd` (pid 1)".to_owned()))
        }

        fn ephemeral(&self) -> Result<PortRange> {
            Ok(PortRange { first: 40000, last: 40003 })
        }

        fn reserved(&self) -> Result<Vec<PortRange>> {
            Ok(vec![PortRange { first: 40002, last: 40002 }])
        }
    }

    /// A network with both families on a host with one address of each.
    fn scope() -> Scope {
        Scope {
            default_addr: addr(ANY),
            local_addrs: vec![addr(ETH0), addr("2001:db8::1")],
            v4: Some(Gateway::Nat),
            v6: Some(Gateway::Nat),
        }
    }

    fn resolver(scope: Scope, taken: &[PortBinding], last: u16) -> Resolver<'_, Fake> {
        Resolver::new(Fake, scope, taken.iter().map(|binding| ("other", binding)), last)
    }

    fn resolve(publish: &[&str], taken: &[PortBinding]) -> Result<Vec<String>, String> {
        let publish: Vec<_> = publish.iter().map(ToString::to_string).collect();
        resolve_in(scope(), &Request { publish: &publish, ..Request::default() }, taken)
    }

    fn resolve_in(scope: Scope, request: &Request<'_>, taken: &[PortBinding]) -> Result<Vec<String>, String> {
        let show = |b: &PortBinding| {
            format!(
                "{}->{}/{}{}",
                host_name(b.host_addr, &b.host_ports()),
                span(&b.container_ports()),
                b.proto,
                from_clause(&b.from)
            )
        };
        let bindings = resolver(scope, taken, 0).resolve(request, "web");
        bindings.map(|all| all.iter().map(show).collect()).map_err(|error| format!("{error:#}"))
    }

    fn shown(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn binding(host_addr: &str, host_port: u16, count: u16) -> PortBinding {
        let (host_addr, proto) = (addr(host_addr), Proto::Tcp);
        PortBinding { host_addr, host_port, container_port: 1, count, proto, counter: 0, from: vec![] }
    }
}
