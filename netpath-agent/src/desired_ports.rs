//! What the maps should hold about published ports, and which ports a map's content publishes. One family at
//! a time. Pure: no I/O.
//!
//! A range is whole blocks of 256 ports and single ports at both ends. It is cut where the flags of its
//! ports differ: where another name of the same container ports begins or ends, and at the ends of the
//! ephemeral range.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use netpath_common::{
    Address, AllowedSource, BLOCK_LEN, PortKey, PortRange, PortSource, PortTarget, source_flag, target_flag,
};

use crate::binding::PortBinding;
use crate::port_spec::Proto;
use crate::reconcile::FamilyImage;

/// Of a key's prefix the part that names the binding.
const BINDING_BITS: u8 = 32;

/// How containers of a network are reached from outside, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// At host addresses, translated.
    Nat,
    /// At their own addresses.
    Routed,
    /// Not at all.
    Internal,
}

/// An endpoint whose ports are published.
#[derive(Clone, Copy, Debug)]
pub struct Target<A> {
    /// Index into `ENDPOINTS`.
    pub index: u32,
    pub generation: u32,
    /// The container's own.
    pub addr: A,
    pub gateway: Gateway,
    /// Somebody else keeps its host ports from others.
    pub kept_elsewhere: bool,
}

/// What of the host matters to published ports.
#[derive(Clone, Debug)]
pub struct HostAddrs<A> {
    /// Every address of the host but loopback ones.
    pub local: Vec<A>,
    /// Addresses of the external interfaces, the one that replies rather have first.
    pub external: Vec<A>,
    /// The bridges' own addresses: for containers and the host only.
    pub bridges: Vec<A>,
    /// Ports that the host's own connections may have.
    pub ephemeral: PortRange,
}

/// Adds to `image` what it should hold about `bindings` of `target`. Those of the other family, and those of
/// addresses that the host has not, give nothing.
pub fn publish<A>(target: Target<A>, bindings: &[PortBinding], host: &HostAddrs<A>, image: &mut FamilyImage<A>)
where
    A: Address + Ord + TryFrom<IpAddr>,
{
    if target.gateway == Gateway::Internal {
        return;
    }
    let names = match target.gateway {
        Gateway::Routed => bindings.iter().filter_map(|binding| Name::own(binding, target.addr)).collect(),
        _ => bindings.iter().flat_map(|binding| names(binding, host)).collect::<Vec<_>>(),
    };
    let used: BTreeSet<u32> = names.iter().map(|name| name.counter).collect();
    for binding in bindings.iter().filter(|binding| used.contains(&binding.counter)) {
        image.allowed.extend(allowed(binding).map(|source| (source, 1)));
    }
    for proto in BTreeSet::from_iter(names.iter().map(|name| name.proto)) {
        let (inside, outside): (Vec<&Name<A>>, Vec<&Name<A>>) =
            names.iter().filter(|name| name.proto == proto).partition(|name| name.is_inside);
        for name in inside {
            name.put(name.ports(), target_flag::INSIDE_ONLY, &target, host, image);
        }
        for (ports, names) in segments(outside) {
            put_segment(&ports, &names, &target, host, image);
        }
    }
}

/// The bindings of the endpoint at `index` that `image` publishes. Lost are those of an address that the host
/// had not when the image was made.
pub fn recover<A: Address + Ord>(image: &FamilyImage<A>, index: u32) -> Vec<PortBinding> {
    let mut entries: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for (key, target) in image.published.iter().filter(|(_, target)| target.endpoint == index) {
        entries.entry(target.counter).or_default().push((*key, *target));
    }
    entries.values().filter_map(|entries| recover_one(image, index, entries)).collect()
}

