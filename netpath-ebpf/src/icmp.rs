//! ICMP errors: the packet inside is one that was translated, so both are translated back.
//!
//! An error never refreshes, changes or creates a flow (RFC 5508, REQ-6).

use netpath_common::{Config, Flow, Reason, Tuple, proto, target_flag};

use crate::{
    conntrack,
    decision::Out,
    env::Env,
    family::Family,
    fault::{self, Fault},
    packet::{Bytes, L3, Packet, bounded},
    published,
};

/// The start of the packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug)]
pub struct Inner<F: Family> {
    pub l3: L3<F::Addr>,
    /// Addresses and ports as quoted.
    pub tuple: Tuple<F::Addr>,
    /// Whether the quoted packet is an ICMP query: one identifier instead of two ports.
    pub is_query: bool,
}

/// How an ICMP error is to be translated.
#[derive(Clone, Copy, Debug)]
pub struct Translation<F: Family> {
    /// Outer addresses.
    pub src_addr: F::Addr,
    pub dst_addr: F::Addr,
    /// The quoted packet's addresses and ports.
    pub inner: Tuple<F::Addr>,
    pub out: Out<F::Addr>,
}

impl<F: Family> Inner<F> {
    /// Reads what the ICMP error `packet`, whose network header lies at `l3_off`, quotes.
    ///
    /// # Errors
    ///
    /// [`Reason::Malformed`] when fewer than eight bytes of the quoted transport header are there: it was cut, or
    /// is in another fragment.
    #[inline(always)]
    pub fn parse<B: Bytes>(bytes: &B, l3_off: usize, packet: &Packet<F>) -> Result<Self, Reason> {
        let l3 = F::l3(bytes, bounded(packet.l3.l4_off + 8))?;
        if l3.is_later_fragment() {
            return Err(Reason::Malformed);
        }
        let ports: [u16; 4] = bytes.get(bounded(l3.l4_off)).ok_or(Reason::Malformed)?;
        // Bytes that follow the packet in its frame are no part of it.
        if l3.l4_off + size_of_val(&ports) > l3_off + packet.l3.len as usize {
            return Err(Reason::Malformed);
        }
        let is_query = l3.proto == F::ICMP;
        let (src_port, dst_port) = if is_query {
            let icmp_type = ports[0].to_ne_bytes()[0];
            let id = u16::from_be(ports[2]);
            if icmp_type == F::ICMP_ECHO_REQUEST { (id, 0) } else { (0, id) }
        } else if l3.proto == proto::TCP || l3.proto == proto::UDP || l3.proto == proto::SCTP {
            (u16::from_be(ports[0]), u16::from_be(ports[1]))
        } else {
            (0, 0)
        };
        let tuple = Tuple::new(l3.src_addr, src_port, l3.dst_addr, dst_port, l3.proto);
        Ok(Self { l3, tuple, is_query })
    }
}

/// Translates an error that arrives from outside, about a packet that a container sent. `None`: the
/// packet was not a container's.
#[inline(always)]
pub fn from_external<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    inner: &Inner<F>,
) -> Option<Translation<F>> {
    let quoted = &inner.tuple;
    // An error goes to who sent the quoted packet, and that one went outside.
    if packet.tuple.dst_addr != quoted.src_addr
        || env.in_any_network(&quoted.dst_addr)
        || env.in_any_network(&packet.tuple.src_addr)
        || F::is_loopback(&packet.tuple.src_addr)
    {
        return None;
    }
    let way = published::find::<F, E>(env, &quoted.src_addr, quoted.src_port, quoted.proto);
    let (index, port) = if let Some(way) = way {
        way.endpoint::<F, E>(env).ok()?;
        let may_be_hosts = way.target.flags & target_flag::EPHEMERAL != 0;
        if may_be_hosts && env.host_connection(&quoted.reversed()) {
            return None;
        }
        (way.target.endpoint, way.port)
    } else {
        let inside = conntrack::inside_of::<F, E>(env, &quoted.reversed())?;
        let orig = Tuple::new(inside.addr, inside.port, quoted.dst_addr, quoted.dst_port, quoted.proto);
        if fault::is_active::<F::Addr>(Fault::ErrorRefreshes) {
            // SAFETY: as below.
            unsafe { (*env.flow(&orig)?).last_seen_s = env.now_s() };
        }
        // SAFETY: `env.flow` returns valid pointers; see `Env`.
        let flow = unsafe { &*env.flow(&orig)? };
        let is_same = flow.nat_addr == quoted.src_addr && flow.nat_port == quoted.src_port;
        if !is_same || !is_alive::<F, E>(env, config, flow, quoted.proto) {
            return None;
        }
        (u32::from(flow.endpoint), inside.port)
    };
    let endpoint = env.endpoint(index)?;
    let addr = F::endpoint_addr(endpoint);
    let shortcut = env.network(endpoint.network)?.takes_shortcuts(config) && packet.l3.ttl > 1;
    Some(Translation {
        src_addr: packet.tuple.src_addr,
        dst_addr: addr,
        inner: Tuple::new(addr, port, quoted.dst_addr, quoted.dst_port, quoted.proto),
        out: if shortcut { Out::Container(endpoint.ifindex) } else { Out::Kernel },
    })
}

/// Whether the flow is that of a container which is still there.
#[inline(always)]
fn is_alive<F: Family, E: Env<F>>(env: &E, config: &Config, flow: &Flow<F::Addr>, protocol: u8) -> bool {
    let owner = env.endpoint(u32::from(flow.endpoint));
    owner.is_some_and(|owner| owner.generation == flow.generation)
        && !conntrack::is_expired(config, flow, protocol, env.now_s())
}

/// Translates an error that leaves, about a packet to a container: sent by the container itself, or by
/// the host on its road to it. `None`: the quoted packet was not to a container.
#[inline(always)]
pub fn to_external<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    inner: &Inner<F>,
) -> Option<Translation<F>> {
    let quoted = &inner.tuple;
    // A container speaks about packets that it got, to who sent them.
    let is_from_container = env.in_any_network(&packet.tuple.src_addr);
    if is_from_container && (packet.tuple.src_addr != quoted.dst_addr || packet.tuple.dst_addr != quoted.src_addr) {
        return None;
    }
    let orig = quoted.reversed();
    // SAFETY: as in `from_external`.
    let flow = env.flow(&orig).map(|flow| unsafe { *flow });
    let flow = flow.filter(|flow| is_alive::<F, E>(env, config, flow, orig.proto));
    let (addr, port) = match flow {
        Some(flow) => (flow.nat_addr, flow.nat_port),
        None => {
            let name = published::find_name::<F, E>(env, &quoted.dst_addr, quoted.dst_port, quoted.proto)?;
            (name.source.addr, name.port)
        }
    };
    Some(Translation {
        src_addr: if is_from_container { addr } else { packet.tuple.src_addr },
        dst_addr: packet.tuple.dst_addr,
        inner: Tuple::new(quoted.src_addr, quoted.src_port, addr, port, quoted.proto),
        out: Out::Kernel,
    })
}
