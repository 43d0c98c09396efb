//! The only ways in which the programs read memory that is not theirs.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};
use dnstap_ebpf::Counter;

/// Reads a `T` at `base + offset` in kernel memory.
///
/// # Safety
///
/// Any bytes must be a valid `T`. The address itself may be anything: a bad one is an error.
#[inline(always)]
pub(crate) unsafe fn kernel<T>(base: *const u8, offset: usize) -> Result<T, Counter> {
    // SAFETY: the helper checks the address; the caller vouches for `T`.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast::<T>()) }
        .map_err(|_| Counter::KernelFault)
}

/// Reads a `T` at `base + offset` in the memory of the current process.
///
/// # Safety
///
/// Any bytes must be a valid `T`. The address itself may be anything: a bad one is an error.
#[inline(always)]
pub(crate) unsafe fn user<T>(base: u64, offset: u64) -> Result<T, Counter> {
    // SAFETY: the helper checks the address; the caller vouches for `T`.
    unsafe { bpf_probe_read_user(base.wrapping_add(offset) as *const T) }
        .map_err(|_| Counter::UserFault)
}
