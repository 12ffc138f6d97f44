//! What the programs have in hand, per CPU: one packet, and what was found out about it.
//!
//! Not on the stack, for two reasons: its 512 bytes are few, and what is read back from a map is any number
//! to the verifier, so that it checks what follows once and not once per kind of packet.

use netpath_common::{Address, Tuple};
use netpath_ebpf::{
    conntrack::Owner,
    decision::{Decision, Out},
    family::Family,
    icmp::{Inner, Translation},
    mapping::Request,
    packet::Packet,
    policy::Arrival,
};

/// A packet. Each field holds what the step that writes it leaves there for the next one.
pub(super) struct Hand<F: Family> {
    pub(super) packet: Packet<F>,
    /// How it came, if it came from a container.
    pub(super) arrival: Arrival,
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
        self.plan.set(&Decision { tuple, out, endpoint: 0, counters: [0; 2] });
        true
    }
}

/// A flow that is to be made before the decision is taken anew, in a place of its own.
pub(super) struct Parked<F: Family> {
    nat_addr: F::Addr,
    /// Generation 0: nothing is parked.
    owner: Owner,
    now_s: u32,
    /// The place in `JUMPS` of the program that decides once more.
    pub(super) asker: u32,
}

impl<F: Family> Parked<F> {
    #[inline(always)]
    pub(super) fn park(&mut self, request: &Request<'_, F>) {
        self.nat_addr = request.nat_addr.by_words();
        self.owner = request.owner;
        self.now_s = request.now_s;
    }

    #[inline(always)]
    pub(super) fn is_there(&self) -> bool {
        self.owner.generation != 0
    }

    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.owner.generation = 0;
    }

    /// What is parked, which `packet` asks for.
    #[inline(always)]
    pub(super) fn request<'a>(&self, packet: &'a Packet<F>) -> Request<'a, F> {
        Request { packet, owner: self.owner, nat_addr: self.nat_addr, now_s: self.now_s }
    }
}

/// A [`Decision`] in fields of their own: the verifier lets no program store what nobody has set, as the unused
/// part of an enum is.
pub(super) struct Plan<F: Family> {
    pub(super) tuple: Tuple<F::Addr>,
    pub(super) counters: [u32; 2],
    pub(super) endpoint: u32,
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
/// No decision: there is none to take here.
const UNDECIDED: u32 = 5;

impl<F: Family> Plan<F> {
    #[inline(always)]
    pub(super) fn set(&mut self, decision: &Decision<F>) {
        self.tuple = decision.tuple;
        self.counters = decision.counters;
        self.endpoint = decision.endpoint;
        // What has no interface keeps the one before: a zero in its place would be chosen by reading both, and before Linux
        // 6.3 verifiers let nobody read what is not written.
        match decision.out {
            Out::Kernel => self.out = KERNEL,
            Out::Container(ifindex) => (self.out, self.ifindex) = (CONTAINER, ifindex),
            Out::Sibling(ifindex) => (self.out, self.ifindex) = (SIBLING, ifindex),
            Out::Across(index) => (self.out, self.ifindex) = (ACROSS, index),
            Out::External { ifindex, next_hop } => {
                self.next_hop = next_hop.by_words();
                (self.out, self.ifindex) = (EXTERNAL, ifindex);
            }
        }
    }

    #[inline(always)]
    pub(super) fn set_undecided(&mut self) {
        self.out = UNDECIDED;
    }

    #[inline(always)]
    pub(super) fn is_undecided(&self) -> bool {
        self.out == UNDECIDED
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
