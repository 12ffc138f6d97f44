//! `netpath stats`: how full, how dear, and what was dropped.

use std::process::ExitCode;

use anyhow::Result;

use super::format::{memory, or_dash, table};
use crate::api::{Program, Stats};
use crate::client::Client;

pub(super) async fn run(client: &Client, json: bool) -> Result<ExitCode> {
    let stats: Stats = client.get("/v1/stats").await?;
    if json {
        super::print_json(&stats)?;
    } else {
        super::print(&render(&stats))?;
        if stats.programs.iter().all(|program| program.run_count == 0) {
            eprintln!("Runs are counted while `sysctl kernel.bpf_stats_enabled=1`.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn render(stats: &Stats) -> String {
    let usage = [[
        stats.containers.to_string(),
        stats.networks.to_string(),
        format!("{} of {}", stats.published_ports, stats.max_ports),
        format!("{} of {}", stats.flows, stats.max_flows),
    ]];
    let programs = stats.programs.iter().map(|program| {
        [program.name.clone(), program.instructions.to_string(), program.run_count.to_string(), ns_per_run(program)]
    });
    let maps = stats.maps.iter().map(|map| [map.name.clone(), map.max_entries.to_string(), memory(map.bytes)]);
    let drops = stats
        .drops
        .iter()
        .map(|drop| [or_dash(&drop.name), drop.reason.clone(), drop.packets.to_string(), drop.bytes.to_string()]);
    [
        table(["CONTAINERS", "NETWORKS", "PUBLISHED PORTS", "FLOWS"], usage),
        table(["PROGRAM", "INSTRUCTIONS", "RUNS", "NS/RUN"], programs),
        table(["MAP", "ENTRIES", "MEMORY"], maps),
        table(["NAME", "DROP REASON", "PKTS", "BYTES"], drops),
    ]
    .join("\n")
}

fn ns_per_run(program: &Program) -> String {
    match program.run_count {
        0 => "-".to_owned(),
        runs => format!("{:.0}", program.run_time_ns as f64 / runs as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Drop, MapMemory};

    #[test]
    fn statistics_are_four_tables() {
        let stats = Stats {
            containers: 2,
            networks: 1,
            published_ports: 3,
            flows: 17,
            max_flows: 131_072,
            max_ports: 65_536,
            programs: vec![Program {
                name: "from_external".to_owned(),
                instructions: 900,
                run_count: 1000,
                run_time_ns: 123_400,
            }],
            drops: vec![Drop { name: String::new(), reason: "direct-access".to_owned(), packets: 1, bytes: 60 }],
            maps: vec![MapMemory { name: "FLOWS_4".to_owned(), max_entries: 131_072, bytes: 12 << 20 }],
        };
        assert_eq!(
            render(&stats),
            "\
CONTAINERS  NETWORKS  PUBLISHED PORTS  FLOWS
2           1         3 of 65536       17 of 131072

PROGRAM        INSTRUCTIONS  RUNS  NS/RUN
from_external  900           1000  123

MAP      ENTRIES  MEMORY
FLOWS_4  131072   12.0 MiB

NAME  DROP REASON    PKTS  BYTES
-     direct-access  1     60
"
        );
    }
}
