//! What each kernel says to netpath: docs/kernels.json, which `--record` writes and every other run is compared with, and the
//! tables that are made of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::kernel::{Kernel, SERIES};
use crate::pages;
use crate::process::root_dir;

/// What the guest leaves: `netpath doctor --programs --json`, and nextest's report of a run of the usual tests.
pub(super) const DOCTOR: &str = "doctor.json";
pub(super) const TESTS: &str = "junit.xml";

const PAGES: [&str; 2] = ["README.md", "docs/vm.md"];
const KIND: &str = "kernels";
/// By how much the instructions that a kernel verifies may rise. They are a count: the same programs give the same.
const MAX_RISE: f64 = 0.10;
/// The check of the doctor that says how programs are attached.
const TCX: &str = "tcx";

/// What one kernel says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// As in [`SERIES`].
    kernel: String,
    /// The package and its version.
    version: String,
    /// Instructions that the verifier walked through, by program; 0 where the kernel does not tell.
    programs: BTreeMap<String, u32>,
    /// Programs that it refuses, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    refused: BTreeMap<String, String>,
    /// What it lacks, as the doctor calls it, and what comes of that.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    lacks: BTreeMap<String, String>,
    /// The usual tests, where they have been run on this version.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tests: Option<Tests>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tests {
    passed: u32,
    failed: u32,
}

/// Of what `netpath doctor --json` prints, what is kept.
#[derive(Deserialize)]
struct Doctor {
    checks: Vec<Check>,
    programs: Vec<Program>,
}

#[derive(Deserialize)]
struct Check {
    name: String,
    status: String,
    found: String,
    advice: String,
}

#[derive(Deserialize)]
struct Program {
    name: String,
    instructions: u32,
    refusal: Vec<String>,
}

impl Record {
    /// Of the files that a guest has sent; none if the doctor's report is not among them.
    ///
    /// # Errors
    /// If one is not what it should be.
    pub(super) fn of(kernel: &Kernel, files: &[(String, Vec<u8>)]) -> Result<Option<Self>> {
        let named = |wanted| files.iter().find(|(name, _)| name == wanted).map(|(_, bytes)| &bytes[..]);
        let Some(doctor) = named(DOCTOR) else { return Ok(None) };
        let doctor: Doctor = serde_json::from_slice(doctor).context("understand what `netpath doctor --json` said")?;
        let (taken, refused): (Vec<_>, Vec<_>) = doctor.programs.into_iter().partition(|p| p.refusal.is_empty());
        // What every guest is the same in, its interfaces and rules, says nothing about a kernel.
        let lacks = doctor.checks.into_iter().filter(|check| check.status != "ok" && is_of_kernel(&check.name));
        Ok(Some(Self {
            kernel: kernel.name.clone(),
            version: kernel.version.clone(),
            programs: taken.into_iter().map(|program| (program.name, program.instructions)).collect(),
            refused: refused.into_iter().map(|program| (program.name, program.refusal.join("; "))).collect(),
            lacks: lacks.map(|check| (check.name, format!("{}: {}", check.found, check.advice))).collect(),
            tests: named(TESTS).map(tests).transpose()?,
        }))
    }

    pub(super) fn kernel(&self) -> &str {
        &self.kernel
    }

    /// A line about it, and one about each program that is refused.
    pub(super) fn told(&self) -> String {
        let instructions = match self.instructions() {
            0 => String::new(),
            count => format!(", {count} instructions verified"),
        };
        let refused = self.refused.iter().map(|(name, why)| format!("\n    refused: `{name}`: {why}"));
        format!("takes {} programs{instructions}{}", self.taken_told(), refused.collect::<String>())
    }

    fn taken_told(&self) -> String {
        format!("{} of {}", self.programs.len(), self.programs.len() + self.refused.len())
    }

    fn instructions(&self) -> u64 {
        self.programs.values().map(|count| u64::from(*count)).sum()
    }

