//! From `-p` specifications to port bindings: which host ports are free, and who has the others. Writes
//! nothing; what is on the host beside netpath is asked through [`HostPorts`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use netpath_common::PortRange;

use crate::holder::Sockets;
use crate::host;
use crate::port_spec::{self, HostPort, HostPorts as Wanted, PortSpec, Proto};
use crate::refusal::Refusal;
use crate::state::{PortBinding, State};

/// The ports of the host as its sockets and settings have them.
pub trait HostPorts {
    /// The process that has `port` on `addr`, in words.
    fn holder(&mut self, proto: Proto, addr: Ipv4Addr, port: u16) -> Result<Option<String>>;

    /// The range that automatic ports come from.
    fn ephemeral(&self) -> Result<PortRange>;

    /// Ports that are never chosen automatically.
    fn reserved(&self) -> Result<Vec<PortRange>>;
}

/// [`HostPorts`] as /proc shows them, each table read once.
#[derive(Default)]
pub struct ProcPorts {
    sockets: HashMap<Proto, Sockets>,
}

/// Chooses host ports for one request.
pub struct Resolver<'a, H> {
    host: H,
    /// Address of bindings that name none.
    default_addr: Ipv4Addr,
    local_addrs: &'a [Ipv4Addr],
    /// Who has published a port, by address.
    taken: HashMap<(Proto, u16), Vec<(Ipv4Addr, &'a str)>>,
    /// The port given out automatically last.
    last_automatic: u16,
}

impl<'a, H: HostPorts> Resolver<'a, H> {
    pub fn new(
        host: H,
        state: &'a State,
        default_addr: Ipv4Addr,
        local_addrs: &'a [Ipv4Addr],
        last_automatic: u16,
    ) -> Self {
        let mut taken: HashMap<_, Vec<_>> = HashMap::new();
        for (name, port) in state.bindings() {
            let IpAddr::V4(addr) = port.host_addr else { continue };
            for host_port in port.host_ports() {
                taken.entry((port.proto, host_port)).or_default().push((addr, name));
            }
        }
        Self { host, default_addr, local_addrs, taken, last_automatic }
    }

    pub fn last_automatic(&self) -> u16 {
        self.last_automatic
    }

    /// The bindings that `texts` ask for on behalf of the endpoint `name`, with counters still to give.
    ///
    /// # Errors
    /// A [`Refusal`] if one of them is malformed, or its host port taken.
    pub fn resolve(&mut self, texts: &[String], name: &'a str) -> Result<Vec<PortBinding>> {
        let mut specs = Vec::new();
        for text in texts {
            specs.extend(port_spec::parse(text).map_err(Refusal::invalid)?);
        }
        // Exact ports first, so that no automatic choice takes one away from under them.
        specs.sort_by_key(|spec| match spec.host_ports {
            Wanted::One(_) => 0,
            Wanted::FirstFreeOf(..) => 1,
            Wanted::Any => 2,
        });
        let mut bindings = Vec::with_capacity(specs.len());
        for spec in specs {
            let host_addr = self.host_addr(&spec)?;
            refuse_twice(&spec, host_addr, &bindings)?;
            let host_port = self.host_port(&spec, host_addr)?;
            self.taken.entry((spec.proto, host_port)).or_default().push((host_addr, name));
            bindings.push(PortBinding {
                host_addr: host_addr.into(),
                host_port,
                container_port: spec.container_port,
                count: 1,
                proto: spec.proto,
                counter: 0,
                from: vec![],
            });
        }
        Ok(bindings)
    }

    fn host_addr(&self, spec: &PortSpec) -> Result<Ipv4Addr, Refusal> {
        if spec.proto == Proto::Sctp {
            return Err(Refusal::Invalid(format!(
                "cannot publish {}/sctp: sctp is not supported, only tcp and udp",
                spec.container_port
            )));
        }
        let addr = match spec.host_ip {
            None => self.default_addr,
            Some(IpAddr::V4(addr)) => addr,
            Some(IpAddr::V6(addr)) => {
                return Err(Refusal::Invalid(format!("cannot publish on {addr}: IPv6 is not supported")));
            }
        };
        if addr.is_unspecified() || addr.is_loopback() || self.local_addrs.contains(&addr) {
            return Ok(addr);
        }
        Err(Refusal::Invalid(format!(
            "cannot publish {}/{} on {addr}: no interface of this host has that address",
            spec.container_port, spec.proto
        )))
    }

    fn host_port(&mut self, spec: &PortSpec, addr: Ipv4Addr) -> Result<u16> {
        match spec.host_ports {
            Wanted::One(port) => {
                if let Some(holder) = self.published_by(spec.proto, addr, port) {
                    return Err(Refusal::Taken(format!(
                        "Bind for {addr}:{port} failed: port is already allocated (container `{holder}`)"
                    ))
                    .into());
                }
                if let Some(holder) = self.host.holder(spec.proto, addr, port)? {
                    return Err(Refusal::Taken(format!(
                        "failed to bind host port {addr}:{port}/{}: address already in use by {holder}",
                        spec.proto
                    ))
                    .into());
                }
                Ok(port)
            }
            Wanted::FirstFreeOf(first, last) => self.first_free(spec.proto, addr, first..=last)?.ok_or_else(|| {
                Refusal::Taken(format!("all ports are allocated: none of {first}-{last} is free on {addr}")).into()
            }),
            Wanted::Any => self.automatic(spec.proto, addr),
        }
    }

