//! A table of the legacy iptables as the kernel hands it out and takes it: entries in a row, whose jumps are offsets. Reads
//! its chains and rules in the words of nf_tables, and writes it without some of them. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

use crate::netlink::nftables::{Chain, Removal, Rule, Term, Verdict};

/// Chains of the kernel's own, by the number of their hook.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
const IFNAMSIZ: usize = 16;

// linux/netfilter/x_tables.h: a match and a target begin with their size, their name and a revision.
const EXTENSION_LEN: usize = 32;
const EXTENSION_NAME: std::ops::Range<usize> = 2..31;
/// Of the target that begins a chain and carries its name.
const HEAD: &str = "ERROR";
const CHAIN_NAME_LEN: usize = 30;
/// Verdicts of the target without a name; what is not negative is the offset of the next entry.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;

/// Where the fields of an entry are.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    family: &'static str,
    addr_len: usize,
    proto: usize,
    flags: usize,
    /// In `flags`: the rule says nothing of it, or what `proto` says, or it is a goto.
    plain_flags: u8,
    inverse: usize,
    target: usize,
    next: usize,
    counters: usize,
    len: usize,
}

/// `struct ipt_entry` of linux/netfilter_ipv4/ip_tables.h.
const V4: Layout = Layout {
    family: "ip",
    addr_len: 4,
    proto: 80,
    flags: 82,
    plain_flags: 0x02,
    inverse: 83,
    target: 88,
    next: 90,
    counters: 96,
    len: 112,
};
/// `struct ip6t_entry` of linux/netfilter_ipv6/ip6_tables.h.
const V6: Layout = Layout {
    family: "ip6",
    addr_len: 16,
    proto: 128,
    flags: 131,
    plain_flags: 0x05,
    inverse: 132,
    target: 140,
    next: 142,
    counters: 152,
    len: 168,
};
// Bits of `inverse`.
const NOT_INPUT: u8 = 0x01;
const NOT_OUTPUT: u8 = 0x02;
const NOT_SOURCE: u8 = 0x08;
const NOT_DESTINATION: u8 = 0x10;
const NOT_PROTO: u8 = 0x40;

/// Where the kernel's own chains begin, and where their policies are, by the number of their hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// One bit for each that the table has.
    pub valid: u32,
    pub starts: [u32; HOOKS.len()],
    pub policies: [u32; HOOKS.len()],
}

/// A table, without what was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyTable {
    layout: &'static Layout,
    pub name: String,
    pub hooks: Hooks,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    at: usize,
    bytes: Vec<u8>,
    kind: Kind,
    /// `None` of the entry that ends the table.
    chain: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Begins a chain that is not the kernel's own.
    Head,
    Rule,
    /// What becomes of a packet at a chain's end.
    End,
}

