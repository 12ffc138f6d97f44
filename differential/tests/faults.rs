//! The test of the test: a data plane with a fault must be found out. The agent is built once more, with the feature
//! `faults` and under a name of its own; its map `FAULT` says which fault there is.

use std::path::PathBuf;
use std::process::Command;

use aya::maps::{Array, Map, MapData};
use netpath_differential::run::{Plan, run_in};
use netpath_differential::statistics::Statistics;
use netpath_differential::twin::Twin;
use netpath_ebpf::fault::Fault;
use netpath_tests::Family;
use netpath_tests::program::text;

/// Packets after which a fault must have shown, from as many seeds.
const PACKETS: u64 = 3_000;
const SEEDS: u64 = 30;

#[test]
fn every_fault_of_the_data_plane_is_found() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let agent = build();
    // SAFETY: the other thread of this process waits for this one.
    unsafe { std::env::set_var("NETPATH_BIN", agent) };
    let mut suspect = Suspect::new(true);
    let in_ipv4 = Fault::ALL.iter().filter(|fault| **fault != Fault::IccIgnored);
    let mut found: Vec<_> = in_ipv4.map(|fault| (fault.name(), suspect.packets_until(*fault, Family::V4))).collect();
    let in_ipv6 = Fault::ALL.iter().filter(|fault| fault.is_in_ipv6());
    let in_ipv6: Vec<_> = in_ipv6.map(|fault| (fault.name(), suspect.packets_until(*fault, Family::V6))).collect();
    drop(suspect);
    let icc = Suspect::new(false).packets_until(Fault::IccIgnored, Family::V4);
    found.push((Fault::IccIgnored.name(), icc));
    let missed = [report("IPv4", &found), report("IPv6", &in_ipv6)].concat();
    assert!(missed.is_empty(), "not found with {SEEDS} seeds: {missed:?}");
}

#[test]
fn the_documentation_names_every_fault() {
    let text = include_str!("../../docs/differential.md");
    let is_missing = |name: &&str| !text.contains(&format!("`{name}`"));
    let missing: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).filter(is_missing).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Says what was found after how many packets; the names of what was not.
fn report(family: &str, found: &[(&'static str, Option<u64>)]) -> Vec<&'static str> {
    let mut packets: Vec<u64> = found.iter().filter_map(|(_, packets)| *packets).collect();
    packets.sort_unstable();
    for (name, packets) in found {
        eprintln!("{family}: {name}: {}", packets.map_or("missed".to_owned(), |packets| format!("{packets} packets")));
    }
    if let (Some(half), Some(all)) = (packets.get(packets.len() / 2), packets.last()) {
        eprintln!(
            "{family}: {} of {} faults caught, half of them within {half} packets, all within {all}",
            packets.len(),
            found.len()
        );
    }
    found.iter().filter(|(_, packets)| packets.is_none()).map(|(name, _)| *name).collect()
}

/// A data plane that can be given faults.
struct Suspect {
    twin: Twin,
    fault: Array<MapData, u8>,
    icc: bool,
}

impl Suspect {
    fn new(icc: bool) -> Self {
        let twin = Twin::new(icc, false);
        let pin = twin.netpath.world.instance().pin_dir.join("maps/FAULT");
        let map = Map::Array(MapData::from_pin(pin).expect("open the map of the fault"));
        Self { twin, fault: Array::try_from(map).expect("an array of one byte"), icc }
    }

    /// After how many packets `fault` shows, if it does. Without it the same packets must show nothing.
    fn packets_until(&mut self, fault: Fault, family: Family) -> Option<u64> {
        // Written anew for each seed: an agent that starts again writes 0.
        (1..=SEEDS).find_map(|seed| {
            let packets = self.run(fault as u8, family, seed, PACKETS)?;
            let without = self.run(0, family, seed, packets);
            assert_eq!(without, None, "packets until something differs without `{}`", fault.name());
            Some((seed - 1) * PACKETS + packets)
        })
    }

    /// After how many packets something differs.
    fn run(&mut self, fault: u8, family: Family, seed: u64, packets: u64) -> Option<u64> {
        // What the last run has left in the sockets is not this one's.
        self.twin.netpath.seen();
        self.twin.statistics = Statistics::default();
        self.fault.set(0, fault, 0).expect("write the fault");
        let plan = Plan { seed, packets, icc: self.icc, family: Some(family), has_netfilter: false, shrinks: false };
        let (disagreement, statistics) = run_in(&mut self.twin, plan, |_| ()).err()?;
        assert!(disagreement.what.starts_with("netpath: "), "{}", disagreement.told());
        Some(statistics.packets)
    }
}

/// Builds the agent that can have faults, beside the one that cannot: what both are made of is there.
fn build() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_netpath-differential"));
    let target = own.ancestors().nth(2).expect("target/debug/netpath-differential");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "-p", "netpath-agent", "--features", "faults", "--bin", "netpath-faulty"]);
    command.arg("--target-dir").arg(target).env_remove("AYA_BUILD_SKIP");
    let output = command.output().expect("run cargo");
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    target.join("debug/netpath-faulty")
}
