//! Whether the current thread can be in the middle of something of `io_uring`.
//!
//! A receive that `io_uring` left waiting is finished by the thread that began it, at the end of any system call that it is in (a
//! `read` from a pipe, for example), or by a worker thread, whose saved registers are those of its maker. In both cases the call in
//! the registers is not the one that moved the message.

use aya_ebpf::helpers::bpf_get_current_task_btf;
use dnstap_ebpf::MISSING;

use crate::kernel::{config::config, memory::Reach};

/// `PF_IO_WORKER` of `task_struct.flags` (include/linux/sched.h, since 5.12).
const PF_IO_WORKER: u32 = 0x10;

/// Whether the current thread has ever used `io_uring`, or works for it.
#[inline(always)]
pub(crate) fn is_used() -> bool {
    if config!(offsets.task_io_uring) == MISSING as usize {
        return false;
    }
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    // SAFETY: an integer, and the task is typed.
    let flags: u32 = unsafe { Reach::Typed.read(task, config!(offsets.task_flags)) }.unwrap_or(0);
    // One by one: the verifier does not let both be computed with, one being a pointer.
    if flags & PF_IO_WORKER != 0 {
        return true;
    }
    // SAFETY: a pointer, and the task is typed.
    let context: *const u8 = unsafe { Reach::Typed.read(task, config!(offsets.task_io_uring)) }
        .unwrap_or(core::ptr::null());
    !context.is_null()
}
