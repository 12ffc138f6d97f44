//! Sockets that keep published ports from the host's other programs where the kernel takes no programs that do: one for
//! each address, protocol and port, bound and nothing more. They are the agent's and end with it.
//!
//! Nothing arrives at them: the packets of a published port are led to its container before, and what is not finds a TCP
//! port that nobody listens at, or a filter that drops every datagram.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, SockaddrStorage, sockopt};

use crate::binding::{PortBinding, host_name};
use crate::holder;
use crate::host;
use crate::port_spec::Proto;
use crate::refusal::Refusal;

/// Files that the agent may still open when its sockets are made: for requests, and for containers to come.
const SPARE_FILES: usize = 256;

/// The sockets that are held; none, and none wanted, until [`HeldPorts::begin`].
#[derive(Debug, Default)]
pub struct HeldPorts(Option<BTreeMap<Place, OwnedFd>>);

type Place = (Proto, IpAddr, u16);

impl HeldPorts {
    /// From here on ports are to be held.
    pub fn begin(&mut self) {
        self.0.get_or_insert_default();
    }

    /// Whether ports are to be held.
    pub fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Holds those host ports of `bindings` that are not held yet: all of them or, after an error, none. What was published
    /// `before` and is not held by now, since somebody else had it first, stays as it is.
    ///
    /// # Errors
    /// A [`Refusal`] if somebody else has one, or they are more than the agent may have open files.
    pub fn hold<'a>(
        &mut self,
        bindings: impl IntoIterator<Item = &'a PortBinding>,
        before: &[PortBinding],
    ) -> Result<()> {
        let Some(held) = &mut self.0 else { return Ok(()) };
        let places = bindings.into_iter().filter(|binding| is_held(binding)).flat_map(places);
        let is_new = |place: &Place| !held.contains_key(place) && !before.iter().any(|binding| has(binding, place));
        let missing: Vec<Place> = places.filter(is_new).collect();
        check_limit(missing.len())?;
        let mut new = BTreeMap::new();
        for place in missing {
            new.insert(place, bind(place)?);
        }
        held.append(&mut new);
        Ok(())
    }

    /// Holds what is free of the host ports of `binding`.
    ///
    /// # Errors
    /// As [`Self::hold`], about the first that is not held.
    pub fn hold_free(&mut self, binding: &PortBinding) -> Result<()> {
        let Some(held) = &mut self.0 else { return Ok(()) };
        let missing = places(binding).filter(|place| is_held(binding) && !held.contains_key(place));
        let missing: Vec<Place> = missing.collect();
        check_limit(missing.len())?;
        let mut done = Ok(());
        for place in missing {
            match bind(place) {
                Ok(socket) => drop(held.insert(place, socket)),
                Err(error) => done = done.and(Err(error)),
            }
        }
        done
    }

    /// Lets go of what is in none of `bindings`, of which no two overlap.
    pub fn keep_only<'a>(&mut self, bindings: impl IntoIterator<Item = &'a PortBinding>) {
        let Some(held) = &mut self.0 else { return };
        let range = |binding: &PortBinding| {
            let (first, last) = binding.host_ports().into_inner();
            ((binding.proto, binding.host_addr, first), last)
        };
        let wanted: BTreeMap<Place, u16> = bindings.into_iter().filter(|b| is_held(b)).map(range).collect();
        held.retain(|place, _| {
            let below = wanted.range(..=*place).next_back();
            below.is_some_and(|((proto, addr, _), last)| (*proto, *addr) == (place.0, place.1) && *last >= place.2)
        });
    }
}

/// Whether something on the host keeps others from binding the port, connections that were made from it among it: a
/// table of the sockets that take clients does not show those.
pub fn is_in_use(proto: Proto, addr: IpAddr, port: u16) -> bool {
    proto != Proto::Sctp && matches!(try_bind(proto, addr, port), Err(Errno::EADDRINUSE))
}

