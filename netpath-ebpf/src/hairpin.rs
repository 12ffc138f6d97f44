//! Hairpin: a container reaches a published port of a neighbour, or of itself, through an address of the host.
//!
//! Its packets get the addressed address as source and a masquerade port there (RFC 4787, REQ-9a), so that the
//! answer comes back to the host whoever the target is; the target's flow remembers the name that was used. It
//! never takes the kernel's road: the source would be a martian there.

use core::hint::cold_path;

use netpath_common::{Address as _, Config, Reason, Tuple, network_flag};

use crate::{
    conntrack::{self, Owner},
    decision::Out,
    env::Env,
    family::Family,
    fault::{self, Fault},
    icmp::{Inner, Translation},
    named_flow,
    packet::{Kind, Packet},
    published::{self, Way},
};

/// What a container's packet to the host is.
pub enum ToHost<'a, F: Family> {
    /// The host's own.
    Plain,
    /// To a published port.
    Question(Way<'a>),
    /// From a published port to a container that asked through the host: addresses and ports that it shall
    /// have, and the index of that container.
    Answer { tuple: Tuple<F::Addr>, index: u32 },
}

/// A quick no: whether a container's packet to an address of the host can be anything but the host's own.
#[inline(always)]
pub fn is_possible<F: Family, E: Env<F>>(env: &E, config: &Config, packet: &Packet<F>) -> bool {
    let Tuple { dst_addr, dst_port, proto, .. } = packet.tuple;
    let has_ports = packet.has_ports() && proto != F::ICMP;
    (has_ports && (env.is_port_published(proto, dst_port) || conntrack::may_be_reply(config, packet)))
        || F::is_loopback(&dst_addr)
}

/// Finds out what a container's packet to an address of the host is.
///
/// # Errors
///
/// [`Reason::LoopbackAddress`], [`Reason::SourceNotAllowed`], [`Reason::EndpointGone`].
#[inline(always)]
pub fn seek<'a, F: Family, E: Env<F>>(
    env: &'a E,
    config: &Config,
    packet: &Packet<F>,
    owner: Owner,
) -> Result<ToHost<'a, F>, Reason> {
    let tuple = &packet.tuple;
    if F::is_loopback(&tuple.dst_addr) {
        return Err(Reason::LoopbackAddress);
    }
    if tuple.dst_addr == F::Addr::UNSPECIFIED {
        return Ok(ToHost::Plain);
    }
    if let Some(way) = published::find::<F, E>(env, &tuple.dst_addr, tuple.dst_port, tuple.proto) {
        return Ok(if way.admits::<F, E>(env, packet)? { ToHost::Question(way) } else { ToHost::Plain });
    }
    if !conntrack::may_be_reply(config, packet) {
        return Ok(ToHost::Plain);
    }
    let Some((addr, port)) = named_flow::lookup::<F, E>(env, config, packet, owner) else { return Ok(ToHost::Plain) };
    let outside = Tuple::new(addr, port, tuple.dst_addr, tuple.dst_port, tuple.proto);
    let Some(replied) = conntrack::lookup_reply::<F, E>(env, config, packet, &outside)? else {
        return Ok(ToHost::Plain);
    };
    let tuple = Tuple::new(addr, port, replied.inside.addr, replied.inside.port, tuple.proto);
    Ok(ToHost::Answer { tuple, index: replied.endpoint })
}

/// Addresses and ports of a packet to a published port, whose sender is called `port` at the address that it
/// asked.
///
/// # Errors
///
/// [`Reason::EndpointGone`], [`Reason::FlowTableFull`].
#[inline(always)]
pub fn ask<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    way: &Way<'_>,
    port: u16,
) -> Result<Tuple<F::Addr>, Reason> {
    let endpoint = way.endpoint::<F, E>(env)?;
    let tuple = &packet.tuple;
    let called = if fault::is_active::<F::Addr>(Fault::HairpinSourceKept) { &tuple.src_addr } else { &tuple.dst_addr };
    let question = Tuple::new(*called, port, F::endpoint_addr(endpoint), way.port, tuple.proto);
    let owner = Owner::new(way.target.endpoint, endpoint);
    if !fault::is_active::<F::Addr>(Fault::HairpinNameForgotten) {
        named_flow::note::<F, E>(env, config, packet, &question.reversed(), owner)?;
    }
    Ok(question)
}

/// The road across into the container at `index`.
///
/// # Errors
///
/// [`Reason::TooBig`], [`Reason::Internal`], [`Reason::EndpointGone`].
#[inline(always)]
pub fn across<F: Family, E: Env<F>>(env: &E, packet: &Packet<F>, index: u32) -> Result<Out<F::Addr>, Reason> {
    let endpoint = env.endpoint(index).ok_or(Reason::EndpointGone)?;
    let network = env.network(endpoint.network).ok_or(Reason::EndpointGone)?;
    if network.has(network_flag::INTERNAL) {
        return Err(Reason::Internal);
    }
    // The kernel cuts SCTP packets where their sender said, which is not more than what fits.
    if packet.segment_len > network.mtu && packet.kind != Kind::Sctp {
        return Err(Reason::TooBig);
    }
    Ok(Out::Across(index))
}

/// Translates a container's error about a packet that reached it in this way. `None`: it is the host's.
#[inline(always)]
pub fn error<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    inner: &Inner<F>,
    owner: Owner,
) -> Option<Translation<F>> {
    cold_path();
    let quoted = &inner.tuple;
    // It speaks about a packet that it got, to who sent it.
    if packet.tuple.src_addr != quoted.dst_addr || packet.tuple.dst_addr != quoted.src_addr {
        return None;
    }
    let name = named_flow::peek::<F, E>(env, config, &quoted.reversed(), owner)?;
    let (index, port) = if name.is_given {
        // The quoted packet is a question: its sender is behind a masquerade port.
        let outside = Tuple::new(name.addr, name.port, quoted.src_addr, quoted.src_port, quoted.proto);
        let inside = conntrack::inside_of::<F, E>(env, &outside)?;
        let index = env.endpoint_index(&inside.addr)?;
        // Who has the asker's address is not the asker, unless the flow is its own.
        let asked = Tuple::new(inside.addr, inside.port, name.addr, name.port, quoted.proto);
        if !fault::is_active::<F::Addr>(Fault::ErrorByAddress) {
            named_flow::peek::<F, E>(env, config, &asked, Owner::new(index, env.endpoint(index)?))?;
        }
        (index, inside.port)
    } else {
        let way = published::find::<F, E>(env, &quoted.src_addr, quoted.src_port, quoted.proto)?;
        way.endpoint::<F, E>(env).ok()?;
        (way.target.endpoint, way.port)
    };
    let addr = F::endpoint_addr(env.endpoint(index)?);
    Some(Translation {
        src_addr: packet.tuple.dst_addr,
        dst_addr: addr,
        inner: Tuple::new(addr, port, name.addr, name.port, quoted.proto),
        out: Out::Across(index),
    })
}
