//! Tier 2: the loaded programs on real packet bytes (BPF_PROG_TEST_RUN), one chained to the next. Needs
//! root.
//!
//! `ipv4` and `ipv6` hold the same tests, each with its own addresses.
//!
//! | file | promises |
//! |---|---|
//! | `translation` | addresses, ports, hop count and every checksum are right; nothing else changes |
//! | `icmp_error` | errors are translated outside and inside, at every length |
//! | `fragment` | fragments follow their first one |
//! | `hairpin` | packets between containers through the host's address; SCTP keeps its ports |
//! | `arp` | a container speaks for its own address only |
//! | `adoption` | what an earlier agent has left, whole or half, is taken over or made anew |
//! | `programs` | the kernel takes the programs, and they leave alone what is not theirs |
//! | `verdict` | what is dropped is dropped and counted; broken and random frames do no harm |
//! | `xdp` | what is decided before the kernel has a packet, and what is left to tc |

#![expect(clippy::unwrap_used, reason = "a test panics when something is not as it should be")]

mod adoption;
mod arp;
mod frame;
mod ipv4;
#[expect(clippy::duplicate_mod, reason = "the same promises for both families")]
mod ipv6;
mod programs;
mod setup;