/// Ports at the container's own address are no host ports; a link-local address is published nowhere; and of SCTP's
/// sockets the kernel's hooks are not told either.
fn is_held(binding: &PortBinding) -> bool {
    let is_link_local = matches!(binding.host_addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    !binding.is_direct() && !is_link_local && binding.proto != Proto::Sctp
}

fn places(binding: &PortBinding) -> impl Iterator<Item = Place> + use<> {
    let (proto, addr) = (binding.proto, binding.host_addr);
    binding.host_ports().map(move |port| (proto, addr, port))
}

fn has(binding: &PortBinding, (proto, addr, port): &Place) -> bool {
    (binding.proto, binding.host_addr) == (*proto, *addr) && binding.host_ports().contains(port)
}

/// Checks that there is room for `new` sockets beside the files that are open, and for some more, without which the agent
/// could not even undo anything.
fn check_limit(new: usize) -> Result<()> {
    if new == 0 {
        return Ok(());
    }
    let wanted = (open_files()? + new + SPARE_FILES) as u64;
    let limit = host::raise_file_limit_to(wanted)?;
    if limit >= wanted {
        return Ok(());
    }
    Err(Refusal::Taken(format!(
        "cannot keep {new} more ports from other programs: that takes a socket each, and the agent may have {limit} files \
         open, want {wanted}; start it with a higher limit (`LimitNOFILE=`, `ulimit -n`), or where a cgroup2 file system \
         is mounted"
    ))
    .into())
}

/// How many files this process has open: for each container some, too.
fn open_files() -> Result<usize> {
    const PATH: &str = "/proc/self/fd";
    Ok(fs::read_dir(PATH).with_context(|| format!("list {PATH}"))?.count())
}

fn bind(place: Place) -> Result<OwnedFd> {
    let (proto, addr, port) = place;
    let name = || format!("{}/{proto}", host_name(addr, &(port..=port)));
    match try_bind(proto, addr, port) {
        Err(Errno::EADDRINUSE) => {
            Err(Refusal::Taken(format!("failed to bind host port {}: address already in use", name())).into())
        }
        bound => bound.with_context(|| format!("keep host port {} from other programs", name())),
    }
}

fn try_bind(proto: Proto, addr: IpAddr, port: u16) -> Result<OwnedFd, Errno> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let held = holder::unbound(family, proto)?;
    if addr.is_ipv6() {
        // The host's IPv4 port of that number is another one.
        socket::setsockopt(&held, sockopt::Ipv6V6Only, &true)?;
    }
    if proto == Proto::Udp {
        drop_all(&held)?;
    }
    // The address may have gone since the port was published, and come back.
    set_freebind(&held, addr)?;
    let name = SockaddrStorage::from(SocketAddr::new(addr, port));
    match socket::bind(held.as_raw_fd(), &name) {
        // Connections of a server that has ended linger for a minute. SO_REUSEADDR binds beside them; taken back at
        // once, it lets nobody in who has it too: he may get as far as `bind`, but not to `listen`.
        Err(Errno::EADDRINUSE) if proto == Proto::Tcp => {
            socket::setsockopt(&held, sockopt::ReuseAddr, &true)?;
            socket::bind(held.as_raw_fd(), &name)?;
            socket::setsockopt(&held, sockopt::ReuseAddr, &false)?;
        }
        bound => bound?,
    }
    Ok(held)
}

fn set_freebind(socket: &OwnedFd, addr: IpAddr) -> Result<(), Errno> {
    // linux/in6.h
    const IPV6_FREEBIND: libc::c_int = 78;
    match addr {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_FREEBIND, &1),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, IPV6_FREEBIND, &1),
    }
}

