//! What drivers say about interfaces, and the one switch that netpath turns: the ioctl SIOCETHTOOL, in the calling
//! thread's network namespace.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

// linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// `struct ethtool_drvinfo`.
const DRVINFO_LEN: usize = 196;
/// More features than there will be.
const MAX_FEATURES: u32 = 1024;

/// Segments are merged before the stack sees them.
pub const GRO: &str = "rx-gro";
/// Features by which a card merges segments before the kernel sees them.
pub const MERGING: [&str; 2] = ["rx-lro", "rx-gro-hw"];

/// A socket to ask through.
pub struct Ethtool {
    socket: OwnedFd,
}

impl Ethtool {
    /// # Errors
    /// If there is no socket to be had.
    pub fn open() -> Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .context("open a socket to ask drivers through")?;
        Ok(Self { socket })
    }

    /// Name of the interface's driver.
    ///
    /// # Errors
    /// If it does not say.
    pub fn driver(&self, ifname: &str) -> Result<String> {
        let mut info = [0; DRVINFO_LEN / 4];
        info[0] = ETHTOOL_GDRVINFO;
        self.ask(ifname, &mut info).with_context(|| format!("ask for the driver of {ifname}"))?;
        // After the command: 32 bytes of name.
        Ok(text(&bytes(&info[1..9])))
    }

    /// Whether GRO, turned on at one end of a veth pair, gives that end a NAPI, without which it drops frames that XDP
    /// redirects. So it is since Linux 5.13 (d3256efd8e8b), which makes veths with GRO off; before, it is on and means
    /// nothing. `ifname` is an end that nobody has changed.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn has_napi_by_gro(&self, ifname: &str) -> Result<bool> {
        Ok(self.active(ifname, &[GRO])?.is_empty())
    }

    /// Those of `names` that are turned on.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn active(&self, ifname: &str, names: &[&str]) -> Result<Vec<String>> {
        let known = self.feature_names(ifname).with_context(|| format!("ask for the features of {ifname}"))?;
        let blocks = known.len().div_ceil(32);
        // Each block: available, requested, active, never changed.
        let mut answer = vec![0; 2 + 4 * blocks];
        (answer[0], answer[1]) = (ETHTOOL_GFEATURES, u32::try_from(blocks)?);
        self.ask(ifname, &mut answer).with_context(|| format!("ask for the features of {ifname}"))?;
        let is_active = |bit: usize| answer[2 + 4 * (bit / 32) + 2] & 1 << (bit % 32) != 0;
        let active = known.into_iter().enumerate().filter(|(bit, _)| is_active(*bit)).map(|(_, name)| name);
        Ok(active.filter(|name| names.contains(&name.as_str())).collect())
    }

    /// Turns generic receive offload on, by which a veth gets a NAPI of its own and takes frames that XDP redirects
    /// (Linux 5.13).
    ///
    /// # Errors
    /// If the driver refuses.
    pub fn turn_gro_on(&self, ifname: &str) -> Result<()> {
        self.ask(ifname, &mut [ETHTOOL_SGRO, 1]).with_context(|| format!("turn on GRO of {ifname}"))?;
        // A driver that fails at it does not say so.
        let mut is_on = [ETHTOOL_GGRO, 0];
        self.ask(ifname, &mut is_on).with_context(|| format!("ask for GRO of {ifname}"))?;
        ensure!(is_on[1] != 0, "turn on GRO of {ifname}: it stays off");
        Ok(())
    }

    fn feature_names(&self, ifname: &str) -> Result<Vec<String>> {
        // `struct ethtool_sset_info`: command, reserved, a mask of 64 bits, the sizes of the sets in it.
        let mut sizes = [ETHTOOL_GSSET_INFO, 0, 0, 0, 0];
        let mask = (1u64 << ETH_SS_FEATURES).to_ne_bytes();
        sizes[2] = u32::from_ne_bytes([mask[0], mask[1], mask[2], mask[3]]);
        sizes[3] = u32::from_ne_bytes([mask[4], mask[5], mask[6], mask[7]]);
        self.ask(ifname, &mut sizes)?;
        let count = sizes[4];
        ensure!(count <= MAX_FEATURES, "the kernel speaks of {count} features");
        // `struct ethtool_gstrings`: command, set, number of strings.
        let mut answer = vec![0; 3 + count as usize * ETH_GSTRING_LEN / 4];
        (answer[0], answer[1], answer[2]) = (ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count);
        self.ask(ifname, &mut answer)?;
        Ok(bytes(&answer[3..]).chunks_exact(ETH_GSTRING_LEN).map(text).collect())
    }

    /// Hands `data`, which begins with the command, to the driver of `ifname`, and gets its answer in the same place.
    /// `data` must have the room that the command's structure says.
    fn ask(&self, ifname: &str, data: &mut [u32]) -> nix::Result<()> {
        const SIOCETHTOOL: libc::Ioctl = 0x8946;
        // SAFETY: all zero is a valid ifreq: a name of no length and a null pointer.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays 0.
        if ifname.len() >= request.ifr_name.len() {
            return Err(Errno::ENODEV);
        }
        for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
        // SAFETY: `request` and `data` live across the call. The kernel writes what the command in `data[0]` says, and
        // the callers, all in this file, have made room for it: two words for GRO, DRVINFO_LEN bytes, one count for
        // one set, as many strings as word 2 says, as many blocks as word 1 says.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        Errno::result(result).map(drop)
    }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The text up to the first zero.
fn text(bytes: &(impl AsRef<[u8]> + ?Sized)) -> String {
    let bytes = bytes.as_ref();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_offloads_but_no_driver() {
        let ethtool = Ethtool::open().unwrap();
        assert!(ethtool.driver("lo").is_err());
        assert_eq!(ethtool.active("lo", &["tx-checksum-ip-generic", "rx-gro", "rx-lro"]).unwrap().len(), 2);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let ethtool = Ethtool::open().unwrap();
        for ifname in ["no-such-one", "a-name-longer-than-any-interface-has"] {
            let error = format!("{:#}", ethtool.driver(ifname).unwrap_err());
            assert!(error.contains(ifname) && error.contains("ENODEV"), "{error}");
        }
    }
}
