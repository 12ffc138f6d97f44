//! Compares netpath with Docker's iptables rules: rates through a published port.

use anyhow::{Result, ensure};
use clap::Parser;
use netpath_bench::contest::{self, Comparison, Contestant};
use netpath_bench::signals;
use netpath_bench::wrk::Load;
use netpath_tests::Plane;
use serde_json::json;

/// Measures a web server behind a published port on Docker's iptables rules and on netpath, alternately
///
/// Each contestant has network namespaces of its own with a client, a host and a container; nginx (one worker) serves
/// 31 bytes, wrk (one thread, 32 connections) asks for them, on connections that stay and with a new connection for
/// every request. Client, server and data plane share this machine's CPUs, so the rates say little and the ratios much.
/// Needs root; leaves nothing behind. Do nothing else on the machine meanwhile.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
struct Options {
    /// Rounds: in each, every contestant runs once
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Seconds that a contestant runs in a round
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,

    /// Prints JSON with the rates of every round
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    signals::clean_up_on_interrupt();
    let planes =
        [Plane::Iptables { proxy: false }, Plane::Netpath { shortcuts: true }, Plane::Netpath { shortcuts: false }];
    let contestants = planes.map(Contestant::new);
    let comparisons = Load::ALL.map(|load| {
        eprintln!("{}: {} rounds of {} s", load.name(), options.rounds, options.seconds);
        contest::compare(&contestants.each_ref(), load, options.rounds, options.seconds)
    });
    if options.json {
        let comparisons: Vec<_> = comparisons.iter().map(Comparison::json).collect();
        println!("{}", json!({"machine": contest::machine(), "seconds": options.seconds, "comparisons": comparisons}));
    } else {
        println!("{}", contest::machine());
        comparisons.iter().for_each(print);
    }
    Ok(())
}

fn print(comparison: &Comparison) {
    println!("\n{}, per second: median (lowest to highest)", comparison.load.name());
    for (index, name) in comparison.names.iter().enumerate() {
        let (rates, ratios) = (comparison.rates(index), comparison.ratios(index));
        println!("  {name:<24} {rates:>28.0}   {ratios:.2} x {}", comparison.names[0]);
    }
}
