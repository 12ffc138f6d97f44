//! What a packet from a container is called outside: the reverse of a published port, or masquerade.

use core::hint::cold_path;

use netpath_common::{Address, Config, Endpoint, Network, Reason, network_flag, source_flag};

use crate::{
    conntrack::{self, Owner},
    env::Env,
    family::Family,
    fault::{self, Fault},
    mapping::Request,
    named_flow,
    packet::{Kind, Packet},
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
    let owner = Owner::new(index, endpoint);
    if let Some(source) = given::<F, E>(env, config, packet, owner, network)? {
        return Ok(source);
    }
    let mut source = masquerade::<F, E>(env, config, packet, owner, external)?;
    source.counter = network.counter;
    Ok(source)
}

/// The source of a packet that is not masqueraded, and `None` for others.
///
/// # Errors
///
/// The reason why the packet must not leave.
#[inline(always)]
pub fn given<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    owner: Owner,
    network: &Network,
) -> Result<Option<Source<F::Addr>>, Reason> {
    if !packet.has_ports() {
        cold_path();
        return portless::<F, E>(env, config, packet, owner, network).map(Some);
    }
    let tuple = &packet.tuple;
    if let Some(name) = published::find_name::<F, E>(env, &tuple.src_addr, tuple.src_port, tuple.proto) {
        let has_other_names = name.source.flags & source_flag::AMBIGUOUS != 0
            || network.flags & (F::UNPROTECTED | network_flag::TRUSTED) != 0;
        if has_other_names && let Some((addr, port)) = named_flow::lookup::<F, E>(env, config, packet, owner) {
            return Ok(Some(Source { addr, port, counter: 0 }));
        }
        return Ok(Some(Source { addr: name.source.addr, port: name.port, counter: 0 }));
    }
    if is_masqueraded::<F>(network) {
        return Ok(None);
    }
    cold_path();
    own::<F, E>(env, config, packet, owner).map(Some)
}

/// Whether the network's containers have no name of their own outside.
#[inline(always)]
fn is_masqueraded<F: Family>(network: &Network) -> bool {
    network.flags & (F::MASQUERADE | F::ROUTED) == F::MASQUERADE
}

/// What a packet has no ports to be translated by is called: its own name or none.
#[inline(always)]
fn portless<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    owner: Owner,
    network: &Network,
) -> Result<Source<F::Addr>, Reason> {
    if !is_masqueraded::<F>(network) {
        return own::<F, E>(env, config, packet, owner);
    }
    let is_reply = packet.kind == Kind::Other && named_flow::is_own::<F, E>(env, config, &packet.tuple, owner);
    if !is_reply && !fault::is_active::<F::Addr>(Fault::UntranslatablePasses) {
        conntrack::may_begin(packet)?;
    }
    Ok(Source { addr: packet.tuple.src_addr, port: packet.tuple.src_port, counter: 0 })
}

/// The name of a container that is not masqueraded: that of its flow, else its own. What it begins is remembered, to
/// let in what comes back.
#[inline(always)]
fn own<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    owner: Owner,
) -> Result<Source<F::Addr>, Reason> {
    let tuple = &packet.tuple;
    if named_flow::is_trackable(packet) {
        if let Some((addr, port)) = named_flow::lookup::<F, E>(env, config, packet, owner) {
            return Ok(Source { addr, port, counter: 0 });
        }
        let request = Request { packet, owner, nat_addr: tuple.src_addr, now_s: env.now_s() };
        env.begin(config, &request)?;
    }
    Ok(Source { addr: tuple.src_addr, port: tuple.src_port, counter: 0 })
}

/// Masquerades with `nat_addr`. The counter is left to the caller.
///
/// # Errors
///
/// [`Reason::NoExternalAddress`], and those of [`conntrack::may_begin`] and [`conntrack::create`].
#[inline(always)]
pub fn masquerade<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    owner: Owner,
    nat_addr: F::Addr,
) -> Result<Source<F::Addr>, Reason> {
    if nat_addr == F::Addr::UNSPECIFIED {
        return Err(Reason::NoExternalAddress);
    }
    if let Some((addr, port)) = conntrack::lookup::<F, E>(env, config, packet, owner, &nat_addr) {
        return Ok(Source { addr, port, counter: 0 });
    }
    cold_path();
    conntrack::may_begin(packet)?;
    let request = Request { packet, owner, nat_addr, now_s: env.now_s() };
    let port = env.begin(config, &request)?;
    Ok(Source { addr: nat_addr, port, counter: 0 })
}
