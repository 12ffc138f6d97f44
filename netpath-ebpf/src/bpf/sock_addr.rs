//! The context of a program on a socket: what the owner of the socket wants, and the socket itself.

use core::{
    mem::{MaybeUninit, offset_of},
    ptr,
};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock_addr},
    helpers::generated,
    maps::{Array, LruHashMap},
    programs::SockAddrContext,
};
use netpath_common::{
    Addr4, Addr6, Address, Endpoint, HostPeer, HostPeerKey, PortKey, PortTarget, Tuple, port_bit, proto,
};
use netpath_ebpf::{
    family::{V4, V6},
    host::{HostEnv, SocketFamily, mapped, unmapped},
};

use super::{family_maps::FamilyMaps, maps};

/// Set by the agent to 0 where programs may not read kernel memory (before 5.10, or locked down).
#[unsafe(no_mangle)]
static READ_KERNEL: u8 = 1;

/// A family's fields of the context.
pub(super) trait SockAddr: FamilyMaps + SocketFamily {
    fn peers() -> &'static LruHashMap<HostPeerKey<Self::Addr>, HostPeer<Self::Addr>>;
    fn reserved() -> &'static Array<u64>;
    /// What the owner of the socket asked for who is led to this address.
    fn peer(sock: &Sock<'_>, addr: &Self::Addr, port: u16) -> Option<HostPeer<Self::Addr>>;
    fn addr(sock: &Sock<'_>) -> Self::Addr;
    fn set_addr(sock: &Sock<'_>, addr: &Self::Addr);
    /// The source of the datagram; unspecified when nobody chose one.
    fn message_source(sock: &Sock<'_>) -> Self::Addr;
    fn set_message_source(sock: &Sock<'_>, addr: &Self::Addr);
    /// The address the socket is bound to.
    fn own_addr(sock: &Sock<'_>) -> Self::Addr;
    /// Gives the socket an address of its own and no port yet.
    fn bind(sock: &Sock<'_>, addr: &Self::Addr);
}

impl SockAddr for V4 {
    #[inline(always)]
    fn peers() -> &'static LruHashMap<HostPeerKey<Addr4>, HostPeer<Addr4>> {
        &maps::HOST_PEERS_V4
    }

    #[inline(always)]
    fn reserved() -> &'static Array<u64> {
        &maps::RESERVED_V4
    }

    #[inline(always)]
    fn peer(sock: &Sock<'_>, addr: &Addr4, port: u16) -> Option<HostPeer<Addr4>> {
        recall::<V4>(sock, addr, port)
    }

    #[inline(always)]
    fn addr(sock: &Sock<'_>) -> Addr4 {
        Addr4(sock.load(offset_of!(bpf_sock_addr, user_ip4)).to_ne_bytes())
    }

    #[inline(always)]
    fn set_addr(sock: &Sock<'_>, addr: &Addr4) {
        sock.store(offset_of!(bpf_sock_addr, user_ip4), addr.words()[0]);
    }

    #[inline(always)]
    fn message_source(sock: &Sock<'_>) -> Addr4 {
        Addr4(sock.load(offset_of!(bpf_sock_addr, msg_src_ip4)).to_ne_bytes())
    }

    #[inline(always)]
    fn set_message_source(sock: &Sock<'_>, addr: &Addr4) {
        sock.store(offset_of!(bpf_sock_addr, msg_src_ip4), addr.words()[0]);
    }

    #[inline(always)]
    fn own_addr(sock: &Sock<'_>) -> Addr4 {
        // SAFETY: the kernel gives these programs a full socket; its fields are read as words.
        Addr4(unsafe { ptr::read_volatile(&raw const (*sock.socket()).src_ip4) }.to_ne_bytes())
    }

    #[inline(never)]
    fn bind(sock: &Sock<'_>, addr: &Addr4) {
        const AF_INET: u32 = 2;
        let mut sockaddr = [u32::from_ne_bytes(first_half(AF_INET)), addr.words()[0], 0, 0];
        sock.bind(sockaddr.as_mut_ptr(), size_of_val(&sockaddr));
    }
}

impl SockAddr for V6 {
    #[inline(always)]
    fn peers() -> &'static LruHashMap<HostPeerKey<Addr6>, HostPeer<Addr6>> {
        &maps::HOST_PEERS_V6
    }

    #[inline(always)]
    fn reserved() -> &'static Array<u64> {
        &maps::RESERVED_V6
    }

    #[inline(always)]
    fn peer(sock: &Sock<'_>, addr: &Addr6, port: u16) -> Option<HostPeer<Addr6>> {
        if let Some(peer) = recall::<V6>(sock, addr, port) {
            return Some(peer);
        }
        // The kernel sends datagrams to v4-mapped addresses as IPv4 sockets do, through `host_sendmsg4`.
        let peer = recall::<V4>(sock, &unmapped(addr)?, port)?;
        Some(HostPeer::new(mapped(peer.addr), peer.port))
    }

    #[inline(always)]
    fn addr(sock: &Sock<'_>) -> Addr6 {
        sock.load6(offset_of!(bpf_sock_addr, user_ip6))
    }

    #[inline(always)]
    fn set_addr(sock: &Sock<'_>, addr: &Addr6) {
        sock.store6(offset_of!(bpf_sock_addr, user_ip6), addr);
    }

    #[inline(always)]
    fn message_source(sock: &Sock<'_>) -> Addr6 {
        sock.load6(offset_of!(bpf_sock_addr, msg_src_ip6))
    }

    #[inline(always)]
    fn set_message_source(sock: &Sock<'_>, addr: &Addr6) {
        sock.store6(offset_of!(bpf_sock_addr, msg_src_ip6), addr);
    }

    #[inline(always)]
    fn own_addr(sock: &Sock<'_>) -> Addr6 {
        // SAFETY: as in V4's.
        let word = |i: usize| unsafe { ptr::read_volatile((&raw const (*sock.socket()).src_ip6).cast::<u32>().add(i)) };
        Addr6::from_words([word(0), word(1), word(2), word(3)])
    }

    #[inline(never)]
    fn bind(sock: &Sock<'_>, addr: &Addr6) {
        const AF_INET6: u32 = 10;
        let [a, b, c, d] = addr.words();
        let mut sockaddr = [u32::from_ne_bytes(first_half(AF_INET6)), 0, a, b, c, d, 0];
        sock.bind(sockaddr.as_mut_ptr(), size_of_val(&sockaddr));
    }
}

/// Family, and port 0 behind it, as a socket address begins.
#[inline(always)]
const fn first_half(family: u32) -> [u8; 4] {
    let [low, high] = (family as u16).to_ne_bytes();
    [low, high, 0, 0]
}

#[inline(always)]
fn recall<F: SockAddr>(sock: &Sock<'_>, addr: &F::Addr, port: u16) -> Option<HostPeer<F::Addr>> {
    let key = HostPeerKey::new(sock.cookie(), *addr, port);
    // SAFETY: a recycled value is the name of another socket's peer, for the look-up of that instant.
    unsafe { F::peers().get(&key) }.copied()
}

/// The socket in hand, and what its owner wants of it.
pub(super) struct Sock<'a> {
    pub(super) ctx: &'a SockAddrContext,
}

impl Sock<'_> {
    /// Whether the socket lives in the host's network namespace.
    #[inline(always)]
    pub(super) fn is_host(&self) -> bool {
        // SAFETY: the context is valid for the whole program.
        let cookie = unsafe { generated::bpf_get_netns_cookie(self.ctx.as_ptr()) };
        maps::CONFIG.get(0).is_some_and(|config| config.netns_cookie != 0 && config.netns_cookie == cookie)
    }

    #[inline(always)]
    pub(super) fn cookie(&self) -> u64 {
        // SAFETY: as in `is_host`.
        unsafe { generated::bpf_get_socket_cookie(self.ctx.as_ptr()) }
    }

    /// Host byte order.
    #[inline(always)]
    pub(super) fn port(&self) -> u16 {
        u16::from_be(self.load(offset_of!(bpf_sock_addr, user_port)) as u16)
    }

    #[inline(always)]
    pub(super) fn set_port(&self, port: u16) {
        self.store(offset_of!(bpf_sock_addr, user_port), u32::from(port.to_be()));
    }

    /// MPTCP counts as the TCP that it looks like.
    #[inline(always)]
    pub(super) fn proto(&self) -> u8 {
        const MPTCP: u32 = 262;
        match self.load(offset_of!(bpf_sock_addr, protocol)) {
            MPTCP => proto::TCP,
            number if number < 256 => number as u8,
            _ => 0,
        }
    }

    #[inline(always)]
    fn socket(&self) -> *mut aya_ebpf::bindings::bpf_sock {
        // SAFETY: as in `is_host`; volatile, so that the load is the one that the verifier knows.
        unsafe { ptr::read_volatile(&raw const (*self.ctx.sock_addr).__bindgen_anon_1.sk) }
    }

    #[inline(always)]
    fn bind(&self, sockaddr: *mut u32, len: usize) {
        // SAFETY: context and address are valid for the call.
        let _ = unsafe { generated::bpf_bind(self.ctx.sock_addr, sockaddr.cast(), len as i32) };
    }

    /// Reads a word. Volatile: LLVM would make a narrow or a wide load of it, which the verifier may refuse.
    #[inline(always)]
    fn load(&self, off: usize) -> u32 {
        // SAFETY: the verifier checks that a field of the context begins there.
        unsafe { ptr::read_volatile(self.ctx.sock_addr.cast::<u32>().byte_add(off)) }
    }

    #[inline(always)]
    fn store(&self, off: usize, value: u32) {
        // SAFETY: as in `load`.
        unsafe { ptr::write_volatile(self.ctx.sock_addr.cast::<u32>().byte_add(off), value) };
    }

    #[inline(always)]
    fn load6(&self, off: usize) -> Addr6 {
        Addr6::from_words([self.load(off), self.load(off + 4), self.load(off + 8), self.load(off + 12)])
    }

    #[inline(always)]
    fn store6(&self, off: usize, addr: &Addr6) {
        let [a, b, c, d] = addr.words();
        self.store(off, a);
        self.store(off + 4, b);
        self.store(off + 8, c);
        self.store(off + 12, d);
    }
}

impl<F: SockAddr> HostEnv<F> for Sock<'_> {
    #[inline(always)]
    fn is_port_reserved(&self, proto: u8, port: u16) -> bool {
        is_set(F::reserved(), proto, port)
    }

