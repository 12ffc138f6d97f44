//! A packet socket that keeps the packets which should never have arrived.

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::Namespace;

const ETHERNET: usize = 14;

/// Catches packets on any interface of a namespace whose source lies in one prefix. The kernel filters, so that a
/// test at full speed loses none.
pub struct Watcher {
    socket: Socket,
}

/// A caught packet.
#[derive(Clone, Debug)]
pub struct Caught {
    pub src_addr: IpAddr,
    pub dst_addr: IpAddr,
    /// Of IPv6, the first next header.
    pub proto: u8,
    pub bytes: usize,
}

impl Watcher {
    /// Watches for sources in `prefix`/`prefix_len`, which is at least 1.
    pub fn new(namespace: &Namespace, prefix: IpAddr, prefix_len: u32) -> Self {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = namespace.within(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).expect("open a packet socket");
            socket.attach_filter(&filter(prefix, prefix_len)).expect("attach the watcher's filter");
            socket.set_nonblocking(true).expect("make the packet socket non-blocking");
            socket
        });
        let mut watcher = Self { socket };
        // What arrived between opening the socket and attaching the filter.
        watcher.take_all();
        watcher
    }

    /// What was caught since the last call.
    pub fn take(&mut self) -> Vec<Caught> {
        self.take_all()
    }

    fn take_all(&mut self) -> Vec<Caught> {
        let mut caught = Vec::new();
        let mut frame = [0; 65536];
        while let Ok(bytes) = self.socket.read(&mut frame) {
            caught.push(Caught::parse(&frame[..bytes]));
        }
        caught
    }
}

impl Caught {
    fn parse(frame: &[u8]) -> Self {
        let packet = &frame[ETHERNET..];
        let (src_addr, dst_addr, proto) = match packet[0] >> 4 {
            4 => (v4(&packet[12..]), v4(&packet[16..]), packet[9]),
            _ => (v6(&packet[8..]), v6(&packet[24..]), packet[6]),
        };
        Self { src_addr, dst_addr, proto, bytes: frame.len() }
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src_addr, dst_addr, proto, bytes } = self;
        write!(f, "{src_addr} -> {dst_addr}, protocol {proto}, {bytes} bytes")
    }
}

fn v4(bytes: &[u8]) -> IpAddr {
    Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[..4]).expect("four bytes")).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..16]).expect("sixteen bytes")).into()
}

/// Classic BPF: the family over Ethernet and the source's prefix, else nothing.
fn filter(prefix: IpAddr, prefix_len: u32) -> Vec<SockFilter> {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let (ether_type, source, bytes) = match prefix {
        IpAddr::V4(address) => (libc::ETH_P_IP, ETHERNET + 12, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::ETH_P_IPV6, ETHERNET + 8, address.octets().to_vec()),
    };
    let mut checks = vec![(LOAD_HALF, 12, u32::MAX, ether_type as u32)];
    for (index, word) in bytes.chunks_exact(4).enumerate() {
        let bits = prefix_len.saturating_sub(32 * index as u32).min(32);
        if bits > 0 {
            let mask = u32::MAX << (32 - bits);
            let word = u32::from_be_bytes(word.try_into().expect("four bytes"));
            checks.push((LOAD_WORD, (source + 4 * index) as u32, mask, word & mask));
        }
    }
    let step = SockFilter::new;
    let mut program = Vec::new();
    for (index, (load, at, mask, wanted)) in checks.iter().enumerate() {
        // Past the steps of the later checks and the acceptance.
        let to_refusal = (3 * (checks.len() - 1 - index) + 1) as u8;
        program.extend([step(*load, 0, 0, *at), step(AND, 0, 0, *mask), step(JUMP_IF_EQUAL, 0, to_refusal, *wanted)]);
    }
    program.extend([step(RETURN, 0, 0, u32::MAX), step(RETURN, 0, 0, 0)]);
    program
}
