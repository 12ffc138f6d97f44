//! Who and what there is in both worlds. Small on purpose: few addresses and ports make neighbours, clashes and near
//! misses likely.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netpath_model::{Config, Nat, Port, Proto, Timeouts};
use netpath_tests::{CLIENT, HOST, SECOND_CLIENT};

pub const CONTAINERS: usize = 3;
pub const GATEWAY: IpAddr = netpath_tests::topology::GATEWAY;
/// Beyond the client, which is the host's router.
pub const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
/// Another one, who is never talked to.
pub const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));
/// Everybody outside, behind one hardware address.
pub const OUTSIDE: [IpAddr; 3] = [CLIENT, SECOND_CLIENT, FAR];

/// Host ports that netpath's masquerade may use. The published ones lie among them.
pub const MASQUERADE_PORTS: (u16, u16) = (8048, 8111);
/// Ports of the host where nothing is, ever.
pub const CLOSED_PORTS: [u16; 2] = [9, 33434];

/// Always published.
pub const PORTS: [Port; 4] = [
    Port { proto: Proto::Tcp, host_port: 8080, container: 0, port: 80 },
    Port { proto: Proto::Udp, host_port: 8053, container: 0, port: 53 },
    Port { proto: Proto::Tcp, host_port: 8081, container: 1, port: 80 },
    Port { proto: Proto::Udp, host_port: 8054, container: 1, port: 53 },
];
/// Published now and then.
pub const SPARE_PORTS: [Port; 2] = [
    Port { proto: Proto::Tcp, host_port: 8090, container: 2, port: 80 },
    Port { proto: Proto::Udp, host_port: 8055, container: 2, port: 53 },
];

/// The address of container `number`, on both planes.
pub fn container(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(172, 17, 0, number as u8 + 2))
}

pub fn at(addr: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr, port)
}

/// A model of the worlds as they are at the beginning.
pub fn model(icc: bool) -> Nat {
    let config = Config { host: HOST, gateway: GATEWAY, prefix_len: 16, icc, timeouts: Timeouts::default() };
    let mut model = Nat::new(config);
    (0..CONTAINERS).for_each(|number| model.add_container(number, container(number)));
    PORTS.iter().for_each(|port| model.publish(*port));
    model
}

/// As `-p` takes it.
pub fn spec(port: &Port) -> String {
    let proto = if port.proto == Proto::Tcp { "tcp" } else { "udp" };
    format!("{}:{}/{proto}", port.host_port, port.port)
}
