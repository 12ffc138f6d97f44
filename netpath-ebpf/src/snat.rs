//! What a packet from a container is called outside: the reverse of a published port, or masquerade.

use core::hint::cold_path;

use netpath_common::{Address, Config, Endpoint, Network, Reason, source_flag};

use crate::{
    conntrack::{self, Owner},
    env::Env,
    family::Family,
    mapping::Request,
    packet::Packet,
    published,
};

/// What a container's packet is called outside.
#[derive(Clone, Copy, Debug)]
pub struct Source<A> {
    pub addr: A,
    pub port: u16,
    /// Index into `COUNTERS` of the masquerade; 0 where a published port gives the name, which counts
    /// what comes in.
    pub counter: u32,
}

/// Finds or makes the source that `packet`, sent by the endpoint at `index`, has outside.
///
/// `external` is the address of the interface that the packet leaves by.
///
/// # Errors
///
/// The reason why the packet has none: it must not leave.
#[inline(always)]
pub fn source_outside<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    index: u32,
    endpoint: &Endpoint,
    network: &Network,
    external: F::Addr,
) -> Result<Source<F::Addr>, Reason> {
    if !packet.has_ports() {
        cold_path();
        conntrack::may_begin(packet)?;
    }
    let tuple = &packet.tuple;
    let owner = Owner::new(index, endpoint);
    if let Some(name) = published::find_name::<F, E>(env, &tuple.src_addr, tuple.src_port, tuple.proto) {
        if name.source.flags & source_flag::AMBIGUOUS != 0
            && let Some((addr, port)) = conntrack::lookup_published::<F, E>(env, config, packet, owner)
        {
            return Ok(Source { addr, port, counter: 0 });
        }
        return Ok(Source { addr: name.source.addr, port: name.port, counter: 0 });
    }
    if !network.has(F::MASQUERADE) {
        return Err(Reason::NoMasquerade);
    }
    if external == F::Addr::UNSPECIFIED {
        return Err(Reason::NoExternalAddress);
    }
    if let Some(port) = conntrack::lookup::<F, E>(env, config, packet, owner, &external) {
        return Ok(Source { addr: external, port, counter: network.counter });
    }
    cold_path();
    conntrack::may_begin(packet)?;
    let request = Request { packet, owner, nat_addr: external, now_s: env.now_s() };
    let port = conntrack::create::<F, E>(env, config, &request)?;
    Ok(Source { addr: external, port, counter: network.counter })
}
