//! Random frames through the loaded programs, each compared with what the decisions say on the host: the verdict, every
//! byte, and at the end the table of flows.

use std::collections::HashMap;

use arbitrary::Unstructured;
use netpath_agent::datapath::{FamilyMaps, TestRun};
use netpath_common::{Address as _, Endpoint, Flow, Reason, Tuple, endpoint_flag, network_flag, proto};
use netpath_ebpf::checksum;
use netpath_ebpf::decision::Out;
use netpath_ebpf::external;
use netpath_ebpf::family::{Family as _, V4, V6};
use netpath_ebpf::packet::{Bytes as _, Kind, Packet};
use netpath_tests::program_world::{DROP, PASS, ProgramWorld, REDIRECT};

use crate::expected::{Expected, Verdict};
use crate::frame::Frame;
use crate::frames::{self, Hook, Seen};
use crate::hooks::{Done, Hooks, L3_OFF};
use crate::place::Ground;
use crate::program_setup::{LOOPBACK, Pair};
use crate::random::Random;

/// Frames between two changes of the configuration.
const ACT: u64 = 256;
/// Flows after which a run begins anew, far from a full table.
const MANY_FLOWS: usize = 12_000;
/// The same of datagrams in fragments, of which the kernel forgets the longest unused.
const MANY_DATAGRAMS: usize = 1000;
/// Random bytes for a frame.
const BYTES: usize = 160;

/// What was seen, so that nobody takes a run that tried nothing for one that found nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub frames: u64,
    pub passed: u64,
    pub dropped: u64,
    pub redirected: u64,
    /// Of those that were not dropped, how many came out with other bytes.
    pub rewritten: u64,
    /// ICMP errors that were translated.
    pub errors: u64,
    /// Frames that XDP decided on, and did not leave to tc.
    pub early: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.passed += other.passed;
        self.dropped += other.dropped;
        self.redirected += other.redirected;
        self.rewritten += other.rewritten;
        self.errors += other.errors;
        self.early += other.early;
    }
}

