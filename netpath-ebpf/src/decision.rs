//! What is to be done with a packet.

use netpath_common::Tuple;

use crate::family::Family;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out<A> {
    /// The kernel's road: the stack routes, forwards or receives it.
    Kernel,
    /// Straight into the container behind the veth with this ifindex, as a router would: TTL - 1.
    Container(u32),
    /// Straight into the container behind the veth with this ifindex, as the bridge would.
    Sibling(u32),
    /// From a container straight into the one at this index of `ENDPOINTS`, as a router would: TTL - 1, and
    /// the hardware addresses of the target's network.
    Across(u32),
    /// Straight out of an external interface, to this next hop.
    External { ifindex: u32, next_hop: A },
}

/// What is to be done with a packet that is not dropped.
#[derive(Clone, Copy, Debug)]
pub struct Decision<F: Family> {
    /// Addresses and ports that the packet shall have.
    pub tuple: Tuple<F::Addr>,
    pub out: Out<F::Addr>,
    /// Index into `ENDPOINTS` of the container that it goes into from outside; 0: none.
    pub endpoint: u32,
    /// Indexes into `COUNTERS` of an endpoint and of a port binding; 0: none.
    pub counters: [u32; 2],
}

impl<F: Family> Decision<F> {
    /// Untouched, to the kernel.
    #[inline(always)]
    pub const fn pass(tuple: Tuple<F::Addr>) -> Self {
        Self { tuple, out: Out::Kernel, endpoint: 0, counters: [0; 2] }
    }
}