/// The binding that all of `entries` belong to.
fn recover_one<A: Address + Ord>(
    image: &FamilyImage<A>,
    index: u32,
    entries: &[(PortKey<A>, PortTarget)],
) -> Option<PortBinding> {
    let (key, target) = entries.iter().min_by_key(|(key, _)| key.port)?;
    let last = entries.iter().map(|(key, _)| key.port + if key.is_block() { BLOCK_LEN - 1 } else { 0 }).max()?;
    // The unspecified address, if it is among them.
    let addr = entries.iter().map(|(key, _)| key.addr).min()?;
    let is_own = image.addresses.get(&addr) == Some(&index);
    let counter = target.counter;
    Some(PortBinding {
        host_addr: if is_own { A::UNSPECIFIED.to_ip() } else { addr.to_ip() },
        host_port: if is_own { 0 } else { key.port },
        container_port: target.port,
        count: last - key.port + 1,
        proto: [Proto::Tcp, Proto::Udp, Proto::Sctp].into_iter().find(|proto| proto.number() == key.proto)?,
        counter,
        from: image.allowed.keys().filter(|(s, _)| s.binding == counter).filter_map(network).collect(),
    })
}

/// What a range of container ports is called at one address.
#[derive(Clone, Copy)]
struct Name<A> {
    addr: A,
    /// The first.
    port: u16,
    /// The first container port.
    container_port: u16,
    count: u16,
    proto: Proto,
    counter: u32,
    is_inside: bool,
    has_allow_list: bool,
    /// The lower, the better as the source of replies.
    rank: usize,
}

impl<A: Address + Ord> Name<A> {
    fn new(binding: &PortBinding, addr: A, is_inside: bool, rank: usize) -> Self {
        Self {
            addr,
            port: binding.host_port,
            container_port: binding.container_port,
            count: binding.count,
            proto: binding.proto,
            counter: binding.counter,
            is_inside,
            has_allow_list: !binding.from.is_empty(),
            rank,
        }
    }

    /// The name of a container that is known by its own address.
    fn own(binding: &PortBinding, addr: A) -> Option<Self>
    where
        A: TryFrom<IpAddr>,
    {
        A::try_from(binding.host_addr).ok()?;
        let rank = usize::from(!binding.from.is_empty());
        Some(Self { port: binding.container_port, ..Self::new(binding, addr, false, rank) })
    }

    /// Container ports.
    fn ports(&self) -> RangeInclusive<u16> {
        self.container_port..=self.container_port + (self.count - 1)
    }

    fn port_of(&self, container_port: u16) -> u16 {
        self.port + (container_port - self.container_port)
    }

    /// Writes the entries that lead to container ports `ports`.
    fn put(
        &self,
        ports: RangeInclusive<u16>,
        flags: u16,
        target: &Target<A>,
        host: &HostAddrs<A>,
        image: &mut FamilyImage<A>,
    ) {
        let flags = if self.has_allow_list { flags | target_flag::ALLOW_LIST } else { flags };
        let flags = if target.kept_elsewhere { flags | target_flag::KEPT_ELSEWHERE } else { flags };
        let ephemeral = if target.gateway == Gateway::Nat { Some(host.ephemeral) } else { None };
        for (ports, extra) in ephemeral_parts(self.port_of(*ports.start()), self.port_of(*ports.end()), ephemeral) {
            for (port, is_block) in tiles(*ports.start(), *ports.end()) {
                let key = key(self.addr, port, self.proto, is_block);
                let container_port = self.container_port + (port - self.port);
                let value =
                    PortTarget::new(target.index, target.generation, container_port, flags | extra, self.counter);
                image.published.insert(key, value);
            }
        }
    }
}