/// Sends that many frames through the programs.
///
/// # Panics
///
/// At the first frame with which a program does something else than the decisions say; the frame is told.
pub fn run(frames: u64, seed: u64) -> Report {
    let mut report = Report::default();
    let mut round = 0;
    while report.frames < frames {
        let left = frames - report.frames;
        // Each round has a thread, whose namespace is new.
        let seed = seed.wrapping_add(round << 32);
        let part = std::thread::spawn(move || Round::new(seed).run(left)).join();
        report.add(&part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        round += 1;
    }
    report
}

struct Round {
    pair: Pair,
    seen4: Seen<V4>,
    seen6: Seen<V6>,
    random: Random,
    report: Report,
}

impl Round {
    fn new(seed: u64) -> Self {
        let pair = Pair::new(&format!("fuzz-{seed:x}"));
        Self { pair, seen4: Seen::new(), seen6: Seen::new(), random: Random::new(seed), report: Report::default() }
    }

    fn run(mut self, frames: u64) -> Report {
        let mut bytes = [0; BYTES];
        while self.report.frames < frames {
            if self.report.frames % ACT == ACT - 1 {
                if self.is_full() {
                    break;
                }
                self.pair.change(&mut self.random);
            }
            self.pair.tell_time();
            self.random.fill(&mut bytes);
            let mut u = Unstructured::new(&bytes);
            let hook = frames::hook(&mut u);
            let (programs, report) = (&self.pair.programs, &mut self.report);
            if self.random.below(2) == 0 {
                let sent = Frame(frames::frame(&mut u, hook, &self.seen4));
                send(programs, &self.pair.v4, &mut self.seen4, report, hook, &sent);
            } else {
                let sent = Frame(frames::frame(&mut u, hook, &self.seen6));
                send(programs, &self.pair.v6, &mut self.seen6, report, hook, &sent);
            }
        }
        check_flows(&self.pair.programs, &self.pair.v4);
        check_flows(&self.pair.programs, &self.pair.v6);
        self.report
    }

    /// Whether a table is so full that the kernel might refuse an entry, or have forgotten one.
    fn is_full(&self) -> bool {
        let Pair { v4, v6, .. } = &self.pair;
        v4.world.flow_count().max(v6.world.flow_count()) > MANY_FLOWS
            || v4.fragments.datagram_count().max(v6.fragments.datagram_count()) > MANY_DATAGRAMS
    }
}

/// Sends a frame through the family's program of one hook, and what arrives from outside through XDP before.
fn send<F: Ground + FamilyMaps>(
    programs: &ProgramWorld,
    hooks: &Hooks<F>,
    seen: &mut Seen<F>,
    report: &mut Report,
    hook: Hook,
    sent: &Frame,
) {
    // Shorter frames are no packets to the kernel, which runs no program on them.
    if sent.0.len() < L3_OFF + F::HEADER_LEN {
        return;
    }
    check_bridge(programs, hooks, report.frames, sent);
    if hook == Hook::FromExternal {
        let expected = early(hooks, sent);
        let run = programs.datapath.test_run_xdp(&sent.0, 1).unwrap_or_else(|e| panic!("{e:#}"));
        let verdict = match run.verdict {
            1 => Verdict::Drop,
            2 => Verdict::Pass,
            4 => Verdict::Redirect,
            other => panic!("XDP said {other} to {}", hex(&sent.0)),
        };
        if let Some(what) = compare(&expected, hook, sent, verdict, &run) {
            panic!("XDP {what}");
        }
        report.early += u64::from(verdict != Verdict::Pass);
    }
    let name = match hook {
        Hook::FromContainer(_) => "from_container",
        Hook::FromExternal => "from_external",
        Hook::ToExternal => "to_external",
    };
    let name = format!("{name}{}", if F::HEADER_LEN == 40 { "6" } else { "" });
    let Some((expected, done)) = late(hooks, hook, sent) else { return };
    let run = programs.datapath.test_run(&name, &sent.0, 1).unwrap_or_else(|e| panic!("{e:#}"));
    let verdict = match run.verdict {
        PASS => Verdict::Pass,
        DROP => Verdict::Drop,
        REDIRECT => Verdict::Redirect,
        other => panic!("`{name}` said {other} to {}", hex(&sent.0)),
    };
    if let Some(what) = compare(&expected, hook, sent, verdict, &run) {
        panic!("`{name}` {what}\ndropped for {:?}", reason(programs, &name, sent));
    }
    report.frames += 1;
    match verdict {
        Verdict::Pass => report.passed += 1,
        Verdict::Drop => report.dropped += 1,
        Verdict::Redirect => report.redirected += 1,
    }
    report.rewritten += u64::from(verdict != Verdict::Drop && run.frame.as_slice() != sent.0.as_slice());
    match done {
        Some(Done::Carried(_, decision)) => seen.push(decision.tuple),
        Some(Done::Error(_, _, translation)) => {
            report.errors += 1;
            seen.push(translation.inner);
        }
        Some(Done::Passed) | None => {}
    }
}

/// What a bridge sends to containers, from an interface that changes with the number: the host itself, a bridge, the
/// external interface, or another one.
fn check_bridge<F: Ground>(programs: &ProgramWorld, hooks: &Hooks<F>, number: u64, sent: &Frame) {
    const OTHER: u32 = 1 << 20;
    let world = &hooks.world;
    let from = [0, world.network.ifindex, world.uplinks[1], OTHER][number as usize % 4];
    let is_open = match [sent.0[12], sent.0[13]] {
        [0x08, 0x00] => world.second.flags & (V4::ROUTED | V4::UNPROTECTED) != 0,
        [0x86, 0xdd] => world.second.flags & (V6::ROUTED | V6::UNPROTECTED) != 0,
        _ => false,
    };
    let passes = from != OTHER || (is_open && !world.second.has(network_flag::INTERNAL));
    let run = programs.datapath.test_run_forwarded("to_bridge", &sent.0, from).unwrap_or_else(|e| panic!("{e:#}"));
    let verdict = if passes { PASS } else { DROP };
    assert_eq!((run.verdict, &run.frame), (verdict, &sent.0), "`to_bridge` from {from}: {}", hex(&sent.0));
}

/// Says what is wrong with what a program did.
fn compare(expected: &Expected, hook: Hook, sent: &Frame, verdict: Verdict, run: &TestRun) -> Option<String> {
    let what = expected.differs(&sent.0, verdict, &run.frame)?;
    let (sent, got) = (hex(&sent.0), hex(&run.frame));
    Some(format!("at {hook:?}: {what}\nsent {sent}\ngot  {got}\nwant {}", hex(&expected.frame)))
}

/// Why the program drops the frame, if it does so when it is sent once more.
fn reason(programs: &ProgramWorld, name: &str, sent: &Frame) -> Option<&'static str> {
    let drops = || programs.datapath.drops().unwrap_or_else(|e| panic!("{e:#}"));
    let before = drops();
    let _ = programs.datapath.test_run(name, &sent.0, 1);
    let after = drops();
    let grown = after.iter().find(|(key, counter)| {
        let old = before.iter().find(|(other, _)| other == key).map_or(0, |(_, counter)| counter.packets);
        counter.packets > old
    });
    let number = grown?.0.reason;
    Reason::ALL.iter().find(|reason| **reason as u32 == number).map(|reason| reason.name())
}

