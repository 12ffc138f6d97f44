//! Who on the host holds a port: what `bind` would collide with, and which process that is.
//!
//! Asks the kernel about the calling thread's network namespace, by `sock_diag` or `/proc`; changes nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::{fmt, fs, io};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, sockopt};

use crate::netlink::sock_diag::{self, Listener};
use crate::port_spec::Proto;

/// The socket that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// `None` where no process of this pid namespace has the socket open.
    pub pid: Option<u32>,
    pub comm: Option<String>,
    /// The address it is bound to.
    pub addr: IpAddr,
}

/// The bound sockets of one protocol, as of one moment.
pub struct Sockets {
    proto: Proto,
    by_port: BTreeMap<u16, Vec<Socket>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    addr: IpAddr,
    port: u16,
    inode: u64,
}

/// Finds who holds `port` on `addr`; 0.0.0.0 and `::` are every address of their family. For many ports read
/// [`Sockets`] once.
pub fn find(proto: Proto, addr: IpAddr, port: u16) -> Result<Option<Holder>> {
    Ok(Sockets::read(proto)?.holder(addr, port))
}

impl Sockets {
    /// Reads the sockets that a `bind` may collide with: listening ones of TCP, unconnected ones of UDP.
    pub fn read(proto: Proto) -> Result<Self> {
        let listed = match proto {
            Proto::Tcp => listening().or_else(|error| {
                tracing::debug!("{error:#}; reading /proc instead");
                in_proc(proto)
            }),
            Proto::Udp | Proto::Sctp => in_proc(proto),
        };
        let mut by_port = BTreeMap::<_, Vec<_>>::new();
        for socket in listed? {
            by_port.entry(socket.port).or_default().push(socket);
        }
        Ok(Self { proto, by_port })
    }

    /// The socket that a `bind` to `addr` and `port` collides with.
    pub fn holder(&self, addr: IpAddr, port: u16) -> Option<Holder> {
        let sockets = self.by_port.get(&port)?;
        let socket = sockets.iter().find(|socket| self.collides(socket, addr))?;
        let process = socket_owner(socket.inode);
        let comm = process.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        Some(Holder { pid: process, comm: comm.map(|comm| comm.trim_end().to_owned()), addr: socket.addr })
    }

    /// The lowest of `ports` where a `bind` to `addr` collides.
    pub fn lowest(&self, addr: IpAddr, ports: RangeInclusive<u16>) -> Option<u16> {
        let collides = |sockets: &Vec<Socket>| sockets.iter().any(|socket| self.collides(socket, addr));
        self.by_port.range(ports).find(|(_, sockets)| collides(sockets)).map(|(port, _)| *port)
    }

    fn collides(&self, socket: &Socket, addr: IpAddr) -> bool {
        match (socket.addr, addr) {
            // Whether `[::]` covers IPv4 too is not in /proc: the kernel knows.
            (IpAddr::V6(bound), IpAddr::V4(addr)) => {
                bound.is_unspecified() && bind_collides(self.proto, addr, socket.port)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
            (bound, addr) => bound == addr || bound.is_unspecified() || addr.is_unspecified(),
        }
    }
}

/// The TCP sockets that listen.
fn listening() -> Result<Vec<Socket>> {
    let listeners = sock_diag::tcp_listeners()?;
    Ok(listeners.into_iter().map(|Listener { addr, port, inode }| Socket { addr, port, inode }).collect())
}

/// The same as /proc shows it, and the unconnected ones of UDP.
fn in_proc(proto: Proto) -> Result<Vec<Socket>> {
    let names: &[&str] = match proto {
        Proto::Tcp => &["tcp", "tcp6"],
        Proto::Udp => &["udp", "udp6"],
        // A directory, with both families in one file.
        Proto::Sctp => &["sctp/eps"],
    };
    let mut sockets = Vec::new();
    for name in names {
        let path = format!("/proc/thread-self/net/{name}");
        let text = match fs::read_to_string(&path) {
            // A kernel without the protocol or without IPv6 has no such file, and no such socket.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            text => text.with_context(|| format!("read {path}"))?,
        };
        sockets.extend(text.lines().skip(1).flat_map(|line| parse_line(proto, line)));
    }
    Ok(sockets)
}

/// One line of the protocol's file: a socket for each address that it is bound to, none if it is in no `bind`'s way.
fn parse_line(proto: Proto, line: &str) -> Vec<Socket> {
    match proto {
        Proto::Sctp => parse_endpoint(line),
        Proto::Tcp | Proto::Udp => parse_socket(proto, line).into_iter().collect(),
    }
}

/// One line of `/proc/net/sctp/eps`: ENDPT SOCK STY SST HBKT LPORT UID INODE and the local addresses.
fn parse_endpoint(line: &str) -> Vec<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(5);
    let port = fields.next().and_then(|port| port.parse().ok());
    let inode = fields.nth(1).and_then(|inode| inode.parse().ok());
    let (Some(port), Some(inode)) = (port, inode) else { return Vec::new() };
    let addrs = fields.filter_map(|addr| addr.trim_start_matches('*').parse::<IpAddr>().ok());
    addrs.map(|addr| Socket { addr: addr.to_canonical(), port, inode }).collect()
}

