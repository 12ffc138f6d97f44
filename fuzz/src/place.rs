//! What fuzzing needs to know of a family besides where everybody is: whom packets may name, and who else decides.

use std::fmt::Debug;

use arbitrary::Unstructured;
use netpath_common::{Addr4, Addr6, Address as _, Reason};
use netpath_ebpf::family::{V4, V6};
use netpath_ebpf::nd;
use netpath_ebpf::packet::Packet;
use netpath_ebpf::policy::Arrival;

use crate::frame::Frame;
use crate::world::{Place, World};
use crate::{place4, place6};

/// A family with everybody in it.
pub(crate) trait Ground: Place + Debug {
    /// Everybody but the containers: hosts outside, addresses of the host, of nobody, of groups.
    const OTHERS: &'static [Self::Addr];
    /// Types of ICMP messages that are worth trying.
    const ICMP_TYPES: &'static [u8];
    /// Those of errors.
    const ICMP_ERRORS: &'static [u8];

    fn any_addr(u: &mut Unstructured<'_>) -> Self::Addr;
    /// Whether the packet is signalling that passes before anybody asks who may talk to whom.
    fn passes_at_once(
        world: &World<Self>,
        frame: &Frame,
        packet: &Packet<Self>,
        arrival: &Arrival,
    ) -> Result<bool, Reason>;
}

impl Ground for V4 {
    const OTHERS: &'static [Addr4] = &[
        place4::CLIENT,
        place4::HOST,
        place4::CLIENT,
        place4::OTHER_CLIENT,
        place4::OTHER_HOST,
        place4::ROUTER,
        place4::GATEWAY,
        place4::SECOND_GATEWAY,
        place4::NOBODY,
        place4::ELSEWHERE,
        place4::LOOPBACK,
        place4::GROUPS[0],
        place4::GROUPS[1],
        Addr4::UNSPECIFIED,
    ];
    const ICMP_TYPES: &'static [u8] = &[0, 3, 4, 5, 8, 11, 12, 13];
    const ICMP_ERRORS: &'static [u8] = &[3, 4, 11, 12];

    fn any_addr(u: &mut Unstructured<'_>) -> Addr4 {
        Addr4(u.arbitrary().unwrap_or_default())
    }

    fn passes_at_once(_: &World<V4>, _: &Frame, _: &Packet<V4>, _: &Arrival) -> Result<bool, Reason> {
        Ok(false)
    }
}

impl Ground for V6 {
    const OTHERS: &'static [Addr6] = &[
        place6::CLIENT,
        place6::HOST,
        place6::CLIENT,
        place6::OTHER_CLIENT,
        place6::OTHER_HOST,
        place6::ROUTER,
        place6::GATEWAY,
        place6::SECOND_GATEWAY,
        place6::NOBODY,
        place6::ELSEWHERE,
        place6::LOOPBACK,
        place6::GROUPS[0],
        place6::GROUPS[1],
        Addr6::UNSPECIFIED,
        // Link-local, of the bridge and of the first container.
        Addr6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0]),
        Addr6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1]),
    ];
    const ICMP_TYPES: &'static [u8] = &[128, 129, 1, 2, 3, 4, 130, 131, 132, 133, 134, 135, 136, 137, 143];
    const ICMP_ERRORS: &'static [u8] = &[1, 2, 3, 4];

    fn any_addr(u: &mut Unstructured<'_>) -> Addr6 {
        Addr6(u.arbitrary().unwrap_or_default())
    }

    fn passes_at_once(
        world: &World<V6>,
        frame: &Frame,
        packet: &Packet<V6>,
        arrival: &Arrival,
    ) -> Result<bool, Reason> {
        Ok(nd::is_concerned(packet) && nd::passes(world, frame, 14, packet, arrival)?)
    }
}
