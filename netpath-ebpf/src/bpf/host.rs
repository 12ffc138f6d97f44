//! The programs on the root cgroup: the host's own sockets and published ports.
//!
//! A cgroup holds the processes of every network namespace; only sockets of the host's are looked at.

use core::ptr;

use aya_ebpf::{helpers::generated, macros::cgroup_sock_addr, programs::SockAddrContext};
use netpath_common::{Address, HostPeer, HostPeerKey, proto};
use netpath_ebpf::family::{V4, V6};

use super::{
    event, maps,
    sock_addr::{Sock, SockAddr, is_set},
};

/// Set by the agent to 0 where the kernel lacks `bpf_set_retval` (before 5.18).
#[unsafe(no_mangle)]
static SET_RETVAL: u8 = 1;

const REFUSE: i32 = 0;
const PROCEED: i32 = 1;

#[cgroup_sock_addr(connect4)]
pub(super) fn host_connect4(ctx: SockAddrContext) -> i32 {
    connect::<V4>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(connect6)]
pub(super) fn host_connect6(ctx: SockAddrContext) -> i32 {
    connect::<V6>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(sendmsg4)]
pub(super) fn host_sendmsg4(ctx: SockAddrContext) -> i32 {
    send::<V4>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(sendmsg6)]
pub(super) fn host_sendmsg6(ctx: SockAddrContext) -> i32 {
    send::<V6>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(recvmsg4)]
pub(super) fn host_recvmsg4(ctx: SockAddrContext) -> i32 {
    name_peer::<V4>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(recvmsg6)]
pub(super) fn host_recvmsg6(ctx: SockAddrContext) -> i32 {
    name_peer::<V6>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(getpeername4)]
pub(super) fn host_getpeername4(ctx: SockAddrContext) -> i32 {
    name_peer::<V4>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(getpeername6)]
pub(super) fn host_getpeername6(ctx: SockAddrContext) -> i32 {
    name_peer::<V6>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(bind4)]
pub(super) fn host_bind4(ctx: SockAddrContext) -> i32 {
    bind::<V4>(&Sock { ctx: &ctx })
}

#[cgroup_sock_addr(bind6)]
pub(super) fn host_bind6(ctx: SockAddrContext) -> i32 {
    bind::<V6>(&Sock { ctx: &ctx })
}

#[inline(always)]
fn connect<F: SockAddr>(sock: &Sock<'_>) -> i32 {
    let (port, proto) = (sock.port(), sock.proto());
    if is_candidate(sock, proto, port)
        && let Some(to) = F::destination(sock, &F::addr(sock), port, proto, true)
    {
        remember::<F>(sock, &to.addr, to.port, &to.asked, port);
        count_call(to.counter);
        if to.shows_asked {
            // Refused when the socket has a port already: the container then sees the bridge's address.
            F::bind(sock, &to.asked);
        }
        F::set_addr(sock, &to.addr);
        sock.set_port(to.port);
    }
    PROCEED
}

#[inline(always)]
fn send<F: SockAddr>(sock: &Sock<'_>) -> i32 {
    let (port, proto) = (sock.port(), sock.proto());
    // Linux takes no v4-mapped address here in place of another one (udpv6_sendmsg, ENOTSUPP).
    if is_candidate(sock, proto, port)
        && let Some(to) = F::destination(sock, &F::addr(sock), port, proto, false)
    {
        remember::<F>(sock, &to.addr, to.port, &to.asked, port);
        count_call(to.counter);
        if to.shows_asked && F::message_source(sock).is_unspecified() {
            F::set_message_source(sock, &to.asked);
        }
        F::set_addr(sock, &to.addr);
        sock.set_port(to.port);
    }
    PROCEED
}

/// Shows the owner of the socket the address that it asked for.
#[inline(always)]
fn name_peer<F: SockAddr>(sock: &Sock<'_>) -> i32 {
    let proto = sock.proto();
    if (proto == proto::UDP || proto == proto::TCP)
        && sock.is_host()
        && let Some(peer) = F::peer(sock, &F::addr(sock), sock.port())
    {
        F::set_addr(sock, &peer.addr);
        sock.set_port(peer.port);
    }
    PROCEED
}

#[inline(always)]
fn bind<F: SockAddr>(sock: &Sock<'_>) -> i32 {
    let (port, proto) = (sock.port(), sock.proto());
    if !is_candidate(sock, proto, port) || !F::is_taken(sock, &F::addr(sock), port, proto) {
        return PROCEED;
    }
    // SAFETY: a valid static; volatile, because the agent sets it when it loads the object. The helper takes
    // a number.
    unsafe {
        if ptr::read_volatile(&raw const SET_RETVAL) != 0 {
            const EADDRINUSE: i32 = 98;
            generated::bpf_set_retval(-EADDRINUSE);
        }
    }
    REFUSE
}

/// The quick no for nearly every socket.
#[inline(always)]
fn is_candidate(sock: &Sock<'_>, proto: u8, port: u16) -> bool {
    is_set(&maps::PORT_BITS, proto, port) && sock.is_host()
}

/// Counts as a packet of the port binding what is yet to become one, and has no length: the first of a connection, or a
/// datagram.
#[inline(always)]
fn count_call(counter: u32) {
    // A packet that arrives on this CPU meanwhile may not be counted.
    event::count(counter, 0);
}

#[inline(never)]
fn remember<F: SockAddr>(sock: &Sock<'_>, addr: &F::Addr, port: u16, asked: &F::Addr, asked_port: u16) {
    let key = HostPeerKey::new(sock.cookie(), *addr, port);
    // Without it the owner sees the container's address.
    let _ = F::peers().insert(&key, HostPeer::new(*asked, asked_port), 0);
}