impl LegacyTable {
    /// # Errors
    /// If the bytes are no table of `family`, which is `ip` or `ip6`.
    pub fn parse(family: &str, name: &str, hooks: Hooks, bytes: &[u8]) -> Result<Self> {
        let layout = if family == V4.family { &V4 } else { &V6 };
        let mut entries = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let (target, len) = (short(rest, layout.target)?, short(rest, layout.next)?);
            let fits = target >= layout.len && target + EXTENSION_LEN <= len && len <= rest.len();
            ensure!(fits, "the entry at {at} has {len} bytes, its target begins after {target}");
            let mut bytes = rest[..len].to_vec();
            bytes[layout.counters..layout.len].fill(0);
            entries.push(Entry { at, bytes, kind: Kind::Rule, chain: None });
            at += len;
        }
        let mut table = Self { layout, name: name.to_owned(), hooks, entries };
        table.find_chains()?;
        Ok(table)
    }

    /// `ip` or `ip6`
    pub fn family(&self) -> &'static str {
        self.layout.family
    }

    pub fn chains(&self) -> Vec<Chain> {
        let heads = self.entries.iter().filter(|entry| entry.kind != Kind::Rule);
        let mut chains: Vec<Chain> = heads.filter_map(|entry| self.chain(entry.chain.as_deref()?)).collect();
        chains.dedup();
        chains
    }

    /// The rules, each with its offset as its handle.
    pub fn rules(&self) -> Vec<Rule> {
        let rules = self.entries.iter().filter(|entry| entry.kind == Kind::Rule);
        rules.filter_map(|entry| self.rule(entry)).collect()
    }

    /// The table without what `removal` names, and the places that its entries had before, in a row from 0.
    ///
    /// # Errors
    /// If a rule that stays leads to a chain that goes.
    pub fn without(&self, removal: &Removal) -> Result<(Self, Vec<usize>)> {
        let is_mine = |family: &str, table: &str| (family, table) == (self.layout.family, &*self.name);
        let chain_goes = |name: &str| removal.chains.iter().any(|c| is_mine(c.family, &c.table) && c.name == name);
        let rule_goes = |at: usize| removal.rules.iter().any(|r| is_mine(r.family, &r.table) && r.handle == at as u64);
        let goes = |entry: &Entry| {
            entry.chain.as_deref().is_some_and(chain_goes) || (entry.kind == Kind::Rule && rule_goes(entry.at))
        };
        // Of what goes the offset of the first entry behind it that stays.
        let (mut moved, mut next, mut kept) = (Vec::new(), 0, Vec::new());
        for (place, entry) in self.entries.iter().enumerate() {
            moved.push(next);
            if !goes(entry) {
                kept.push(place);
                next += entry.bytes.len();
            }
        }
        let to = |at: usize| Ok::<_, anyhow::Error>(moved[self.place(at)?]);
        let mut entries = Vec::new();
        for place in &kept {
            let mut entry = Entry { at: moved[*place], ..self.entries[*place].clone() };
            if let Some((field, verdict)) = self.verdict(&self.entries[*place])
                && let Ok(target) = usize::try_from(verdict)
            {
                let is_next = target == self.entries[*place].at + entry.bytes.len();
                let led_to = &self.entries[self.place(target)?];
                let chain = led_to.chain.as_deref().unwrap_or_default();
                ensure!(
                    is_next || !chain_goes(chain),
                    "a rule of chain {} leads to chain {chain}, which is to go: take it away first",
                    entry.chain.as_deref().unwrap_or_default()
                );
                let target = if is_next { entry.at + entry.bytes.len() } else { to(target)? };
                entry.bytes[field..field + 4].copy_from_slice(&(target as i32).to_ne_bytes());
            }
            entries.push(entry);
        }
        let mut hooks = self.hooks;
        for hook in self.valid_hooks() {
            hooks.starts[hook] = to(self.hooks.starts[hook] as usize)? as u32;
            hooks.policies[hook] = to(self.hooks.policies[hook] as usize)? as u32;
        }
        Ok((Self { layout: self.layout, name: self.name.clone(), hooks, entries }, kept))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// As the kernel takes it.
    pub fn bytes(&self) -> Vec<u8> {
        self.entries.iter().flat_map(|entry| entry.bytes.iter().copied()).collect()
    }

    fn find_chains(&mut self) -> Result<()> {
        let heads: Vec<Option<String>> = self.entries.iter().map(|entry| self.head(entry)).collect();
        let last = self.entries.len().checked_sub(1).context("an empty table")?;
        ensure!(heads[last].is_some(), "the table does not end as it should");
        for hook in self.valid_hooks().collect::<Vec<_>>() {
            self.place(self.hooks.starts[hook] as usize)?;
            self.place(self.hooks.policies[hook] as usize)?;
        }
        let mut chain: Option<String> = None;
        for place in 0..last {
            let at = self.entries[place].at as u32;
            let is_policy = self.valid_hooks().any(|hook| self.hooks.policies[hook] == at);
            if let Some(hook) = self.valid_hooks().find(|hook| self.hooks.starts[*hook] == at) {
                chain = Some(HOOKS[hook].to_owned());
            }
            if let Some(name) = &heads[place] {
                chain = Some(name.clone());
            }
            let entry = &mut self.entries[place];
            entry.chain.clone_from(&chain);
            entry.kind = match heads[place] {
                Some(_) => Kind::Head,
                None if is_policy || heads[place + 1].is_some() => Kind::End,
                None => Kind::Rule,
            };
            ensure!(chain.is_some(), "the entry at {at} is in no chain");
        }
        self.entries[last].kind = Kind::Head;
        Ok(())
    }

    fn valid_hooks(&self) -> impl Iterator<Item = usize> + use<> {
        let valid = self.hooks.valid;
        (0..HOOKS.len()).filter(move |hook| valid >> hook & 1 == 1)
    }

    fn place(&self, at: usize) -> Result<usize> {
        let found = self.entries.binary_search_by_key(&at, |entry| entry.at);
        found.ok().with_context(|| format!("no entry begins at {at}"))
    }

    fn target<'a>(&self, entry: &'a Entry) -> (String, &'a [u8]) {
        // Checked when the table was read.
        let target = &entry.bytes[short(&entry.bytes, self.layout.target).unwrap_or(self.layout.len)..];
        (text(&target[EXTENSION_NAME]), &target[EXTENSION_LEN..])
    }

    /// The name of the chain that begins here.
    fn head(&self, entry: &Entry) -> Option<String> {
        let (target, data) = self.target(entry);
        (target == HEAD).then(|| text(&data[..data.len().min(CHAIN_NAME_LEN)]))
    }

    /// Where the verdict of a target without a name is, and which it is.
    fn verdict(&self, entry: &Entry) -> Option<(usize, i32)> {
        let (target, data) = self.target(entry);
        let verdict = data.get(..4)?.try_into().map(i32::from_ne_bytes).ok()?;
        target.is_empty().then(|| (entry.bytes.len() - data.len(), verdict))
    }

    fn chain(&self, name: &str) -> Option<Chain> {
        Some(Chain { family: self.layout.family, table: self.name.clone(), name: name.to_owned() })
    }

    fn rule(&self, entry: &Entry) -> Option<Rule> {
        let verdict = match self.verdict(entry) {
            None => Verdict::Target(self.target(entry).0),
            Some((_, DROP)) => Verdict::Drop,
            Some((_, ACCEPT)) => Verdict::Accept,
            Some((_, RETURN)) => Verdict::Return,
            Some((_, to)) => match usize::try_from(to) {
                Ok(to) if to == entry.at + entry.bytes.len() => Verdict::None,
                Ok(to) => Verdict::Jump(self.entries[self.place(to).ok()?].chain.clone().unwrap_or_default()),
                Err(_) => Verdict::Target(format!("verdict {to}")),
            },
        };
        Some(Rule {
            family: self.layout.family,
            table: self.name.clone(),
            chain: entry.chain.clone()?,
            handle: entry.at as u64,
            terms: self.terms(&entry.bytes).unwrap_or_else(|_| vec![Term::Unknown]),
            verdict,
        })
    }

    fn terms(&self, bytes: &[u8]) -> Result<Vec<Term>> {
        let Layout { addr_len, proto, flags, plain_flags, inverse, len, .. } = *self.layout;
        let has = |bit: u8| bytes[inverse] & bit != 0;
        let mut terms = Vec::new();
        for (at, not, make) in [
            (0, NOT_SOURCE, (|is_equal, net| Term::Source { is_equal, net }) as fn(bool, IpNet) -> Term),
            (addr_len, NOT_DESTINATION, |is_equal, net| Term::Destination { is_equal, net }),
        ] {
            let (addr, mask) = (&bytes[at..at + addr_len], &bytes[at + 2 * addr_len..at + 3 * addr_len]);
            if mask.iter().any(|byte| *byte != 0) || has(not) {
                terms.push(net(addr, mask).map_or(Term::Unknown, |net| make(!has(not), net)));
            }
        }
        for (at, not, make) in [
            (
                4 * addr_len,
                NOT_INPUT,
                (|is_equal, ifname| Term::Input { is_equal, ifname }) as fn(bool, String) -> Term,
            ),
            (4 * addr_len + IFNAMSIZ, NOT_OUTPUT, |is_equal, ifname| Term::Output { is_equal, ifname }),
        ] {
            let (name, mask) = (&bytes[at..at + IFNAMSIZ], &bytes[at + 2 * IFNAMSIZ..at + 3 * IFNAMSIZ]);
            let name = text(name);
            // A whole name is compared with its end; without that it is a beginning, `docker+`.
            let is_whole = mask.iter().take_while(|byte| **byte == 0xff).count() > name.len();
            match (mask[0] != 0 || has(not), is_whole) {
                (true, true) => terms.push(make(!has(not), name)),
                (true, false) => terms.push(Term::Unknown),
                (false, _) => {}
            }
        }
        if bytes[proto..proto + 2] != [0, 0] {
            terms.push(if has(NOT_PROTO) { Term::Unknown } else { Term::Transport });
        }
        let known = NOT_INPUT | NOT_OUTPUT | NOT_SOURCE | NOT_DESTINATION | NOT_PROTO;
        if bytes[flags] & !plain_flags != 0 || bytes[inverse] & !known != 0 {
            terms.push(Term::Unknown);
        }
        let (mut at, end) = (len, short(bytes, self.layout.target)?);
        while at < end {
            let size = short(&bytes[at..], 0)?;
            if size < EXTENSION_LEN || at + size > end {
                bail!("a match of {size} bytes at {at}");
            }
            terms.push(Term::Match(text(&bytes[at..][EXTENSION_NAME])));
            at += size;
        }
        Ok(terms)
    }
}

