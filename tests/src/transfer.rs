//! A TCP transfer that goes on while something happens to the data plane, and is checked byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sockets::PATIENCE;

const BLOCK: usize = 1 << 16;

/// One direction of a connection, kept busy until [`Transfer::finish`].
pub struct Transfer {
    sender: JoinHandle<u64>,
    receiver: JoinHandle<u64>,
    received: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
}

impl Transfer {
    /// Starts sending on `from` what `to` receives. Each end may carry another transfer the other way.
    pub fn start(from: &TcpStream, to: &TcpStream) -> Self {
        let (from, to) = (from.try_clone().expect("clone a socket"), to.try_clone().expect("clone a socket"));
        let (received, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let sender = thread::spawn({
            let enough = Arc::clone(&enough);
            move || send_until(from, &enough)
        });
        let receiver = thread::spawn({
            let received = Arc::clone(&received);
            move || receive_all(to, &received)
        });
        Self { sender, receiver, received, enough }
    }

    /// Bytes received and checked so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until `bytes` more have arrived; panics when for [`PATIENCE`] none does.
    pub fn advance(&self, bytes: u64) {
        let mut last = self.received();
        let goal = last + bytes;
        let mut deadline = Instant::now() + PATIENCE;
        while last < goal {
            let missing = goal - last;
            assert!(Instant::now() < deadline, "the transfer stalls: {missing} of {bytes} bytes missing");
            thread::sleep(Duration::from_millis(1));
            let received = self.received();
            if received > last {
                (last, deadline) = (received, Instant::now() + PATIENCE);
            }
        }
    }

    /// Ends the transfer and returns how many bytes it carried; panics unless every one arrived as sent.
    pub fn finish(self) -> u64 {
        self.enough.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let received = self.receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(received, sent, "bytes received and sent");
        received
    }
}

fn send_until(mut stream: TcpStream, enough: &AtomicBool) -> u64 {
    let mut block = pattern();
    let mut count = 0_u64;
    while !enough.load(Ordering::Relaxed) {
        block[..8].copy_from_slice(&count.to_be_bytes());
        stream.write_all(&block).unwrap_or_else(|e| panic!("send block {count} on {stream:?}: {e}"));
        count += 1;
    }
    stream.shutdown(Shutdown::Write).unwrap_or_else(|e| panic!("end the transfer on {stream:?}: {e}"));
    count * BLOCK as u64
}

fn receive_all(mut stream: TcpStream, received: &AtomicU64) -> u64 {
    let mut want = pattern();
    let mut got = vec![0; BLOCK];
    for count in 0_u64.. {
        match stream.read_exact(&mut got) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return count * BLOCK as u64,
            Err(error) => panic!("receive block {count} on {stream:?}: {error}"),
        }
        want[..8].copy_from_slice(&count.to_be_bytes());
        assert!(got == want, "block {count} arrived changed on {stream:?}");
        received.fetch_add(BLOCK as u64, Ordering::Relaxed);
    }
    unreachable!("more blocks than a u64 counts")
}

/// A block of bytes without structure that a mix-up could hide in (xorshift64).
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend(state.to_be_bytes());
    }
    block
}
