//! The `-p` grammar, Docker's: `[[ADDR:][HOSTPORTS]:]PORTS[/PROTO]` or `published=..,target=..[,protocol=..]`.
//!
//! Pure text to values. The error texts are Docker's, word for word, so that scripts that match them go on
//! working. Whether a port is free, local or of a supported protocol is decided elsewhere.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::binding::span;

/// The protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    Tcp,
    Udp,
    Sctp,
}

/// Host ports that may be taken for a container port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPorts {
    /// Exactly this one; of a range the first.
    One(u16),
    /// Any free port of the host's ephemeral range.
    Any,
    /// The first free port from the first to the last, both included.
    FirstFreeOf(u16, u16),
}

/// Container ports to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// `None` is the agent's default binding address.
    pub host_ip: Option<IpAddr>,
    pub host_ports: HostPorts,
    /// The first.
    pub container_port: u16,
    /// Number of ports; 1 unless `host_ports` is [`HostPorts::One`].
    pub count: u16,
    pub proto: Proto,
}

/// Published host ports as `unpublish` names them: `[ADDR:]PORT[-LAST][/PROTO]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// `None` is every address.
    pub addr: Option<IpAddr>,
    pub ports: RangeInclusive<u16>,
    pub proto: Proto,
}

/// Who may use published ports: `[PORT[-LAST][/PROTO]=]CIDR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// Host ports; `None` is all of the request.
    pub ports: Option<RangeInclusive<u16>>,
    /// `None` is every protocol.
    pub proto: Option<Proto>,
    pub net: IpNet,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortSpecError {
    #[error("no port specified: {0}<empty>")]
    NoPort(String),
    #[error("invalid proto: {0}")]
    Proto(String),
    #[error("invalid IP address: {0}")]
    Address(String),
    #[error("invalid IP address {0}: address {0}:: {1}")]
    Brackets(String, &'static str),
    #[error("invalid containerPort: {0}")]
    ContainerPort(String),
    #[error("invalid hostPort: {0}")]
    HostPort(String),
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Lengths { container: String, host: String },
    #[error("invalid port specification: \"0/{0}\"")]
    PortZero(Proto),
    #[error("invalid publish opts format (should be name=value but got '{0}')")]
    LongForm(String),
    #[error("empty string specified for ports")]
    EmptyRange,
    #[error("invalid port range: {0}")]
    ReversedRange(String),
    #[error("invalid {what} '{text}': {reason}")]
    Number { what: &'static str, text: String, reason: &'static str },
    #[error("invalid port format for --expose: {0}")]
    Expose(String),
    #[error("invalid range format for --expose: {text}, error: {error}")]
    ExposeRange { text: String, error: Box<PortSpecError> },
    #[error("invalid source `{0}`: want [PORT[-LAST][/PROTO]=]CIDR")]
    From(String),
}

/// Parses one `-p` argument. A range gives one [`PortSpec`], unless each of its ports is chosen by itself.
pub fn parse(text: &str) -> Result<Vec<PortSpec>, PortSpecError> {
    if text.contains('=') {
        return parse_short(&short_form(text)?);
    }
    parse_short(text)
}

/// Parses what `unpublish` takes: `[ADDR:]PORT[-LAST][/PROTO]`.
pub fn parse_published(text: &str) -> Result<Published, PortSpecError> {
    let (addr, ports) = text.rsplit_once(':').unwrap_or(("", text));
    let (ports, proto) = parse_ports(ports)?;
    Ok(Published { addr: parse_address(addr)?, ports, proto: proto.unwrap_or(Proto::Tcp) })
}

/// Parses what `--expose` takes: `PORT[-LAST][/PROTO]`.
pub fn parse_exposed(text: &str) -> Result<(RangeInclusive<u16>, Proto), PortSpecError> {
    if text.contains(':') {
        return Err(PortSpecError::Expose(text.to_owned()));
    }
    let in_context = |error| PortSpecError::ExposeRange { text: text.to_owned(), error: Box::new(error) };
    let (ports, proto) = text.split_once('/').unwrap_or((text, ""));
    let (first, last) = parse_range(ports).map_err(in_context)?;
    let proto = parse_proto(proto)?;
    if first == 0 { Err(PortSpecError::PortZero(proto)) } else { Ok((first..=last, proto)) }
}

/// Parses what `--from` takes: `[PORT[-LAST][/PROTO]=]CIDR`; an address without length is that one.
pub fn parse_from(text: &str) -> Result<From, PortSpecError> {
    let (ports, net) = text.rsplit_once('=').map_or((None, text), |(ports, net)| (Some(ports), net));
    let net = net.parse().or_else(|_| net.parse().map(|addr: IpAddr| IpNet::from(addr.to_canonical())));
    let net: IpNet = net.map_err(|_| PortSpecError::From(text.to_owned()))?;
    let (ports, proto) = match ports.map(parse_ports).transpose()? {
        Some((ports, proto)) => (Some(ports), proto),
        None => (None, None),
    };
    Ok(From { ports, proto, net: net.trunc() })
}

/// Parses `PORT[-LAST][/PROTO]` where 0 is no port.
fn parse_ports(text: &str) -> Result<(RangeInclusive<u16>, Option<Proto>), PortSpecError> {
    if !text.split('/').next().unwrap_or_default().contains('-') {
        let (port, proto) = parse_port(text)?;
        return Ok((port..=port, text.contains('/').then_some(proto)));
    }
    let (ports, proto) = text.split_once('/').unwrap_or((text, ""));
    let named = (!proto.is_empty()).then(|| parse_proto(proto)).transpose()?;
    let (first, last) = parse_range(ports)?;
    if first == 0 { Err(PortSpecError::PortZero(named.unwrap_or(Proto::Tcp))) } else { Ok((first..=last, named)) }
}

/// Parses one port with an optional protocol: `PORT[/PROTO]`.
pub fn parse_port(text: &str) -> Result<(u16, Proto), PortSpecError> {
    let (port, proto) = text.split_once('/').unwrap_or((text, ""));
    let number = |reason| PortSpecError::Number { what: "port", text: port.to_owned(), reason };
    let (port, proto) = (parse_number(port).map_err(number)?, parse_proto(proto)?);
    if port == 0 { Err(PortSpecError::PortZero(proto)) } else { Ok((port, proto)) }
}

/// Parses `A` or `A-B` with A <= B; 0 is a port here.
pub fn parse_range(text: &str) -> Result<(u16, u16), PortSpecError> {
    if text.is_empty() {
        return Err(PortSpecError::EmptyRange);
    }
    let number = |what, text: &str| {
        parse_number(text).map_err(|reason| PortSpecError::Number { what, text: text.to_owned(), reason })
    };
    let Some((start, end)) = text.split_once('-') else {
        return number("start port", text).map(|port| (port, port));
    };
    let (first, last) = (number("start port", start)?, number("end port", end)?);
    if last < first { Err(PortSpecError::ReversedRange(text.to_owned())) } else { Ok((first, last)) }
}

fn parse_short(text: &str) -> Result<Vec<PortSpec>, PortSpecError> {
    let (addr, host, container) = split(text);
    let (container, proto) = container.split_once('/').unwrap_or((container, ""));
    if container.is_empty() {
        return Err(PortSpecError::NoPort(text.to_owned()));
    }
    let proto = parse_proto(proto)?;
    let host_ip = parse_address(addr)?;
    let containers = parse_range(container).map_err(|_| PortSpecError::ContainerPort(container.to_owned()))?;
    let hosts = match host {
        "" => None,
        _ => Some(parse_range(host).map_err(|_| PortSpecError::HostPort(host.to_owned()))?),
    };
    if containers.0 == 0 {
        return Err(PortSpecError::PortZero(proto));
    }
    let runs = pair(containers, hosts)
        .ok_or_else(|| PortSpecError::Lengths { container: container.to_owned(), host: host.to_owned() })?;
    let spec = |(container_port, host_ports, count)| PortSpec { host_ip, host_ports, container_port, count, proto };
    Ok(runs.into_iter().map(spec).collect())
}

/// Runs of container ports: the first, its host ports, and how many; `None` where the ranges do not fit
/// together.
fn pair(containers: (u16, u16), hosts: Option<(u16, u16)>) -> Option<Vec<(u16, HostPorts, u16)>> {
    let (first, last) = containers;
    let Some((first_host, last_host)) = hosts else {
        return Some((first..=last).map(|port| (port, HostPorts::Any, 1)).collect());
    };
    let length = last - first;
    if last_host - first_host != length {
        return (length == 0).then(|| vec![(first, HostPorts::FirstFreeOf(first_host.max(1), last_host), 1)]);
    }
    if first_host > 0 {
        return Some(vec![(first, HostPorts::One(first_host), length + 1)]);
    }
    // Host port 0 is any, the others of the range are themselves.
    let rest = (length > 0).then(|| (first + 1, HostPorts::One(1), length));
    Some(std::iter::once((first, HostPorts::Any, 1)).chain(rest).collect())
}

/// Address, host ports and container ports: split at the last two colons, so that a bare IPv6 address
/// stays in one piece.
fn split(text: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = text.rsplit_once(':') else {
        return ("", "", text);
    };
    let (addr, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    (addr, host, container)
}

fn parse_address(text: &str) -> Result<Option<IpAddr>, PortSpecError> {
    let bare = if text.starts_with('[') { strip_brackets(text)? } else { text };
    if bare.is_empty() {
        return Ok(None);
    }
    let addr = IpAddr::from_str(bare).map_err(|_| PortSpecError::Address(bare.to_owned()))?;
    Ok(Some(addr.to_canonical()))
}

fn strip_brackets(text: &str) -> Result<&str, PortSpecError> {
    let error = |what| PortSpecError::Brackets(text.to_owned(), what);
    match text[1..].split_once(']') {
        None => Err(error("missing ']' in address")),
        Some((inner, "")) if inner.contains('[') => Err(error("unexpected '[' in address")),
        Some((inner, "")) => Ok(inner),
        Some((_, after)) if after.starts_with(':') => Err(error("too many colons in address")),
        Some(_) => Err(error("missing port in address")),
    }
}

/// Rewrites `published=8080,target=80,protocol=udp` to `8080:80/udp`.
fn short_form(text: &str) -> Result<String, PortSpecError> {
    let (mut published, mut target, mut proto) = ("", "", "tcp");
    for option in text.split(',') {
        match option.split_once('=') {
            None | Some(("", _)) => return Err(PortSpecError::LongForm(option.to_owned())),
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => proto = value,
            // Docker ignores the other keys, `mode` among them.
            Some(_) => {}
        }
    }
    Ok(format!("{published}:{target}/{proto}"))
}

fn parse_proto(text: &str) -> Result<Proto, PortSpecError> {
    if text.is_empty() { Ok(Proto::Tcp) } else { text.to_lowercase().parse() }
}

/// A port number as Go's `strconv.ParseInt` reads it: leading zeros and a sign are fine.
fn parse_number(text: &str) -> Result<u16, &'static str> {
    if text.is_empty() {
        return Err("value is empty");
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    let value = text.parse::<i64>().ok().and_then(|value| u16::try_from(value).ok());
    value.ok_or("value out of range (0–65535)")
}

impl Proto {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Proto {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<Self, PortSpecError> {
        Ok(match text {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "sctp" => Self::Sctp,
            _ => return Err(PortSpecError::Proto(text.to_owned())),
        })
    }
}

impl fmt::Display for PortSpec {
    /// In the grammar that [`parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(addr)) => write!(f, "[{addr}]")?,
            Some(addr) => write!(f, "{addr}")?,
            None => {}
        }
        match self.host_ports {
            HostPorts::Any => write!(f, ":")?,
            HostPorts::One(port) => write!(f, ":{}", span(&(port..=port + (self.count - 1))))?,
            HostPorts::FirstFreeOf(first, last) => write!(f, ":{first}-{last}")?,
        }
        write!(f, ":{}/{}", span(&(self.container_port..=self.container_port + (self.count - 1))), self.proto)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Host address, host ports, container port, number of ports, protocol.
    type Row = (&'static str, HostPorts, u16, u16, Proto);

    #[test]
    fn every_valid_row_of_dockers_table_parses_to_what_docker_makes_of_it() {
        use HostPorts::{Any, FirstFreeOf, One};
        let rows: &[(&str, &[Row])] = &[
            ("1234/tcp", &[("", Any, 1234, 1, Proto::Tcp)]),
            ("2345/udp", &[("", Any, 2345, 1, Proto::Udp)]),
            ("3456/sctp", &[("", Any, 3456, 1, Proto::Sctp)]),
            ("1234:1234/tcp", &[("", One(1234), 1234, 1, Proto::Tcp)]),
            ("0.0.0.0:1234:1234/tcp", &[("0.0.0.0", One(1234), 1234, 1, Proto::Tcp)]),
            ("0.0.0.0:1234-1235:3333-3334/tcp", &[("0.0.0.0", One(1234), 3333, 2, Proto::Tcp)]),
            (
                "1234-1236/tcp",
                &[("", Any, 1234, 1, Proto::Tcp), ("", Any, 1235, 1, Proto::Tcp), ("", Any, 1236, 1, Proto::Tcp)],
            ),
            ("1234-1236:1234-1236/udp", &[("", One(1234), 1234, 3, Proto::Udp)]),
            ("192.168.1.100::80", &[("192.168.1.100", Any, 80, 1, Proto::Tcp)]),
            ("192.168.1.100:8080:80", &[("192.168.1.100", One(8080), 80, 1, Proto::Tcp)]),
            ("192.168.1.100::6000/udp", &[("192.168.1.100", Any, 6000, 1, Proto::Udp)]),
            ("192.168.1.100::6000/sctp", &[("192.168.1.100", Any, 6000, 1, Proto::Sctp)]),
            (":8080:6000/tcp", &[("", One(8080), 6000, 1, Proto::Tcp)]),
            ("::6000", &[("", Any, 6000, 1, Proto::Tcp)]),
            ("[::1]:80:80", &[("::1", One(80), 80, 1, Proto::Tcp)]),
            ("[2001:4860:0:2001::68]::333", &[("2001:4860:0:2001::68", Any, 333, 1, Proto::Tcp)]),
            ("2001:4860:0:2001::68::333", &[("2001:4860:0:2001::68", Any, 333, 1, Proto::Tcp)]),
            ("::1:80:80", &[("::1", One(80), 80, 1, Proto::Tcp)]),
            ("::::80", &[("::", Any, 80, 1, Proto::Tcp)]),
            ("8080-8081:80", &[("", FirstFreeOf(8080, 8081), 80, 1, Proto::Tcp)]),
            ("80/TCP", &[("", Any, 80, 1, Proto::Tcp)]),
            ("1234/", &[("", Any, 1234, 1, Proto::Tcp)]),
            ("0:80", &[("", Any, 80, 1, Proto::Tcp)]),
            ("target=10,published=20", &[("", One(20), 10, 1, Proto::Tcp)]),
            ("published=1500,target=200", &[("", One(1500), 200, 1, Proto::Tcp)]),
            ("published=1500,target=200,protocol=udp,mode=host", &[("", One(1500), 200, 1, Proto::Udp)]),
            ("80-80:81-81", &[("", One(80), 81, 1, Proto::Tcp)]),
            ("0123:+80", &[("", One(123), 80, 1, Proto::Tcp)]),
            ("::ffff:192.168.1.1:80:80", &[("192.168.1.1", One(80), 80, 1, Proto::Tcp)]),
            ("65535:65535", &[("", One(65535), 65535, 1, Proto::Tcp)]),
            ("1000-60999:1000-60999", &[("", One(1000), 1000, 60_000, Proto::Tcp)]),
            ("1-65535:1-65535/sctp", &[("", One(1), 1, 65_535, Proto::Sctp)]),
            ("0-2:80-82", &[("", Any, 80, 1, Proto::Tcp), ("", One(1), 81, 2, Proto::Tcp)]),
            ("[fd00::1]:8080-8081:80-81", &[("fd00::1", One(8080), 80, 2, Proto::Tcp)]),
        ];
        for (text, expected) in rows {
            let expected = expected.iter().map(|&(ip, host_ports, container_port, count, proto)| PortSpec {
                host_ip: (!ip.is_empty()).then(|| ip.parse().unwrap()),
                host_ports,
                container_port,
                count,
                proto,
            });
            assert_eq!(parse(text), Ok(expected.collect()), "{text}");
        }
    }

    #[test]
    fn every_invalid_row_of_dockers_table_gives_dockers_words() {
        let rows = [
            ("", "no port specified: <empty>"),
            ("0.0.0.0:1234-1235:", "no port specified: 0.0.0.0:1234-1235:<empty>"),
            ("0.0.0.0:1234-1235:/tcp", "no port specified: 0.0.0.0:1234-1235:/tcp<empty>"),
            ("localhost:1234:1234/tcp", "invalid IP address: localhost"),
            ("localhost:1234-1236:1234-1236/tcp", "invalid IP address: localhost"),
            ("192.168.1.100", "invalid containerPort: 192.168.1.100"),
            ("192.168.1.100:-1:-1", "invalid containerPort: -1"),
            ("127.0.0.1:80", "invalid hostPort: 127.0.0.1"),
            ("8000-8001:80-82", "invalid ranges specified for container and host Ports: 80-82 and 8000-8001"),
            ("80:80-82", "invalid ranges specified for container and host Ports: 80-82 and 80"),
            ("80/icmp", "invalid proto: icmp"),
            ("80/tcp/udp", "invalid proto: tcp/udp"),
            ("8080:0", "invalid port specification: \"0/tcp\""),
            ("0/udp", "invalid port specification: \"0/udp\""),
            ("65536:80", "invalid hostPort: 65536"),
            ("80:9000-8000", "invalid containerPort: 9000-8000"),
            ("fe80::1%eth0:80:80", "invalid IP address: fe80::1%eth0"),
            ("[::1:80:80", "invalid IP address [::1: address [::1:: missing ']' in address"),
            ("[::1]x:80:80", "invalid IP address [::1]x: address [::1]x:: missing port in address"),
            ("[[::1]:80:80", "invalid IP address [[::1]: address [[::1]:: unexpected '[' in address"),
            ("[::1]:1:80:80", "invalid IP address [::1]:1: address [::1]:1:: too many colons in address"),
            ("published=1500,target:444", "invalid publish opts format (should be name=value but got 'target:444')"),
            ("published=1500,444", "invalid publish opts format (should be name=value but got '444')"),
            ("published=1500,target,444", "invalid publish opts format (should be name=value but got 'target')"),
            ("=80", "invalid publish opts format (should be name=value but got '=80')"),
            ("published=1500", "no port specified: 1500:/tcp<empty>"),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text:?}");
        }
    }

    #[test]
    fn every_row_of_dockers_range_table_gives_dockers_words() {
        let rows = [
            ("", "empty string specified for ports"),
            ("9000-8000", "invalid port range: 9000-8000"),
            ("8000-", "invalid end port '': value is empty"),
            ("-9000", "invalid start port '': value is empty"),
            ("-8000-", "invalid start port '': value is empty"),
            ("-", "invalid start port '': value is empty"),
            ("asdf", "invalid start port 'asdf': invalid syntax"),
            ("8000-a", "invalid end port 'a': invalid syntax"),
            ("8000-9000a", "invalid end port '9000a': invalid syntax"),
            ("a-9000", "invalid start port 'a': invalid syntax"),
            ("8000a-9000", "invalid start port '8000a': invalid syntax"),
            ("65536", "invalid start port '65536': value out of range (0–65535)"),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_range(text).unwrap_err().to_string(), expected, "{text:?}");
        }
        for (text, expected) in
            [("1234", (1234, 1234)), ("1234-1234", (1234, 1234)), ("8000-9000", (8000, 9000)), ("0-0", (0, 0))]
        {
            assert_eq!(parse_range(text), Ok(expected));
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, expected) in [("0", 0), ("0123", 123), ("+80", 80), ("65535", 65535), ("-0", 0)] {
            assert_eq!(parse_number(text), Ok(expected), "{text:?}");
        }
        for text in ["65536", "70000", "-1", "99999999999999999999"] {
            assert_eq!(parse_number(text), Err("value out of range (0–65535)"), "{text:?}");
        }
        for text in ["  42  ", "   ", "1asdf", "1234abc", "foo", "+", "1_0", "٣"] {
            assert_eq!(parse_number(text), Err("invalid syntax"), "{text:?}");
        }
    }

    #[test]
    fn a_specification_is_shown_as_docker_shows_it() {
        for (text, shown) in [
            ("[::1]:8080:6000/udp", "[::1]:8080:6000/udp"),
            ("::::6000/udp", "[::]::6000/udp"),
            ("80", "::80/tcp"),
            ("127.0.0.1:8080-8090:80", "127.0.0.1:8080-8090:80/tcp"),
            ("8080-8081:80-81", ":8080-8081:80-81/tcp"),
        ] {
            assert_eq!(parse(text).unwrap()[0].to_string(), shown);
        }
    }

    #[test]
    fn published_ports_have_an_optional_address_and_protocol() {
        let published = |addr: &str, ports, proto| {
            let addr = (!addr.is_empty()).then(|| addr.parse().unwrap());
            Ok(Published { addr, ports, proto })
        };
        for (text, expected) in [
            ("8080", published("", 8080..=8080, Proto::Tcp)),
            ("127.0.0.1:8080/tcp", published("127.0.0.1", 8080..=8080, Proto::Tcp)),
            ("53/udp", published("", 53..=53, Proto::Udp)),
            ("8000-8010/udp", published("", 8000..=8010, Proto::Udp)),
            ("[::1]:80", published("::1", 80..=80, Proto::Tcp)),
            ("::1:80-81", published("::1", 80..=81, Proto::Tcp)),
        ] {
            assert_eq!(parse_published(text), expected, "{text}");
        }
        for (text, expected) in [
            ("", "invalid port '': value is empty"),
            ("x", "invalid port 'x': invalid syntax"),
            ("0", "invalid port specification: \"0/tcp\""),
            ("0-9/udp", "invalid port specification: \"0/udp\""),
            ("9-8", "invalid port range: 9-8"),
            ("host:80", "invalid IP address: host"),
            ("80/icmp", "invalid proto: icmp"),
        ] {
            assert_eq!(parse_published(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn exposed_ports_are_read_as_docker_reads_them() {
        assert_eq!(parse_exposed("80"), Ok((80..=80, Proto::Tcp)));
        assert_eq!(parse_exposed("8000-8010/udp"), Ok((8000..=8010, Proto::Udp)));
        for (text, expected) in [
            ("80:80", "invalid port format for --expose: 80:80"),
            ("9-8", "invalid range format for --expose: 9-8, error: invalid port range: 9-8"),
            ("80/icmp", "invalid proto: icmp"),
            ("0", "invalid port specification: \"0/tcp\""),
        ] {
            assert_eq!(parse_exposed(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_source_is_a_network_or_an_address_for_all_ports_or_some() {
        let from = |ports, proto, net: &str| Ok(From { ports, proto, net: net.parse().unwrap() });
        for (text, expected) in [
            ("10.0.0.0/8", from(None, None, "10.0.0.0/8")),
            ("10.1.2.3/8", from(None, None, "10.0.0.0/8")),
            ("192.0.2.1", from(None, None, "192.0.2.1/32")),
            ("fd00::/8", from(None, None, "fd00::/8")),
            ("8080=::1", from(Some(8080..=8080), None, "::1/128")),
            ("8000-8010/udp=10.0.0.0/8", from(Some(8000..=8010), Some(Proto::Udp), "10.0.0.0/8")),
        ] {
            assert_eq!(parse_from(text), expected, "{text}");
        }
        for text in ["", "x", "8080=", "10.0.0.0/33", "=10.0.0.0/8", "0=10.0.0.0/8", "80/icmp=10.0.0.0/8"] {
            assert!(parse_from(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,24}|[0-9:./\\[\\]a-z=,+-]{0,24}") {
            let _ = parse(&text);
            let _ = (parse_published(&text), parse_exposed(&text), parse_from(&text));
        }

        #[test]
        fn what_is_shown_parses_back(
            ip in any::<Option<u128>>(), host in 1u16.., port in 1u16..60_000, range in 0u16..9, count in 1u16..9,
        ) {
            let last = host.saturating_add(range);
            let (host_ports, count) = if last > host {
                (HostPorts::FirstFreeOf(host, last), 1)
            } else {
                (HostPorts::One(host), count.min(u16::MAX - host + 1))
            };
            let host_ip = ip.map(|ip| IpAddr::V6(ip.into()).to_canonical());
            let spec = PortSpec { host_ip, host_ports, container_port: port, count, proto: Proto::Udp };
            prop_assert_eq!(parse(&spec.to_string()), Ok(vec![spec]));
        }
    }
}
