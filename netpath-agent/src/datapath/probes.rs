//! What the kernel can do for the data plane, asked without loading or attaching anything that stays.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result};
use aya::programs::tc::SchedClassifier;
use aya::programs::{ProgramError, ProgramType, TcAttachType};
use aya::sys::{BpfHelper, SyscallError, is_helper_supported, is_program_supported};
use nix::errno::Errno;
use nix::libc;

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

/// Whether the kernel takes XDP programs for frames in several pieces.
///
/// # Errors
///
/// If the kernel does not say.
pub fn xdp_pieces() -> Result<bool> {
    /// The part of `union bpf_attr` that loads a program (linux/bpf.h).
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        licence: u64,
        log: [u32; 4],
        kernel_version: u32,
        flags: u32,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
    // r0 = XDP_PASS; exit
    let (instructions, licence) = ([0x0000_0002_0000_00b7_u64.to_le(), 0x95_u64.to_le()], c"GPL");
    let mut load = Load {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
        log: [0; 4],
        kernel_version: 0,
        flags: BPF_F_XDP_HAS_FRAGS,
    };
    let attempt = || {
        // SAFETY: attributes, instructions and licence live across the call, and their sizes are said.
        let loaded = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut load, size_of::<Load>()) };
        // SAFETY: the kernel has just made the descriptor, for nobody else.
        let close = |fd| drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        let refused = |error| SyscallError { call: "bpf_prog_load", io_error: io::Error::from(error) };
        Errno::result(loaded).map(close).map_err(|error| refused(error).into())
    };
    match verify(attempt) {
        Ok(()) => Ok(true),
        Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            Ok(false)
        }
        Err(error) => Err(error).context("probe XDP programs for frames in several pieces"),
    }
}

/// Whether maps and programs count as memory that a process has locked, of which it may have only so much. The kernel says it
/// nowhere; the coarse clock came with the same release as the end of it, and libbpf goes by that, too.
///
/// # Errors
///
/// If the kernel does not say.
pub fn limits_locked_memory() -> Result<bool> {
    coarse_clock().map(|has_clock| !has_clock)
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
