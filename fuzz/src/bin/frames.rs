//! `netpath-frames --frames N --seed N`: random frames through the loaded programs, on every CPU, until that many have passed
//! or one shows something. The sums so far are told now and then. Needs root. Started by `cargo xtask fuzz --frames`.

use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

use netpath_fuzz::programs::{Report, run};

/// Frames of a part of the run, after which it says how far it is.
const PART: u64 = 200_000;

fn main() -> ExitCode {
    let Some((frames, seed)) = options(&std::env::args().skip(1).collect::<Vec<_>>()) else {
        eprintln!("usage: netpath-frames [--frames NUMBER] [--seed NUMBER]");
        return ExitCode::from(2);
    };
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let total = Mutex::new(Report::default());
    // Which part a thread runs depends on how fast it is, what happens in it does not.
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..cpus {
            scope.spawn(|| {
                while !failed.load(Relaxed) {
                    let part = next.fetch_add(1, Relaxed);
                    let Some(left) = frames.checked_sub(part * PART).filter(|left| *left > 0) else { break };
                    match catch_unwind(|| run(left.min(PART), part_seed(seed, part))) {
                        Ok(report) => tell(&total, &report),
                        Err(_) => {
                            failed.store(true, Relaxed);
                            eprintln!("error: part {part} of seed {seed} found something, see above");
                        }
                    }
                }
            });
        }
    });
    if failed.load(Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Far from the seeds of other parts, and of other runs with a seed nearby.
const fn part_seed(seed: u64, part: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9).wrapping_add(part << 48)
}

fn tell(total: &Mutex<Report>, report: &Report) {
    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
    total.add(report);
    println!("{:?}", *total);
}

/// Number of frames and seed.
fn options(args: &[String]) -> Option<(u64, u64)> {
    let (mut frames, mut seed) = (1_000_000, 1);
    for pair in args.chunks(2) {
        let [name, value] = pair else { return None };
        let value = value.parse().ok()?;
        match name.as_str() {
            "--frames" => frames = value,
            "--seed" => seed = value,
            _ => return None,
        }
    }
    Some((frames, seed))
}
