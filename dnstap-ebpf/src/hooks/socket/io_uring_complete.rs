//! Raw tracepoint `io_uring_complete`: counts for hook `syscall` what `io_uring` does without a system call.
//!
//! ```c
//! void io_uring_complete(struct io_ring_ctx *ctx, ...);
//! ```
//!
//! A ring of `IORING_SETUP_SQPOLL` has a kernel thread that looks for work, so the process moves messages and makes no
//! call. The tracepoint fires for each operation that is done, in the thread that has done it. Operations of the
//! process's own threads belong to calls, which `sys_exit` counts. Nothing of the arguments is read, and they differ
//! between kernels. From 5.12 on these kernel threads belong to the process; before, they do not, and are not counted.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use dnstap_ebpf::Counter;

use crate::{
    kernel::{counters::count, io_uring},
    thread::threads,
};

/// Runs when an operation is done.
#[raw_tracepoint(tracepoint = "io_uring_complete")]
fn io_uring_complete(_ctx: RawTracePointContext) -> i32 {
    if threads::current().is_some() && io_uring::is_worker() {
        count(Counter::IoUringCalls);
    }
    0
}
