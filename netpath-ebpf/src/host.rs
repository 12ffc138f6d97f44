//! Decisions about the host's own sockets: where a connection really goes, and which ports may be bound.
//!
//! They are made once per connection, or per datagram of an unconnected socket; packets then need none.

use netpath_common::{Addr4, Addr6, Address, Endpoint, PortKey, PortTarget, target_flag};

use crate::{
    family::{Family, V4, V6},
    published,
};

/// Maps, and the socket in hand, as the decisions about sockets see them.
pub trait HostEnv<F: Family> {
    /// Whether the port is published at any host address of this family, and nobody but the agent keeps it.
    fn is_port_reserved(&self, proto: u8, port: u16) -> bool;
    fn published_port(&self, key: &PortKey<F::Addr>) -> Option<&PortTarget>;
    fn endpoint(&self, index: u32) -> Option<&Endpoint>;
    /// Whether a socket of the host receives what is sent to this address.
    fn has_receiver(&self, addr: &F::Addr, port: u16, proto: u8) -> bool;
    /// The socket's own address; unspecified while it has none.
    fn own_addr(&self) -> F::Addr;
    /// Whether an IPv6 socket is for IPv6 only (`IPV6_V6ONLY`).
    fn is_v6_only(&self) -> bool;
}

/// Where a socket's owner is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination<A> {
    /// What was asked for. Unspecified stands for loopback, and is that here.
    pub asked: A,
    /// The container's.
    pub addr: A,
    /// Container port.
    pub port: u16,
    /// Whether the container is to see `asked` as source; else whatever the route says. (The address itself once more
    /// would be more than the stack takes: 5.10 and 6.1 round up each function's part of the 512 bytes to 32.)
    pub shows_asked: bool,
    /// Index into `COUNTERS` of the port binding; 0: none.
    pub counter: u32,
}

/// A family of socket addresses. Ask only about ports that are published at some address (`PORT_BITS`).
///
/// IPv6 sockets talk to IPv4 too, under v4-mapped addresses (RFC 4291, 2.5.5.2).
pub trait SocketFamily: Family {
    /// Where a socket is led that is to talk to `port` of `asked`; `None`: where it asked. `may_map`: an
    /// address that is not v4-mapped may become one that is.
    fn destination<E: HostEnv<V4> + HostEnv<V6>>(
        env: &E,
        asked: &Self::Addr,
        port: u16,
        proto: u8,
        may_map: bool,
    ) -> Option<Destination<Self::Addr>>;

    /// Whether a published port is in the way of a socket that is to be bound to `port` of `addr`.
    fn is_taken<E: HostEnv<V4> + HostEnv<V6>>(env: &E, addr: &Self::Addr, port: u16, proto: u8) -> bool;
}

impl SocketFamily for V4 {
    #[inline(always)]
    fn destination<E: HostEnv<V4> + HostEnv<V6>>(
        env: &E,
        asked: &Addr4,
        port: u16,
        proto: u8,
        _may_map: bool,
    ) -> Option<Destination<Addr4>> {
        let asked = if asked.is_unspecified() { LOOPBACK4 } else { *asked };
        let way = find::<V4, E>(env, &asked, port, proto);
        let endpoint = way.endpoint::<V4, E>(env)?;
        lead::<V4>(asked, HostEnv::<V4>::own_addr(env), endpoint.addr4, way)
    }

    #[inline(always)]
    fn is_taken<E: HostEnv<V4> + HostEnv<V6>>(env: &E, addr: &Addr4, port: u16, proto: u8) -> bool {
        is_taken_in::<V4, E>(env, addr, port, proto)
    }
}

impl SocketFamily for V6 {
    #[inline(always)]
    fn destination<E: HostEnv<V4> + HostEnv<V6>>(
        env: &E,
        asked: &Addr6,
        port: u16,
        proto: u8,
        may_map: bool,
    ) -> Option<Destination<Addr6>> {
        if let Some(asked) = unmapped(asked) {
            let to = V4::destination(env, &asked, port, proto, false)?;
            let Destination { asked, addr, port, shows_asked, counter } = to;
            return Some(Destination { asked: mapped(asked), addr: mapped(addr), port, shows_asked, counter });
        }
        let asked = if asked.is_unspecified() { LOOPBACK6 } else { *asked };
        let own = HostEnv::<V6>::own_addr(env);
        let way = find::<V6, E>(env, &asked, port, proto);
        if let Some(endpoint) = way.endpoint::<V6, E>(env)
            && !endpoint.addr6.is_unspecified()
        {
            return lead::<V6>(asked, own, endpoint.addr6, way);
        }
        // [::1] is the host whatever the container speaks, as it is behind Docker's proxy; but a server of
        // the host that is for IPv6 only may well have the port there.
        if !may_map || !Self::is_loopback(&asked) || !own.is_unspecified() || HostEnv::<V6>::is_v6_only(env) {
            return None;
        }
        let way = find_at::<V4, E>(env, &Addr4::UNSPECIFIED, port, proto);
        let endpoint = way.endpoint::<V4, E>(env)?;
        if HostEnv::<V6>::has_receiver(env, &asked, port, proto) {
            return None;
        }
        let addr = mapped(endpoint.addr4);
        Some(Destination { asked, addr, port: way.port, shows_asked: false, counter: way.counter })
    }

