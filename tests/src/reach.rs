//! Who reaches whom, and whom a server sees: the questions that every cell of a table of behaviour asks.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::icmp::{self, IcmpSocket};
use crate::sockets::{PATIENCE, REFUSAL, accept, ask, at, converse, local};
use crate::{CLIENT, Container, Family, HOST, Namespace, World};

/// How long a knock waits: for the second SYN too, should a busy machine lose the first.
pub const KNOCK: Duration = Duration::from_secs(3);

/// A TCP and a UDP server on one port of a container.
pub struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

/// What answers at a container's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doors {
    pub ping: bool,
    /// Port 80 of TCP.
    pub published: bool,
    /// Port 81 of TCP.
    pub unpublished: bool,
}

impl Server {
    /// Listens on every address of `family`.
    pub fn new(inside: &Namespace, family: Family, port: u16) -> Self {
        let address = at(family.any(), port);
        Self { tcp: inside.listen_at(address), udp: inside.udp_at(address) }
    }

    /// Connects and sends from `from` to `to`, and returns whom this server saw both times.
    pub fn sees(&self, from: &Namespace, to: SocketAddr) -> IpAddr {
        let seen = self.sees_tcp(from, to);
        let asker = from.udp_at(at(Family::of(to.ip()).any(), 0));
        assert_eq!(ask(&asker, &self.udp, to).ip(), seen, "whom the UDP server sees, beside the TCP server");
        seen
    }

    /// The same for TCP alone.
    pub fn sees_tcp(&self, from: &Namespace, to: SocketAddr) -> IpAddr {
        let mut client = from.connect(to);
        let (mut server, seen) = accept(&self.tcp);
        converse(&mut client, &mut server);
        seen.ip()
    }

    /// The next connection.
    pub fn accept(&self) -> (TcpStream, SocketAddr) {
        accept(&self.tcp)
    }

    /// Forgets connections that nobody accepted.
    pub fn drain(&self) {
        while self.waiting().is_ok() {}
    }

    /// Panics when anything from `from` to `to` arrives here.
    pub fn is_not_reached(&self, from: &Namespace, to: SocketAddr) {
        let asker = from.udp_at(at(Family::of(to.ip()).any(), 0));
        // A refusal to send is as good as silence.
        let sent = asker.send_to(b"question", to);
        // A proxy may accept what it cannot hand on.
        let client = from.try_connect(0, to, REFUSAL);
        self.udp.set_read_timeout(Some(REFUSAL)).expect("set a time limit");
        let heard = self.udp.recv_from(&mut [0; 64]);
        self.udp.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
        assert!(heard.is_err(), "a datagram to {to} should not arrive ({sent:?}), got {heard:?}");
        let accepted = self.waiting();
        assert!(accepted.is_err(), "a connection to {to} should not arrive, got {accepted:?} and {client:?}");
    }

    /// A connection that is there already.
    fn waiting(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.tcp.set_nonblocking(true).expect("make the listener non-blocking");
        let accepted = self.tcp.accept();
        self.tcp.set_nonblocking(false).expect("make the listener blocking");
        accepted
    }
}

impl Doors {
    pub const ALL: Self = Self { ping: true, published: true, unpublished: true };
    pub const NONE: Self = Self { ping: false, published: false, unpublished: false };

    /// Knocks from `from`; both ports must have a listener. All at once, since silence takes its time.
    pub fn of(container: &Container, family: Family, from: &Namespace) -> Self {
        let address = container.ip(family);
        thread::scope(|scope| {
            let ping = scope.spawn(|| pings(from, address));
            let published = scope.spawn(|| answers(from, at(address, 80)));
            let unpublished = scope.spawn(|| answers(from, at(address, 81)));
            let join = |door: thread::ScopedJoinHandle<bool>| door.join().expect("a knock");
            Self { ping: join(ping), published: join(published), unpublished: join(unpublished) }
        })
    }
}

/// The client reaches port 80 inside by the host's `host_port`, and inside reaches the client: both see whom they should.
pub fn talk_both_ways(world: &World, inside: &Namespace, host_port: u16) {
    let (listener, outside) = (inside.listen(80), world.client.listen(7000));
    let mut client = world.client.connect(at(HOST, host_port));
    let (mut server, from) = accept(&listener);
    assert_eq!(from, local(&client));
    converse(&mut client, &mut server);
    let mut client = inside.connect(at(CLIENT, 7000));
    let (mut server, from) = accept(&outside);
    assert_eq!(from.ip(), HOST);
    converse(&mut client, &mut server);
}

/// Whether a connection to `to` comes about within [`KNOCK`].
pub fn answers(from: &Namespace, to: SocketAddr) -> bool {
    from.try_connect(0, to, KNOCK).is_ok()
}

/// Whether an echo request is answered within [`KNOCK`].
pub fn pings(from: &Namespace, to: IpAddr) -> bool {
    let family = Family::of(to);
    let socket = IcmpSocket::of(from, family);
    let reply = family.pick(icmp::ECHO_REPLY, icmp::ECHO_REPLY_V6);
    socket.try_echo(to, 4711, b"anybody there?").is_ok_and(|()| socket.hears(reply, 4711, KNOCK))
}
