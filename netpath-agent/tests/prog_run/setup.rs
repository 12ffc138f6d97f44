//! The data plane of the tests: two containers, and what tests do with them in both families at once.

use std::ops::{Deref, DerefMut};

use netpath_agent::datapath::{Sizes, TestRun};
use netpath_agent::reconcile::{Change, FamilyChange};
use netpath_common::{PortKey, Reason, endpoint_flag};
pub(crate) use netpath_tests::program_world::{BRIDGE_MAC, DROP, PASS, REDIRECT, addr4, addr6};
use netpath_tests::program_world::{Extent, Inhabitant, ProgramWorld};

use crate::{ipv4, ipv6};

/// Of the interface that test runs see: frames to another address are for somebody else.
pub(crate) const LOOPBACK_MAC: [u8; 6] = [0; 6];
pub(crate) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 9];
pub(crate) const C1_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const C2_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A loaded data plane; its pins go when it is dropped.
pub(crate) struct Plane(ProgramWorld);

impl Deref for Plane {
    type Target = ProgramWorld;

    fn deref(&self) -> &ProgramWorld {
        &self.0
    }
}

impl DerefMut for Plane {
    fn deref_mut(&mut self) -> &mut ProgramWorld {
        &mut self.0
    }
}

impl Plane {
    pub(crate) fn new() -> Self {
        let sizes = Sizes { max_flows: 64, max_ports: 64, max_endpoints: 8, max_counters: 32 };
        // The first one takes frames from XDP, the second does not.
        let c1 = Inhabitant { addr4: ipv4::C1, addr6: ipv6::C1, mac: C1_MAC, flags: endpoint_flag::XDP };
        let c2 = Inhabitant { addr4: ipv4::C2, addr6: ipv6::C2, mac: C2_MAC, flags: 0 };
        Self(ProgramWorld::new("prog-run", sizes, &[c1, c2]))
    }

    /// Publishes port `port` of the first container at `host_port`, in both families.
    pub(crate) fn publish(&mut self, proto: u8, host_port: u16, port: u16) {
        self.publish_to(1, proto, host_port, port);
    }

    /// The same with container number `index`.
    pub(crate) fn publish_to(&mut self, index: u32, proto: u8, host_port: u16, port: u16) {
        self.publish_extent(index, (proto, host_port, port), Extent::Port);
    }

    /// Publishes the 256 ports from `port` of the first container at `host_port` and up.
    pub(crate) fn publish_block(&mut self, proto: u8, host_port: u16, port: u16) {
        self.publish_extent(1, (proto, host_port, port), Extent::Block);
    }

    fn publish_extent(&mut self, index: u32, (proto, host_port, port): (u8, u16, u16), extent: Extent) {
        let containers = if index == 1 { [ipv4::C1, ipv6::C1] } else { [ipv4::C2, ipv6::C2] };
        for (host, container) in [ipv4::HOST, ipv6::HOST].into_iter().zip(containers) {
            self.0.publish(proto, (host, host_port), (container, port), extent);
        }
    }

    pub(crate) fn unpublish_block(&mut self, proto: u8, host_port: u16, port: u16) {
        self.apply(&[
            Change::V4(FamilyChange::DeletePublished(PortKey::block(addr4(ipv4::HOST), host_port, proto))),
            Change::V4(FamilyChange::DeleteSource(PortKey::block(addr4(ipv4::C1), port, proto))),
            Change::V6(FamilyChange::DeletePublished(PortKey::block(addr6(ipv6::HOST), host_port, proto))),
            Change::V6(FamilyChange::DeleteSource(PortKey::block(addr6(ipv6::C1), port, proto))),
        ]);
    }

    /// Runs a program, given by the name that IPv4's has, on a frame: the one of the frame's family.
    pub(crate) fn run(&self, program: &str, frame: &[u8]) -> TestRun {
        self.run_exactly(&of_family(program, frame), frame)
    }

    /// Runs the program of that name on a frame.
    pub(crate) fn run_exactly(&self, program: &str, frame: &[u8]) -> TestRun {
        self.datapath.test_run(program, frame, 1).unwrap()
    }

    /// As [`Self::run`], on a frame that the kernel is going to cut into segments.
    pub(crate) fn run_segments(&self, program: &str, frame: &[u8], gso_size: u16) -> TestRun {
        self.datapath.test_run_segments(&of_family(program, frame), frame, gso_size, 1).unwrap()
    }

    /// Packets dropped for `reason`.
    pub(crate) fn dropped(&self, reason: Reason) -> u64 {
        let drops = self.datapath.drops().unwrap();
        drops.iter().filter(|(key, _)| key.reason == reason as u32).map(|(_, counter)| counter.packets).sum()
    }
}

fn of_family(program: &str, frame: &[u8]) -> String {
    let family = if frame[12..14] == [0x86, 0xdd] { "6" } else { "" };
    format!("{program}{family}")
}
