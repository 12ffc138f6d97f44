//! Which rules are Docker's: those written through iptables, its legacy variant too, and the tables that Docker keeps without
//! it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::netlink::nftables::{Chain, Removal, Rule, Table, Term, Verdict};

/// Where the host's owner puts rules that Docker lets come first.
const USERS: &str = "DOCKER-USER";
const MASQUERADE: &str = "MASQUERADE";
/// Where Docker writes its rules when it does so without iptables, since 29: in `ip` and in `ip6`, one table for all its
/// bridges. It makes the tables anew when it starts, and with `--iptables=false` it leaves them as they are.
const OWN_TABLE: &str = "docker-bridges";

/// A network of Docker's, as its rules know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub bridge: String,
    pub subnets: Vec<IpNet>,
}

/// Rules of one chain, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// `ip`, `ip6` or `inet`
    pub family: String,
    pub table: String,
    /// `*`: all of the table's.
    pub chain: String,
    pub rules: usize,
    /// In a table of the legacy iptables, not of nf_tables.
    #[serde(default)]
    pub is_legacy: bool,
    /// Docker did not write them: they stay.
    pub is_kept: bool,
}

/// What Docker has written, as something that can be removed.
pub(super) fn removal(chains: &[Chain], rules: &[Rule], known: &[Known]) -> Removal {
    let is_kept = |chain: &Chain| chain.name == USERS && rules.iter().any(|rule| is_in(rule, chain) && !is_bare(rule));
    let tables: BTreeSet<Table> = chains.iter().filter(|chain| is_in_own_table(chain)).map(table_of).collect();
    let chains = chains.iter().filter(|chain| !is_in_own_table(chain));
    let chains: Vec<Chain> = chains.filter(|chain| is_dockers(&chain.name) && !is_kept(chain)).cloned().collect();
    let goes = |rule: &Rule, name: &str| {
        chains.iter().any(|chain| (chain.family, &*chain.table, &*chain.name) == (rule.family, &*rule.table, name))
    };
    let rules = rules.iter().filter(|rule| !goes(rule, &rule.chain) && rule.chain != USERS);
    let rules = rules.filter(|rule| match &rule.verdict {
        Verdict::Jump(chain) => goes(rule, chain),
        _ => is_of_a_network(rule, known),
    });
    Removal { rules: rules.cloned().collect(), chains, tables: tables.into_iter().collect() }
}

