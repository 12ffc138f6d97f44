//! What the data plane decides: parsing, translation, policy, port choice, connection states.
//!
//! Everything here is pure: maps, clock, routes and sockets are reached through [`env::Env`], packet
//! bytes through [`packet::Bytes`]. The same code runs in the eBPF programs (`main.rs`) and in unit
//! tests on the host. Generic over the address family, instantiated per family.

#![cfg_attr(not(test), no_std)]

pub mod checksum;
pub mod conntrack;
pub mod decision;
pub mod direct;
pub mod env;
pub mod external;
pub mod family;
pub mod fault;
pub mod flow_table;
pub mod fragment;
pub mod hairpin;
pub mod hash;
pub mod host;
pub mod icmp;
pub mod inside;
pub mod ipv6;
pub mod link;
pub mod mapping;
pub mod named_flow;
pub mod nd;
pub mod packet;
pub mod policy;
pub mod port_alloc;
mod port_search;
pub mod published;
pub mod snat;
pub mod tcp_state;
