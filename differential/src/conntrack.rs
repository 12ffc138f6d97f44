//! Netfilter's connections, by netlink: one is deleted, or all are. A program for each of them would take longer than all
//! packets together.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

use netpath_model::Proto;
use netpath_tests::{Family, Namespace};
use socket2::{Domain, Protocol, Socket, Type};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
const NETLINK_HEADER: usize = 16;

/// The connections of one namespace.
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    pub fn new(namespace: &Namespace) -> Self {
        let netfilter = Protocol::from(libc::NETLINK_NETFILTER);
        let opened = namespace.within(|| Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(netfilter)));
        Self { socket: opened.unwrap_or_else(|e| panic!("open a netlink socket for netfilter: {e}")) }
    }

    /// Deletes all connections.
    pub fn forget(&mut self) {
        for family in Family::BOTH {
            let error = self.request(family, &[]);
            assert_eq!(error, 0, "delete all connections");
        }
    }

    /// Deletes the connection that `from` began with `to`, if there is one. An echo's identifier is `from`'s port.
    pub fn delete(&mut self, proto: Proto, from: SocketAddr, to: SocketAddr) {
        let family = Family::of(from.ip());
        let error = self.request(family, &original(proto, from, to));
        assert!(error == 0 || error == -libc::ENOENT, "delete the connection of {from} to {to}: error {error}");
    }

    /// Sends a request to delete and returns what the kernel says: 0 or an error number below 0.
    fn request(&mut self, family: Family, attributes: &[u8]) -> i32 {
        const REQUEST_AND_ACK: u16 = 1 | 4;
        let length = NETLINK_HEADER + 4 + attributes.len();
        let mut message = (length as u32).to_ne_bytes().to_vec();
        message.extend(DELETE.to_ne_bytes());
        message.extend(REQUEST_AND_ACK.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([family.pick(libc::AF_INET, libc::AF_INET6) as u8, 0, 0, 0]);
        message.extend(attributes);
        self.socket.write_all(&message).unwrap_or_else(|e| panic!("ask netfilter: {e}"));
        let mut answer = [0; 1024];
        let read = self.socket.read(&mut answer).unwrap_or_else(|e| panic!("read netfilter's answer: {e}"));
        let error = answer[..read].get(NETLINK_HEADER..NETLINK_HEADER + 4).and_then(|word| word.try_into().ok());
        i32::from_ne_bytes(error.unwrap_or_else(|| panic!("an answer of {read} bytes from netfilter")))
    }
}

/// `CTA_TUPLE_ORIG`, as linux/netfilter/nfnetlink_conntrack.h has it.
fn original(proto: Proto, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const NESTED: u16 = 1 << 15;
    let is_v4 = from.is_ipv4();
    let (src, dst) = if is_v4 { (1, 2) } else { (3, 4) };
    let addresses = [attribute(src, &octets(from.ip())), attribute(dst, &octets(to.ip()))].concat();
    let ports = match proto {
        Proto::Tcp => [number(6), attribute(2, &port(from)), attribute(3, &port(to))].concat(),
        Proto::Udp => [number(17), attribute(2, &port(from)), attribute(3, &port(to))].concat(),
        Proto::Icmp if is_v4 => [number(1), attribute(4, &port(from)), attribute(5, &[8]), attribute(6, &[0])].concat(),
        Proto::Icmp => [number(58), attribute(7, &port(from)), attribute(8, &[128]), attribute(9, &[0])].concat(),
    };
    let tuple = [attribute(1 | NESTED, &addresses), attribute(2 | NESTED, &ports)].concat();
    attribute(1 | NESTED, &tuple)
}

/// `CTA_PROTO_NUM`.
fn number(proto: u8) -> Vec<u8> {
    attribute(1, &[proto])
}

fn port(at: SocketAddr) -> [u8; 2] {
    at.port().to_be_bytes()
}

/// A netlink attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}
