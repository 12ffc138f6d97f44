//! `PORT_BITS`, `SOURCE_BITS` and `RESERVED_*`: which ports are published at all, kept in step with
//! `PUBLISHED_PORTS_*` and `PUBLISHED_SOURCES_*`.

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use netpath_common::{Address, PORT_BITS_WORDS, PortKey, port_bit};

use super::tables::is_missing;

/// The bits of the host's ports and of the containers'.
pub(super) struct Bits {
    pub(super) ports: PortBits,
    pub(super) sources: PortBits,
}

/// The bits of one of the arrays, and how many entries stand behind each.
pub(super) struct PortBits {
    map: Array<MapData, u64>,
    holders: Vec<u16>,
}

impl PortBits {
    /// Over the map as it is, with no holders yet.
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        Self { map, holders: vec![0; PORT_BITS_WORDS as usize * 64] }
    }

    /// Writes an entry of the map that the bits stand for.
    pub(super) fn put<A: Address + Pod, V: Pod>(
        &mut self,
        map: &mut HashMap<MapData, PortKey<A>, V>,
        key: PortKey<A>,
        value: V,
    ) -> Result<(), MapError> {
        if map.get(&key, 0).is_ok() {
            return map.insert(key, value, 0);
        }
        // A bit too many costs a look-up, one too few a published port.
        self.hold(&key)?;
        let inserted = map.insert(key, value, 0);
        if inserted.is_err() {
            self.release(&key)?;
        }
        inserted
    }

    /// Removes an entry of that map, which may be gone already.
    pub(super) fn delete<A: Address + Pod, V: Pod>(
        &mut self,
        map: &mut HashMap<MapData, PortKey<A>, V>,
        key: &PortKey<A>,
    ) -> Result<(), MapError> {
        match map.remove(key) {
            Ok(()) => self.release(key),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Counts an entry that is there already; [`Self::write`] makes it show.
    pub(super) fn count<A: Address>(&mut self, key: &PortKey<A>) {
        for (word, bit) in places(key) {
            let holders = &mut self.holders[place(word, bit)];
            *holders = holders.saturating_add(1);
        }
    }

    /// Writes every word anew, so that no bit stays that nobody holds: an agent may have been killed between
    /// an entry and its bits.
    pub(super) fn write(&mut self) -> Result<(), MapError> {
        for (word, holders) in (0..).zip(self.holders.chunks(64)) {
            let bits = (0..).zip(holders).filter(|(_, holders)| **holders > 0).fold(0, |bits, (i, _)| bits | 1u64 << i);
            self.map.set(word, bits, 0)?;
        }
        Ok(())
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
        let Some((first, _)) = port_bit(key.proto, key.port) else { return Ok(()) };
        let mut touched = first;
        let mut bits = self.map.get(&first, 0)?;
        for (word, bit) in places(key) {
            if word != touched {
                self.map.set(touched, bits, 0)?;
                bits = self.map.get(&word, 0)?;
                touched = word;
            }
            let holders = &mut self.holders[place(word, bit)];
            *holders = count(*holders);
            bits = if *holders > 0 { bits | bit } else { bits & !bit };
        }
        self.map.set(touched, bits, 0)
    }
}

/// Word and bit of each port that the key stands for.
fn places<A: Address>(key: &PortKey<A>) -> impl Iterator<Item = (u32, u64)> + use<A> {
    let len = if key.is_block() { netpath_common::BLOCK_LEN } else { 1 };
    let (port, proto) = (u32::from(key.port), key.proto);
    let ports = (port..).take(usize::from(len)).map_while(|port| u16::try_from(port).ok());
    ports.map_while(move |port| port_bit(proto, port))
}

fn place(word: u32, bit: u64) -> usize {
    (word * 64 + bit.trailing_zeros()) as usize
}
