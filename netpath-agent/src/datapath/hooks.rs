//! The programs on the root cgroup, which see what the host's sockets are bound and connected to.

use std::fs::{self, File};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};

use super::Datapath;
use super::attempts::verify;
use super::links::unpin;
use crate::host;

/// Names of the programs. Those that translate back come first: nobody sees a container's address who asked
/// for another one.
pub(super) const HOOKS: [&str; 10] = [
    "host_getpeername4",
    "host_getpeername6",
    "host_recvmsg4",
    "host_recvmsg6",
    "host_connect4",
    "host_connect6",
    "host_sendmsg4",
    "host_sendmsg6",
    "host_bind4",
    "host_bind6",
];

/// Loads the programs.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<()> {
    for name in HOOKS {
        let program = hook(ebpf, name)?;
        verify(|| program.load()).with_context(|| format!("load `{name}` into the kernel"))?;
    }
    Ok(())
}

impl Datapath {
    /// Attaches the programs to the root cgroup, in place of an earlier agent's.
    ///
    /// # Errors
    ///
    /// If the kernel did not take them, cannot tell network namespaces apart, or has no cgroups of version 2.
    pub fn attach_hooks(&mut self) -> Result<()> {
        if let Some(error) = self.hooks_error.take() {
            return Err(error);
        }
        if self.config().netns_cookie == 0 {
            bail!("the kernel does not number network namespaces (needs Linux 5.14)");
        }
        let path = host::cgroup_root()?;
        let cgroup = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        for name in HOOKS {
            self.attach_hook(name, &cgroup).with_context(|| format!("attach `{name}` to {}", path.display()))?;
        }
        Ok(())
    }

    /// Whether programs refuse to bind published ports, this agent's or an earlier one's, by the pins.
    pub fn keeps_ports(&self) -> bool {
        ["host_bind4", "host_bind6"].iter().all(|name| self.links_dir.join(name).exists())
    }

    /// A link cannot be given another program through aya here, so a new one takes the pin of the old one. For
    /// a moment both are attached: they share their maps, and what the first has done leaves the second nothing
    /// to do.
    fn attach_hook(&mut self, name: &str, cgroup: &File) -> Result<()> {
        let (pin, fresh) = (self.links_dir.join(name), self.links_dir.join(format!("{name}_new")));
        // Of an agent that died while it attached.
        unpin(&fresh)?;
        let program = hook(&mut self.ebpf, name)?;
        // Links always live beside others in a cgroup, and the kernel refuses flags that say so.
        let id = program.attach(cgroup, CgroupAttachMode::default())?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(&fresh).with_context(|| format!("pin the link at {}", fresh.display()))?;
        fs::rename(&fresh, &pin).with_context(|| format!("rename {} to {}", fresh.display(), pin.display()))
    }
}

fn hook<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program `{name}` in the eBPF object"))?;
    program.try_into().with_context(|| format!("`{name}` is no program for socket addresses"))
}
