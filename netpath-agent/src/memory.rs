//! The agent's memory: most of what it ever needs, it needs for a moment.

use std::ptr::NonNull;

use nix::libc;
use nix::sys::mman::{MmapAdvise, madvise};
use nix::unistd::{SysconfVar, sysconf};

/// Gives the kernel back what was needed for a while: the types of the kernel and the programs while those are loaded, what
/// Docker says of a thousand containers. glibc keeps what lies below something that is still in use.
pub fn release() {
    // SAFETY: no pointer goes in or out; memory that is in use is not touched.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From how many bytes on a piece of memory goes back to the kernel as soon as it is free.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 * 1024;

/// Has all threads take memory from one place, and large pieces from the kernel. glibc by itself gives each thread a place
/// of its own and learns to keep large pieces: that is faster, and what was needed for a while lies about in pieces that
/// cannot be given back. Call before there are threads.
pub fn share() {
    // SAFETY: no pointer goes in or out, and there is no other thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives the kernel back the pages of what lies in the program's file and has been read: it comes from there again if need be.
///
/// # Safety
/// `bytes` are a constant of the program. What somebody has leaked from the heap would be zeros.
pub unsafe fn release_pages(bytes: &'static [u8]) {
    let page =
        sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| usize::try_from(size).ok()).unwrap_or(4096);
    let skipped = bytes.as_ptr().align_offset(page);
    let whole = bytes.get(skipped..).unwrap_or_default();
    let length = whole.len() / page * page;
    let Some(start) = NonNull::new(whole.as_ptr().cast_mut().cast()).filter(|_| length > 0) else { return };
    // SAFETY: whole pages of a constant, by the caller's word, so what is read after this is what was read before.
    let released = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) };
    if let Err(error) = released {
        tracing::debug!("give back {length} bytes of the program: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static LARGE_ONE: [u8; 64 * 1024] = [7; 64 * 1024];

    #[test]
    fn what_is_given_back_is_read_again() {
        for bytes in [&LARGE_ONE[..], &LARGE_ONE[1..], &LARGE_ONE[..10], &[]] {
            // SAFETY: a constant.
            unsafe { release_pages(bytes) };
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
    }
}
