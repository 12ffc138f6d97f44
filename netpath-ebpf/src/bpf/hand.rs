//! What the programs have in hand, per CPU: one packet, and what was found out about it.
//!
//! Not on the stack, for two reasons: its 512 bytes are few, and what is read back from a map is any number
//! to the verifier, so that it checks what follows once and not once per kind of packet.

use netpath_common::{Address, Tuple};
use netpath_ebpf::{
    decision::{Decision, Out},
    family::Family,
    icmp::{Inner, Translation},
    packet::Packet,
};

/// A packet. Each field holds what the step that writes it leaves there for the next one.
pub(super) struct Hand<F: Family> {
    pub(super) packet: Packet<F>,
    /// What the packet quotes if it is an ICMP error.
    pub(super) inner: Inner<F>,
    /// Addresses and ports that the quoted packet shall have.
    pub(super) quoted: Tuple<F::Addr>,
    pub(super) plan: Plan<F>,
}

impl<F: Family> Hand<F> {
    /// Plans the translation of an ICMP error; true.
    #[inline(always)]
    pub(super) fn set_error(&mut self, translation: &Translation<F>) -> bool {
        let Translation { src_addr, dst_addr, inner, out } = *translation;
        self.quoted = inner;
        let tuple = Tuple::new(src_addr, 0, dst_addr, 0, self.packet.tuple.proto);
        self.plan.set(&Decision { tuple, out, counters: [0; 2] });
        true
    }
}

/// A [`Decision`] in fields of their own: the verifier lets no program store what nobody has set, as the unused
/// part of an enum is.
pub(super) struct Plan<F: Family> {
    pub(super) tuple: Tuple<F::Addr>,
    pub(super) counters: [u32; 2],
    out: u32,
    /// Or the index of an endpoint.
    ifindex: u32,
    next_hop: F::Addr,
}

const KERNEL: u32 = 0;
const CONTAINER: u32 = 1;
const SIBLING: u32 = 2;
const EXTERNAL: u32 = 3;
const ACROSS: u32 = 4;
/// No decision yet: the packet stays on this host, which another program sees to.
const INSIDE: u32 = 5;

impl<F: Family> Plan<F> {
    #[inline(always)]
    pub(super) fn set(&mut self, decision: &Decision<F>) {
        self.tuple = decision.tuple;
        self.counters = decision.counters;
        (self.out, self.ifindex) = match decision.out {
            Out::Kernel => (KERNEL, 0),
            Out::Container(ifindex) => (CONTAINER, ifindex),
            Out::Sibling(ifindex) => (SIBLING, ifindex),
            Out::Across(index) => (ACROSS, index),
            Out::External { ifindex, next_hop } => {
                self.next_hop = next_hop.by_words();
                (EXTERNAL, ifindex)
            }
        };
    }

    #[inline(always)]
    pub(super) fn set_inside(&mut self) {
        self.out = INSIDE;
    }

    #[inline(always)]
    pub(super) fn is_inside(&self) -> bool {
        self.out == INSIDE
    }

    #[inline(always)]
    pub(super) fn out(&self) -> Out<F::Addr> {
        let ifindex = self.ifindex;
        match self.out {
            CONTAINER => Out::Container(ifindex),
            SIBLING => Out::Sibling(ifindex),
            ACROSS => Out::Across(ifindex),
            EXTERNAL => Out::External { ifindex, next_hop: self.next_hop },
            _ => Out::Kernel,
        }
    }
}
