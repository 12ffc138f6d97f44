//! A row of the conformance table: run it on one plane, hold the result against what is claimed, and write it down.
//!
//! Results are files of JSON in cargo's directory for temporary files, one for each row and plane; `cargo xtask conformance`
//! makes docs/conformance.md of them.

use std::fs;
use std::path::Path;

use netpath_tests::{Family, Plane};
use serde_json::json;

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
}

/// What the table says about a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Met,
    Unmet,
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
    pub(crate) setup: fn() -> Setup,
    pub(crate) check: fn(&mut Testbed) -> Met,
}

impl Row {
    /// Runs the row on `plane` for each of its families, writes the result down, and panics when it is not the expected one.
    pub(crate) fn run(&self, plane: Plane) {
        if let Some(why) = planes::missing(plane) {
            eprintln!("skipped: {why}");
            return;
        }
        let mut bed = Testbed::new(plane, (self.setup)());
        let families: &[Family] = match self.families {
            Families::Both => &Family::BOTH,
            Families::V4 => &[Family::V4],
        };
        let results: Vec<(Family, Met)> =
            families.iter().map(|family| (*family, bed.check(*family, self.check))).collect();
        self.write(plane, &results);
        let expected = if plane.is_netpath() { self.netpath } else { self.netfilter };
        let is_met = results.iter().all(|(_, met)| met.is_ok());
        let what = format!("{} {}: {}", self.part, self.id, self.requirement);
        match expected {
            Expected::Met => assert!(is_met, "{what}\nseen: {results:?}"),
            Expected::Unmet => assert!(!is_met, "{what}\nis met, and the row says it is not"),
        }
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