/// Writes everything about the container ports `ports`, all of which are called by all of `names`.
fn put_segment<A: Address + Ord>(
    ports: &RangeInclusive<u16>,
    names: &[Name<A>],
    target: &Target<A>,
    host: &HostAddrs<A>,
    image: &mut FamilyImage<A>,
) {
    let Some(best) = names.iter().min_by_key(|name| (name.rank, name.port_of(*ports.start()), name.counter)) else {
        return;
    };
    // A container has one address of its own, whoever publishes the port.
    let names = if target.gateway == Gateway::Routed { std::slice::from_ref(best) } else { names };
    let is_ambiguous = names.len() > 1;
    for name in names {
        let is_best = (name.addr, name.counter) == (best.addr, best.counter);
        let flags = match (is_best, is_ambiguous) {
            (false, _) => target_flag::NEEDS_FLOW,
            (true, true) => target_flag::ENDS_FLOW,
            (true, false) => 0,
        };
        name.put(ports.clone(), flags, target, host, image);
    }
    let flags = if is_ambiguous { source_flag::AMBIGUOUS } else { 0 };
    for (port, is_block) in tiles(*ports.start(), *ports.end()) {
        let source = PortSource::new(best.addr, best.port_of(port), flags, best.counter);
        image.sources.insert(key(target.addr, port, best.proto, is_block), source);
    }
}

/// The names of a binding: one for each local address that it stands for.
fn names<A>(binding: &PortBinding, host: &HostAddrs<A>) -> Vec<Name<A>>
where
    A: Address + Ord + TryFrom<IpAddr>,
{
    let Ok(wanted) = A::try_from(binding.host_addr) else { return vec![] };
    if binding.is_direct() {
        return vec![];
    }
    // What no packet is addressed to is for the host's own sockets.
    if binding.host_addr.is_loopback() {
        return vec![Name::new(binding, wanted, true, usize::MAX)];
    }
    let is_wildcard = wanted == A::UNSPECIFIED;
    let locals = host.local.iter().filter(|addr| is_wildcard || **addr == wanted);
    let locals = locals.filter(|addr| !is_link_local(addr.to_ip())).map(|addr| {
        let rank = host.external.iter().position(|external| external == addr).unwrap_or(usize::MAX);
        Name::new(binding, *addr, host.bridges.contains(addr), rank)
    });
    locals.chain(is_wildcard.then(|| Name::new(binding, wanted, true, usize::MAX))).collect()
}

/// The container ports of `names`, cut wherever a name begins or ends, and all names of each piece.
fn segments<A: Copy>(names: Vec<&Name<A>>) -> Vec<(RangeInclusive<u16>, Vec<Name<A>>)> {
    let start = |name: &Name<A>| u32::from(name.container_port);
    let end = |name: &Name<A>| u32::from(name.container_port) + u32::from(name.count);
    let cuts: BTreeSet<u32> = names.iter().flat_map(|name| [start(name), end(name)]).collect();
    let mut waiting = names;
    waiting.sort_by_key(|name| name.container_port);
    let mut waiting = waiting.into_iter().peekable();
    let mut active: Vec<Name<A>> = Vec::new();
    let mut segments = Vec::new();
    for (from, to) in cuts.iter().zip(cuts.iter().skip(1)) {
        active.retain(|name| end(name) > *from);
        while let Some(name) = waiting.next_if(|name| start(name) == *from) {
            active.push(*name);
        }
        if !active.is_empty() {
            segments.push((*from as u16..=(*to - 1) as u16, active.clone()));
        }
    }
    segments
}

/// Host ports `first` to `last`, cut at the ends of the ephemeral range, and the flag of each piece.
fn ephemeral_parts(first: u16, last: u16, ephemeral: Option<PortRange>) -> Vec<(RangeInclusive<u16>, u16)> {
    let Some(PortRange { first: low, last: high }) = ephemeral else { return vec![(first..=last, 0)] };
    let below = (first < low).then(|| (first..=last.min(low - 1), 0));
    let inside = (first <= high && last >= low).then(|| (first.max(low)..=last.min(high), target_flag::EPHEMERAL));
    let above = (last > high).then(|| (first.max(high + 1)..=last, 0));
    [below, inside, above].into_iter().flatten().collect()
}

/// The whole blocks between `first` and `last`, by their first ports, and the ports that are in none.
fn tiles(first: u16, last: u16) -> impl Iterator<Item = (u16, bool)> {
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let port = next.filter(|port| *port <= last)?;
        let is_block = port % BLOCK_LEN == 0 && last - port >= BLOCK_LEN - 1;
        next = port.checked_add(if is_block { BLOCK_LEN } else { 1 });
        Some((port, is_block))
    })
}