/// One line of `/proc/net/{tcp,udp}{,6}`.
fn parse_socket(proto: Proto, line: &str) -> Option<Socket> {
    const TCP_LISTEN: &str = "0A";
    const UDP_UNCONNECTED: &str = "07";
    let fields: Vec<_> = line.split_ascii_whitespace().take(10).collect();
    let [_, local, _, state, .., inode] = fields[..] else {
        return None;
    };
    let wanted = if proto == Proto::Udp { UDP_UNCONNECTED } else { TCP_LISTEN };
    if fields.len() < 10 || state != wanted {
        return None;
    }
    let (addr, port) = local.split_once(':')?;
    let socket =
        Socket { addr: parse_addr(addr)?, port: u16::from_str_radix(port, 16).ok()?, inode: inode.parse().ok()? };
    Some(socket)
}

/// An address as the kernel prints it: each four bytes of the wire as one hexadecimal number of this
/// machine's byte order.
fn parse_addr(hex: &str) -> Option<IpAddr> {
    let word = |i: usize| Some(u32::from_str_radix(hex.get(8 * i..8 * i + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            let bytes = <[u8; 16]>::try_from(bytes).ok()?;
            Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

/// Whether the kernel refuses to bind a socket there because another one has the port.
fn bind_collides(proto: Proto, addr: Ipv4Addr, port: u16) -> bool {
    let Ok(probe) = unbound(AddressFamily::Inet, proto) else { return true };
    if proto != Proto::Udp {
        // With it only listening sockets collide, not connections that linger.
        let _ = socket::setsockopt(&probe, sockopt::ReuseAddr, &true);
    }
    let addr = SockaddrIn::from(SocketAddrV4::new(addr, port));
    socket::bind(probe.as_raw_fd(), &addr) == Err(Errno::EADDRINUSE)
}

/// A socket for clients of `proto`, without address and port.
pub(crate) fn unbound(family: AddressFamily, proto: Proto) -> nix::Result<OwnedFd> {
    let (kind, protocol) = match proto {
        Proto::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Proto::Udp => (SockType::Datagram, SockProtocol::Udp),
        Proto::Sctp => (SockType::SeqPacket, SockProtocol::Sctp),
    };
    socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)
}

/// The first process that has the socket open.
fn socket_owner(inode: u64) -> Option<u32> {
    let link = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &u32| has_open(*pid, &link))
}

/// Whether the process has the file open that `/proc/PID/fd` shows as `link`.
pub(crate) fn has_open(pid: u32, link: &str) -> bool {
    // A process that ends meanwhile has nothing open.
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == Path::new(link)))
}

