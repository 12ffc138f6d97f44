//! The deciding functions on real packet bytes, against maps, clock, routes and sockets of a test's own.
//!
//! `ipv4` and `ipv6` hold the same tests, each with its own addresses, which are in `place4` and `place6`. Those, `world` and
//! `frame` are also what netpath-fuzz stands on.
//!
//! | file | promises |
//! |---|---|
//! | `published_port` | a published port is two look-ups: in, and its reverse |
//! | `masquerade` | ports, flows, time-outs, and what happens when they run out |
//! | `policy` | who may talk to whom, and who is who |
//! | `host_access` | the host's own sockets are led into containers, and cannot have their ports |
//! | `link` | exposed ports of linked containers, and nothing else, where neighbours do not talk |
//! | `network` | gateway modes, trusted interfaces, internal networks, and one network to another |
//! | `hairpin` | published ports through an address of the host, from inside |
//! | `sctp` | SCTP keeps its ports |
//! | `icmp_error` | errors reach the one who sent the packet, translated |
//! | `nd` | what a container says by neighbour discovery |
//! | `early` | what is decided before the kernel has a packet is what is decided after |
//! | `invariants` | whatever packets come in whatever order: nothing leaks, nothing is mixed up |

#![expect(clippy::unwrap_used, reason = "a test panics when something is not as it should be")]

mod frame;
mod host_access;
mod ipv4;
#[expect(clippy::duplicate_mod, reason = "the same promises for both families")]
mod ipv6;
mod nd;
mod place4;
mod place6;
mod world;
