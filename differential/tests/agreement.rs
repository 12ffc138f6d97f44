//! Packets by the ten thousand, as CI sends them: four runs whose packets are the same each time, and one whose are not.

#![expect(clippy::panic, reason = "a test panics when something is not as it should be")]

use netpath_differential::run::{Plan, run};

/// Packets of each run.
const PACKETS: u64 = 25_000;

#[test]
fn all_agree_on_the_first_seed() {
    agree(1, true);
}

#[test]
fn all_agree_on_the_second_seed() {
    agree(2, true);
}

#[test]
fn all_agree_where_containers_may_not_talk_to_each_other() {
    agree(3, false);
}

#[test]
fn all_agree_on_a_seed_that_nobody_has_seen() {
    let seed = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos() as u64;
    agree(seed, !seed.is_multiple_of(4));
}

/// Runs in worlds of their own, as root.
fn agree(seed: u64, icc: bool) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    eprintln!("seed {seed}, icc {icc}");
    match run(Plan { seed, packets: PACKETS, icc, family: None, has_netfilter: true, shrinks: true }, |_| ()) {
        Ok(statistics) => eprintln!("{statistics}"),
        Err((disagreement, statistics)) => panic!("{statistics}{}", disagreement.told()),
    }
}
