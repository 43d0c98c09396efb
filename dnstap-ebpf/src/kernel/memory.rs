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

/// How a program reads kernel structures. A constant for each hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// By a helper, at any address.
    Probed,
    /// By loads, which cost next to nothing, from pointers of which the verifier knows the type: arguments of programs with
    /// BTF, the current task, and what members of theirs point to. Each load is one member, or a part of one. What cannot be
    /// read is zero.
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
            // SAFETY: the kernel makes such a load safe at any address; members are aligned. Volatile, so that the compiler
            // neither joins loads nor moves them before the checks that make them sensible.
            Self::Typed => Ok(unsafe { base.wrapping_add(offset).cast::<T>().read_volatile() }),
        }
    }
}
