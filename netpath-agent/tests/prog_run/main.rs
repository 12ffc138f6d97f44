//! Tier 2: the loaded programs on real packet bytes (BPF_PROG_TEST_RUN), one chained to the next. Needs
//! root.
//!
//! | file | promises |
//! |---|---|
//! | `translation` | addresses, ports, hop count and every checksum are right; nothing else changes |
//! | `icmp_error` | errors are translated outside and inside, at every length |
//! | `fragment` | fragments follow their first one |
//! | `hairpin` | packets between containers through the host's address; SCTP keeps its ports |
//! | `verdict` | what is dropped is dropped and counted; broken and random frames do no harm |

#![expect(clippy::unwrap_used, reason = "a test panics when something is not as it should be")]

mod fragment;
mod frame;
mod hairpin;
mod icmp_error;
mod setup;
mod translation;
mod verdict;
