//! libFuzzer with the target that `NETPATH_FUZZ_TARGET` names. Built and started by `cargo xtask fuzz`.

#![no_main]

use std::sync::OnceLock;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static RUN: OnceLock<fn(&[u8])> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        let name = std::env::var("NETPATH_FUZZ_TARGET").unwrap_or_default();
        netpath_fuzz::target(&name).run
    });
    run(data);
});
