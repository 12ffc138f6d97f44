//! `cargo xtask conformance`: runs the conformance tests and writes what they saw into docs/conformance.md and README.md,
//! between `<!-- conformance:NAME -->` and `<!-- /conformance -->`.
//!
//! After a run of all tests the same text is made again and compared, so that no page says what is not so. The line about
//! the machine is left out of that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::pages;
use crate::process::{build_for_tests, built, cargo, require_root, root_dir, status};
use crate::setup::{self, Report, Scope};

const PAGES: [&str; 2] = ["docs/conformance.md", "README.md"];
const KIND: &str = "conformance";
const MACHINE: &str = "machine";

const NETFILTER: &str = "netfilter";
const NETPATH: &str = "netpath";
/// netpath's other roads, and what the table calls them where they differ.
const ROADS: [(&str, &str); 2] = [("netpath_without_shortcuts", "without shortcuts"), ("netpath_with_xdp", "with XDP")];

/// With `only_tables`, of the results that are there.
pub(crate) fn run(only_tables: bool) -> Result<ExitCode> {
    let code = if only_tables { ExitCode::SUCCESS } else { run_tests()? };
    let rows = rows()?;
    for page in PAGES.map(|page| root_dir().join(page)) {
        if pages::rewrite(&page, KIND, |name, old| part(name, old, &rows, true))? {
            eprintln!("conformance: wrote {}", page.display());
        }
    }
    eprintln!("conformance: {}", summary(&rows));
    Ok(code)
}

fn run_tests() -> Result<ExitCode> {
    require_root("conformance")?;
    setup::ensure(Scope::Tests, Report::Quiet)?;
    build_for_tests()?;
    forget()?;
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "-p", "netpath-tests", "conformance::"]);
    let ended = status(nextest.env("NETPATH_BIN", built("debug", "netpath")?))?;
    Ok(ExitCode::from(u8::try_from(ended.code().unwrap_or(2)).unwrap_or(2)))
}

/// Removes the results of earlier runs.
pub(crate) fn forget() -> Result<()> {
    let dir = results_dir()?;
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// The pages that do not say what the tests of this run saw; none if no such test has run.
pub(crate) fn stale() -> Result<Vec<PathBuf>> {
    if !results_dir()?.exists() {
        return Ok(Vec::new());
    }
    let rows = rows()?;
    let mut stale = Vec::new();
    for page in PAGES.map(|page| root_dir().join(page)) {
        let (is, new) = pages::remade(&page, KIND, |name, old| part(name, old, &rows, false))?;
        if new != is {
            stale.push(page);
        }
    }
    Ok(stale)
}

/// What one row's tests saw, by plane.
#[derive(Debug)]
struct Row {
    part: String,
    id: String,
    level: String,
    requirement: String,
    test: String,
    seen: BTreeMap<String, Vec<Seen>>,
}

/// What was seen of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    family: String,
    /// Empty where the requirement is met.
    instead: String,
}

impl Row {
    fn is_must(&self) -> bool {
        self.level == "Must"
    }

    fn is_met(&self, plane: &str) -> bool {
        self.seen.get(plane).is_some_and(|seen| seen.iter().all(|seen| seen.instead.is_empty()))
    }

    fn is_met_by_netpath(&self) -> bool {
        self.is_met(NETPATH) && ROADS.iter().all(|(road, _)| self.is_met(road))
    }

    fn cell(&self, plane: &str) -> String {
        let Some(seen) = self.seen.get(plane) else { return "-".to_owned() };
        let say = |seen: &Seen| match seen.instead.as_str() {
            "" => "yes".to_owned(),
            instead => format!("**no**: {instead}"),
        };
        if seen.iter().all(|one| one.instead == seen[0].instead) {
            return say(&seen[0]);
        }
        seen.iter().map(|one| format!("{} {}", one.family, say(one))).collect::<Vec<_>>().join("; ")
    }

    fn netpath_cell(&self) -> String {
        let cell = self.cell(NETPATH);
        let others = ROADS.iter().map(|(road, name)| (self.cell(road), name)).filter(|(other, _)| *other != cell);
        let others: Vec<String> = others.map(|(other, name)| format!("; {name} {other}")).collect();
        cell.clone() + &others.concat()
    }
}

fn results_dir() -> Result<PathBuf> {
    built("tmp", "conformance")
}

