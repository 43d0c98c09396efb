//! Finds out whether the current thread may be working for `io_uring`.
//!
//! A receive that `io_uring` left waiting is finished by the thread that began it, at the end of any of its system
//! calls (a `read` from a pipe, for example), or by a worker thread, which has a copy of the saved registers of the
//! thread that created it. In both cases the call in the registers is not the call that moved the message.

use aya_ebpf::helpers::{bpf_get_current_task, bpf_get_current_task_btf};
use dnstap_ebpf::MISSING;

use crate::kernel::{
    config::config,
    memory::{self, Reach},
};

/// `PF_IO_WORKER` of `task_struct.flags` (include/linux/sched.h, since 5.12).
const PF_IO_WORKER: u32 = 0x10;

/// Returns whether the current thread has ever used `io_uring`, or is one of its worker threads.
#[inline(always)]
pub(crate) fn is_used() -> bool {
    if config!(offsets.task_io_uring) == MISSING as usize {
        return false;
    }
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    // SAFETY: an integer, and the task is typed.
    let flags: u32 = unsafe { Reach::Typed.read(task, config!(offsets.task_flags)) }.unwrap_or(0);
    // The two values are tested separately: the verifier does not allow to combine them, because one is a pointer.
    if flags & PF_IO_WORKER != 0 {
        return true;
    }
    // SAFETY: a pointer, and the task is typed.
    let context: *const u8 = unsafe { Reach::Typed.read(task, config!(offsets.task_io_uring)) }
        .unwrap_or(core::ptr::null());
    !context.is_null()
}

/// Returns whether the current thread is a kernel thread that works for a ring of its process.
#[inline(always)]
pub(crate) fn is_worker() -> bool {
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    // SAFETY: an integer.
    let flags: u32 = unsafe { memory::kernel(task, config!(offsets.task_flags)) }.unwrap_or(0);
    flags & PF_IO_WORKER != 0
}
