//! Bounds-checked headers of a packet, reduced to what decisions need.

use netpath_common::{Address as _, FragmentKey, Reason, TcpFlags, Tuple, proto};

use crate::family::Family;
use crate::fault::{self, Fault};

/// The bytes of a packet.
pub trait Bytes {
    /// Copies a `T` out at `off`; `None` when it does not lie wholly inside the packet.
    ///
    /// `T` must be `repr(C)` without padding, and any bytes must make a valid `T`.
    fn get<T: Copy>(&self, off: usize) -> Option<T>;
}

/// Bounds an offset that was computed from a header, where the verifier can see it: the compiler would
/// leave the mask out, because it knows the offset to be small already.
#[inline(always)]
pub fn bounded(off: usize) -> usize {
    const MAX_OFF: usize = 0x3ff;
    core::hint::black_box(off) & MAX_OFF
}

/// What the network header says.
#[derive(Clone, Copy, Debug)]
pub struct L3<A> {
    pub src_addr: A,
    pub dst_addr: A,
    pub proto: u8,
    pub ttl: u8,
    /// Header checksum as it lies in memory, 0 where the family has none.
    pub check: u16,
    /// Offset of the transport header.
    pub l4_off: usize,
    /// Length from the start of the network header, in bytes.
    pub len: u32,
    pub fragment_id: u32,
    /// The protocol that all fragments of a packet say: in IPv6 that of the header after the fragment header.
    pub fragment_proto: u8,
    /// More-fragments bit (0x2000) and offset in units of eight bytes; 0: not a fragment.
    pub fragment: u16,
    /// Not 0: there are IPv4's options or IPv6's hop-by-hop options, some of which are for routers, and the kernel knows how
    /// to be one; or it is a later fragment that [follows](Packet::follow) its first one on the kernel's road.
    /// A number that nothing has been compared with, so that the verifier walks through what follows once.
    pub options: u8,
}

const MORE_FRAGMENTS: u16 = 0x2000;

impl<A> L3<A> {
    #[inline(always)]
    pub const fn is_first_fragment(&self) -> bool {
        self.fragment == MORE_FRAGMENTS
    }

    /// Whether a router has more to do with the packet than to count its hops down, or with its first fragment had.
    #[inline(always)]
    pub fn needs_router(&self) -> bool {
        (self.ttl <= 1 && !fault::is_active::<A>(Fault::LastHopForwarded)) || self.options != 0
    }

    /// A fragment without transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & !MORE_FRAGMENTS != 0
    }
}

/// What the transport header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
    Sctp,
    /// ICMP echo request.
    Request,
    /// ICMP echo reply.
    Reply,
    IcmpError,
    /// No ports that could be translated.
    Other,
    /// A later fragment: the ports are in another packet.
    LaterFragment,
}

/// A packet as decisions see it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<F: Family> {
    pub l3: L3<F::Addr>,
    pub tuple: Tuple<F::Addr>,
    pub kind: Kind,
    pub tcp: Tcp,
    /// Length from the start of the network header that the packet has on the wire, in bytes: that of
    /// one segment where the kernel will cut it. Equals `l3.len` unless set.
    pub segment_len: u32,
}

