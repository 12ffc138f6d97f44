//! What tests and benchmarks stand on: a world of network namespaces made for one test, served either by
//! netpath or by Docker's iptables rules, and real sockets inside it.
//!
//! Every helper panics with what was tried on what: the callers are tests, and the demo, which catches it.
//! Needs root, iproute2, and iptables for the plane to compare with. Touches nothing outside its own namespaces,
//! its directory in the temporary directory and its directory of pins.

pub mod agent;
pub mod bare;
pub mod cleanup;
pub mod cni_runtime;
pub mod containerd_daemon;
pub mod docker;
pub mod docker_proxy;
pub mod engine;
pub mod family;
pub mod foreign_xdp;
pub mod frames;
pub mod icmp;
pub mod iptables;
pub mod kernel;
pub mod namespace;
pub mod netfilter;
pub mod network;
pub mod packets;
pub mod plane;
pub mod program;
pub mod program_world;
pub mod reach;
pub mod signals;
pub mod sockets;
pub mod topology;
pub mod transfer;
pub mod watcher;
pub mod web;

pub use bare::Bare;
pub use family::Family;
pub use namespace::Namespace;
pub use network::{GatewayMode, Network, NetworkOptions};
pub use plane::{Backend, Options, Plane};
pub use topology::{CLIENT, Container, HOST, Request, SECOND_CLIENT, World};
