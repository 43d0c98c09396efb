//! Arguments of the current system call, from the registers saved at kernel entry.
//!
//! x86-64 (arch/x86/include/asm/ptrace.h, `struct pt_regs`, unchanged from 2.6.12 to 6.18): `orig_ax` keeps the number,
//! `di si dx r10 r8 r9` the arguments until the call returns to user space.
//!
//! arm64 (arch/arm64/include/asm/ptrace.h, these members unchanged from 4.14 to 6.18): `syscallno` keeps the number,
//! `regs[1]` to `regs[5]` the arguments behind the first. At the end of the call `regs[0]` is its result, so the first
//! argument comes from `orig_x0`.

use crate::kernel::memory::Reach;

#[cfg(any(bpf_target_arch = "aarch64", target_arch = "aarch64"))]
use self::aarch64 as saved;
#[cfg(any(bpf_target_arch = "x86_64", target_arch = "x86_64"))]
use self::x86_64 as saved;

/// Number and arguments of a system call.
#[derive(Clone, Copy)]
pub(crate) struct Registers(saved::Saved);

impl Registers {
    /// Reads the registers that `pt_regs` (a kernel address) holds.
    ///
    /// The registers are always readable. If they were not, the call would count as an unknown one.
    #[inline(always)]
    pub(crate) fn read(pt_regs: *const u8, reach: Reach) -> Self {
        Self(saved::read(pt_regs, reach))
    }

    /// Returns the number of the system call.
    #[inline(always)]
    pub(crate) fn number(&self) -> u64 {
        self.0[saved::NUMBER]
    }

    /// Returns the first argument.
    #[inline(always)]
    pub(crate) fn first(&self) -> u64 {
        self.0[saved::ARGUMENTS[0]]
    }

    /// Returns the second argument.
    #[inline(always)]
    pub(crate) fn second(&self) -> u64 {
        self.0[saved::ARGUMENTS[1]]
    }

    /// Returns the third argument.
    #[inline(always)]
    pub(crate) fn third(&self) -> u64 {
        self.0[saved::ARGUMENTS[2]]
    }

    /// Returns the fourth argument.
    #[inline(always)]
    pub(crate) fn fourth(&self) -> u64 {
        self.0[saved::ARGUMENTS[3]]
    }

    /// Returns the fifth argument.
    #[inline(always)]
    pub(crate) fn fifth(&self) -> u64 {
        self.0[saved::ARGUMENTS[4]]
    }
}

#[cfg(any(bpf_target_arch = "x86_64", target_arch = "x86_64"))]
mod x86_64 {
    use super::Reach;

    /// Offset of the first member that is read, `r10`.
    const R10: usize = 56;

    /// `r10 r9 r8 ax cx dx si di orig_ax`, in the order of `struct pt_regs`.
    pub(super) type Saved = [u64; 9];

    /// Places of the number and of the arguments.
    pub(super) const NUMBER: usize = 8;
    pub(super) const ARGUMENTS: [usize; 5] = [7, 6, 5, 0, 2];

    #[inline(always)]
    pub(super) fn read(pt_regs: *const u8, reach: Reach) -> Saved {
        // SAFETY: nine integers; any bytes are valid.
        unsafe { reach.read(pt_regs, R10) }.unwrap_or([u64::MAX; 9])
    }
}

#[cfg(any(bpf_target_arch = "aarch64", target_arch = "aarch64"))]
mod aarch64 {
    use super::Reach;

    /// Offsets of the members that are read: `regs[1]`, `orig_x0` and `syscallno`.
    const X1: usize = 8;
    const ORIG_X0: usize = 272;
    const SYSCALLNO: usize = 280;

    /// `syscallno orig_x0`, and `regs[1]` to `regs[4]`.
    pub(super) type Saved = [u64; 6];

    /// Places of the number and of the arguments.
    pub(super) const NUMBER: usize = 0;
    pub(super) const ARGUMENTS: [usize; 5] = [1, 2, 3, 4, 5];

    #[inline(always)]
    pub(super) fn read(pt_regs: *const u8, reach: Reach) -> Saved {
        // SAFETY: integers; any bytes are valid. `syscallno` has 32 bits.
        unsafe {
            let number: u32 = reach.read(pt_regs, SYSCALLNO).unwrap_or(u32::MAX);
            let first = reach.read(pt_regs, ORIG_X0).unwrap_or(u64::MAX);
            let [second, third, fourth, fifth] = reach.read(pt_regs, X1).unwrap_or([u64::MAX; 4]);
            [number as u64, first, second, third, fourth, fifth]
        }
    }
}
