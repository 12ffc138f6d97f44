//! A run as one HTML file that needs nothing else: plots, every figure with its spread, and how they were made.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};

use crate::aims;
use crate::kind::Kind;
use crate::plot::{self, Bar, Line};
use crate::record::{Item, Outcome, Run};
use crate::table::with_unit;

/// The whole page.
///
/// # Errors
///
/// If a plot cannot be drawn.
pub fn html(run: &Run) -> Result<String> {
    let mut body = String::new();
    let machine = &run.machine;
    write!(
        body,
        "<h1>netpath, measured</h1>\n<p>{}, {} cpus, {} MiB, kernel {}; {}; netpath {}. {} rounds of {} s, contestants in turn. \
         Ratios are to {}, taken round by round; above 1.00 is better. Values are medians, in brackets the lowest and the \
         highest.</p>\n",
        escape(&machine.cpu),
        machine.cpus,
        machine.memory_mib,
        escape(&machine.kernel),
        escape(&run.date),
        escape(&machine.commit),
        run.settings.rounds,
        run.settings.seconds,
        Kind::REFERENCE.name(),
    )?;
    plots(run, &mut body)?;
    what_bounds_it(run, &mut body)?;
    body.push_str("<h2>Every figure</h2>\n");
    for item in &run.items {
        figures(item, &mut body)?;
    }
    programs(run, &mut body)?;
    how(run, &mut body)?;
    Ok(PAGE.replace("BODY", &body))
}

fn what_bounds_it(run: &Run, body: &mut String) -> Result<()> {
    body.push_str("<h2>What bounds it</h2>\n<table class=text>\n<tr>");
    aims::HEADINGS.iter().try_for_each(|heading| write!(body, "<th>{heading}</th>"))?;
    body.push_str("</tr>\n");
    for row in aims::rows(run) {
        let class = if row.met == Some(false) { " class=note" } else { "" };
        write!(body, "<tr>")?;
        row.cells().iter().try_for_each(|cell| write!(body, "<td{class}>{}</td>", escape(cell)))?;
        body.push_str("</tr>\n");
    }
    body.push_str("</table>\n");
    Ok(())
}

fn plots(run: &Run, body: &mut String) -> Result<()> {
    let drawn = |svg: Result<String, Box<dyn std::error::Error>>| svg.map_err(|error| anyhow!("draw a plot: {error}"));
    body.push_str("<div class=plots>\n");
    for item in run.items.iter().filter(|item| item.condition.is_none()) {
        let bars: Vec<Bar> = item.results.iter().filter_map(|outcome| bar(item, outcome)).collect();
        if bars.len() > 1 {
            writeln!(body, "<figure>{}</figure>", drawn(plot::bars(&capital(&item.about), &bars))?)?;
        }
    }
    let over = [
        ("new-connections", "ports", "published ports", "New connections by published ports"),
        ("keep-alive", "ports", "published ports", "Keep-alive requests by published ports"),
        ("new-connections", "flows", "masqueraded flows", "New connections by flows in the table"),
    ];
    for (name, of, below, title) in over {
        if let Some(svg) = over_counts(run, name, of, below, title)? {
            writeln!(body, "<figure>{svg}</figure>")?;
        }
    }
    body.push_str("</div>\n");
    Ok(())
}

/// New connections by published ports, as an SVG of its own; `None` if the run has none.
///
/// # Errors
///
/// If the plot cannot be drawn.
pub fn ports_svg(run: &Run) -> Result<Option<String>> {
    over_counts(run, "new-connections", "ports", "published ports", "New connections by published ports")
}

fn over_counts(run: &Run, name: &str, of: &str, below: &str, title: &str) -> Result<Option<String>> {
    let items = run.series(name, of);
    let names = crate::table::contestants(items.iter().copied());
    let lines: Vec<Line> = names.iter().map(|name| line(&items, name)).filter(|l| l.points.len() > 1).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let svg = plot::lines(title, below, "thousand per second", &lines);
    svg.map(Some).map_err(|error| anyhow!("draw a plot: {error}"))
}

fn bar(item: &Item, outcome: &Outcome) -> Option<Bar> {
    let spread = outcome.spread()?;
    let ratio = item.ratio(&outcome.contestant, Kind::REFERENCE.name());
    let ratio = ratio.map_or(String::new(), |ratio| format!(" · {:.2}x", ratio.median));
    Some(Bar {
        label: outcome.contestant.clone(),
        value: spread.median,
        range: (spread.min, spread.max),
        text: format!("{}{ratio}", with_unit(spread.median, &item.unit)),
    })
}

fn line(items: &[&Item], name: &str) -> Line {
    let point = |item: &&Item| {
        let count = item.condition.as_ref()?.count;
        Some((count as f64, item.outcome(name)?.spread()?.median / 1e3))
    };
    Line { label: name.to_owned(), points: items.iter().filter_map(point).collect() }
}

