//! `netpath-differential`: random packets through both data planes and the model, as many as are wanted.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use netpath_differential::run::{Plan, run};
use netpath_tests::Family;

/// Compares netpath, Docker's iptables rules and a reference model, packet by packet
#[derive(Parser)]
struct Cli {
    /// Packets to send
    #[arg(long, default_value_t = 100_000)]
    packets: u64,
    /// What the packets follow from [default: the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Containers may not talk to each other
    #[arg(long)]
    no_icc: bool,
    /// 4 or 6: packets of this family only
    #[arg(long, value_parser = family)]
    family: Option<Family>,
    /// netpath and the model only
    #[arg(long)]
    no_netfilter: bool,
    /// Show all steps that lead to a disagreement, not only those that it needs
    #[arg(long)]
    no_shrink: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs()));
    let plan = Plan {
        seed,
        packets: cli.packets,
        icc: !cli.no_icc,
        family: cli.family,
        has_netfilter: !cli.no_netfilter,
        shrinks: !cli.no_shrink,
    };
    eprintln!("seed {seed}");
    let begun = Instant::now();
    let result = run(plan, |statistics| {
        let rate = statistics.packets as f64 / begun.elapsed().as_secs_f64();
        eprint!("\r{} of {} packets, {rate:.0} a second", statistics.packets, plan.packets);
        let _ = std::io::stderr().flush();
    });
    eprintln!();
    match result {
        Ok(statistics) => {
            println!("{statistics}seed {seed}: all agree");
            ExitCode::SUCCESS
        }
        Err((disagreement, statistics)) => {
            println!("{statistics}{}", disagreement.told());

            ExitCode::FAILURE
        }
    }
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("want 4 or 6".to_owned()),
    }
}
