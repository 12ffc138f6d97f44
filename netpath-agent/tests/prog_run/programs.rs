//! The programs as the kernel has them, and what none of them touches.

use std::os::unix::thread::JoinHandleExt as _;
use std::thread;
use std::time::Duration;

use netpath_agent::datapath::Features;
use netpath_agent::datapath::trial::{self, Trial};
use netpath_agent::xdp::Mode;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::frame::{Ip, UDP, frame, udp};
use crate::ipv4::{CLIENT, HOST, ROUTER};
use crate::setup::{BRIDGE_MAC, C1_MAC, LOOPBACK_MAC, PASS, Plane, ROUTER_MAC};

#[test]
fn the_kernel_takes_the_programs_with_their_types_and_with_room_to_spare() {
    let plane = Plane::new();
    for program in plane.datapath.programs().unwrap() {
        assert!(program.has_btf, "{}: its BTF was refused", program.name);
        // The verifier's limit is a million; older kernels walk further than this one.
        assert!(program.instructions < 500_000, "{}: {} instructions verified", program.name, program.instructions);
    }
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let mut plane = Plane::new();
    plane.publish(UDP, 5353, 53);
    let mut arp = [[0xff; 6], [9; 6]].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([0; 20]);
    let mut ipv6 = vec![0; 12];
    ipv6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 59]);
    ipv6.extend([0; 54]);
    let ask = |dst| {
        let l4 = udp((CLIENT, 5000), (dst, 53), b"question");
        frame((ROUTER_MAC, LOOPBACK_MAC), Ip::default(), UDP, CLIENT, dst, &l4)
    };
    let for_others =
        frame((C1_MAC, BRIDGE_MAC), Ip::default(), UDP, CLIENT, HOST, &udp((CLIENT, 1), (HOST, 5353), b"x"));
    for sent in [for_others, ask(HOST), ask(ROUTER), arp, ipv6] {
        for program in ["from_external", "from_external6", "to_external", "to_external6"] {
            let run = plane.run_exactly(program, &sent);
            assert_eq!((run.verdict, &run.frame), (PASS, &sent), "{program}");
        }
    }
}

#[test]
fn programs_do_without_the_helpers_that_older_kernels_lack() {
    let with = trial::programs(Features::Found).unwrap();
    let without = trial::programs(Features::None).unwrap();
    for program in &without {
        assert!(program.refusal.is_empty(), "{program:?}");
    }
    let without_it: Vec<_> = with.iter().filter(|program| !without.iter().any(|w| w.name == program.name)).collect();
    assert!(without_it.iter().all(|program| program.name == "xdp_from_external"), "{without_it:?}");
    assert!(without.iter().any(|program| program.name == "xdp_from_external_generic"));
    // A switch that did nothing would leave the verifier's road as it is.
    let is_changed = |with: &&Trial| {
        without.iter().any(|program| program.name == with.name && program.instructions != with.instructions)
    };
    let changed: Vec<_> = with.iter().filter(is_changed).map(|with| with.name.as_str()).collect();
    for name in ["host_bind4", "host_bind6", "from_container"] {
        assert!(changed.contains(&name), "{name} is none of {changed:?}");
    }
}

#[test]
fn signals_that_come_while_the_kernel_verifies_do_not_keep_a_program_out() {
    // The verifier needs far longer for the program than it is left alone, and aya gives up the second time.
    const SIGNALS: u32 = 6;
    const PAUSE: Duration = Duration::from_millis(3);
    extern "C" fn ignore(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let mut plane = Plane::new();
    let loader = thread::spawn(move || {
        plane.datapath.load_xdp(Mode::Native).unwrap();
        plane
    });
    for _ in 0..SIGNALS {
        thread::sleep(PAUSE);
        // SAFETY: a thread that nobody has joined yet.
        assert_eq!(unsafe { libc::pthread_kill(loader.as_pthread_t(), libc::SIGUSR1) }, 0);
    }
    assert!(loader.join().unwrap().datapath.has_xdp(Mode::Native));
}
