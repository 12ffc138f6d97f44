//! Links from one container to another: what `--link` says, the names it puts into `/etc/hosts`, and the
//! environment variables that Docker sets for it. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::port_spec::Proto;

/// `--link NAME[:ALIAS]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Link {
    /// The container that is linked to.
    pub name: String,
    /// What the linking container calls it; the name if nothing else is said.
    pub alias: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    #[error("empty string specified for links")]
    Empty,
    #[error("bad format for links: {0}")]
    Format(String),
}

/// What the environment variables tell about the container that is linked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub addr: IpAddr,
    /// Exposed ports, published ones among them.
    pub ports: &'a [(Proto, u16)],
    /// Its own variables, `NAME=VALUE`.
    pub env: &'a [String],
}

impl Link {
    /// What stands behind the target's address in `/etc/hosts`.
    pub fn host_names(&self, hostname: &str) -> String {
        let mut names = vec![self.alias.as_str()];
        for name in [hostname, &self.name] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(" ")
    }

    /// The variables, `NAME=VALUE`, that the container called `parent` gets for this link.
    pub fn env(&self, parent: &str, target: &Target<'_>) -> Vec<String> {
        let prefix = self.alias.to_uppercase().replace('-', "_");
        let mut ports = target.ports.to_vec();
        ports.sort_unstable_by_key(|(proto, port)| (*proto != Proto::Tcp, proto.to_string(), *port));
        ports.dedup();
        let url = |(proto, port): (Proto, u16)| match target.addr {
            IpAddr::V4(addr) => format!("{proto}://{addr}:{port}"),
            IpAddr::V6(addr) => format!("{proto}://[{addr}]:{port}"),
        };
        let of_port = |(proto, port)| format!("{prefix}_PORT_{port}_{}", Proto::to_string(&proto).to_uppercase());

        let mut env: Vec<_> = ports.first().map(|first| format!("{prefix}_PORT={}", url(*first))).into_iter().collect();
        let follows = |a: &(Proto, u16), b: &(Proto, u16)| a.0 == b.0 && a.1.checked_add(1) == Some(b.1);
        for run in ports.chunk_by(follows) {
            for port in run {
                let name = of_port(*port);
                env.push(format!("{name}={}", url(*port)));
                env.push(format!("{name}_ADDR={}", target.addr));
                env.push(format!("{name}_PORT={}", port.1));
                env.push(format!("{name}_PROTO={}", port.0));
            }
            if let [first, .., last] = run {
                let name = of_port(*first);
                env.push(format!("{name}_START={}", url(*first)));
                env.push(format!("{name}_PORT_START={}", first.1));
                env.push(format!("{name}_END={}", url(*last)));
                env.push(format!("{name}_PORT_END={}", last.1));
            }
        }
        env.push(format!("{prefix}_NAME=/{parent}/{}", self.alias));
        let told = target.env.iter().filter_map(|variable| variable.split_once('='));
        let told = told.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"));
        env.extend(told.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
        env
    }
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        if text.is_empty() {
            return Err(LinkError::Empty);
        }
        let (name, alias) = text.split_once(':').unwrap_or((text, text));
        // A blank would make two names of the alias in /etc/hosts; `=` and NUL cannot be in a variable's name.
        let is_odd = |c: char| matches!(c, ':' | '/' | '#' | '=') || c.is_whitespace() || c.is_control();
        if name.is_empty() || alias.is_empty() || alias.contains(is_odd) {
            return Err(LinkError::Format(text.to_owned()));
        }
        Ok(Self { name: name.to_owned(), alias: alias.to_owned() })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.alias)
    }
}

impl TryFrom<String> for Link {
    type Error = LinkError;

    fn try_from(text: String) -> Result<Self, LinkError> {
        text.parse()
    }
}

