//! ICMP echo and errors through raw sockets, since a test must see the packets and not a program's opinion of them.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sockets::{PATIENCE, at};
use crate::{Family, Namespace};

pub const ECHO_REPLY: u8 = 0;
pub const UNREACHABLE: u8 = 3;
pub const ECHO_REQUEST: u8 = 8;
pub const TIME_EXCEEDED: u8 = 11;

pub const UNREACHABLE_V6: u8 = 1;
pub const TOO_BIG_V6: u8 = 2;
pub const TIME_EXCEEDED_V6: u8 = 3;
pub const ECHO_REQUEST_V6: u8 = 128;
pub const ECHO_REPLY_V6: u8 = 129;

/// Sees every ICMP message that reaches a namespace, and sends echo requests.
pub struct IcmpSocket {
    socket: Socket,
    family: Family,
}

/// An ICMP message as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub src_addr: IpAddr,
    pub kind: u8,
    pub code: u8,
    /// Of an echo; in an error the first half of its second word.
    pub id: u16,
    /// What follows the eight bytes of header: of an error, the packet that caused it.
    pub body: Vec<u8>,
}

impl IcmpSocket {
    /// A socket for ICMP over IPv4.
    pub fn new(namespace: &Namespace) -> Self {
        Self::of(namespace, Family::V4)
    }

    pub fn of(namespace: &Namespace, family: Family) -> Self {
        let domain = family.pick(Domain::IPV4, Domain::IPV6);
        let protocol = family.pick(Protocol::ICMPV4, Protocol::ICMPV6);
        let socket = namespace.within(|| Socket::new(domain, Type::RAW, Some(protocol)));
        let socket = socket.unwrap_or_else(|e| panic!("open an icmp socket in {}: {e}", namespace.path().display()));
        socket.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
        Self { socket, family }
    }

    /// Sets the TTL, or hop limit, of what is sent.
    pub fn set_ttl(&self, ttl: u32) {
        let set = match self.family {
            Family::V4 => self.socket.set_ttl_v4(ttl),
            Family::V6 => self.socket.set_unicast_hops_v6(ttl),
        };
        set.expect("set the ttl");
    }

    /// Sends an echo request.
    pub fn send_echo(&self, to: impl Into<IpAddr>, id: u16, body: &[u8]) {
        let to = to.into();
        self.try_echo(to, id, body).unwrap_or_else(|e| panic!("send an echo request to {to}: {e}"));
    }

    /// Tries to send an echo request; there may be no route.
    pub fn try_echo(&self, to: IpAddr, id: u16, body: &[u8]) -> io::Result<()> {
        let mut message = vec![self.family.pick(ECHO_REQUEST, ECHO_REQUEST_V6), 0, 0, 0];
        message.extend(id.to_be_bytes());
        message.extend(1_u16.to_be_bytes());
        message.extend(body);
        if self.family == Family::V4 {
            // Of ICMPv6 the kernel does it.
            let sum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
        }
        self.socket.send_to(&message, &SockAddr::from(at(to, 0))).map(drop)
    }

    /// Whether a message of the wanted kind and identifier arrives within `limit`.
    pub fn hears(&self, kind: u8, id: u16, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).expect("set a time limit");
            match self.next() {
                Ok(message) if (message.kind, message.id) == (kind, id) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// The next message of the wanted kind; others are passed over.
    pub fn receive(&self, kind: u8) -> Message {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let message = self.next().unwrap_or_else(|e| panic!("receive icmp of type {kind}: {e}"));
            if message.kind == kind {
                return message;
            }
        }
        panic!("no icmp of type {kind} in {PATIENCE:?}, but others")
    }

    fn next(&self) -> io::Result<Message> {
        let mut packet = vec![MaybeUninit::uninit(); 65536];
        let (length, from) = self.socket.recv_from(&mut packet)?;
        // SAFETY: the kernel has written the first `length` bytes.
        let bytes: Vec<u8> = packet[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        let from = from.as_socket().expect("an address of the internet").ip();
        Ok(Message::parse(self.family, from, &bytes))
    }
}

impl Message {
    /// Of IPv4 the packet with its header, of IPv6 the message alone, whose checksum the kernel has checked.
    fn parse(family: Family, src_addr: IpAddr, packet: &[u8]) -> Self {
        let header = family.pick(usize::from(packet[0] & 15) * 4, 0);
        let icmp = &packet[header..];
        if family == Family::V4 {
            assert_eq!(checksum(icmp), 0, "checksum of the icmp message {icmp:02x?}");
        }
        Self {
            src_addr,
            kind: icmp[0],
            code: icmp[1],
            id: u16::from_be_bytes([icmp[4], icmp[5]]),
            body: icmp[8..].to_vec(),
        }
    }

    /// Source and destination of the packet that an error carries.
    pub fn inner_addresses(&self) -> (IpAddr, IpAddr) {
        let v4 = |at: usize| IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(&self.body[at..at + 4]).expect("four")));
        let v6 = |at: usize| IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(&self.body[at..at + 16]).expect("16")));
        if self.body[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
    }
}

/// An echo request from `asker` to `to`, where `answerer`'s kernel answers it; returns whom the answerer saw. Panics
/// unless the answer comes from where the request went, with the request's identifier and body.
pub fn echo(asker: &Namespace, answerer: &Namespace, to: impl Into<IpAddr>, id: u16, body: &[u8]) -> IpAddr {
    let to = to.into();
    let family = Family::of(to);
    let (asker, answerer) = (IcmpSocket::of(asker, family), IcmpSocket::of(answerer, family));
    asker.send_echo(to, id, body);
    let request = answerer.receive(family.pick(ECHO_REQUEST, ECHO_REQUEST_V6));
    assert_eq!(request.body, body);
    let reply = asker.receive(family.pick(ECHO_REPLY, ECHO_REPLY_V6));
    assert_eq!((reply.src_addr, reply.id, reply.body.as_slice()), (to, id, body));
    request.src_addr
}

/// RFC 1071, of bytes in which the checksum's own are zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
