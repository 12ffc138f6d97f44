//! [`Env`] of the running kernel: maps and helpers.

use core::{
    arch::asm,
    hint::{black_box, cold_path},
    ptr,
};

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_F_CURRENT_NETNS, BPF_NOEXIST, bpf_fib_lookup},
    helpers,
    maps::lpm_trie,
};
use netpath_common::{
    Address, AllowedSource, Config, Endpoint, Event, EventKind, External, Flow, Inside, Link, LinkKey, Mapping,
    MappingKey, Network, PortKey, PortSource, PortTarget, Reach, Reason, Share, TrustedKey, Tuple, config_flag,
    port_bit, proto, seconds,
};
use netpath_ebpf::{
    env::{Env, Refused, Route},
    mapping::Request,
    packet::Packet,
};

use super::{event, family_maps::FamilyMaps, frame::Context, maps};

/// Set by the agent to 0 where the kernel lacks `bpf_ktime_get_coarse_ns` (before 5.11).
#[unsafe(no_mangle)]
static COARSE_CLOCK: u8 = 1;

/// The running kernel, while it handles one packet.
pub(super) struct Kernel<'a, C> {
    pub(super) ctx: &'a C,
}

impl<C: Context> Kernel<'_, C> {
    /// What socket of the host would take a packet with this tuple. Other protocols' sockets than those of TCP
    /// and UDP cannot be looked up.
    #[inline(never)]
    fn socket<F: FamilyMaps>(&self, tuple: &Tuple<F::Addr>) -> u32 {
        const LISTEN: u32 = 10;
        let (mut params, len) = F::socket_tuple(tuple);
        let (ctx, params, netns) = (self.ctx.as_ptr(), &raw mut params, BPF_F_CURRENT_NETNS as u64);
        // SAFETY: context and tuple are valid for the calls; a socket found is released after its last use. To
        // the verifier the two helpers return different types, so nothing but the release is done with both.
        unsafe {
            let (socket, kind) = if tuple.proto == proto::TCP {
                let socket = helpers::generated::bpf_skc_lookup_tcp(ctx, params, len, netns, 0);
                if socket.is_null() {
                    return socket::NONE;
                }
                (socket, if (*socket).state == LISTEN { socket::OPEN } else { socket::CONNECTED })
            } else if tuple.proto == proto::UDP {
                let socket = helpers::generated::bpf_sk_lookup_udp(ctx, params, len, netns, 0);
                if socket.is_null() {
                    return socket::NONE;
                }
                (socket, if (*socket).dst_port == 0 { socket::OPEN } else { socket::CONNECTED })
            } else {
                return socket::NONE;
            };
            helpers::generated::bpf_sk_release(socket.cast());
            kind
        }
    }
}

/// What a look-up of a socket found.
mod socket {
    pub(super) const NONE: u32 = 0;
    /// A socket that takes packets from anywhere.
    pub(super) const OPEN: u32 = 1;
    /// A socket that takes packets with exactly this tuple, in whatever state its connection is.
    pub(super) const CONNECTED: u32 = 2;
}

/// Turns a map helper's result into ours.
#[inline(always)]
fn inserted(result: Result<(), i32>) -> Result<(), Refused> {
    result.map_err(|_| Refused)
}

