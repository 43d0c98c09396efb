//! Raw tracepoints `sched_process_fork`, `sched_process_exec` and `sched_process_exit`: they maintain the set of tapped
//! processes. They are attached in addition to every hook.
//!
//! ```c
//! void sched_process_fork(struct task_struct *parent, struct task_struct *child);
//! void sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm);
//! void sched_process_exit(struct task_struct *p);
//! ```
//!
//! The prototypes are the same on 5.10 to 7.2, except that the last one has a second argument from 6.17 on. The fork
//! event fires in the parent, before the child runs for the first time, so that no message of the child is missed. The
//! exec event fires in the process itself, after its new name is set and before the new program runs. The exit event
//! fires for each thread, after `signal->live` was decremented. Each has two programs for the reason in
//! [`crate::thread::once`]; for forks and exits it does no harm when both run.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use dnstap_ebpf::Counter;

use crate::{
    kernel::{config::config, memory, target},
    thread::{
        once::{self, Turn},
        threads,
    },
};

/// Runs when a process was forked or a thread was created.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    let _ = try_fork(&ctx);
    0
}

/// The second program.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn sched_process_fork_second(ctx: RawTracePointContext) -> i32 {
    let _ = try_fork(&ctx);
    0
}

/// Runs when a process has a new executable.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn sched_process_exec(_ctx: RawTracePointContext) -> i32 {
    try_exec(Turn::First);
    0
}

/// The second program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn sched_process_exec_second(_ctx: RawTracePointContext) -> i32 {
    try_exec(Turn::Second);
    0
}

/// Runs when a thread has ended.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit(ctx: RawTracePointContext) -> i32 {
    let _ = try_exit(&ctx);
    0
}

/// The second program.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit_second(ctx: RawTracePointContext) -> i32 {
    let _ = try_exit(&ctx);
    0
}

#[inline(always)]
fn try_exec(turn: Turn) {
    target::exec(|key| once::claim(turn, threads::of(key).map(|state| &mut state.mark)));
}

/// Taps a forked process if its parent is tapped. An unreadable task is ignored: it has no counter, and the kernel's
/// own task is always readable.
#[inline(always)]
fn try_fork(ctx: &RawTracePointContext) -> Result<(), Counter> {
    let Some((parent, _)) = threads::current() else {
        return Ok(());
    };
    let child: *const u8 = ctx.arg(1);
    // SAFETY: an integer.
    let tgid: u32 = unsafe { memory::kernel(child, config!(offsets.task_tgid))? };
    if tgid != parent.tgid {
        target::fork(parent, tgid);
    }
    Ok(())
}

#[inline(always)]
fn try_exit(ctx: &RawTracePointContext) -> Result<(), Counter> {
    let task: *const u8 = ctx.arg(0);
    // SAFETY: integers and a pointer.
    unsafe {
        let tgid: u32 = memory::kernel(task, config!(offsets.task_tgid))?;
        if !target::contains(tgid) {
            return Ok(());
        }
        let signal: *const u8 = memory::kernel(task, config!(offsets.task_signal))?;
        let live: i32 = memory::kernel(signal, config!(offsets.signal_live))?;
        if live == 0 {
            target::forget(tgid);
        }
    }
    Ok(())
}