/// What tc must do; `None` where the frame is nothing that is decided on here.
fn late<F: Ground>(hooks: &Hooks<F>, hook: Hook, sent: &Frame) -> Option<(Expected, Option<Done<F>>)> {
    const ARP: [u8; 2] = [0x08, 0x06];
    const OTHER_FAMILY: [u8; 2] = [0x86, 0xdd];
    let is_ours = sent.0[12..14] == F::ETHER_TYPE.to_be_bytes();
    let passed = || Some((Expected::passed(&sent.0), None));
    if !is_ours {
        // The program of IPv4 decides on what is neither.
        let is_last = F::HEADER_LEN == 20 && matches!(hook, Hook::FromContainer(_));
        return match [sent.0[12], sent.0[13]] {
            _ if !is_last => passed(),
            OTHER_FAMILY => passed(),
            ARP => None,
            _ => Some((Expected::dropped(), None)),
        };
    }
    let is_for_others = sent.0[0] & 1 == 0 && sent.0[..6] != [0; 6];
    let done = match hook {
        Hook::FromExternal if is_for_others => return passed(),
        Hook::FromExternal => hooks.at_ingress(sent),
        Hook::ToExternal => hooks.at_egress(sent),
        Hook::FromContainer(_) => hooks.at_veth(LOOPBACK, sent),
    };
    let Ok(done) = done else { return Some((Expected::dropped(), None)) };
    Some((Expected::of(&sent.0, &done, |index| inhabitant(hooks, index)), Some(done)))
}

fn inhabitant<F: Ground>(hooks: &Hooks<F>, index: u32) -> &Endpoint {
    &hooks.world.endpoints[index as usize]
}

/// What XDP must do.
fn early<F: Ground>(hooks: &Hooks<F>, sent: &Frame) -> Expected {
    let passed = Expected::passed(&sent.0);
    let is_ours = sent.0[12..14] == F::ETHER_TYPE.to_be_bytes();
    // The external interface has no hardware address.
    if !is_ours || sent.0[..6] != [0; 6] || !F::is_plain(sent, L3_OFF) {
        return passed;
    }
    let Ok(packet) = Packet::<F>::parse(sent, L3_OFF) else { return passed };
    if packet.l3.len as usize > sent.0.len() - L3_OFF || packet.l3.fragment != 0 || packet.kind == Kind::IcmpError {
        return passed;
    }
    let world = &hooks.world;
    let decision = match external::from_external_early(world, &world.config, &packet, hooks.uplink) {
        Ok(Some(decision)) => decision,
        Ok(None) => return passed,
        Err(_) => return Expected::dropped(),
    };
    let Out::Container(_) = decision.out else { return passed };
    let endpoint = inhabitant(hooks, decision.endpoint);
    if endpoint.flags & endpoint_flag::XDP == 0 || is_partial(sent, &packet) {
        return passed;
    }
    let mut expected = Expected::of(&sent.0, &Done::Carried(packet, decision), |index| inhabitant(hooks, index));
    expected.set_macs(endpoint);
    expected
}

/// Whether a checksum looks like one that hardware is to fill in.
fn is_partial<F: Ground>(sent: &Frame, packet: &Packet<F>) -> bool {
    let check = sent.get::<u16>(packet.l3.l4_off + 6).unwrap_or(0);
    let addrs = packet.l3.src_addr.word_sum() + packet.l3.dst_addr.word_sum();
    checksum::is_partial(check, addrs, proto::UDP, packet.l3.len as u16 - F::HEADER_LEN as u16)
}

/// The tables of flows say the same, but for when a packet was last seen.
fn check_flows<F: Ground + FamilyMaps>(programs: &ProgramWorld, hooks: &Hooks<F>) {
    let flows = programs.datapath.flows::<F>().unwrap_or_else(|e| panic!("{e:#}"));
    let kept = |flow: &Flow<F::Addr>| {
        let Flow { generation, nat_addr, nat_port, endpoint, seen_orig, seen_reply, reset, flags, .. } = *flow;
        (generation, nat_addr, nat_port, endpoint, [seen_orig, seen_reply, reset, flags])
    };
    let listed: HashMap<Tuple<F::Addr>, _> = flows.iter().map(|(tuple, flow)| (*tuple, kept(flow))).collect();
    assert_eq!(listed.len(), hooks.world.flow_count(), "flows in the programs' table and in the world's");
    for (tuple, flow) in &listed {
        let other = hooks.world.flow_of(tuple).map(|flow| kept(&flow));
        assert!(other.as_ref() == Some(flow), "flow {tuple:?}: {flow:?}, expected {other:?}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