/// The part of a TCP header that connection states need; all zero for other protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    pub flags: TcpFlags,
    pub ack: u32,
    pub seq: u32,
    /// Sequence number after the packet's data.
    pub end: u32,
    /// In bytes, options included.
    pub header_len: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct TcpHeader {
    src_port: u16,
    dst_port: u16,
    seq: u32,
    ack: u32,
    data_offset: u8,
    flags: u8,
    _window: u16,
    _check: u16,
    _urgent: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct UdpHeader {
    src_port: u16,
    dst_port: u16,
    len: u16,
    _check: u16,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct SctpHeader {
    src_port: u16,
    dst_port: u16,
    _tag: u32,
    _check: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct IcmpHeader {
    icmp_type: u8,
    _code: u8,
    _check: u16,
    id: u16,
    _sequence: u16,
}

impl<F: Family> Packet<F> {
    /// Reads the packet whose network header lies at `l3_off`.
    ///
    /// # Errors
    ///
    /// [`Reason::Malformed`] when a header is cut short, contradicts the packet's length or has a wrong checksum.
    #[inline(always)]
    pub fn parse<B: Bytes>(bytes: &B, l3_off: usize) -> Result<Self, Reason> {
        let l3 = F::l3(bytes, l3_off)?;
        if !F::is_intact(bytes, l3_off, &l3) && !fault::is_active::<F::Addr>(Fault::HeaderChecksumUnread) {
            return Err(Reason::Malformed);
        }
        if l3.is_later_fragment() {
            return Ok(Self::new(l3, Kind::LaterFragment, 0, 0));
        }
        let l4_len = l3.len - (l3.l4_off - l3_off) as u32;
        if l3.proto == proto::TCP {
            Self::tcp(bytes, l3, l4_len)
        } else if l3.proto == proto::UDP {
            Self::udp(bytes, l3, l4_len)
        } else if l3.proto == F::ICMP {
            Self::icmp(bytes, l3, l4_len)
        } else if l3.proto == proto::SCTP {
            Self::sctp(bytes, l3, l4_len)
        } else {
            Ok(Self::new(l3, Kind::Other, 0, 0))
        }
    }

    #[inline(always)]
    fn new(l3: L3<F::Addr>, kind: Kind, src_port: u16, dst_port: u16) -> Self {
        let tuple = Tuple::new(l3.src_addr, src_port, l3.dst_addr, dst_port, l3.proto);
        Self { l3, tuple, kind, tcp: Tcp::default(), segment_len: l3.len }
    }

    #[inline(always)]
    fn tcp<B: Bytes>(bytes: &B, l3: L3<F::Addr>, l4_len: u32) -> Result<Self, Reason> {
        let header: TcpHeader = bytes.get(bounded(l3.l4_off)).ok_or(Reason::Malformed)?;
        let header_len = u32::from(header.data_offset >> 4) * 4;
        if header_len < 20 || header_len > l4_len {
            return Err(Reason::Malformed);
        }
        let flags = TcpFlags(header.flags);
        // SYN and FIN take a sequence number each (RFC 9293, 3.4).
        let phantom = u32::from(flags.has(TcpFlags::SYN)) + u32::from(flags.has(TcpFlags::FIN));
        let seq = u32::from_be(header.seq);
        let mut packet = Self::new(l3, Kind::Tcp, u16::from_be(header.src_port), u16::from_be(header.dst_port));
        packet.tcp = Tcp {
            flags,
            ack: u32::from_be(header.ack),
            seq,
            end: seq.wrapping_add(l4_len - header_len).wrapping_add(phantom),
            header_len,
        };
        Ok(packet)
    }

    #[inline(always)]
    fn udp<B: Bytes>(bytes: &B, l3: L3<F::Addr>, l4_len: u32) -> Result<Self, Reason> {
        let header: UdpHeader = bytes.get(bounded(l3.l4_off)).ok_or(Reason::Malformed)?;
        let len = u32::from(u16::from_be(header.len));
        // The first of several fragments carries the length of the whole datagram.
        if l4_len < 8 || len < 8 || (len > l4_len && !l3.is_first_fragment()) {
            return Err(Reason::Malformed);
        }
        Ok(Self::new(l3, Kind::Udp, u16::from_be(header.src_port), u16::from_be(header.dst_port)))
    }

    #[inline(always)]
    fn sctp<B: Bytes>(bytes: &B, l3: L3<F::Addr>, l4_len: u32) -> Result<Self, Reason> {
        let header: SctpHeader = bytes.get(bounded(l3.l4_off)).ok_or(Reason::Malformed)?;
        if l4_len < size_of::<SctpHeader>() as u32 {
            return Err(Reason::Malformed);
        }
        Ok(Self::new(l3, Kind::Sctp, u16::from_be(header.src_port), u16::from_be(header.dst_port)))
    }

    #[inline(always)]
    fn icmp<B: Bytes>(bytes: &B, l3: L3<F::Addr>, l4_len: u32) -> Result<Self, Reason> {
        let header: IcmpHeader = bytes.get(bounded(l3.l4_off)).ok_or(Reason::Malformed)?;
        if l4_len < 8 {
            return Err(Reason::Malformed);
        }
        let id = u16::from_be(header.id);
        Ok(if header.icmp_type == F::ICMP_ECHO_REQUEST {
            Self::new(l3, Kind::Request, id, 0)
        } else if header.icmp_type == F::ICMP_ECHO_REPLY {
            Self::new(l3, Kind::Reply, 0, id)
        } else if F::is_icmp_error(header.icmp_type) {
            Self::new(l3, Kind::IcmpError, 0, 0)
        } else {
            Self::new(l3, Kind::Other, 0, 0)
        })
    }

    /// Length of the transport header in bytes, where the kernel may cut the packet into segments.
    #[inline(always)]
    pub fn l4_header_len(&self) -> u32 {
        if self.kind == Kind::Tcp { self.tcp.header_len } else { 8 }
    }

    /// Whether the tuple's ports say anything: an ICMP identifier among them, and those that a later
    /// fragment got from its first one.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        match self.kind {
            Kind::Tcp | Kind::Udp | Kind::Sctp | Kind::Request | Kind::Reply => true,
            Kind::IcmpError | Kind::Other => false,
            Kind::LaterFragment => self.tuple.src_port != 0 || self.tuple.dst_port != 0,
        }
    }

    /// What all fragments of the packet have in common.
    #[inline(always)]
    pub fn fragment_key(&self) -> FragmentKey<F::Addr> {
        let L3 { src_addr, dst_addr, fragment_id, fragment_proto, .. } = &self.l3;
        let id = if fault::is_active::<F::Addr>(Fault::FragmentIdIgnored) { 0 } else { *fragment_id };
        FragmentKey::new(src_addr.by_words(), dst_addr.by_words(), id, *fragment_proto)
    }

    /// Puts the ports into a packet that carries none of its own: a later fragment.
    #[inline(always)]
    pub fn set_ports(&mut self, src_port: u16, dst_port: u16) {
        self.tuple.src_port = src_port;
        self.tuple.dst_port = dst_port;
    }

    /// Keeps a later fragment from shortcuts if its first one is on the kernel's road: `under_way` is its datagram's.
    #[inline(always)]
    pub fn follow(&mut self, under_way: u8) {
        self.l3.options |= under_way;
    }
}
