//! What a new endpoint needs beside its interface: index, addresses, counters, names. Reserved before anything is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Error, Result, bail, ensure};

use crate::agent::{Addresses, Agent};
use crate::api;
use crate::bridge;
use crate::host;
use crate::ipam::{Allocator, IpamError};
use crate::refusal::Refusal;
use crate::state::{Endpoint, Mac};

/// What is asked of a new endpoint; the rest is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    pub address: Option<Ipv4Addr>,
    pub address6: Option<Ipv6Addr>,
    pub mac: Option<&'a str>,
    pub interface: Option<&'a str>,
    pub cni: Option<&'a str>,
}

impl<'a> From<&'a api::Attach> for Asked<'a> {
    fn from(request: &'a api::Attach) -> Self {
        Self {
            address: request.address,
            address6: request.address6,
            mac: request.mac.as_deref(),
            interface: request.interface.as_deref(),
            cni: request.cni.as_deref(),
        }
    }
}

impl<'a> From<&'a api::Connect> for Asked<'a> {
    fn from(request: &'a api::Connect) -> Self {
        Self {
            address: request.address,
            address6: request.address6,
            mac: request.mac.as_deref(),
            interface: request.interface.as_deref(),
            cni: request.cni.as_deref(),
        }
    }
}

/// The interface of a new endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Host end of the veth pair.
    pub ifname: String,
    /// 0 while it is yet to be made.
    pub ifindex: u32,
    /// Name inside the container.
    pub interface: String,
    pub mac: Mac,
    pub mtu: u32,
    /// Of the host's end, where there is no bridge.
    pub host_mac: Option<Mac>,
}

impl Agent {
    /// Reserves everything that a new endpoint needs but the interface.
    ///
    /// # Errors
    /// A [`Refusal`] if it is not to be had; nothing is reserved then.
    pub(crate) async fn plan_endpoint(
        &mut self,
        container: &str,
        network: u32,
        asked: Asked<'_>,
    ) -> Result<(u32, Endpoint)> {
        if self.state.is_adopted(network) {
            let name = &self.state.networks[&network].name;
            let error =
                format!("network {name} is somebody else's, who makes its interfaces: they can only be adopted");
            return Err(Refusal::Invalid(error).into());
        }
        let mac = match asked.mac {
            Some(text) => parse_mac(text)?,
            None => Mac(host::random_mac()?),
        };
        let interface = self.interface_for(container, asked.interface)?;
        self.check_bridge(network).await?;
        let ifname = self.free_ifname().await?;
        let mtu = self.mtu(&self.state.networks[&network]);
        let interface = Interface { ifname, ifindex: 0, interface, mac, mtu, host_mac: None };
        self.reserve_endpoint(container, network, asked, interface)
    }

    /// Reserves everything that a new endpoint with this interface needs.
    ///
    /// # Errors
    /// As [`Self::plan_endpoint`].
    pub(crate) fn reserve_endpoint(
        &mut self,
        container: &str,
        network: u32,
        asked: Asked<'_>,
        interface: Interface,
    ) -> Result<(u32, Endpoint)> {
        let index = self.state.free_index();
        if index > self.options.max_endpoints {
            let max = self.options.max_endpoints;
            return Err(Refusal::Taken(format!("no room for another container: --max-endpoints is {max}")).into());
        }
        self.check_mac(network, interface.mac)?;
        let (addr, addr6) = self.take_addresses(network, asked)?;
        let Some(counter) = self.counters.take_pair() else {
            self.release_addresses(network, addr, addr6);
            return Err(Refusal::Taken("no counter is free for another container".to_owned()).into());
        };
        let reset = self.datapath.reset_counter(counter).and_then(|()| self.datapath.reset_counter(counter + 1));
        if let Err(error) = reset {
            self.release_addresses(network, addr, addr6);
            self.counters.give_back_pair(counter);
            return Err(error);
        }
        let generation = self.state.next_generation;
        self.state.next_generation += 1;
        let Interface { ifname, ifindex, interface, mac, mtu, host_mac } = interface;
        let container = container.to_owned();
        let takes_xdp = false;
        let cni = asked.cni.map(str::to_owned);
        Ok((
            index,
            Endpoint {
                container,
                network,
                generation,
                counter,
                ifname,
                ifindex,
                interface,
                addr,
                addr6,
                mac,
                mtu,
                host_mac,
                cni,
                takes_xdp,
            },
        ))
    }

    fn take_addresses(&mut self, network: u32, asked: Asked<'_>) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
        let addresses = self.addresses.entry(network).or_default();
        let Addresses { v4, v6 } = addresses;
        let addr = take(v4.as_mut(), asked.address.map(IpAddr::V4), "IPv4")?;
        let addr6 = take(v6.as_mut(), asked.address6.map(IpAddr::V6), "IPv6");
        let addr6 = match addr6 {
            Ok(addr6) => addr6,
            Err(error) => {
                if let (Some(pool), Some(addr)) = (v4, addr) {
                    pool.release(addr);
                }
                return Err(error);
            }
        };
        let v4 = addr.and_then(|addr| if let IpAddr::V4(addr) = addr { Some(addr) } else { None });
        let v6 = addr6.and_then(|addr| if let IpAddr::V6(addr) = addr { Some(addr) } else { None });
        Ok((v4, v6))
    }

