//! Gratuitous ARP: tells the containers of a bridge at once who has an address, which may have been
//! another container's a moment ago.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const FRAME_LEN: usize = 42;
const BROADCAST: [u8; 6] = [0xff; 6];

/// Announces on the bridge `ifindex` that `addr` is at `mac`.
///
/// # Errors
/// If the kernel refuses the packet socket or the frame.
pub fn announce(ifindex: u32, addr: Ipv4Addr, mac: [u8; 6]) -> Result<()> {
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("open a packet socket")?;
    let frame = frame(addr, mac);
    // SAFETY: sockaddr_ll is plain old data, for which all zero is a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = ifindex as i32;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&BROADCAST);
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
    Errno::result(sent).with_context(|| format!("announce {addr} on interface {ifindex}"))?;
    Ok(())
}

/// An ARP announcement (RFC 5227, 2.3): a request for its own address.
fn frame(addr: Ipv4Addr, mac: [u8; 6]) -> [u8; FRAME_LEN] {
    const ETHERNET_IPV4_REQUEST: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1];
    let mut frame = [0; FRAME_LEN];
    let parts: [&[u8]; 7] = [&BROADCAST, &mac, &ETHERNET_IPV4_REQUEST, &mac, &addr.octets(), &[0; 6], &addr.octets()];
    for (byte, value) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *byte = *value;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_asks_everybody_for_its_own_address() {
        let frame = frame(Ipv4Addr::new(172, 17, 0, 2), [2, 3, 4, 5, 6, 7]);
        assert_eq!(
            (&frame[..6], &frame[6..12], &frame[12..14]),
            (&[0xff; 6][..], &[2, 3, 4, 5, 6, 7][..], &[8, 6][..])
        );
        assert_eq!((&frame[22..28], &frame[28..32]), (&[2, 3, 4, 5, 6, 7][..], &[172, 17, 0, 2][..]));
        assert_eq!((&frame[32..38], &frame[38..42]), (&[0; 6][..], &[172, 17, 0, 2][..]));
    }
}
