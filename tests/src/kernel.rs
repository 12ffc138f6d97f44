//! What the running kernel has, for tests of what older ones lack.

use std::os::fd::AsRawFd;

use nix::sys::utsname::uname;
use socket2::{Domain, Socket, Type};

/// Whether sockets say which network namespace they are of: Linux 5.14 (e8b9eab99232).
pub fn has_netns_cookies() -> bool {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("open a socket");
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let (fd, value) = (socket.as_raw_fd(), (&raw mut cookie).cast());
    // SAFETY: the value is live and of the length given.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut length) };
    result == 0 && cookie != 0
}

/// Whether the kernel calls itself this version or a newer one.
pub fn is_since(major: u32, minor: u32) -> bool {
    let name = uname().expect("ask for the kernel's name");
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}