fn key<A: Address>(addr: A, port: u16, proto: Proto, is_block: bool) -> PortKey<A> {
    if is_block { PortKey::block(addr, port, proto.number()) } else { PortKey::new(addr, port, proto.number()) }
}

/// The keys of a binding's allow-list, with their prefix lengths.
fn allowed<A>(binding: &PortBinding) -> impl Iterator<Item = (AllowedSource<A>, u8)>
where
    A: TryFrom<IpAddr>,
{
    binding.from.iter().filter_map(|net| {
        let addr = A::try_from(net.network()).ok()?;
        Some((AllowedSource { binding: binding.counter, addr }, BINDING_BITS + net.prefix_len()))
    })
}

/// The reverse of [`allowed`].
fn network<A: Address>((source, len): &(AllowedSource<A>, u8)) -> Option<IpNet> {
    IpNet::new(source.addr.to_ip(), len.checked_sub(BINDING_BITS)?).ok()
}

/// `fe80::/10` needs an interface to mean anything, and is not forwarded.
fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use netpath_common::{Addr4, Addr6, proto};
    use proptest::prelude::*;

    use super::*;

    const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const CONTAINER: Addr4 = Addr4([172, 17, 0, 2]);
    const BRIDGE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
    const ETH0: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ETH1: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    const LO: Ipv4Addr = Ipv4Addr::LOCALHOST;
    const EPHEMERAL: PortRange = PortRange { first: 32768, last: 60999 };

    #[test]
    fn a_wildcard_binding_is_every_local_address_and_the_hosts_own_loopback() {
        let image = image(&[binding(ANY, 8080, 80, 1)], &[ETH0]);
        assert_eq!(
            targets(&image),
            [
                (ANY, 8080, 80, target_flag::INSIDE_ONLY),
                (BRIDGE, 8080, 80, target_flag::INSIDE_ONLY),
                (ETH0, 8080, 80, 0)
            ]
        );
    }

    #[test]
    fn one_outside_name_is_unambiguous_though_the_bridge_has_one_too() {
        assert_eq!(source_of(&image(&[binding(ANY, 8080, 80, 1)], &[ETH0]), 80), Some((ETH0, 8080, 0)));
    }

    #[test]
    fn two_outside_names_are_ambiguous() {
        let wildcard = image(&[binding(ANY, 8080, 80, 1)], &[ETH0, ETH1]);
        assert_eq!(source_of(&wildcard, 80), Some((ETH0, 8080, source_flag::AMBIGUOUS)));
        assert_eq!(flags_at(&wildcard, ETH0, 8080), Some(target_flag::ENDS_FLOW));
        assert_eq!(flags_at(&wildcard, ETH1, 8080), Some(target_flag::NEEDS_FLOW));
        let two_ports = image(&[binding(ETH0, 9090, 80, 1), binding(ETH0, 8080, 80, 1)], &[ETH0]);
        assert_eq!(source_of(&two_ports, 80), Some((ETH0, 8080, source_flag::AMBIGUOUS)));
        let two_containers_ports = image(&[binding(ETH0, 9090, 81, 1), binding(ETH0, 8080, 80, 1)], &[ETH0]);
        assert_eq!(source_of(&two_containers_ports, 80), Some((ETH0, 8080, 0)));
    }

    #[test]
    fn a_specific_address_is_published_only_while_it_is_local() {
        let bindings = [binding(ETH1, 8080, 80, 1)];
        assert_eq!(targets(&image(&bindings, &[ETH0])), []);
        assert_eq!(targets(&image(&bindings, &[ETH0, ETH1])), [(ETH1, 8080, 80, 0)]);
    }

    #[test]
    fn a_loopback_binding_is_for_the_host_only() {
        let image = image(&[binding(LO, 8080, 80, 1)], &[ETH0]);
        assert_eq!(targets(&image), [(LO, 8080, 80, target_flag::INSIDE_ONLY)]);
        assert!(image.sources.is_empty(), "a reply would leave with a loopback address");
    }

    #[test]
    fn without_externals_the_port_has_inside_names_only() {
        let image = image(&[binding(ANY, 8080, 80, 1)], &[]);
        assert!(image.published.values().all(|target| target.flags == target_flag::INSIDE_ONLY));
        assert!(image.sources.is_empty(), "a reply would leave with the bridge's address");
    }

    #[test]
    fn a_range_is_blocks_and_the_ports_at_its_ends() {
        let image = image(&[binding(ETH0, 1000, 1000, 1000)], &[ETH0]);
        let blocks: Vec<_> = image.published.keys().filter(|key| key.is_block()).map(|key| key.port).collect();
        assert_eq!(blocks, [1024, 1280, 1536]);
        assert_eq!((image.published.len(), image.sources.len()), (3 + 24 + 208, 3 + 24 + 208));
        let everything = image_of(Gateway::Nat, &[binding(ETH0, 1, 1, u16::MAX)], &[ETH0]);
        assert_eq!(
            find(&everything.published, key(Addr4::from(ETH0), u16::MAX, Proto::Tcp, false)).map(port),
            Some(u16::MAX)
        );
        assert!(everything.published.len() < 1200, "{}", everything.published.len());
    }

    #[test]
    fn a_shifted_range_has_blocks_on_each_side_where_that_side_has_them() {
        let image = image(&[binding(ETH0, 1024, 2000, 512)], &[ETH0]);
        assert_eq!(image.published.len(), 2);
        assert_eq!(image.sources.keys().filter(|key| key.is_block()).map(|key| key.port).collect::<Vec<_>>(), [2048]);
        assert_eq!(source_of(&image, 2048 + 7), Some((ETH0, 1024 + 48 + 7, 0)));
    }

    #[test]
    fn ephemeral_host_ports_are_marked() {
        let image = image(&[binding(ETH0, 30000, 30000, 35000)], &[ETH0]);
        for (port, flags) in [(32767, 0), (32768, target_flag::EPHEMERAL), (60999, target_flag::EPHEMERAL), (61000, 0)]
        {
            assert_eq!(flags_at(&image, ETH0, port), Some(flags), "{port}");
        }
    }

    #[test]
    fn an_allow_list_holds_for_its_binding_and_family() {
        let from = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap(), "192.0.2.7/24".parse().unwrap()];
        let image = image(&[PortBinding { from, ..binding(ETH0, 80, 80, 1) }, binding(ETH0, 81, 81, 1)], &[ETH0]);
        assert_eq!(flags_at(&image, ETH0, 80), Some(target_flag::ALLOW_LIST));
        assert_eq!(flags_at(&image, ETH0, 81), Some(0));
        let source = |addr| AllowedSource { binding: 3, addr: Addr4(addr) };
        let keys: Vec<_> = image.allowed.into_keys().collect();
        assert_eq!(keys, [(source([10, 0, 0, 0]), 40), (source([192, 0, 2, 0]), 56)]);
    }

    #[test]
    fn an_allow_list_of_the_other_family_lets_nobody_in() {
        let from = vec!["fd00::/8".parse().unwrap()];
        let image = image(&[PortBinding { from, ..binding(ETH0, 80, 80, 1) }], &[ETH0]);
        assert_eq!((flags_at(&image, ETH0, 80), image.allowed.len()), (Some(target_flag::ALLOW_LIST), 0));
    }

    #[test]
    fn a_routed_container_is_reached_at_its_own_address_and_known_by_it() {
        let bindings = [binding(ANY, 0, 80, 1), binding(ETH0, 8080, 80, 1)];
        let image = image_of(Gateway::Routed, &bindings, &[ETH0, ETH1]);
        assert_eq!(targets(&image), [(CONTAINER.into(), 80, 80, 0)]);
        assert_eq!(source_of(&image, 80), Some((CONTAINER.into(), 80, 0)));
        assert_eq!(targets(&image_of(Gateway::Nat, &bindings[..1], &[ETH0])), [], "no host port is taken");
    }

    #[test]
    fn an_internal_network_publishes_nothing() {
        assert_eq!(image_of(Gateway::Internal, &[binding(ANY, 8080, 80, 1)], &[ETH0]), FamilyImage::default());
    }

    #[test]
    fn the_other_familys_bindings_and_link_local_addresses_give_nothing() {
        let addr = |text: &str| Addr6::from(text.parse::<Ipv6Addr>().unwrap());
        let host = HostAddrs {
            local: vec![addr("2001:db8::1"), addr("fe80::1")],
            external: vec![addr("2001:db8::1"), addr("fe80::1")],
            bridges: vec![],
            ephemeral: EPHEMERAL,
        };
        let mut image = FamilyImage::default();
        let target =
            Target { index: 1, generation: 5, addr: addr("fd00::2"), gateway: Gateway::Nat, kept_elsewhere: false };
        let v6 = PortBinding { host_addr: "::".parse().unwrap(), ..binding(ANY, 80, 80, 1) };
        publish(target, &[binding(ANY, 81, 81, 1), v6], &host, &mut image);
        let keys: Vec<_> = image.published.keys().map(|key| (key.addr, key.port)).collect();
        assert_eq!(keys, [(Addr6::UNSPECIFIED, 80), (addr("2001:db8::1"), 80)]);
    }

    #[test]
    fn bindings_of_a_routed_container_are_recovered() {
        let bindings = [binding(ANY, 0, 80, 300)];
        let mut image = image_of(Gateway::Routed, &bindings, &[ETH0]);
        image.addresses.insert(CONTAINER, 1);
        assert_eq!(recover(&image, 1), bindings);
    }

    #[test]
    fn ports_that_somebody_else_keeps_say_so_at_every_address() {
        let host = HostAddrs {
            local: vec![ETH0.into(), BRIDGE.into()],
            external: vec![ETH0.into()],
            bridges: vec![BRIDGE.into()],
            ephemeral: EPHEMERAL,
        };
        let kept = |kept_elsewhere| {
            let target = Target { index: 1, generation: 5, addr: CONTAINER, gateway: Gateway::Nat, kept_elsewhere };
            let mut image = FamilyImage::default();
            publish(target, &[binding(ANY, 8080, 80, 1000)], &host, &mut image);
            let flags = image.published.values().map(|target| target.flags & target_flag::KEPT_ELSEWHERE);
            flags.collect::<BTreeSet<u16>>()
        };
        assert_eq!(kept(true), BTreeSet::from([target_flag::KEPT_ELSEWHERE]));
        assert_eq!(kept(false), BTreeSet::from([0]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_port_leads_where_a_list_of_single_ports_would_lead(
            bindings in bindings(), externals in 0usize..3, routed in any::<bool>(),
        ) {
            let (locals, gateway) = (&[ETH0, ETH1][..externals], if routed { Gateway::Routed } else { Gateway::Nat });
            let image = image_of(gateway, &bindings, locals);
            let (published, sources) = model(gateway, &bindings, locals);
            for proto in [Proto::Tcp, Proto::Udp] {
                for port in 1..=LAST {
                    for addr in [ANY, BRIDGE, ETH0, ETH1, LO, CONTAINER.into()] {
                        let key = key(Addr4::from(addr), port, proto, false);
                        prop_assert_eq!(find(&image.published, key), published.get(&key).copied(), "{:?}", key);
                    }
                    let key = key(CONTAINER, port, proto, false);
                    prop_assert_eq!(find(&image.sources, key), sources.get(&key).copied(), "{:?}", key);
                }
            }
        }

        #[test]
        fn bindings_are_recovered_from_what_they_publish(bindings in bindings()) {
            let mut recovered = recover(&image(&bindings, &[ETH0, ETH1]), 1);
            recovered.sort_by_key(|binding| binding.counter);
            prop_assert_eq!(recovered, bindings);
        }

        #[test]
        fn tiles_cover_each_port_once(first in any::<u16>(), last in any::<u16>()) {
            let (first, last) = (first.min(last), first.max(last));
            let mut next = u32::from(first);
            for (port, is_block) in tiles(first, last) {
                prop_assert_eq!(u32::from(port), next);
                next += if is_block { u32::from(BLOCK_LEN) } else { 1 };
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }

    /// The highest port in the property tests.
    const LAST: u16 = 1400;
    /// The ephemeral range there.
    const LOW_EPHEMERAL: PortRange = PortRange { first: 700, last: 1100 };

    prop_compose! {
        /// Bindings of one endpoint: no two have the same host port, as `ports` makes them.
        fn bindings()(
            parts in prop::collection::vec((0usize..4, 1u16..800, 1u16..800, 1u16..600, any::<bool>(), any::<bool>()), 0..6),
        ) -> Vec<PortBinding> {
            let mut bindings: Vec<PortBinding> = Vec::new();
            for (addr, host_port, container_port, count, is_udp, has_list) in parts {
                let proto = if is_udp { Proto::Udp } else { Proto::Tcp };
                let from = if has_list { vec!["10.0.0.0/8".parse().unwrap()] } else { vec![] };
                let counter = 3 + bindings.len() as u32;
                let addr = [ANY, ETH0, ETH1, LO][addr];
                let new = PortBinding { proto, from, counter, ..binding(addr, host_port, container_port, count) };
                let overlaps = |b: &PortBinding| {
                    b.proto == proto && b.host_ports().start() <= new.host_ports().end()
                        && new.host_ports().start() <= b.host_ports().end()
                };
                if !bindings.iter().any(overlaps) {
                    bindings.push(new);
                }
            }
            bindings
        }
    }

    type Published = BTreeMap<PortKey<Addr4>, PortTarget>;
    type Sources = BTreeMap<PortKey<Addr4>, PortSource<Addr4>>;

    /// Every port for itself.
    fn model(gateway: Gateway, bindings: &[PortBinding], externals: &[Ipv4Addr]) -> (Published, Sources) {
        let (mut published, mut sources) = (BTreeMap::new(), BTreeMap::new());
        let singles: Vec<_> = bindings.iter().flat_map(|b| (0..b.count).map(|i| b.part(i, 1))).collect();
        for single in &singles {
            let same = |b: &&PortBinding| (b.proto, b.container_port) == (single.proto, single.container_port);
            let inside = key(CONTAINER, single.container_port, single.proto, false);
            let list = |b: &PortBinding| if b.from.is_empty() { 0 } else { target_flag::ALLOW_LIST };
            if gateway == Gateway::Routed {
                let best = singles.iter().filter(same).min_by_key(|b| (!b.from.is_empty(), b.counter)).unwrap();
                published.insert(inside, PortTarget::new(1, 5, inside.port, list(best), best.counter));
                sources.insert(inside, PortSource::new(CONTAINER, inside.port, 0, best.counter));
                continue;
            }
            let outside = |b: &PortBinding| -> Vec<(usize, u16, Ipv4Addr, u32)> {
                let all = externals.iter().enumerate();
                let mine = all.filter(|(_, addr)| b.host_addr.is_unspecified() || b.host_addr == **addr);
                mine.map(|(rank, addr)| (rank, b.host_port, *addr, b.counter)).collect()
            };
            let names: Vec<_> = singles.iter().filter(same).flat_map(outside).collect();
            let best = names.iter().min().copied();
            let own = (LOW_EPHEMERAL.contains(single.host_port) as u16 * target_flag::EPHEMERAL) | list(single);
            let mut put = |addr: Ipv4Addr, flags| {
                let target = PortTarget::new(1, 5, single.container_port, flags | own, single.counter);
                published.insert(key(Addr4::from(addr), single.host_port, single.proto, false), target);
            };
            for (rank, port, addr, counter) in outside(single) {
                let flags = match (Some((rank, port, addr, counter)) == best, names.len() > 1) {
                    (false, _) => target_flag::NEEDS_FLOW,
                    (true, true) => target_flag::ENDS_FLOW,
                    (true, false) => 0,
                };
                put(addr, flags);
            }
            match single.host_addr {
                IpAddr::V4(ANY) => [ANY, BRIDGE].iter().for_each(|addr| put(*addr, target_flag::INSIDE_ONLY)),
                IpAddr::V4(LO) => put(LO, target_flag::INSIDE_ONLY),
                _ => {}
            }
            if let Some((_, port, addr, counter)) = best {
                let flags = if names.len() > 1 { source_flag::AMBIGUOUS } else { 0 };
                sources.insert(inside, PortSource::new(addr.into(), port, flags, counter));
            }
        }
        (published, sources)
    }

    trait Value: Copy {
        fn shifted(self, by: u16) -> Self;
    }

    impl Value for PortTarget {
        fn shifted(mut self, by: u16) -> Self {
            self.port += by;
            self
        }
    }

    impl Value for PortSource<Addr4> {
        fn shifted(mut self, by: u16) -> Self {
            self.port += by;
            self
        }
    }

    /// As the programs look a port up.
    fn find<V: Value>(map: &BTreeMap<PortKey<Addr4>, V>, key: PortKey<Addr4>) -> Option<V> {
        let block = || map.get(&PortKey::block(key.addr, key.port, key.proto)).map(|v| v.shifted(key.port % BLOCK_LEN));
        map.get(&key).copied().or_else(block)
    }

    fn port(target: PortTarget) -> u16 {
        target.port
    }

    fn flags_at(image: &FamilyImage<Addr4>, addr: Ipv4Addr, port: u16) -> Option<u16> {
        find(&image.published, key(addr.into(), port, Proto::Tcp, false)).map(|target| target.flags)
    }

    fn source_of(image: &FamilyImage<Addr4>, port: u16) -> Option<(Ipv4Addr, u16, u16)> {
        let source = find(&image.sources, PortKey::new(CONTAINER, port, proto::TCP))?;
        Some((source.addr.into(), source.port, source.flags))
    }

    /// Host address and port, container port, flags.
    fn targets(image: &FamilyImage<Addr4>) -> Vec<(Ipv4Addr, u16, u16, u16)> {
        image.published.iter().map(|(key, target)| (key.addr.into(), key.port, target.port, target.flags)).collect()
    }

    fn image(bindings: &[PortBinding], externals: &[Ipv4Addr]) -> FamilyImage<Addr4> {
        image_of(Gateway::Nat, bindings, externals)
    }

    fn image_of(gateway: Gateway, bindings: &[PortBinding], externals: &[Ipv4Addr]) -> FamilyImage<Addr4> {
        let external: Vec<_> = externals.iter().copied().map(Addr4::from).collect();
        let host = HostAddrs {
            local: external.iter().copied().chain([BRIDGE.into()]).collect(),
            external,
            bridges: vec![BRIDGE.into()],
            ephemeral: if bindings.iter().any(|b| *b.host_ports().end() > LAST) { EPHEMERAL } else { LOW_EPHEMERAL },
        };
        let counted = |(i, binding): (u32, &PortBinding)| PortBinding { counter: 3 + i, ..binding.clone() };
        let bindings: Vec<_> = (0..).zip(bindings).map(counted).collect();
        let mut image = FamilyImage::default();
        publish(
            Target { index: 1, generation: 5, addr: CONTAINER, gateway, kept_elsewhere: false },
            &bindings,
            &host,
            &mut image,
        );
        image
    }

    fn binding(host_addr: Ipv4Addr, host_port: u16, container_port: u16, count: u16) -> PortBinding {
        PortBinding {
            host_addr: host_addr.into(),
            host_port,
            container_port,
            count,
            proto: Proto::Tcp,
            counter: 3,
            from: vec![],
        }
    }
}