    #[inline(always)]
    fn is_taken<E: HostEnv<V4> + HostEnv<V6>>(env: &E, addr: &Addr6, port: u16, proto: u8) -> bool {
        if let Some(addr) = unmapped(addr) {
            return is_taken_in::<V4, E>(env, &addr, port, proto);
        }
        is_taken_in::<V6, E>(env, addr, port, proto)
            || (addr.is_unspecified()
                && !HostEnv::<V6>::is_v6_only(env)
                && is_taken_in::<V4, E>(env, &Addr4::UNSPECIFIED, port, proto))
    }
}

/// The IPv4 address in IPv6 form.
#[inline(always)]
pub fn mapped(addr: Addr4) -> Addr6 {
    Addr6::from_words([0, 0, MAPPED, addr.words()[0]])
}

/// The IPv4 address in a v4-mapped one.
#[inline(always)]
pub fn unmapped(addr: &Addr6) -> Option<Addr4> {
    let words = addr.words();
    ((words[0] | words[1]) == 0 && words[2] == MAPPED).then(|| Addr4(words[3].to_ne_bytes()))
}

/// The third word of a v4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
const LOOPBACK4: Addr4 = Addr4([127, 0, 0, 1]);
const LOOPBACK6: Addr6 = Addr6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Where a published port leads. Small enough for a register, so that a look-up takes no stack of its caller.
#[derive(Clone, Copy)]
#[repr(C)]
struct Lead {
    /// Index into `ENDPOINTS`, which has no more than 65,536 entries; 0 is nobody's.
    endpoint: u16,
    /// Container port.
    port: u16,
    /// Of the port binding.
    counter: u32,
}

impl Lead {
    const NONE: Self = Self { endpoint: 0, port: 0, counter: 0 };

    #[inline(always)]
    fn endpoint<'a, F: Family, E: HostEnv<F>>(&self, env: &'a E) -> Option<&'a Endpoint> {
        if self.endpoint == 0 { None } else { env.endpoint(u32::from(self.endpoint)) }
    }
}

/// Where a socket with the address `own` is led that asked for `asked`, which is published of the container
/// at `addr`.
#[inline(always)]
fn lead<F: Family>(asked: F::Addr, own: F::Addr, addr: F::Addr, way: Lead) -> Option<Destination<F::Addr>> {
    // A routed network's containers are published under their own names; and from a loopback address there
    // is no way off the host.
    if asked == addr || F::is_loopback(&own) {
        return None;
    }
    let shows_asked = own.is_unspecified() && !F::is_loopback(&asked);
    Some(Destination { asked, addr, port: way.port, shows_asked, counter: way.counter })
}

/// Where `port` of the host's address `addr` leads. What is published at the unspecified address is published
/// at every loopback address.
#[inline(always)]
fn find<F: Family, E: HostEnv<F>>(env: &E, addr: &F::Addr, port: u16, proto: u8) -> Lead {
    let way = find_at::<F, E>(env, addr, port, proto);
    if way.endpoint == 0 && F::is_loopback(addr) {
        return find_at::<F, E>(env, &F::Addr::UNSPECIFIED, port, proto);
    }
    way
}

/// [`Lead::NONE`] also when the endpoint that is named is gone.
#[inline(never)]
fn find_at<F: Family, E: HostEnv<F>>(env: &E, addr: &F::Addr, port: u16, proto: u8) -> Lead {
    let Some(way) = published::find_by(|key| env.published_port(key), addr, port, proto) else { return Lead::NONE };
    match env.endpoint(way.target.endpoint) {
        Some(endpoint) if endpoint.generation == way.target.generation => {
            Lead { endpoint: way.target.endpoint as u16, port: way.port, counter: way.target.counter }
        }
        _ => Lead::NONE,
    }
}

#[inline(always)]
fn is_taken_in<F: Family, E: HostEnv<F>>(env: &E, addr: &F::Addr, port: u16, proto: u8) -> bool {
    if addr.is_unspecified() {
        return env.is_port_reserved(proto, port);
    }
    is_kept_at::<F, E>(env, addr, port, proto) || is_kept_at::<F, E>(env, &F::Addr::UNSPECIFIED, port, proto)
}

/// Whether `port` of exactly this address is published, and nobody but the agent keeps it.
#[inline(never)]
fn is_kept_at<F: Family, E: HostEnv<F>>(env: &E, addr: &F::Addr, port: u16, proto: u8) -> bool {
    let Some(way) = published::find_by(|key| env.published_port(key), addr, port, proto) else { return false };
    if way.target.flags & target_flag::KEPT_ELSEWHERE != 0 {
        return false;
    }
    env.endpoint(way.target.endpoint).is_some_and(|endpoint| endpoint.generation == way.target.generation)
}
