//! How programs hang where the kernel has no tcx links (before Linux 6.6): each is a filter of its interface's clsact qdisc
//! (Linux 4.5). A filter stays when the agent ends, as a pinned link does, but whoever may configure the interface may remove it.
//!
//! What is there is noted under `filters/` in the pin directory, by empty directories: `PROGRAM-IFINDEX` for a filter,
//! `clsact-IFINDEX` for a qdisc that was made here for an interface that stays, an external one.

use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result};
use aya::programs::links::Link as _;
use aya::programs::tc::{
    NlOptions, SchedClassifier, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
    qdisc_add_clsact,
};
use aya::programs::{ProgramError, TcAttachType};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;

use super::PROGRAMS;
use super::links::{Attachment, hook_of};

/// Before filters that are added without a priority: the kernel counts down from 49152 for those.
const PRIORITY: u16 = 1;
pub(super) const QDISC: &str = "clsact";

/// Where a program hangs.
pub(super) struct Place<'a> {
    /// The program's.
    pub(super) name: &'a str,
    pub(super) ifindex: u32,
    pub(super) ifname: &'a str,
    pub(super) hook: TcAttachType,
}

/// The filters of one pin directory.
pub(super) struct Filters {
    dir: PathBuf,
    /// Tells this agent's filters from those of others with other pins.
    major: u16,
}

impl Filters {
    /// Those of a data plane that is set up to have filters.
    pub(super) fn pinned(pin_dir: &Path) -> Option<Self> {
        let filters = Self::new(pin_dir);
        filters.dir.is_dir().then_some(filters)
    }

    /// Sets a data plane up to have filters.
    pub(super) fn create(pin_dir: &Path) -> Result<Self> {
        let filters = Self::new(pin_dir);
        make_dir(&filters.dir)?;
        Ok(filters)
    }

    fn new(pin_dir: &Path) -> Self {
        Self { dir: pin_dir.join("filters"), major: major(pin_dir) }
    }

    /// Where the notes are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn has(&self, name: &str, ifindex: u32) -> bool {
        self.note(name, ifindex).is_dir()
    }

    /// Attaches a program. A filter of an earlier agent gets the new program without a packet seeing none.
    pub(super) fn attach(&self, program: &mut SchedClassifier, place: &Place<'_>) -> Result<()> {
        let Place { name, ifindex, ifname, hook } = *place;
        let is_new = !self.has(name, ifindex);
        // First, so that no filter is forgotten that an agent made which was killed at that moment.
        let note = self.note(name, ifindex);
        make_dir(&note)?;
        let link = SchedClassifierLink::attached(ifname, hook, PRIORITY, self.handle(name), None)?;
        let attached = match program.attach_to_link(link) {
            Err(error) if is_gone(&error) => self.attach_new(program, place),
            attached => attached.map_err(Error::from),
        };
        match attached.and_then(|id| Ok(program.take_link(id)?)) {
            Ok(link) => {
                // Dropped, it would take the filter along.
                mem::forget(link);
                Ok(())
            }
            Err(error) => {
                // One of an earlier agent may be there still.
                if is_new {
                    remove_dir(&note)?;
                }
                Err(error)
            }
        }
    }

    fn attach_new(&self, program: &mut SchedClassifier, place: &Place<'_>) -> Result<SchedClassifierLinkId> {
        let Place { name, ifindex, ifname, hook } = *place;
        match qdisc_add_clsact(ifname) {
            Ok(()) if Attachment::of(name) == Attachment::External => make_dir(&self.note(QDISC, ifindex))?,
            Ok(()) => {}
            Err(error) if errno(&error) == Some(Errno::EEXIST) => {}
            Err(error) => return Err(error).context("add a clsact qdisc (needs CONFIG_NET_CLS_ACT and sch_ingress)"),
        }
        let options = NlOptions { priority: PRIORITY, handle: self.handle(name), classid: None };
        let attached = program.attach_with_options(ifname, hook, TcAttachOptions::Netlink(options));
        attached.with_context(|| {
            format!("add a filter with priority {PRIORITY} (needs cls_bpf, and no `ingress` qdisc nor another kind of filter)")
        })
    }

    /// Removes the filter, also of an interface that is gone.
    pub(super) fn detach(&self, name: &str, ifindex: u32) -> Result<()> {
        if !self.has(name, ifindex) {
            return Ok(());
        }
        if let (Ok(ifname), Some(hook)) = (if_indextoname(ifindex), hook_of(name)) {
            let ifname = ifname.to_string_lossy();
            // A name that is gone since has no filter either.
            if let Ok(link) = SchedClassifierLink::attached(&ifname, hook, PRIORITY, self.handle(name), None) {
                match link.detach() {
                    Err(error) if !is_gone(&error) => {
                        return Err(error).with_context(|| format!("remove the filter `{name}` from {ifname}"));
                    }
                    _ => {}
                }
            }
        }
        remove_dir(&self.note(name, ifindex))
    }

    /// Removes all filters, and what notes them; the interfaces that have a qdisc from here. Goes on past errors.
    pub(super) fn tear_down(&self, errors: &mut Vec<Error>) -> Vec<u32> {
        let mut qdiscs = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((name, ifindex)) = name.to_str().and_then(parse) else { continue };
            if name == QDISC {
                qdiscs.push(ifindex);
                errors.extend(remove_dir(&entry.path()).err());
            } else {
                errors.extend(self.detach(name, ifindex).err());
            }
        }
        errors.extend(remove_dir(&self.dir).err());
        qdiscs
    }

    fn note(&self, name: &str, ifindex: u32) -> PathBuf {
        self.dir.join(format!("{name}-{ifindex}"))
    }

    fn handle(&self, name: &str) -> TcHandle {
        let place = PROGRAMS.iter().position(|other| *other == name).unwrap_or(PROGRAMS.len());
        TcHandle::new(self.major, 1 + place as u16)
    }
}

/// Program and interface of a note or a pin.
pub(super) fn parse(name: &str) -> Option<(&str, u32)> {
    let (program, ifindex) = name.rsplit_once('-')?;
    Some((program, ifindex.parse().ok()?))
}

/// A number for a pin directory: FNV-1a, folded, and not 0.
fn major(pin_dir: &Path) -> u16 {
    let hash = pin_dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    ((hash >> 16) ^ hash) as u16 | 1
}

/// Whether there is no such filter or no such qdisc (`tcf_block_find` says EINVAL to that), or no such interface.
fn is_gone(error: &ProgramError) -> bool {
    let error = match error {
        ProgramError::TcError(error) => errno(error),
        ProgramError::NetlinkError(error) => error.raw_os_error().map(Errno::from_raw),
        _ => None,
    };
    matches!(error, Some(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV))
}

fn errno(error: &TcError) -> Option<Errno> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("create {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_other_pins_have_other_handles() {
        let [a, b] =
            ["/sys/fs/bpf/netpath/netpath", "/sys/fs/bpf/netpath/blue"].map(|dir| Filters::new(Path::new(dir)));
        let handles = PROGRAMS.iter().flat_map(|name| [u32::from(a.handle(name)), u32::from(b.handle(name))]);
        let mut handles: Vec<_> = handles.collect();
        handles.sort_unstable();
        handles.dedup();
        assert_eq!(handles.len(), 2 * PROGRAMS.len());
    }

    #[test]
    fn a_note_says_program_and_interface() {
        assert_eq!(parse("from_external6-12"), Some(("from_external6", 12)));
        assert_eq!(parse("host_bind4"), None);
    }
}