fn short(bytes: &[u8], at: usize) -> Result<usize> {
    let field = bytes.get(at..at + 2).with_context(|| format!("{} bytes where an entry should be", bytes.len()))?;
    Ok(usize::from(u16::from_ne_bytes([field[0], field[1]])))
}

/// What stands before the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address under a mask that is a prefix.
fn net(addr: &[u8], mask: &[u8]) -> Option<IpNet> {
    let addr_of = |bytes: &[u8]| -> Option<IpAddr> {
        match bytes.len() {
            4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
            _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        }
    };
    IpNet::with_netmask(addr_of(addr)?, addr_of(mask)?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const USERS: [&str; 3] = ["DOCKER", "DOCKER-USER", "ufw"];

    /// A rule: bytes of matches, and what becomes of a packet.
    type Made = (usize, Verdict);

    /// Chains of hooks by their numbers, and others by their names.
    #[derive(Clone, Debug)]
    struct Model {
        hooks: Vec<(usize, Vec<Made>)>,
        users: Vec<(String, Vec<Made>)>,
    }

    #[test]
    fn a_rule_is_read_in_the_words_of_nf_tables() {
        let mut bytes = entry(&V4, 32, &extension("MASQUERADE", &[0; 24]));
        bytes[..4].copy_from_slice(&[172, 17, 0, 0]);
        bytes[8..12].copy_from_slice(&[255, 255, 0, 0]);
        bytes[32..39].copy_from_slice(b"docker0");
        bytes[64..72].fill(0xff);
        bytes[V4.proto] = 6;
        bytes[V4.inverse] = NOT_OUTPUT;
        bytes[V4.len + 2..V4.len + 5].copy_from_slice(b"tcp");
        let rule = |bytes: &[u8]| only_rule(&V4, bytes);
        let subnet = Term::Source { is_equal: true, net: "172.17.0.0/16".parse().unwrap() };
        let output = Term::Output { is_equal: false, ifname: "docker0".to_owned() };
        let read = rule(&bytes);
        assert_eq!(read.terms, [subnet, output, Term::Transport, Term::Match("tcp".to_owned())]);
        assert_eq!((read.verdict, &*read.chain), (Verdict::Target("MASQUERADE".to_owned()), "POSTROUTING"));
        for (at, value) in [(10, 1), (71, 0), (V4.flags, 1), (V4.inverse, NOT_PROTO | NOT_OUTPUT), (V4.inverse, 0x06)] {
            let mut odd = bytes.clone();
            odd[at] = value;
            assert!(rule(&odd).terms.contains(&Term::Unknown), "{at}");
        }
    }

    #[test]
    fn a_rule_of_ipv6_is_read() {
        let mut bytes = entry(&V6, 0, &standard(DROP));
        bytes[16..18].copy_from_slice(&[0xfd, 1]);
        bytes[48..56].fill(0xff);
        bytes[64..71].copy_from_slice(b"docker0");
        bytes[96..104].fill(0xff);
        bytes[V6.inverse] = NOT_INPUT;
        let read = only_rule(&V6, &bytes);
        let net = "fd01::/64".parse().unwrap();
        let input = Term::Input { is_equal: false, ifname: "docker0".to_owned() };
        assert_eq!(read.terms, [Term::Destination { is_equal: true, net }, input]);
        assert_eq!((read.family, read.verdict), ("ip6", Verdict::Drop));
    }

    #[test]
    fn a_chain_that_something_else_leads_to_stays() {
        let model = Model {
            hooks: vec![(2, vec![(0, Verdict::Jump("DOCKER".to_owned()))])],
            users: vec![("DOCKER".to_owned(), vec![])],
        };
        let table = parsed(&V4, &model);
        let removal = Removal { chains: table.chains().split_off(1), ..Removal::default() };
        let error = table.without(&removal).unwrap_err().to_string();
        assert!(error.starts_with("a rule of chain FORWARD leads to chain DOCKER, which is to go"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_table_is_read_and_written_the_same(model in models(), is_ipv6 in any::<bool>()) {
            let layout = if is_ipv6 { &V6 } else { &V4 };
            let (hooks, bytes) = build(layout, &model);
            let table = parsed(layout, &model);
            prop_assert_eq!((table.bytes(), table.hooks), (bytes, hooks));
            let read: Vec<_> = table.rules().into_iter().map(|rule| (rule.chain, rule.verdict)).collect();
            let made: Vec<_> = chains(&model).flat_map(|(name, rules)| {
                rules.iter().map(move |(_, verdict)| (name.to_owned(), verdict.clone()))
            }).collect();
            prop_assert_eq!(read, made);
            let names: Vec<_> = table.chains().into_iter().map(|chain| chain.name).collect();
            prop_assert_eq!(names, chains(&model).map(|(name, _)| name.to_owned()).collect::<Vec<_>>());
        }

        #[test]
        fn without_chains_and_rules_it_is_as_if_they_had_never_been(
            model in models(), gone in prop::collection::vec(any::<bool>(), USERS.len()), picks in any::<u64>(),
        ) {
            let table = parsed(&V4, &model);
            let goes: BTreeSet<&str> = USERS.iter().zip(&gone).filter(|(_, goes)| **goes).map(|(name, _)| *name).collect();
            let leads = |verdict: &Verdict| matches!(verdict, Verdict::Jump(to) if goes.contains(&**to));
            let rule_goes = |(number, verdict): (usize, &Verdict)| leads(verdict) || picks >> (number % 64) & 1 == 1;
            let rules = table.rules().into_iter().enumerate().filter(|(number, rule)| rule_goes((*number, &rule.verdict)));
            let chains = table.chains().into_iter().filter(|chain| goes.contains(&*chain.name)).collect();
            let removal = Removal { rules: rules.map(|(_, rule)| rule).collect(), chains, tables: vec![] };
            let (new, kept) = table.without(&removal).unwrap();

            let mut left = model.clone();
            let mut number = 0;
            for rules in left.hooks.iter_mut().map(|(_, r)| r).chain(left.users.iter_mut().map(|(_, r)| r)) {
                rules.retain(|(_, verdict)| {
                    number += 1;
                    !rule_goes((number - 1, verdict))
                });
            }
            left.users.retain(|(name, _)| !goes.contains(&**name));
            let (hooks, bytes) = build(&V4, &left);
            prop_assert_eq!((new.bytes(), new.hooks, new.len()), (bytes, hooks, kept.len()));
            prop_assert!(kept.is_sorted() && kept.iter().all(|place| *place < table.len()));
        }

        #[test]
        fn any_bytes_are_a_table_or_an_error(
            model in models(), at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let (hooks, mut bytes) = build(&V4, &model);
            let at = at.index(bytes.len());
            bytes[at] = value;
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                if let Ok(table) = LegacyTable::parse("ip", "filter", hooks, bytes) {
                    table.rules();
                    let _ = table.without(&Removal { chains: table.chains().split_off(1), ..Removal::default() });
                }
            }
        }
    }

    prop_compose! {
        fn models()(
            hooks in prop::sample::subsequence(vec![0usize, 1, 2, 3, 4], 1..=5),
            named in prop::sample::subsequence(USERS.to_vec(), 0..=3),
            rules in prop::collection::vec(prop::collection::vec((0usize..3, 0usize..8), 0..5), 8),
        ) -> Model {
            let rule = |(matches, verdict): &(usize, usize)| (matches * 40, match verdict {
                0 => Verdict::None,
                1 => Verdict::Accept,
                2 => Verdict::Drop,
                3 => Verdict::Return,
                4 => Verdict::Target("DNAT".to_owned()),
                to if named.is_empty() => Verdict::Target(format!("T{to}")),
                to => Verdict::Jump(named[to % named.len()].to_owned()),
            });
            let made = |rules: &Vec<(usize, usize)>| rules.iter().map(rule).collect::<Vec<_>>();
            Model {
                hooks: hooks.iter().zip(&rules).map(|(hook, rules)| (*hook, made(rules))).collect(),
                users: named.iter().zip(&rules[5..]).map(|(name, rules)| ((*name).to_owned(), made(rules))).collect(),
            }
        }
    }

    fn chains(model: &Model) -> impl Iterator<Item = (&str, &Vec<Made>)> {
        let hooks = model.hooks.iter().map(|(hook, rules)| (HOOKS[*hook], rules));
        hooks.chain(model.users.iter().map(|(name, rules)| (name.as_str(), rules)))
    }

    fn parsed(layout: &Layout, model: &Model) -> LegacyTable {
        let (hooks, bytes) = build(layout, model);
        LegacyTable::parse(layout.family, "filter", hooks, &bytes).unwrap()
    }

    fn only_rule(layout: &'static Layout, rule: &[u8]) -> Rule {
        let end = [entry(layout, 0, &standard(ACCEPT)), entry(layout, 0, &extension(HEAD, &head(HEAD)))].concat();
        let mut hooks = Hooks { valid: 1 << 4, ..Hooks::default() };
        hooks.policies[4] = rule.len() as u32;
        let table = LegacyTable::parse(layout.family, "nat", hooks, &[rule, &end].concat()).unwrap();
        table.rules().remove(0)
    }

    /// As iptables lays a table out: hooks, then the other chains, each behind its name, then the end.
    fn build(layout: &Layout, model: &Model) -> (Hooks, Vec<u8>) {
        let mut starts: Vec<(String, usize)> = Vec::new();
        let mut bytes = (Hooks::default(), Vec::new());
        // Where chains begin is known after the first time.
        for _ in 0..2 {
            bytes = lay_out(layout, model, &starts.clone(), &mut starts);
        }
        bytes
    }

    fn lay_out(
        layout: &Layout,
        model: &Model,
        known: &[(String, usize)],
        starts: &mut Vec<(String, usize)>,
    ) -> (Hooks, Vec<u8>) {
        let (mut hooks, mut bytes) = (Hooks { starts: [u32::MAX; 5], policies: [u32::MAX; 5], valid: 0 }, Vec::new());
        let put = |bytes: &mut Vec<u8>, rules: &[Made]| {
            for (matches, verdict) in rules {
                let next = bytes.len() + layout.len + matches + EXTENSION_LEN + 8;
                let to = |name: &str| known.iter().find(|(other, _)| other == name).map_or(0, |(_, at)| *at);
                let target = match verdict {
                    Verdict::None => standard(next as i32),
                    Verdict::Accept => standard(ACCEPT),
                    Verdict::Drop => standard(DROP),
                    Verdict::Return => standard(RETURN),
                    Verdict::Jump(name) => standard(to(name) as i32),
                    Verdict::Target(name) => extension(name, &[7; 16]),
                };
                bytes.extend(entry(layout, *matches, &target));
            }
        };
        for (hook, rules) in &model.hooks {
            hooks.valid |= 1 << hook;
            hooks.starts[*hook] = bytes.len() as u32;
            put(&mut bytes, rules);
            hooks.policies[*hook] = bytes.len() as u32;
            bytes.extend(entry(layout, 0, &standard(DROP)));
        }
        starts.clear();
        for (name, rules) in &model.users {
            bytes.extend(entry(layout, 0, &extension(HEAD, &head(name))));
            starts.push((name.clone(), bytes.len()));
            put(&mut bytes, rules);
            bytes.extend(entry(layout, 0, &standard(RETURN)));
        }
        bytes.extend(entry(layout, 0, &extension(HEAD, &head(HEAD))));
        (hooks, bytes)
    }

    fn entry(layout: &Layout, matches: usize, target: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; layout.len + matches];
        let (begin, len) = (bytes.len() as u16, (bytes.len() + target.len()) as u16);
        bytes[layout.target..layout.target + 2].copy_from_slice(&begin.to_ne_bytes());
        bytes[layout.next..layout.next + 2].copy_from_slice(&len.to_ne_bytes());
        if matches > 0 {
            bytes[layout.len..layout.len + 2].copy_from_slice(&(matches as u16).to_ne_bytes());
        }
        bytes.extend(target);
        bytes
    }

    fn standard(verdict: i32) -> Vec<u8> {
        extension("", &[verdict.to_ne_bytes(), [0; 4]].concat())
    }

    fn head(name: &str) -> [u8; 32] {
        let mut data = [0; 32];
        data[..name.len()].copy_from_slice(name.as_bytes());
        data
    }

    fn extension(name: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; EXTENSION_LEN];
        bytes[..2].copy_from_slice(&((EXTENSION_LEN + data.len()) as u16).to_ne_bytes());
        bytes[2..2 + name.len()].copy_from_slice(name.as_bytes());
        bytes.extend(data);
        bytes
    }
}
