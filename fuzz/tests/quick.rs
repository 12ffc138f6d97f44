//! Every target on its saved inputs and on random ones: what CI runs, without libFuzzer. What a failure prints is the
//! input; `netpath-replay` takes it from a file.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use netpath_fuzz::random::Random;
use netpath_fuzz::{TARGETS, Target, target};

/// Random inputs of one target: that many, or as many as fit into the time.
const RUNS: u64 = 20_000;
const TIME: Duration = Duration::from_secs(4);

fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
    let files = fs::read_dir(&dir).unwrap_or_else(|e| panic!("list {}: {e}", dir.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file of the list").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))).collect()
}

fn check(target: &Target, input: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if outcome.is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("target `{}` fails on these {} bytes: {hex}", target.name, input.len());
    }
}

/// One test for each target, so that they run side by side.
fn survives(name: &str) {
    let target = target(name);
    let seeds = seeds(&target);
    assert!(!seeds.is_empty(), "no saved input for `{name}`");
    for seed in &seeds {
        check(&target, seed);
    }
    let began = Instant::now();
    let mut random = Random::new(1);
    for _ in 0..RUNS {
        if began.elapsed() > TIME {
            break;
        }
        check(&target, &random.input(&seeds, target.max_len));
    }
}

#[test]
fn packets_are_read_inside_their_frames() {
    survives("packet");
}

#[test]
fn decisions_keep_their_promises_whatever_comes() {
    survives("decide");
}

#[test]
fn port_specifications_are_read_as_they_are_written() {
    survives("port-spec");
}

#[test]
fn options_are_read_as_they_are_written() {
    survives("option");
}

#[test]
fn a_configuration_is_understood_or_refused() {
    survives("config");
}

#[test]
fn a_state_is_understood_or_refused() {
    survives("state");
}

#[test]
fn requests_are_understood_or_refused() {
    survives("api");
}

#[test]
fn files_of_names_keep_what_is_the_users() {
    survives("names");
}

#[test]
fn every_target_has_a_test() {
    let text = include_str!("quick.rs");
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")).expect("list the saved inputs");
    assert_eq!(folders.count(), TARGETS.len(), "a folder of saved inputs for each target");
    for target in TARGETS {
        assert!(text.contains(&format!("survives(\"{}\")", target.name)), "{}", target.name);
    }
}
