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

/// What the table says about a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Met,
    Unmet,
    /// netpath's shortcuts do not meet it, and the kernel's road does.
    MetWithoutShortcuts,
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

/// Runs those of `rows` that need no world of their own on `plane`, one after the other in one world.
pub(crate) fn run_in_one_world(rows: &[Row], plane: Plane) {
    /// Longer than anything is remembered, in seconds.
    const FOREVER: u32 = 1_000_000;
    let rows: Vec<&Row> = rows.iter().filter(|row| row.setup.is_none() && row.is_asked(plane)).collect();
    if let Some(why) = planes::missing(plane).or(rows.is_empty().then(|| "every row has a world of its own".to_owned()))
    {
        eprintln!("skipped: {why}");
        return;
    }
    let mut bed = Testbed::new(plane, Setup::muted());
    let mut wrong = Vec::new();
    for row in rows {
        wrong.extend(row.check_in(&mut bed).err());
        clock::advance(&bed.world, FOREVER);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Row {
    /// Runs the row on `plane` for each of its families, writes the result down, and panics when it is not the expected one.
    pub(crate) fn run(&self, plane: Plane) {
        if let Some(why) = planes::missing(plane) {
            eprintln!("skipped: {why}");
        } else if !self.is_asked(plane) {
            eprintln!("skipped: {} {} is no question to {}", self.part, self.id, plane_name(plane));
        } else {
            let mut bed = Testbed::new(plane, self.setup.unwrap_or(Setup::muted)());
            self.check_in(&mut bed).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
    }

    fn is_asked(&self, plane: Plane) -> bool {
        self.expected(plane) != Expected::NotRun
    }

    fn expected(&self, plane: Plane) -> Expected {
        match (self.netpath, plane) {
            (_, Plane::Iptables { .. }) => self.netfilter,
            (Expected::MetWithoutShortcuts, Plane::Netpath { shortcuts: true }) => Expected::Unmet,
            (Expected::MetWithoutShortcuts, _) => Expected::Met,
            (expected, _) => expected,
        }
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
        let plane = bed.world.plane;
        self.write(plane, &results);
        let is_met = results.iter().all(|(_, met)| met.is_ok());
        if is_met == (self.expected(plane) == Expected::Met) {
            return Ok(());
        }
        let what = format!("{} {}: {}", self.part, self.id, self.requirement);
        Err(if is_met {
            format!("{what}\nis met, and the row says it is not")
        } else {
            format!("{what}\nseen: {results:?}")
        })
    }

    fn write(&self, plane: Plane, results: &[(Family, Met)]) {
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
            "plane": plane_name(plane),
            "results": results,
        });
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
        let path = dir.join(format!("{}.{}.json", test.replace("::", "."), plane_name(plane)));
        let written = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, format!("{row:#}\n")));
        written.unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }
}

fn plane_name(plane: Plane) -> &'static str {
    match plane {
        Plane::Iptables { .. } => "netfilter",
        Plane::Netpath { shortcuts: true } => "netpath",
        Plane::Netpath { shortcuts: false } => "netpath_without_shortcuts",
    }
}
