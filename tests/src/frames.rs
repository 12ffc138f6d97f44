//! Ethernet frames byte by byte, with ARP and IPv4 in them, sent and seen through a packet socket: for what no other
//! socket can say or hear.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Namespace;
use crate::icmp::checksum;

const ARP: [u8; 2] = [0x08, 0x06];

/// Sends and sees every frame of one interface.
pub struct FrameSocket {
    socket: Socket,
    mac: [u8; 6],
}

impl FrameSocket {
    /// A socket on the interface `ifname` of `namespace`.
    pub fn new(namespace: &Namespace, ifname: &str) -> Self {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let opened = namespace.within(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
            bind(&socket, nix::net::if_::if_nametoindex(ifname)?)?;
            Ok::<_, io::Error>(socket)
        });
        let socket = opened.unwrap_or_else(|e| panic!("open a packet socket on {ifname}: {e}"));
        Self { socket, mac: namespace.mac(ifname) }
    }

    /// Sends a datagram to `to`, in a frame for `dst_mac` that says `tag` between the addresses and the EtherType.
    pub fn send_udp(&self, dst_mac: [u8; 6], tag: &[u8], from: SocketAddr, to: SocketAddr, message: &[u8]) {
        let frame = [&dst_mac, &self.mac, tag, &[0x08, 0x00], &udp_packet(from, to, message)].concat();
        let sent = self.socket.send(&frame).unwrap_or_else(|e| panic!("send a frame of {} bytes: {e}", frame.len()));
        assert_eq!(sent, frame.len());
    }

    /// Whether an announcement is seen within `limit` that `mac` has `addr` (RFC 5227, 2.3).
    pub fn sees_announcement(&mut self, addr: IpAddr, mac: [u8; 6], limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (mut frame, addr) = ([0; 2048], octets(addr));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).expect("set a time limit");
            let Ok(length) = self.socket.read(&mut frame) else { return false };
            let says = [&mac[..], &addr].concat();
            if length >= 42 && frame[12..14] == ARP && frame[22..32] == says && frame[38..42] == addr {
                return true;
            }
        }
    }
}

fn bind(socket: &Socket, ifindex: u32) -> io::Result<()> {
    // SAFETY: plain old data, for which all zero is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = ifindex as i32;
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is live and of the length given.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An IPv4 packet with a datagram that has no checksum.
fn udp_packet(from: SocketAddr, to: SocketAddr, message: &[u8]) -> Vec<u8> {
    let length = |headers: usize| ((headers + message.len()) as u16).to_be_bytes();
    let mut packet = [&[0x45, 0], &length(28)[..], &[0, 1, 0x40, 0, 64, libc::IPPROTO_UDP as u8, 0, 0]].concat();
    packet.extend(octets(from.ip()));
    packet.extend(octets(to.ip()));
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(length(8));
    packet.extend([0, 0]);
    packet.extend(message);
    packet
}

fn octets(addr: IpAddr) -> [u8; 4] {
    match addr {
        IpAddr::V4(addr) => addr.octets(),
        IpAddr::V6(addr) => panic!("{addr} is not IPv4"),
    }
}
