//! Every promise for IPv6.

pub(crate) use crate::place6::*;

#[path = "early.rs"]
mod early;
#[path = "hairpin.rs"]
mod hairpin;
#[path = "icmp_error.rs"]
mod icmp_error;
#[path = "invariants.rs"]
mod invariants;
#[path = "link.rs"]
mod link;
#[path = "masquerade.rs"]
mod masquerade;
#[path = "network.rs"]
mod network;
#[path = "policy.rs"]
mod policy;
#[path = "published_port.rs"]
mod published_port;
#[path = "sctp.rs"]
mod sctp;
