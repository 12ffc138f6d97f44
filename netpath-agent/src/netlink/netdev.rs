//! The family `netdev` of generic netlink: what drivers can do with XDP.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::raw::{Raw, attribute};

// linux/genetlink.h.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
// linux/netdev.h, Linux 6.3.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// A connection to the kernel's family `netdev`.
pub struct Netdev {
    raw: Raw,
    family: u16,
}

impl Netdev {
    /// `None` on a kernel that does not have the family (before Linux 6.3).
    ///
    /// # Errors
    /// If there is no netlink socket to be had, or the kernel does not answer.
    pub fn open() -> Result<Option<Self>> {
        let raw = Raw::open(SockProtocol::NetlinkGeneric)?;
        match raw.ask(GENL_ID_CTRL, header(CTRL_CMD_GETFAMILY), (CTRL_ATTR_FAMILY_NAME, b"netdev\0")) {
            Ok(answer) => {
                let id = attribute(&answer.rest, CTRL_ATTR_FAMILY_ID).and_then(|id| id.try_into().ok());
                let id = id.context("the kernel does not number the netlink family netdev")?;
                Ok(Some(Self { raw, family: u16::from_ne_bytes(id) }))
            }
            Err(error) if error.downcast_ref() == Some(&Errno::ENOENT) => Ok(None),
            Err(error) => Err(error).context("look up the netlink family netdev"),
        }
    }

    /// What the driver can do with XDP: bits of `NETDEV_XDP_ACT_*`.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel does not answer.
    pub fn xdp_features(&self, ifindex: u32) -> Result<u64> {
        let context = || format!("ask for the XDP features of interface {ifindex}");
        let it = (NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes()[..]);
        let answer = self.raw.ask(self.family, header(NETDEV_CMD_DEV_GET), it).with_context(context)?;
        let features = attribute(&answer.rest, NETDEV_A_DEV_XDP_FEATURES);
        let features = features.and_then(|value| value.try_into().ok());
        features.map(u64::from_ne_bytes).context("the answer names none").with_context(context)
    }
}

/// `struct genlmsghdr`: command, version, reserved.
fn header(command: u8) -> [u8; 4] {
    [command, 1, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_no_native_xdp() {
        // Linux 6.3 has the family.
        let netdev = Netdev::open().unwrap().unwrap();
        assert_eq!(netdev.xdp_features(1).unwrap(), 0);
        let error = netdev.xdp_features(u32::MAX >> 1).unwrap_err();
        assert!(format!("{error:#}").contains("ENODEV"), "{error:#}");
    }
}
