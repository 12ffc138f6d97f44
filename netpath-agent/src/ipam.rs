//! Which subnet the bridge gets and which address a container gets. Pure: the caller says what the host
//! uses, and keeps what was allocated.
//!
//! As Docker does it: the first default pool that overlaps nothing, and always the lowest free address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Something on the host that a subnet must not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    pub subnet: IpNet,
    pub kind: Use,
    /// For people: "route 172.17.0.0/16 dev docker0", "nameserver 172.18.0.1".
    pub by: String,
}

/// What a subnet is in use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Network,
    /// An address of an interface.
    Address,
    /// A route to a neighbouring network.
    OnLink,
    /// A route through a gateway.
    Via,
    NameServer,
}

/// Pools in a row that could not be taken, all for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub first: IpNet,
    /// The first, where it is one.
    pub last: IpNet,
    /// What they overlap, as in [`InUse::by`].
    pub by: String,
}

/// The subnet that was picked and the pools before it that were not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    pub pool: IpNet,
    pub skipped: Vec<Skipped>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    #[error("all predefined address pools overlap networks of this host ({}); choose a subnet with `--bip` or `--subnet`, or other pools with `--default-address-pool`", list(.0))]
    NoFreePool(Vec<Skipped>),
    #[error("{addr} is not an address for a host in {subnet}")]
    NotAHost { addr: IpAddr, subnet: IpNet },
    #[error("requested address {addr} is out of range: not in subnet {subnet}")]
    OutOfRange { addr: IpAddr, subnet: IpNet },
    #[error("range {range} is not in subnet {subnet}")]
    RangeOutside { range: IpNet, subnet: IpNet },
    #[error("subnet {subnet} overlaps {by}")]
    Overlap { subnet: IpNet, by: String },
    #[error("address {0} is already in use")]
    AlreadyAllocated(IpAddr),
    #[error("no available {family} addresses on this network's address pools: {0}", family = family(.0))]
    Exhausted(IpNet),
}

fn family(net: &IpNet) -> &'static str {
    if net.addr().is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Hands out the addresses of one subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocator {
    subnet: IpNet,
    /// Where addresses are picked from (`--fixed-cidr`); an explicit address may lie outside.
    range: IpNet,
    /// Never given to a container: gateway and the like.
    reserved: BTreeSet<IpAddr>,
    allocated: BTreeSet<IpAddr>,
    /// No address of the range below this one is free.
    lowest: IpAddr,
}

/// Docker's predefined pools in Docker's order: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 in /20s.
pub fn default_pools() -> impl Iterator<Item = IpNet> {
    let large = (17..=31).map(|i| Ipv4Net::new_assert(Ipv4Addr::new(172, i, 0, 0), 16));
    let small = (0..16).map(|i| Ipv4Net::new_assert(Ipv4Addr::new(192, 168, i * 16, 0), 20));
    large.chain(small).map(IpNet::V4)
}

/// A pool of the user's own, cut into subnets of one size: `base=CIDR,size=PREFIX_LENGTH`, as Docker writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AddressPool {
    pub base: IpNet,
    /// Prefix length of each subnet.
    pub size: u8,
}

impl AddressPool {
    /// The subnets, in order.
    pub fn subnets(self) -> impl Iterator<Item = IpNet> {
        self.base.subnets(self.size).into_iter().flatten()
    }
}

impl FromStr for AddressPool {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let wanted = || format!("`{text}` is no address pool, want base=CIDR,size=PREFIX_LENGTH");
        let (mut base, mut size) = (None, None);
        for part in text.split(',') {
            match part.split_once('=').with_context(wanted)? {
                ("base", cidr) => base = Some(cidr.parse::<IpNet>().with_context(wanted)?),
                ("size", length) => size = Some(length.parse::<u8>().with_context(wanted)?),
                _ => anyhow::bail!(wanted()),
            }
        }
        let (base, size) = (base.with_context(wanted)?.trunc(), size.with_context(wanted)?);
        // The last subnets with a network's address, a gateway, a container and a broadcast address.
        let longest = base.max_prefix_len() - 2;
        ensure!(
            (base.prefix_len()..=longest).contains(&size),
            "size {size} of address pool {base} is out of range, want {} to {longest}",
            base.prefix_len()
        );
        Ok(Self { base, size })
    }
}

