//! Arguments of the current system call, from the registers saved at kernel entry.
//!
//! x86-64 (arch/x86/include/asm/ptrace.h, `struct pt_regs`, unchanged from 2.6.12 to 6.18): `orig_ax` keeps the number,
//! `di si dx r10 r8 r9` the arguments until the call returns to user space.

use crate::kernel::memory::Reach;

#[cfg(not(any(bpf_target_arch = "x86_64", target_arch = "x86_64")))]
compile_error!("the system-call registers are known for x86-64 only");

/// Offset of the first member that is read, `r10`.
const R10: usize = 56;

/// `r10 r9 r8 ax cx dx si di orig_ax`, in the order of `struct pt_regs`.
type Saved = [u64; 9];

/// Number and arguments of a system call.
#[derive(Clone, Copy)]
pub(crate) struct Registers(Saved);

impl Registers {
    /// Reads the registers that `pt_regs` (a kernel address) holds.
    ///
    /// The registers are always readable. If they were not, the call would count as an unknown one.
    #[inline(always)]
    pub(crate) fn read(pt_regs: *const u8, reach: Reach) -> Self {
        // SAFETY: nine integers; any bytes are valid.
        Self(unsafe { reach.read(pt_regs, R10) }.unwrap_or([u64::MAX; 9]))
    }

    /// Returns the number of the system call.
    #[inline(always)]
    pub(crate) fn number(&self) -> u64 {
        self.0[8]
    }

    /// Returns the first argument.
    #[inline(always)]
    pub(crate) fn first(&self) -> u64 {
        self.0[7]
    }

    /// Returns the second argument.
    #[inline(always)]
    pub(crate) fn second(&self) -> u64 {
        self.0[6]
    }

    /// Returns the third argument.
    #[inline(always)]
    pub(crate) fn third(&self) -> u64 {
        self.0[5]
    }

    /// Returns the fourth argument.
    #[inline(always)]
    pub(crate) fn fourth(&self) -> u64 {
        self.0[0]
    }

    /// Returns the fifth argument.
    #[inline(always)]
    pub(crate) fn fifth(&self) -> u64 {
        self.0[2]
    }
}
