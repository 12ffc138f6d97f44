//! A container's `/etc/hosts`, in the order and with the spacing Docker writes it. Pure.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const IPV4: &str = "127.0.0.1\tlocalhost\n";
const IPV6: &str = "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
                    ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";
/// Stands for the host in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

/// What a container's `/etc/hosts` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts<'a> {
    /// The container's namespace has IPv6 on: `lo` has its address.
    pub has_ipv6: bool,
    pub extra: &'a [ExtraHost],
    /// What `host-gateway` stands for.
    pub gateways: &'a [IpAddr],
    /// Addresses of linked containers, with the names that [`super::link::Link`] gives them.
    pub links: &'a [(IpAddr, String)],
    pub hostname: &'a str,
    /// The container's own, in the order of its interfaces.
    pub addrs: &'a [IpAddr],
}

/// An entry of `--add-host NAME:ADDR`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExtraHost {
    pub name: String,
    /// `None` is the host's own address in the container's network.
    pub addr: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtraHostError {
    #[error("bad format for add-host: {0:?}")]
    Format(String),
    #[error("invalid IP address in add-host: {0:?}")]
    Addr(String),
}

impl Hosts<'_> {
    /// The whole file.
    pub fn text(&self) -> String {
        let mut text = IPV4.to_owned();
        if self.has_ipv6 {
            text += IPV6;
        }
        for host in self.extra {
            let addrs = host.addr.as_ref().map_or(self.gateways, std::slice::from_ref);
            self.push(&mut text, addrs.iter().map(|addr| (*addr, host.name.as_str())));
        }
        self.push(&mut text, self.links.iter().map(|(addr, names)| (*addr, names.as_str())));
        let names = own_names(self.hostname);
        self.push(&mut text, self.addrs.iter().map(|addr| (*addr, names.as_str())));
        text
    }

    fn push<'a>(&self, text: &mut String, entries: impl Iterator<Item = (IpAddr, &'a str)>) {
        let usable = entries.filter(|(addr, _)| addr.is_ipv4() || self.has_ipv6);
        text.extend(usable.map(|(addr, names)| format!("{addr}\t{names}\n")));
    }
}

/// The host name, and its first label where it has several.
fn own_names(hostname: &str) -> String {
    match hostname.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{hostname} {short}"),
        _ => hostname.to_owned(),
    }
}

/// `current` with the lines of `before` made those of `after`. A line of `before` that is not in `current`
/// has been changed by the user, and stays as it is.
pub fn update(current: &str, before: &str, after: &str) -> String {
    let lines = |text| str::lines(text).collect::<VecDeque<_>>();
    let (old, mut new) = (lines(before), lines(after));
    let mut gone: Vec<&str> = old.iter().copied().filter(|line| !new.contains(line)).collect();
    new.retain(|line| !old.contains(line));
    // Pairs of a line that goes and the one that takes its place: the same names, the same address family.
    let mut pairs: Vec<(&str, Option<&str>)> = Vec::new();
    for line in gone.drain(..) {
        let place = new.iter().position(|candidate| owner(candidate) == owner(line));
        pairs.push((line, place.and_then(|i| new.remove(i))));
    }
    let mut text = String::new();
    for line in current.lines() {
        let kept = match pairs.iter().position(|(gone, _)| *gone == line) {
            Some(i) => pairs.swap_remove(i).1,
            None => Some(line),
        };
        text.extend(kept.into_iter().flat_map(|line| [line, "\n"]));
    }
    text.extend(new.into_iter().flat_map(|line| [line, "\n"]));
    text
}

/// Whose line it is: the names, and whether the address is of IPv6.
fn owner(line: &str) -> (&str, bool) {
    let (addr, names) = line.split_once('\t').unwrap_or(("", line));
    (names, addr.contains(':'))
}

impl FromStr for ExtraHost {
    type Err = ExtraHostError;

    /// `NAME:ADDR` or `NAME=ADDR`; an address may stand in brackets.
    fn from_str(text: &str) -> Result<Self, ExtraHostError> {
        let parts = text.split_once('=').or_else(|| text.split_once(':'));
        let (name, addr) = parts.ok_or_else(|| ExtraHostError::Format(text.to_owned()))?;
        // A blank or a line end would give the line another meaning.
        if name.is_empty() || name.contains(|c: char| c == ':' || c == '#' || c.is_whitespace() || c.is_control()) {
            return Err(ExtraHostError::Format(text.to_owned()));
        }
        if addr == HOST_GATEWAY {
            return Ok(Self { name: name.to_owned(), addr: None });
        }
        let bare = addr.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(addr);
        let addr = bare.trim().parse().map_err(|_| ExtraHostError::Addr(bare.to_owned()))?;
        Ok(Self { name: name.to_owned(), addr: Some(addr) })
    }
}

impl TryFrom<String> for ExtraHost {
    type Error = ExtraHostError;

    fn try_from(text: String) -> Result<Self, ExtraHostError> {
        text.parse()
    }
}

