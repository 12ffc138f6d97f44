//! Docker's default bridge as Docker Engine 29 sets it up with iptables and without its user-land proxy: a plain
//! bridge, veths, and the rules that `iptables-save` shows there.

use std::net::{IpAddr, Ipv4Addr};

use crate::{Namespace, program};

/// Address of the bridge: the first of Docker's first pool.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);

const NETWORK_RULES: &str = "\
*raw
:PREROUTING ACCEPT
COMMIT
*nat
:DOCKER -
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -m addrtype --src-type LOCAL -o docker0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP
:DOCKER -
:DOCKER-BRIDGE -
:DOCKER-CT -
:DOCKER-FORWARD -
:DOCKER-INTERNAL -
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-FORWARD -j DOCKER-BRIDGE
ICC-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER ! -i docker0 -o docker0 -j DROP
COMMIT
";

const ICC_ON: &str = "-A DOCKER-FORWARD -i docker0 -j ACCEPT\n";

const ICC_OFF: &str = "\
-A DOCKER-FORWARD -i docker0 -o docker0 -j DROP
-A DOCKER-FORWARD -i docker0 ! -o docker0 -j ACCEPT
";

/// Makes the bridge and the rules of the network.
pub fn setup(host: &Namespace, icc: bool) {
    host.ip("link add docker0 type bridge");
    host.ip(&format!("addr add {GATEWAY}/16 dev docker0"));
    host.ip("link set docker0 up");
    host.set_sysctl("net/ipv4/ip_forward", "1");
    // Docker turns bridge-nf-call-iptables on for icc=false only: without it bridged packets meet no rule.
    host.set_sysctl("net/bridge/bridge-nf-call-iptables", if icc { "0" } else { "1" });
    restore(host, &NETWORK_RULES.replace("ICC", if icc { ICC_ON } else { ICC_OFF }));
}

/// Connects `inside` as container number `number`, counted from 1, and returns its address.
pub fn connect(host: &Namespace, inside: &Namespace, number: u8) -> IpAddr {
    let address = Ipv4Addr::new(172, 17, 0, number + 1);
    let veth = format!("veth{number}");
    host.ip(&format!("link add {veth} type veth peer name eth0 netns {}", inside.path().display()));
    host.ip(&format!("link set {veth} master docker0 up"));
    inside.ip(&format!("addr add {address}/16 dev eth0"));
    inside.ip("link set eth0 up");
    inside.ip(&format!("route add default via {GATEWAY}"));
    restore(host, &format!("*raw\n-A PREROUTING -d {address}/32 ! -i docker0 -j DROP\nCOMMIT\n"));
    address.into()
}

/// Publishes `[HOST_ADDR:]HOST_PORT:PORT[/PROTO]` for the container at `address`.
pub fn publish(host: &Namespace, address: IpAddr, spec: &str) {
    change_port(host, address, spec, "-A", "-I");
}

/// Takes back what [`publish`] did.
pub fn unpublish(host: &Namespace, address: IpAddr, spec: &str) {
    change_port(host, address, spec, "-D", "-D");
}

fn change_port(host: &Namespace, address: IpAddr, spec: &str, append: &str, insert: &str) {
    let (ports, proto) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let parts: Vec<&str> = ports.split(':').collect();
    let (host_addr, host_port, port) = match parts[..] {
        [host_port, port] => (String::new(), host_port, port),
        [host_addr, host_port, port] => (format!("-d {host_addr}/32 "), host_port, port),
        _ => panic!("`{spec}` is not [HOST_ADDR:]HOST_PORT:PORT[/PROTO]"),
    };
    let to = format!("{host_addr}-p {proto} -m {proto} --dport {host_port}");
    let at = format!("-p {proto} -m {proto} --dport {port}");
    if host_addr.starts_with("-d 127.") {
        restore(host, &format!("*raw\n{append} PREROUTING {to} ! -i lo -j DROP\nCOMMIT\n"));
    }
    restore(
        host,
        &format!(
            "*nat\n\
             {append} DOCKER {to} -j DNAT --to-destination {address}:{port}\n\
             {append} POSTROUTING -s {address}/32 -d {address}/32 {at} -j MASQUERADE\n\
             COMMIT\n\
             *filter\n\
             {insert} DOCKER -d {address}/32 ! -i docker0 -o docker0 {at} -j ACCEPT\n\
             COMMIT\n"
        ),
    );
}

fn restore(host: &Namespace, rules: &str) {
    program::feed(host.command("iptables-restore").args(["--noflush", "--wait"]), rules);
}
