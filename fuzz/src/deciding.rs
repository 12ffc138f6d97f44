//! Packets in any order through all hooks of one world: what decides never panics, and the [`invariants`] hold after
//! every step.

use arbitrary::Unstructured;
use netpath_common::{
    Link, LinkKey, PortKey, PortRange, PortSource, PortTarget, TrustedKey, config_flag, network_flag, proto,
    source_flag, target_flag,
};
use netpath_ebpf::external;
use netpath_ebpf::family::{V4, V6};
use netpath_ebpf::packet::{Kind, Packet};

use crate::fragments::Store;
use crate::frame::Frame;
use crate::frames::{self, Hook, Seen, pick};
use crate::hooks::{Done, Hooks, L3_OFF};
use crate::invariants::Watch;
use crate::place::Ground;
use crate::world::{UPLINK, World, veth};

/// Steps of one run, at most.
const MAX_STEPS: usize = 64;

/// The first byte is the family, the rest says what the world is like and what happens in it.
pub(crate) fn run(data: &[u8]) {
    let Some((family, rest)) = data.split_first() else { return };
    let mut u = Unstructured::new(rest);
    if family % 2 == 0 { live::<V4>(&mut u) } else { live::<V6>(&mut u) }
}

fn live<F: Ground>(u: &mut Unstructured<'_>) {
    let mut hooks = Hooks::new(world::<F>(u), UPLINK, Store::new());
    let mut seen = Seen::new();
    let mut watch = Watch::new();
    for _ in 0..MAX_STEPS {
        if u.is_empty() {
            break;
        }
        match u.int_in_range(0..=19u8).unwrap_or(0) {
            0 => hooks.world.wait(pick(u, &[1, 3, 61, 121, 301, 8000])),
            1 => {
                let n = u.int_in_range(1..=5).unwrap_or(1);
                hooks.world.replace(n);
                watch.replace(n);
            }
            _ => step(u, &hooks, &mut seen, &mut watch),
        }
        watch.check_tables(&hooks.world);
    }
}

fn step<F: Ground>(u: &mut Unstructured<'_>, hooks: &Hooks<F>, seen: &mut Seen<F>, watch: &mut Watch<F>) {
    let hook = frames::hook(u);
    let frame = Frame(frames::frame(u, hook, seen));
    if frame.0.len() < L3_OFF + F::HEADER_LEN || frame.0[12..14] != F::ETHER_TYPE.to_be_bytes() {
        return;
    }
    let before = watch.flows(&hooks.world);
    watch.note(&frame);
    let done = match hook {
        Hook::FromContainer(n) => hooks.at_veth(veth(n), &frame),
        Hook::FromExternal => {
            let early = early(hooks, &frame);
            let done = hooks.at_ingress(&frame);
            assert!(early != Some(false) || done.is_err(), "dropped before the kernel has a packet, and not later");
            done
        }
        Hook::ToExternal => hooks.at_egress(&frame),
    };
    let Ok(done) = done else { return };
    watch.check(hook, &hooks.world, &before, &frame, &done);
    match done {
        Done::Carried(_, decision) => seen.push(decision.tuple),
        Done::Error(_, _, translation) => seen.push(translation.inner),
        Done::Passed => {}
    }
}

/// Whether XDP lets it pass; `None` where it does not decide.
fn early<F: Ground>(hooks: &Hooks<F>, frame: &Frame) -> Option<bool> {
    let packet = Packet::<F>::parse(frame, L3_OFF).ok()?;
    let is_whole = packet.l3.len as usize <= frame.0.len() - L3_OFF && packet.l3.fragment == 0;
    if !is_whole || packet.kind == Kind::IcmpError {
        return None;
    }
    let decision = external::from_external_early(&hooks.world, &hooks.world.config, &packet, hooks.uplink);
    Some(decision.is_ok())
}

/// A world that differs from others in what its settings are and in what is published.
fn world<F: Ground>(u: &mut Unstructured<'_>) -> World<F> {
    let mut world = World::with_flows(pick(u, &[64, 4, 16]));
    let bits: u32 = u.arbitrary().unwrap_or(0);
    let has = |bit: u32| bits & (1 << bit) != 0;
    world.config.flags = if has(0) { 0 } else { config_flag::SHORTCUTS };
    if has(1) {
        world.config.ports = PortRange { first: 2000, last: 2003 };
    }
    if has(2) {
        world.network.flags &= !network_flag::ICC;
        world.links.insert(LinkKey::new(1, 2, 80, proto::TCP), Link { counter: 20 });
    }
    let modes = [0, F::ROUTED, F::UNPROTECTED, network_flag::INTERNAL, network_flag::TRUSTED, F::ROUTED];
    world.second.flags |= pick(u, &modes);
    if has(3) {
        world.network.flags |= pick(u, &modes);
    }
    if has(4) {
        world.network.flags &= !F::MASQUERADE;
    }
    if has(6) {
        world.network.flags |= network_flag::NO_SHORTCUTS;
    }
    if has(7) {
        world.second.flags |= network_flag::NO_SHORTCUTS;
    }
    if has(5) {
        world.trusted.insert(TrustedKey::new(UPLINK, 1));
    }
    publish(u, &mut world);
    world
}

fn publish<F: Ground>(u: &mut Unstructured<'_>, world: &mut World<F>) {
    const FLAGS: [u16; 6] = [
        0,
        target_flag::NEEDS_FLOW,
        target_flag::ENDS_FLOW,
        target_flag::INSIDE_ONLY,
        target_flag::ALLOW_LIST,
        target_flag::EPHEMERAL,
    ];
    for (protocol, host_port, n, port) in [
        (proto::TCP, 8080, 1, 80),
        (proto::UDP, 5353, 1, 53),
        (proto::TCP, 8084, 4, 80),
        (proto::SCTP, 9000, 2, 9000),
        (proto::UDP, 2001, 2, 53),
    ] {
        let flags = if u.ratio(1, 3u8).unwrap_or(false) { pick(u, &FLAGS) } else { 0 };
        world.publish(protocol, host_port, n, port);
        let generation = world.endpoints[usize::from(n)].generation;
        let target = PortTarget::new(u32::from(n), generation, port, flags, 70);
        world.published.insert(PortKey::new(F::HOST, host_port, protocol), target);
        if flags == target_flag::NEEDS_FLOW {
            let source = PortSource::new(F::HOST, host_port + 1, source_flag::AMBIGUOUS, 0);
            world.sources.insert(PortKey::new(F::container(n), port, protocol), source);
        }
    }
    let block = PortTarget::new(3, world.endpoints[3].generation, 0x2000, 0, 71);
    world.published.insert(PortKey::block(F::HOST, 0x2100, proto::UDP), block);
    let source = PortSource::new(F::HOST, 0x2100, 0, 0);
    world.sources.insert(PortKey::block(F::container(3), 0x2000, proto::UDP), source);
    // In a routed network the published port is the container's own.
    for n in [4, 5] {
        let own = PortTarget::new(u32::from(n), world.endpoints[usize::from(n)].generation, 80, 0, 0);
        world.published.insert(PortKey::new(F::container(n), 80, proto::TCP), own);
    }
    world.allowed.insert((70, F::CLIENT));
}
