//! The legacy iptables (ip_tables.ko), whose rules nf_tables does not show: looks at them, and takes some away. Asks only for
//! tables that are there: to ask for another one would make it.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::legacy_table::{Hooks, LegacyTable};
use crate::netlink::nftables::Removal;

// linux/netfilter_ipv4/ip_tables.h; the same numbers in netfilter_ipv6/ip6_tables.h.
const SO_GET_INFO: i32 = 64;
const SO_GET_ENTRIES: i32 = 65;
const SO_SET_REPLACE: i32 = 64;
const SO_SET_ADD_COUNTERS: i32 = 65;
const TABLE_NAME_LEN: usize = 32;
/// `struct ipt_getinfo`, and where it says how many bytes the entries take.
const INFO_LEN: usize = 84;
const INFO_SIZE_OFFSET: usize = 80;
/// `struct ipt_get_entries` without entries.
const ENTRIES_HEADER_LEN: usize = 40;
/// `struct xt_counters`: packets and bytes.
const COUNTERS_LEN: usize = 16;
/// What every program takes that changes legacy tables: they are read and written whole.
const LOCK: &str = "/run/xtables.lock";
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const FAMILIES: [Family; 2] = [
    Family {
        name: "ip",
        tables: "/proc/thread-self/net/ip_tables_names",
        domain: AddressFamily::Inet,
        level: libc::IPPROTO_IP,
    },
    Family {
        name: "ip6",
        tables: "/proc/thread-self/net/ip6_tables_names",
        domain: AddressFamily::Inet6,
        level: libc::IPPROTO_IPV6,
    },
];

struct Family {
    name: &'static str,
    /// Where the tables of the calling thread's network namespace are named.
    tables: &'static str,
    domain: AddressFamily,
    level: i32,
}

/// The tables with a chain of this name, as `ip nat` or `ip6 filter`.
///
/// # Errors
/// If the kernel does not show the entries of a table that is there.
pub fn tables_with_chain(chain: &str) -> Result<Vec<String>> {
    let with_chain =
        |table: &Read| has_chain(&table.entries, chain).then(|| format!("{} {}", table.family.name, table.name));
    Ok(all()?.iter().filter_map(with_chain).collect())
}

/// The tables that are there.
///
/// # Errors
/// If one cannot be read.
pub fn tables() -> Result<Vec<LegacyTable>> {
    all()?.iter().map(Read::parse).collect()
}

/// Takes `removal` out of `table`, all of it or nothing. What the other rules have counted stays.
///
/// # Errors
/// If the table is not as it was when `table` was read, the kernel refuses, or somebody else does not come to an end with it.
pub fn remove(table: &LegacyTable, removal: &Removal) -> Result<()> {
    let what = || format!("take rules out of the legacy table {} {}", table.family(), table.name);
    let _lock = lock().with_context(what)?;
    let family = FAMILIES.iter().find(|family| family.name == table.family()).with_context(what)?;
    let now = Read::new(family, &table.name)?;
    ensure!(
        now.parse()? == *table,
        "the legacy table {} {} has been changed meanwhile: try again",
        family.name,
        now.name
    );
    let (new, kept) = table.without(removal).with_context(what)?;
    let old = replace(&now.socket, family.level, &new, table.len()).with_context(what)?;
    let counted: Vec<u8> =
        kept.iter().flat_map(|place| old[place * COUNTERS_LEN..][..COUNTERS_LEN].iter().copied()).collect();
    let mut request = named(&table.name, ENTRIES_HEADER_LEN);
    request[TABLE_NAME_LEN..][..4].copy_from_slice(&(kept.len() as u32).to_ne_bytes());
    request.extend(counted);
    tell(&now.socket, family.level, SO_SET_ADD_COUNTERS, &request).with_context(what)
}

/// Puts `new` in the place of a table with `old_len` entries, and says what those had counted.
fn replace(socket: &OwnedFd, level: i32, new: &LegacyTable, old_len: usize) -> Result<Vec<u8>> {
    let mut counters = vec![0; old_len * COUNTERS_LEN];
    let (bytes, hooks) = (new.bytes(), new.hooks);
    // `struct ipt_replace`
    let mut request = named(&new.name, TABLE_NAME_LEN);
    let numbers = [hooks.valid, new.len() as u32, bytes.len() as u32];
    let numbers = numbers.into_iter().chain(hooks.starts).chain(hooks.policies).chain([old_len as u32]);
    request.extend(numbers.flat_map(u32::to_ne_bytes));
    request.extend((counters.as_mut_ptr() as usize).to_ne_bytes());
    request.extend(bytes);
    tell(socket, level, SO_SET_REPLACE, &request)?;
    Ok(counters)
}

