//! Frames as bytes.

use netpath_common::{Addr4, Tuple, proto};
use netpath_ebpf::packet::Bytes;

pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const FIN_ACK: u8 = 0x11;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN_ACK: u8 = 0x12;

/// One end of a flow.
pub(crate) type End = (Addr4, u16);

/// The bytes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame(pub(crate) Vec<u8>);

impl Bytes for Frame {
    fn get<T: Copy>(&self, off: usize) -> Option<T> {
        let bytes = self.0.get(off..off + size_of::<T>())?;
        // SAFETY: inside the vector by the line above, and plain data by the trait's contract.
        Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

/// An Ethernet frame with an IPv4 packet. Checksums are left zero: decisions do not look at them.
fn ipv4(protocol: u8, src: Addr4, dst: Addr4, payload: &[u8]) -> Frame {
    let mut bytes = vec![0; 12];
    bytes.extend([0x08, 0x00, 0x45, 0]);
    bytes.extend((20 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    bytes.extend(src.0);
    bytes.extend(dst.0);
    bytes.extend(payload);
    Frame(bytes)
}

pub(crate) fn tcp(src: End, dst: End, flags: u8) -> Frame {
    tcp_at(src, dst, flags, 1, 1)
}

pub(crate) fn tcp_at(src: End, dst: End, flags: u8, seq: u32, ack: u32) -> Frame {
    let mut header = Vec::new();
    header.extend(src.1.to_be_bytes());
    header.extend(dst.1.to_be_bytes());
    header.extend(seq.to_be_bytes());
    header.extend(ack.to_be_bytes());
    header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ipv4(proto::TCP, src.0, dst.0, &header)
}

pub(crate) fn udp(src: End, dst: End) -> Frame {
    let mut header = Vec::new();
    header.extend(src.1.to_be_bytes());
    header.extend(dst.1.to_be_bytes());
    header.extend([0, 12, 0, 0]);
    header.extend(b"data");
    ipv4(proto::UDP, src.0, dst.0, &header)
}

pub(crate) fn echo_request(src: Addr4, dst: Addr4, id: u16) -> Frame {
    icmp(src, dst, [8, 0], id.to_be_bytes(), &[])
}

pub(crate) fn echo_reply(src: Addr4, dst: Addr4, id: u16) -> Frame {
    icmp(src, dst, [0, 0], id.to_be_bytes(), &[])
}

/// Destination unreachable, quoting the first `quoted` bytes of the packet in `frame`.
pub(crate) fn unreachable(src: Addr4, dst: Addr4, frame: &Frame, quoted: usize) -> Frame {
    icmp(src, dst, [3, 3], [0; 2], &frame.0[14..14 + quoted])
}

fn icmp(src: Addr4, dst: Addr4, type_code: [u8; 2], id: [u8; 2], data: &[u8]) -> Frame {
    let mut message = type_code.to_vec();
    message.extend([0, 0]);
    message.extend(id);
    message.extend([0, 0]);
    message.extend(data);
    ipv4(proto::ICMP, src, dst, &message)
}

/// The frame that the other side would answer with: addresses and ports of `tuple` turned round.
pub(crate) fn answer(tuple: &Tuple<Addr4>, flags: u8) -> Frame {
    let (src, dst) = ((tuple.dst_addr, tuple.dst_port), (tuple.src_addr, tuple.src_port));
    match tuple.proto {
        proto::TCP => tcp(src, dst, flags),
        proto::UDP => udp(src, dst),
        _ => echo_reply(src.0, dst.0, tuple.src_port),
    }
}
