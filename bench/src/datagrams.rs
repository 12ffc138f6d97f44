//! 64-byte UDP frames through real sockets: one that sends as fast as it may, one that receives, and what the whole machine
//! takes for each datagram that arrived.
//!
//! The sender stops where the receiver is a window behind: what is thrown away at a full socket is work without a result,
//! and how much of it there is depends on who sends faster.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpath_tests::Namespace;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt};

use crate::machine;

/// In a frame of 64 bytes, behind 14 of Ethernet, 20 of IPv4 and 8 of UDP.
const DATA_LEN: usize = 22;

/// Datagrams for one system call.
const BATCH: usize = 64;

/// Datagrams that may be on their way.
const WINDOW: u64 = 4096;

/// Without a datagram for so long the sender believes that the missing ones are lost.
const LOST_AFTER: Duration = Duration::from_millis(20);

/// Bytes of datagrams that wait for the receiver, as the kernel counts them: more than a window.
const BUFFER: usize = 16 << 20;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    /// Of all CPUs and everything that ran on them.
    pub(crate) cpu_ns_per_packet: f64,
    pub(crate) lost_share: f64,
}

/// Sends from `client` to `address` for some `seconds`; what is sent there arrives in `server` at `port`.
pub(crate) fn run(client: &Namespace, address: (IpAddr, u16), server: &Namespace, port: u16, seconds: u32) -> Outcome {
    let receiver = server.within(|| {
        let socket = bound(port);
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).expect("enlarge the receiver's buffer");
        socket
    });
    let sender = client.within(|| {
        let socket = bound(0);
        socket.connect(SocketAddr::from(address)).unwrap_or_else(|e| panic!("connect to {address:?}: {e}"));
        socket
    });
    receiver.set_read_timeout(Some(Duration::from_millis(5))).expect("set the receiver's time-out");
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| receive(&receiver, &received, &done));
        // What the first packets have to look up is not what counts.
        send(&sender, &received, Duration::from_millis(100));
        let (before, busy, start) = (received.load(Ordering::Relaxed), machine::busy_seconds(), Instant::now());
        let sent = send(&sender, &received, Duration::from_secs(seconds.into()));
        let arrived = (received.load(Ordering::Relaxed) - before) as f64;
        let (busy, took) = (machine::busy_seconds() - busy, start.elapsed().as_secs_f64());
        done.store(true, Ordering::Relaxed);
        assert!(arrived > 0.0, "no datagram from {address:?} arrived at port {port}");
        Outcome {
            per_second: arrived / took,
            cpu_ns_per_packet: busy * 1e9 / arrived,
            lost_share: (1.0 - arrived / sent as f64).max(0.0),
        }
    })
}

fn bound(port: u16) -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap_or_else(|e| panic!("bind UDP port {port}: {e}"))
}

/// Sends for `time`; returns how many datagrams.
fn send(socket: &UdpSocket, received: &AtomicU64, time: Duration) -> u64 {
    let data = [0; DATA_LEN];
    let slices = [[IoSlice::new(&data)]; BATCH];
    let to: Vec<Option<SockaddrIn>> = vec![None; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let start = Instant::now();
    // Lost datagrams are counted as received, or the window would close for good.
    let (mut sent, before, mut lost) = (0, received.load(Ordering::Relaxed), 0);
    let (mut last, mut last_at) = (before, start);
    while start.elapsed() < time {
        let arrived = received.load(Ordering::Relaxed);
        if arrived != last {
            (last, last_at) = (arrived, Instant::now());
        }
        if sent - lost >= arrived - before + WINDOW {
            if last_at.elapsed() > LOST_AFTER {
                lost = sent - (arrived - before);
            }
            // Long before the receiver has nothing to do.
            thread::sleep(Duration::from_micros(50));
            continue;
        }
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &to, [], MsgFlags::empty()) {
            Ok(results) => sent += results.count() as u64,
            // The answer to an earlier one: nobody listens yet, or a queue is full.
            Err(Errno::ECONNREFUSED | Errno::ENOBUFS | Errno::EAGAIN) => thread::yield_now(),
            Err(error) => panic!("send to {:?}: {error}", socket.peer_addr()),
        }
    }
    sent
}

fn receive(socket: &UdpSocket, received: &AtomicU64, done: &AtomicBool) {
    let mut buffers = [[0; DATA_LEN]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    while !done.load(Ordering::Relaxed) {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
            Ok(results) => _ = received.fetch_add(results.count() as u64, Ordering::Relaxed),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => panic!("receive at {:?}: {error}", socket.local_addr()),
        }
    }
}