/// The removal, and what of the owner's stays, as a list.
pub(super) fn found(removal: &Removal, rules: &[Rule], is_legacy: bool) -> Vec<Found> {
    let key = |rule: &Rule| (rule.family, rule.table.clone(), rule.chain.clone());
    let mut counts: BTreeMap<_, usize> =
        removal.chains.iter().map(|chain| ((chain.family, chain.table.clone(), chain.name.clone()), 0)).collect();
    for rule in rules.iter().filter(|rule| counts.contains_key(&key(rule))).map(key).collect::<Vec<_>>() {
        *counts.entry(rule).or_default() += 1;
    }
    for rule in &removal.rules {
        *counts.entry(key(rule)).or_default() += 1;
    }
    for table in &removal.tables {
        let rules = rules.iter().filter(|rule| (rule.family, &rule.table) == (table.family, &table.name));
        counts.insert((table.family, table.name.clone(), "*".to_owned()), rules.count());
    }
    let removed: BTreeSet<_> = counts.keys().cloned().collect();
    for rule in rules.iter().filter(|rule| rule.chain == USERS && !removed.contains(&key(rule))) {
        *counts.entry(key(rule)).or_default() += 1;
    }
    let found = |((family, table, chain), rules): ((&'static str, String, String), usize)| Found {
        is_kept: !removed.contains(&(family, table.clone(), chain.clone())),
        family: family.to_owned(),
        table,
        chain,
        rules,
        is_legacy,
    };
    counts.into_iter().map(found).collect()
}

/// Whether the chain is in a table that Docker keeps for itself.
pub(super) fn is_in_own_table(chain: &Chain) -> bool {
    chain.table == OWN_TABLE && matches!(chain.family, "ip" | "ip6")
}

fn table_of(chain: &Chain) -> Table {
    Table { family: chain.family, name: chain.table.clone() }
}

fn is_dockers(chain: &str) -> bool {
    chain == "DOCKER" || chain.starts_with("DOCKER-")
}

fn is_in(rule: &Rule, chain: &Chain) -> bool {
    (rule.family, &rule.table, &rule.chain) == (chain.family, &chain.table, &chain.name)
}

/// Whether the rule is the one that Docker itself puts into the owner's chain.
fn is_bare(rule: &Rule) -> bool {
    rule.terms.is_empty() && rule.verdict == Verdict::Return
}

/// Whether the rule has one of the forms that Docker writes outside of its chains, with the names of one of its networks.
fn is_of_a_network(rule: &Rule, known: &[Known]) -> bool {
    known.iter().any(|network| match (&*rule.table, &*rule.chain) {
        ("filter", "FORWARD") => is_forwarding(rule, network),
        ("nat", "POSTROUTING") => {
            rule.verdict == Verdict::Target(MASQUERADE.to_owned()) && is_masquerade(rule, network)
        }
        ("raw", "PREROUTING") => rule.verdict == Verdict::Drop && is_direct(rule, network),
        _ => false,
    }) || is_of_loopback(rule)
}

/// `-o BRIDGE -m conntrack ... -j ACCEPT`, `-i BRIDGE ! -o BRIDGE -j ACCEPT` and `-i BRIDGE -o BRIDGE -j ACCEPT` or `DROP`.
fn is_forwarding(rule: &Rule, network: &Known) -> bool {
    let output = |term: &Term| is_output(term, network, true);
    let input = |term: &Term| is_input(term, network, true);
    let other = |term: &Term| is_output(term, network, false);
    matches!(rule.verdict, Verdict::Accept | Verdict::Drop)
        && (is_both(rule, output, |term| is_match(term, "conntrack"))
            || is_both(rule, input, output)
            || is_both(rule, input, other))
}

/// `-s SUBNET ! -o BRIDGE`, `-o BRIDGE -m addrtype --src-type LOCAL`, and `-s ADDR -d ADDR -p PROTO --dport PORT`.
fn is_masquerade(rule: &Rule, network: &Known) -> bool {
    let subnet = |term: &Term| matches!(term, Term::Source { is_equal: true, net } if network.subnets.iter().any(|own| own.trunc() == *net));
    let other = |term: &Term| is_output(term, network, false);
    let output = |term: &Term| is_output(term, network, true);
    let itself = || {
        let own = |net: &IpNet| is_inside(network, net);
        let source =
            rule.terms.iter().find_map(|t| if let Term::Source { is_equal: true, net } = t { Some(net) } else { None });
        let is_own = |term: &Term| match term {
            Term::Source { is_equal, net } | Term::Destination { is_equal, net } => {
                *is_equal && Some(net) == source && own(net)
            }
            term => is_transport(term),
        };
        let has_destination = rule.terms.iter().any(|term| matches!(term, Term::Destination { .. }));
        source.is_some() && has_destination && rule.terms.iter().all(is_own)
    };
    is_both(rule, subnet, other) || is_both(rule, output, |term| is_match(term, "addrtype")) || itself()
}

/// `-d ADDR ! -i BRIDGE -j DROP`
fn is_direct(rule: &Rule, network: &Known) -> bool {
    let address = |term: &Term| matches!(term, Term::Destination { is_equal: true, net } if is_inside(network, net));
    is_both(rule, address, |term| is_input(term, network, false))
}

/// `-d 127.0.0.1 ! -i lo -p PROTO --dport PORT -j DROP`, for a port that is published there.
fn is_of_loopback(rule: &Rule) -> bool {
    let is_lo = |term: &Term| matches!(term, Term::Input { is_equal: false, ifname } if ifname == "lo");
    let is_address =
        |term: &Term| matches!(term, Term::Destination { is_equal: true, net } if net.addr().is_loopback());
    let of_kind = |is: &dyn Fn(&Term) -> bool| rule.terms.iter().filter(|term| is(term)).count();
    (&*rule.table, &*rule.chain, &rule.verdict) == ("raw", "PREROUTING", &Verdict::Drop)
        && (of_kind(&is_lo), of_kind(&is_address)) == (1, 1)
        && rule.terms.len() > 2
        && of_kind(&is_transport) == rule.terms.len() - 2
}

/// Whether the rule has two terms, one of each kind. Their order is that of iptables' version.
fn is_both(rule: &Rule, one: impl Fn(&Term) -> bool, other: impl Fn(&Term) -> bool) -> bool {
    let [a, b] = rule.terms.as_slice() else { return false };
    (one(a) && other(b)) || (one(b) && other(a))
}

fn is_inside(network: &Known, net: &IpNet) -> bool {
    network.subnets.iter().any(|subnet| subnet.contains(net))
}

fn is_match(term: &Term, extension: &str) -> bool {
    matches!(term, Term::Match(name) if name == extension)
}

fn is_transport(term: &Term) -> bool {
    matches!(term, Term::Transport)
        || matches!(term, Term::Match(name) if name == "tcp" || name == "udp" || name == "sctp")
}

fn is_input(term: &Term, network: &Known, equal: bool) -> bool {
    matches!(term, Term::Input { is_equal, ifname } if *is_equal == equal && *ifname == network.bridge)
}

fn is_output(term: &Term, network: &Known, equal: bool) -> bool {
    matches!(term, Term::Output { is_equal, ifname } if *is_equal == equal && *ifname == network.bridge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rules_go_and_nobody_elses() {
        let out = |is_equal| Term::Output { is_equal, ifname: "docker0".to_owned() };
        let input = || Term::Input { is_equal: true, ifname: "docker0".to_owned() };
        let source = |net: &str| Term::Source { is_equal: true, net: net.parse().unwrap() };
        let to = |net: &str| Term::Destination { is_equal: true, net: net.parse().unwrap() };
        let jump = |chain: &str| Verdict::Jump(chain.to_owned());
        let masquerade = || Verdict::Target(MASQUERADE.to_owned());
        let own = [
            rule("nat", "DOCKER", vec![input()], Verdict::Return),
            rule("nat", "PREROUTING", vec![Term::Match("addrtype".to_owned())], jump("DOCKER")),
            rule("nat", "POSTROUTING", vec![source("172.17.0.0/16"), out(false)], masquerade()),
            rule(
                "nat",
                "POSTROUTING",
                vec![source("172.17.0.2/32"), to("172.17.0.2/32"), Term::Transport],
                masquerade(),
            ),
            rule("filter", "FORWARD", vec![out(true), Term::Match("conntrack".to_owned())], Verdict::Accept),
            rule("filter", "FORWARD", vec![out(true)], jump("DOCKER")),
            rule("filter", "FORWARD", vec![input(), out(false)], Verdict::Accept),
            rule("filter", "FORWARD", vec![input(), out(true)], Verdict::Drop),
            rule("filter", "DOCKER", vec![to("172.17.0.2/32")], Verdict::Accept),
        ];
        let not_lo = || Term::Input { is_equal: false, ifname: "lo".to_owned() };
        let own = [
            &own[..],
            &[rule(
                "raw",
                "PREROUTING",
                vec![not_lo(), Term::Transport, to("127.0.0.1/32"), Term::Transport],
                Verdict::Drop,
            )],
        ]
        .concat();
        let foreign = [
            rule("raw", "PREROUTING", vec![not_lo(), to("127.0.0.0/8")], Verdict::Drop),
            rule("filter", "FORWARD", vec![input(), to("10.0.0.0/8")], Verdict::Drop),
            rule("filter", "FORWARD", vec![input()], Verdict::Accept),
            rule("filter", "FORWARD", vec![], jump("ufw-forward")),
            rule("filter", "DOCKER-USER", vec![source("192.0.2.0/24")], Verdict::Drop),
            rule("filter", "FORWARD", vec![], jump("DOCKER-USER")),
            rule("nat", "POSTROUTING", vec![source("10.1.0.0/16"), out(false)], masquerade()),
            rule("nat", "POSTROUTING", vec![source("172.17.0.0/16"), Term::Unknown], masquerade()),
            rule("nat", "POSTROUTING", vec![source("10.1.0.2/32"), to("10.1.0.2/32")], masquerade()),
        ];
        let rules = [&own[..], &foreign[..]].concat();
        let chains =
            [chain("nat", "DOCKER"), chain("filter", "DOCKER"), chain("filter", USERS), chain("filter", "ufw")];
        let known = [Known { bridge: "docker0".to_owned(), subnets: vec!["172.17.0.0/16".parse().unwrap()] }];
        let removal = removal(&chains, &rules, &known);
        assert_eq!(removal.chains, chains[..2]);
        assert_eq!(removal.rules, [&own[1..8], &own[9..]].concat());
        let found: Vec<_> =
            found(&removal, &rules, false).iter().map(|f| (f.chain.clone(), f.rules, f.is_kept)).collect();
        let named = |chain: &str, rules, is_kept| (chain.to_owned(), rules, is_kept);
        assert_eq!(
            found,
            [
                named("DOCKER", 1, false),
                named(USERS, 1, true),
                named("FORWARD", 4, false),
                named("DOCKER", 1, false),
                named("POSTROUTING", 2, false),
                named("PREROUTING", 1, false),
                named("PREROUTING", 1, false),
            ]
        );
    }

    #[test]
    fn an_owners_chain_without_rules_of_his_goes_too() {
        let rules = [
            rule("filter", USERS, vec![], Verdict::Return),
            rule("filter", "FORWARD", vec![], Verdict::Jump(USERS.to_owned())),
        ];
        let chains = [chain("filter", USERS)];
        let removal = removal(&chains, &rules, &[]);
        assert_eq!((removal.chains, removal.rules), (chains.to_vec(), rules[1..].to_vec()));
    }

    #[test]
    fn dockers_own_tables_go_whole() {
        let of = |family, table: &str, name: &str| Chain { family, ..chain(table, name) };
        let chains = [
            of("ip", OWN_TABLE, "filter-FORWARD"),
            of("ip", OWN_TABLE, "DOCKER"),
            of("ip6", OWN_TABLE, "nat-OUTPUT"),
            of("inet", OWN_TABLE, "nat-OUTPUT"),
            of("ip", "docker-bridges-too", "filter-FORWARD"),
        ];
        let rules = [
            rule(OWN_TABLE, "filter-FORWARD", vec![Term::Unknown], Verdict::None),
            rule(OWN_TABLE, "DOCKER", vec![], Verdict::Drop),
            rule("docker-bridges-too", "filter-FORWARD", vec![], Verdict::Drop),
        ];
        let removal = removal(&chains, &rules, &[]);
        let table = |family| Table { family, name: OWN_TABLE.to_owned() };
        assert_eq!(removal, Removal { tables: vec![table("ip"), table("ip6")], ..Removal::default() });
        let found: Vec<_> =
            found(&removal, &rules, false).iter().map(|f| (f.family.clone(), f.rules, f.is_kept)).collect();
        assert_eq!(found, [("ip".to_owned(), 2, false), ("ip6".to_owned(), 0, false)]);
    }

    fn chain(table: &str, name: &str) -> Chain {
        Chain { family: "ip", table: table.to_owned(), name: name.to_owned() }
    }

    fn rule(table: &str, chain: &str, terms: Vec<Term>, verdict: Verdict) -> Rule {
        Rule { family: "ip", table: table.to_owned(), chain: chain.to_owned(), handle: 7, terms, verdict }
    }
}