    /// The next free port of the ephemeral range after the one given out last.
    fn automatic(&mut self, proto: Proto, addr: Ipv4Addr) -> Result<u16> {
        let PortRange { first, last } = self.host.ephemeral()?;
        let reserved = self.host.reserved()?;
        let start = if (first..last).contains(&self.last_automatic) { self.last_automatic + 1 } else { first };
        let ports = (start..=last).chain(first..start).filter(|port| !reserved.iter().any(|r| r.contains(*port)));
        let port = self.first_free(proto, addr, ports)?.ok_or_else(|| {
            Refusal::Taken(format!("all ports are allocated: none of {first}-{last} is free on {addr}"))
        })?;
        self.last_automatic = port;
        Ok(port)
    }

    fn first_free(&mut self, proto: Proto, addr: Ipv4Addr, ports: impl Iterator<Item = u16>) -> Result<Option<u16>> {
        for port in ports {
            if self.published_by(proto, addr, port).is_none() && self.host.holder(proto, addr, port)?.is_none() {
                return Ok(Some(port));
            }
        }
        Ok(None)
    }

    fn published_by(&self, proto: Proto, addr: Ipv4Addr, port: u16) -> Option<&'a str> {
        let holders = self.taken.get(&(proto, port))?;
        holders.iter().find(|(other, _)| overlap(*other, addr)).map(|(_, name)| *name)
    }
}

/// Whether a port on one address is a port on the other too.
fn overlap(one: Ipv4Addr, other: Ipv4Addr) -> bool {
    one == other || one.is_unspecified() || other.is_unspecified()
}

/// Refuses a host port that the same request, with `bindings` so far, has named already.
fn refuse_twice(spec: &PortSpec, addr: Ipv4Addr, bindings: &[PortBinding]) -> Result<(), Refusal> {
    let Wanted::One(port) = spec.host_ports else { return Ok(()) };
    let overlaps = |b: &PortBinding| matches!(b.host_addr, IpAddr::V4(other) if overlap(other, addr));
    let is_same = |b: &PortBinding| b.proto == spec.proto && b.host_port == port && overlaps(b);
    if bindings.iter().any(is_same) {
        return Err(Refusal::Invalid(format!("host port {port}/{} is given twice", spec.proto)));
    }
    Ok(())
}

/// The bindings of `ports` that `texts` do not name.
///
/// # Errors
/// A [`Refusal`] if a text is malformed, or names no binding.
pub fn without(ports: &[PortBinding], texts: &[String], name: &str) -> Result<Vec<PortBinding>, Refusal> {
    let mut left = ports.to_vec();
    for text in texts {
        let wanted = port_spec::parse_host_port(text).map_err(Refusal::invalid)?;
        let matches = |port: &PortBinding| is_meant(port, &wanted);
        if !ports.iter().any(matches) {
            return Err(Refusal::NotFound(format!("container `{name}` does not publish host port {text}")));
        }
        left.retain(|port| !matches(port));
    }
    Ok(left)
}

fn is_meant(port: &PortBinding, wanted: &HostPort) -> bool {
    let addr_fits = wanted.addr.is_none_or(|addr| addr == port.host_addr);
    addr_fits && port.host_ports().contains(&wanted.port) && port.proto == wanted.proto
}

