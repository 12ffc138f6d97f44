//! Headers: nothing is read outside the frame, and what is found lies where the packet's own length says.

use std::cell::Cell;

use netpath_ebpf::family::{Family, V4, V6};
use netpath_ebpf::icmp::Inner;
use netpath_ebpf::packet::{Bytes, Kind, Packet};

use crate::place::Ground;

/// Where frames have their network header.
const L3_OFF: usize = 14;

/// A frame that remembers how far it has been read.
struct Watched<'a> {
    bytes: &'a [u8],
    end: Cell<usize>,
}

impl Bytes for Watched<'_> {
    fn get<T: Copy>(&self, off: usize) -> Option<T> {
        let bytes = self.bytes.get(off..off.checked_add(size_of::<T>())?)?;
        self.end.set(self.end.get().max(off + size_of::<T>()));
        // SAFETY: inside the slice by the line above, and plain data by the trait's contract.
        Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

/// The first byte is the family, the rest a frame.
pub(crate) fn run(data: &[u8]) {
    let Some((family, frame)) = data.split_first() else { return };
    if family % 2 == 0 { check::<V4>(frame) } else { check::<V6>(frame) }
}

fn check<F: Ground>(frame: &[u8]) {
    let watched = Watched { bytes: frame, end: Cell::new(0) };
    let Ok(packet) = Packet::<F>::parse(&watched, L3_OFF) else { return };
    let end = L3_OFF + packet.l3.len as usize;
    let transport = packet.l3.l4_off;
    assert!(transport >= L3_OFF + F::HEADER_LEN, "the transport header begins inside the network header");
    assert!(transport + header_len(&packet) <= end, "the transport header ends behind the packet: {packet:?}");
    assert!(watched.end.get() <= end.max(L3_OFF + F::HEADER_LEN), "read behind the packet: {packet:?}");
    assert_eq!((packet.tuple.src_addr == packet.l3.src_addr, packet.tuple.proto), (true, packet.l3.proto));
    if packet.kind == Kind::LaterFragment {
        assert!(!packet.has_ports() && packet.l3.fragment & 0x1fff != 0);
    }
    // What follows the packet is nothing to it.
    if let Some(alone) = frame.get(..end) {
        let alone = Watched { bytes: alone, end: Cell::new(0) };
        let again = Packet::<F>::parse(&alone, L3_OFF).map(|again| format!("{again:?}"));
        assert_eq!(again, Ok(format!("{packet:?}")));
    }
    if packet.kind == Kind::IcmpError {
        check_quoted(frame, &packet);
    }
}

fn header_len<F: Family>(packet: &Packet<F>) -> usize {
    match packet.kind {
        Kind::Tcp => packet.tcp.header_len as usize,
        Kind::Sctp => 12,
        Kind::Udp | Kind::Request | Kind::Reply | Kind::IcmpError => 8,
        Kind::Other | Kind::LaterFragment => 0,
    }
}

fn check_quoted<F: Ground>(frame: &[u8], packet: &Packet<F>) {
    let watched = Watched { bytes: frame, end: Cell::new(0) };
    let Ok(inner) = Inner::parse(&watched, L3_OFF, packet) else { return };
    let quoted = packet.l3.l4_off + 8;
    assert!(inner.l3.l4_off >= quoted + F::HEADER_LEN, "the quoted ports lie in a network header: {inner:?}");
    let end = L3_OFF + packet.l3.len as usize;
    assert!(inner.l3.l4_off + 8 <= end, "the quoted ports lie behind the packet: {inner:?}");
    assert!(!inner.l3.is_later_fragment());
    assert_eq!(inner.is_query, inner.l3.proto == F::ICMP);
}
