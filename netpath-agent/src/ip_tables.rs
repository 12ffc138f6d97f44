//! The legacy iptables (ip_tables.ko), whose rules nf_tables does not show. Only looks, and only at tables that are there:
//! to ask for another one would make it.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

// linux/netfilter_ipv4/ip_tables.h; the same numbers in netfilter_ipv6/ip6_tables.h.
const SO_GET_INFO: i32 = 64;
const SO_GET_ENTRIES: i32 = 65;
const TABLE_NAME_LEN: usize = 32;
/// `struct ipt_getinfo`, and where it says how many bytes the entries take.
const INFO_LEN: usize = 84;
const INFO_SIZE_OFFSET: usize = 80;
/// `struct ipt_get_entries` without entries.
const ENTRIES_HEADER_LEN: usize = 40;

/// The tables with a chain of this name, as `ip nat` or `ip6 filter`.
///
/// # Errors
/// If the kernel does not show the entries of a table that is there.
pub fn tables_with_chain(chain: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (family, path, domain, level) in [
        ("ip", "/proc/net/ip_tables_names", AddressFamily::Inet, libc::IPPROTO_IP),
        ("ip6", "/proc/net/ip6_tables_names", AddressFamily::Inet6, libc::IPPROTO_IPV6),
    ] {
        // Absent where the kernel has no such tables.
        let names = fs::read_to_string(path).unwrap_or_default();
        for table in names.lines() {
            let entries =
                entries(domain, level, table).with_context(|| format!("read the legacy table {family} {table}"))?;
            if has_chain(&entries, chain) {
                found.push(format!("{family} {table}"));
            }
        }
    }
    Ok(found)
}

/// A chain begins with an entry whose target carries its name, ended by a NUL.
fn has_chain(entries: &[u8], chain: &str) -> bool {
    let name = [b"\0", chain.as_bytes(), b"\0"].concat();
    entries.windows(name.len()).any(|window| window == name)
}

fn entries(domain: AddressFamily, level: i32, table: &str) -> Result<Vec<u8>> {
    let socket =
        socket(domain, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).context("open a raw socket")?;
    let mut info = named(table, INFO_LEN);
    ask(&socket, level, SO_GET_INFO, &mut info)?;
    let size = info[INFO_SIZE_OFFSET..].try_into().map(u32::from_ne_bytes).context("read a size")?;
    let mut entries = named(table, ENTRIES_HEADER_LEN + size as usize);
    entries[TABLE_NAME_LEN..TABLE_NAME_LEN + size_of::<u32>()].copy_from_slice(&size.to_ne_bytes());
    // EAGAIN: the table has changed in between; whoever changes it is at work, and the next look sees it.
    ask(&socket, level, SO_GET_ENTRIES, &mut entries)?;
    Ok(entries.split_off(ENTRIES_HEADER_LEN))
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
