//! ICMP echo and errors through raw sockets, since a test must see the packets and not a program's opinion of them.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Namespace;
use crate::sockets::PATIENCE;

pub const ECHO_REPLY: u8 = 0;
pub const UNREACHABLE: u8 = 3;
pub const ECHO_REQUEST: u8 = 8;
pub const TIME_EXCEEDED: u8 = 11;

/// Sees every ICMP message that reaches a namespace, and sends echo requests.
pub struct IcmpSocket {
    socket: Socket,
}

/// An ICMP message as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub src_addr: Ipv4Addr,
    pub kind: u8,
    pub code: u8,
    /// Of an echo; in an error the first half of its second word.
    pub id: u16,
    /// What follows the eight bytes of header: of an error, the packet that caused it.
    pub body: Vec<u8>,
}

impl IcmpSocket {
    pub fn new(namespace: &Namespace) -> Self {
        let socket = namespace.within(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)));
        let socket = socket.unwrap_or_else(|e| panic!("open an icmp socket in {}: {e}", namespace.path().display()));
        socket.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
        Self { socket }
    }

    /// Sets the TTL of what is sent.
    pub fn set_ttl(&self, ttl: u32) {
        self.socket.set_ttl_v4(ttl).expect("set the ttl");
    }

    /// Sends an echo request.
    pub fn send_echo(&self, to: Ipv4Addr, id: u16, body: &[u8]) {
        let mut message = vec![ECHO_REQUEST, 0, 0, 0];
        message.extend(id.to_be_bytes());
        message.extend(1_u16.to_be_bytes());
        message.extend(body);
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let to = SockAddr::from(SocketAddrV4::new(to, 0));
        self.socket.send_to(&message, &to).unwrap_or_else(|e| panic!("send an echo request to {to:?}: {e}"));
    }

    /// The next message of the wanted kind; others are passed over.
    pub fn receive(&self, kind: u8) -> Message {
        let deadline = Instant::now() + PATIENCE;
        let mut packet = [0; 65536];
        while Instant::now() < deadline {
            let length = (&self.socket).read(&mut packet);
            let length = length.unwrap_or_else(|e| panic!("receive icmp of type {kind}: {e}"));
            let message = Message::parse(&packet[..length]);
            if message.kind == kind {
                return message;
            }
        }
        panic!("no icmp of type {kind} in {PATIENCE:?}, but others")
    }
}

impl Message {
    fn parse(packet: &[u8]) -> Self {
        let header = usize::from(packet[0] & 15) * 4;
        let icmp = &packet[header..];
        assert_eq!(checksum(icmp), 0, "checksum of the icmp message {icmp:02x?}");
        Self {
            src_addr: Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]),
            kind: icmp[0],
            code: icmp[1],
            id: u16::from_be_bytes([icmp[4], icmp[5]]),
            body: icmp[8..].to_vec(),
        }
    }

    /// Source and destination of the packet that an error carries.
    pub fn inner_addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        let address = |at: usize| Ipv4Addr::new(self.body[at], self.body[at + 1], self.body[at + 2], self.body[at + 3]);
        (address(12), address(16))
    }
}

/// An echo request from `asker` to `to`, where `answerer`'s kernel answers it; returns whom the answerer saw. Panics
/// unless the answer comes from where the request went, with the request's identifier and body.
pub fn echo(asker: &Namespace, answerer: &Namespace, to: Ipv4Addr, id: u16, body: &[u8]) -> Ipv4Addr {
    let (asker, answerer) = (IcmpSocket::new(asker), IcmpSocket::new(answerer));
    asker.send_echo(to, id, body);
    let request = answerer.receive(ECHO_REQUEST);
    assert_eq!(request.body, body);
    let reply = asker.receive(ECHO_REPLY);
    assert_eq!((reply.src_addr, reply.id, reply.body.as_slice()), (to, id, body));
    request.src_addr
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