    /// What is worse than in the record of the same kernel.
    pub(super) fn worse_than(&self, before: Option<&Self>) -> Vec<String> {
        let mut worse: Vec<String> = self.refused.keys().map(|name| format!("`{name}` is refused")).collect();
        let same = before.filter(|before| before.version == self.version);
        for (name, was) in same.into_iter().flat_map(|before| &before.programs) {
            match self.programs.get(name) {
                Some(is) if *was > 0 && f64::from(*is) > f64::from(*was) * (1.0 + MAX_RISE) => {
                    worse.push(format!("`{name}`: {is} instructions verified, {was} in the record"));
                }
                _ => {}
            }
        }
        worse
    }

    fn tests_told(&self) -> String {
        self.tests.map_or("-".to_owned(), |tests| format!("{} of {}", tests.passed, tests.passed + tests.failed))
    }
}

/// The doctor's checks that are about the kernel alone.
fn is_of_kernel(check: &str) -> bool {
    ["kernel", "preemption", "btf", TCX, "socket hooks", "namespace cookies", "clock", "xdp", "veth", "programs"]
        .contains(&check)
}

/// Passed and failed tests of a report in JUnit's format.
fn tests(report: &[u8]) -> Result<Tests> {
    let text = std::str::from_utf8(report).context("the tests' report is no text")?;
    let report = roxmltree::Document::parse(text).context("understand the tests' report")?;
    let count = |name: &str| -> Result<u32> {
        let count =
            report.root_element().attribute(name).with_context(|| format!("the tests' report has no {name}"))?;
        count.parse().with_context(|| format!("{name} in the tests' report is no number: {count}"))
    };
    let failed = count("failures")? + count("errors")?;
    Ok(Tests { passed: count("tests")?.saturating_sub(failed), failed })
}

fn path() -> PathBuf {
    root_dir().join("docs/kernels.json")
}

/// The records there are.
///
/// # Errors
/// If the file cannot be read or understood.
pub(super) fn all() -> Result<Vec<Record>> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

/// The record of one kernel.
pub(super) fn find<'a>(records: &'a [Record], kernel: &str) -> Option<&'a Record> {
    records.iter().find(|record| record.kernel == kernel)
}

/// Takes `new` among the records, and makes the tables anew. Tests of the same version that were not run again stay.
///
/// # Errors
/// If a file cannot be read or written.
pub(super) fn keep(new: Vec<Record>) -> Result<()> {
    let records = merged(all()?, new);
    let text = serde_json::to_string_pretty(&records).context("write the records as JSON")?;
    fs::write(path(), text + "\n").with_context(|| format!("write {}", path().display()))?;
    for page in PAGES {
        pages::rewrite(&root_dir().join(page), KIND, |name, _| part(name, &records))?;
    }
    eprintln!("vm: wrote {} and the tables of {}", path().display(), PAGES.join(" and "));
    Ok(())
}

fn merged(mut records: Vec<Record>, new: Vec<Record>) -> Vec<Record> {
    for mut record in new {
        let old = records.iter().position(|old| old.kernel == record.kernel).map(|at| records.remove(at));
        let old = old.filter(|old| old.version == record.version);
        record.tests = record.tests.or(old.and_then(|old| old.tests));
        records.push(record);
    }
    records.sort_by_key(|record| SERIES.iter().position(|(name, _)| *name == record.kernel));
    records
}

fn part(name: &str, records: &[Record]) -> Result<String> {
    match name {
        "summary" => Ok(summary(records)),
        "programs" => Ok(programs(records)),
        "lacks" => Ok(lacks(records)),
        other => bail!("no part is called `{other}`: there are summary, programs, lacks"),
    }
}

fn summary(records: &[Record]) -> String {
    let mut text = "| kernel | programs | attached as | end-to-end tests |\n|---|---|---|---|\n".to_owned();
    for record in records {
        let attached = if record.lacks.contains_key(TCX) { "clsact filters" } else { "tcx links" };
        text += &format!("| {} | {} | {attached} | {} |\n", shown(record), record.taken_told(), record.tests_told());
    }
    text
}

fn programs(records: &[Record]) -> String {
    let mut text = "| kernel | takes | instructions verified | most of them in |\n|---|---|---|---|\n".to_owned();
    for record in records {
        let most = record.programs.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > 0);
        let (sum, most) = match most {
            Some((name, count)) => (record.instructions().to_string(), format!("`{name}`, {count}")),
            None => ("it does not tell".to_owned(), "-".to_owned()),
        };
        text += &format!("| {} | {} | {sum} | {most} |\n", shown(record), record.taken_told());
    }
    text
}

