//! The eBPF side: maps, helpers, packet rewriting, and one entry point per hook.

mod answer;
mod arp;
mod begin;
mod bridge;
mod entry;
mod event;
mod family_maps;
mod forward;
mod fragments;
mod frame;
mod hand;
mod host;
mod icmp;
mod kernel;
mod maps;
mod nd;
mod rewrite;
mod skb;
mod sock_addr;
mod xdp;

use core::panic::PanicInfo;

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel gives `bpf_redirect_neigh` and others to programs under a GPL-compatible licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
