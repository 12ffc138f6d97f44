//! The listening TCP sockets of the calling thread's network namespace, asked of the kernel by `NETLINK_SOCK_DIAG`.
//!
//! /proc/net/tcp says the same, but for it the kernel walks through the whole machine's table of connections. Here it looks
//! at the table of listening sockets only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockProtocol};

use super::raw::{Answer, Raw};

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) addr: IpAddr,
    pub(crate) port: u16,
    pub(crate) inode: u64,
}

// linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// Of `struct inet_diag_msg`, behind its first four bytes: where these fields are.
const PORT_OFF: usize = 0;
const ADDR_OFF: usize = 4;
const INODE_OFF: usize = 64;

/// Those of both families.
///
/// # Errors
/// If the kernel does not tell: it may be built without `inet_diag`.
pub(crate) fn tcp_listeners() -> Result<Vec<Listener>> {
    let mut listeners = listeners_of(AddressFamily::Inet).context("list listening sockets by sock_diag")?;
    listeners.extend(listeners_of(AddressFamily::Inet6).context("list listening IPv6 sockets by sock_diag")?);
    Ok(listeners)
}

fn listeners_of(family: AddressFamily) -> Result<Vec<Listener>> {
    // `struct inet_diag_req_v2`: family, protocol, two bytes; the states that are wanted, and which socket, which is any.
    const TCP: u8 = 6;
    const LISTEN: u32 = 1 << 10;
    const ANY: [u8; 48] = [0; 48];
    let rest = [&LISTEN.to_ne_bytes()[..], &ANY].concat();
    let raw = Raw::open(SockProtocol::NetlinkSockDiag)?;
    let answers = raw.dump(SOCK_DIAG_BY_FAMILY, [family as i32 as u8, TCP, 0, 0], &rest)?;
    answers.iter().map(|answer| listener(answer).context("a socket that is cut off")).collect()
}

fn listener(Answer { head, rest }: &Answer) -> Option<Listener> {
    let addr = if i32::from(head[0]) == AddressFamily::Inet as i32 {
        IpAddr::V4(Ipv4Addr::from(field::<4>(rest, ADDR_OFF)?))
    } else {
        IpAddr::V6(Ipv6Addr::from(field::<16>(rest, ADDR_OFF)?)).to_canonical()
    };
    let inode = field(rest, INODE_OFF).map(u32::from_ne_bytes)?;
    Some(Listener { addr, port: u16::from_be_bytes(field(rest, PORT_OFF)?), inode: inode.into() })
}

fn field<const N: usize>(bytes: &[u8], off: usize) -> Option<[u8; N]> {
    bytes.get(off..off + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(family: AddressFamily, addr: &[u8], port: u16, inode: u32) -> Answer {
        let mut rest = port.to_be_bytes().to_vec();
        rest.resize(ADDR_OFF, 0);
        rest.extend(addr);
        rest.resize(INODE_OFF, 0);
        rest.extend(inode.to_ne_bytes());
        Answer { head: [family as i32 as u8, 10, 0, 0], rest }
    }

    #[test]
    fn sockets_of_both_families_are_read() {
        let mapped = "::ffff:192.0.2.1".parse::<Ipv6Addr>().unwrap().octets();
        for (answer, addr, port, inode) in [
            (answer(AddressFamily::Inet, &[127, 0, 0, 1], 8080, 4711), "127.0.0.1", 8080, 4711),
            (answer(AddressFamily::Inet6, &[0; 16], 80, 12), "::", 80, 12),
            (answer(AddressFamily::Inet6, &mapped, 81, 13), "192.0.2.1", 81, 13),
        ] {
            assert_eq!(listener(&answer), Some(Listener { addr: addr.parse().unwrap(), port, inode }));
        }
    }

    #[test]
    fn a_socket_that_is_cut_off_is_none() {
        let whole = answer(AddressFamily::Inet, &[127, 0, 0, 1], 8080, 4711);
        for len in 0..whole.rest.len() {
            assert_eq!(listener(&Answer { head: whole.head, rest: whole.rest[..len].to_vec() }), None, "{len} bytes");
        }
    }
}
