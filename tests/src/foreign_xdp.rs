//! An XDP program of somebody else's, which lets every frame pass, and somebody else's hold on a link.

use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Namespace;

const BPF_PROG_LOAD: c_int = 5;
const BPF_OBJ_GET: c_int = 7;
const BPF_LINK_CREATE: c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `r0 = XDP_PASS; exit`
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

/// The program on an interface. Dropping it takes it off, some time later.
pub struct ForeignXdp {
    _link: OwnedFd,
}

/// As far as it is needed.
#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    instructions: u32,
    code: u64,
    licence: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

impl ForeignXdp {
    /// Attaches a program called `foreign` to `ifname`, in generic mode.
    pub fn attach(namespace: &Namespace, ifname: &str) -> Self {
        Self::attach_in(namespace, ifname, XDP_FLAGS_SKB_MODE)
    }

    /// The same in native mode. A veth gets a NAPI by it, and merges what arrives, on kernels where it cannot otherwise.
    pub fn attach_natively(namespace: &Namespace, ifname: &str) -> Self {
        Self::attach_in(namespace, ifname, XDP_FLAGS_DRV_MODE)
    }

    fn attach_in(namespace: &Namespace, ifname: &str, mode: u32) -> Self {
        let mut name = [0; 16];
        name[..7].copy_from_slice(b"foreign");
        let program = ProgramAttributes {
            kind: BPF_PROG_TYPE_XDP,
            instructions: PASS.len() as u32,
            code: PASS.as_ptr() as u64,
            licence: c"GPL".as_ptr() as u64,
            log: [0; 4],
            kernel_version: 0,
            flags: 0,
            name,
        };
        lift_limit_of_locked_memory();
        let link = namespace.within(|| {
            let program = bpf(BPF_PROG_LOAD, &program)?;
            let ifindex = nix::net::if_::if_nametoindex(ifname)?;
            bpf(BPF_LINK_CREATE, &[program.as_raw_fd() as u32, ifindex, BPF_XDP, mode])
        });
        Self { _link: link.unwrap_or_else(|e| panic!("attach an XDP program to {ifname}: {e}")) }
    }
}

/// Opens the link that is pinned at `pin`, as somebody does who looks what is attached.
pub fn open_link(pin: &Path) -> OwnedFd {
    let path = CString::new(pin.as_os_str().as_bytes()).expect("a path");
    // Path, descriptor, flags.
    let link = bpf(BPF_OBJ_GET, &[path.as_ptr() as u64, 0]);
    link.unwrap_or_else(|e| panic!("open the link pinned at {}: {e}", pin.display()))
}

/// Before Linux 5.11 programs count as locked memory of their user. Where it cannot be lifted, it may do as it is.
fn lift_limit_of_locked_memory() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the value is live.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// For commands that give a descriptor.
fn bpf<T>(command: c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes, and what they point to, live across the call; their size is said.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(result as c_int) })
}