fn lacks(records: &[Record]) -> String {
    let mut text = "| kernel | lacks | found, and what comes of it |\n|---|---|---|\n".to_owned();
    for record in records {
        for (name, what) in &record.lacks {
            text += &format!("| {} | {name} | {what} |\n", shown(record));
        }
    }
    text
}

/// Debian's version, and sid by its name.
fn shown(record: &Record) -> String {
    let version = record.version.rsplit(' ').next().unwrap_or_default();
    format!("Debian {version}{}", if record.kernel == "sid" { " (sid)" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="nextest-run" tests="10" failures="2" errors="1" time="3.5"><testsuite name="a"/></testsuites>"#;
    const SAID: &str = r#"{"checks": [
        {"name": "tcx", "status": "warn", "found": "no tcx links", "advice": "filters"},
        {"name": "clock", "status": "ok", "found": "coarse", "advice": ""},
        {"name": "forwarding", "status": "fail", "found": "of the guest", "advice": ""}], "interfaces": [],
        "programs": [{"name": "a", "instructions": 100, "refusal": []},
                     {"name": "b", "instructions": 0, "refusal": ["R3 min value", "Permission denied"]}]}"#;

    fn record(version: &str, files: &[(&str, &str)]) -> Record {
        let files: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        let version = version.to_owned();
        let kernel = Kernel { name: "6.1".to_owned(), version, image: PathBuf::new(), modules: None };
        Record::of(&kernel, &files).expect("a report").expect("of the doctor")
    }

    #[test]
    fn a_record_is_made_of_what_the_doctor_and_the_tests_say() {
        let record = record("linux 6.1.1-1", &[(DOCTOR, SAID), (TESTS, REPORT)]);
        assert_eq!(record.tests, Some(Tests { passed: 7, failed: 3 }));
        assert_eq!(record.programs, [("a".to_owned(), 100)].into());
        assert_eq!(record.lacks, [("tcx".to_owned(), "no tcx links: filters".to_owned())].into());
        let table = summary(std::slice::from_ref(&record));
        assert!(table.ends_with("| Debian 6.1.1-1 | 1 of 2 | clsact filters | 7 of 10 |\n"), "{table}");
        assert!(record.told().contains("refused: `b`: R3 min value; Permission denied"), "{}", record.told());
    }

    #[test]
    fn refusals_and_jumps_of_the_same_version_are_worse() {
        let before = record("linux 6.1.1-1", &[(DOCTOR, SAID)]);
        let after = |version, count: u32| {
            let mut after = record(version, &[(DOCTOR, SAID)]);
            after.refused.clear();
            after.programs = [("a".to_owned(), count)].into();
            after.worse_than(Some(&before))
        };
        assert_eq!(before.worse_than(None), ["`b` is refused"]);
        assert_eq!(after("linux 6.1.1-1", 110), Vec::<String>::new());
        assert_eq!(after("linux 6.1.1-1", 111), ["`a`: 111 instructions verified, 100 in the record"]);
        assert_eq!(after("linux 6.1.2-1", 111), Vec::<String>::new());
    }

    #[test]
    fn tests_that_were_not_run_again_stay_with_their_version() {
        let tested = record("linux 6.1.1-1", &[(DOCTOR, SAID), (TESTS, REPORT)]);
        let again = |version| merged(vec![tested.clone()], vec![record(version, &[(DOCTOR, SAID)])]);
        assert_eq!(again("linux 6.1.1-1"), std::slice::from_ref(&tested));
        assert_eq!(again("linux 6.1.2-1")[0].tests, None);
    }

    #[test]
    fn the_pages_say_what_the_records_say() {
        let records = all().expect("docs/kernels.json");
        for page in PAGES {
            let (is, made) = pages::remade(&root_dir().join(page), KIND, |name, _| part(name, &records)).expect(page);
            assert!(
                is == made,
                "{page} is not made from docs/kernels.json (type: cargo xtask vm --record -- programs)"
            );
            assert!(is.contains("<!-- kernels:"), "{page} has none of the tables");
        }
    }
}
