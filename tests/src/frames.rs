//! Ethernet frames byte by byte, with ARP, IPv4 and neighbour discovery in them, sent and seen through a packet socket:
//! for what no other socket can say or hear.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::Namespace;
use crate::icmp::checksum;

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const NEXT_HEADER_ICMPV6: u8 = 58;

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
        let frame = [&dst_mac, &self.mac, tag, &IPV4, &udp_packet(from, to, message)].concat();
        self.send_frame(&frame);
    }

    /// The hardware address of the interface.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sees from now on what arrives, and not what others send by this interface.
    pub fn ignore_outgoing(&self) {
        const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
        let (on, length) = (1_i32, size_of::<i32>() as libc::socklen_t);
        let (fd, value) = (self.socket.as_raw_fd(), (&raw const on).cast());
        // SAFETY: the value is live and of the length given.
        let result = unsafe { libc::setsockopt(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, value, length) };
        assert_eq!(result, 0, "ignore outgoing frames: {}", io::Error::last_os_error());
    }

    /// Sends `frame`, from its hardware addresses on.
    pub fn send_frame(&self, frame: &[u8]) {
        let sent = self.socket.send(frame).unwrap_or_else(|e| panic!("send a frame of {} bytes: {e}", frame.len()));
        assert_eq!(sent, frame.len());
    }

    /// Sends the IP packet `packet` to `dst_mac`; what has no version 6 is said to be IPv4.
    pub fn send_packet(&self, dst_mac: [u8; 6], packet: &[u8]) {
        let is_v6 = packet.first().is_some_and(|byte| byte >> 4 == 6);
        let ether_type = if is_v6 { IPV6 } else { IPV4 };
        self.send_frame(&[&dst_mac, &self.mac, &ether_type[..], packet].concat());
    }

    /// The frames seen until one is the `last`, which is left out; None when that one takes longer than `limit`. Nobody
    /// waits for what does not come: the last one is sent behind it, on the same road.
    pub fn until(&mut self, last: impl Fn(&[u8]) -> bool, limit: Duration) -> Option<Vec<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        let (mut frames, mut frame) = (Vec::new(), vec![0; 1 << 17]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
            self.socket.set_read_timeout(Some(left)).expect("set a time limit");
            match self.socket.read(&mut frame) {
                Ok(length) if last(&frame[..length]) => return Some(frames),
                Ok(length) => frames.push(frame[..length].to_vec()),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => return None,
            }
        }
    }

    /// The next frame that has been seen by now, put into `frame`; its length.
    pub fn next_seen(&self, frame: &mut [u8]) -> Option<usize> {
        // SAFETY: the buffer is live and of the length given.
        let read =
            unsafe { libc::recv(self.socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), libc::MSG_DONTWAIT) };
        usize::try_from(read).ok()
    }

    /// The frames that have been seen by now.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        self.socket.set_nonblocking(true).expect("wait for nothing");
        let (mut frames, mut frame) = (Vec::new(), vec![0; 1 << 17]);
        while let Ok(length) = self.socket.read(&mut frame) {
            frames.push(frame[..length].to_vec());
        }
        self.socket.set_nonblocking(false).expect("wait again");
        frames
    }

    /// Whether any frame that has been seen by now is one of the `wanted`.
    pub fn sees(&mut self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        self.socket.set_nonblocking(true).expect("wait for nothing");
        let mut frame = [0; 2048];
        let mut found = false;
        while let Ok(length) = self.socket.read(&mut frame) {
            found |= wanted(&frame[..length]);
        }
        self.socket.set_nonblocking(false).expect("wait again");
        found
    }

    /// Whether an announcement is seen within `limit` that `mac` has `addr`: an ARP announcement, or a neighbour
    /// advertisement that nobody asked for.
    pub fn sees_announcement(&mut self, addr: IpAddr, mac: [u8; 6], limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut frame = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).expect("set a time limit");
            let Ok(length) = self.socket.read(&mut frame) else { return false };
            let is_announcement = match addr {
                IpAddr::V4(addr) => is_arp_announcement(&frame[..length], addr, mac),
                IpAddr::V6(addr) => is_advertisement(&frame[..length], addr, mac),
            };
            if is_announcement {
                return true;
            }
        }
    }
}

/// RFC 5227, 2.3: sender and target are the address that is announced.
fn is_arp_announcement(frame: &[u8], addr: Ipv4Addr, mac: [u8; 6]) -> bool {
    let says = [&mac[..], &addr.octets()].concat();
    frame.len() >= 42 && frame[12..14] == ARP && frame[22..32] == says && frame[38..42] == addr.octets()
}

/// RFC 4861, 7.2.6 and 7.1.2: from the address that is announced to all nodes, and such that those who know the address
/// under another hardware address forget that one.
fn is_advertisement(frame: &[u8], addr: Ipv6Addr, mac: [u8; 6]) -> bool {
    /// The header's 40 bytes and an advertisement with one option.
    const LEN: usize = 14 + 40 + 32;
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Of the flags router, solicited and override.
    const OVERRIDE: u8 = 0b001 << 5;
    const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
    if frame.len() != LEN || frame[12..14] != IPV6 || frame[20] != NEXT_HEADER_ICMPV6 {
        return false;
    }
    let (ethernet, header, message) = (&frame[..14], &frame[14..54], &frame[54..]);
    let option = [&TARGET_LINK_LAYER_ADDRESS[..], &mac].concat();
    let pseudo_header = [&header[8..40], &[0, 0, 0, 32, 0, 0, 0, NEXT_HEADER_ICMPV6]].concat();
    ethernet[..12] == [&[0x33, 0x33, 0, 0, 0, 1], &mac[..]].concat()
        && (header[0] >> 4, &header[4..6], header[7]) == (6, &[0, 32], 255)
        && header[8..40] == [addr.octets(), ALL_NODES.octets()].concat()
        && (message[0], message[1], message[4]) == (NEIGHBOUR_ADVERTISEMENT, 0, OVERRIDE)
        && message[8..] == [&addr.octets()[..], &option].concat()
        && checksum(&[&pseudo_header, message].concat()) == 0
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
