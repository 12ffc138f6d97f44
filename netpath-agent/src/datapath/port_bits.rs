//! `PORT_BITS`, `SOURCE_BITS` and `RESERVED_*`: which ports are published at all, kept in step with
//! `PUBLISHED_PORTS_*` and `PUBLISHED_SOURCES_*`.
//!
//! A bit too many costs a look-up, one too few a published port. So bits are raised before the entries are written, all of
//! them at once, and what nobody holds is cleared after the last of them.

use std::collections::BTreeSet;

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use netpath_common::{Address, BLOCK_LEN, PORT_BITS_WORDS, PortKey, port_bit};

use super::tables::is_missing;

/// `BPF_NOEXIST` of linux/bpf.h.
const NEW: u64 = 1;

/// The bits of the host's ports and of the containers'.
pub(super) struct Bits {
    pub(super) ports: PortBits,
    pub(super) sources: PortBits,
}

/// The bits of one of the arrays, and how many entries stand behind each.
pub(super) struct PortBits {
    map: Array<MapData, u64>,
    /// What the map holds.
    words: Vec<u64>,
    holders: Vec<u16>,
    /// Words that may say something else than `holders`.
    unsettled: BTreeSet<u32>,
}

impl PortBits {
    /// Over a map that is empty, or is to be [written](Self::write).
    pub(super) fn new(map: Array<MapData, u64>) -> Self {
        let len = PORT_BITS_WORDS as usize;
        Self { map, words: vec![0; len], holders: vec![0; len * 64], unsettled: BTreeSet::new() }
    }

    /// Sets the bits of entries that are to be written.
    pub(super) fn raise<A: Address>(&mut self, keys: impl IntoIterator<Item = PortKey<A>>) -> Result<(), MapError> {
        let mut raised = BTreeSet::new();
        for (word, bit) in keys.into_iter().flat_map(|key| places(&key)) {
            if self.words[word as usize] & bit == 0 {
                self.words[word as usize] |= bit;
                raised.insert(word);
            }
        }
        self.unsettled.extend(&raised);
        raised.into_iter().try_for_each(|word| self.map.set(word, self.words[word as usize], 0))
    }

    /// Clears the bits that nobody holds.
    pub(super) fn settle(&mut self) -> Result<(), MapError> {
        while let Some(word) = self.unsettled.pop_first() {
            let held = self.held(word);
            if self.words[word as usize] != held {
                self.map.set(word, held, 0)?;
                self.words[word as usize] = held;
            }
        }
        Ok(())
    }

    /// Writes every word anew: an agent may have been killed between an entry and its bits.
    pub(super) fn write(&mut self) -> Result<(), MapError> {
        for word in 0..PORT_BITS_WORDS {
            self.words[word as usize] = self.held(word);
            self.map.set(word, self.words[word as usize], 0)?;
        }
        self.unsettled.clear();
        Ok(())
    }

    /// Writes an entry of the map that the bits stand for, once they are raised. Whether it is a new one.
    pub(super) fn put<A: Address + Pod, V: Pod>(
        &mut self,
        map: &mut HashMap<MapData, PortKey<A>, V>,
        key: PortKey<A>,
        value: V,
    ) -> Result<bool, MapError> {
        match map.insert(key, value, NEW) {
            Ok(()) => {
                self.hold(&key);
                Ok(true)
            }
            Err(error) if is_there(&error) => map.insert(key, value, 0).map(|()| false),
            Err(error) => Err(error),
        }
    }

    /// Removes an entry of that map, which may be gone already. Whether it was there.
    pub(super) fn delete<A: Address + Pod, V: Pod>(
        &mut self,
        map: &mut HashMap<MapData, PortKey<A>, V>,
        key: &PortKey<A>,
    ) -> Result<bool, MapError> {
        match map.remove(key) {
            Ok(()) => {
                self.release(key);
                Ok(true)
            }
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Counts an entry that is there.
    pub(super) fn hold<A: Address>(&mut self, key: &PortKey<A>) {
        for (word, bit) in places(key) {
            let holders = &mut self.holders[place(word, bit)];
            *holders = holders.saturating_add(1);
        }
    }

    /// Counts an entry that has gone.
    pub(super) fn release<A: Address>(&mut self, key: &PortKey<A>) {
        for (word, bit) in places(key) {
            let holders = &mut self.holders[place(word, bit)];
            *holders = holders.saturating_sub(1);
            self.unsettled.insert(word);
        }
    }

    /// The bits of a word that somebody holds.
    fn held(&self, word: u32) -> u64 {
        let holders = &self.holders[place(word, 1)..][..64];
        (0..).zip(holders).filter(|(_, holders)| **holders > 0).fold(0, |bits, (i, _)| bits | 1u64 << i)
    }
}

/// Word and bit of each port that the key stands for.
fn places<A: Address>(key: &PortKey<A>) -> impl Iterator<Item = (u32, u64)> + use<A> {
    let len = if key.is_block() { BLOCK_LEN } else { 1 };
    let (port, proto) = (u32::from(key.port), key.proto);
    let ports = (port..).take(usize::from(len)).map_while(|port| u16::try_from(port).ok());
    ports.map_while(move |port| port_bit(proto, port))
}

fn place(word: u32, bit: u64) -> usize {
    (word * 64 + bit.trailing_zeros()) as usize
}

fn is_there(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == std::io::ErrorKind::AlreadyExists)
}
