//! A run as tables on the terminal.

use comfy_table::{CellAlignment, Table, presets};

use crate::kind::Kind;
use crate::record::{Item, Program, Run};

/// The ratios: a row for each item, a column for each contestant, the reference 1.00.
pub fn ratios(run: &Run) -> Table {
    let reference = Kind::REFERENCE.name();
    let mut names = contestants(run.items.iter());
    names.retain(|name| name != reference);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["".to_owned(), format!("{reference} is")].into_iter().chain(names.iter().cloned()));
    for item in &run.items {
        let is = item.outcome(reference).and_then(|outcome| outcome.spread());
        let mut row = vec![item.title(), is.map_or(String::new(), |spread| with_unit(spread.median, &item.unit))];
        row.extend(names.iter().map(|name| cell(item, name, reference)));
        table.add_row(row);
    }
    (1..names.len() + 2).for_each(|column| {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    });
    table
}

/// The programs: instructions, stack, and each packet's time.
pub fn programs(programs: &[Program]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["program", "instructions", "stack", "packet", "ns", "x reference"]);
    for program in programs {
        let (mut instructions, mut stack) = (program.instructions.to_string(), program.stack.to_string());
        let mut name = program.name.clone();
        if program.packets.is_empty() {
            table.add_row([&name, &instructions, &stack, "", "", ""]);
        }
        for packet in &program.packets {
            let (ns, relative) = (format!("{:.0}", packet.ns), format!("{:.2}", packet.relative));
            table.add_row([&name, &instructions, &stack, &packet.name, &ns, &relative]);
            [&mut name, &mut instructions, &mut stack].into_iter().for_each(String::clear);
        }
    }
    [1, 2, 4, 5].into_iter().for_each(|column| {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    });
    table
}

/// Everybody who has a result: the contestants in their order, then others as they appear.
pub(crate) fn contestants<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for outcome in items.flat_map(|item| &item.results) {
        if !names.contains(&outcome.contestant) {
            names.push(outcome.contestant.clone());
        }
    }
    let place = |name: &String| Kind::ALL.iter().position(|kind| kind.name() == name).unwrap_or(Kind::ALL.len());
    names.sort_by_key(place);
    names
}

/// The ratio where there is one to take, else the value.
fn cell(item: &Item, name: &str, reference: &str) -> String {
    let Some(outcome) = item.outcome(name) else { return String::new() };
    let Some(spread) = outcome.spread() else { return "failed".to_owned() };
    match item.ratio(name, reference) {
        Some(ratio) => format!("{:.2}", ratio.median),
        None => with_unit(spread.median, &item.unit),
    }
}

/// A value that people can read.
pub(crate) fn with_unit(value: f64, unit: &str) -> String {
    if matches!(unit, "requests/s" | "packets/s") {
        return format!("{:.1} k/s", value / 1e3);
    }
    let unit = unit.replace("ns/packet", "ns");
    let digits = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::item;

    #[test]
    fn a_cell_is_a_ratio_or_a_value_or_empty() {
        let rates = item("x", false, &[("iptables-nft", &[10.0]), ("netpath", &[15.0]), ("broken", &[])]);
        let cells = ["netpath", "host", "broken"].map(|name| cell(&rates, name, "iptables-nft"));
        assert_eq!(cells, ["1.50", "", "failed"]);
        let alone = item("x", true, &[("netpath", &[12.34])]);
        assert_eq!(cell(&alone, "netpath", "iptables-nft"), "12.3 1/s");
    }

    #[test]
    fn values_have_three_digits_that_say_something() {
        assert_eq!(with_unit(23_456.0, "requests/s"), "23.5 k/s");
        assert_eq!(with_unit(1000.4, "ns/packet"), "1000 ns");
        assert_eq!(with_unit(9.876, "ms"), "9.88 ms");
    }
}