    pub(crate) fn release_addresses(&mut self, network: u32, addr: Option<Ipv4Addr>, addr6: Option<Ipv6Addr>) {
        let Some(addresses) = self.addresses.get_mut(&network) else { return };
        if let (Some(pool), Some(addr)) = (&mut addresses.v4, addr) {
            pool.release(addr.into());
        }
        if let (Some(pool), Some(addr)) = (&mut addresses.v6, addr6) {
            pool.release(addr.into());
        }
    }

    /// Two interfaces with one hardware address would take each other's frames. Who made them may have them in two
    /// networks, where they do not.
    fn check_mac(&self, network: u32, mac: Mac) -> Result<()> {
        let is_near = |other: u32| other == network || !self.state.is_adopted(network);
        let holder = self.state.endpoints.values().find(|endpoint| endpoint.mac == mac && is_near(endpoint.network));
        let holder = holder.map(|endpoint| format!("container `{}`", endpoint.container));
        let bridge = self.host.bridges.values().any(|bridge| bridge.mac == mac.0).then(|| "the bridge".to_owned());
        match holder.or(bridge) {
            Some(holder) => Err(Refusal::Taken(format!("MAC address {mac} is already in use by {holder}")).into()),
            None => Ok(()),
        }
    }

    async fn check_bridge(&self, network: u32) -> Result<()> {
        let Some(bridge) = &self.state.networks[&network].bridge else { return Ok(()) };
        let link = self.netlink.link(bridge).await?;
        let ifindex = self.host.bridges.get(&network).map(|bridge| bridge.ifindex);
        ensure!(
            link.is_some_and(|link| Some(link.ifindex) == ifindex),
            "bridge {bridge} has been removed; restart the agent, which makes it anew"
        );
        Ok(())
    }

    /// The name of a container's new interface: as asked for, `eth0`, or the next that the container does not have.
    fn interface_for(&self, container: &str, asked: Option<&str>) -> Result<String, Refusal> {
        let known = self.state.interfaces_of(container);
        let Some(asked) = asked else {
            let mut names = (0..=known.len()).map(|i| format!("eth{i}"));
            return Ok(names.find(|name| !known.contains(&name.as_str())).unwrap_or_default());
        };
        if !bridge::is_ifname(asked) {
            return Err(Refusal::Invalid(format!("`{asked}` is no interface name")));
        }
        if known.contains(&asked) {
            return Err(taken_interface(asked));
        }
        Ok(asked.to_owned())
    }

    /// `veth` and seven hexadecimal digits, as Docker names them.
    async fn free_ifname(&self) -> Result<String> {
        for _ in 0..3 {
            let random = u32::from_ne_bytes(host::random()?) >> 4;
            let ifname = format!("veth{random:07x}");
            if self.netlink.link(&ifname).await?.is_none() {
                return Ok(ifname);
            }
        }
        bail!("find a free interface name: three random ones are taken")
    }
}

fn take(pool: Option<&mut Allocator>, asked: Option<IpAddr>, family: &str) -> Result<Option<IpAddr>> {
    match (pool, asked) {
        (None, None) => Ok(None),
        (None, Some(addr)) => {
            Err(Refusal::Invalid(format!("cannot use address {addr}: the network has no {family}")).into())
        }
        (Some(pool), Some(addr)) => {
            pool.allocate_exact(addr).map_err(refuse_address)?;
            Ok(Some(addr))
        }
        (Some(pool), None) => Ok(Some(pool.allocate().map_err(refuse_address)?)),
    }
}

pub(crate) fn parse_mac(text: &str) -> Result<Mac> {
    let mac: Mac = text.parse().map_err(Refusal::invalid)?;
    if mac.0[0] & 1 != 0 || mac.0 == [0; 6] {
        return Err(Refusal::Invalid(format!("MAC address {mac} is no address of an interface")).into());
    }
    Ok(mac)
}

fn refuse_address(error: IpamError) -> Error {
    match error {
        IpamError::AlreadyAllocated(_) | IpamError::Exhausted(_) => Refusal::Taken(error.to_string()).into(),
        _ => Refusal::invalid(error).into(),
    }
}

pub(crate) fn taken_interface(name: &str) -> Refusal {
    Refusal::Taken(format!("the namespace already has an interface {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_addresses_are_no_mac_address_of_an_interface() {
        assert!(parse_mac("02:00:00:00:00:01").is_ok());
        assert!(parse_mac("01:00:5e:00:00:01").is_err());
        assert!(parse_mac("00:00:00:00:00:00").is_err());
        assert!(parse_mac("zz").is_err());
    }
}