impl TryFrom<String> for AddressPool {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

/// The pools of IPv6: a unique local /48 of this host's own (RFC 4193) in /64s. `host_id` is the same after
/// every start and says nothing about the host.
pub fn default_pools6(host_id: [u8; 5]) -> impl Iterator<Item = IpNet> {
    let [a, b, c, d, e] = host_id;
    let word = |x, y| u16::from_be_bytes([x, y]);
    (0..=u16::MAX).map(move |subnet| {
        let prefix = Ipv6Addr::new(word(0xfd, a), word(b, c), word(d, e), subnet, 0, 0, 0, 0);
        IpNet::V6(Ipv6Net::new_assert(prefix, 64))
    })
}

/// Picks the first of `pools` that overlaps nothing in `in_use`.
///
/// # Errors
/// Every pool overlaps something; the error says what.
pub fn pick_pool(pools: impl Iterator<Item = IpNet>, in_use: &[InUse]) -> Result<Picked, IpamError> {
    let mut skipped: Vec<Skipped> = Vec::new();
    for pool in pools {
        let Some(by) = overlap(pool, in_use) else { return Ok(Picked { pool, skipped }) };
        match skipped.last_mut().filter(|skipped| skipped.by == by) {
            Some(skipped) => skipped.last = pool,
            None => skipped.push(Skipped { first: pool, last: pool, by: by.to_owned() }),
        }
    }
    Err(IpamError::NoFreePool(skipped))
}

/// Checks a subnet that the user chose.
///
/// # Errors
/// It overlaps something in `in_use`.
pub fn check_overlap(subnet: IpNet, in_use: &[InUse]) -> Result<(), IpamError> {
    match overlap(subnet, in_use) {
        None => Ok(()),
        Some(by) => Err(IpamError::Overlap { subnet: subnet.trunc(), by: by.to_owned() }),
    }
}

/// Prefix length from which a route is about some network. A shorter one is the default route, or a part of it as
/// VPNs make them.
const SPECIFIC: u8 = 8;

/// What overlaps `subnet`.
fn overlap(subnet: IpNet, in_use: &[InUse]) -> Option<&str> {
    let clash = |used: &&InUse| {
        let other = used.subnet.trunc();
        let one_family = other.addr().is_ipv4() == subnet.addr().is_ipv4();
        let overlaps = other.contains(&subnet.network()) || subnet.contains(&other.network());
        one_family && other.prefix_len() >= SPECIFIC && overlaps
    };
    in_use.iter().find(clash).map(|used| used.by.as_str())
}

impl Allocator {
    /// An allocator for `subnet` that picks from `range`, or from the whole subnet.
    ///
    /// # Errors
    /// The range is not inside the subnet.
    pub fn new(subnet: IpNet, range: Option<IpNet>) -> Result<Self, IpamError> {
        let subnet = subnet.trunc();
        let range = range.unwrap_or(subnet).trunc();
        if !subnet.contains(&range) {
            return Err(IpamError::RangeOutside { range, subnet });
        }
        let lowest = range.network();
        Ok(Self { subnet, range, reserved: BTreeSet::new(), allocated: BTreeSet::new(), lowest })
    }

    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// The lowest address of the subnet that is not taken, for the bridge.
    ///
    /// # Errors
    /// None is free.
    pub fn pick_gateway(&self) -> Result<IpAddr, IpamError> {
        self.first_free(self.subnet, self.subnet.network()).ok_or(IpamError::Exhausted(self.subnet))
    }

