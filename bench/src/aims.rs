//! What netpath aims at, what a run has measured of it, and what bounds what it does not reach. Every figure is of the same
//! run, so that the machine and the hour are in none of them.

use crate::container_aims;
use crate::kind::Kind;
use crate::record::{Item, Run, grouped};
use crate::spread::Spread;

/// An aim and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub aim: String,
    pub measured: String,
    /// None if the run does not say.
    pub met: Option<bool>,
    /// Empty for what is met.
    pub bound: String,
}

impl Row {
    /// The row's cells: aim, measured, whether it is met, what bounds it.
    pub fn cells(&self) -> [String; 4] {
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        [self.aim.clone(), self.measured.clone(), met.to_owned(), self.bound.clone()]
    }
}

/// The headings of [`Row::cells`].
pub const HEADINGS: [&str; 4] = ["aim", "measured", "met", "what bounds it"];

const OWN: &str = "netpath";
const XDP: &str = "netpath-xdp";
const HOST: &str = "host";
const RULES: &str = Kind::REFERENCE.name();

/// All aims, in the order of the work they are about.
pub fn rows(run: &Run) -> Vec<Row> {
    let seen = Seen { run };
    let traffic = [seen.connections(), seen.bulk(), seen.datagrams(), seen.ways(), seen.publishing(), seen.memory()];
    traffic.into_iter().flatten().chain(container_aims::rows(run)).collect()
}

struct Seen<'a> {
    run: &'a Run,
}

impl<'a> Seen<'a> {
    fn connections(&self) -> Vec<Row> {
        let new = self.item("new-connections");
        let mut rows = Vec::new();
        for (ports, at_least) in [(1, 1.4), (1_000, 2.3), (5_000, 7.0)] {
            let aim = format!("new connections, {} published: {at_least}x {RULES}", ports_text(ports));
            rows.push(self.at_least(aim, self.with_ports("new-connections", ports), OWN, RULES, at_least));
        }
        rows.push(self.at_least("new connections: 1.3x nftables", new, OWN, "nftables", 1.3));
        rows.push(self.at_least("new connections: not below the bare host", new, OWN, HOST, 1.0));
        rows.push(self.flat());
        let keep_alive = self.item("keep-alive");
        let docker = docker(keep_alive);
        rows.push(self.at_least(format!("keep-alive: 1.28x Docker ({docker})"), keep_alive, OWN, docker, 1.28));
        rows.push(self.at_least("keep-alive: 1.2x nftables", keep_alive, OWN, "nftables", 1.2));
        rows.push(self.at_least("keep-alive: not below the bare host", keep_alive, OWN, HOST, 1.0));
        let p99 = |name| keep_alive?.outcome(name)?.median_of("p99_us");
        let figures = p99(OWN).zip(p99(HOST)).map(|(own, host)| (format!("{own:.0} us, {host:.0} us"), own <= host));
        let bound = || keep_alive.map_or(String::new(), |item| self.requests(item));
        rows.push(row("keep-alive: p99 not above the bare host's", figures, bound));
        rows
    }

    /// New connections do not become slower by other published ports: in each round of each step beside a netpath that has
    /// none of them.
    fn flat(&self) -> Row {
        const MOST: f64 = 0.03;
        let names = [OWN, "netpath-range"];
        let items: Vec<&Item> = self.run.series("new-connections", "ports").into_iter().skip(1).collect();
        let change = |name: &str| {
            let ratios = items.iter().filter_map(|item| item.ratio(name, "netpath-1"));
            ratios.map(|ratio| ratio.median - 1.0).reduce(f64::min)
        };
        let worst: Vec<f64> = names.iter().filter_map(|name| change(name)).collect();
        let figures = (worst.len() == names.len()).then(|| {
            let text = names.iter().zip(&worst).map(|(name, worst)| format!("{name} {:+.1} %", worst * 100.0));
            (text.collect::<Vec<_>>().join(", "), worst.iter().all(|worst| *worst >= -MOST))
        });
        let bound = || {
            let rounds = items
                .iter()
                .flat_map(|item| [OWN, "netpath-range", "netpath-1"].map(|name| item.outcome(name)?.spread()));
            let rounds = rounds.flatten().map(|spread| (spread.max - spread.min) / spread.median).fold(0.0, f64::max);
            format!("rounds of one and the same step are up to {:.1} % apart", rounds * 100.0)
        };
        row("new connections: within 3 % of one published port with up to 60,000", figures, bound)
    }

