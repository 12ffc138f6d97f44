//! A row of the conformance table: run it on one plane, hold the result against what is claimed, and write it down.
//!
//! Results are files of JSON in cargo's directory for temporary files, one for each row and plane; `cargo xtask conformance`
//! makes docs/conformance.md of them.

use std::fs;
use std::path::Path;

use netpath_tests::{Family, Plane};
use serde_json::json;

use super::clock;
use super::testbed::{Setup, Testbed};
use crate::planes;

/// Whether a requirement is met, and if not, what was seen. The text goes into the table, so it names no number that
/// differs from run to run.
pub(crate) type Met = Result<(), String>;

/// How much depends on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// netpath claims it; a row that says so and that netpath is expected not to meet is a known fault.
    Must,
    /// Good to have: the table says whether it is met.
    Nice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    V4,
    V6,
}

/// Who forwards, and on which of its roads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    Netfilter,
    /// netpath as it is without options.
    Netpath,
    /// All of it through the kernel's stack.
    WithoutShortcuts,
    /// With XDP in front, in the driver of the wire to the server.
    Xdp,
}

/// What the table says about a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Met,
    Unmet,
    /// The plane has no such thing, or a namespace has not; the table says so.
    NotRun,
}

/// One requirement. The test's functions hold it against the planes.
pub(crate) struct Row {
    /// Where the row stands in the table: number of its part, and all rows of that part.
    pub(crate) order: (u32, &'static [&'static str]),
    pub(crate) part: &'static str,
    pub(crate) id: &'static str,
    /// The test without its plane.
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) families: Families,
    pub(crate) netfilter: Expected,
    pub(crate) netpath: Expected,
    pub(crate) requirement: &'static str,
    /// None: any world will do that others of its kind have used, with all flows expired.
    pub(crate) setup: Option<fn() -> Setup>,
    pub(crate) check: fn(&mut Testbed) -> Met,
}

/// Runs those of `rows` that need no world of their own on `road`, one after the other in one world.
pub(crate) fn run_in_one_world(rows: &[Row], road: Road) {
    /// Longer than anything is remembered, in seconds.
    const FOREVER: u32 = 1_000_000;
    let rows: Vec<&Row> = rows.iter().filter(|row| row.setup.is_none() && row.is_asked(road)).collect();
    if let Some(why) =
        planes::missing(road.plane()).or(rows.is_empty().then(|| "every row has a world of its own".to_owned()))
    {
        eprintln!("skipped: {why}");
        return;
    }
    let mut bed = Testbed::new(road, Setup::muted());
    let mut wrong = Vec::new();
    for row in rows {
        wrong.extend(row.check_in(&mut bed).err());
        clock::advance(&bed.world, FOREVER);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Row {
    /// Runs the row on `road` for each of its families, writes the result down, and panics when it is not the expected one.
    pub(crate) fn run(&self, road: Road) {
        if let Some(why) = planes::missing(road.plane()) {
            eprintln!("skipped: {why}");
        } else if !self.is_asked(road) {
            eprintln!("skipped: {} {} is no question to {}", self.part, self.id, road.name());
        } else {
            let mut bed = Testbed::new(road, self.setup.unwrap_or(Setup::muted)());
            self.check_in(&mut bed).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
    }

    fn is_asked(&self, road: Road) -> bool {
        self.expected(road) != Expected::NotRun
    }

    fn expected(&self, road: Road) -> Expected {
        if road == Road::Netfilter { self.netfilter } else { self.netpath }
    }

    /// `Err` says what is not as the row says.
    fn check_in(&self, bed: &mut Testbed) -> Result<(), String> {
        let families: &[Family] = match self.families {
            Families::Both => &Family::BOTH,
            Families::V4 => &[Family::V4],
            Families::V6 => &[Family::V6],
        };
        let results: Vec<(Family, Met)> =
            families.iter().map(|family| (*family, bed.check(*family, self.check))).collect();
        let expected = self.expected(bed.road);
        self.write(bed.road, &results);
        let is_met = results.iter().all(|(_, met)| met.is_ok());
        if is_met == (expected == Expected::Met) {
            return Ok(());
        }
        let what = format!("{} {}: {}", self.part, self.id, self.requirement);
        Err(if is_met {
            format!("{what}\nis met, and the row says it is not")
        } else {
            format!("{what}\nseen: {results:?}")
        })
    }

    fn write(&self, road: Road, results: &[(Family, Met)]) {
        let results: Vec<_> = results
            .iter()
            .map(|(family, met)| {
                let family = family.pick("IPv4", "IPv6");
                json!({ "family": family, "met": met.is_ok(), "seen": met.as_ref().err().cloned().unwrap_or_default() })
            })
            .collect();
        // `netpath::conformance::rfc4787::...`: the first part is the name of the test binary.
        let test = self.name.split_once("::").map_or(self.name, |(_, rest)| rest);
        let place = self.order.1.iter().position(|name| test.ends_with(&format!("::{name}")));
        let row = json!({
            "order": [self.order.0, place],
            "part": self.part,
            "id": self.id,
            "test": test,
            "level": format!("{:?}", self.level),
            "requirement": self.requirement,
            "plane": road.name(),
            "results": results,
        });
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
        let path = dir.join(format!("{}.{}.json", test.replace("::", "."), road.name()));
        let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, format!("{row:#}\n")));
        written.unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }
}

impl Road {
    pub(crate) fn plane(self) -> Plane {
        match self {
            Self::Netfilter => Plane::Iptables { proxy: false },
            Self::Netpath | Self::Xdp => Plane::Netpath { shortcuts: true },
            Self::WithoutShortcuts => Plane::Netpath { shortcuts: false },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Netfilter => "netfilter",
            Self::Netpath => "netpath",
            Self::WithoutShortcuts => "netpath_without_shortcuts",
            Self::Xdp => "netpath_with_xdp",
        }
    }
}