impl HostPorts for ProcPorts {
    fn holder(&mut self, proto: Proto, addr: Ipv4Addr, port: u16) -> Result<Option<String>> {
        let sockets = match self.sockets.entry(proto) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Sockets::read(proto)?),
        };
        Ok(sockets.holder(addr, port).map(|holder| holder.to_string()))
    }

    fn ephemeral(&self) -> Result<PortRange> {
        host::ephemeral_ports()
    }

    fn reserved(&self) -> Result<Vec<PortRange>> {
        host::reserved_ports()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::{Container, samples};

    const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const ETH0: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    #[test]
    fn a_port_that_a_container_has_is_refused_with_dockers_words_and_its_name() {
        let error = resolve(&["8080:80"], &[(ANY, 8080)], 0).unwrap_err();
        assert_eq!(error, "Bind for 0.0.0.0:8080 failed: port is already allocated (container `other`)");
    }

    #[test]
    fn the_wildcard_and_a_specific_address_exclude_each_other() {
        assert!(resolve(&["192.0.2.1:8080:80"], &[(ANY, 8080)], 0).is_err());
        assert!(resolve(&["8080:80"], &[(ETH0, 8080)], 0).is_err());
        assert!(resolve(&["127.0.1.2:8080:80"], &[(Ipv4Addr::new(127, 0, 1, 3), 8080)], 0).is_ok());
        assert!(resolve(&["8080:80/udp"], &[(ANY, 8080)], 0).is_ok());
    }

    #[test]
    fn a_port_that_a_process_has_is_refused_with_the_process() {
        let error = resolve(&["22:80"], &[], 0).unwrap_err();
        assert_eq!(error, "failed to bind host port 0.0.0.0:22/tcp: address already in use by `sshd` (pid 1)");
    }

    #[test]
    fn one_request_does_not_take_a_port_twice() {
        for second in ["8080:80", "8080:81", "192.0.2.1:8080:81"] {
            let error = resolve(&["8080:80", second], &[], 0).unwrap_err();
            assert_eq!(error, "host port 8080/tcp is given twice", "{second}");
        }
        assert!(resolve(&["8080:80", "8080:80/udp"], &[], 0).is_ok());
    }

    #[test]
    fn automatic_ports_go_round_and_skip_what_is_taken_or_reserved() {
        assert_eq!(resolve(&["80"], &[], 0), Ok(vec![(40000, 80)]));
        assert_eq!(resolve(&["80"], &[(ANY, 40000)], 0), Ok(vec![(40001, 80)]));
        assert_eq!(resolve(&["80", "81"], &[], 40001), Ok(vec![(40003, 80), (40000, 81)]), "40002 is reserved");
        let all = [(ANY, 40000), (ANY, 40001), (ANY, 40003)];
        assert!(resolve(&["80"], &all, 0).unwrap_err().starts_with("all ports are allocated"));
    }

    #[test]
    fn a_range_gives_its_first_free_port_after_exact_ones_are_served() {
        assert_eq!(resolve(&["8000-8002:80", "8000:81"], &[], 0), Ok(vec![(8000, 81), (8001, 80)]));
        assert!(resolve(&["21-22:80"], &[(ANY, 21)], 0).is_err());
    }

    #[test]
    fn what_netpath_does_not_serve_is_refused_in_words() {
        for (spec, want) in [
            ("80/sctp", "sctp is not supported"),
            ("[::1]:80:80", "IPv6 is not supported"),
            ("203.0.113.9:80:80", "no interface of this host has that address"),
            ("x:80", "invalid"),
        ] {
            let error = resolve(&[spec], &[], 0).unwrap_err();
            assert!(error.contains(want), "{spec}: {error}");
        }
    }

    #[test]
    fn unpublishing_takes_exactly_what_is_named() {
        let binding = |host_addr, host_port| PortBinding {
            host_addr: IpAddr::V4(host_addr),
            host_port,
            container_port: 80,
            count: 1,
            proto: Proto::Tcp,
            counter: 0,
            from: vec![],
        };
        let ports = [binding(ANY, 80), binding(ETH0, 81), binding(Ipv4Addr::LOCALHOST, 81)];
        let left = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
            without(&ports, &texts, "web").map(|left| left.len())
        };
        assert_eq!(left(&["80"]), Ok(2));
        assert_eq!(left(&["81"]), Ok(1));
        assert_eq!(left(&["192.0.2.1:81"]), Ok(2));
        assert_eq!(left(&["80", "81/tcp"]), Ok(0));
        assert!(matches!(left(&["80", "82"]), Err(Refusal::NotFound(_))));
        assert!(matches!(left(&["80/udp"]), Err(Refusal::NotFound(_))));
        assert!(matches!(left(&["x"]), Err(Refusal::Invalid(_))));
    }

    /// Ports 40000 to 40003 are ephemeral, 40002 is reserved, and `sshd` has port 22.
    struct Fake;

    impl HostPorts for Fake {
        fn holder(&mut self, _: Proto, _: Ipv4Addr, port: u16) -> Result<Option<String>> {
            Ok((port == 22).then(|| "`sshd` (pid 1)".to_owned()))
        }

        fn ephemeral(&self) -> Result<PortRange> {
            Ok(PortRange { first: 40000, last: 40003 })
        }

        fn reserved(&self) -> Result<Vec<PortRange>> {
            Ok(vec![PortRange { first: 40002, last: 40002 }])
        }
    }

    fn resolve(texts: &[&str], taken: &[(Ipv4Addr, u16)], last: u16) -> Result<Vec<(u16, u16)>, String> {
        let port = |(host_addr, host_port): &(Ipv4Addr, u16)| PortBinding {
            host_addr: (*host_addr).into(),
            host_port: *host_port,
            container_port: 1,
            count: 1,
            proto: Proto::Tcp,
            counter: 0,
            from: vec![],
        };
        let mut state = State::new(String::new());
        let container = Container { ports: taken.iter().map(port).collect(), ..samples::container() };
        state.containers = BTreeMap::from([("other".to_owned(), container)]);
        let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
        let mut resolver = Resolver::new(Fake, &state, ANY, &[ETH0], last);
        let bindings = resolver.resolve(&texts, "web").map_err(|error| format!("{error:#}"))?;
        Ok(bindings.iter().map(|port| (port.host_port, port.container_port)).collect())
    }
}