    fn bulk(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, text) in [
            ("bulk-in-1", "bulk TCP in, 1 stream"),
            ("bulk-in-8", "bulk TCP in, 8 streams"),
            ("bulk-out-1", "bulk TCP out, 1 stream"),
            ("bulk-out-8", "bulk TCP out, 8 streams"),
        ] {
            let item = self.item(name);
            rows.push(self.at_least(format!("{text}: not below the bare host"), item, OWN, HOST, 1.0));
            let docker = docker(item);
            let cost = |name| item?.outcome(name)?.median_of("cpu_seconds_per_gb");
            let figures = cost(OWN).zip(cost(docker));
            let figures = figures.map(|(own, other)| (format!("{own:.2} s/GB, {other:.2}"), own < other));
            let bound = || item.map_or(String::new(), bytes);
            rows.push(row(format!("{text}: less CPU per byte than Docker ({docker})"), figures, bound));
        }
        rows
    }

    fn datagrams(&self) -> Vec<Row> {
        let udp = self.item("udp");
        let docker = docker(udp);
        let aim = |how: &str, times: f64| format!("UDP, 64-byte frames, {how}: {times}x Docker ({docker})");
        let bound =
            |own: &'static str, times| move || udp.map_or(String::new(), |item| parts(item, own, docker, times));
        let ratio = |own, times| times_at_least(udp, own, docker, times);
        let figures = times_at_least(udp, OWN, "redirect-only", 1.0 / 1.1);
        let figures = figures.zip(udp.and_then(|item| item.ratio(OWN, "redirect-only")));
        let figures = figures.map(|((_, met), ratio)| (format!("{:+.0} %", (1.0 / ratio.median - 1.0) * 100.0), met));
        let nat = || {
            let program = self.program("from_external", "to a published port");
            let only = median(udp, "redirect-only").map(|ns| format!("redirect-only takes {ns:.0} ns"));
            joined([program, only])
        };
        let flood = self.item("flood");
        vec![
            row(aim("tc", 4.0), ratio(OWN, 4.0), bound(OWN, 4.0)),
            row(aim("XDP", 5.0), ratio(XDP, 5.0), bound(XDP, 5.0)),
            row("UDP: NAT costs at most 10 % over redirect-only", figures, nat),
            row(
                format!("flood, dropped at XDP: 10x as cheap as {RULES}"),
                times_at_least(flood, XDP, RULES, 10.0),
                || {
                    let floors = median(udp, "make-only").zip(median(udp, "xdp-drop"));
                    let figures = floors.zip(median(flood, XDP)).zip(median(flood, RULES));
                    figures.map_or(String::new(), |(((make, drop), own), other)| {
                        let (arrive, rest) = (drop - make, own - drop);
                        format!(
                            "of {own:.0} ns {make:.0} make a frame, {arrive:.0} bring it to XDP, {rest:.0} the rest; a \
                             program that does nothing but drop it is {:.1}x, without the making {:.1}x",
                            other / drop,
                            (other - make) / arrive
                        )
                    })
                },
            ),
        ]
    }

    fn ways(&self) -> Vec<Row> {
        let aims = [
            ("masquerade-new-connections", "masquerade", RULES, 1.3),
            ("containers-new-connections", "container to container", RULES, 1.2),
            ("host-loopback-new-connections", "host to 127.0.0.1", "docker-proxy", 2.9),
            ("host-loopback-new-connections", "host to 127.0.0.1", HOST, 1.0),
            ("hairpin-new-connections", "hairpin", "docker-proxy", 2.5),
        ];
        let row = |(item, text, to, at_least): (&str, &str, &str, f64)| {
            let aim = format!("{text}, new connections: {at_least:.1}x {to}");
            self.at_least(aim, self.item(item), OWN, to, at_least)
        };
        aims.into_iter().map(row).collect()
    }

    fn publishing(&self) -> Vec<Row> {
        let range = "netpath-range";
        let one = || {
            let outcome = self.with_ports("publish", 1)?.outcome(range)?;
            let start = outcome.median_of("start_ms").map(|ms| format!(", `netpath --version` {ms:.1}"));
            Some(format!("one port takes {:.1} ms{}", outcome.spread()?.median, start.unwrap_or_default()))
        };
        let mut rows = Vec::new();
        for (count, most) in [(1_000, 10.0), (60_000, 100.0)] {
            let outcome = self.with_ports("publish", count).and_then(|item| item.outcome(range));
            let publish = outcome.and_then(|outcome| Some(outcome.spread()?.median));
            let unpublish = outcome.and_then(|outcome| outcome.median_of("unpublish_ms"));
            for (what, ms) in [("publish", publish), ("unpublish", unpublish)] {
                let aim = format!("{what} {} ports as a range: below {most} ms", grouped(count));
                rows.push(row(aim, ms.map(|ms| (format!("{ms:.1} ms"), ms < most)), || one().unwrap_or_default()));
            }
        }
        rows
    }

    fn memory(&self) -> Vec<Row> {
        let outcome = self.item("rest").and_then(|item| item.outcome(OWN));
        let aims = [("masqueraded flow", "bytes_per_flow", 200.0), ("published port", "bytes_per_port", 64.0)];
        let row = |(what, key, most): (&str, &str, f64)| {
            let bytes = outcome.and_then(|outcome| outcome.median_of(key));
            let figures = bytes.map(|bytes| (format!("{bytes:.0} bytes"), bytes <= most));
            row(format!("map memory of a {what}: at most {most} bytes"), figures, || {
                let keys = outcome.and_then(|outcome| outcome.samples.first()).map(|sample| sample.more.iter());
                let of_map = |(name, bytes): (&String, &f64)| {
                    let name = name.strip_prefix(key)?.strip_prefix(':')?;
                    Some(format!("{name} {bytes:.0}"))
                };
                keys.into_iter().flatten().filter_map(of_map).collect::<Vec<_>>().join(", ")
            })
        };
        aims.into_iter().map(row).collect()
    }

    /// A row about requests or bytes for each second.
    fn at_least(&self, aim: impl Into<String>, item: Option<&Item>, own: &str, to: &str, times: f64) -> Row {
        row(aim, times_at_least(item, own, to, times), || {
            item.map_or(String::new(), |item| {
                if item.unit == "Gbit/s" {
                    return bytes(item);
                }
                joined([Some(self.requests(item)), self.most(item, to)])
            })
        })
    }

    /// What is reached without any NAT.
    fn most(&self, item: &Item, to: &str) -> Option<String> {
        let other = median(Some(item), to)?;
        if item.name.starts_with("hairpin") {
            let direct = median(self.item(&item.name.replace("hairpin", "containers")), OWN)?;
            return Some(format!("from one container straight to another it is {:.2}x", direct / other));
        }
        let host = median(Some(item), HOST).filter(|_| to != HOST)?;
        Some(format!("{HOST} is {:.2}x", host / other))
    }

    /// What a request takes, and who else takes what.
    fn requests(&self, item: &Item) -> String {
        let us = |name: &str| {
            // Under a condition not everybody takes part.
            let rate = median(Some(item), name).or_else(|| median(self.item(&item.name), name))?;
            Some(format!("{name} {:.1} us", 1e6 / rate))
        };
        let took: Vec<String> = [OWN, HOST, "forward"].into_iter().filter_map(us).collect();
        let took = (!took.is_empty()).then(|| format!("a request takes {}", took.join(", ")));
        let program = |name, packet| self.program(name, packet);
        let [one, other] = match item.name.split_once("-new").map_or("", |(way, _)| way) {
            "masquerade" => [program("from_container", "masqueraded"), None],
            "containers" => [program("from_container", "to a neighbour"), None],
            "hairpin" => [program("from_container", "to a neighbour's published port"), None],
            "host-loopback" => [None, None],
            _ => [program("from_external", "to a published port"), program("from_container", "from a published port")],
        };
        joined([took, one, other])
    }

    /// What a program takes for a packet.
    fn program(&self, name: &str, packet: &str) -> Option<String> {
        let program = self.run.programs.iter().find(|program| program.name == name)?;
        let packet = program.packets.iter().find(|known| known.name == packet)?;
        Some(format!("`{name}` {:.0} ns a packet", packet.ns))
    }

    fn item(&self, name: &str) -> Option<&'a Item> {
        self.run.item(name)
    }

    fn with_ports(&self, name: &str, ports: u64) -> Option<&'a Item> {
        let items = self.run.series(name, "ports");
        items.into_iter().find(|item| item.condition.as_ref().is_some_and(|condition| condition.count == ports))
    }
}

