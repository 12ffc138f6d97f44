//! Attached programs: one pinned link for each program and interface, or one filter (`filters.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{ProgramError, TcAttachType};
use aya::sys::SyscallError;

use super::filters::{self, Place};
use super::{Datapath, PROGRAMS, ipv6, program, xdp};

/// What an interface is to the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    External,
    /// A container's host end, a port of a bridge.
    Container,
    /// One that the host routes to by itself.
    RoutedContainer,
    Bridge,
}

/// A program and the side it hangs on.
type Hook = (&'static str, TcAttachType);

impl Attachment {
    /// That of a program.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "to_bridge" => Self::Bridge,
            "from_container" | "from_container6" => Self::Container,
            _ => Self::External,
        }
    }

    /// Its programs, in the order in which they are attached: those of IPv6 first.
    const fn hooks(self) -> &'static [Hook] {
        match self {
            Self::External => &[
                ("from_external6", TcAttachType::Ingress),
                ("from_external", TcAttachType::Ingress),
                ("to_external6", TcAttachType::Egress),
                ("to_external", TcAttachType::Egress),
            ],
            Self::Container => &[("from_container6", TcAttachType::Ingress), ("from_container", TcAttachType::Ingress)],
            Self::RoutedContainer => &[
                ("to_bridge", TcAttachType::Egress),
                ("from_container6", TcAttachType::Ingress),
                ("from_container", TcAttachType::Ingress),
            ],
            Self::Bridge => &[("to_bridge", TcAttachType::Egress)],
        }
    }
}

/// The side that a program hangs on.
pub(super) fn hook_of(name: &str) -> Option<TcAttachType> {
    let all = [Attachment::External, Attachment::Container, Attachment::Bridge].map(Attachment::hooks);
    all.into_iter().flatten().find(|(program, _)| *program == name).map(|(_, hook)| *hook)
}

impl Datapath {
    /// Attaches `from_external` and `to_external`, those of IPv6 first, if they are loaded. A link of an earlier agent gets
    /// the new program without a packet seeing none.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn attach_external(&mut self, ifindex: u32, ifname: &str) -> Result<()> {
        self.attach_all(Attachment::External, ifindex, ifname)
    }

    /// Attaches what an interface needs, as [`Self::attach_external`].
    ///
    /// # Errors
    ///
    /// As [`Self::attach_external`].
    pub fn attach_all(&mut self, attachment: Attachment, ifindex: u32, ifname: &str) -> Result<()> {
        for (name, hook) in attachment.hooks() {
            if self.serves(name) {
                self.attach(name, ifindex, ifname, *hook)?;
            } else {
                // Of an earlier agent that had networks with IPv6.
                self.remove(name, ifindex)?;
            }
        }
        Ok(())
    }

    fn serves(&self, name: &str) -> bool {
        self.has_ipv6 || !ipv6::is_its(name)
    }

    /// Whether the interface has every program of an `attachment` that is loaded, by the pins.
    pub fn has_all(&self, ifindex: u32, attachment: Attachment) -> bool {
        attachment.hooks().iter().all(|(name, _)| !self.serves(name) || self.has(name, ifindex))
    }

    /// Detaches all programs from an interface, also from one that is gone.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed, or the kernel does not take the program for XDP off at once.
    pub fn detach(&mut self, ifindex: u32) -> Result<()> {
        // An interface takes one XDP program, and the next one may be wanted before the kernel gets to this one.
        let detached = self.detach_xdp(ifindex);
        for name in PROGRAMS {
            self.remove(name, ifindex)?;
        }
        unpin(&self.pin(xdp::XDP, ifindex))?;
        detached.map(drop)
    }

    /// Takes a program off an interface, if it is there.
    fn remove(&self, name: &str, ifindex: u32) -> Result<()> {
        match &self.filters {
            Some(filters) => filters.detach(name, ifindex),
            None => unpin(&self.pin(name, ifindex)),
        }
    }

    fn has(&self, name: &str, ifindex: u32) -> bool {
        match &self.filters {
            Some(filters) => filters.has(name, ifindex),
            None => self.pin(name, ifindex).exists(),
        }
    }

    /// The interfaces that programs are attached to, all of them or some, by the pins.
    ///
    /// # Errors
    ///
    /// If the pins cannot be listed.
    pub fn attached(&self) -> Result<BTreeMap<u32, Attachment>> {
        let dir = self.filters.as_ref().map_or(&*self.links_dir, |filters| filters.dir());
        let mut attached = BTreeMap::new();
        for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
            let name = entry.with_context(|| format!("list {}", dir.display()))?.file_name();
            let Some((program, ifindex)) = name.to_str().and_then(filters::parse) else { continue };
            if program != filters::QDISC {
                attached.insert(ifindex, Attachment::of(program));
            }
        }
        Ok(attached)
    }

    pub(super) fn pin(&self, name: &str, ifindex: u32) -> PathBuf {
        self.links_dir.join(format!("{name}-{ifindex}"))
    }

    fn attach(&mut self, name: &str, ifindex: u32, ifname: &str, hook: TcAttachType) -> Result<()> {
        let pin = self.pin(name, ifindex);
        let context = || format!("attach `{name}` to {ifname}");
        let program = program(&mut self.ebpf, name)?;
        if let Some(filters) = &self.filters {
            return filters.attach(program, &Place { name, ifindex, ifname, hook }).with_context(context);
        }
        if let Some(link) = pinned_link(&pin).with_context(context)? {
            let link = SchedClassifierLink::try_from(link).context("a pin that is no tc link").with_context(context)?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    // Dropping the link closes our descriptor; the pin keeps it attached.
                    drop(program.take_link(id).with_context(context)?);
                    return Ok(());
                }
                // The interface it was attached to is gone, and another one has its number.
                Err(error) if is_defunct(&error) => {
                    unpin(&pin)?;
                }
                Err(error) => return Err(error).with_context(context),
            }
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(ifname, hook, order).with_context(|| {
            format!("attach `{name}` to {ifname} (needs CAP_NET_ADMIN and Linux 6.6 for tcx links)")
        })?;
        let link: FdLink = program.take_link(id).with_context(context)?.try_into().with_context(context)?;
        link.pin(&pin).with_context(|| format!("pin the link of `{name}` at {}", pin.display()))?;
        Ok(())
    }
}

/// The link that is pinned there, if any.
pub(super) fn pinned_link(pin: &Path) -> Result<Option<FdLink>> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(FdLink::from(link))),
        Err(LinkError::SyscallError(SyscallError { io_error, .. })) if io_error.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("open pin {}", pin.display())),
    }
}

/// Removes a pin, if it is there.
pub(super) fn unpin(pin: &Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("unpin {}", pin.display()))
        }
        _ => Ok(()),
    }
}

/// Whether a link does not take a program since its interface is gone.
pub(super) fn is_defunct(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. })
        if io_error.raw_os_error() == Some(nix::errno::Errno::ENOLINK as i32))
}
