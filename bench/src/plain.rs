//! Contestants that are neither netpath nor Docker's rules: the host's own network, plain forwarding, nftables.

use std::net::IpAddr;
use std::rc::Rc;

use netpath_tests::{Bare, HOST, Namespace, program};

use crate::kind::Kind;
use crate::stage::Service;

const SERVER: &str = "172.17.0.2";
const APP: &str = "172.17.0.3";
const GATEWAY: &str = "172.17.0.1";

/// Where server and second container are.
pub(crate) struct Containers {
    pub(crate) server: Rc<Namespace>,
    pub(crate) server_addr: IpAddr,
    pub(crate) app: Rc<Namespace>,
}

/// Builds what `kind` needs on the host of `bare`.
pub(crate) fn build(kind: Kind, bare: &Bare) -> Containers {
    if kind == Kind::Host {
        let host = Rc::new(Namespace::at(bare.host.path()));
        return Containers { server: Rc::clone(&host), server_addr: HOST, app: host };
    }
    let host = &bare.host;
    host.set_sysctl("net/ipv4/ip_forward", "1");
    host.ip("link add br0 type bridge");
    host.ip(&format!("addr add {GATEWAY}/16 dev br0"));
    host.ip("link set br0 up");
    let server = connect(bare, "web", 1, SERVER);
    let app = connect(bare, "app", 2, APP);
    if kind == Kind::Forward {
        bare.client.ip(&format!("route add 172.17.0.0/16 via {HOST}"));
    } else {
        start_nftables(host);
        let address = SERVER.parse().expect("an address");
        for service in Service::ALL {
            let (port, host_port) = service.ports();
            let proto = if service == Service::Udp { "udp" } else { "tcp" };
            add_elements(host, proto, &[element(host_port, address, port)]);
        }
    }
    Containers { server, server_addr: SERVER.parse().expect("an address"), app }
}

/// Publishes the TCP ports `first..=last` of `address`, each at the same port of the host.
pub(crate) fn publish_with_nftables(host: &Namespace, address: IpAddr, first: u16, last: u16) {
    let elements: Vec<String> = (first..=last).map(|port| element(port, address, port)).collect();
    add_elements(host, "tcp", &elements);
}

fn connect(bare: &Bare, name: &str, number: u8, address: &str) -> Rc<Namespace> {
    let inside = bare.namespace(name);
    let host = &bare.host;
    host.ip(&format!("link add veth{number} type veth peer name eth0 netns {}", inside.path().display()));
    host.ip(&format!("link set veth{number} master br0 up"));
    inside.set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    inside.ip(&format!("addr add {address}/16 dev eth0"));
    inside.ip("link set eth0 up");
    inside.ip(&format!("route add default via {GATEWAY}"));
    inside
}

/// No more than translation: no filter, which Docker's rules have.
fn start_nftables(host: &Namespace) {
    let rules = "table ip bench {
        map tcp_ports { type inet_service : ipv4_addr . inet_service; }
        map udp_ports { type inet_service : ipv4_addr . inet_service; }
        chain prerouting {
            type nat hook prerouting priority dstnat;
            fib daddr type local dnat ip to tcp dport map @tcp_ports
            fib daddr type local dnat ip to udp dport map @udp_ports
        }
        chain postrouting {
            type nat hook postrouting priority srcnat;
            ip saddr 172.17.0.0/16 oifname != \"br0\" masquerade
        }
    }
    ";
    program::feed(host.command("nft").args(["-f", "-"]), rules);
}

fn element(host_port: u16, address: IpAddr, port: u16) -> String {
    format!("{host_port} : {address} . {port}")
}

fn add_elements(host: &Namespace, proto: &str, elements: &[String]) {
    let command = format!("add element ip bench {proto}_ports {{ {} }}\n", elements.join(", "));
    program::feed(host.command("nft").args(["-f", "-"]), &command);
}