/// A row; `figures` are what was measured and whether that is enough.
pub(crate) fn row(aim: impl Into<String>, figures: Option<(String, bool)>, bound: impl FnOnce() -> String) -> Row {
    let aim = aim.into();
    match figures {
        Some((measured, true)) => Row { aim, measured, met: Some(true), bound: String::new() },
        Some((measured, false)) => Row { aim, measured, met: Some(false), bound: bound() },
        None => Row { aim, measured: "not in this run".to_owned(), met: None, bound: String::new() },
    }
}

pub(crate) fn times_at_least(item: Option<&Item>, own: &str, to: &str, times: f64) -> Option<(String, bool)> {
    let Spread { median, min, max } = item?.ratio(own, to)?;
    Some((format!("{median:.2}x ({min:.2} to {max:.2})"), median >= times))
}

/// Docker Engine where it took part, else the rules that it writes.
fn docker(item: Option<&Item>) -> &'static str {
    let has = |kind: &Kind| item.is_some_and(|item| item.outcome(kind.name()).is_some_and(|o| !o.samples.is_empty()));
    [Kind::Docker, Kind::DockerNoProxy].into_iter().find(has).unwrap_or(Kind::REFERENCE).name()
}

fn median(item: Option<&Item>, name: &str) -> Option<f64> {
    Some(item?.outcome(name)?.spread()?.median)
}

