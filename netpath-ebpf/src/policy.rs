//! Decisions on packets from a container: is it who it says, may it talk to whom it wants, and how is it
//! called outside.

use core::hint::cold_path;

use netpath_common::{Config, Endpoint, Network, Reason, Tuple, endpoint_flag, network_flag};

use crate::{
    decision::{Decision, Out},
    env::{Env, Route},
    family::Family,
    fault::{self, Fault},
    fragment, hairpin, link,
    packet::{Kind, Packet},
    snat,
};

/// How a frame came in from a container.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Host end of the veth pair.
    pub ifindex: u32,
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
}

/// The sender, once it is known to be who it says.
pub struct Sender<'a> {
    /// Index into `ENDPOINTS`.
    pub index: u32,
    pub endpoint: &'a Endpoint,
    pub network: &'a Network,
}

impl Sender<'_> {
    /// Whether a frame from it is for what brings packets out of its network.
    #[inline(always)]
    pub fn is_for_gateway(&self, arrival: &Arrival) -> bool {
        arrival.dst_mac == self.endpoint.gateway_mac
    }

    /// Whether it may talk to this one, also without a link.
    #[inline(always)]
    pub fn may_talk_to(&self, neighbour: &Endpoint) -> bool {
        let is_closed = (self.endpoint.flags | neighbour.flags) & endpoint_flag::NO_ICC != 0;
        self.network.has(network_flag::ICC) & !is_closed
    }
}

/// Finds out who sent a packet.
///
/// # Errors
///
/// [`Reason::SpoofedSource`] or [`Reason::SpoofedMac`] when it is not who it says.
#[inline(always)]
pub fn sender<'a, F: Family, E: Env<F>>(
    env: &'a E,
    src_addr: &F::Addr,
    arrival: &Arrival,
) -> Result<Sender<'a>, Reason> {
    let index = env.endpoint_index(src_addr).ok_or(Reason::SpoofedSource)?;
    let endpoint = env.endpoint(index).ok_or(Reason::SpoofedSource)?;
    if endpoint.ifindex != arrival.ifindex && !fault::is_active::<F::Addr>(Fault::SpoofedAddress) {
        return Err(Reason::SpoofedSource);
    }
    if endpoint.mac != arrival.src_mac && !fault::is_active::<F::Addr>(Fault::SpoofedMac) {
        return Err(Reason::SpoofedMac);
    }
    let network = env.network(endpoint.network).ok_or(Reason::EndpointGone)?;
    Ok(Sender { index, endpoint, network })
}

/// Where a packet from a container wants to go, and may go as far as its own network says.
pub enum Road<'a, F: Family> {
    /// Wherever the bridge brings it: to a group, or to a hardware address that is not the gateway's.
    Bridge,
    /// To a neighbour in the own network; the index into `ENDPOINTS` is its own.
    Neighbour { index: u32, neighbour: &'a Endpoint },
    /// To an address of the host, or one that nobody has.
    Host,
    /// Out of an external interface, which has this address. Without next hop it does not fit.
    External { addr: F::Addr, ifindex: u32, next_hop: Option<F::Addr> },
    /// To a container in another network.
    Network,
}

/// Finds out where a packet from a container wants to go.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn road<'a, F: Family, E: Env<F>>(
    env: &'a E,
    packet: &Packet<F>,
    arrival: &Arrival,
    sender: &Sender<'_>,
) -> Result<Road<'a, F>, Reason> {
    let dst_addr = &packet.tuple.dst_addr;
    let icc = sender.network.has(network_flag::ICC);
    let through_gateway = sender.is_for_gateway(arrival);
    if F::is_group(dst_addr) {
        return if icc { Ok(Road::Bridge) } else { Err(Reason::Icc) };
    }
    // A link-local address is a neighbour's or the bridge's: there is no road off the link for it.
    let in_network = F::in_network(sender.network, dst_addr) || F::is_link_local(dst_addr);
    if in_network
        && let Some(index) = env.endpoint_index(dst_addr)
        && let Some(neighbour) = env.endpoint(index)
    {
        return Ok(Road::Neighbour { index, neighbour });
    }
    if !icc && !through_gateway {
        // A frame with a neighbour's hardware address and a foreign IP address: the bridge would deliver it.
        return Err(Reason::Icc);
    }
    if in_network {
        return Ok(if through_gateway { Road::Host } else { Road::Bridge });
    }
    if sender.network.has(network_flag::INTERNAL) {
        return Err(Reason::Internal);
    }
    if F::is_link_local(&packet.tuple.src_addr) {
        // Nor from there: the kernel says so to the sender (RFC 4443, 3.1, code 2).
        return Ok(Road::Bridge);
    }
    let (ifindex, next_hop) = match env.route(packet, sender.endpoint) {
        Route::To { ifindex, next_hop } => (ifindex, Some(next_hop)),
        Route::TooBig { ifindex } => (ifindex, None),
        Route::Kernel => return Ok(if through_gateway { Road::Host } else { Road::Bridge }),
    };
    match env.external(ifindex) {
        Some(external) => Ok(Road::External { addr: F::external_addr(external), ifindex, next_hop }),
        None if env.in_any_network(dst_addr) => Ok(Road::Network),
        None => Err(Reason::NotExternal),
    }
}

