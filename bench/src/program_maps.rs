//! The data plane that programs are measured on: three containers, ports that lead round in a circle, and the host's.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use netpath_agent::datapath::{Datapath, Sizes};
use netpath_agent::reconcile::{Change, FamilyChange};
use netpath_common::{
    Addr4, Addr6, Address, Config, Endpoint, External, LAYOUT, Network, PortKey, PortRange, PortSource, PortTarget,
    Timeouts, config_flag, network_flag, proto,
};

use crate::packets::{BRIDGE_MAC, Cast, HOST_PORT, MAC, NEIGHBOUR_MAC, PORT, V4, V6};

/// The interface of test runs.
const LOOPBACK: u32 = 1;

const A: u32 = 1;
const B: u32 = 2;
const NEIGHBOUR: u32 = 3;

/// Loads the programs and fills the maps, pinned in `pin_dir`.
pub(crate) fn load(pin_dir: &Path) -> Result<Datapath> {
    let sizes = Sizes { max_flows: 1024, max_ports: 1024, max_endpoints: 8, max_counters: 32 };
    let config = Config {
        layout: LAYOUT,
        hash_key: 1,
        netns_cookie: 0,
        flags: config_flag::SHORTCUTS,
        max_flows: sizes.max_flows,
        timeouts: Timeouts::default(),
        ports: PortRange { first: 1024, last: 32767 },
        privileged_ports: PortRange { first: 600, last: 1023 },
        primary_ifindex: 0,
        primary: External::default(),
    };
    let (mut datapath, _) = Datapath::load(pin_dir, &sizes, config)?;
    datapath.apply(&changes()?)?;
    Ok(datapath)
}

fn changes() -> Result<Vec<Change>> {
    let uplink = nix::net::if_::if_nametoindex("up0").context("find up0")?;
    let mut network = Network::EMPTY;
    network.flags = network_flag::EXISTS | network_flag::ICC | network_flag::MASQUERADE4 | network_flag::MASQUERADE6;
    network.ifindex = uplink;
    network.mtu = 1500;
    network.counter = 1;
    (network.prefix4, network.mask4) = (Addr4([172, 17, 0, 0]), Addr4([255, 255, 0, 0]));
    network.prefix6 = Addr6([0xfd, 0, 0, 0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    network.mask6 = Addr6([255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
    network.mac = BRIDGE_MAC;
    let external = External { addr4: v4(V4.host)?, addr6: v6(V6.host)?, ..External::default() };
    let mut changes = vec![
        Change::PutNetwork(1, network),
        Change::V4(FamilyChange::PutPrefix((network.prefix4, 16), 1)),
        Change::V6(FamilyChange::PutPrefix((network.prefix6, 64), 1)),
        Change::PutExternal(LOOPBACK, external),
        Change::PutExternal(uplink, external),
    ];
    let containers =
        [(A, V4.a, V6.a, MAC), (B, V4.b, V6.b, MAC), (NEIGHBOUR, V4.neighbour, V6.neighbour, NEIGHBOUR_MAC)];
    for (index, addr4, addr6, mac) in containers {
        let mut endpoint = Endpoint::EMPTY;
        endpoint.generation = index;
        endpoint.ifindex = LOOPBACK;
        endpoint.network = 1;
        endpoint.counter = 1 + 2 * index;
        (endpoint.addr4, endpoint.addr6, endpoint.mac) = (v4(addr4)?, v6(addr6)?, mac);
        changes.extend([
            Change::PutEndpoint(index, endpoint),
            Change::V4(FamilyChange::PutAddress(endpoint.addr4, index)),
            Change::V6(FamilyChange::PutAddress(endpoint.addr6, index)),
        ]);
    }
    changes.extend(circle(&V4, v4)?.into_iter().map(Change::V4));
    changes.extend(circle(&V6, v6)?.into_iter().map(Change::V6));
    Ok(changes)
}

/// A's port leads to B, B's to A, and another port of the host to B.
fn circle<T: Address>(cast: &Cast, of: fn(IpAddr) -> Result<T>) -> Result<Vec<FamilyChange<T>>> {
    let (a, b, host) = (of(cast.a)?, of(cast.b)?, of(cast.host)?);
    let mut changes = Vec::new();
    for (from, to, index) in [((a, HOST_PORT), (b, PORT), B), ((b, PORT), (a, HOST_PORT), A)] {
        let key = PortKey::new(from.0, from.1, proto::TCP);
        changes.push(FamilyChange::PutPublished(key, PortTarget::new(index, index, to.1, 0, 10)));
        changes.push(FamilyChange::PutSource(key, PortSource::new(to.0, to.1, 0, 10)));
    }
    let key = PortKey::new(host, HOST_PORT, proto::TCP);
    changes.push(FamilyChange::PutPublished(key, PortTarget::new(B, B, PORT, 0, 10)));
    Ok(changes)
}

fn v4(addr: IpAddr) -> Result<Addr4> {
    let IpAddr::V4(addr) = addr else { bail!("{addr} is no IPv4 address") };
    Ok(addr.into())
}

fn v6(addr: IpAddr) -> Result<Addr6> {
    let IpAddr::V6(addr) = addr else { bail!("{addr} is no IPv6 address") };
    Ok(addr.into())
}
