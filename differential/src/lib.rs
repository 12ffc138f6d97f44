//! Random packets through netpath, Docker's iptables rules and a reference model at once: what comes out of netpath must
//! be what the model says, byte by byte, and netfilter must agree but for differences that have a name.
//!
//! Needs root, iproute2, iptables and ethtool. All traffic stays in network namespaces of its own.

pub mod compare;
pub mod conntrack;
pub mod conversation;
pub mod difference;
pub mod generate;
pub mod layout;
pub mod malformed;
pub mod netfilter;
pub mod quiet;
pub mod rng;
pub mod run;
pub mod script;
pub mod seen;
pub mod side;
pub mod statistics;
pub mod step;
pub mod tables;
pub mod twin;
pub mod uninvited;
pub mod wire;
