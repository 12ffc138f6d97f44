//! Neighbour discovery (RFC 4861) and multicast reports (RFC 2710, 3810) from a container: it may speak for its
//! own addresses only, and is no router.
//!
//! Decides on what passes though inter-container communication is off, and on what never passes.

use netpath_common::{Addr6, Address, Reason, proto};

use crate::{
    env::Env,
    family::{Family, V6},
    ipv6,
    packet::{Bytes, Kind, Packet, bounded},
    policy::{self, Arrival, Sender},
};

const MULTICAST_REPORT: u8 = 131;
const MULTICAST_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const MULTICAST_REPORT_V2: u8 = 143;

/// Bytes that are looked at, from the start of the ICMPv6 header on: a message, its options.
pub const MAX_LEN: usize = size_of::<Message>() + 256;

/// Options that are looked through for a hardware address; a packet with more of them is dropped.
const MAX_OPTIONS: u32 = 8;

/// The start of a neighbour solicitation or advertisement.
#[derive(Clone, Copy)]
#[repr(C)]
struct Message {
    message_type: u8,
    _code: u8,
    _check: u16,
    _flags: u32,
    target: Addr6,
}

/// An option that holds a hardware address.
#[derive(Clone, Copy)]
#[repr(C)]
struct LinkOption {
    kind: u8,
    /// In units of eight bytes.
    len: u8,
    mac: [u8; 6],
}

/// Whether there is anything to decide here: ICMPv6 that is neither echo nor error, and what hides it.
#[inline(always)]
pub fn is_concerned(packet: &Packet<V6>) -> bool {
    packet.kind == Kind::Other && (packet.l3.proto == proto::ICMPV6 || ipv6::is_extension(packet.l3.proto))
}

/// Whether a packet that [`is_concerned`] passes at once. If not, it is like any other. Its network header
/// lies at `l3_off`.
///
/// # Errors
///
/// [`Reason::RouterAdvertisement`]; [`Reason::SpoofedSource`] and [`Reason::SpoofedMac`] where it speaks for
/// somebody else; [`Reason::Malformed`] where receivers have to discard it, or where its extension headers
/// hide what it is (RFC 7113, 3).
#[inline(always)]
pub fn passes<E: Env<V6>, B: Bytes>(
    env: &E,
    bytes: &B,
    l3_off: usize,
    packet: &Packet<V6>,
    arrival: &Arrival,
) -> Result<bool, Reason> {
    if packet.l3.proto != proto::ICMPV6 {
        return Err(Reason::Malformed);
    }
    // Four bytes: of one alone, at an offset that it does not know, the verifier cannot tell that it is there.
    let [message_type, ..]: [u8; 4] = bytes.get(bounded(packet.l3.l4_off)).ok_or(Reason::Malformed)?;
    match message_type {
        ROUTER_ADVERTISEMENT | REDIRECT => Err(Reason::RouterAdvertisement),
        ROUTER_SOLICITATION => {
            let on_link = is_on_link(packet, &policy::sender::<V6, E>(env, &packet.tuple.src_addr, arrival)?);
            let end = l3_off + packet.l3.len as usize;
            check_options(bytes, packet, packet.l3.l4_off + 8, end, arrival)?;
            Ok(on_link)
        }
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => {
            let end = l3_off + packet.l3.len as usize;
            let off = packet.l3.l4_off + size_of::<Message>();
            let message: Message = bytes.get(bounded(packet.l3.l4_off)).ok_or(Reason::Malformed)?;
            if off > end || V6::is_group(&message.target) {
                return Err(Reason::Malformed);
            }
            let sender = speaker(env, packet, &message, arrival)?;
            check_options(bytes, packet, off, end, arrival)?;
            Ok(is_on_link(packet, &sender))
        }
        MULTICAST_REPORT | MULTICAST_DONE | MULTICAST_REPORT_V2 => report(env, packet, arrival).map(|()| true),
        _ => Ok(false),
    }
}

/// Who speaks, in the sender's name or by right of being the one asked for.
#[inline(always)]
fn speaker<'a, E: Env<V6>>(
    env: &'a E,
    packet: &Packet<V6>,
    message: &Message,
    arrival: &Arrival,
) -> Result<Sender<'a>, Reason> {
    let src_addr = &packet.tuple.src_addr;
    if message.message_type == NEIGHBOUR_ADVERTISEMENT {
        let sender = policy::sender::<V6, E>(env, src_addr, arrival)?;
        return if env.endpoint_index(&message.target) == Some(sender.index) {
            Ok(sender)
        } else {
            Err(Reason::SpoofedSource)
        };
    }
    // Duplicate address detection (RFC 4862, 5.4.2) asks for the address that the sender is about to have.
    let is_probe = *src_addr == Addr6::UNSPECIFIED && V6::is_group(&packet.tuple.dst_addr);
    policy::sender::<V6, E>(env, if is_probe { &message.target } else { src_addr }, arrival)
}

/// Whether the packet stays on the sender's link.
#[inline(always)]
fn is_on_link(packet: &Packet<V6>, sender: &Sender<'_>) -> bool {
    const LINK_LOCAL_GROUP: [u8; 2] = [0xff, 2];
    let dst_addr = &packet.tuple.dst_addr;
    dst_addr.0[..2] == LINK_LOCAL_GROUP || V6::is_link_local(dst_addr) || V6::in_network(sender.network, dst_addr)
}

/// Checks what all messages of neighbour discovery have in common (RFC 4861, 6.1 and 7.1): they come from
/// the link, whole, and name no hardware address but the sender's.
#[inline(always)]
fn check_options<B: Bytes>(
    bytes: &B,
    packet: &Packet<V6>,
    mut off: usize,
    end: usize,
    arrival: &Arrival,
) -> Result<(), Reason> {
    const SOURCE_LINK_ADDRESS: u8 = 1;
    const TARGET_LINK_ADDRESS: u8 = 2;
    // RFC 6980, 5: "Nodes MUST silently ignore" what is fragmented.
    if packet.l3.ttl != 255 || packet.l3.fragment != 0 {
        return Err(Reason::Malformed);
    }
    let last = packet.l3.l4_off + MAX_LEN - size_of::<LinkOption>();
    for _ in 0..MAX_OPTIONS {
        if off >= end {
            return Ok(());
        }
        if off > last {
            break;
        }
        let option: LinkOption = bytes.get(bounded(off)).ok_or(Reason::Malformed)?;
        if option.len == 0 {
            break;
        }
        if matches!(option.kind, SOURCE_LINK_ADDRESS | TARGET_LINK_ADDRESS) && option.mac != arrival.src_mac {
            return Err(Reason::SpoofedMac);
        }
        off += 8 * usize::from(option.len);
    }
    if off >= end { Ok(()) } else { Err(Reason::Malformed) }
}

/// Checks a report of group membership. RFC 3590, 4: without an address yet, it comes from none; who sends
/// it is known by its hardware address then, which the link-local address is made of.
#[inline(always)]
fn report<E: Env<V6>>(env: &E, packet: &Packet<V6>, arrival: &Arrival) -> Result<(), Reason> {
    let own_addr = ipv6::link_local(&arrival.src_mac);
    let is_nobody = packet.tuple.src_addr == Addr6::UNSPECIFIED;
    policy::sender::<V6, E>(env, if is_nobody { &own_addr } else { &packet.tuple.src_addr }, arrival)?;
    if packet.l3.ttl != 1 || !V6::is_group(&packet.tuple.dst_addr) {
        return Err(Reason::Malformed);
    }
    Ok(())
}
