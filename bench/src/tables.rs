//! The tables in README.md and docs: what stands between `<!-- bench:NAME -->` and `<!-- /bench -->` is made from a run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::aims;
use crate::docker_run;
use crate::kind::Kind;
use crate::record::{Item, Run, grouped};
use crate::table::with_unit;

const OPEN: &str = "<!-- bench:";
const CLOSE: &str = "<!-- /bench -->";

/// Rewrites the marked tables of README.md and of everything in docs and bench below `root`; returns the files that have
/// changed.
///
/// # Errors
///
/// If a file cannot be read or written, or a mark is not what it should be.
pub fn rewrite(root: &Path, run: &Run) -> Result<Vec<PathBuf>> {
    let mut files = vec![root.join("README.md"), root.join("bench/README.md")];
    let docs = fs::read_dir(root.join("docs")).into_iter().flatten().flatten().map(|entry| entry.path());
    files.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    files.sort();
    let mut changed = Vec::new();
    for file in files.into_iter().filter(|file| file.is_file()) {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let new = replace(&text, |name| table(name, run))
            .with_context(|| format!("make the tables of {}", file.display()))?;
        if new != text {
            fs::write(&file, new).with_context(|| format!("write {}", file.display()))?;
            changed.push(file);
        }
    }
    Ok(changed)
}

/// `text` with each marked part replaced by what `make` makes of its name.
fn replace(text: &str, make: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut new = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        let (before, marked) = rest.split_at(at);
        let Some((mark, inside)) = marked.split_once("-->") else { bail!("a mark `{OPEN}` has no end") };
        let name = mark[OPEN.len()..].trim();
        let Some((_, after)) = inside.split_once(CLOSE) else { bail!("`{OPEN}{name} -->` has no `{CLOSE}`") };
        new.push_str(&format!("{before}{OPEN}{name} -->\n{}{CLOSE}", make(name)?));
        rest = after;
    }
    new.push_str(rest);
    Ok(new)
}

fn table(name: &str, run: &Run) -> Result<String> {
    match name {
        "summary" => Ok(ratios(&items(run, &SUMMARY), &["host", "iptables-nft", "nftables", "netpath"])),
        "ratios" => {
            let all: Vec<&Item> = run.items.iter().filter(|item| item.condition.is_none()).collect();
            Ok(ratios(&all, &Kind::ALL.map(Kind::name)))
        }
        "ports" => Ok(ratios(&run.series("new-connections", "ports"), &SCALING)),
        "flows" => Ok(ratios(&run.series("new-connections", "flows"), &["iptables-nft", "netpath"])),
        "publish" => Ok(publish(run)),
        "programs" => Ok(programs(run)),
        "containers" => Ok(containers(run)),
        "cni" => Ok(cni(run)),
        "docker" => Ok(docker(run)),
        "aims" => Ok(aims(run)),
        "machine" => Ok(machine(run)),
        other => {
            const NAMES: &str =
                "summary, ratios, ports, flows, publish, programs, containers, cni, docker, aims, machine";
            bail!("no table is called `{other}`: there are {NAMES}")
        }
    }
}

const SUMMARY: [&str; 9] = [
    "new-connections",
    "keep-alive",
    "bulk-in-1",
    "bulk-out-1",
    "udp",
    "flood",
    "masquerade-new-connections",
    "containers-new-connections",
    "hairpin-new-connections",
];

const SCALING: [&str; 6] = ["iptables-legacy", "iptables-nft", "nftables", "netpath", "netpath-range", "netpath-1"];

fn items<'a>(run: &'a Run, names: &[&str]) -> Vec<&'a Item> {
    names.iter().filter_map(|name| run.item(name)).collect()
}

