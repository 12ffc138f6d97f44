//! Frames as bytes, with checksums made and checked from scratch.

use std::net::Ipv4Addr;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// One end of a flow.
pub(crate) type End = (Ipv4Addr, u16);

/// What is set by hand in the network header.
#[derive(Clone, Copy)]
pub(crate) struct Ip<'a> {
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// Flags and offset.
    pub(crate) fragment: u16,
    pub(crate) options: &'a [u8],
}

impl Default for Ip<'_> {
    fn default() -> Self {
        Self { ttl: 64, id: 0x1234, fragment: 0x4000, options: &[] }
    }
}

/// The Internet checksum of `data` (RFC 1071), as host order number.
pub(crate) fn checksum(data: &[u8]) -> u16 {
    let word = |w: &[u8]| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = data.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo_header(proto: u8, src: Ipv4Addr, dst: Ipv4Addr, l4: &[u8]) -> Vec<u8> {
    let mut bytes = [src.octets(), dst.octets()].concat();
    bytes.extend([0, proto]);
    bytes.extend((l4.len() as u16).to_be_bytes());
    bytes.extend(l4);
    bytes
}

fn check_off(proto: u8) -> usize {
    match proto {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

/// `l4` with its checksum filled in.
pub(crate) fn sealed(proto: u8, src: Ipv4Addr, dst: Ipv4Addr, mut l4: Vec<u8>) -> Vec<u8> {
    let sum = if proto == ICMP { checksum(&l4) } else { checksum(&pseudo_header(proto, src, dst, &l4)) };
    let sum = if proto == UDP && sum == 0 { 0xffff } else { sum };
    l4[check_off(proto)..check_off(proto) + 2].copy_from_slice(&sum.to_be_bytes());
    l4
}

/// A frame from `src_mac` to `dst_mac`.
pub(crate) fn frame(
    macs: ([u8; 6], [u8; 6]),
    ip: Ip<'_>,
    proto: u8,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    l4: &[u8],
) -> Vec<u8> {
    let mut bytes = [macs.1, macs.0].concat();
    bytes.extend([0x08, 0x00]);
    bytes.extend(packet(ip, proto, src, dst, l4));
    bytes
}

pub(crate) fn packet(ip: Ip<'_>, proto: u8, src: Ipv4Addr, dst: Ipv4Addr, l4: &[u8]) -> Vec<u8> {
    let header_len = 20 + ip.options.len();
    let mut header = vec![0x40 | (header_len / 4) as u8, 0xb8];
    header.extend(((header_len + l4.len()) as u16).to_be_bytes());
    header.extend(ip.id.to_be_bytes());
    header.extend(ip.fragment.to_be_bytes());
    header.extend([ip.ttl, proto, 0, 0]);
    header.extend(src.octets());
    header.extend(dst.octets());
    header.extend(ip.options);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(l4);
    header
}

pub(crate) fn tcp(src: End, dst: End, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut l4 = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    l4.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(payload);
    sealed(TCP, src.0, dst.0, l4)
}

pub(crate) fn udp(src: End, dst: End, payload: &[u8]) -> Vec<u8> {
    let mut l4 = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    l4.extend(((8 + payload.len()) as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    sealed(UDP, src.0, dst.0, l4)
}

pub(crate) fn echo(icmp_type: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut l4 = vec![icmp_type, 0, 0, 0];
    l4.extend(id.to_be_bytes());
    l4.extend([0, 7]);
    l4.extend(payload);
    sealed(ICMP, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, l4)
}

/// The parts of an IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) ttl: u8,
    pub(crate) proto: u8,
    pub(crate) header: Vec<u8>,
    pub(crate) l4: Vec<u8>,
}

impl Parts {
    pub(crate) fn of_frame(frame: &[u8]) -> Self {
        Self::of_packet(&frame[14..])
    }

    pub(crate) fn of_packet(packet: &[u8]) -> Self {
        let header_len = usize::from(packet[0] & 15) * 4;
        let addr = |off: usize| Ipv4Addr::new(packet[off], packet[off + 1], packet[off + 2], packet[off + 3]);
        Self {
            src: addr(12),
            dst: addr(16),
            ttl: packet[8],
            proto: packet[9],
            header: packet[..header_len].to_vec(),
            l4: packet[header_len..].to_vec(),
        }
    }

    pub(crate) fn ports(&self) -> (u16, u16) {
        let port = |off: usize| u16::from_be_bytes([self.l4[off], self.l4[off + 1]]);
        (port(0), port(2))
    }

    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.l4[4], self.l4[5]])
    }

    /// Both checksums are right, by calculation from scratch.
    pub(crate) fn assert_checksums(&self) {
        assert_eq!(checksum(&self.header), 0, "network header checksum: {self:?}");
        let sum = if self.proto == ICMP {
            checksum(&self.l4)
        } else {
            checksum(&pseudo_header(self.proto, self.src, self.dst, &self.l4))
        };
        assert_eq!(sum, 0, "transport checksum: {self:?}");
    }

    /// All but addresses, ports, hop count and checksums.
    pub(crate) fn rest(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        header[8] = 0;
        header[10..20].fill(0);
        let mut l4 = self.l4.clone();
        l4[check_off(self.proto)..check_off(self.proto) + 2].fill(0);
        if self.proto == ICMP {
            l4[4..6].fill(0)
        } else {
            l4[..4].fill(0)
        }
        [header, l4].concat()
    }
}
