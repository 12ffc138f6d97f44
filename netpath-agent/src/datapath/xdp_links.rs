//! XDP on external interfaces: one pinned link for each. The program is loaded when the first interface is to have it;
//! whoever does not ask for XDP does not wait for the verifier.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::programs::links::FdLink;
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{ProgramError, XdpMode, loaded_programs};
use aya::sys::SyscallError;
use nix::errno::Errno;
use nix::libc;

use super::Datapath;
use super::links::{is_defunct, pinned_link, unpin};
use super::xdp::{XDP, program};
use crate::xdp::Mode;

/// Why an interface does not take the program, where it is the interface's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XdpRefusal {
    #[error("its driver has no native XDP, or not as it is configured")]
    Unsupported,
    #[error("another XDP program is attached")]
    Taken,
    #[error("its MTU is too large for XDP in this driver, or it has too few queues")]
    Unfit,
}

impl Datapath {
    /// Attaches `xdp_from_external`. A link of an earlier agent in the same mode gets the new program without a frame
    /// seeing none. `attached` is how the interface has a program by now, whosever that is.
    ///
    /// # Errors
    ///
    /// An [`XdpRefusal`] if it is for the interface; if the kernel does not take the program.
    pub fn attach_xdp(&mut self, ifindex: u32, mode: Mode, attached: Option<Mode>) -> Result<()> {
        let pin = self.pin(XDP, ifindex);
        let link = pinned_link(&pin)?;
        self.load_xdp_once(mode)?;
        let program = program(&mut self.ebpf, self.xdp.name(mode))?;
        if let Some(link) = link {
            if attached == Some(mode) {
                match program.attach_to_link(XdpLink::try_from(link)?) {
                    Ok(id) => {
                        // Dropping the link closes our descriptor; the pin keeps it attached.
                        drop(program.take_link(id)?);
                        return Ok(());
                    }
                    // The interface it was attached to is gone, and another one has its number.
                    Err(error) if is_defunct(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            } else {
                detach(&link)?;
            }
            unpin(&pin)?;
        }
        let mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = program.attach_to_if_index(ifindex, mode).map_err(refusal)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        link.pin(&pin).with_context(|| format!("pin the link of `{XDP}` at {}", pin.display()))?;
        Ok(())
    }

    /// A program that the kernel has refused it will refuse again, after as long a look.
    fn load_xdp_once(&mut self, mode: Mode) -> Result<()> {
        if let Some((_, error)) = self.xdp_errors.iter().find(|(failed, _)| *failed == mode) {
            bail!("{error}");
        }
        let loaded = self.load_xdp(mode);
        self.xdp_errors.extend(loaded.as_ref().err().map(|error| (mode, format!("{error:#}"))));
        loaded
    }

    /// Takes the program off an interface; `false` if it had none.
    ///
    /// # Errors
    ///
    /// If the kernel refuses or the pin cannot be removed.
    pub fn detach_xdp(&mut self, ifindex: u32) -> Result<bool> {
        let pin = self.pin(XDP, ifindex);
        let Some(link) = pinned_link(&pin)? else { return Ok(false) };
        detach(&link)?;
        unpin(&pin)?;
        Ok(true)
    }
}

/// Name of a loaded program, as far as the kernel keeps it.
pub fn program_name(id: u32) -> Option<String> {
    let mut programs = loaded_programs().flatten();
    programs.find(|program| program.id() == id).and_then(|program| program.name_as_str().map(str::to_owned))
}

/// Takes the link off its interface at once. When it is only closed, that happens at some later time, and nothing
/// else can be attached until then.
fn detach(link: &FdLink) -> Result<()> {
    // linux/bpf.h; aya has neither.
    const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
    const BPF_LINK_DETACH: libc::c_int = 34;
    let id = link.info().context("query the XDP link")?.id();
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut [id, 0, 0]).with_context(|| format!("open the XDP link {id}"))?;
    // SAFETY: the kernel has just made the descriptor, for nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let detached = bpf(BPF_LINK_DETACH, &mut [fd.as_raw_fd().cast_unsigned()]);
    detached.map(drop).with_context(|| format!("detach the XDP link {id}"))
}

/// The system call, for commands whose attributes are numbers of 32 bits.
fn bpf(command: libc::c_int, attributes: &mut [u32]) -> nix::Result<libc::c_int> {
    // SAFETY: the attributes live across the call, their size is said, and there is no pointer among them.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val::<[u32]>(attributes)) };
    Errno::result(result).map(|result| result as libc::c_int)
}

/// What the kernel's refusal to attach means.
fn refusal(error: ProgramError) -> anyhow::Error {
    let code = match &error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    };
    match code.map(Errno::from_raw) {
        Some(Errno::EOPNOTSUPP) => XdpRefusal::Unsupported.into(),
        Some(Errno::EBUSY | Errno::EEXIST) => XdpRefusal::Taken.into(),
        Some(Errno::ERANGE | Errno::EINVAL | Errno::ENOMEM) => XdpRefusal::Unfit.into(),
        _ => anyhow::Error::new(error).context(format!("attach `{XDP}`")),
    }
}