impl From<ExtraHost> for String {
    fn from(host: ExtraHost) -> Self {
        let addr = host.addr.map_or_else(|| HOST_GATEWAY.to_owned(), |addr| addr.to_string());
        format!("{}:{addr}", host.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V6_LINES: &str = "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
                            ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

    #[test]
    fn a_container_without_options_knows_localhost_and_itself() {
        let hosts = Hosts { hostname: "web", addrs: &[addr("172.17.0.2")], ..Hosts::default() };
        assert_eq!(hosts.text(), "127.0.0.1\tlocalhost\n172.17.0.2\tweb\n");
        let text = Hosts { has_ipv6: true, ..hosts }.text();
        assert_eq!(text, format!("127.0.0.1\tlocalhost\n{V6_LINES}172.17.0.2\tweb\n"));
    }

    #[test]
    fn a_container_without_a_network_knows_localhost() {
        assert_eq!(Hosts { hostname: "web", ..Hosts::default() }.text(), "127.0.0.1\tlocalhost\n");
    }

    #[test]
    fn a_domain_name_is_followed_by_its_first_label() {
        let hosts = Hosts { hostname: "web.example.org", addrs: &[addr("172.17.0.2")], ..Hosts::default() };
        assert_eq!(hosts.text(), "127.0.0.1\tlocalhost\n172.17.0.2\tweb.example.org web\n");
    }

    #[test]
    fn added_hosts_come_first_then_links_then_the_container() {
        let extra = ["repo:192.0.2.7", "six:2001:db8::7", "up:host-gateway"].map(|text| text.parse().unwrap());
        let hosts = Hosts {
            has_ipv6: true,
            extra: &extra,
            gateways: &[addr("172.17.0.1"), addr("fd00::1")],
            links: &[(addr("172.17.0.2"), "db 0123 postgres".to_owned()), (addr("fd00::2"), "db 0123".to_owned())],
            hostname: "web",
            addrs: &[addr("172.17.0.3"), addr("fd00::3")],
        };
        let expected = "192.0.2.7\trepo\n2001:db8::7\tsix\n172.17.0.1\tup\nfd00::1\tup\n172.17.0.2\tdb 0123 postgres\n\
                        fd00::2\tdb 0123\n172.17.0.3\tweb\nfd00::3\tweb\n";
        assert_eq!(hosts.text(), format!("127.0.0.1\tlocalhost\n{V6_LINES}{expected}"));
        let expected = "192.0.2.7\trepo\n172.17.0.1\tup\n172.17.0.2\tdb 0123 postgres\n172.17.0.3\tweb\n";
        let without = Hosts { has_ipv6: false, ..hosts };
        assert_eq!(without.text(), format!("127.0.0.1\tlocalhost\n{expected}"));
    }

    #[test]
    fn added_hosts_are_read_as_docker_reads_them() {
        let good = [
            ("db:192.0.2.1", "db:192.0.2.1"),
            ("db=192.0.2.1", "db:192.0.2.1"),
            ("db:::1", "db:::1"),
            ("db=::1", "db:::1"),
            ("db:[::1]", "db:::1"),
            ("db:2001:db8:0:0::1", "db:2001:db8::1"),
            ("up:host-gateway", "up:host-gateway"),
        ];
        for (text, expected) in good {
            let host: ExtraHost = text.parse().unwrap();
            assert_eq!(String::from(host.clone()), expected, "{text}");
            assert_eq!(expected.parse(), Ok(host), "{text}");
        }
        let bad = [
            ("", r#"bad format for add-host: """#),
            ("db", r#"bad format for add-host: "db""#),
            (":192.0.2.1", r#"bad format for add-host: ":192.0.2.1""#),
            ("a b:192.0.2.1", r#"bad format for add-host: "a b:192.0.2.1""#),
            ("a:b=192.0.2.1", r#"bad format for add-host: "a:b=192.0.2.1""#),
            ("db:", r#"invalid IP address in add-host: """#),
            ("db:host", r#"invalid IP address in add-host: "host""#),
            ("db:192.0.2.256", r#"invalid IP address in add-host: "192.0.2.256""#),
        ];
        for (text, expected) in bad {
            assert_eq!(text.parse::<ExtraHost>().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn only_generated_lines_follow_an_update() {
        let before = "127.0.0.1\tlocalhost\n172.17.0.2\tdb 0123\n172.17.0.3\tweb\n";
        let after = before.replace("172.17.0.2", "172.17.0.9");
        assert_eq!(update(before, before, &after), after);
        let with_own = format!("# mine\n{before}10.0.0.1\tmine");
        assert_eq!(update(&with_own, before, &after), format!("# mine\n{after}10.0.0.1\tmine\n"));
    }

    #[test]
    fn a_line_that_the_user_changed_or_removed_stays_so() {
        let before = "172.17.0.2\tdb\n172.17.0.3\tweb\n";
        let after = "172.17.0.9\tdb\n172.17.0.3\tweb\n";
        for edited in ["10.0.0.2\tdb\n172.17.0.3\tweb\n", "172.17.0.3\tweb\n", "172.17.0.2\tdb extra\n"] {
            assert_eq!(update(edited, before, after), edited);
        }
    }

    #[test]
    fn lines_that_are_new_are_added_and_those_without_successor_go() {
        let before = "172.17.0.2\tdb\nfd00::2\tdb\n172.17.0.3\tweb\n";
        assert_eq!(update(before, before, "172.17.0.3\tweb\n"), "172.17.0.3\tweb\n");
        let after = "172.17.0.3\tweb\n10.1.0.3\tweb\n172.17.0.4\tcache\n";
        assert_eq!(update("172.17.0.3\tweb", "172.17.0.3\tweb\n", after), after);
        // The IPv4 line takes the place of the IPv4 line.
        let after = "fd00::9\tdb\n172.17.0.9\tdb\n172.17.0.3\tweb\n";
        assert_eq!(update(before, before, after), "172.17.0.9\tdb\nfd00::9\tdb\n172.17.0.3\tweb\n");
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
