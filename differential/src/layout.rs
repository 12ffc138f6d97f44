//! Who and what there is in both worlds, in either family. Small on purpose: few addresses and ports make neighbours,
//! clashes and near misses likely.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netpath_model::{Config, Nat, Port, Proto, Timeouts};
use netpath_tests::Family;

pub const CONTAINERS: usize = 3;

/// Host ports that netpath's masquerade may use. The published ones lie among them.
pub const MASQUERADE_PORTS: (u16, u16) = (8048, 8111);
/// Ports of the host where nothing is, ever.
pub const CLOSED_PORTS: [u16; 2] = [9, 33434];

/// Always published, in both families.
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

/// Everybody's addresses in one family.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub family: Family,
    pub host: IpAddr,
    /// The host's address among the containers.
    pub gateway: IpAddr,
    /// Beyond the client, which is the host's router.
    pub far: IpAddr,
    /// Another one, who is never talked to.
    pub stranger: IpAddr,
    /// Of no network that is here.
    pub foreign: IpAddr,
    /// Of a group that nobody is in.
    pub group: IpAddr,
}

impl Layout {
    pub fn of(family: Family) -> Self {
        let v6 = |high, low| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, high, 0, 0, 0, 0, low));
        let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
        Self {
            family,
            host: family.host(),
            gateway: inside(family, 1),
            far: family.pick(v4(203, 0, 113, 9), v6(0xfa, 9)),
            stranger: family.pick(v4(203, 0, 113, 77), v6(0xfa, 0x77)),
            foreign: family.pick(v4(10, 9, 9, 9), IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 9))),
            group: family.pick(v4(224, 0, 0, 9), IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 9))),
        }
    }

    /// Everybody outside, behind one hardware address.
    pub fn outside(&self) -> [IpAddr; 3] {
        [self.family.client(), self.family.second_client(), self.far]
    }

    /// Sources that nobody has outside.
    pub fn nobody(&self) -> &'static [IpAddr] {
        const V4: [IpAddr; 3] = [
            IpAddr::V4(Ipv4Addr::new(224, 0, 0, 9)),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(Ipv4Addr::LOCALHOST),
        ];
        // A group, somebody of one link, and IPv4.
        const V6: [IpAddr; 5] = [
            IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 9)),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9)),
            IpAddr::V6(Ipv4Addr::new(203, 0, 113, 9).to_ipv6_mapped()),
        ];
        self.family.pick(&V4, &V6)
    }

    /// The address of container `number`, on both planes.
    pub fn container(&self, number: usize) -> IpAddr {
        inside(self.family, number as u8 + 2)
    }

    /// A model of the worlds as they are at the beginning.
    pub fn model(&self, icc: bool) -> Nat {
        let prefix_len = self.family.pick(16, 64);
        let timeouts = Timeouts::default();
        let mut model = Nat::new(Config { host: self.host, gateway: self.gateway, prefix_len, icc, timeouts });
        (0..CONTAINERS).for_each(|number| model.add_container(number, self.container(number)));
        PORTS.iter().for_each(|port| model.publish(*port));
        model
    }
}

/// Address `number` of the network that is there from the start.
fn inside(family: Family, number: u8) -> IpAddr {
    let v6 = Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, u16::from(number));
    family.pick(IpAddr::V4(Ipv4Addr::new(172, 17, 0, number)), IpAddr::V6(v6))
}

pub fn at(addr: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr, port)
}

/// As `-p` takes it.
pub fn spec(port: &Port) -> String {
    let proto = if port.proto == Proto::Tcp { "tcp" } else { "udp" };
    format!("{}:{}/{proto}", port.host_port, port.port)
}