impl From<Link> for String {
    fn from(link: Link) -> Self {
        link.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Proto = Proto::Tcp;
    const UDP: Proto = Proto::Udp;

    #[test]
    fn a_link_is_a_name_and_perhaps_an_alias() {
        let link = |name: &str, alias: &str| Ok(Link { name: name.to_owned(), alias: alias.to_owned() });
        assert_eq!("db".parse(), link("db", "db"));
        assert_eq!("db:database".parse(), link("db", "database"));
        assert_eq!("".parse::<Link>().unwrap_err().to_string(), "empty string specified for links");
        for bad in ["a:b:c", ":b", "a:", ":", "a:b c", "a:b\n", "a:b=c", "a:b/c", "a b"] {
            assert_eq!(bad.parse::<Link>().unwrap_err().to_string(), format!("bad format for links: {bad}"));
        }
    }

    #[test]
    fn the_hosts_entry_names_alias_host_name_and_container() {
        assert_eq!(link("db:database").host_names("0123456789ab"), "database 0123456789ab db");
        assert_eq!(link("db").host_names("0123456789ab"), "db 0123456789ab");
        assert_eq!(link("db:database").host_names("db"), "database db");
    }

    #[test]
    fn one_port_gives_these_variables() {
        let env = link("redis:redis-1").env("web", &target(&[(TCP, 6379)], &[]));
        let expected = [
            "REDIS_1_PORT=tcp://172.17.0.2:6379",
            "REDIS_1_PORT_6379_TCP=tcp://172.17.0.2:6379",
            "REDIS_1_PORT_6379_TCP_ADDR=172.17.0.2",
            "REDIS_1_PORT_6379_TCP_PORT=6379",
            "REDIS_1_PORT_6379_TCP_PROTO=tcp",
            "REDIS_1_NAME=/web/redis-1",
        ];
        assert_eq!(env, expected);
    }

    #[test]
    fn consecutive_ports_have_a_start_and_an_end() {
        let ports = [(TCP, 81), (UDP, 53), (TCP, 80), (TCP, 443), (UDP, 54), (TCP, 82)];
        let env = link("db").env("web", &target(&ports, &[]));
        assert_eq!(env[0], "DB_PORT=tcp://172.17.0.2:80");
        let runs: Vec<_> = env.iter().filter(|line| line.contains("_START=") || line.contains("_END=")).collect();
        let expected = [
            "DB_PORT_80_TCP_START=tcp://172.17.0.2:80",
            "DB_PORT_80_TCP_PORT_START=80",
            "DB_PORT_80_TCP_END=tcp://172.17.0.2:82",
            "DB_PORT_80_TCP_PORT_END=82",
            "DB_PORT_53_UDP_START=udp://172.17.0.2:53",
            "DB_PORT_53_UDP_PORT_START=53",
            "DB_PORT_53_UDP_END=udp://172.17.0.2:54",
            "DB_PORT_53_UDP_PORT_END=54",
        ];
        assert_eq!(runs, expected.iter().collect::<Vec<_>>());
        for port in ["80_TCP", "81_TCP", "82_TCP", "443_TCP", "53_UDP", "54_UDP"] {
            assert!(env.contains(&format!("DB_PORT_{port}_ADDR=172.17.0.2")), "{port}");
        }
    }

    #[test]
    fn tcp_comes_first_then_the_protocols_by_name() {
        let ports = [(UDP, 1), (Proto::Sctp, 2), (TCP, 3)];
        let env = link("db").env("web", &target(&ports, &[]));
        assert_eq!(env[0], "DB_PORT=tcp://172.17.0.2:3");
        let order: Vec<_> = env.iter().filter_map(|line| line.split_once("_PROTO=")).map(|(_, proto)| proto).collect();
        assert_eq!(order, ["tcp", "sctp", "udp"]);
    }

    #[test]
    fn the_targets_variables_come_along_but_home_and_path() {
        let own = ["PASSWORD=gordon=x", "HOME=/root", "PATH=/bin", "NOVALUE", "EMPTY="].map(str::to_owned);
        let env = link("db").env("web", &target(&[], &own));
        assert_eq!(env, ["DB_NAME=/web/db", "DB_ENV_PASSWORD=gordon=x", "DB_ENV_EMPTY="]);
    }

    #[test]
    fn the_last_port_of_all_follows_the_one_before() {
        let env = link("db").env("web", &target(&[(TCP, 65534), (TCP, 65535)], &[]));
        assert!(env.contains(&"DB_PORT_65534_TCP_PORT_END=65535".to_owned()), "{env:?}");
    }

    fn link(text: &str) -> Link {
        text.parse().unwrap()
    }

    fn target<'a>(ports: &'a [(Proto, u16)], env: &'a [String]) -> Target<'a> {
        Target { addr: "172.17.0.2".parse().unwrap(), ports, env }
    }
}