/// Waits for whoever changes legacy tables.
fn lock() -> Result<Flock<File>> {
    let mut file = File::options().create(true).append(true).open(LOCK).with_context(|| format!("open {LOCK}"))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = unlocked,
            Err((_, Errno::EWOULDBLOCK)) => {
                bail!("another program has held {LOCK} for {} s: `fuser {LOCK}` says which", LOCK_PATIENCE.as_secs())
            }
            Err((_, error)) => return Err(error).with_context(|| format!("lock {LOCK}")),
        }
        sleep(Duration::from_millis(50));
    }
}

/// A table as the kernel has handed it out.
struct Read {
    family: &'static Family,
    name: String,
    socket: OwnedFd,
    hooks: Hooks,
    entries: Vec<u8>,
}

fn all() -> Result<Vec<Read>> {
    let mut read = Vec::new();
    for family in &FAMILIES {
        // Absent where the kernel has no such tables.
        for table in fs::read_to_string(family.tables).unwrap_or_default().lines() {
            read.push(Read::new(family, table)?);
        }
    }
    Ok(read)
}

/// A chain begins with an entry whose target carries its name, ended by a NUL.
fn has_chain(entries: &[u8], chain: &str) -> bool {
    let name = [b"\0", chain.as_bytes(), b"\0"].concat();
    entries.windows(name.len()).any(|window| window == name)
}

impl Read {
    fn new(family: &'static Family, table: &str) -> Result<Self> {
        Self::try_new(family, table).with_context(|| format!("read the legacy table {} {table}", family.name))
    }

    fn try_new(family: &'static Family, table: &str) -> Result<Self> {
        let socket = socket(family.domain, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
            .context("open a raw socket")?;
        let mut info = named(table, INFO_LEN);
        ask(&socket, family.level, SO_GET_INFO, &mut info)?;
        let mut numbers = info[TABLE_NAME_LEN..]
            .chunks_exact(4)
            .map(|number| u32::from_ne_bytes([number[0], number[1], number[2], number[3]]));
        let mut next = || numbers.next().unwrap_or_default();
        let hooks =
            Hooks { valid: next(), starts: std::array::from_fn(|_| next()), policies: std::array::from_fn(|_| next()) };
        let size = info[INFO_SIZE_OFFSET..].try_into().map(u32::from_ne_bytes).context("read a size")?;
        let mut entries = named(table, ENTRIES_HEADER_LEN + size as usize);
        entries[TABLE_NAME_LEN..TABLE_NAME_LEN + size_of::<u32>()].copy_from_slice(&size.to_ne_bytes());
        // EAGAIN: the table has changed in between; whoever changes it is at work, and the next look sees it.
        ask(&socket, family.level, SO_GET_ENTRIES, &mut entries)?;
        Ok(Self { family, name: table.to_owned(), socket, hooks, entries: entries.split_off(ENTRIES_HEADER_LEN) })
    }

    fn parse(&self) -> Result<LegacyTable> {
        LegacyTable::parse(self.family.name, &self.name, self.hooks, &self.entries)
            .with_context(|| format!("understand the legacy table {} {}", self.family.name, self.name))
    }
}

/// A request that begins with the table's name.
fn named(table: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let name = &table.as_bytes()[..table.len().min(TABLE_NAME_LEN - 1)];
    bytes[..name.len()].copy_from_slice(name);
    bytes
}

fn ask(socket: &OwnedFd, level: i32, option: i32, bytes: &mut [u8]) -> Result<()> {
    let mut len = libc::socklen_t::try_from(bytes.len()).context("a request of that size")?;
    // SAFETY: the kernel reads and writes at most `len` bytes behind the pointer, which are `bytes`; the socket is open.
    let code = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, bytes.as_mut_ptr().cast(), &mut len) };
    Errno::result(code).map(drop).context("ask the kernel")
}

fn tell(socket: &OwnedFd, level: i32, option: i32, bytes: &[u8]) -> Result<()> {
    let len = libc::socklen_t::try_from(bytes.len()).context("a request of that size")?;
    // SAFETY: the kernel reads `len` bytes behind the pointer, which are `bytes`; what they point to, the caller keeps, with
    // room for as many counters as they say.
    let code = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, bytes.as_ptr().cast(), len) };
    Errno::result(code).map(drop).context("hand it to the kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_known_by_its_whole_name() {
        let entries = b"\0\0ERROR\0DOCKER-USER\0\0\0DOCKER\0\0";
        assert!(has_chain(entries, "DOCKER"));
        assert!(has_chain(entries, "DOCKER-USER"));
        assert!(!has_chain(entries, "USER"));
        assert!(!has_chain(&entries[..20], "DOCKER"));
    }
}
