//! TCP and UDP sockets inside namespaces. Everything has a time limit: a lost packet fails a test, it does not hang it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::{Family, Namespace};

/// How long to wait for what must come.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for what must not come.
pub const REFUSAL: Duration = Duration::from_secs(1);

impl Namespace {
    /// A TCP listener on every IPv4 address.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.listen_at(at(Family::V4.any(), port))
    }

    /// A TCP listener on one address, or on every one of its family.
    pub fn listen_at(&self, address: SocketAddr) -> TcpListener {
        let listener = self.within(|| listen(address));
        let listener = listener.unwrap_or_else(|e| panic!("listen at tcp {address} in {}: {e}", self.path().display()));
        // Linux applies the time limit for reading to accept too.
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).expect("set a time limit");
        listener
    }

    /// A TCP connection to `to`.
    pub fn connect(&self, to: SocketAddr) -> TcpStream {
        self.connect_from(0, to)
    }

    /// A TCP connection from local port `port` to `to`.
    pub fn connect_from(&self, port: u16, to: SocketAddr) -> TcpStream {
        let stream = self.try_connect(port, to, PATIENCE);
        stream.unwrap_or_else(|e| panic!("connect from {} to {to}: {e}", self.path().display()))
    }

    /// Tries to connect for at most `limit`; port 0 lets the kernel choose.
    pub fn try_connect(&self, port: u16, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.within(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            // As clients do: they bind only when they mean a port.
            if port != 0 {
                socket.set_reuse_address(true)?;
                socket.bind(&SockAddr::from(at(Family::of(to.ip()).any(), port)))?;
            }
            socket.connect_timeout(&SockAddr::from(to), limit)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(TcpStream::from(socket))
        })
    }

    /// Panics unless connecting to `to` gets no answer at all, not even a refusal.
    pub fn assert_no_answer(&self, to: SocketAddr) {
        match self.try_connect(0, to, REFUSAL) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            other => panic!("connecting from {} to {to} should time out, got {other:?}", self.path().display()),
        }
    }

    /// Panics unless no connection to `to` comes about: no answer or a refusal.
    pub fn assert_closed(&self, to: SocketAddr) {
        let result = self.try_connect(0, to, REFUSAL);
        assert!(result.is_err(), "connecting from {} to {to} should fail, got {result:?}", self.path().display());
    }

    /// A UDP socket on every IPv4 address; port 0 lets the kernel choose.
    pub fn udp(&self, port: u16) -> UdpSocket {
        self.udp_at(at(Family::V4.any(), port))
    }

    /// A UDP socket on one address, or on every one of its family.
    pub fn udp_at(&self, address: SocketAddr) -> UdpSocket {
        let socket = self.within(|| bind_udp(address));
        let socket = socket.unwrap_or_else(|e| panic!("bind udp {address} in {}: {e}", self.path().display()));
        socket.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
        socket
    }
}

/// The next connection and who it says it is from.
pub fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let (stream, from) = listener.accept().unwrap_or_else(|e| panic!("accept at {:?}: {e}", listener.local_addr()));
    stream.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
    stream.set_write_timeout(Some(PATIENCE)).expect("set a time limit");
    (stream, from)
}

/// Sends a message each way and panics unless both arrive as sent.
pub fn converse(one: &mut TcpStream, other: &mut TcpStream) {
    say(one, other, b"a question of some length");
    say(other, one, b"an answer");
}

/// Sends `message` and panics unless it arrives as sent.
pub fn say(from: &mut TcpStream, to: &mut TcpStream, message: &[u8]) {
    from.write_all(message).unwrap_or_else(|e| panic!("send on {from:?}: {e}"));
    let mut heard = vec![0; message.len()];
    to.read_exact(&mut heard).unwrap_or_else(|e| panic!("receive on {to:?} what {from:?} sent: {e}"));
    assert_eq!(heard, message, "what {to:?} received");
}

/// The next datagram and who it says it is from.
pub fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65536];
    let (length, from) =
        socket.recv_from(&mut buffer).unwrap_or_else(|e| panic!("receive at udp {:?}: {e}", socket.local_addr()));
    buffer.truncate(length);
    (buffer, from)
}

/// Sends a datagram.
pub fn send(socket: &UdpSocket, message: &[u8], to: SocketAddr) {
    let sent = socket.send_to(message, to).unwrap_or_else(|e| panic!("send {} bytes to {to}: {e}", message.len()));
    assert_eq!(sent, message.len());
}

/// Sends a datagram from `asker` to `to`, where `answerer` answers it; returns whom the answerer saw. Panics unless the
/// answer comes from where the question went.
pub fn ask(asker: &UdpSocket, answerer: &UdpSocket, to: SocketAddr) -> SocketAddr {
    send(asker, b"question", to);
    let (question, from) = receive(answerer);
    assert_eq!(question, b"question");
    send(answerer, b"answer", from);
    assert_eq!(receive(asker), (b"answer".to_vec(), to), "the answer and where it came from");
    from
}

/// Panics when a datagram arrives within [`REFUSAL`].
pub fn assert_silent(socket: &UdpSocket) {
    socket.set_read_timeout(Some(REFUSAL)).expect("set a time limit");
    let result = socket.recv_from(&mut [0; 2048]);
    socket.set_read_timeout(Some(PATIENCE)).expect("set a time limit");
    assert!(result.is_err(), "a datagram should not have arrived at {:?}: {result:?}", socket.local_addr());
}

/// Panics unless `holds` comes true within [`PATIENCE`]; `what` says what should.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The local address of a connection.
pub fn local(stream: &TcpStream) -> SocketAddr {
    stream.local_addr().expect("a local address")
}

/// The remote address of a connection.
pub fn peer(stream: &TcpStream) -> SocketAddr {
    stream.peer_addr().expect("a remote address")
}

/// Address and port.
pub fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// One family only: a server for IPv6 leaves the port free for IPv4.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(address, Type::STREAM)?;
    socket.listen(1024)?;
    Ok(TcpListener::from(socket))
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    bind(address, Type::DGRAM).map(UdpSocket::from)
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() && address.port() != 0 {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}
