//! Random frames through the loaded programs: the quick form of what `cargo xtask fuzz --frames` does for longer. Needs root.

use netpath_fuzz::programs::run;

#[test]
fn programs_do_with_random_frames_what_is_decided_on_the_host() {
    let report = run(200_000, 1);
    println!("{report:?}");
    for (what, count) in [
        ("passed", report.passed),
        ("dropped", report.dropped),
        ("redirected", report.redirected),
        ("rewritten", report.rewritten),
        ("errors translated", report.errors),
        ("decided on by XDP", report.early),
    ] {
        assert!(count > 500, "{what}: {count} of {} frames", report.frames);
    }
}