/// What comes of a packet from a container.
#[derive(Clone, Copy)]
pub enum Step<F: Family> {
    Done(Decision<F>),
    /// It stays on this host, or is an ICMP error: [`inside`](crate::inside) decides.
    Inside,
}

/// Decides on a packet from a container.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn from_container<F: Family, E: Env<F>>(
    env: &E,
    config: &Config,
    packet: &Packet<F>,
    arrival: &Arrival,
    sender: &Sender<'_>,
) -> Result<Step<F>, Reason> {
    if packet.kind == Kind::IcmpError {
        return Ok(Step::Inside);
    }
    let mut decision = Decision::pass(packet.tuple);
    decision.counters[0] = sender.endpoint.counter + 1;
    match road::<F, E>(env, packet, arrival, sender)? {
        Road::Bridge => {}
        Road::Neighbour { index, neighbour } => {
            let is_direct = to_neighbour::<F, E>(env, packet, arrival, sender, neighbour, &mut decision)?;
            if sender.network.takes_shortcuts(config) {
                if is_direct {
                    decision.out = Out::Sibling(neighbour.ifindex);
                } else if sender.is_for_gateway(arrival) && !packet.l3.needs_router() && is_routed::<F>(&packet.tuple) {
                    // The kernel says so where it is too big.
                    decision.out = hairpin::across::<F, E>(env, packet, index).unwrap_or(Out::Kernel);
                }
            }
        }
        Road::Host if !hairpin::is_possible::<F, E>(env, config, packet) => {}
        Road::Host | Road::Network => return Ok(Step::Inside),
        Road::External { addr, ifindex, next_hop } => {
            if fragment::is_orphan(packet) {
                return Err(Reason::Fragment);
            }
            // `to_external` translates what takes the kernel's road.
            let Some(next_hop) = next_hop else { return Ok(Step::Done(decision)) };
            let through_gateway = sender.is_for_gateway(arrival);
            if !sender.network.takes_shortcuts(config) || packet.l3.needs_router() || !through_gateway {
                return Ok(Step::Done(decision));
            }
            let Sender { index, endpoint, network } = *sender;
            let source = snat::source_outside::<F, E>(env, config, packet, index, endpoint, network, addr)?;
            let tuple = &packet.tuple;
            decision.tuple = Tuple::new(source.addr, source.port, tuple.dst_addr, tuple.dst_port, tuple.proto);
            decision.counters[1] = source.counter;
            decision.out = Out::External { ifindex, next_hop };
        }
    }
    Ok(Step::Done(decision))
}

/// Whether a router forwards between these addresses (RFC 4291, 2.5.6).
#[inline(always)]
fn is_routed<F: Family>(tuple: &Tuple<F::Addr>) -> bool {
    !F::is_link_local(&tuple.src_addr) && !F::is_link_local(&tuple.dst_addr)
}

/// Inter-container policy. Says whether the frame is for the neighbour itself.
#[inline(always)]
fn to_neighbour<F: Family, E: Env<F>>(
    env: &E,
    packet: &Packet<F>,
    arrival: &Arrival,
    sender: &Sender<'_>,
    neighbour: &Endpoint,
    decision: &mut Decision<F>,
) -> Result<bool, Reason> {
    let is_direct = arrival.dst_mac == neighbour.mac && neighbour.network == sender.endpoint.network;
    if sender.may_talk_to(neighbour) {
        decision.counters[1] = sender.network.counter + 1;
    } else {
        cold_path();
        // Nor may a linked neighbour's IP address lead to another one's hardware address.
        let is_there = is_direct || sender.is_for_gateway(arrival);
        let link = link::find::<F, E>(env, packet, sender.endpoint, neighbour).filter(|_| is_there);
        decision.counters[1] = match link {
            None if fault::is_active::<F::Addr>(Fault::IccIgnored) => sender.network.counter + 1,
            link => link.ok_or(Reason::Icc)?,
        };
    }
    Ok(is_direct)
}