    /// Keeps `addr` from containers: the gateway, `--default-gateway`, the bridge's own address.
    ///
    /// # Errors
    /// The address is no host address of the subnet, or a container has it.
    pub fn reserve(&mut self, addr: IpAddr) -> Result<(), IpamError> {
        self.check_host(addr)?;
        if self.allocated.contains(&addr) {
            return Err(IpamError::AlreadyAllocated(addr));
        }
        self.reserved.insert(addr);
        Ok(())
    }

    /// Allocates the lowest free address of the range.
    ///
    /// # Errors
    /// None is free.
    pub fn allocate(&mut self) -> Result<IpAddr, IpamError> {
        let addr = self.first_free(self.range, self.lowest).ok_or(IpamError::Exhausted(self.range))?;
        self.allocated.insert(addr);
        self.lowest = addr;
        Ok(addr)
    }

    /// Whether no address of the range is free.
    pub fn is_full(&self) -> bool {
        self.first_free(self.range, self.lowest).is_none()
    }

    /// Allocates an explicit address; it may lie outside the range, but not outside the subnet.
    ///
    /// # Errors
    /// The address is no host address of the subnet, or taken.
    pub fn allocate_exact(&mut self, addr: IpAddr) -> Result<(), IpamError> {
        self.check_host(addr)?;
        if self.is_taken(addr) {
            return Err(IpamError::AlreadyAllocated(addr));
        }
        self.allocated.insert(addr);
        Ok(())
    }

    /// Makes `addr` free again; fine if it was not allocated.
    pub fn release(&mut self, addr: IpAddr) {
        if self.allocated.remove(&addr) && self.range.contains(&addr) {
            self.lowest = self.lowest.min(addr);
        }
    }

    fn is_taken(&self, addr: IpAddr) -> bool {
        self.reserved.contains(&addr) || self.allocated.contains(&addr)
    }

    fn check_host(&self, addr: IpAddr) -> Result<(), IpamError> {
        let subnet = self.subnet;
        if !subnet.contains(&addr) {
            return Err(IpamError::OutOfRange { addr, subnet });
        }
        if is_host(subnet, addr) { Ok(()) } else { Err(IpamError::NotAHost { addr, subnet }) }
    }

