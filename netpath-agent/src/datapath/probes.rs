//! What the kernel can do for the data plane, asked without loading or attaching anything that stays.

use anyhow::{Context as _, Result};
use aya::programs::tc::SchedClassifier;
use aya::programs::{ProgramError, ProgramType, TcAttachType};
use aya::sys::{BpfHelper, SyscallError, is_helper_supported, is_program_supported};
use nix::errno::Errno;

use super::attempts::verify;

/// What the kernel has for the programs on the root cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketHooks {
    /// Programs see the addresses that sockets are bound and connected to.
    pub programs: bool,
    /// They choose the error that a caller gets.
    pub errno: bool,
}

/// Whether there are tcx links.
///
/// # Errors
///
/// If the kernel does not say, for instance because the caller is not root.
pub fn tcx() -> Result<bool> {
    // To list the programs of an interface takes the same part of the kernel as to attach one.
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(Errno::EINVAL as i32) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).context("list the tcx programs of lo"),
    }
}

/// # Errors
///
/// If the kernel does not say.
pub fn socket_hooks() -> Result<SocketHooks> {
    let programs =
        verify(|| is_program_supported(ProgramType::CgroupSockAddr)).context("probe programs on socket addresses")?;
    let errno = verify(|| is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval));
    Ok(SocketHooks { programs, errno: programs && errno.context("probe bpf_set_retval")? })
}

/// Whether the kernel takes XDP programs.
///
/// # Errors
///
/// If the kernel does not say.
pub fn xdp() -> Result<bool> {
    verify(|| is_program_supported(ProgramType::Xdp)).context("probe XDP programs")
}

/// Whether programs have a clock that costs next to nothing.
///
/// # Errors
///
/// If the kernel does not say.
pub fn coarse_clock() -> Result<bool> {
    verify(|| is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_ktime_get_coarse_ns))
        .context("probe bpf_ktime_get_coarse_ns")
}