/// A row for each item; of `names`, those who have a result at all.
fn ratios(items: &[&Item], names: &[&str]) -> String {
    let reference = Kind::REFERENCE.name();
    let here = |name: &&&str| items.iter().any(|item| item.outcome(name).is_some_and(|o| !o.samples.is_empty()));
    let names: Vec<&str> = names.iter().filter(here).copied().collect();
    let mut text = row(["".to_owned()].into_iter().chain(names.iter().map(|name| (*name).to_owned())));
    text += &row(["---".to_owned()].into_iter().chain(names.iter().map(|_| "---:".to_owned())));
    for item in items {
        let title = item.condition.as_ref().map_or(&item.about, |_| &item.name);
        let title = match &item.condition {
            Some(condition) => format!("{title}, {} {}", grouped(condition.count), condition.of),
            None => title.clone(),
        };
        text += &row([title].into_iter().chain(names.iter().map(|name| cell(item, name, reference))));
    }
    text
}

fn cell(item: &Item, name: &str, reference: &str) -> String {
    let Some(spread) = item.outcome(name).and_then(|outcome| outcome.spread()) else { return "-".to_owned() };
    let value = with_unit(spread.median, &item.unit);
    match item.ratio(name, reference) {
        Some(ratio) if name != reference => format!("{value}, {:.2}x", ratio.median),
        _ => value,
    }
}

fn publish(run: &Run) -> String {
    let mut text = row(["ports", "", "publish", "unpublish", "agent's memory"].map(str::to_owned).into_iter());
    text += &row(["---:", "---", "---:", "---:", "---:"].map(str::to_owned).into_iter());
    for item in run.series("publish", "ports") {
        let count = item.condition.as_ref().map_or(0, |condition| condition.count);
        for outcome in &item.results {
            let Some(spread) = outcome.spread() else { continue };
            let unpublish = outcome.median_of("unpublish_ms").unwrap_or(0.0);
            let memory = outcome.median_of("agent_rss_mib").unwrap_or(0.0);
            let figures = [with_unit(spread.median, "ms"), with_unit(unpublish, "ms"), with_unit(memory, "MiB")];
            text += &row([grouped(count), outcome.contestant.clone()].into_iter().chain(figures));
        }
    }
    text
}

/// What starting and ending containers takes.
fn containers(run: &Run) -> String {
    const NAMES: [&str; 5] = ["docker-run", "docker-rm", "docker-memory", "cni-add", "cni-del"];
    let mut text = row(["", "", "median", "lowest to highest round"].map(str::to_owned).into_iter());
    text += &row(["---", "---", "---:", "---:"].map(str::to_owned).into_iter());
    for item in run.items.iter().filter(|item| NAMES.contains(&item.name.as_str())) {
        let condition = item.condition.as_ref().map(|of| format!(", {} {}", grouped(of.count), of.of));
        let mut title = format!("{}{}", item.about, condition.unwrap_or_default());
        for (outcome, spread) in item.results.iter().filter_map(|outcome| Some((outcome, outcome.spread()?))) {
            let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| with_unit(value, &item.unit));
            text +=
                &row([std::mem::take(&mut title), outcome.contestant.clone(), median, format!("{min} to {max}")]
                    .into_iter());
        }
    }
    text
}

/// ADD and DEL of each list of plugins.
fn cni(run: &Run) -> String {
    let mut text = row(["list", "ADD", "DEL"].map(str::to_owned).into_iter());
    text += &row(["---", "---:", "---:"].map(str::to_owned).into_iter());
    let ms = |item: &str, list: &str| {
        let spread = run.item(item).and_then(|item| item.outcome(list)?.spread());
        spread.map_or_else(|| "-".to_owned(), |spread| with_unit(spread.median, "ms"))
    };
    for outcome in run.item("cni-add").into_iter().flat_map(|item| &item.results) {
        let list = &outcome.contestant;
        let plugins: Vec<String> = list.split('+').map(|plugin| format!("`{plugin}`")).collect();
        text += &row([plugins.join(", "), ms("cni-add", list), ms("cni-del", list)].into_iter());
    }
    text
}