/// What bulk TCP takes, and how far rounds are apart.
fn bytes(item: &Item) -> String {
    let cost = |name: &str| {
        let outcome = item.outcome(name)?;
        let (cost, spread) = (outcome.median_of("cpu_seconds_per_gb")?, outcome.spread()?);
        Some(format!("{name} {cost:.2} CPU s/GB, rounds {:.1} to {:.1} Gbit/s", spread.min, spread.max))
    };
    joined([cost(OWN), cost(HOST)])
}

/// What a datagram's time is made of, and what would be left of it.
fn parts(item: &Item, own: &str, to: &str, times: f64) -> String {
    let ns = |name: &str| median(Some(item), name);
    let (Some(whole), Some(other)) = (ns(own), ns(to)) else { return String::new() };
    let aim = format!("{times}x is {:.0} ns", other / times);
    let floors: &[(&str, &str)] = if own == XDP {
        &[("make-only", "make a frame"), ("xdp-drop", "bring it to XDP")]
    } else {
        &[("make-only", "make a frame"), ("tc-drop", "bring it to tc"), ("redirect-only", "redirect it")]
    };
    let mut below = 0.0;
    let (mut parts, mut steps) = (Vec::new(), Vec::new());
    for (floor, what) in floors {
        // A floor that is not in the run is part of the next one.
        steps.push(*what);
        if let Some(ns) = ns(floor) {
            parts.push(format!("{:.0} {}", ns - below, steps.join(" and ")));
            steps.clear();
            below = ns;
        }
    }
    parts.push(format!("{:.0} the rest", whole - below));
    let floor = if other / times < below { ", less than the floors alone" } else { "" };
    format!("of {whole:.0} ns {}; {aim}{floor}", parts.join(", "))
}

