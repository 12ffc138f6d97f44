//! What a NAT for containers must do, in obvious Rust: a list of flows, walked from one end to the other. Depends on
//! nothing but the standard library, and on no code of the data plane: an opinion of its own.
//!
//! It knows no bytes and chooses no ports. A packet is its fields, and the name that masquerade gives somebody is a
//! [`Name`]: who compares finds out what it stands for.

mod error;
mod flow;
mod fragment;
mod host;
mod inside;
mod nat;
mod outside;
pub mod packet;
#[cfg(test)]
mod tests;

pub use flow::{Flow, Timeouts};
pub use nat::{Cause, Config, Nat, Outcome, Place, Port, Sent, Verdict};
pub use packet::{Body, Checksum, End, Flaw, Name, Packet, Proto, Tcp};