impl fmt::Display for Holder {
    /// "`nginx` (pid 812) on 0.0.0.0"
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.comm, self.pid) {
            (Some(comm), Some(pid)) => write!(f, "`{comm}` (pid {pid})")?,
            (None, Some(pid)) => write!(f, "pid {pid}")?,
            (_, None) => write!(f, "a process that is not visible here")?,
        }
        write!(f, " on {}", self.addr)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{FromRawFd, IntoRawFd};

    use nix::sys::socket::SockaddrIn6;

    use super::*;

    const LO: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LO2: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

    #[test]
    fn a_listening_socket_is_found_with_its_process() {
        let listener = TcpListener::bind((LO, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = find(Proto::Tcp, LO, port).unwrap().expect("a holder");
        assert_eq!((holder.pid, holder.addr), (Some(std::process::id()), LO));
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(holder.comm.as_deref(), Some(comm.trim_end()));
        assert_eq!(holder.to_string(), format!("`{}` (pid {}) on 127.0.0.1", comm.trim_end(), std::process::id()));
    }

    #[test]
    fn the_wildcard_collides_with_every_address_and_distinct_addresses_do_not() {
        let specific = TcpListener::bind((LO, 0)).unwrap();
        let port = specific.local_addr().unwrap().port();
        assert!(find(Proto::Tcp, ANY, port).unwrap().is_some());
        assert!(find(Proto::Tcp, LO2, port).unwrap().is_none());
        let wildcard = TcpListener::bind((ANY, 0)).unwrap();
        let port = wildcard.local_addr().unwrap().port();
        assert!(find(Proto::Tcp, LO2, port).unwrap().is_some());
    }

    #[test]
    fn protocols_do_not_collide() {
        let socket = UdpSocket::bind((LO, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let holder = find(Proto::Udp, ANY, port).unwrap().expect("a holder");
        assert_eq!(holder.pid, Some(std::process::id()));
        assert!(Sockets::read(Proto::Sctp).unwrap().holder(ANY, port).is_none());
    }

    #[test]
    fn connections_are_not_in_the_way() {
        let listener = TcpListener::bind((LO, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(find(Proto::Tcp, ANY, client.local_addr().unwrap().port()).unwrap().is_none());
        let (a, b) = (UdpSocket::bind((LO, 0)).unwrap(), UdpSocket::bind((LO, 0)).unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        assert!(find(Proto::Udp, ANY, a.local_addr().unwrap().port()).unwrap().is_none());
    }

    #[test]
    fn an_ipv6_wildcard_is_in_the_way_unless_it_is_for_ipv6_only() {
        for (v6only, proto) in [(false, Proto::Tcp), (true, Proto::Tcp), (false, Proto::Udp), (true, Proto::Udp)] {
            let (port, _socket) = bind_v6(proto, v6only);
            let holder = find(proto, LO, port).unwrap();
            assert_eq!(holder.is_none(), v6only, "{proto} v6only={v6only}");
            assert!(find(proto, ANY6, port).unwrap().is_some(), "{proto} v6only={v6only}");
        }
    }

    #[test]
    fn the_lowest_of_many_ports_is_found_and_the_other_family_is_not_in_the_way() {
        let listener = TcpListener::bind((LO, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = Sockets::read(Proto::Tcp).unwrap();
        assert_eq!(sockets.lowest(LO, port..=port), Some(port));
        assert_eq!(sockets.lowest(LO, port..=u16::MAX), Some(port));
        assert_eq!(sockets.lowest(LO2, port..=port), None);
        assert_eq!(sockets.lowest(ANY6, port..=port), None);
    }

    #[test]
    fn a_free_port_has_no_holder() {
        let port = TcpListener::bind((LO, 0)).unwrap().local_addr().unwrap().port();
        assert!(find(Proto::Tcp, ANY, port).unwrap().is_none());
    }

    #[test]
    fn sock_diag_lists_what_proc_lists() {
        let (v4, (port6, _v6)) = (TcpListener::bind((LO, 0)).unwrap(), bind_v6(Proto::Tcp, false));
        let port = v4.local_addr().unwrap().port();
        let _connection = TcpStream::connect((LO, port)).unwrap();
        let own = [port, port6];
        // Other tests come and go meanwhile.
        let of_own = |sockets: Vec<Socket>| {
            let mut sockets: Vec<_> = sockets.into_iter().filter(|socket| own.contains(&socket.port)).collect();
            sockets.sort_by_key(|socket| socket.port);
            sockets
        };
        let listed = of_own(listening().unwrap());
        assert_eq!(listed.len(), own.len());
        assert_eq!(listed, of_own(in_proc(Proto::Tcp).unwrap()));
    }

    #[test]
    fn a_line_of_proc_is_read_as_the_kernel_wrote_it() {
        let word = u32::from_ne_bytes([172, 17, 0, 1]);
        let line =
            format!("   0: {word:08X}:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1 x");
        let socket = Socket { addr: Ipv4Addr::new(172, 17, 0, 1).into(), port: 8080, inode: 4711 };
        assert_eq!(parse_line(Proto::Tcp, &line), [socket]);
        assert_eq!(parse_line(Proto::Tcp, &line.replace(" 0A ", " 01 ")), []);
        assert_eq!(parse_line(Proto::Udp, &line), []);
        for bad in ["", "a b c", "0: zz:1 0:0 0A a b c d 1"] {
            assert_eq!(parse_line(Proto::Tcp, bad), [], "{bad:?}");
        }
        // As `sctp_eps_seq_show` prints it.
        let line = "ffff8880 ffff8881 2   10  29   3868      0 4712 192.0.2.1 2001:0db8:0000:0000:0000:0000:0000:0001 ";
        let socket = |addr: &str| Socket { addr: addr.parse().unwrap(), port: 3868, inode: 4712 };
        assert_eq!(parse_line(Proto::Sctp, line), [socket("192.0.2.1"), socket("2001:db8::1")]);
        assert_eq!(parse_line(Proto::Sctp, " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS"), []);
    }

    /// Binds `[::]` on a free port; listening, for TCP.
    fn bind_v6(proto: Proto, v6only: bool) -> (u16, OwnedFd) {
        let fd = unbound(AddressFamily::Inet6, proto).expect("a kernel with IPv6");
        socket::setsockopt(&fd, sockopt::Ipv6V6Only, &v6only).unwrap();
        let any = SockaddrIn6::from("[::]:0".parse::<std::net::SocketAddrV6>().unwrap());
        socket::bind(fd.as_raw_fd(), &any).expect("a kernel with IPv6");
        let port = socket::getsockname::<SockaddrIn6>(fd.as_raw_fd()).unwrap().port();
        if proto == Proto::Udp {
            return (port, fd);
        }
        // SAFETY: the descriptor is a stream socket that nobody else owns.
        let listener = unsafe { TcpListener::from_raw_fd(fd.into_raw_fd()) };
        socket::listen(&listener, socket::Backlog::new(1).unwrap()).unwrap();
        (port, listener.into())
    }
}