    fn first_free(&self, range: IpNet, from: IpAddr) -> Option<IpAddr> {
        let (mut number, last) = (number(from), number(range.broadcast()));
        loop {
            let addr = with_number(from, number);
            if is_host(self.subnet, addr) && !self.is_taken(addr) {
                return Some(addr);
            }
            if number == last {
                return None;
            }
            number += 1;
        }
    }
}

/// Whether a host may have `addr`: not the network's and not the broadcast address of IPv4, which a /31
/// (RFC 3021) and a /32 do not have; not the subnet-router anycast address of IPv6 (RFC 4291, 2.6.1), which a
/// /127 (RFC 6164) and a /128 do not have.
fn is_host(subnet: IpNet, addr: IpAddr) -> bool {
    match subnet {
        IpNet::V4(_) => subnet.prefix_len() >= 31 || (addr != subnet.network() && addr != subnet.broadcast()),
        IpNet::V6(_) => subnet.prefix_len() >= 127 || addr != subnet.network(),
    }
}

/// As many as there are predefined pools of IPv4, and how many more.
fn list(skipped: &[Skipped]) -> String {
    const LISTED: usize = 31;
    let mut text = skipped.iter().take(LISTED).map(Skipped::to_string).collect::<Vec<_>>().join(", ");
    if skipped.len() > LISTED {
        text += &format!(" and {} more", skipped.len() - LISTED);
    }
    text
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, by } = self;
        if first == last { write!(f, "{first}: overlaps {by}") } else { write!(f, "{first} to {last}: overlap {by}") }
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

/// The address of `family`'s family with that number.
fn with_number(family: IpAddr, number: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_pools_are_dockers() {
        let pools: Vec<_> = default_pools().map(|pool| pool.to_string()).collect();
        assert_eq!(pools.len(), 31);
        assert_eq!((pools[0].as_str(), pools[14].as_str()), ("172.17.0.0/16", "172.31.0.0/16"));
        assert_eq!((pools[15].as_str(), pools[30].as_str()), ("192.168.0.0/20", "192.168.240.0/20"));
    }

    #[test]
    fn a_pool_of_ones_own_is_cut_into_subnets() {
        for (text, first) in [
            ("base=10.10.0.0/16,size=24", ["10.10.0.0/24", "10.10.1.0/24"]),
            ("size=28,base=10.10.3.9/27", ["10.10.3.0/28", "10.10.3.16/28"]),
            ("base=fd00:5::/48,size=64", ["fd00:5::/64", "fd00:5:0:1::/64"]),
        ] {
            let pool: AddressPool = text.parse().unwrap();
            assert_eq!(pool.subnets().take(2).collect::<Vec<_>>(), first.map(net), "{text}");
        }
        for text in [
            "",
            "10.0.0.0/8",
            "base=10.0.0.0/8",
            "size=24",
            "base=10.0.0.0,size=24",
            "base=10.0.0.0/16,size=15",
            "base=10.0.0.0/16,size=31",
            "base=10.0.0.0/16,size=33",
            "base=10.0.0.0/16,size=24,more=1",
        ] {
            assert!(text.parse::<AddressPool>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_pool_without_overlap_is_picked_and_the_others_are_explained() {
        let rows: &[(&[&str], &str, usize)] = &[
            (&[], "172.17.0.0/16", 0),
            (&["0.0.0.0/0"], "172.17.0.0/16", 0),
            (&["0.0.0.0/1", "128.0.0.0/1"], "172.17.0.0/16", 0),
            (&["172.17.0.0/16"], "172.18.0.0/16", 1),
            (&["172.17.5.3/32"], "172.18.0.0/16", 1),
            (&["172.17.5.3/24", "172.18.1.0/24"], "172.19.0.0/16", 2),
            (&["172.16.0.0/12"], "192.168.0.0/20", 1),
            (&["172.0.0.0/8", "192.168.1.0/24"], "192.168.16.0/20", 2),
            (&["172.18.0.0/16"], "172.17.0.0/16", 0),
        ];
        for (used, expected, skipped) in rows {
            let picked = pick_pool(default_pools(), &in_use(used)).unwrap();
            assert_eq!((picked.pool, picked.skipped.len()), (net(expected), *skipped), "{used:?}");
        }
        let picked = pick_pool(default_pools(), &in_use(&["172.17.0.0/16"])).unwrap();
        assert_eq!(picked.skipped[0].to_string(), "172.17.0.0/16: overlaps route 172.17.0.0/16");
        let picked = pick_pool(default_pools(), &in_use(&["172.16.0.0/12"])).unwrap();
        assert_eq!(picked.skipped[0].to_string(), "172.17.0.0/16 to 172.31.0.0/16: overlap route 172.16.0.0/12");
    }

    #[test]
    fn without_a_free_pool_the_error_names_what_is_in_the_way() {
        let text = pick_pool(default_pools(), &in_use(&["172.16.0.0/12", "192.168.0.0/16"])).unwrap_err().to_string();
        assert!(text.contains("172.17.0.0/16 to 172.31.0.0/16: overlap route 172.16.0.0/12"), "{text}");
        assert!(text.contains("192.168.0.0/20 to 192.168.240.0/20: overlap route 192.168.0.0/16"), "{text}");
        assert!(text.contains("choose a subnet with `--bip` or `--subnet`"), "{text}");
        let pool: AddressPool = "base=10.0.0.0/16,size=24".parse().unwrap();
        let routes: Vec<_> = pool.subnets().map(|subnet| subnet.to_string()).collect();
        let routes: Vec<_> = routes.iter().map(String::as_str).collect();
        let text = pick_pool(pool.subnets(), &in_use(&routes)).unwrap_err().to_string();
        assert!(text.contains("10.0.30.0/24: overlaps") && text.contains("and 225 more"), "{text}");
    }

    #[test]
    fn a_chosen_subnet_must_not_overlap() {
        let used = in_use(&["10.1.0.0/16"]);
        assert_eq!(check_overlap(net("10.2.0.1/16"), &used), Ok(()));
        let text = check_overlap(net("10.1.2.1/24"), &used).unwrap_err().to_string();
        assert_eq!(text, "subnet 10.1.2.0/24 overlaps route 10.1.0.0/16");
    }

    #[test]
    fn the_lowest_free_address_is_handed_out_and_a_released_one_at_once_again() {
        let mut pool = Allocator::new(net("10.0.0.0/29"), None).unwrap();
        let gateway = pool.pick_gateway().unwrap();
        assert_eq!(gateway, addr("10.0.0.1"));
        pool.reserve(gateway).unwrap();
        let got: Vec<_> = (0..5).map(|_| last_byte(pool.allocate().unwrap())).collect();
        assert_eq!(got, [2, 3, 4, 5, 6]);
        let text = pool.allocate().unwrap_err().to_string();
        assert_eq!(text, "no available IPv4 addresses on this network's address pools: 10.0.0.0/29");
        pool.release(addr("10.0.0.5"));
        pool.release(addr("10.0.0.3"));
        assert_eq!((pool.allocate(), pool.allocate()), (Ok(addr("10.0.0.3")), Ok(addr("10.0.0.5"))));
    }

    #[test]
    fn an_explicit_address_is_checked() {
        let mut pool = Allocator::new(net("10.0.0.0/24"), None).unwrap();
        pool.reserve(addr("10.0.0.1")).unwrap();
        pool.allocate_exact(addr("10.0.0.9")).unwrap();
        for (text, expected) in [
            ("10.0.1.5", "requested address 10.0.1.5 is out of range: not in subnet 10.0.0.0/24"),
            ("10.0.0.0", "10.0.0.0 is not an address for a host in 10.0.0.0/24"),
            ("10.0.0.255", "10.0.0.255 is not an address for a host in 10.0.0.0/24"),
            ("10.0.0.1", "address 10.0.0.1 is already in use"),
            ("10.0.0.9", "address 10.0.0.9 is already in use"),
        ] {
            assert_eq!(pool.allocate_exact(addr(text)).unwrap_err().to_string(), expected);
        }
        assert_eq!(pool.reserve(addr("10.0.0.9")), Err(IpamError::AlreadyAllocated(addr("10.0.0.9"))));
    }

    #[test]
    fn a_range_limits_what_is_picked_but_not_what_is_asked_for() {
        let mut pool = Allocator::new(net("10.0.0.1/16"), Some(net("10.0.5.0/30"))).unwrap();
        assert_eq!(pool.pick_gateway(), Ok(addr("10.0.0.1")));
        pool.reserve(addr("10.0.0.1")).unwrap();
        pool.allocate_exact(addr("10.0.9.9")).unwrap();
        pool.release(addr("10.0.9.9"));
        let got: Vec<_> = (0..4).map(|_| last_byte(pool.allocate().unwrap())).collect();
        assert_eq!(got, [0, 1, 2, 3], "inside the subnet these are ordinary addresses");
        assert_eq!(pool.allocate(), Err(IpamError::Exhausted(net("10.0.5.0/30"))));
        let outside = Allocator::new(net("10.0.0.0/24"), Some(net("10.0.1.0/24"))).unwrap_err();
        assert_eq!(outside.to_string(), "range 10.0.1.0/24 is not in subnet 10.0.0.0/24");
        assert!(Allocator::new(net("10.0.0.0/24"), Some(net("10.0.0.0/16"))).is_err());
    }

    #[test]
    fn a_point_to_point_subnet_has_no_network_and_broadcast_address() {
        let mut pool = Allocator::new(net("10.0.0.4/31"), None).unwrap();
        pool.reserve(pool.pick_gateway().unwrap()).unwrap();
        assert_eq!(pool.allocate(), Ok(addr("10.0.0.5")));
        let mut single = Allocator::new(net("10.0.0.4/32"), None).unwrap();
        assert_eq!(single.allocate(), Ok(addr("10.0.0.4")));
        assert!(single.allocate().is_err());
    }

    #[test]
    fn the_end_of_the_address_space_is_no_trap() {
        let mut pool = Allocator::new(net("255.255.255.252/30"), None).unwrap();
        assert_eq!((pool.allocate(), pool.allocate()), (Ok(addr("255.255.255.253")), Ok(addr("255.255.255.254"))));
        assert!(pool.allocate().is_err());
    }

    proptest! {
        #[test]
        fn an_address_is_never_given_twice_and_always_the_lowest(
            prefix in 24u8..=30, actions in proptest::collection::vec((any::<bool>(), 0u8..=255), 0..80),
        ) {
            let subnet = net(&format!("10.0.0.0/{prefix}"));
            let mut pool = Allocator::new(subnet, None).unwrap();
            pool.reserve(addr("10.0.0.1")).unwrap();
            let mut given = BTreeSet::new();
            for (take, which) in actions {
                if take {
                    let lowest = subnet.hosts().skip(1).find(|host| !given.contains(host));
                    prop_assert_eq!(pool.allocate().ok(), lowest);
                    given.extend(lowest);
                } else if let Some(addr) = given.iter().nth(usize::from(which) % given.len().max(1)).copied() {
                    pool.release(addr);
                    given.remove(&addr);
                }
            }
        }
    }

    #[test]
    fn ipv6_has_no_broadcast_address_and_its_first_is_every_routers() {
        let mut pool = Allocator::new(net("fd00:1::/64"), None).unwrap();
        assert_eq!(pool.pick_gateway(), Ok(addr("fd00:1::1")));
        pool.reserve(addr("fd00:1::1")).unwrap();
        assert_eq!((pool.allocate(), pool.allocate()), (Ok(addr("fd00:1::2")), Ok(addr("fd00:1::3"))));
        assert!(pool.allocate_exact(addr("fd00:1::")).is_err());
        assert_eq!(pool.allocate_exact(addr("fd00:1::ffff:ffff:ffff:ffff")), Ok(()));
        let text = Allocator::new(net("fd00::/128"), None).map(|mut pool| (pool.allocate(), pool.allocate())).unwrap();
        assert_eq!(text.0, Ok(addr("fd00::")));
        assert!(text.1.unwrap_err().to_string().starts_with("no available IPv6 addresses"));
    }

    #[test]
    fn the_pools_of_ipv6_are_unique_local_and_this_hosts_own() {
        let pools: Vec<_> = default_pools6([1, 2, 3, 4, 5]).take(2).map(|pool| pool.to_string()).collect();
        assert_eq!(pools, ["fd01:203:405::/64", "fd01:203:405:1::/64"]);
    }

    #[test]
    fn families_do_not_overlap() {
        assert_eq!(check_overlap(net("fd00::/64"), &in_use(&["10.0.0.0/8"])), Ok(()));
        assert!(check_overlap(net("fd00::/64"), &in_use(&["fd00::/8"])).is_err());
    }

    fn last_byte(addr: IpAddr) -> u8 {
        match addr {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(addr) => addr.octets()[15],
        }
    }

    fn in_use(subnets: &[&str]) -> Vec<InUse> {
        let used = |text: &&str| InUse { subnet: net(text), kind: Use::OnLink, by: format!("route {text}") };
        subnets.iter().map(used).collect()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
