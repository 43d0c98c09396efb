//! All functions with which the programs read memory that is not theirs.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};
use dnstap_ebpf::Counter;

/// Reads a `T` at `base + offset` in kernel memory.
///
/// # Safety
///
/// Any bytes must be a valid `T`. The address may be anything: a bad one gives an error.
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
/// Any bytes must be a valid `T`. The address may be anything: a bad one gives an error.
#[inline(always)]
pub(crate) unsafe fn user<T>(base: u64, offset: u64) -> Result<T, Counter> {
    // SAFETY: the helper checks the address; the caller vouches for `T`.
    unsafe { bpf_probe_read_user(base.wrapping_add(offset) as *const T) }
        .map_err(|_| Counter::UserFault)
}

/// Way in which a program reads kernel structures. A constant for each hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// With a helper, at any address.
    Probed,
    /// With plain loads, which cost almost nothing, from pointers whose type the verifier knows: arguments of programs
    /// with BTF, the current task, and pointers read from their members. Each load reads one member or a part of one.
    /// Unreadable memory gives zero.
    Typed,
}

impl Reach {
    /// Reads a `T` at `base + offset`.
    ///
    /// # Safety
    ///
    /// Any bytes must be a valid `T`. For [`Self::Typed`], the verifier must know `base`: it refuses the program otherwise.
    #[inline(always)]
    pub(crate) unsafe fn read<T>(self, base: *const u8, offset: usize) -> Result<T, Counter> {
        match self {
            // SAFETY: the caller vouches for `T`.
            Self::Probed => unsafe { kernel(base, offset) },
            // SAFETY: the kernel makes such a load safe at any address; members are aligned. It is volatile, so that
            // the compiler does not combine loads, and does not move them before the checks that they depend on.
            Self::Typed => Ok(unsafe { base.wrapping_add(offset).cast::<T>().read_volatile() }),
        }
    }
}
