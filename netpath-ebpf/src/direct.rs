//! A container addressed by its own address, from outside or from another network: refused, but for gateway
//! modes and trusted interfaces, and for replies.

use netpath_common::{Config, Network, Reason, TrustedKey, Tuple, network_flag};

use crate::{
    conntrack::Owner,
    env::Env,
    family::Family,
    fault::{self, Fault},
    named_flow::{self, Known},
    packet::Packet,
    published,
};

/// Finds the endpoint that a packet seen on `ifindex` may reach by its own address, and remembers that it did.
/// Returns its index.
///
/// # Errors
///
/// `refusal` where it may not, [`Reason::Internal`], [`Reason::SourceNotAllowed`], [`Reason::FlowTableFull`].
#[inline(always)]
pub fn visit<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    ifindex: u32,
    refusal: Reason,
) -> Result<u32, Reason> {
    let index = env.endpoint_index(&packet.tuple.dst_addr).ok_or(refusal)?;
    let endpoint = env.endpoint(index).ok_or(refusal)?;
    let network = env.network(endpoint.network).ok_or(refusal)?;
    if network.has(network_flag::INTERNAL) {
        return Err(Reason::Internal);
    }
    let owner = Owner::new(index, endpoint);
    if fault::is_active::<F::Addr>(Fault::DirectAccess) {
        return Ok(index);
    }
    let known = named_flow::lookup_own::<F, E>(env, config, packet, owner);
    if known == Known::Yes {
        return Ok(index);
    }
    let trusted = TrustedKey::new(ifindex, endpoint.network);
    if !network.has(F::UNPROTECTED) && !is_offered::<F, E>(env, packet, network, &trusted)? {
        return Err(refusal);
    }
    // A flow in which the container has another name is not for strangers to end.
    if known == Known::No && named_flow::is_trackable(packet) {
        named_flow::note::<F, E>(env, config, packet, &packet.tuple.reversed(), owner)?;
    }
    Ok(index)
}

/// Whether the container offers what the packet is addressed to: a published port, or in a routed network the
/// answer to a ping. A trusted interface is past the first gate only, as with Docker.
#[inline(always)]
fn is_offered<F: Family, E: Env<F>>(
    env: &E,
    packet: &Packet<F>,
    network: &Network,
    trusted: &TrustedKey,
) -> Result<bool, Reason> {
    let tuple = &packet.tuple;
    let way = if network.has(F::ROUTED) {
        if tuple.proto == F::ICMP {
            return Ok(true);
        }
        published::find::<F, E>(env, &tuple.dst_addr, tuple.dst_port, tuple.proto)
    } else if network.has(network_flag::TRUSTED) && env.is_trusted(trusted) {
        let name = published::find_name::<F, E>(env, &tuple.dst_addr, tuple.dst_port, tuple.proto);
        name.and_then(|name| published::find::<F, E>(env, &name.source.addr, name.port, tuple.proto))
    } else {
        None
    };
    match way {
        Some(way) => way.admits::<F, E>(env, packet),
        None => Ok(false),
    }
}

/// Whether the quoted packet, which the endpoint `receiver` got, belongs to a visit: to it, or its own.
#[inline(always)]
pub fn is_about_visit<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    quoted: &Tuple<F::Addr>,
    receiver: Owner,
) -> bool {
    if named_flow::is_own::<F, E>(env, config, &quoted.reversed(), receiver) {
        return true;
    }
    let visited = env.endpoint_index(&quoted.src_addr);
    let Some((index, endpoint)) = visited.and_then(|index| Some((index, env.endpoint(index)?))) else { return false };
    named_flow::is_own::<F, E>(env, config, quoted, Owner::new(index, endpoint))
}
