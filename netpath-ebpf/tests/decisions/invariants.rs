//! Random packets in random order.

use std::collections::HashMap;

use netpath_common::{CtState, PortRange, Tuple, proto};
use netpath_ebpf::decision::Out;
use proptest::prelude::*;

use super::{Addr, CLIENT, HOST, ICMP, OTHER_CLIENT, World, container};
use crate::frame::{answer, echo_request, tcp, udp};
use crate::world::veth;

#[derive(Clone, Debug)]
enum Step {
    /// Container, inside port, destination, protocol, TCP flags.
    Send(u8, u16, Addr, u8, u8),
    /// The answer to the packet sent that many steps ago.
    Answer(usize, u8),
    Wait(u32),
    Replace(u8),
}

/// Small ranges on purpose, so that things collide.
fn step() -> impl Strategy<Value = Step> {
    let dst = prop_oneof![Just(CLIENT), Just(OTHER_CLIENT)];
    let protocol = prop_oneof![3 => Just(proto::UDP), 3 => Just(proto::TCP), 1 => Just(ICMP)];
    let flags = prop_oneof![4 => Just(2u8), 2 => Just(0x10), 1 => Just(0x11), 1 => Just(4)];
    prop_oneof![
        8 => (1u8..=3, 5000u16..5003, dst, protocol, flags.clone()).prop_map(|(n, p, d, t, f)| Step::Send(n, p, d, t, f)),
        6 => (1usize..6, prop_oneof![3 => Just(0x12u8), 1 => Just(0x11), 1 => Just(0x10)]).prop_map(|(i, f)| Step::Answer(i, f)),
        1 => prop_oneof![Just(1u32), Just(3), Just(61), Just(121), Just(8000)].prop_map(Step::Wait),
        1 => (1u8..=3).prop_map(Step::Replace),
    ]
}

/// Who sent from which inside port, and how often its container had been replaced then.
type Sender = (u8, u16, u32);

fn run(steps: &[Step], ports: PortRange, max_flows: u32) {
    let mut world = World::with_flows(max_flows);
    world.config.ports = ports;
    world.publish(proto::TCP, 2000, 1, 80);
    // What went out last under which outside tuple.
    let mut sent: Vec<Tuple<Addr>> = Vec::new();
    let mut senders: HashMap<Tuple<Addr>, Sender> = HashMap::new();
    for step in steps {
        match *step {
            Step::Send(n, port, dst, protocol, flags) => {
                let frame = match protocol {
                    proto::TCP => tcp((container(n), port), (dst, 80), flags),
                    proto::UDP => udp((container(n), port), (dst, 53)),
                    _ => echo_request(container(n), dst, port),
                };
                let Ok(decision) = world.send(n, &frame) else { continue };
                let tuple = decision.tuple;
                assert_eq!(tuple.src_addr, HOST, "a container's address left");
                assert!(matches!(decision.out, Out::External { .. }));
                assert!(tuple.proto != proto::TCP || tuple.src_port != 2000, "the published port was used");
                senders.insert(tuple, (n, port, world.endpoints[usize::from(n)].generation));
                sent.push(tuple);
            }
            Step::Answer(back, flags) => {
                let Some(tuple) = sent.len().checked_sub(back).map(|i| sent[i]) else { continue };
                let Ok(decision) = world.arrive(&answer(&tuple, flags)) else { continue };
                if let Out::Container(ifindex) = decision.out {
                    let (n, port, generation) = senders[&tuple];
                    assert_eq!(ifindex, veth(n), "delivered to somebody else");
                    assert_eq!((decision.tuple.dst_addr, decision.tuple.dst_port), (container(n), port));
                    assert_eq!(generation, world.endpoints[usize::from(n)].generation, "delivered to the successor");
                }
            }
            Step::Wait(seconds) => world.wait(seconds),
            Step::Replace(n) => world.replace(n),
        }
        assert!(world.flow_count() <= max_flows as usize);
        // Nobody waits for a lock, so one that was kept would never be missed.
        world.assert_unlocked();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn replies_reach_who_asked_or_nobody(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps, PortRange { first: 1024, last: 32767 }, 64);
    }

    #[test]
    fn replies_reach_who_asked_or_nobody_when_ports_run_out(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps, PortRange { first: 2000, last: 2003 }, 64);
    }

    #[test]
    fn replies_reach_who_asked_or_nobody_when_the_table_is_full(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps, PortRange { first: 2000, last: 2005 }, 4);
    }
}

#[test]
fn an_established_flow_survives_any_flood_of_new_ones() {
    let world = World::with_flows(16);
    let out = world.send(1, &tcp((container(1), 40000), (CLIENT, 80), 2)).unwrap().tuple;
    world.arrive(&answer(&out, 0x12)).unwrap();
    for port in 1024..9000 {
        let _ = world.send(2, &udp((container(2), port), (OTHER_CLIENT, 53)));
        if port % 1000 == 0 {
            world.wait(100);
        }
    }
    assert_eq!(world.arrive(&answer(&out, 0x10)).unwrap().tuple.dst_addr, container(1));
    let tuple = Tuple::new(container(1), 40000, CLIENT, 80, proto::TCP);
    assert_eq!(world.flow_of(&tuple).unwrap().state(proto::TCP), CtState::Established);
}