/// What was seen besides the value, in this order: key, heading.
const MORE: [(&str, &str); 12] = [
    ("p50_us", "p50, us"),
    ("p99_us", "p99, us"),
    ("p999_us", "p99.9, us"),
    ("cpu_seconds_per_gb", "CPU s/GB"),
    ("cpu_ns_per_packet", "CPU ns/packet"),
    ("lost_share", "lost"),
    ("unpublish_ms", "unpublish, ms"),
    ("agent_rss_mib", "agent, MiB"),
    ("start_ms", "netpath --version, ms"),
    ("map_bytes", "maps, bytes"),
    ("bytes_per_flow", "bytes/flow"),
    ("bytes_per_port", "bytes/port"),
];

fn figures(item: &Item, body: &mut String) -> Result<()> {
    let here: Vec<_> =
        MORE.iter().filter(|(key, _)| item.results.iter().any(|outcome| outcome.median_of(key).is_some())).collect();
    writeln!(
        body,
        "<h3>{}</h3>\n<p>{}<br><code>{}</code></p>",
        escape(&capital(&item.title())),
        escape(&item.about),
        escape(&item.command)
    )?;
    write!(body, "<table><tr><th></th><th>{}</th><th>ratio</th>", escape(&item.unit))?;
    here.iter().try_for_each(|(_, heading)| write!(body, "<th>{heading}</th>"))?;
    body.push_str("</tr>\n");
    for outcome in &item.results {
        write!(body, "<tr><td>{}</td>", escape(&outcome.contestant))?;
        let Some(spread) = outcome.spread() else {
            let why = outcome.failed.as_deref().unwrap_or("no figure");
            writeln!(body, "<td class=note colspan={}>{}</td></tr>", 2 + here.len(), escape(why))?;
            continue;
        };
        let digits = if spread.median < 100.0 { 2 } else { 0 };
        let ratio = item.ratio(&outcome.contestant, Kind::REFERENCE.name());
        let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        write!(body, "<td>{spread:.digits$}</td><td>{ratio}</td>")?;
        for (key, _) in &here {
            let value = outcome
                .median_of(key)
                .map_or(String::new(), |value| format!("{value:.*}", if value < 10.0 { 3 } else { 0 }));
            write!(body, "<td>{value}</td>")?;
        }
        body.push_str("</tr>\n");
    }
    body.push_str("</table>\n");
    Ok(())
}

fn programs(run: &Run, body: &mut String) -> Result<()> {
    if run.programs.is_empty() {
        return Ok(());
    }
    body.push_str(
        "<h2>Programs</h2>\n<p>ns per packet by BPF_PROG_TEST_RUN, and as a multiple of the reference program's.</p>\n",
    );
    body.push_str(
        "<table><tr><th>program</th><th>instructions</th><th>stack</th><th>packet</th><th>ns</th><th>x</th></tr>\n",
    );
    for program in &run.programs {
        let head =
            format!("<td>{}</td><td>{}</td><td>{}</td>", escape(&program.name), program.instructions, program.stack);
        if program.packets.is_empty() {
            writeln!(body, "<tr>{head}<td></td><td></td><td></td></tr>")?;
        }
        for (index, packet) in program.packets.iter().enumerate() {
            let head = if index == 0 { head.as_str() } else { "<td></td><td></td><td></td>" };
            let name = escape(&packet.name);
            writeln!(
                body,
                "<tr>{head}<td class=left>{name}</td><td>{:.0}</td><td>{:.2}</td></tr>",
                packet.ns, packet.relative
            )?;
        }
    }
    body.push_str("</table>\n");
    Ok(())
}

fn how(run: &Run, body: &mut String) -> Result<()> {
    body.push_str("<h2>Contestants</h2>\n<table class=text>\n");
    for contestant in &run.contestants {
        let missing =
            contestant.missing.as_ref().map_or(String::new(), |why| format!(" <i>Left out: {}</i>", escape(why)));
        writeln!(
            body,
            "<tr><td>{}</td><td>{}{missing}</td></tr>",
            escape(&contestant.name),
            escape(&contestant.about)
        )?;
    }
    writeln!(body, "</table>\n<p>{}</p>", escape(&run.machine.tools.join(" · ")))?;
    Ok(())
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>netpath, measured</title>
<style>
body { font: 15px/1.45 Helvetica, Arial, sans-serif; color: #222; max-width: 1400px; margin: 2em auto; padding: 0 1.5em; }
p { max-width: 60em; }
.plots { display: flex; flex-wrap: wrap; gap: 1em 2em; }
figure { margin: 0; break-inside: avoid; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: .5em 0 1.5em; break-inside: avoid; }
th, td { padding: .15em .8em; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, .left, .note, .text td { text-align: left; }
.note { color: #a33; }
h3 { margin-bottom: 0; break-after: avoid; }
h3 + p { margin-top: .2em; }
code { color: #555; font-size: 13px; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } .plots { display: block; } }
</style>
BODY</html>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_measured_becomes_markup() {
        assert_eq!(escape("a < b & c"), "a &lt; b &amp; c");
        assert_eq!(capital("new"), "New");
    }
}
