//! Maps and entry points. Nothing here is part of netpath.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_OK, TC_ACT_PIPE, TC_ACT_SHOT, xdp_action},
    helpers::{bpf_redirect, bpf_redirect_peer},
    macros::{classifier, map, xdp},
    maps::{Array, HashMap, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use netpath_bench_ebpf::{DST_PORT_OFF, FRAME_LEN, Order, SRC_PORT_OFF};

/// One order. The bench writes it, `generate` reads it.
#[map]
static ORDER: Array<Order> = Array::with_max_entries(1, 0);

/// Frames made so far. The bench sets it to 0; one CPU at a time makes frames.
#[map]
static MADE: Array<u64> = Array::with_max_entries(1, 0);

/// Frames that arrived, on each CPU.
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The interface that `redirect_only` redirects to.
#[map]
static TARGET: Array<u32> = Array::with_max_entries(1, 0);

/// What `reference` looks up.
#[map]
static LOOKED_UP: HashMap<[u8; 16], u64> = HashMap::with_max_entries(1024, 0);

/// Writes a frame and sends it out. A frame is used again and holds what the network wrote into it, so every byte is
/// written.
#[xdp]
pub(super) fn generate(ctx: XdpContext) -> u32 {
    let (Some(order), Some(made)) = (ORDER.get(0), MADE.get_ptr_mut(0)) else { return xdp_action::XDP_ABORTED };
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + FRAME_LEN > end {
        return xdp_action::XDP_ABORTED;
    }
    let frame = start as *mut u8;
    // SAFETY: the look-up returned a live element, which one CPU at a time changes.
    let number = unsafe {
        *made += 1;
        (*made - 1) as u32
    };
    // SAFETY: the check above says that FRAME_LEN bytes are there.
    unsafe { frame.cast::<[u8; FRAME_LEN]>().write_unaligned(order.frame) };
    if order.src_ports > 1 {
        let port = |off: usize| u16::from_be_bytes([order.frame[off], order.frame[off + 1]]);
        let src_port = port(SRC_PORT_OFF).wrapping_add((number % order.src_ports) as u16);
        let dst_port = port(DST_PORT_OFF).wrapping_add((number / order.src_ports) as u16);
        // SAFETY: both lie below FRAME_LEN.
        unsafe {
            frame.add(SRC_PORT_OFF).cast::<[u8; 2]>().write_unaligned(src_port.to_be_bytes());
            frame.add(DST_PORT_OFF).cast::<[u8; 2]>().write_unaligned(dst_port.to_be_bytes());
        }
    }
    if order.ifindex == 0 {
        return xdp_action::XDP_DROP;
    }
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(order.ifindex, 0) as u32 }
}

/// Counts UDP datagrams and drops them; all else goes on.
#[classifier]
pub(super) fn count_and_drop(ctx: TcContext) -> i32 {
    const ETHER_TYPE_OFF: usize = 12;
    const PROTO_OFF: usize = 23;
    let is_ipv4 = ctx.load::<[u8; 2]>(ETHER_TYPE_OFF) == Ok([0x08, 0x00]);
    if !is_ipv4 || ctx.load::<u8>(PROTO_OFF) != Ok(17) {
        return TC_ACT_OK;
    }
    count();
    TC_ACT_SHOT
}

/// Redirects UDP datagrams into a container and translates nothing.
#[classifier]
pub(super) fn redirect_only(ctx: TcContext) -> i32 {
    const PROTO_OFF: usize = 23;
    if ctx.load::<u8>(PROTO_OFF) != Ok(17) {
        return TC_ACT_OK;
    }
    let Some(target) = TARGET.get(0) else { return TC_ACT_SHOT };
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect_peer(*target, 0) as i32 }
}

/// Counts whatever comes and drops it before the kernel has a packet.
#[xdp]
pub(super) fn count_and_drop_early(ctx: XdpContext) -> u32 {
    let _ = ctx.as_ptr();
    count();
    xdp_action::XDP_DROP
}

/// Work of the sort that a data plane does, always the same: what other programs' time is measured by, so that a slower
/// machine does not look like a slower program.
#[classifier]
pub(super) fn reference(ctx: TcContext) -> i32 {
    const HEADERS: usize = 34;
    const LOOK_UPS: u8 = 4;
    let Ok(headers) = ctx.load::<[u8; HEADERS]>(0) else { return TC_ACT_SHOT };
    let mut key = [0; 16];
    key[..8].copy_from_slice(&headers[HEADERS - 8..]);
    let mut found = 0;
    for number in 0..LOOK_UPS {
        key[15] = number;
        found += LOOKED_UP.get_ptr(key).is_some() as u8;
    }
    if ctx.store(0, &[headers[0], found], 0).is_err() { TC_ACT_SHOT } else { TC_ACT_PIPE }
}

fn count() {
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: a per-CPU element, and programs are not preempted by each other on one CPU.
        unsafe { *arrived += 1 };
    }
}

// SAFETY: the kernel looks for this section by its name.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