/// Lets the kernel drop every datagram before it is queued.
fn drop_all(socket: &OwnedFd) -> Result<(), Errno> {
    // linux/filter.h: `return 0`, which is how many bytes of the packet to keep.
    let mut code = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> Result<(), Errno> {
    // SAFETY: the value is live and of the length given; what a filter's program points to lives in the caller.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::sync::atomic::{AtomicU16, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::holder::Sockets;

    const ANY: &str = "0.0.0.0";
    const LO: &str = "127.0.0.1";

    #[test]
    fn a_held_port_is_nobody_elses_until_it_is_let_go() {
        let bindings = [binding(Proto::Tcp, ANY, free_port(), 1), binding(Proto::Udp, LO, free_port(), 1)];
        let mut held = held(&bindings);
        let (tcp, udp) = (bindings[0].host_port, bindings[1].host_port);
        for addr in [ANY, LO, "127.0.0.9"] {
            assert_in_use(TcpListener::bind((addr, tcp)));
            assert!(is_in_use(Proto::Tcp, addr.parse().unwrap(), tcp));
        }
        assert_in_use(UdpSocket::bind((ANY, udp)));
        assert_in_use(UdpSocket::bind((LO, udp)));
        UdpSocket::bind(("127.0.0.9", udp)).unwrap();
        UdpSocket::bind((LO, tcp)).unwrap();
        held.keep_only(&bindings[1..]);
        TcpListener::bind((ANY, tcp)).unwrap();
        assert_in_use(UdpSocket::bind((LO, udp)));
        drop(held);
        UdpSocket::bind((LO, udp)).unwrap();
    }

    #[test]
    fn families_have_ports_of_their_own() {
        let port = free_port();
        let _held = held(&[binding(Proto::Tcp, ANY, port, 1), binding(Proto::Tcp, "::", port, 1)]);
        assert_in_use(TcpListener::bind(("::1", port)));
        let _other = held(&[binding(Proto::Tcp, "::", port + 1, 1), binding(Proto::Udp, "2001:db8::77", port, 1)]);
        TcpListener::bind((LO, port + 1)).unwrap();
    }

    #[test]
    fn nothing_arrives_at_what_is_held() {
        let port = free_port();
        let bindings = [Proto::Tcp, Proto::Udp].map(|proto| binding(proto, ANY, port, 1));
        let held = held(&bindings);
        assert_eq!(TcpStream::connect((LO, port)).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        let client = UdpSocket::bind((LO, 0)).unwrap();
        client.send_to(&[0; 512], (LO, port)).unwrap();
        let queue = &held.0.as_ref().unwrap()[&(Proto::Udp, ANY.parse().unwrap(), port)];
        std::thread::sleep(Duration::from_millis(50));
        let heard = socket::recv(queue.as_raw_fd(), &mut [0; 8], socket::MsgFlags::MSG_DONTWAIT);
        assert_eq!(heard, Err(Errno::EAGAIN));
    }

    #[test]
    fn of_many_ports_all_are_held_or_none() {
        let first = free_port();
        let port = first + 1;
        let _other = TcpListener::bind((ANY, port)).unwrap();
        let mut held = held(&[]);
        let range = binding(Proto::Tcp, LO, first, 3);
        let error = held.hold([&range], &[]).unwrap_err();
        let wanted = format!("failed to bind host port {LO}:{port}/tcp: address already in use");
        assert_eq!(error.downcast_ref(), Some(&Refusal::Taken(wanted)), "{error:#}");
        assert_eq!(held.0.as_ref().map(BTreeMap::len), Some(0));
        held.hold_free(&range).unwrap_err();
        assert_eq!(held.0.as_ref().map(BTreeMap::len), Some(2), "what was published before is held as far as it goes");
        let before = [range.part(0, 2)];
        held.hold([&range], &before).unwrap();
        let elsewhere =
            [binding(Proto::Udp, LO, first, 3), binding(Proto::Tcp, "127.0.0.9", first, 3), range.part(0, 1)];
        held.hold([&range], &elsewhere).unwrap_err();
    }

    #[test]
    fn of_a_range_that_is_cut_the_rest_stays_held() {
        let range = binding(Proto::Udp, LO, free_port(), 3);
        let mut held = held(std::slice::from_ref(&range));
        let left = [range.part(0, 1), range.part(2, 1)];
        held.keep_only(&left);
        let places: Vec<_> = held.0.as_ref().unwrap().keys().map(|place| place.2 - range.host_port).collect();
        assert_eq!(places, [0, 2]);
        held.hold(&left, &[]).unwrap();
        UdpSocket::bind((LO, range.host_port + 1)).unwrap();
    }

    #[test]
    fn connections_that_linger_are_not_in_the_way_and_let_nobody_else_in() {
        let listener = TcpListener::bind((LO, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((LO, port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        // The side that closes first lingers: the server's.
        drop((server, listener));
        drop(client);
        let _held = held(&[binding(Proto::Tcp, ANY, port, 1)]);
        // The standard library asks for SO_REUSEADDR.
        assert_in_use(TcpListener::bind((LO, port)));
    }

    #[test]
    fn an_address_need_not_be_there_yet() {
        let _held = held(&[binding(Proto::Tcp, "192.0.2.77", free_port(), 1)]);
    }

    #[test]
    fn what_is_held_is_no_foreign_holder() {
        let range = binding(Proto::Tcp, ANY, free_port(), 1);
        let _held = held(std::slice::from_ref(&range));
        assert_eq!(Sockets::read(Proto::Tcp).unwrap().lowest(range.host_addr, range.host_ports()), None);
    }

    #[test]
    fn nothing_is_held_unless_it_is_wanted() {
        let port = free_port();
        let mut held = HeldPorts::default();
        held.hold(&[binding(Proto::Tcp, ANY, port, 1)], &[]).unwrap();
        assert!(!held.is_wanted());
        TcpListener::bind((ANY, port)).unwrap();
    }

    #[test]
    fn more_sockets_than_files_are_refused_before_any_is_made() {
        assert!(check_limit(0).is_ok());
        let error = check_limit(usize::MAX >> 8).unwrap_err().to_string();
        assert!(error.contains("files open") && error.contains("ulimit -n"), "{error}");
    }

    #[test]
    fn files_that_are_open_for_other_things_take_room_too() {
        let before = open_files().unwrap();
        let files: Vec<_> = (0..300).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert_eq!(open_files().unwrap(), before + files.len());
    }

    fn held(bindings: &[PortBinding]) -> HeldPorts {
        let mut held = HeldPorts::default();
        held.begin();
        held.hold(bindings, &[]).unwrap();
        held
    }

    /// The first of three ports that were free a moment ago, for TCP and UDP, below those that the kernel gives out.
    fn free_port() -> u16 {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let everywhere: IpAddr = ANY.parse().unwrap();
        let is_free = |port: u16| [Proto::Tcp, Proto::Udp].iter().all(|proto| !is_in_use(*proto, everywhere, port));
        let start = 20_000 + (std::process::id() % 300) as u16 * 30;
        loop {
            let first = start + 3 * NEXT.fetch_add(1, Ordering::Relaxed);
            if (first..first + 3).all(is_free) {
                return first;
            }
        }
    }

    fn assert_in_use<T: std::fmt::Debug>(result: std::io::Result<T>) {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }

    fn binding(proto: Proto, host_addr: &str, host_port: u16, count: u16) -> PortBinding {
        let host_addr = host_addr.parse().unwrap();
        PortBinding { host_addr, host_port, container_port: 1, count, proto, counter: 0, from: vec![] }
    }
}
