//! `PORT_BITS`: which ports are published at all, kept in step with `PUBLISHED_PORTS_*`.

use aya::maps::{Array, MapData, MapError};
use netpath_common::{Address, PORT_BITS_WORDS, PortKey, port_bit};

/// The bits, and how many entries of `PUBLISHED_PORTS_*` stand behind each.
pub(super) struct PortBits {
    map: Array<MapData, u64>,
    holders: Vec<u16>,
}

impl PortBits {
    /// Over the map as it is, with no holders yet.
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self { map, holders: vec![0; PORT_BITS_WORDS as usize * 64] }
    }

    /// Notes a new entry; call before it is there.
    pub(super) fn hold<A: Address>(&mut self, key: &PortKey<A>) -> Result<(), MapError> {
        self.change(key, |holders| holders.saturating_add(1))
    }

    /// Notes an entry that has gone.
    pub(super) fn release<A: Address>(&mut self, key: &PortKey<A>) -> Result<(), MapError> {
        self.change(key, |holders| holders.saturating_sub(1))
    }

    fn change<A: Address>(&mut self, key: &PortKey<A>, count: impl Fn(u16) -> u16) -> Result<(), MapError> {
        let len = if key.is_block() { u32::from(netpath_common::BLOCK_LEN) } else { 1 };
        let Some((first, _)) = port_bit(key.proto, key.port) else { return Ok(()) };
        let mut touched = first;
        let mut bits = self.map.get(&first, 0)?;
        for port in (u32::from(key.port)..).take(len as usize) {
            let Some((word, bit)) = u16::try_from(port).ok().and_then(|port| port_bit(key.proto, port)) else { break };
            if word != touched {
                self.map.set(touched, bits, 0)?;
                bits = self.map.get(&word, 0)?;
                touched = word;
            }
            let holders = &mut self.holders[(word * 64 + bit.trailing_zeros()) as usize];
            *holders = count(*holders);
            bits = if *holders > 0 { bits | bit } else { bits & !bit };
        }
        self.map.set(touched, bits, 0)
    }
}
