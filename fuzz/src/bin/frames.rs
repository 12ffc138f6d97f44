//! `netpath-frames --frames N --seed N`: random frames through the loaded programs, on every CPU, until that many have passed
//! or one shows something. Needs root. Started by `cargo xtask fuzz --frames`.

use std::process::ExitCode;
use std::thread;

use netpath_fuzz::programs::{Report, run};

fn main() -> ExitCode {
    let Some((frames, seed)) = options(&std::env::args().skip(1).collect::<Vec<_>>()) else {
        eprintln!("usage: netpath-frames [--frames NUMBER] [--seed NUMBER]");
        return ExitCode::from(2);
    };
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let each = frames.div_ceil(cpus);
    // The seeds of one run's threads are far from another's.
    let threads: Vec<_> =
        (0..cpus).map(|cpu| (cpu, thread::spawn(move || run(each, seed.wrapping_add(cpu << 48))))).collect();
    let mut total = Report::default();
    let mut failed = false;
    for (cpu, thread) in threads {
        match thread.join() {
            Ok(report) => total.add(&report),
            Err(_) => {
                eprintln!("error: thread {cpu} of {cpus} found something, see above; seed {seed}");
                failed = true;
            }
        }
    }
    println!("{total:?}");
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