/// The results, in the order of the table. Where tests have been run one by one between changes of a table, the last one
/// knows its order.
fn rows() -> Result<Vec<Row>> {
    let dir = results_dir()?;
    let entries = fs::read_dir(&dir).with_context(|| format!("list {} (has any test run?)", dir.display()))?;
    let mut files = entries.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_cached_key(|file| file.metadata().and_then(|data| data.modified()).ok());
    let mut rows: BTreeMap<String, ([u64; 2], Row)> = BTreeMap::new();
    for path in files.iter().map(fs::DirEntry::path) {
        let result = read(&path).with_context(|| format!("read {}", path.display()))?;
        let text = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
        let order = [0, 1].map(|index| result["order"][index].as_u64().unwrap_or(0));
        let seen = rows.remove(&text("test")).map(|(_, row)| row.seen).unwrap_or_default();
        let mut row = Row {
            part: text("part"),
            id: text("id"),
            level: text("level"),
            requirement: text("requirement"),
            test: text("test"),
            seen,
        };
        let seen = result["results"].as_array().into_iter().flatten().map(|result| Seen {
            family: result["family"].as_str().unwrap_or_default().to_owned(),
            instead: result["seen"].as_str().unwrap_or_default().to_owned(),
        });
        row.seen.insert(text("plane"), seen.collect());
        rows.insert(text("test"), (order, row));
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by_key(|(order, _)| *order);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn read(path: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// A marked part; the one about the machine is made only `with_machine`.
fn part(name: &str, old: &str, rows: &[Row], with_machine: bool) -> Result<String> {
    Ok(match name {
        MACHINE if !with_machine => old.to_owned(),
        MACHINE => format!("{}\n", machine()),
        "summary" => format!("{}\n", summary(rows)),
        "rows" => tables(rows),
        other => bail!("no part is called `{other}`: there are summary, rows, {MACHINE}"),
    })
}

fn summary(rows: &[Row]) -> String {
    let count = |level: &dyn Fn(&Row) -> bool, met: &dyn Fn(&Row) -> bool| {
        (rows.iter().filter(|row| level(row) && met(row)).count(), rows.iter().filter(|row| level(row)).count())
    };
    let (must, nice) = (|row: &Row| row.is_must(), |row: &Row| !row.is_must());
    let (ours, theirs) = (|row: &Row| row.is_met_by_netpath(), |row: &Row| row.is_met(NETFILTER));
    let ((met, all), (their_met, _)) = (count(&must, &ours), count(&must, &theirs));
    let ((nice_met, nice_all), (their_nice, _)) = (count(&nice, &ours), count(&nice, &theirs));
    format!(
        "netpath meets {met} of {all} requirements marked MUST (Docker's rules on netfilter: {their_met}), \
         and {nice_met} of {nice_all} that are good to have (netfilter: {their_nice})."
    )
}

fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut part = "";
    for row in rows {
        if row.part != part {
            part = &row.part;
            text += &format!("\n## {part}\n\n| | requirement | netfilter | netpath | test |\n|---|---|---|---|---|\n");
        }
        let level = if row.is_must() { "MUST" } else { "nice" };
        let test = row.test.trim_start_matches("conformance::");
        let (id, requirement) = (&row.id, &row.requirement);
        text += &format!(
            "| {id} {level} | {requirement} | {} | {} | `{test}` |\n",
            row.cell(NETFILTER),
            row.netpath_cell()
        );
    }
    text + "\n"
}

fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}, {}.", release.trim(), std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(level: &str, netfilter: &str, netpath: [&str; 2]) -> Row {
        let [(without, _), (xdp, _)] = ROADS;
        let seen = |instead: &str| {
            ["IPv4", "IPv6"].map(|family| Seen { family: family.to_owned(), instead: instead.to_owned() }).to_vec()
        };
        let planes = [(NETFILTER, netfilter), (NETPATH, netpath[0]), (without, netpath[1]), (xdp, netpath[0])];
        Row {
            part: "RFC 1".to_owned(),
            id: "REQ-1".to_owned(),
            level: level.to_owned(),
            requirement: "All is well".to_owned(),
            test: "conformance::rfc1::all_is_well".to_owned(),
            seen: planes.map(|(plane, instead)| (plane.to_owned(), seen(instead))).into(),
        }
    }

    #[test]
    fn a_row_is_met_when_all_roads_meet_it() {
        let rows = [row("Must", "lost", ["", ""]), row("Must", "", ["", "lost"]), row("Nice", "", ["", ""])];
        let text = summary(&rows);
        assert!(text.contains("1 of 2 requirements marked MUST (Docker's rules on netfilter: 1)"), "{text}");
        assert_eq!(rows[1].netpath_cell(), "yes; without shortcuts **no**: lost");
    }

    #[test]
    fn families_that_differ_are_told_apart() {
        let mut row = row("Must", "", ["", ""]);
        row.seen.get_mut(NETFILTER).expect("a plane")[1].instead = "lost".to_owned();
        assert_eq!(row.cell(NETFILTER), "IPv4 yes; IPv6 **no**: lost");
    }

    #[test]
    fn a_page_that_is_made_again_stays_the_same_but_for_the_machine() {
        let mark = |name: &str, text: &str| format!("<!-- conformance:{name} -->{text}<!-- /conformance -->");
        let page = format!("a {} b {} c {} d", mark("summary", ""), mark("machine", "\nLinux 1\n"), mark("rows", ""));
        let rows = [row("Must", "", ["", ""])];
        let made = |page: &str| pages::rewritten(page, KIND, |name, old| part(name, old, &rows, false));
        let once = made(&page).expect("a page");
        assert_eq!(made(&once).expect("a page"), once);
        assert!(once.contains("Linux 1\n") && once.contains("| REQ-1 MUST | All is well | yes | yes |"), "{once}");
        assert!(made(&mark("other", "")).is_err());
    }
}