fn joined(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

pub(crate) fn ports_text(ports: u64) -> String {
    format!("{} port{}", grouped(ports), if ports == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{item, run};
    use crate::record::{Condition, Outcome};

    fn find(run: &Run, aim: &str) -> Row {
        let rows = rows(run);
        rows.iter().find(|row| row.aim.starts_with(aim)).unwrap_or_else(|| panic!("no {aim} in {rows:#?}")).clone()
    }

    #[test]
    fn an_aim_is_met_or_what_bounds_it_is_said() {
        let results: [(&str, &[f64]); 3] = [("nftables", &[10_000.0]), ("netpath", &[14_000.0]), ("host", &[20_000.0])];
        let run = run(vec![item("new-connections", false, &results)]);
        let met = find(&run, "new connections: 1.3x nftables");
        assert_eq!((met.met, met.measured.as_str(), met.bound.as_str()), (Some(true), "1.40x (1.40 to 1.40)", ""));
        let missed = find(&run, "new connections: not below");
        assert_eq!(missed.met, Some(false));
        assert_eq!(missed.bound, "a request takes netpath 71.4 us, host 50.0 us");
        assert_eq!(find(&run, "hairpin").met, None);
    }

    #[test]
    fn what_is_reached_without_nat_bounds_what_is_reached_with_it() {
        let results: [(&str, &[f64]); 3] =
            [("docker-proxy", &[5_000.0]), ("netpath", &[10_000.0]), ("host", &[12_000.0])];
        let items = [("host-loopback-new-connections", &results[..]), ("hairpin-new-connections", &results[..2])];
        let direct = item("containers-new-connections", false, &results[2..]);
        let direct =
            Item { results: vec![Outcome { contestant: OWN.to_owned(), ..direct.results[0].clone() }], ..direct };
        let mut items: Vec<Item> = items.into_iter().map(|(name, results)| item(name, false, results)).collect();
        items.push(direct);
        let run = run(items);
        assert!(find(&run, "host to 127.0.0.1, new connections: 2.9x").bound.ends_with("; host is 2.40x"));
        let hairpin = find(&run, "hairpin").bound;
        assert!(hairpin.ends_with("from one container straight to another it is 2.40x"), "{hairpin}");
    }

    #[test]
    fn the_floor_of_xdp_bounds_what_dropping_costs() {
        let floors: [(&str, &[f64]); 2] = [("make-only", &[250.0]), ("xdp-drop", &[400.0])];
        let flood: [(&str, &[f64]); 2] = [(RULES, &[1000.0]), (XDP, &[700.0])];
        let run = run(vec![item("udp", true, &floors), item("flood", true, &flood)]);
        let bound = "of 700 ns 250 make a frame, 150 bring it to XDP, 300 the rest; a program that does nothing but drop \
                     it is 2.5x, without the making 5.0x";
        assert_eq!(find(&run, "flood").bound, bound);
    }

    #[test]
    fn a_datagrams_time_is_told_floor_by_floor() {
        let results: [(&str, &[f64]); 5] = [
            ("iptables-nft", &[2000.0]),
            ("netpath", &[1000.0]),
            ("make-only", &[300.0]),
            ("tc-drop", &[600.0]),
            ("redirect-only", &[850.0]),
        ];
        let run = run(vec![item("udp", true, &results)]);
        let row = find(&run, "UDP, 64-byte frames, tc");
        let bound = "of 1000 ns 300 make a frame, 300 bring it to tc, 250 redirect it, 150 the rest; 4x is 500 ns, less \
                     than the floors alone";
        assert_eq!((row.measured.as_str(), row.bound.as_str()), ("2.00x (2.00 to 2.00)", bound));
        let nat = find(&run, "UDP: NAT");
        assert_eq!((nat.measured.as_str(), nat.met), ("+18 %", Some(false)));
        assert_eq!(nat.bound, "redirect-only takes 850 ns");
    }

    #[test]
    fn flat_is_beside_who_has_one_port() {
        let step = |count, own| {
            let results: [(&str, &[f64]); 3] =
                [("netpath", &[own]), ("netpath-range", &[100.0]), ("netpath-1", &[100.0])];
            let condition = Some(Condition { of: "ports".to_owned(), count });
            Item { condition, ..item("new-connections", false, &results) }
        };
        let aim = "new connections: within 3 %";
        assert_eq!(find(&run(vec![step(1, 50.0), step(60_000, 98.0)]), aim).met, Some(true));
        let missed = find(&run(vec![step(1, 100.0), step(1_000, 99.0), step(60_000, 96.0)]), aim);
        assert_eq!((missed.met, missed.measured.as_str()), (Some(false), "netpath -4.0 %, netpath-range +0.0 %"));
        assert_eq!(find(&run(vec![step(1, 100.0)]), aim).met, None);
    }
}
