//! Types that the eBPF programs and the agent share.
//!
//! Byte order: an address is kept as the bytes of the wire (`Addr4`, `Addr6`); ports, lengths and
//! sequence numbers are host order `u16`/`u32` and are converted where a packet is read or written.
//! Layout: `#[repr(C)]`, no implicit padding, no `bool`, no `Option`; every type ends with its size
//! as a const assertion. Map keys are built by `new()` only, so that their padding is always zero.

#![cfg_attr(not(test), no_std)]

mod addr;
mod clock;
mod config;
mod conntrack;
mod counter;
mod endpoint;
mod event;
mod external;
mod fragment;
mod host_peer;
mod link;
mod published_port;
mod reason;
mod share;
mod tuple;

pub use addr::{Addr4, Addr6, Address, NETWORK_BITS_WORDS, OtherFamily, network_bit};
pub use clock::seconds;
pub use config::{Config, LAYOUT, PortRange, Timeouts, config_flag};
pub use conntrack::{CtState, Flow, Inside, Mapping, MappingKey, Reach, TcpFlags, flow_flag, seen};
pub use counter::{Counter, DropKey};
pub use endpoint::{Endpoint, Network, endpoint_flag, network_flag};
pub use event::{Event, EventKind};
pub use external::{External, TrustedKey};
pub use fragment::{Datagram, FragmentKey, HELD_LEN, Held, HeldBucket, RUNS, Run, datagram_state, under_way};
pub use host_peer::{HostPeer, HostPeerKey};
pub use link::{Link, LinkKey};
pub use published_port::{
    AllowedSource, BLOCK_LEN, PORT_BITS_WORDS, PortKey, PortSource, PortTarget, port_bit, source_flag, target_flag,
};
pub use reason::Reason;
pub use share::Share;
pub use tuple::{Tuple, proto};

/// Declares a shared type: its size in bytes is asserted, and user space may copy it out of a map.
macro_rules! map_type {
    ($($type:ty = $size:literal),+ $(,)?) => {
        $(
            const _: () = assert!(core::mem::size_of::<$type>() == $size);
            #[cfg(feature = "user")]
            // SAFETY: repr(C), Copy, no padding (the size assertion above) and no invalid bit patterns.
            unsafe impl aya::Pod for $type {}
        )+
    };
}
pub(crate) use map_type;

/// The same for types that hold an address: their size with an IPv4 and with an IPv6 address.
macro_rules! family_type {
    ($($type:ident = $size4:literal, $size6:literal);+ $(;)?) => {
        $(
            const _: () = assert!(core::mem::size_of::<$type<crate::Addr4>>() == $size4);
            const _: () = assert!(core::mem::size_of::<$type<crate::Addr6>>() == $size6);
            #[cfg(feature = "user")]
            // SAFETY: repr(C), Copy, no padding (the size assertions above, for the two types that
            // implement `Address`) and no invalid bit patterns.
            unsafe impl<A: crate::Address + aya::Pod> aya::Pod for $type<A> {}
        )+
    };
}
pub(crate) use family_type;
