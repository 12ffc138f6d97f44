//! Input that nobody would write by hand, for everything that takes input from outside: packets, decisions, texts.
//!
//! A [`Target`] is a function of bytes that panics when something is not as it should be. libFuzzer feeds it
//! (`cargo xtask fuzz`), and so do the tests, with saved inputs and random ones.
//!
//! The world that decisions see, and the frames, are those of the tests beside the code.

mod deciding;
mod expected;
mod fragments;
#[expect(dead_code, reason = "the tests of the decisions make frames with the rest")]
#[path = "../../netpath-ebpf/tests/decisions/frame.rs"]
mod frame;
mod frames;
mod hooks;
mod invariants;
mod parsing;
mod place;
#[expect(dead_code, reason = "the tests of the decisions need the rest")]
#[path = "../../netpath-ebpf/tests/decisions/place4.rs"]
mod place4;
#[expect(dead_code, reason = "as in `place4`")]
#[path = "../../netpath-ebpf/tests/decisions/place6.rs"]
mod place6;
mod program_setup;
pub mod programs;
pub mod random;
mod texts;
#[expect(clippy::unwrap_used, dead_code, reason = "the tests of the programs take frames apart with it")]
#[path = "../../netpath-agent/tests/prog_run/frame.rs"]
mod wire;
#[expect(dead_code, reason = "as in `frame`")]
#[path = "../../netpath-ebpf/tests/decisions/world.rs"]
mod world;

/// What is fed with bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// That `cargo xtask fuzz` takes; its saved inputs lie in `seeds/NAME`.
    pub name: &'static str,
    /// Panics when something is not as it should be.
    pub run: fn(&[u8]),
    /// The longest input that is of use, in bytes.
    pub max_len: usize,
}

/// All targets. `cargo xtask fuzz` knows them by the folders of their saved inputs.
pub const TARGETS: [Target; 8] = [
    Target { name: "packet", run: parsing::run, max_len: 1024 },
    Target { name: "decide", run: deciding::run, max_len: 4096 },
    Target { name: "port-spec", run: texts::port_spec, max_len: 128 },
    Target { name: "option", run: texts::option, max_len: 128 },
    Target { name: "config", run: texts::config, max_len: 1024 },
    Target { name: "state", run: texts::state, max_len: 4096 },
    Target { name: "api", run: texts::api, max_len: 2048 },
    Target { name: "names", run: texts::names, max_len: 1024 },
];

/// The target of that name.
///
/// # Panics
///
/// If there is none.
pub fn target(name: &str) -> Target {
    let names = TARGETS.map(|target| target.name).join(", ");
    let found = TARGETS.into_iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("no target `{name}`, there are {names}"))
}