impl<F: FamilyMaps, C: Context> Env<F> for Kernel<'_, C> {
    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        maps::CONFIG.get(0)
    }

    #[inline(always)]
    fn network(&self, index: u32) -> Option<&Network> {
        maps::NETWORKS.get(index)
    }

    #[inline(always)]
    fn endpoint(&self, index: u32) -> Option<&Endpoint> {
        maps::ENDPOINTS.get(index)
    }

    #[inline(always)]
    fn endpoint_index(&self, addr: &F::Addr) -> Option<u32> {
        // SAFETY: one word, and the endpoint's address is compared wherever it matters.
        unsafe { F::addresses().get(addr) }.copied()
    }

    #[inline(always)]
    fn in_any_network(&self, addr: &F::Addr) -> bool {
        F::in_prefixes(addr)
    }

    #[inline(always)]
    fn external(&self, ifindex: u32) -> Option<&External> {
        if let Some(config) = maps::CONFIG.get(0)
            && config.primary_ifindex == ifindex
        {
            return Some(&config.primary);
        }
        // SAFETY: a reader sees the old or the new address of the interface.
        unsafe { maps::EXTERNALS.get(ifindex) }
    }

    #[inline(always)]
    fn published_port(&self, key: &PortKey<F::Addr>) -> Option<&PortTarget> {
        // SAFETY: entries name the endpoint's generation, so a recycled one leads nowhere.
        unsafe { F::published_ports().get(key) }
    }

    #[inline(always)]
    fn published_source(&self, key: &PortKey<F::Addr>) -> Option<&PortSource<F::Addr>> {
        // SAFETY: removed only together with the endpoint or by unpublish; a recycled value is the source
        // of another port for the packets of that instant.
        unsafe { F::published_sources().get(key) }
    }

    #[inline(always)]
    fn is_port_published(&self, proto: u8, port: u16) -> bool {
        port_bit(proto, port).is_some_and(|(word, bit)| maps::PORT_BITS.get(word).is_some_and(|bits| bits & bit != 0))
    }

    #[inline(always)]
    fn is_source_published(&self, proto: u8, port: u16) -> bool {
        port_bit(proto, port).is_some_and(|(word, bit)| maps::SOURCE_BITS.get(word).is_some_and(|bits| bits & bit != 0))
    }

    /// Not inlined, for a stack of its own: few ports have a list.
    #[inline(never)]
    fn is_source_allowed(&self, binding: u32, addr: &F::Addr) -> bool {
        let key = AllowedSource { binding, addr: *addr };
        let key = lpm_trie::Key::new(32 + F::Addr::LEN as u32 * 8, key);
        F::allowed().get(&key).is_some()
    }

    #[inline(always)]
    fn link(&self, key: &LinkKey) -> Option<&Link> {
        // SAFETY: an index into COUNTERS; a recycled one counts for another link for an instant.
        unsafe { maps::LINKS.get(key) }
    }

    #[inline(always)]
    fn is_trusted(&self, key: &TrustedKey) -> bool {
        // SAFETY: only whether it is there matters.
        unsafe { maps::TRUSTED.get(key) }.is_some()
    }

    #[inline(always)]
    fn flow(&self, tuple: &Tuple<F::Addr>) -> Option<*mut Flow<F::Addr>> {
        F::flows().get_ptr_mut(tuple)
    }

    #[inline(always)]
    fn insert_flow(&self, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), Refused> {
        inserted(F::flows().insert(tuple, flow, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn replace_flow(&self, tuple: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), Refused> {
        inserted(F::flows().insert(tuple, flow, u64::from(BPF_EXIST)))
    }

    #[inline(always)]
    fn remove_flow(&self, tuple: &Tuple<F::Addr>) -> bool {
        F::flows().remove(tuple).is_ok()
    }

    #[inline(always)]
    fn add(&self, word: &mut u64, change: u64) {
        // The compiler has no atomic addition for BPF.
        // SAFETY: one instruction that adds to an aligned word of a map's value.
        unsafe { asm!("lock *(u64 *)({word} + 0) += {change}", word = in(reg) word, change = in(reg) change) };
    }

    #[inline(always)]
    fn share(&self, endpoint: u32) -> Option<*mut Share> {
        F::shares().get_ptr_mut(endpoint)
    }

    #[inline(always)]
    fn mapping(&self, key: &MappingKey<F::Addr>) -> Option<*mut Mapping<F::Addr>> {
        F::mappings().get_ptr_mut(key)
    }

    #[inline(always)]
    fn insert_mapping(&self, key: &MappingKey<F::Addr>, mapping: &Mapping<F::Addr>) -> Result<(), Refused> {
        inserted(F::mappings().insert(key, mapping, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn reach(&self, bucket: u32) -> Option<*mut Reach> {
        maps::REACHES.get_ptr_mut(bucket)
    }

    #[inline(always)]
    fn reply(&self, tuple: &Tuple<F::Addr>) -> Option<&Inside<F::Addr>> {
        // SAFETY: the flow is looked up by what this says and compared.
        unsafe { F::replies().get(tuple) }
    }

    #[inline(always)]
    fn insert_reply(&self, tuple: &Tuple<F::Addr>, inside: &Inside<F::Addr>) -> Result<(), Refused> {
        inserted(F::replies().insert(tuple, inside, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn remove_reply(&self, tuple: &Tuple<F::Addr>) {
        let _ = F::replies().remove(tuple);
    }

    #[inline(always)]
    fn ring(&self, position: u32) -> Option<*mut Tuple<F::Addr>> {
        F::flow_ring().get_ptr_mut(position)
    }

    #[inline(always)]
    fn advance_ring(&self, len: u32) -> u32 {
        let Some(hand) = maps::RING_HAND.get_ptr_mut(0) else { return 0 };
        // SAFETY: this CPU's own element.
        let hand = unsafe { &mut *hand };
        if *hand == 0 {
            // CPUs begin at different places. 2^32 / golden ratio.
            // SAFETY: no arguments.
            let cpu = unsafe { helpers::bpf_get_smp_processor_id() };
            let spread = cpu.wrapping_mul(0x9e37_79b9);
            *hand = 1 + ((u64::from(spread) * u64::from(len)) >> 32) as u32;
        }
        let position = *hand - 1;
        *hand = if *hand >= len { 1 } else { *hand + 1 };
        position
    }

    /// Parks the request: one stack would not do for deciding and for making a flow.
    #[inline(always)]
    fn begin(&self, _config: &Config, request: &Request<'_, F>) -> Result<u16, Reason> {
        if let Some(parked) = F::parked() {
            // SAFETY: this CPU's own element, and programs do not interrupt each other on one CPU.
            unsafe { (*parked).park(request) };
        }
        Err(Reason::FlowTableFull)
    }

    #[inline(always)]
    fn try_lock(&self, name: u64) -> bool {
        maps::LOCKS.insert(name, 1, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn unlock(&self, name: u64) {
        let _ = maps::LOCKS.remove(name);
    }

    #[inline(always)]
    fn now_s(&self) -> u32 {
        // SAFETY: a valid static; volatile, because the agent sets it when it loads the object. The
        // helpers take no arguments.
        unsafe {
            seconds(if ptr::read_volatile(&raw const COARSE_CLOCK) != 0 {
                helpers::generated::bpf_ktime_get_coarse_ns()
            } else {
                helpers::bpf_ktime_get_ns()
            })
        }
    }

    #[inline(never)]
    fn route(&self, packet: &Packet<F>, sender: &Endpoint) -> Route<F::Addr> {
        const _: () = assert!(size_of::<bpf_fib_lookup>() == 64);
        // A zero that LLVM does not know, or it makes a call to a byte loop of this.
        let mut words = [black_box(0u64); 8];
        // SAFETY: as large as the struct and aligned better; plain integers, for which zero is valid.
        let params = unsafe { &mut *words.as_mut_ptr().cast::<bpf_fib_lookup>() };
        let tuple = &packet.tuple;
        F::set_route(params, &tuple.src_addr, &tuple.dst_addr);
        params.l4_protocol = tuple.proto;
        params.sport = tuple.src_port.to_be();
        params.dport = tuple.dst_port.to_be();
        params.__bindgen_anon_1.tot_len = packet.segment_len.min(u32::from(u16::MAX)) as u16;
        params.ifindex = sender.gateway_ifindex;
        const SUCCESS: i64 = 0;
        const NO_NEIGHBOUR: i64 = 7;
        const FRAGMENTATION_NEEDED: i64 = 8;
        const INVALID: i64 = -22;
        /// `bpf_redirect_neigh` looks the neighbour up anyway. From Linux 6.3 on.
        const SKIP_NEIGHBOUR: u32 = 4;
        let lookup = |params: &mut bpf_fib_lookup, flags| {
            let len = size_of::<bpf_fib_lookup>() as i32;
            // SAFETY: context and parameters are valid for the call.
            unsafe { helpers::generated::bpf_fib_lookup(self.ctx.as_ptr(), &raw mut *params, len, flags) }
        };
        let mut result = lookup(params, SKIP_NEIGHBOUR);
        if result == INVALID {
            cold_path();
            result = lookup(params, 0);
        }
        if result == SUCCESS || result == NO_NEIGHBOUR {
            return Route::To { ifindex: params.ifindex, next_hop: F::next_hop(params) };
        }
        if result == FRAGMENTATION_NEEDED {
            cold_path();
            // Which interface it would leave by matters for what is too big, too.
            params.__bindgen_anon_1.tot_len = 0;
            if lookup(params, 0) >= 0 {
                return Route::TooBig { ifindex: params.ifindex };
            }
        }
        Route::Kernel
    }

    #[inline(always)]
    fn host_socket(&self, tuple: &Tuple<F::Addr>) -> bool {
        self.socket::<F>(tuple) != socket::NONE
    }

    #[inline(always)]
    fn host_connection(&self, tuple: &Tuple<F::Addr>) -> bool {
        self.socket::<F>(tuple) == socket::CONNECTED
    }

    #[inline(never)]
    fn announce(&self, tuple: &Tuple<F::Addr>, nat_port: u16) {
        if maps::CONFIG.get(0).is_some_and(|c| c.flags & config_flag::MONITOR != 0) {
            event::emit(&Event {
                kind: EventKind::NewFlow as u32,
                reason: 0,
                ifindex: self.ctx.ifindex(),
                len: self.ctx.frame_len(),
                src_addr: event::widen(&tuple.src_addr),
                dst_addr: event::widen(&tuple.dst_addr),
                src_port: tuple.src_port,
                dst_port: tuple.dst_port,
                nat_port,
                proto: tuple.proto,
                family: event::family_of::<F>(),
            });
        }
    }
}
