//! The host's ports beside netpath: what processes have bound, and what the kernel gives out by itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use anyhow::Result;
use netpath_common::PortRange;

use crate::held_ports;
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
    check: Check,
}

/// What is in the way of a port that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Sockets that are listed as listening.
    Listed,
    /// Whatever a socket cannot be bound beside: the port is to be held by one.
    Bindable,
    /// No socket: who asks keeps the port by his own.
    Nothing,
}

impl ProcPorts {
    /// `automatic` is in place of the kernel's ephemeral range (`--automatic-ports`).
    pub fn new(automatic: Option<PortRange>, check: Check) -> Self {
        Self { sockets: HashMap::new(), automatic, check }
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
        if self.check == Check::Nothing {
            return Ok(None);
        }
        let listed = self.sockets(proto)?.lowest(addr, ports.clone());
        if self.check == Check::Listed {
            return Ok(listed);
        }
        let (first, end) = (u32::from(*ports.start()), listed.map_or(u32::from(*ports.end()) + 1, u32::from));
        let mut unlisted = (first..end).map(|port| port as u16);
        Ok(unlisted.find(|port| held_ports::is_in_use(proto, addr, *port)).or(listed))
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