fn docker(run: &Run) -> String {
    let names = [docker_run::ALONE, docker_run::WITH_NETPATH];
    let heads = ["`docker run` to the first answer", "`docker rm -f` until ports are free"];
    let heads = heads.iter().flat_map(|head| names.map(|name| format!("{head}: {name}")));
    let mut text = row(["ports".to_owned()].into_iter().chain(heads));
    text += &row(["---:"; 5].map(str::to_owned).into_iter());
    for (runs, removals) in run.series("docker-run", "ports").into_iter().zip(run.series("docker-rm", "ports")) {
        let count = runs.condition.as_ref().map_or(0, |condition| condition.count);
        let cells = [runs, removals].into_iter().flat_map(|item| {
            names.map(|name| {
                let spread = item.outcome(name).and_then(|outcome| outcome.spread());
                spread.map_or_else(|| "-".to_owned(), |spread| with_unit(spread.median, &item.unit))
            })
        });
        text += &row([grouped(count)].into_iter().chain(cells));
    }
    text
}

fn programs(run: &Run) -> String {
    let mut text = row(["program", "packet", "ns", "instructions", "stack"].map(str::to_owned).into_iter());
    text += &row(["---", "---", "---:", "---:", "---:"].map(str::to_owned).into_iter());
    for program in &run.programs {
        let counts = [grouped(program.instructions.into()), program.stack.to_string()];
        for packet in &program.packets {
            let name = format!("`{}`", program.name);
            let first = [name, packet.name.clone(), format!("{:.0}", packet.ns)];
            text += &row(first.into_iter().chain(counts.clone()));
        }
    }
    text
}

fn aims(run: &Run) -> String {
    let rule = ["---", "---:", "---", "---"];
    let mut text = row(aims::HEADINGS.map(str::to_owned).into_iter()) + &row(rule.map(str::to_owned).into_iter());
    aims::rows(run).iter().for_each(|aim| text += &row(aim.cells().into_iter()));
    text
}

fn machine(run: &Run) -> String {
    let crate::record::Settings { rounds, seconds, .. } = run.settings;
    let (machine, date, commit) = (run.machine.text(), &run.date, &run.machine.commit);
    format!("Medians of {rounds} alternated rounds of {seconds} s, {date}, {machine}, netpath {commit}.\n")
}

fn row(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::item;

    #[test]
    fn only_what_is_marked_is_replaced() {
        let text = "# A\n<!-- bench:one -->\nold\n<!-- /bench -->\nB\n<!-- bench:two --><!-- /bench -->\n";
        let new = replace(text, |name| Ok(format!("{name}!\n"))).unwrap();
        let want = "# A\n<!-- bench:one -->\none!\n<!-- /bench -->\nB\n<!-- bench:two -->\ntwo!\n<!-- /bench -->\n";
        assert_eq!(new, want);
        assert_eq!(replace(&new, |name| Ok(format!("{name}!\n"))).unwrap(), want, "twice is the same");
    }

    #[test]
    fn a_mark_without_an_end_is_refused() {
        assert!(replace("<!-- bench:one -->\n", |_| Ok(String::new())).is_err());
        assert!(replace("<!-- bench:one", |_| Ok(String::new())).is_err());
    }

    #[test]
    fn a_list_of_plugins_has_what_was_measured_of_it() {
        let add = item("cni-add", true, &[("netpath-cni", &[14.0, 12.0, 13.0]), ("bridge+portmap", &[50.0])]);
        let del = item("cni-del", true, &[("netpath-cni", &[9.0])]);
        let table = cni(&crate::record::tests::run(vec![add, del]));
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows, ["| `netpath-cni` | 13.0 ms | 9.00 ms |", "| `bridge`, `portmap` | 50.0 ms | - |"]);
    }

    #[test]
    fn cells_have_value_and_ratio() {
        let rates = item("x", false, &[("iptables-nft", &[1.0]), ("netpath", &[1.5])]);
        assert_eq!(cell(&rates, "netpath", "iptables-nft"), "1.50 1/s, 1.50x");
        assert_eq!(cell(&rates, "iptables-nft", "iptables-nft"), "1.00 1/s");
        assert_eq!(cell(&rates, "host", "iptables-nft"), "-");
    }
}
