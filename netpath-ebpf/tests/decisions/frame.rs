//! Frames as bytes.

use netpath_common::{Addr4, Addr6, Address, Tuple, proto};
use netpath_ebpf::checksum::check_of;
use netpath_ebpf::family::{Family, V4, V6};
use netpath_ebpf::packet::Bytes;

pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const FIN_ACK: u8 = 0x11;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN_ACK: u8 = 0x12;

/// One end of a flow.
pub(crate) type End<A> = (A, u16);

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

/// An address that packets are written with.
pub(crate) trait Wire: Address {
    type Family: Family<Addr = Self>;
    /// ICMP type of a destination that is unreachable.
    const UNREACHABLE: u8;

    /// A network header. Checksums are left zero: decisions do not look at them.
    fn header(protocol: u8, src: Self, dst: Self, len: u16) -> Vec<u8>;
}

impl Wire for Addr4 {
    type Family = V4;
    const UNREACHABLE: u8 = 3;

    fn header(protocol: u8, src: Self, dst: Self, len: u16) -> Vec<u8> {
        let mut bytes = vec![0x45, 0];
        bytes.extend((20 + len).to_be_bytes());
        bytes.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
        bytes.extend(src.0);
        bytes.extend(dst.0);
        seal(&mut bytes);
        bytes
    }
}

/// Makes the checksum of an IPv4 header right.
fn seal(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = header[..20].chunks_exact(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum();
    header[10..12].copy_from_slice(&check_of(sum).to_ne_bytes());
}

impl Wire for Addr6 {
    type Family = V6;
    const UNREACHABLE: u8 = 1;

    fn header(protocol: u8, src: Self, dst: Self, len: u16) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(len.to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend(src.0);
        bytes.extend(dst.0);
        bytes
    }
}

impl Frame {
    /// Sets a byte of the network header.
    pub(crate) fn set(&mut self, off: usize, value: u8) {
        self.0[off] = value;
        if self.0[14] >> 4 == 4 {
            seal(&mut self.0[14..]);
        }
    }
}

/// An Ethernet frame with an IP packet.
pub(crate) fn ip<A: Wire>(protocol: u8, src: A, dst: A, payload: &[u8]) -> Frame {
    let mut bytes = vec![0; 12];
    bytes.extend(A::Family::ETHER_TYPE.to_be_bytes());
    bytes.extend(A::header(protocol, src, dst, payload.len() as u16));
    bytes.extend(payload);
    Frame(bytes)
}

pub(crate) fn tcp<A: Wire>(src: End<A>, dst: End<A>, flags: u8) -> Frame {
    tcp_at(src, dst, flags, 1, 1)
}

pub(crate) fn tcp_at<A: Wire>(src: End<A>, dst: End<A>, flags: u8, seq: u32, ack: u32) -> Frame {
    let mut header = Vec::new();
    header.extend(src.1.to_be_bytes());
    header.extend(dst.1.to_be_bytes());
    header.extend(seq.to_be_bytes());
    header.extend(ack.to_be_bytes());
    header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ip(proto::TCP, src.0, dst.0, &header)
}

pub(crate) fn udp<A: Wire>(src: End<A>, dst: End<A>) -> Frame {
    let mut header = Vec::new();
    header.extend(src.1.to_be_bytes());
    header.extend(dst.1.to_be_bytes());
    header.extend([0, 12, 0, 0]);
    header.extend(b"data");
    ip(proto::UDP, src.0, dst.0, &header)
}

pub(crate) fn sctp<A: Wire>(src: End<A>, dst: End<A>) -> Frame {
    let mut header = Vec::new();
    header.extend(src.1.to_be_bytes());
    header.extend(dst.1.to_be_bytes());
    header.extend([0; 8]);
    ip(proto::SCTP, src.0, dst.0, &header)
}

pub(crate) fn echo_request<A: Wire>(src: A, dst: A, id: u16) -> Frame {
    icmp(src, dst, [A::Family::ICMP_ECHO_REQUEST, 0], id.to_be_bytes(), &[])
}

pub(crate) fn echo_reply<A: Wire>(src: A, dst: A, id: u16) -> Frame {
    icmp(src, dst, [A::Family::ICMP_ECHO_REPLY, 0], id.to_be_bytes(), &[])
}

/// Destination unreachable, quoting the first `quoted` bytes of the packet in `frame`.
pub(crate) fn unreachable<A: Wire>(src: A, dst: A, frame: &Frame, quoted: usize) -> Frame {
    icmp(src, dst, [A::UNREACHABLE, 3], [0; 2], &frame.0[14..14 + quoted])
}

fn icmp<A: Wire>(src: A, dst: A, type_code: [u8; 2], id: [u8; 2], data: &[u8]) -> Frame {
    let mut message = type_code.to_vec();
    message.extend([0, 0]);
    message.extend(id);
    message.extend([0, 0]);
    message.extend(data);
    ip(A::Family::ICMP, src, dst, &message)
}

/// The frame that the other side would answer with: addresses and ports of `tuple` turned round.
pub(crate) fn answer<A: Wire>(tuple: &Tuple<A>, flags: u8) -> Frame {
    let (src, dst) = ((tuple.dst_addr, tuple.dst_port), (tuple.src_addr, tuple.src_port));
    match tuple.proto {
        proto::TCP => tcp(src, dst, flags),
        proto::UDP => udp(src, dst),
        proto::SCTP => sctp(src, dst),
        _ => echo_reply(src.0, dst.0, tuple.src_port),
    }
}
