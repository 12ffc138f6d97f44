//! Frames as bytes, with checksums made and checked from scratch.

use std::net::IpAddr;

use proptest::sample::Index;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP4: u8 = 1;
pub(crate) const ICMP6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// One end of a flow.
pub(crate) type End = (IpAddr, u16);

/// What is set by hand in the network header.
#[derive(Clone, Copy)]
pub(crate) struct Ip<'a> {
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// Flags and offset.
    pub(crate) fragment: u16,
    /// IPv4's options; for IPv6 as many destination options.
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

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// What the transport checksum is the sum of.
pub(crate) fn covered(proto: u8, src: IpAddr, dst: IpAddr, l4: &[u8]) -> Vec<u8> {
    if proto == ICMP4 {
        return l4.to_vec();
    }
    let mut bytes = [octets(src), octets(dst)].concat();
    bytes.extend((l4.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, proto]);
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
pub(crate) fn sealed(proto: u8, src: IpAddr, dst: IpAddr, mut l4: Vec<u8>) -> Vec<u8> {
    l4[check_off(proto)..check_off(proto) + 2].fill(0);
    let sum = checksum(&covered(proto, src, dst, &l4));
    let sum = if proto == UDP && sum == 0 { 0xffff } else { sum };
    l4[check_off(proto)..check_off(proto) + 2].copy_from_slice(&sum.to_be_bytes());
    l4
}

/// A frame from `src_mac` to `dst_mac`.
pub(crate) fn frame(macs: ([u8; 6], [u8; 6]), ip: Ip<'_>, proto: u8, src: IpAddr, dst: IpAddr, l4: &[u8]) -> Vec<u8> {
    let mut bytes = [macs.1, macs.0].concat();
    bytes.extend(if src.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    bytes.extend(packet(ip, proto, src, dst, l4));
    bytes
}

/// A frame of TCP, UDP, ICMP echo or something else, by `kind` from 0 to 3; `flags` say what else there is to say.
pub(crate) fn of_kind(macs: ([u8; 6], [u8; 6]), kind: usize, src: End, dst: End, flags: u8) -> Vec<u8> {
    let l4 = match kind {
        0 => tcp(src, dst, flags, b"data"),
        1 => udp(src, dst, b"data"),
        2 => echo(src.0, dst.0, flags & 1 == 0, src.1, b"data"),
        _ => vec![flags; 40],
    };
    let icmp = if src.0.is_ipv4() { ICMP4 } else { ICMP6 };
    let fragment = if flags & 0xc0 == 0xc0 { u16::from(flags) << 5 } else { 0 };
    frame(macs, Ip { fragment, ..Ip::default() }, [TCP, UDP, icmp, flags][kind], src.0, dst.0, &l4)
}

/// The frame with some of its bytes replaced.
pub(crate) fn flipped(mut frame: Vec<u8>, flips: Vec<(Index, u8)>) -> Vec<u8> {
    for (index, value) in flips {
        let at = index.index(frame.len());
        frame[at] = value;
    }
    frame
}

pub(crate) fn packet(ip: Ip<'_>, proto: u8, src: IpAddr, dst: IpAddr, l4: &[u8]) -> Vec<u8> {
    let mut packet =
        if src.is_ipv4() { header4(ip, proto, src, dst, l4.len()) } else { header6(ip, proto, src, dst, l4.len()) };
    packet.extend(l4);
    packet
}

fn header4(ip: Ip<'_>, proto: u8, src: IpAddr, dst: IpAddr, l4_len: usize) -> Vec<u8> {
    let header_len = 20 + ip.options.len();
    let mut header = vec![0x40 | (header_len / 4) as u8, 0xb8];
    header.extend(((header_len + l4_len) as u16).to_be_bytes());
    header.extend(ip.id.to_be_bytes());
    header.extend(ip.fragment.to_be_bytes());
    header.extend([ip.ttl, proto, 0, 0]);
    header.extend(octets(src));
    header.extend(octets(dst));
    header.extend(ip.options);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn header6(ip: Ip<'_>, proto: u8, src: IpAddr, dst: IpAddr, l4_len: usize) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    const DESTINATION_OPTIONS: u8 = 60;
    let (offset, more) = (ip.fragment & 0x1fff, ip.fragment >> 13 & 1);
    let mut next = proto;
    // From the back to the front: each header names the one behind it.
    let mut extensions = Vec::new();
    if (offset, more) != (0, 0) {
        extensions = vec![next, 0];
        extensions.extend((offset << 3 | more).to_be_bytes());
        extensions.extend(u32::from(ip.id).to_be_bytes());
        next = FRAGMENT;
    }
    if !ip.options.is_empty() {
        let units = (ip.options.len() + 2).div_ceil(8);
        let mut options = vec![next, units as u8 - 1];
        // One-byte padding options.
        options.resize(8 * units, 0);
        extensions.splice(..0, options);
        next = DESTINATION_OPTIONS;
    }
    let mut header = vec![0x6b, 0x81, 0x23, 0x45];
    header.extend(((extensions.len() + l4_len) as u16).to_be_bytes());
    header.extend([next, ip.ttl]);
    header.extend(octets(src));
    header.extend(octets(dst));
    header.extend(extensions);
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

/// An echo request or reply from `src` to `dst`.
pub(crate) fn echo(src: IpAddr, dst: IpAddr, is_request: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let icmp_type = match (src.is_ipv4(), is_request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let mut l4 = vec![icmp_type, 0, 0, 0];
    l4.extend(id.to_be_bytes());
    l4.extend([0, 7]);
    l4.extend(payload);
    sealed(if src.is_ipv4() { ICMP4 } else { ICMP6 }, src, dst, l4)
}

/// The parts of an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) proto: u8,
    /// With options and extension headers.
    pub(crate) header: Vec<u8>,
    pub(crate) l4: Vec<u8>,
}

impl Parts {
    pub(crate) fn of_frame(frame: &[u8]) -> Self {
        Self::of_packet(&frame[14..])
    }

    pub(crate) fn of_packet(packet: &[u8]) -> Self {
        if packet[0] >> 4 == 4 { Self::of_packet4(packet) } else { Self::of_packet6(packet) }
    }

    fn of_packet4(packet: &[u8]) -> Self {
        let header_len = usize::from(packet[0] & 15) * 4;
        let addr = |off: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[off..off + 4]).unwrap());
        Self {
            src: addr(12),
            dst: addr(16),
            ttl: packet[8],
            proto: packet[9],
            header: packet[..header_len].to_vec(),
            l4: packet[header_len..].to_vec(),
        }
    }

    fn of_packet6(packet: &[u8]) -> Self {
        let addr = |off: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[off..off + 16]).unwrap());
        let (mut proto, mut header_len) = (packet[6], 40);
        while [44, 60].contains(&proto) && packet.len() > header_len + 1 {
            let len = if proto == 44 { 8 } else { 8 + 8 * usize::from(packet[header_len + 1]) };
            (proto, header_len) = (packet[header_len], header_len + len);
        }
        let header_len = header_len.min(packet.len());
        Self {
            src: addr(8),
            dst: addr(24),
            ttl: packet[7],
            proto,
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

    /// The network header's checksum is right, by calculation from scratch; IPv6 has none.
    pub(crate) fn assert_header_checksum(&self) {
        if self.src.is_ipv4() {
            assert_eq!(checksum(&self.header), 0, "network header checksum: {self:?}");
        }
    }

    /// All checksums are right, by calculation from scratch.
    pub(crate) fn assert_checksums(&self) {
        self.assert_header_checksum();
        let sum = checksum(&covered(self.proto, self.src, self.dst, &self.l4));
        assert_eq!(sum, 0, "transport checksum: {self:?}");
    }

    /// All but addresses, ports, hop count and checksums.
    pub(crate) fn rest(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        if self.src.is_ipv4() {
            header[8] = 0;
            header[10..20].fill(0);
        } else {
            header[7..40].fill(0);
        }
        let mut l4 = self.l4.clone();
        l4[check_off(self.proto)..check_off(self.proto) + 2].fill(0);
        if [ICMP4, ICMP6].contains(&self.proto) {
            l4[4..6].fill(0)
        } else {
            l4[..4].fill(0)
        }
        [header, l4].concat()
    }
}
