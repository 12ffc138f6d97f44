//! Tier 3: real sockets in network namespaces, on Docker's iptables rules and on netpath with and without shortcuts.
//!
//! Every test ends with the promises that hold whatever it did (`World::broken_promises`): no packet with a container's
//! source left the host, and netfilter holds no rule and no connection. Run as root: `cargo xtask test`.

#![expect(clippy::unwrap_used, reason = "a test panics when something is not as it should be")]

#[macro_use]
mod planes;

/// What RFCs ask of a translator, row by row, and the table made from it.
mod conformance;

/// A client outside reaches a published port, and nothing else.
mod published_port;

/// The host itself reaches published ports by all its names, and nobody can take them from under a container.
mod host_access;

/// Where no program keeps published ports for containers, sockets of the agent do.
mod held_ports;

/// Containers reach the outside under the host's address.
mod masquerade;

/// Every flow to a published port and out of a container, of both families: who is seen by whom.
mod cells_nat;

/// Docker's gateway modes: nat, nat-unprotected, routed, isolated.
mod gateway_modes;

/// Networks beside each other, internal networks, second networks, links.
mod netavark;

mod networks;
/// Podman itself, with the netavark plugin.
mod podman;

/// SCTP keeps its ports and its checksum.
mod sctp;

/// Containers reach each other, or with `--icc=false` do not.
mod inter_container;

/// Containers reach published ports through an address of the host, their own among them.
mod hairpin;

/// IPv6's programs are loaded when the first network has IPv6, and nothing of IPv6 leaves a container before.
mod ipv6_on_demand;

/// What is dropped, and counted: direct access, loopback addresses from the wire, spoofed sources.
mod protection;

/// `netpath rules` and `netpath monitor`.
mod seeing;

/// `--xdp`: which interfaces get the program, when it goes, and what takes its road.
mod xdp;

/// Programs that hang as filters of clsact qdiscs, as on kernels without tcx links, in place of links.
mod filters;

/// `netpath doctor`: what a host has and lacks.
mod doctor;

/// Fragments in any order: whole datagrams or none.
mod fragments;

/// ICMP errors and packet sizes: TTL, path MTU, fragments, offloads.
mod packet_size;

/// Transfers survive the agent's death, its upgrade and a flushed firewall.
mod restart;

/// The flow table: what is in it, what happens when it is full.
mod flow_table;

/// What people have complained about, where no other file has it.
mod complaints;

/// Ports and policies change while traffic flows; a container's namespace vanishes.
mod live_change;

/// `netpath run`: a command with its own network, mount and UTS namespace.
mod runner;

/// `netpath run --net`: the host's network, none, and another container's.
mod modes;

/// `--link`: a container knows another one by a name, whatever address that has.
mod links;

/// Links from point to point: two containers on one wire, without a bridge.
mod ptp;

/// Wrong input gets a clear error and changes nothing.
mod bad_input;

/// Networks and containers that somebody else has connected, and takes away again.
mod adopted;

/// Containers that somebody else has connected without a bridge.
mod adopted_routed;

/// Debian's containerd, whose containers the CNI plugin connects.
mod containerd;

/// containerd's CRI, which a kubelet calls.
mod cri;

/// The CNI plugin, as a container runtime drives it.
mod cni;

/// The CNI plugin behind other main plugins.
mod cni_chained;

/// The CNI plugin under the reference library for runtimes.
mod cnitool;

/// Docker Engine itself, whose containers netpath serves.
mod docker_mode;

/// Containers of Docker Engine that start at the same time.
mod docker_start;

/// Docker Engine's networks with IPv6.
mod docker_ipv6;

/// Gateway modes of Docker Engine's networks.
mod docker_gateways;

/// Options of Docker Engine's networks and ports.
mod docker_options;

/// What Docker Engine can do wrong, and what netpath says then.
mod docker_faults;

/// The way of a running Docker to netpath, and back.
mod docker_migrate;

/// `netpath down` leaves nothing behind.
mod teardown;
