//! A packet socket that keeps the packets which should never have arrived.

use std::fmt;
use std::io::Read;
use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::Namespace;

/// Catches IPv4 packets on any interface of a namespace whose source lies in one prefix. The kernel filters, so that a
/// test at full speed loses none.
pub struct Watcher {
    socket: Socket,
}

/// A caught packet.
#[derive(Clone, Debug)]
pub struct Caught {
    pub src_addr: Ipv4Addr,
    pub dst_addr: Ipv4Addr,
    pub proto: u8,
    pub bytes: usize,
}

impl Watcher {
    /// Watches for sources in `prefix`/`prefix_len` (1 to 32).
    pub fn new(namespace: &Namespace, prefix: Ipv4Addr, prefix_len: u32) -> Self {
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
            let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
            caught.push(Caught { src_addr: address(26), dst_addr: address(30), proto: frame[23], bytes });
        }
        caught
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { src_addr, dst_addr, proto, bytes } = self;
        write!(f, "{src_addr} -> {dst_addr}, protocol {proto}, {bytes} bytes")
    }
}

/// Classic BPF: IPv4 over Ethernet and the source's prefix, else nothing.
fn filter(prefix: Ipv4Addr, prefix_len: u32) -> [SockFilter; 7] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let mask = u32::MAX << (32 - prefix_len);
    let step = SockFilter::new;
    [
        step(LOAD_HALF, 0, 0, 12),
        step(JUMP_IF_EQUAL, 0, 4, libc::ETH_P_IP as u32),
        step(LOAD_WORD, 0, 0, 26),
        step(AND, 0, 0, mask),
        step(JUMP_IF_EQUAL, 0, 1, u32::from(prefix) & mask),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ]
}
