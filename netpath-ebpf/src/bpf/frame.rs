//! A frame as every hook has it: where it came, what lies in place, and how it is changed.

use core::hint::black_box;

use aya_ebpf::EbpfContext;
use netpath_common::Reason;
use netpath_ebpf::{checksum::Delta, packet::Bytes};

/// The context of a program that handles frames.
pub(super) trait Context: EbpfContext {
    /// Addresses of the first byte in place, and of the one behind the last.
    fn in_place(&self) -> (usize, usize);

    /// The interface the frame is seen on.
    fn ifindex(&self) -> u32;

    /// Length of the frame in bytes, whether they lie in place or not.
    fn frame_len(&self) -> u32;

    /// EtherType, host byte order: that of a tag that the kernel will not take as none, else what the frame carries.
    fn ether_type(&self) -> u16;

    /// Writes `value` at `off`. `flags` are those of `bpf_skb_store_bytes`.
    ///
    /// # Errors
    ///
    /// [`Reason::RewriteFailed`]: it would not lie inside the frame.
    fn write<T: Copy>(&self, off: usize, value: &T, flags: u64) -> Result<(), Reason>;

    /// Takes a change into the transport checksum at `off`. `flags` are those of `bpf_l4_csum_replace`.
    ///
    /// # Errors
    ///
    /// As in [`Self::write`].
    fn adjust_check(&self, off: usize, delta: Delta, flags: u64) -> Result<(), Reason>;
}

/// A number of bytes that every verifier sees to be one from 1 to `MAX`; `None` if it is none. Before Linux 6.3 verifiers
/// learn nothing from a comparison with 0.
#[inline(always)]
pub(super) fn some_bytes<const MAX: usize>(len: usize) -> Option<usize> {
    if len == 0 || len > MAX {
        return None;
    }
    // The compiler would leave out what it knows.
    let len = (black_box(len - 1) & ((MAX + 1).next_power_of_two() - 1)) + 1;
    if len > MAX { None } else { Some(len) }
}

/// What of a frame lies in place.
pub(super) struct Frame<'a, C>(pub(super) &'a C);

impl<C: Context> Bytes for Frame<'_, C> {
    #[inline(always)]
    fn get<T: Copy>(&self, off: usize) -> Option<T> {
        let (start, end) = self.0.in_place();
        let start = start + off;
        if start + size_of::<T>() > end {
            return None;
        }
        // SAFETY: inside the packet by the check above; `T` is plain data by the trait's contract. The
        // verifier allows unaligned packet loads where the CPU does and refuses the program elsewhere.
        Some(unsafe { *(start as *const T) })
    }
}
