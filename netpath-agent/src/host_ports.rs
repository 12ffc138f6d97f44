//! The host's ports beside netpath: what processes have bound, and what the kernel gives out by itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::Result;
use netpath_common::PortRange;

use crate::holder::Sockets;
use crate::host;
use crate::port_spec::Proto;

/// The ports of the host as its sockets and settings have them.
pub trait HostPorts {
    /// The lowest of `ports` that a process has on `addr`.
    fn in_use(&mut self, proto: Proto, addr: IpAddr, ports: RangeInclusive<u16>) -> Result<Option<u16>>;

    /// The process that has `port` on `addr`, in words.
    fn holder(&mut self, proto: Proto, addr: IpAddr, port: u16) -> Result<Option<String>>;

    /// The range that automatic ports come from.
    fn ephemeral(&self) -> Result<PortRange>;

    /// Ports that are never chosen automatically.
    fn reserved(&self) -> Result<Vec<PortRange>>;
}

/// [`HostPorts`] as /proc shows them, each table read once.
pub struct ProcPorts {
    sockets: HashMap<Proto, Sockets>,
    automatic: Option<PortRange>,
}

impl ProcPorts {
    /// `automatic` is in place of the kernel's ephemeral range (`--automatic-ports`).
    pub fn new(automatic: Option<PortRange>) -> Self {
        Self { sockets: HashMap::new(), automatic }
    }

    fn sockets(&mut self, proto: Proto) -> Result<&Sockets> {
        Ok(match self.sockets.entry(proto) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Sockets::read(proto)?),
        })
    }
}

impl HostPorts for ProcPorts {
    fn in_use(&mut self, proto: Proto, addr: IpAddr, ports: RangeInclusive<u16>) -> Result<Option<u16>> {
        Ok(self.sockets(proto)?.lowest(addr, ports))
    }

    fn holder(&mut self, proto: Proto, addr: IpAddr, port: u16) -> Result<Option<String>> {
        Ok(self.sockets(proto)?.holder(addr, port).map(|holder| holder.to_string()))
    }

    fn ephemeral(&self) -> Result<PortRange> {
        self.automatic.map_or_else(host::ephemeral_ports, Ok)
    }

    fn reserved(&self) -> Result<Vec<PortRange>> {
        host::reserved_ports()
    }
}
