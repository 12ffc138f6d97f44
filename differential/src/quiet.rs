//! Worlds in which nobody speaks but packet sockets, and the host says all that it may at once.

use std::net::IpAddr;

use netpath_tests::frames::FrameSocket;
use netpath_tests::{Family, Namespace, program};

/// A socket at the `eth0` of `namespace` that sees what arrives.
pub fn tap(namespace: &Namespace) -> FrameSocket {
    let tap = FrameSocket::new(namespace, "eth0");
    tap.ignore_outgoing();
    tap
}

/// The kernel in `namespace` neither hears nor says anything.
pub fn mute(namespace: &Namespace) {
    for (program, chain) in ["iptables", "ip6tables"].into_iter().flat_map(|p| ["INPUT", "OUTPUT"].map(|c| (p, c))) {
        program::stdout_of(namespace.command(program).args(["-P", chain, "DROP"]));
    }
    program::stdout_of(namespace.command("ethtool").args(["-K", "eth0", "tx", "off", "gro", "off"]));
}

/// A neighbour that is never asked for.
pub fn know(host: &Namespace, address: IpAddr, mac: [u8; 6], ifname: &str) {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    host.ip(&format!("neigh replace {address} lladdr {mac} dev {ifname} nud permanent"));
}

/// The host answers everything that it answers at all, and gives up nothing that it waits for. Netfilter's connections end
/// when they are deleted.
pub fn quieten(host: &Namespace, is_netpath: bool) {
    Family::BOTH.iter().for_each(|family| assert!(host.addresses().contains(&family.host())));
    for name in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
        host.set_sysctl(&format!("net/{name}"), "0");
    }
    // Of both families.
    for name in ["icmp_msgs_per_sec", "icmp_msgs_burst"] {
        host.set_sysctl(&format!("net/ipv4/{name}"), "10000000");
    }
    // Seconds: strays are to be forgotten, and nobody takes as long over one datagram.
    let fragments = ["ipv4/ipfrag", "ipv6/ip6frag"];
    fragments.iter().for_each(|name| host.set_sysctl(&format!("net/{name}_time"), "5"));
    if is_netpath {
        // Fragments for the host itself: it takes none, so nothing is left of them for the next case.
        for (name, end) in fragments.into_iter().flat_map(|name| ["low", "high"].map(|end| (name, end))) {
            host.set_sysctl(&format!("net/{name}_{end}_thresh"), "0");
        }
        return;
    }
    host.set_sysctl("net/netfilter/nf_conntrack_frag6_timeout", "5");
    let states = ["close", "close_wait", "fin_wait", "last_ack", "syn_recv", "syn_sent", "time_wait", "unacknowledged"];
    let tcp = states.map(|state| format!("tcp_timeout_{state}"));
    let others =
        ["udp_timeout", "udp_timeout_stream", "icmp_timeout", "icmpv6_timeout", "generic_timeout"].map(str::to_owned);
    for name in tcp.iter().chain(&others) {
        host.set_sysctl(&format!("net/netfilter/nf_conntrack_{name}"), "36000");
    }
}

/// Every frame is a packet, with its checksums.
pub fn stop_offloads(host: &Namespace) {
    for ifname in host.interfaces() {
        // A bridge has not all of them.
        program::output_of(host.command("ethtool").args(["-K", &ifname, "tx", "off", "gro", "off", "tso", "off"]));
    }
}