    #[inline(always)]
    fn published_port(&self, key: &PortKey<F::Addr>) -> Option<&PortTarget> {
        // SAFETY: entries name the endpoint's generation, so a recycled one leads nowhere.
        unsafe { F::published_ports().get(key) }
    }

    #[inline(always)]
    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        maps::ENDPOINTS.get(index)
    }

    #[inline(never)]
    fn has_receiver(&self, addr: &F::Addr, port: u16, proto: u8) -> bool {
        let (mut params, len) = F::socket_tuple(&Tuple::new(*addr, 0, *addr, port, proto));
        let netns = BPF_F_CURRENT_NETNS as u64;
        // SAFETY: context and tuple are valid for the call; the socket found is released.
        unsafe {
            let socket = if proto == proto::TCP {
                generated::bpf_skc_lookup_tcp(self.ctx.as_ptr(), &raw mut params, len, netns, 0)
            } else {
                generated::bpf_sk_lookup_udp(self.ctx.as_ptr(), &raw mut params, len, netns, 0)
            };
            if socket.is_null() {
                return false;
            }
            generated::bpf_sk_release(socket.cast());
        }
        true
    }

    #[inline(always)]
    fn own_addr(&self) -> F::Addr {
        F::own_addr(self)
    }

    /// `bpf_getsockopt` does not know `IPV6_V6ONLY`; the bit has kept its place in `struct sock_common` since
    /// Linux 3.13. Where it cannot be read, a socket counts as one for both families.
    #[inline(never)]
    fn is_v6_only(&self) -> bool {
        // SAFETY: a valid static; volatile, because the agent sets it when it loads the object.
        if unsafe { ptr::read_volatile(&raw const READ_KERNEL) } == 0 {
            return false;
        }
        /// The beginning of `struct sock_common`.
        #[repr(C)]
        struct SockCommon {
            _addrs_hash_and_ports: [u32; 4],
            family: u16,
            _state: u8,
            /// `skc_reuse:4, skc_reuseport:1, skc_ipv6only:1, skc_net_refcnt:1`
            bits: u8,
        }
        const AF_INET6: u16 = 10;
        let bit = if cfg!(target_endian = "little") { 1 << 5 } else { 1 << 2 };
        let mut common = MaybeUninit::<SockCommon>::uninit();
        // SAFETY: the helper writes the whole buffer whether it succeeds or not, and any bytes make a value.
        let common = unsafe {
            let len = size_of::<SockCommon>() as u32;
            generated::bpf_probe_read_kernel(common.as_mut_ptr().cast(), len, self.socket().cast());
            common.assume_init()
        };
        common.family == AF_INET6 && common.bits & bit != 0
    }
}

/// Whether the port's bit is set in one of the arrays that `port_bit` is for.
#[inline(always)]
pub(super) fn is_set(bits: &Array<u64>, proto: u8, port: u16) -> bool {
    port_bit(proto, port).is_some_and(|(word, bit)| bits.get(word).is_some_and(|bits| bits & bit != 0))
}
