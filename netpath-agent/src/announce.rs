//! Announcements: tell the containers of a bridge at once who has an address, which may have been another
//! container's a moment ago. Gratuitous ARP for IPv4, unsolicited neighbour advertisements for IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const BROADCAST: [u8; 6] = [0xff; 6];
/// Of ff02::1, all nodes on the link (RFC 2464, 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Announces on the bridge `ifindex`, in the network namespace of the first call, that `addr` is at `mac`.
///
/// # Errors
/// If the kernel refuses the packet socket or the frame.
pub fn announce(ifindex: u32, addr: IpAddr, mac: [u8; 6]) -> Result<()> {
    let frame = match addr {
        IpAddr::V4(addr) => arp(addr, mac),
        IpAddr::V6(addr) => advertisement(addr, mac),
    };
    send(ifindex, &frame).with_context(|| format!("announce {addr} on interface {ifindex}"))
}

/// The packet socket, which receives nothing. Kept, since to close one takes a grace period of RCU (`packet_release`): 12 to
/// 21 ms in each start of a container, seen on Linux 6.18 at 250 Hz.
fn packet_socket() -> Result<BorrowedFd<'static>> {
    static SOCKET: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(socket) = SOCKET.get() {
        return Ok(socket.as_fd());
    }
    let new =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("open a packet socket")?;
    Ok(SOCKET.get_or_init(|| new).as_fd())
}

fn send(ifindex: u32, frame: &[u8]) -> Result<()> {
    let socket = packet_socket()?;
    // SAFETY: sockaddr_ll is plain old data, for which all zero is a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = ifindex as i32;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&frame[..6]);
    // SAFETY: frame and address are live and of the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    Errno::result(sent)?;
    Ok(())
}

/// An ARP announcement (RFC 5227, 2.3): a request for its own address.
fn arp(addr: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    const ETHERNET_IPV4_REQUEST: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1];
    [&BROADCAST[..], &mac, &ETHERNET_IPV4_REQUEST, &mac, &addr.octets(), &[0; 6], &addr.octets()].concat()
}

/// A neighbour advertisement that nobody asked for and everybody takes (RFC 4861, 7.2.6).
fn advertisement(addr: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    const NEXT_HEADER_ICMPV6: u8 = 58;
    const LEN: u8 = 32;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(addr.octets());
    message.extend(TARGET_LINK_LAYER_ADDRESS);
    message.extend(mac);
    let pseudo_header = [&addr.octets()[..], &ALL_NODES.octets(), &[0, 0, 0, LEN], &[0, 0, 0, NEXT_HEADER_ICMPV6]];
    let check = checksum(&[pseudo_header.concat(), message.clone()].concat());
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let header = [&[0x60, 0, 0, 0, 0, LEN, NEXT_HEADER_ICMPV6, 255][..], &addr.octets(), &ALL_NODES.octets()].concat();
    [&ALL_NODES_MAC[..], &mac, &[0x86, 0xdd], &header, &message].concat()
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 3, 4, 5, 6, 7];

    #[test]
    fn an_announcement_asks_everybody_for_its_own_address() {
        let frame = arp(Ipv4Addr::new(172, 17, 0, 2), MAC);
        assert_eq!((&frame[..6], &frame[6..12], &frame[12..14]), (&[0xff; 6][..], &MAC[..], &[8, 6][..]));
        assert_eq!((&frame[22..28], &frame[28..32]), (&MAC[..], &[172, 17, 0, 2][..]));
        assert_eq!((&frame[32..38], &frame[38..42]), (&[0; 6][..], &[172, 17, 0, 2][..]));
        assert_eq!(frame.len(), 42);
    }

    #[test]
    fn an_advertisement_tells_all_nodes_the_target_and_has_a_right_checksum() {
        let addr: Ipv6Addr = "fd00::2".parse().unwrap();
        let frame = advertisement(addr, MAC);
        assert_eq!((&frame[..6], &frame[12..14]), (&ALL_NODES_MAC[..], &[0x86, 0xdd][..]));
        assert_eq!((frame[54], frame[58]), (136, 0x20));
        assert_eq!((&frame[62..78], &frame[78..80], &frame[80..86]), (&addr.octets()[..], &[2, 1][..], &MAC[..]));
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[pseudo, frame[54..].to_vec()].concat()), 0);
    }
}
